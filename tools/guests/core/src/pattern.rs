//! The pattern: word `i` is a mix of the seed and `i`, so that no two words of
//! a memory are equal by design, a page that was exchanged for another is
//! noticed, and any word can be computed alone.
//!
//! Words are atomics: each check reads memory anew, which a plain load in a
//! loop does not promise.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A difference between what was written and what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Index of the word in the whole memory.
    pub index: usize,
    /// What the pattern says.
    pub expected: u64,
    /// What memory says.
    pub found: u64,
}

/// The word at `index` (SplitMix64 of `seed` and `index`).
#[must_use]
pub fn word(seed: u64, index: usize) -> u64 {
    let mut z = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `memory`, which begins at word 0.
pub fn fill(memory: &[AtomicU64], seed: u64) {
    for (index, cell) in memory.iter().enumerate() {
        cell.store(word(seed, index), Relaxed);
    }
}

/// Goes over a memory again and again, a slice at a time.
#[derive(Debug)]
pub struct Checker<'m> {
    memory: &'m [AtomicU64],
    seed: u64,
    next: usize,
}

impl<'m> Checker<'m> {
    /// Starts before word 0 of `memory`, which [`fill`] has filled.
    #[must_use]
    pub fn new(memory: &'m [AtomicU64], seed: u64) -> Self {
        Self {
            memory,
            seed,
            next: 0,
        }
    }

    /// True when every word has been compared since the last
    /// [`restart`](Self::restart).
    #[must_use]
    pub fn complete(&self) -> bool {
        self.next >= self.memory.len()
    }

    /// Begins with word 0 again.
    pub fn restart(&mut self) {
        self.next = 0;
    }

    /// Compares the next `count` words, or as many as are left.
    ///
    /// # Errors
    /// The first word that differs; the checker has then moved past it.
    pub fn advance(&mut self, count: usize) -> Result<(), Mismatch> {
        let end = self.next.saturating_add(count).min(self.memory.len());
        while self.next < end {
            let index = self.next;
            self.next += 1;
            let expected = word(self.seed, index);
            let found = self.memory[index].load(Relaxed);
            if found != expected {
                return Err(Mismatch {
                    index,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn holds_when_untouched() {
        let m = memory(1000);
        fill(&m, 7);
        let mut c = Checker::new(&m, 7);
        while !c.complete() {
            c.advance(64).unwrap();
        }
        c.restart();
        assert!(!c.complete());
    }

    #[test]
    fn one_bit_is_noticed_wherever_it_is() {
        let m = memory(130);
        fill(&m, 1);
        for index in [0, 1, 63, 64, 129] {
            for bit in 0..64 {
                m[index].fetch_xor(1 << bit, Relaxed);
                let mut c = Checker::new(&m, 1);
                let wrong = c.advance(usize::MAX).unwrap_err();
                assert_eq!(wrong.index, index);
                assert_eq!(wrong.expected ^ wrong.found, 1 << bit);
                m[index].fetch_xor(1 << bit, Relaxed);
            }
        }
    }

    #[test]
    fn exchanged_pages_and_other_seeds_are_noticed() {
        let m = memory(1024);
        fill(&m, 3);
        assert!(Checker::new(&m, 4).advance(1).is_err());
        for (i, cell) in m.iter().enumerate().take(512) {
            cell.store(word(3, i + 512), Relaxed);
        }
        assert_eq!(Checker::new(&m, 3).advance(1024).unwrap_err().index, 0);
    }

    #[test]
    fn the_check_goes_on_after_a_mismatch() {
        let m = memory(4);
        fill(&m, 3);
        m[1].store(0, Relaxed);
        let mut c = Checker::new(&m, 3);
        assert!(c.advance(4).is_err());
        assert!(c.advance(4).is_ok());
        assert!(c.complete());
    }
}
