//! Bootargs and console input.
//!
//! Bootargs are words between blanks: `key=value` settings, and
//! `action[:argument...]@N` to run an action after heartbeat `N`, or
//! `...@N+` after heartbeat `N` and each later one. A line of console input
//! is `action[:argument...]`. Numbers are decimal, or hexadecimal with `0x`.
//! Words that are not known are reported and skipped.

use crate::peer::Peer;

/// Something that a canary can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `vmf_op(protect)` on a domain, itself unless given.
    Protect(Option<u16>),
    /// `vmf_op(lock)`.
    Lock,
    /// `vmf_op(status)` of a domain, itself unless given.
    Status(Option<u16>),
    /// `vmf_op` with these four arguments.
    Vmf([u64; 4]),
    /// Hypercalls with pointers to the canary's own memory.
    BadPtr,
    /// A load from an address that nothing answers, or from the one given.
    Unmapped(Option<u64>),
    /// Emulated accesses that give the hypervisor no syndrome.
    Isv0,
    /// Cache maintenance by set and way.
    SetWay,
    /// A firmware call by SMC and by HVC, PSCI_VERSION unless told.
    Smc(Option<u64>),
    /// PSCI SYSTEM_RESET.
    Reboot,
    /// PSCI SYSTEM_OFF.
    PowerOff,
    /// Grants a page to a domain, 0 unless given.
    Grant(Option<u16>),
    /// Allocates an event channel for a domain, 0 unless given, and sends.
    Evtchn(Option<u16>),
    /// Asks for a page of a domain (its frame) in all ways that there are.
    Steal(u16, u64),
    /// Shares pages with Xen.
    Share,
    /// Gives Xen areas in these pages.
    Areas,
    /// Hypercalls with pointers into these pages.
    Bounce,
    /// Traps as fast as possible for a second.
    Spam,
    /// Yields the CPU for this many milliseconds.
    Yield(u64),
    /// Times hypercalls, emulated registers and interrupts.
    Cost,
    /// Answers the events of a domain.
    Answer(u16),
    /// Sends events to a domain that answers, and times them.
    Ring(u16),
    /// SCHEDOP_shutdown for this reason, 0 (power-off) unless given.
    Shutdown(u32),
    /// SCHEDOP_watchdog with this many seconds, 1 unless given.
    Watchdog(u32),
    /// PSCI SYSTEM_SUSPEND.
    Suspend,
    /// Writes a word to an address.
    Poke(u64, u64),
    /// Reads the word there.
    Peek(u64),
    /// Cleans the data cache for this frame of the machine.
    Clean(u64),
    /// Takes an event from this port, if there is one.
    Take(u32),
    /// When the canary began to run.
    Entered,
    /// Hypercalls with pointers from all vCPUs at once, for this many milliseconds.
    Crowd(u64),
    /// Something that takes two domains.
    Peer(Peer),
}

