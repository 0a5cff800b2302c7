//! What an AT instruction answers.

use crate::addr::{Vaddr, level_bytes};

/// PAR_EL1.F: the translation has failed.
const FAILED: u64 = 1;
/// PAR_EL1.FST without its last two bits, for a translation fault; those are
/// the level (Arm ARM DDI 0487J.a, D19.2.110).
const TRANSLATION_FAULT: u64 = 0b0001;

/// How far the entry reaches whose absence has ended the walk for `va`, when
/// `par` is what PAR_EL1 was after the AT. `None` if `va` is mapped, or if the
/// walk has failed in any other way, which says nothing about what is mapped.
pub const fn unmapped_until(va: Vaddr, par: u64) -> Option<Vaddr> {
    let status = par >> 1 & 0x3f;
    if par & FAILED == 0 || status >> 2 != TRANSLATION_FAULT {
        return None;
    }
    let bytes = level_bytes((status & 3) as u8);
    Some(Vaddr::new((va.get() | (bytes - 1)) + 1))
}

#[cfg(test)]
mod tests {
    use super::unmapped_until;
    use crate::addr::Vaddr;

    #[test]
    fn a_fault_tells_how_far_it_reaches() {
        let va = Vaddr::new(0x7_4567_89ab);
        let after = |par| unmapped_until(va, par).map(Vaddr::get);
        // RES1 bit 11, FST 0b0001LL, F.
        assert_eq!(after(0x809), Some(0x80_0000_0000));
        assert_eq!(after(0x80b), Some(0x7_8000_0000));
        assert_eq!(after(0x80d), Some(0x7_4580_0000));
        assert_eq!(after(0x80f), Some(0x7_4567_9000));
    }

    #[test]
    fn whatever_else_it_says_counts_as_mapped() {
        let va = Vaddr::new(0x7_4567_8000);
        // A translation; address size, access flag and permission faults; an
        // external abort on the walk; a TLB conflict.
        for par in [0xff00_0000_4567_8b80, 0x801, 0x813, 0x81f, 0x82d, 0x861] {
            assert_eq!(unmapped_until(va, par), None, "{par:#x}");
        }
    }
}
