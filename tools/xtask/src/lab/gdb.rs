//! A client of QEMU's GDB stub, enough to read system registers.
//!
//! QEMU's monitor shows the general registers only; the stub serves all system
//! registers, with names and numbers in its `system-registers.xml`.
//! Reference: "Remote Protocol" in GDB's manual.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The program counter's number in `aarch64-core.xml`.
pub const PC: u32 = 32;
/// PSTATE's number there.
pub const CPSR: u32 = 33;

/// A connection to the stub. The machine stands still while it lasts.
pub struct Gdb {
    socket: UnixStream,
    numbers: BTreeMap<String, u32>,
}

/// Wraps a payload: `$payload#checksum`.
pub fn encode(payload: &str) -> String {
    format!("${payload}#{:02x}", checksum(payload.as_bytes()))
}

/// Unwraps a packet, undoing escapes and run lengths.
pub fn decode(packet: &[u8]) -> Result<Vec<u8>> {
    let [b'$', body @ .., b'#', high, low] = packet else {
        bail!("not a packet");
    };
    let digits = [*high, *low];
    let digits = std::str::from_utf8(&digits).context("checksum")?;
    let expected = u8::from_str_radix(digits, 16).context("checksum")?;
    ensure!(checksum(body) == expected, "wrong checksum");
    let mut out = Vec::with_capacity(body.len());
    let mut bytes = body.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'}' => out.push(bytes.next().context("escape at the end")? ^ 0x20),
            b'*' => {
                let count = bytes.next().context("run length at the end")?;
                let last = *out.last().context("run length at the start")?;
                let count = count.checked_sub(29).context("run length too small")?;
                out.extend(std::iter::repeat_n(last, usize::from(count)));
            }
            _ => out.push(byte),
        }
    }
    Ok(out)
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A register's value as the stub writes it: hexadecimal, in target byte order
/// (little endian).
pub fn value(text: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(text).context("not a register value")?;
    ensure!(
        text.len() <= 16 && text.len().is_multiple_of(2) && !text.starts_with('E'),
        "not a register value: {text}"
    );
    let mut value = 0;
    for index in (0..text.len()).step_by(2) {
        let byte = u64::from_str_radix(&text[index..index + 2], 16).context("register value")?;
        value |= byte << (index * 4);
    }
    Ok(value)
}

