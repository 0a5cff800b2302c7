//! Trying addresses that must not translate any more.
//!
//! An AT instruction that fails says at which level the walk has ended
//! (PAR_EL1.FST, Arm ARM DDI 0487J.a, D19.2.110): all that the missing entry would
//! translate is unmapped. So a run of addresses takes one AT for each entry that
//! is not there, and by the tables none of its pages is left out. Of what a TLB
//! might still hold it is a sample: the first page of each run, and of each hole.

use crate::addr::{PAGE_SHIFT, Vaddr};
use crate::extents::Extent;
use crate::machine::Machine;
use crate::plan::VaRange;

/// One CPU's tries.
pub struct Check<'a, M> {
    machine: &'a M,
    /// What the last AT has found to be unmapped.
    hole: VaRange,
    tried: u64,
}

impl<'a, M: Machine> Check<'a, M> {
    /// Nothing has been tried yet.
    pub fn new(machine: &'a M) -> Self {
        Self {
            machine,
            hole: VaRange { start: 0, end: 0 },
            tried: 0,
        }
    }

    /// AT instructions so far.
    pub fn tried(&self) -> u64 {
        self.tried
    }

    /// Whether this CPU can read none of `range`.
    pub fn unmapped(&mut self, range: VaRange) -> bool {
        let mut va = range.start;
        while va < range.end {
            if !self.hole.contains(va) {
                self.tried += 1;
                let Some(end) = self.machine.unmapped_until(Vaddr::new(va)) else {
                    return false;
                };
                self.hole = VaRange {
                    start: va,
                    end: end.get(),
                };
            }
            va = self.hole.end;
        }
        true
    }

    /// Whether this CPU can read none of `frames` at their addresses in the
    /// directmap.
    pub fn gone(&mut self, frames: impl IntoIterator<Item = Extent>) -> bool {
        frames.into_iter().filter(|e| e.pages != 0).all(|extent| {
            // Tried whatever is known of the tables: a TLB may know more.
            self.hole = VaRange { start: 0, end: 0 };
            let start = self.machine.directmap_address(extent.start).get();
            let end = start + (extent.pages << PAGE_SHIFT);
            self.unmapped(VaRange { start, end })
        })
    }
}
