//! System registers, and what is encoded like them: maintenance of caches and
//! TLBs, address translation, hints (Arm ARM, A64 system instructions).

use super::event::{Event, Kind, Memory};
use super::place::{NOTHING, Place};
use super::random::Random;
use super::values;

/// op0, op1, CRn, CRm, op2 and the direction of a system instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Towards the general register.
    pub read: bool,
    /// 0 to 3.
    pub op0: u32,
    /// 0 to 7.
    pub op1: u32,
    /// 0 to 15.
    pub crn: u32,
    /// 0 to 15.
    pub crm: u32,
    /// 0 to 7.
    pub op2: u32,
}

impl Name {
    /// The instruction, with x1 as general register (XZR for hints and
    /// PSTATE fields, which have none).
    #[must_use]
    pub const fn word(self) -> u32 {
        let register = if self.op0 == 0 { 31 } else { 1 };
        0xd500_0000
            | (self.read as u32) << 21
            | self.op0 << 19
            | self.op1 << 16
            | self.crn << 12
            | self.crm << 8
            | self.op2 << 5
            | register
    }

    /// What a system instruction names.
    #[must_use]
    pub const fn of(word: u32) -> Option<Self> {
        if word >> 22 != 0xd500_0000 >> 22 {
            return None;
        }
        Some(Self {
            read: word >> 21 & 1 != 0,
            op0: word >> 19 & 3,
            op1: word >> 16 & 7,
            crn: word >> 12 & 15,
            crm: word >> 8 & 15,
            op2: word >> 5 & 7,
        })
    }
}

/// A read, a write, or an operation.
pub fn register(place: &Place, random: &mut Random) -> Event {
    let name = name(random);
    let value = match random.below(4) {
        0 => address(place, random),
        1 => 0,
        _ => values::odd_number(random),
    };
    let mut x = [0; 9];
    x[1] = value;
    Event {
        kind: Kind::Register,
        word: name.word(),
        x,
        number: 0,
        memory: Memory::new(),
    }
}

fn name(random: &mut Random) -> Name {
    let mut any = |op0, op1, crn| Name {
        read: random.one_in(2),
        op0,
        op1,
        crn,
        crm: random.below(16) as u32,
        op2: random.below(8) as u32,
    };
    // What Xen traps, or might: each line is a group of the architecture.
    let groups = [
        any(3, 0, 0),  // identification
        any(3, 0, 1),  // SCTLR, ACTLR, CPACR
        any(3, 3, 9),  // PMU
        any(3, 0, 9),  // PMU interrupts, SPE
        any(3, 3, 14), // timers, PMU events
        any(2, 0, 0),  // debug
        any(2, 0, 1),  // OS lock
        any(2, 3, 0),  // debug communication
        any(3, 0, 12), // GIC, VBAR
        any(3, 0, 4),  // GIC priority, PSTATE
        any(3, 1, 0),  // cache geometry
        any(3, 3, 13), // thread pointers, AMU
        any(3, 0, 11), // implementation defined
        any(3, 1, 15), // implementation defined
        any(1, 0, 7),  // data caches
        any(1, 3, 7),  // data caches
        any(1, 0, 8),  // TLBs
        any(1, 4, 8),  // TLBs of EL2
        any(3, 4, 1),  // EL2
        any(3, 4, 2),  // EL2
        any(3, 4, 12), // EL2: GIC
        any(3, 6, 1),  // EL3
        any(0, 3, 2),  // hints
        any(2, 1, 0),  // trace
        any(3, 0, 2),  // translation, pointer authentication keys
        any(3, 0, 10), // memory attributes, MPAM
        any(3, 0, 5),  // faults, RAS
        any(1, 1, 11), // implementation defined
    ];
    if random.one_in(6) {
        return Name {
            read: random.one_in(2),
            op0: 1 + random.below(3) as u32,
            op1: random.below(8) as u32,
            crn: random.below(16) as u32,
            crm: random.below(16) as u32,
            op2: random.below(8) as u32,
        };
    }
    random.pick(&groups)
}

/// Operations on addresses may destroy what is there: the arena, or nothing.
fn address(place: &Place, random: &mut Random) -> u64 {
    match random.below(4) {
        0 => NOTHING + random.below(1 << 20),
        1 => place.distributor + random.below(0x1000),
        _ => place.arena + random.below(super::place::ARENA),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_the_assembler_makes() {
        // mrs x1, midr_el1; msr icc_sgi1r_el1, x1; dc cisw, x1; wfi
        let name = |read, op0, op1, crn, crm, op2| Name {
            read,
            op0,
            op1,
            crn,
            crm,
            op2,
        };
        assert_eq!(name(true, 3, 0, 0, 0, 0).word(), 0xd538_0001);
        assert_eq!(name(false, 3, 0, 12, 11, 5).word(), 0xd518_cba1);
        assert_eq!(name(false, 1, 0, 7, 14, 2).word(), 0xd508_7e41);
        assert_eq!(name(false, 0, 3, 2, 0, 3).word(), 0xd503_207f);
        let some = name(true, 3, 4, 1, 1, 0);
        assert_eq!(Name::of(some.word()), Some(some));
        assert_eq!(Name::of(super::super::hypercalls::HVC), None);
    }
}
