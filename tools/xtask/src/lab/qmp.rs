//! QEMU's machine protocol (QMP): the few commands that a run needs.
//!
//! Reference: docs/interop/qmp-spec.txt in QEMU's source.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection to a QEMU.
pub struct Qmp {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Qmp {
    /// Greets and leaves negotiation mode.
    pub fn new(socket: UnixStream, timeout: Duration) -> Result<Self> {
        socket.set_read_timeout(Some(timeout)).context("QMP")?;
        let mut qmp = Self {
            input: BufReader::new(socket.try_clone().context("QMP")?),
            output: socket,
        };
        let greeting = qmp.receive("greeting")?;
        if greeting.get("QMP").is_none() {
            bail!("QMP: not a greeting: {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns its result; events in between are dropped.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments)?;
        loop {
            let mut answer = self.receive(command)?;
            if let Some(error) = answer.get("error") {
                bail!(
                    "QMP {command}: {}",
                    error["desc"].as_str().unwrap_or("unknown error")
                );
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    /// Stops all CPUs.
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop", json!({})).map(drop)
    }

    /// Lets all CPUs run.
    pub fn cont(&mut self) -> Result<()> {
        self.execute("cont", json!({})).map(drop)
    }

    /// Ends QEMU. It may be gone before its answer is out, so none is awaited.
    pub fn quit(&mut self) -> Result<()> {
        self.send("quit", json!({}))
    }

    /// Writes all physical memory to an ELF file.
    pub fn dump_memory(&mut self, path: &Path) -> Result<()> {
        let protocol = format!("file:{}", path.display());
        self.execute(
            "dump-guest-memory",
            json!({ "paging": false, "protocol": protocol }),
        )
        .map(drop)
    }

    /// In one piece: QEMU acts on the closing brace, and `quit` leaves nobody
    /// to take what is written after it.
    fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        let request = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        self.output
            .write_all(request.as_bytes())
            .with_context(|| format!("QMP {command}"))
    }

    fn receive(&mut self, what: &str) -> Result<Value> {
        let mut line = String::new();
        let count = self
            .input
            .read_line(&mut line)
            .with_context(|| format!("QMP {what}: no answer; QEMU hangs"))?;
        if count == 0 {
            bail!("QMP {what}: QEMU has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("QMP {what}: not JSON: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that says these lines, one for each line it gets (the greeting first).
    fn qemu(lines: &'static [&'static str]) -> (UnixStream, std::thread::JoinHandle<Vec<String>>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut input = BufReader::new(theirs.try_clone().unwrap());
            let mut got = Vec::new();
            for (index, line) in lines.iter().enumerate() {
                if index > 0 {
                    let mut request = String::new();
                    input.read_line(&mut request).unwrap();
                    got.push(request);
                }
                theirs.write_all(line.as_bytes()).unwrap();
            }
            got
        });
        (ours, thread)
    }

    #[test]
    fn events_are_skipped_and_results_returned() {
        let (socket, thread) = qemu(&[
            "{\"QMP\": {}}\n",
            "{\"return\": {}}\n",
            "{\"event\": \"STOP\"}\n{\"return\": {\"running\": false}}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no space\"}}\n",
        ]);
        let mut qmp = Qmp::new(socket, Duration::from_secs(5)).unwrap();
        let status = qmp.execute("query-status", json!({})).unwrap();
        assert_eq!(status["running"], false);
        let error = qmp.dump_memory(Path::new("/x")).unwrap_err().to_string();
        assert_eq!(error, "QMP dump-guest-memory: no space");
        let got = thread.join().unwrap();
        assert!(got[2].contains("\"file:/x\""));
    }
}