impl Action {
    /// The name it is called by, and printed with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Protect(_) => "protect",
            Self::Lock => "lock",
            Self::Status(_) => "status",
            Self::Vmf(_) => "vmf",
            Self::BadPtr => "badptr",
            Self::Unmapped(_) => "unmapped",
            Self::Isv0 => "isv0",
            Self::SetWay => "setway",
            Self::Smc(_) => "smc",
            Self::Reboot => "reboot",
            Self::PowerOff => "poweroff",
            Self::Grant(_) => "grant",
            Self::Evtchn(_) => "evtchn",
            Self::Steal(..) => "steal",
            Self::Share => "share",
            Self::Areas => "areas",
            Self::Bounce => "bounce",
            Self::Spam => "spam",
            Self::Yield(_) => "yield",
            Self::Cost => "cost",
            Self::Answer(_) => "answer",
            Self::Ring(_) => "ring",
            Self::Shutdown(_) => "shutdown",
            Self::Watchdog(_) => "watchdog",
            Self::Suspend => "suspend",
            Self::Poke(..) => "poke",
            Self::Peek(_) => "peek",
            Self::Clean(_) => "clean",
            Self::Take(_) => "take",
            Self::Entered => "entered",
            Self::Crowd(_) => "crowd",
            Self::Peer(peer) => peer.name(),
        }
    }

    /// Parses `action[:argument...]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(':');
        let name = parts.next()?;
        let mut arguments = [None; 4];
        for slot in &mut arguments {
            *slot = match parts.next() {
                Some(part) => Some(number(part)?),
                None => None,
            };
        }
        if parts.next().is_some() {
            return None;
        }
        let given = arguments.iter().flatten().count();
        // Addresses and numbers of calls are longer than what follows.
        match (name, arguments) {
            ("unmapped", [address, ..]) => {
                return (given <= 1).then_some(Self::Unmapped(address));
            }
            ("clean", [Some(frame), None, ..]) => return Some(Self::Clean(frame)),
            ("smc", [function, ..]) => return (given <= 1).then_some(Self::Smc(function)),
            ("poke", [Some(address), Some(value), None, None]) => {
                return Some(Self::Poke(address, value));
            }
            ("peek", [Some(address), None, ..]) => return Some(Self::Peek(address)),
            _ => {
                if let Some(peer) = Peer::parse(name, arguments) {
                    return Some(Self::Peer(peer));
                }
            }
        }
        // A domain, a reason, seconds, a port: 16 bits each.
        let domain = match arguments[0] {
            Some(id) => Some(u16::try_from(id).ok()?),
            None => None,
        };
        let (most, action) = match name {
            "protect" => (1, Self::Protect(domain)),
            "lock" => (0, Self::Lock),
            "status" => (1, Self::Status(domain)),
            "vmf" => {
                return Some(Self::Vmf([
                    arguments[0]?,
                    arguments[1]?,
                    arguments[2]?,
                    arguments[3]?,
                ]));
            }
            "badptr" => (0, Self::BadPtr),
            "isv0" => (0, Self::Isv0),
            "setway" => (0, Self::SetWay),
            "reboot" => (0, Self::Reboot),
            "poweroff" => (0, Self::PowerOff),
            "grant" => (1, Self::Grant(domain)),
            "evtchn" => (1, Self::Evtchn(domain)),
            "steal" => (2, Self::Steal(domain?, arguments[1]?)),
            "share" => (0, Self::Share),
            "areas" => (0, Self::Areas),
            "bounce" => (0, Self::Bounce),
            "spam" => (0, Self::Spam),
            "yield" => {
                let millis = arguments[0].unwrap_or(1000);
                return (given <= 1 && millis <= 60_000).then_some(Self::Yield(millis));
            }
            "cost" => (0, Self::Cost),
            "answer" => (1, Self::Answer(domain?)),
            "ring" => (1, Self::Ring(domain?)),
            "shutdown" => (1, Self::Shutdown(domain.unwrap_or(0).into())),
            "watchdog" => (1, Self::Watchdog(domain.unwrap_or(1).into())),
            "suspend" => (0, Self::Suspend),
            "take" => (1, Self::Take(domain?.into())),
            "entered" => (0, Self::Entered),
            "crowd" => {
                let millis = arguments[0].unwrap_or(1000);
                return (given <= 1 && millis <= 60_000).then_some(Self::Crowd(millis));
            }
            _ => return None,
        };
        (given <= most).then_some(action)
    }
}

/// An action and the heartbeat after which it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// What to do.
    pub action: Action,
    /// The heartbeat.
    pub at: u64,
    /// After each later heartbeat as well.
    pub again: bool,
}

impl Scheduled {
    /// True if the action runs after heartbeat `number`.
    #[must_use]
    pub fn due(self, number: u64) -> bool {
        number == self.at || (self.again && number > self.at)
    }

    fn parse(text: &str) -> Option<Self> {
        let (action, at) = text.split_once('@')?;
        let (at, again) = match at.strip_suffix('+') {
            Some(at) => (at, true),
            None => (at, false),
        };
        Some(Self {
            action: Action::parse(action)?,
            at: number(at)?,
            again,
        })
    }
}

/// How much memory holds the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// This many bytes, rounded down to pages.
    Bytes(u64),
    /// All that is free in the largest piece.
    All,
}

