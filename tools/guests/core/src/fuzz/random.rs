//! Chance that can be repeated: each event has a generator of its own, from
//! the seed and the event's place, so that any event can be made again alone.

use crate::pattern::word;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    next: usize,
}

impl Random {
    /// The generator of event `index` of a vCPU in a phase.
    #[must_use]
    pub fn of(seed: u64, vcpu: u64, phase: u64, index: u64) -> Self {
        let place = (vcpu << 4 | phase) << 48 | index & 0xffff_ffff_ffff;
        Self {
            state: word(word(seed, 0) ^ place, 1),
            next: 0,
        }
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.next += 1;
        word(self.state, self.next)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_gives_the_same_and_another_another() {
        let first = |seed, vcpu, phase, index| Random::of(seed, vcpu, phase, index).bits();
        assert_eq!(first(1, 2, 0, 3), first(1, 2, 0, 3));
        let others = [
            first(2, 2, 0, 3),
            first(1, 1, 0, 3),
            first(1, 2, 1, 3),
            first(1, 2, 0, 4),
        ];
        assert!(others.iter().all(|&other| other != first(1, 2, 0, 3)));
    }
}
