//! The machine's serial line: logged by a thread of its own, waited on with
//! deadlines.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::demux::{Demux, Source};

/// How long the line must be quiet before a crash report counts as complete.
const QUIET: Duration = Duration::from_millis(1500);

/// How often a waiter looks, at least.
const LOOK: Duration = Duration::from_millis(250);

/// What has arrived so far.
#[derive(Default)]
pub struct Seen {
    /// The streams, taken apart.
    pub streams: Demux,
    /// The line is closed: QEMU has ended.
    pub closed: bool,
    /// When the last byte arrived.
    last: Option<Instant>,
}

/// The serial line.
pub struct Console {
    shared: Arc<(Mutex<Seen>, Condvar)>,
    socket: UnixStream,
    log: PathBuf,
    reader: Option<JoinHandle<()>>,
    crash_expected: bool,
}

/// One step of a run: what is awaited, and until when.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is awaited, for messages.
    pub name: String,
    /// When it is given up.
    pub deadline: Instant,
    /// How long that was, for messages.
    pub allowed: Duration,
}

impl Console {
    /// Takes over a connected socket and logs to `log`.
    pub fn new(socket: UnixStream, log: &Path) -> Result<Self> {
        let mut file =
            File::create(log).with_context(|| format!("{}: cannot create", log.display()))?;
        let mut input = socket.try_clone().context("serial line")?;
        let shared = Arc::new((Mutex::new(Seen::default()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            loop {
                let count = input.read(&mut buffer).unwrap_or(0);
                // First, so that the log has what a waiter acts on. A full disk
                // must not end the run: the verdict comes from memory.
                let _ = file.write_all(&buffer[..count]);
                let (seen, changed) = &*theirs;
                let Ok(mut seen) = seen.lock() else { return };
                if count == 0 {
                    seen.closed = true;
                    changed.notify_all();
                    return;
                }
                seen.streams.feed(&buffer[..count]);
                seen.last = Some(Instant::now());
                changed.notify_all();
            }
        });
        Ok(Self {
            shared,
            socket,
            log: log.to_owned(),
            reader: Some(reader),
            crash_expected: false,
        })
    }

    /// From now on a crash report of Xen or dom0 is what the test wants.
    pub fn expect_crash(&mut self) {
        self.crash_expected = true;
    }

    fn lock(&self) -> Result<MutexGuard<'_, Seen>> {
        match self.shared.0.lock() {
            Ok(seen) => Ok(seen),
            Err(_) => bail!("the serial line's reader has failed"),
        }
    }

    /// Looks at what has arrived.
    pub fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> Result<T> {
        Ok(look(&*self.lock()?))
    }

