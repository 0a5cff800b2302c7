//! Takes Xen's console apart again: what Xen says, what dom0 says, what each
//! other domain says.
//!
//! Xen starts its own lines with `(XEN) `, a domU's hypercall output with
//! `(d1) ` and its virtual UART's with `(XEN) DOM1: `; dom0's output comes raw, in pieces, and a prefixed line may fall into the middle of
//! one of its lines. Xen writes each prefixed line and each piece of dom0's
//! output under one lock (console.c: vprintk_common, guest_console_write), so
//! cutting at the prefixes and the line ends restores all three.

use std::time::Instant;

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The hypervisor.
    Xen,
    /// The domain of this id, not dom0.
    Domain(u16),
}

/// A complete prefixed line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Who said it.
    pub source: Source,
    /// The line without prefix and line end.
    pub text: String,
    /// When its end arrived.
    pub at: Instant,
}

/// Longest prefix: `(d65535) `.
const PREFIX_MAX: usize = 9;

/// The demultiplexer.
#[derive(Default)]
pub struct Demux {
    /// dom0's output without carriage returns.
    pub dom0: String,
    /// Xen's and the domUs' lines.
    pub lines: Vec<Line>,
    held: Vec<u8>,
    current: Option<(Source, Vec<u8>)>,
    text: Vec<u8>,
}

impl Demux {
    /// Takes what has arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\r' && byte != 0 {
                self.byte(byte);
            }
        }
        // A character may be cut by the end of a piece; it waits for its rest.
        let valid = match std::str::from_utf8(&self.text) {
            Ok(_) => self.text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.text.len(),
        };
        let rest = self.text.split_off(valid);
        self.dom0.push_str(&String::from_utf8_lossy(&self.text));
        self.text = rest;
    }

    fn byte(&mut self, byte: u8) {
        if let Some((source, line)) = &mut self.current {
            if byte == b'\n' {
                let text = String::from_utf8_lossy(line);
                let (source, text) = uart(*source, &text);
                self.lines.push(Line {
                    source,
                    text: text.to_owned(),
                    at: Instant::now(),
                });
                self.current = None;
            } else {
                line.push(byte);
            }
            return;
        }
        self.held.push(byte);
        loop {
            match prefix(&self.held) {
                Prefix::Whole(source) => {
                    self.held.clear();
                    self.current = Some((source, Vec::new()));
                    return;
                }
                Prefix::Part => return,
                Prefix::No => {
                    let first = self.held.remove(0);
                    self.text.push(first);
                }
            }
        }
    }
}

/// What a domU writes to its virtual UART, Xen prints as a line of its own.
fn uart(source: Source, text: &str) -> (Source, &str) {
    if source == Source::Xen
        && let Some((id, text)) = text
            .strip_prefix("DOM")
            .and_then(|rest| rest.split_once(": "))
        && let Ok(id) = id.parse()
    {
        return (Source::Domain(id), text);
    }
    (source, text)
}

enum Prefix {
    No,
    Part,
    Whole(Source),
}

fn prefix(held: &[u8]) -> Prefix {
    const XEN: &[u8] = b"(XEN) ";
    if held.is_empty() {
        return Prefix::Part;
    }
    if XEN.starts_with(held) {
        return if held.len() == XEN.len() {
            Prefix::Whole(Source::Xen)
        } else {
            Prefix::Part
        };
    }
    if !held.starts_with(b"(d") || held.len() > PREFIX_MAX {
        return Prefix::No;
    }
    let digits = held[2..].iter().take_while(|b| b.is_ascii_digit()).count();
    match (&held[2 + digits..], digits) {
        ([], _) => Prefix::Part,
        (b")", 1..) => Prefix::Part,
        (b") ", 1..) => std::str::from_utf8(&held[2..2 + digits])
            .ok()
            .and_then(|text| text.parse().ok())
            .map_or(Prefix::No, |id| Prefix::Whole(Source::Domain(id))),
        _ => Prefix::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(demux: &Demux) -> Vec<(Source, &str)> {
        demux
            .lines
            .iter()
            .map(|line| (line.source, line.text.as_str()))
            .collect()
    }

    #[test]
    fn lines_are_cut_out_of_dom0s_line() {
        let mut demux = Demux::default();
        demux.feed(b"lab: be(d1) canary: heartbeat 3\r\ngin 7\r\n(XEN) hello\r\n(d12) x\r\n(XEN) DOM2: y: z\nend");
        assert_eq!(demux.dom0, "lab: begin 7\nend");
        assert_eq!(
            lines(&demux),
            [
                (Source::Domain(1), "canary: heartbeat 3"),
                (Source::Xen, "hello"),
                (Source::Domain(12), "x"),
                (Source::Domain(2), "y: z"),
            ]
        );
    }

    #[test]
    fn any_split_gives_the_same() {
        let input = "a(b(d1) one\r\nc((XEN) two\r\n(dx) (XEN (d3) three\r\n\u{e9}z".as_bytes();
        for cut in 0..input.len() {
            let mut demux = Demux::default();
            demux.feed(&input[..cut]);
            demux.feed(&input[cut..]);
            assert_eq!(demux.dom0, "a(bc((dx) (XEN \u{e9}z", "cut at {cut}");
            assert_eq!(
                lines(&demux),
                [
                    (Source::Domain(1), "one"),
                    (Source::Xen, "two"),
                    (Source::Domain(3), "three")
                ]
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_stop_it() {
        let mut demux = Demux::default();
        demux.feed(b"\xff\xfe(d1) \xff\n ok");
        assert!(demux.dom0.ends_with(" ok"));
        assert_eq!(demux.lines.len(), 1);
    }
}
