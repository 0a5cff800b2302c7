//! The lines of a canary's console. Tests look for them word for word.

use core::fmt;

use crate::pattern::Mismatch;

/// `<who>: heartbeat N pattern ok`, or `... pattern BROKEN` for ever after a
/// mismatch.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// Counts from 1.
    pub number: u64,
    /// Every word was compared since the last heartbeat and none differed,
    /// now or ever before.
    pub ok: bool,
}

impl fmt::Display for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.ok { "ok" } else { "BROKEN" };
        write!(f, "heartbeat {} pattern {verdict}", self.number)
    }
}

/// `<who>: FAIL at 0x… expected 0x… found 0x…`; the address is the guest's
/// own physical one, or virtual under Linux.
#[derive(Clone, Copy, Debug)]
pub struct Fail {
    /// Address of word 0.
    pub base: u64,
    /// What differs.
    pub mismatch: Mismatch,
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FAIL at {:#x} expected {:#018x} found {:#018x}",
            self.base + self.mismatch.index as u64 * 8,
            self.mismatch.expected,
            self.mismatch.found
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let beat = |ok| Heartbeat { number: 3, ok }.to_string();
        assert_eq!(beat(true), "heartbeat 3 pattern ok");
        assert_eq!(beat(false), "heartbeat 3 pattern BROKEN");
        let mismatch = Mismatch {
            index: 2,
            expected: 1,
            found: 0xff,
        };
        assert_eq!(
            Fail {
                base: 0x4000_0000,
                mismatch
            }
            .to_string(),
            "FAIL at 0x40000010 expected 0x0000000000000001 found 0x00000000000000ff"
        );
    }
}