    /// Waits until `found` finds what it looks for, QEMU ends, Xen or a Linux
    /// kernel crashes, or the step's deadline passes.
    pub fn wait<T>(&self, step: &Step, mut found: impl FnMut(&Seen) -> Option<T>) -> Result<T> {
        let mut seen = self.lock()?;
        loop {
            if let Some(value) = found(&seen) {
                return Ok(value);
            }
            let now = Instant::now();
            let mut until = step.deadline;
            if !self.crash_expected
                && let Some(what) = crash(&seen.streams)
            {
                let quiet = seen.last.map_or(now, |last| last + QUIET);
                if seen.closed || now >= quiet || now >= step.deadline {
                    bail!("{}: {what}; see {}", step.name, self.log.display());
                }
                until = until.min(quiet);
            }
            if seen.closed {
                bail!(
                    "{}: QEMU ended before that; see {}",
                    step.name,
                    self.log.display()
                );
            }
            if now >= step.deadline {
                bail!(
                    "{}: not within {:.0} s; {}; see {}",
                    step.name,
                    step.allowed.as_secs_f64(),
                    last(&seen, now),
                    self.log.display()
                );
            }
            // Some look for silence, so they look again without news as well.
            let nap = (until - now).min(LOOK);
            seen = match self.shared.1.wait_timeout(seen, nap) {
                Ok((seen, _)) => seen,
                Err(_) => bail!("the serial line's reader has failed"),
            };
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.socket
            .write_all(bytes)
            .context("serial line: cannot send")
    }

    /// Types a line to dom0: in pieces, each awaited in the terminal's echo,
    /// so that Xen's input ring (128 characters) never overflows.
    pub fn type_to_dom0(&mut self, line: &str, step: &Step) -> Result<()> {
        const PIECE: usize = 48;
        let start = self.look(|seen| seen.streams.dom0.len())?;
        let line = format!("{line}\n");
        let mut sent = 0;
        for piece in line.as_bytes().chunks(PIECE) {
            self.send(piece)?;
            sent += piece.len();
            let expected = &line.as_bytes()[..sent];
            self.wait(step, |seen| {
                let echo = seen.streams.dom0.as_bytes().get(start..)?;
                contains(echo, expected).then_some(())
            })?;
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Ends the reader's blocking read; its error means that it has ended.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// What each has said last, and how long ago: of a machine that hangs, it is all
/// that there is to go by.
fn last(seen: &Seen, now: Instant) -> String {
    let ago = |at| now.saturating_duration_since(at).as_secs();
    let Some(at) = seen.last else {
        return "the serial line has brought nothing".to_owned();
    };
    let dom0 = seen.streams.dom0.lines().rev();
    let dom0 = dom0.map(str::trim).find(|line| !line.is_empty());
    let mut said = format!(
        "the last of it came {} s ago, of dom0: {:?}",
        ago(at),
        dom0.unwrap_or_default()
    );
    let mut told = Vec::new();
    for line in seen.streams.lines.iter().rev() {
        if !line.text.trim().is_empty() && !told.contains(&line.source) {
            told.push(line.source);
            let who = match line.source {
                Source::Xen => "Xen".to_owned(),
                Source::Domain(id) => format!("d{id}"),
            };
            said.push_str(&format!(
                ", of {who} {} s ago: {:?}",
                ago(line.at),
                line.text.trim()
            ));
        }
    }
    said
}

/// The first crash report in what has arrived, as one line.
pub fn crash(streams: &Demux) -> Option<String> {
    let xen: Vec<&str> = streams
        .lines
        .iter()
        .filter(|line| line.source == Source::Xen)
        .map(|line| line.text.as_str())
        .collect();
    if let Some(at) = xen.iter().position(|text| text.contains("Panic on CPU")) {
        let what = xen[at + 1..]
            .iter()
            .map(|text| text.trim_matches(['*', ' ']))
            .find(|text| !text.is_empty())
            .unwrap_or("no reason given");
        return Some(format!("Xen panicked: {what}"));
    }
    if let Some(text) = xen
        .iter()
        .find(|text| text.contains("Xen BUG at") || text.contains("Assertion '"))
    {
        return Some(format!("Xen stopped: {}", text.trim()));
    }
    let at = streams.dom0.find("Kernel panic - not syncing")?;
    let line = streams.dom0[at..].lines().next().unwrap_or_default();
    Some(format!("dom0: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(milliseconds: u64) -> Step {
        let allowed = Duration::from_millis(milliseconds);
        Step {
            name: "test".to_owned(),
            deadline: Instant::now() + allowed,
            allowed,
        }
    }

    fn console(name: &str) -> (Console, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let log = std::env::temp_dir().join(format!("lab-{}-{name}.log", std::process::id()));
        (Console::new(ours, &log).unwrap(), theirs)
    }

    #[test]
    fn waiting_ends_with_what_is_awaited() {
        let (console, mut machine) = console("wait");
        machine.write_all(b"(XEN) one\n(XEN) two\n").unwrap();
        let text = console.wait(&step(2000), |seen| {
            let line = seen.streams.lines.get(1)?;
            Some(line.text.clone())
        });
        assert_eq!(text.unwrap(), "two");
        assert_eq!(
            std::fs::read(&console.log).unwrap(),
            b"(XEN) one\n(XEN) two\n"
        );
        std::fs::remove_file(&console.log).unwrap();
    }

    #[test]
    fn waiting_ends_at_the_deadline_with_quiet_line() {
        let (console, mut machine) = console("deadline");
        machine
            .write_all(b"up\n(XEN) one\n(d1) beat\nhalf a (XEN) two\nline\n")
            .unwrap();
        let deadline = step(500);
        console
            .wait(&deadline, |seen| {
                seen.streams.dom0.contains("line").then_some(())
            })
            .unwrap();
        let error = console
            .wait(&step(20), |_| None::<()>)
            .unwrap_err()
            .to_string();
        assert!(error.contains("test: not within"), "{error}");
        assert!(
            error.contains(
                "of dom0: \"half a line\", of Xen 0 s ago: \"two\", of d1 0 s ago: \"beat\""
            ),
            "{error}"
        );
        std::fs::remove_file(&console.log).unwrap();
    }

    #[test]
    fn waiting_ends_with_a_panic_of_xen() {
        let (console, mut machine) = console("panic");
        machine
            .write_all(b"(XEN) ***\n(XEN) Panic on CPU 0:\n(XEN) out of luck\n")
            .unwrap();
        drop(machine);
        let error = console.wait(&step(5000), |_| None::<()>).unwrap_err();
        assert!(
            error.to_string().contains("Xen panicked: out of luck"),
            "{error}"
        );
        std::fs::remove_file(&console.log).unwrap();
    }

    #[test]
    fn waiting_ends_with_qemu() {
        let (console, machine) = console("closed");
        drop(machine);
        let error = console.wait(&step(5000), |_| None::<()>).unwrap_err();
        assert!(error.to_string().contains("QEMU ended"), "{error}");
        std::fs::remove_file(&console.log).unwrap();
    }

    #[test]
    fn typing_waits_for_the_echo() {
        let (mut console, mut machine) = console("type");
        let echo = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut buffer = [0u8; 64];
            while !all.ends_with(b"\n") {
                let count = machine.read(&mut buffer).unwrap();
                assert!(count <= 48, "more than a piece at once");
                all.extend_from_slice(&buffer[..count]);
                machine.write_all(b"(d1) heartbeat\n").unwrap();
                machine.write_all(&buffer[..count]).unwrap();
            }
            (machine, all)
        });
        let line = "x".repeat(150);
        console.type_to_dom0(&line, &step(5000)).unwrap();
        let (_machine, all) = echo.join().unwrap();
        assert_eq!(all, format!("{line}\n").into_bytes());
        std::fs::remove_file(&console.log).unwrap();
    }
}
