//! An event: one instruction, the registers before it, and memory that the
//! registers point to.

/// Bytes of memory that come with an event.
pub const BYTES: usize = 768;

/// What kind of trap an event aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A hypercall.
    Hypercall,
    /// A call of firmware, or an HVC that is no hypercall.
    Call,
    /// A system register, or an operation like one.
    Register,
    /// A load or store.
    Access,
}

/// Every kind.
pub const KINDS: [Kind; 4] = [Kind::Hypercall, Kind::Call, Kind::Register, Kind::Access];

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it aims at.
    pub kind: Kind,
    /// The A64 instruction.
    pub word: u32,
    /// x0 to x8.
    pub x: [u64; 9],
    /// x16.
    pub number: u64,
    /// What the guest puts into its page of structures.
    pub memory: Memory,
}

/// The beginning of the page of structures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    words: [u64; BYTES / 8],
    used: usize,
}

impl Memory {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            words: [0; BYTES / 8],
            used: 0,
        }
    }

    /// The words that are used.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words[..self.used]
    }

    /// Puts `size` (1 to 8) bytes of a number at `offset`, little-endian; what
    /// does not fit is dropped.
    pub fn put(&mut self, offset: usize, size: usize, value: u64) {
        for byte in 0..size {
            let at = offset + byte;
            if at < BYTES {
                let shift = at % 8 * 8;
                let word = &mut self.words[at / 8];
                *word = *word & !(0xff << shift) | (value >> (byte * 8) & 0xff) << shift;
                self.used = self.used.max(at / 8 + 1);
            }
        }
    }

    /// The `size` bytes at `offset`, 0 beyond the end.
    #[must_use]
    pub fn get(&self, offset: usize, size: usize) -> u64 {
        (0..size).rev().fold(0, |value, byte| {
            let at = offset + byte;
            let word = self.words.get(at / 8).copied().unwrap_or(0);
            value << 8 | word >> (at % 8 * 8) & 0xff
        })
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_little_endian_and_ends() {
        let mut memory = Memory::new();
        memory.put(6, 4, 0x1234_5678);
        assert_eq!(memory.get(6, 4), 0x1234_5678);
        assert_eq!(memory.words(), [0x5678 << 48, 0x1234]);
        memory.put(6, 2, 0);
        assert_eq!(memory.get(6, 4), 0x1234_0000);
        memory.put(BYTES - 2, 8, u64::MAX);
        assert_eq!(memory.get(BYTES - 4, 8), 0xffff_0000);
    }
}