/// Most actions in one set of bootargs.
pub const MAX_SCHEDULED: usize = 16;

/// What the bootargs say.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `seed=N`, 1 unless given.
    pub seed: u64,
    /// `size=N[K|M|G]`, `size=all` or `words=N`; 8 MiB unless given.
    pub amount: Amount,
    /// `insist`: stop at once if not protected.
    pub insist: bool,
    /// `uart=N`: a PL011 for output that the device tree does not name.
    pub uart: Option<u64>,
    scheduled: [Option<Scheduled>; MAX_SCHEDULED],
}

impl Settings {
    /// Reads bootargs; `unknown` is called with each word that is not known
    /// or does not fit.
    pub fn parse<'a>(bootargs: &'a str, mut unknown: impl FnMut(&'a str)) -> Self {
        let mut settings = Self {
            seed: 1,
            amount: Amount::Bytes(8 << 20),
            insist: false,
            uart: None,
            scheduled: [None; MAX_SCHEDULED],
        };
        for word in bootargs.split_ascii_whitespace() {
            if settings.word(word).is_none() {
                unknown(word);
            }
        }
        settings
    }

    fn word(&mut self, word: &str) -> Option<()> {
        if let Some(value) = word.strip_prefix("seed=") {
            self.seed = number(value)?;
        } else if word == "insist" {
            self.insist = true;
        } else if let Some(value) = word.strip_prefix("uart=") {
            self.uart = Some(number(value)?);
        } else if let Some(value) = word.strip_prefix("words=") {
            self.amount = Amount::Bytes(number(value)?.checked_mul(8)?);
        } else if let Some(value) = word.strip_prefix("size=") {
            self.amount = match value {
                "all" => Amount::All,
                _ => Amount::Bytes(size(value)?),
            };
        } else {
            let scheduled = Scheduled::parse(word)?;
            *self.scheduled.iter_mut().find(|slot| slot.is_none())? = Some(scheduled);
        }
        Some(())
    }

    /// The actions to run after heartbeat `number`, in the order given.
    pub fn due(&self, number: u64) -> impl Iterator<Item = Action> + '_ {
        self.scheduled
            .iter()
            .flatten()
            .filter(move |s| s.due(number))
            .map(|s| s.action)
    }
}

/// Collects console input to lines, without echo.
#[derive(Debug)]
pub struct Input {
    line: [u8; 64],
    length: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            line: [0; 64],
            length: 0,
        }
    }
}

impl Input {
    /// Takes one byte; calls `done` with the line when it is complete. What
    /// does not fit is dropped.
    pub fn take(&mut self, byte: u8, done: impl FnOnce(&str)) {
        match byte {
            b'\r' | b'\n' => {
                let line = core::str::from_utf8(&self.line[..self.length]).unwrap_or("");
                if !line.trim().is_empty() {
                    done(line.trim());
                }
                self.length = 0;
            }
            _ if self.length < self.line.len() => {
                self.line[self.length] = byte;
                self.length += 1;
            }
            _ => {}
        }
    }
}