/// Names and numbers in a target description.
pub fn register_numbers(xml: &str) -> BTreeMap<String, u32> {
    let attribute = |tag: &str, name: &str| {
        let rest = tag.split_once(&format!("{name}=\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    xml.split("<reg ")
        .skip(1)
        .filter_map(|tag| {
            let tag = tag.split_once('>')?.0;
            let number = attribute(tag, "regnum")?.parse().ok()?;
            Some((attribute(tag, "name")?, number))
        })
        .collect()
}

/// The CPU (from 0) in a stop reply: `T05thread:02;`.
fn stopped_cpu(reply: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(reply).ok()?.strip_prefix('T')?;
    let thread = text.split_once("thread:")?.1;
    let digits = thread.split([';', '.']).next()?;
    u32::from_str_radix(digits, 16).ok()?.checked_sub(1)
}

impl Gdb {
    /// Attaches; QEMU stops the machine on this.
    pub fn new(socket: UnixStream, timeout: Duration) -> Result<Self> {
        socket.set_read_timeout(Some(timeout)).context("GDB stub")?;
        let mut gdb = Self {
            socket,
            numbers: BTreeMap::new(),
        };
        // Asking for the description makes the stub announce system registers.
        gdb.ask("qSupported:xmlRegisters=aarch64")?;
        gdb.document("target.xml")?;
        let xml = gdb.document("system-registers.xml")?;
        gdb.numbers = register_numbers(&xml);
        ensure!(
            !gdb.numbers.is_empty(),
            "GDB stub: no system registers; QEMU 7.2 or newer serves them"
        );
        Ok(gdb)
    }

    /// Reads one system register of one CPU (from 0).
    pub fn read(&mut self, cpu: u32, name: &str) -> Result<u64> {
        let number = *self
            .numbers
            .get(name)
            .with_context(|| format!("GDB stub: this CPU has no {name}"))?;
        self.select(cpu)?;
        let answer = self.ask(&format!("p{number:x}"))?;
        value(&answer).with_context(|| format!("GDB stub: {name} of CPU {cpu}"))
    }

    /// Reads a general register of one CPU: X0..X30, [`PC`], [`CPSR`].
    pub fn get(&mut self, cpu: u32, register: u32) -> Result<u64> {
        self.select(cpu)?;
        value(&self.ask(&format!("p{register:x}"))?)
    }

    /// Sets a general register of one CPU.
    pub fn set(&mut self, cpu: u32, register: u32, to: u64) -> Result<()> {
        self.select(cpu)?;
        let digits = if register == CPSR { 8 } else { 16 };
        let text = format!("{:016x}", to.swap_bytes());
        let answer = self.ask(&format!("P{register:x}={}", &text[..digits]))?;
        ensure!(answer == b"OK", "GDB stub: cannot set register {register}");
        Ok(())
    }

    /// Reads an instruction where the CPU selected last has it.
    pub fn word(&mut self, address: u64) -> Result<u32> {
        let word = value(&self.ask(&format!("m{address:x},4"))?)?;
        u32::try_from(word).context("GDB stub: not a word")
    }

    /// Sets or removes a hardware breakpoint.
    pub fn breakpoint(&mut self, address: u64, set: bool) -> Result<()> {
        let verb = if set { 'Z' } else { 'z' };
        let answer = self.ask(&format!("{verb}1,{address:x},4"))?;
        ensure!(answer == b"OK", "GDB stub: no breakpoint at {address:#x}");
        Ok(())
    }

    /// Lets all CPUs run; [`Gdb::stopped`] waits for the end of that.
    pub fn resume(&mut self) -> Result<()> {
        self.send("vCont;c")
    }

    /// Waits until the machine stops; returns the CPU that stopped it.
    pub fn stopped(&mut self) -> Result<u32> {
        let answer = self.receive().context("GDB stub: the machine runs on")?;
        stopped_cpu(&answer).context("GDB stub: not a stop reply")
    }

    /// Executes one instruction on one CPU; the others stand still.
    pub fn step(&mut self, cpu: u32) -> Result<()> {
        self.send(&format!("vCont;s:{:x}", cpu + 1))?;
        self.stopped().map(drop)
    }

    /// Stops a running machine.
    pub fn interrupt(&mut self) -> Result<()> {
        self.socket.write_all(&[3]).context("GDB stub")?;
        self.stopped().map(drop)
    }

    fn select(&mut self, cpu: u32) -> Result<()> {
        let answer = self.ask(&format!("Hg{:x}", cpu + 1))?;
        ensure!(answer == b"OK", "GDB stub: no CPU {cpu}");
        Ok(())
    }

    /// Detaches; QEMU lets the machine run on this.
    pub fn detach(mut self) -> Result<()> {
        self.ask("D").map(drop)
    }

    fn document(&mut self, name: &str) -> Result<String> {
        let mut text = Vec::new();
        loop {
            let request = format!("qXfer:features:read:{name}:{:x},ffb", text.len());
            let answer = self.ask(&request)?;
            match answer.split_first() {
                Some((b'm', part)) => text.extend_from_slice(part),
                Some((b'l', part)) => {
                    text.extend_from_slice(part);
                    return String::from_utf8(text).context("GDB stub: not text");
                }
                _ => bail!("GDB stub: no {name}"),
            }
        }
    }

    fn ask(&mut self, request: &str) -> Result<Vec<u8>> {
        self.send(request)?;
        self.receive()
            .with_context(|| format!("GDB stub: no answer to {request}"))
    }

    fn send(&mut self, request: &str) -> Result<()> {
        self.socket
            .write_all(encode(request).as_bytes())
            .context("GDB stub")
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        let packet = self.packet()?;
        self.socket.write_all(b"+").context("GDB stub")?;
        decode(&packet)
    }

    fn packet(&mut self) -> Result<Vec<u8>> {
        let mut packet = Vec::new();
        let mut byte = [0u8; 1];
        let mut end = None;
        while end != Some(packet.len()) {
            self.socket.read_exact(&mut byte)?;
            match byte[0] {
                b'+' | b'-' if packet.is_empty() => continue,
                b'$' if packet.is_empty() => {}
                b'#' if end.is_none() => end = Some(packet.len() + 3),
                _ => ensure!(!packet.is_empty(), "noise on the line"),
            }
            packet.push(byte[0]);
        }
        Ok(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_round_trip() {
        assert_eq!(encode("g"), "$g#67");
        assert_eq!(encode("OK"), "$OK#9a");
        assert_eq!(decode(b"$OK#9a").unwrap(), b"OK");
        assert_eq!(decode(b"$#00").unwrap(), b"");
        assert!(decode(b"$OK#9b").is_err());
        assert!(decode(b"OK").is_err());
    }

    #[test]
    fn escapes_and_runs_are_undone() {
        let wrap = |body: &[u8]| {
            let mut packet = b"$".to_vec();
            packet.extend_from_slice(body);
            packet.extend_from_slice(format!("#{:02x}", checksum(body)).as_bytes());
            packet
        };
        assert_eq!(decode(&wrap(b"a}\x03b")).unwrap(), b"a#b");
        assert_eq!(decode(&wrap(b"0* ")).unwrap(), b"0000");
        assert!(decode(&wrap(b"a}")).is_err());
        assert!(decode(&wrap(b"* ")).is_err());
    }

    #[test]
    fn values_are_little_endian() {
        assert_eq!(value(b"8877665544332211").unwrap(), 0x1122_3344_5566_7788);
        assert_eq!(value(b"01000000").unwrap(), 1);
        assert!(value(b"E14").is_err());
    }

    #[test]
    fn stop_replies_name_a_cpu() {
        assert_eq!(stopped_cpu(b"T05thread:02;"), Some(1));
        assert_eq!(stopped_cpu(b"T02thread:0a;"), Some(9));
        assert_eq!(stopped_cpu(b"OK"), None);
    }

    #[test]
    fn numbers_are_read_from_the_description() {
        let xml = r#"<feature><reg name="TTBR0_EL2" bitsize="64" regnum="301" group="cp_regs"/>
            <reg name="HCR_EL2" bitsize="64" regnum="7"/><reg name="X" bitsize="64"/></feature>"#;
        let numbers = register_numbers(xml);
        assert_eq!(numbers["TTBR0_EL2"], 301);
        assert_eq!(numbers["HCR_EL2"], 7);
        assert_eq!(numbers.len(), 2);
    }
}