/// A decimal or `0x` number.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(bootargs: &str) -> (Settings, Vec<String>) {
        let mut unknown = Vec::new();
        let s = Settings::parse(bootargs, |w| unknown.push(w.to_string()));
        (s, unknown)
    }

    #[test]
    fn settings_and_their_defaults() {
        let (s, unknown) = settings("");
        assert_eq!((s.seed, s.amount), (1, Amount::Bytes(8 << 20)));
        assert!(unknown.is_empty());
        let (s, _) = settings("  seed=0x2a size=24M");
        assert_eq!((s.seed, s.amount), (42, Amount::Bytes(24 << 20)));
        assert_eq!(settings("words=1024").0.amount, Amount::Bytes(8192));
        assert_eq!(settings("size=all").0.amount, Amount::All);
        assert!(!s.insist && s.uart.is_none());
        let (s, unknown) = settings("insist uart=0x9000000");
        assert!(s.insist && unknown.is_empty());
        assert_eq!(s.uart, Some(0x900_0000));
    }

    #[test]
    fn unknown_words_are_named() {
        let (_, unknown) =
            settings("console=ttyAMA0 seed=x badptr@ fly@3 lock:1@2 size=M vmf:1:2@3");
        assert_eq!(unknown.len(), 7);
    }

    #[test]
    fn actions_run_when_due() {
        let (s, unknown) = settings("badptr@3 status:2@3 spam@5+ vmf:4:0x7ff0:0:0@1");
        assert!(unknown.is_empty());
        let due = |n| s.due(n).collect::<Vec<_>>();
        assert_eq!(due(1), [Action::Vmf([4, 0x7ff0, 0, 0])]);
        assert_eq!(due(2), []);
        assert_eq!(due(3), [Action::BadPtr, Action::Status(Some(2))]);
        assert_eq!(due(5), [Action::Spam]);
        assert_eq!(due(6), [Action::Spam]);
    }

    #[test]
    fn too_many_actions_are_reported() {
        let (_, unknown) = settings(&"smc@1 ".repeat(MAX_SCHEDULED + 1));
        assert_eq!(unknown, ["smc@1"]);
    }

    #[test]
    fn every_action_has_the_name_it_is_called_by() {
        for name in [
            "protect", "lock", "status", "badptr", "unmapped", "isv0", "setway", "smc", "reboot",
            "poweroff", "grant", "evtchn", "share", "areas", "bounce", "spam", "yield", "cost",
            "shutdown", "watchdog", "suspend", "entered", "crowd",
        ] {
            assert_eq!(Action::parse(name).unwrap().name(), name);
        }
        assert_eq!(
            Action::parse("steal:2:0x40100"),
            Some(Action::Steal(2, 0x4_0100))
        );
        assert_eq!(Action::parse("steal:2"), None);
        assert_eq!(Action::parse("ring:1"), Some(Action::Ring(1)));
        assert_eq!(Action::parse("answer"), None);
        assert_eq!(
            Action::parse("poke:0x70000008:3"),
            Some(Action::Poke(0x7000_0008, 3))
        );
        assert_eq!(Action::parse("poke:0x70000008"), None);
        assert_eq!(Action::parse("poke:1:2:3"), None);
        assert_eq!(Action::parse("peek:1:2"), None);
        assert_eq!(
            Action::parse("peek:0x70000008"),
            Some(Action::Peek(0x7000_0008))
        );
        assert_eq!(Action::parse("take:11"), Some(Action::Take(11)));
        let frame = Action::parse("clean:0x40000");
        assert_eq!(frame, Some(Action::Clean(0x4_0000)));
        assert_eq!(frame.map(Action::name), Some("clean"));
        assert_eq!(Action::parse("clean"), None);
        assert_eq!(Action::parse("take"), None);
        assert_eq!(Action::parse("grant:70000"), None);
        assert_eq!(Action::parse("yield"), Some(Action::Yield(1000)));
        assert_eq!(Action::parse("yield:200"), Some(Action::Yield(200)));
        assert_eq!(Action::parse("yield:60001"), None);
        assert_eq!(Action::parse("shutdown:3"), Some(Action::Shutdown(3)));
        assert_eq!(Action::parse("watchdog"), Some(Action::Watchdog(1)));
        assert_eq!(
            Action::parse("unmapped:0x7000000000"),
            Some(Action::Unmapped(Some(0x70_0000_0000)))
        );
        assert_eq!(
            Action::parse("smc:0xbf00ff01"),
            Some(Action::Smc(Some(0xbf00_ff01)))
        );
        assert_eq!(Action::parse("smc:1:2"), None);
    }

    #[test]
    fn input_comes_in_lines() {
        let mut input = Input::default();
        let mut lines = Vec::new();
        for byte in b"lock\r\n\n status:1 \n" {
            input.take(*byte, |l| lines.push(l.to_string()));
        }
        assert_eq!(lines, ["lock", "status:1"]);
        for _ in 0..200 {
            input.take(b'x', |_| ());
        }
        input.take(b'\n', |l| assert_eq!(l.len(), 64));
    }
}
