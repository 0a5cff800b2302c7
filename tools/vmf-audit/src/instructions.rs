//! Instructions that change translation or leave EL2, told by their encoding alone.
//!
//! A64 instructions are four bytes wide and aligned, so each word of an executable page is one instruction, whatever it
//! was meant to be. The list is that of the Arm Architecture Reference Manual for A-profile, DDI 0487 issue L.a (Armv9.5;
//! C5.1 and C6.2 for the instructions, D24 for the registers). Where a register of the groups that control translation
//! has no name here, its write counts as one that changes translation: what is not known is not harmless.

use serde::Serialize;
use std::fmt;

/// What executing an instruction at EL2 can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Writes a register that decides what EL2 or a guest is translated by, or how EL2 runs.
    Translation,
    /// Calls firmware at EL3.
    Firmware,
    /// Does what only the CPU's maker knows.
    ImplementationDefined,
    /// Writes a guest's register; with HCR_EL2.E2H set the name stands for EL2's own, or is an alias of the guest's.
    Redirected,
    /// Writes what decides which guest accesses trap.
    Traps,
    /// Removes translations from TLBs.
    Maintenance,
    /// Returns from EL2, or writes where to.
    Return,
    /// Calls EL2 itself.
    Call,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::Translation => "changes translation",
            Effect::Firmware => "enters firmware",
            Effect::ImplementationDefined => "implementation defined",
            Effect::Redirected => "a guest's register",
            Effect::Traps => "what traps",
            Effect::Maintenance => "TLB maintenance",
            Effect::Return => "returns from EL2",
            Effect::Call => "calls EL2",
        })
    }
}

/// An instruction that matters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instruction {
    /// What it can do.
    pub effect: Effect,
    /// Mnemonic and register: `MSR TTBR0_EL2`, `SMC`.
    pub name: String,
}

/// A system register by its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the architecture's own names
pub struct Encoding {
    pub op0: u8,
    pub op1: u8,
    pub crn: u8,
    pub crm: u8,
    pub op2: u8,
}

impl Encoding {
    /// Bits 20 to 5 of a word in the system instruction space.
    pub fn of(word: u32) -> Encoding {
        let field = |low: u32, bits: u32| (word >> low & ((1 << bits) - 1)) as u8;
        Encoding {
            op0: field(19, 2),
            op1: field(16, 3),
            crn: field(12, 4),
            crm: field(8, 4),
            op2: field(5, 3),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Encoding {
            op0,
            op1,
            crn,
            crm,
            op2,
        } = self;
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

/// A register with op0 3: name, (op1, CRn, CRm, op2), what a write does.
pub type Register = (&'static str, (u8, u8, u8, u8), Effect);

/// Every register whose writes matter.
pub const REGISTERS: &[Register] = &[
    ("SCTLR_EL2", (4, 1, 0, 0), Effect::Translation),
    ("ACTLR_EL2", (4, 1, 0, 1), Effect::Translation),
    ("SCTLR2_EL2", (4, 1, 0, 3), Effect::Translation),
    ("HCR_EL2", (4, 1, 1, 0), Effect::Translation),
    ("MDCR_EL2", (4, 1, 1, 1), Effect::Traps),
    ("CPTR_EL2", (4, 1, 1, 2), Effect::Traps),
    ("HSTR_EL2", (4, 1, 1, 3), Effect::Traps),
    ("HFGRTR_EL2", (4, 1, 1, 4), Effect::Traps),
    ("HFGWTR_EL2", (4, 1, 1, 5), Effect::Traps),
    ("HFGITR_EL2", (4, 1, 1, 6), Effect::Traps),
    ("HACR_EL2", (4, 1, 1, 7), Effect::Traps),
    ("ZCR_EL2", (4, 1, 2, 0), Effect::Traps),
    ("TRFCR_EL2", (4, 1, 2, 1), Effect::Traps),
    ("HCRX_EL2", (4, 1, 2, 2), Effect::Translation),
    ("TRCITECR_EL2", (4, 1, 2, 3), Effect::Traps),
    ("SMPRIMAP_EL2", (4, 1, 2, 5), Effect::Traps),
    ("SMCR_EL2", (4, 1, 2, 6), Effect::Traps),
    ("SDER32_EL2", (4, 1, 3, 1), Effect::Traps),
    ("TTBR0_EL2", (4, 2, 0, 0), Effect::Translation),
    ("TTBR1_EL2", (4, 2, 0, 1), Effect::Translation),
    ("TCR_EL2", (4, 2, 0, 2), Effect::Translation),
    ("TCR2_EL2", (4, 2, 0, 3), Effect::Translation),
    ("VTTBR_EL2", (4, 2, 1, 0), Effect::Translation),
    ("VTCR_EL2", (4, 2, 1, 2), Effect::Translation),
    ("VNCR_EL2", (4, 2, 2, 0), Effect::Translation),
    ("GCSCR_EL2", (4, 2, 5, 0), Effect::Translation),
    ("GCSPR_EL2", (4, 2, 5, 1), Effect::Translation),
    ("VSTTBR_EL2", (4, 2, 6, 0), Effect::Translation),
    ("VSTCR_EL2", (4, 2, 6, 2), Effect::Translation),
    ("SPSR_EL2", (4, 4, 0, 0), Effect::Return),
    ("ELR_EL2", (4, 4, 0, 1), Effect::Return),
    ("MAIR2_EL2", (4, 10, 1, 1), Effect::Translation),
    ("MAIR_EL2", (4, 10, 2, 0), Effect::Translation),
    ("PIRE0_EL2", (4, 10, 2, 2), Effect::Translation),
    ("PIR_EL2", (4, 10, 2, 3), Effect::Translation),
    ("POR_EL2", (4, 10, 2, 4), Effect::Translation),
    ("S2PIR_EL2", (4, 10, 2, 5), Effect::Translation),
    ("AMAIR_EL2", (4, 10, 3, 0), Effect::Translation),
    ("AMAIR2_EL2", (4, 10, 3, 1), Effect::Translation),
    ("MECID_P0_EL2", (4, 10, 8, 0), Effect::Translation),
    ("MECID_A0_EL2", (4, 10, 8, 1), Effect::Translation),
    ("MECID_P1_EL2", (4, 10, 8, 2), Effect::Translation),
    ("MECID_A1_EL2", (4, 10, 8, 3), Effect::Translation),
    ("VMECID_P_EL2", (4, 10, 9, 0), Effect::Translation),
    ("VMECID_A_EL2", (4, 10, 9, 1), Effect::Translation),
    ("VBAR_EL2", (4, 12, 0, 0), Effect::Translation),
    ("RMR_EL2", (4, 12, 0, 2), Effect::Translation),
    ("TPIDR_EL2", (4, 13, 0, 2), Effect::Translation),
    ("S2POR_EL1", (0, 10, 2, 5), Effect::Translation),
    ("RCWSMASK_EL1", (0, 13, 0, 3), Effect::Translation),
    ("RCWMASK_EL1", (0, 13, 0, 6), Effect::Translation),
    ("SCTLR_EL1", (0, 1, 0, 0), Effect::Redirected),
    ("ACTLR_EL1", (0, 1, 0, 1), Effect::Redirected),
    ("CPACR_EL1", (0, 1, 0, 2), Effect::Redirected),
    ("SCTLR2_EL1", (0, 1, 0, 3), Effect::Redirected),
    ("TTBR0_EL1", (0, 2, 0, 0), Effect::Redirected),
    ("TTBR1_EL1", (0, 2, 0, 1), Effect::Redirected),
    ("TCR_EL1", (0, 2, 0, 2), Effect::Redirected),
    ("TCR2_EL1", (0, 2, 0, 3), Effect::Redirected),
    ("GCSCR_EL1", (0, 2, 5, 0), Effect::Redirected),
    ("MAIR_EL1", (0, 10, 2, 0), Effect::Redirected),
    ("MAIR2_EL1", (0, 10, 2, 1), Effect::Redirected),
    ("PIRE0_EL1", (0, 10, 2, 2), Effect::Redirected),
    ("PIR_EL1", (0, 10, 2, 3), Effect::Redirected),
    ("POR_EL1", (0, 10, 2, 4), Effect::Redirected),
    ("AMAIR_EL1", (0, 10, 3, 0), Effect::Redirected),
    ("AMAIR2_EL1", (0, 10, 3, 1), Effect::Redirected),
    ("VBAR_EL1", (0, 12, 0, 0), Effect::Redirected),
    ("CONTEXTIDR_EL1", (0, 13, 0, 1), Effect::Redirected),
    ("SCTLR_EL12", (5, 1, 0, 0), Effect::Redirected),
    ("CPACR_EL12", (5, 1, 0, 2), Effect::Redirected),
    ("SCTLR2_EL12", (5, 1, 0, 3), Effect::Redirected),
    ("TTBR0_EL12", (5, 2, 0, 0), Effect::Redirected),
    ("TTBR1_EL12", (5, 2, 0, 1), Effect::Redirected),
    ("TCR_EL12", (5, 2, 0, 2), Effect::Redirected),
    ("TCR2_EL12", (5, 2, 0, 3), Effect::Redirected),
    ("GCSCR_EL12", (5, 2, 5, 0), Effect::Redirected),
    ("MAIR_EL12", (5, 10, 2, 0), Effect::Redirected),
    ("MAIR2_EL12", (5, 10, 2, 1), Effect::Redirected),
    ("PIRE0_EL12", (5, 10, 2, 2), Effect::Redirected),
    ("PIR_EL12", (5, 10, 2, 3), Effect::Redirected),
    ("POR_EL12", (5, 10, 2, 4), Effect::Redirected),
    ("AMAIR_EL12", (5, 10, 3, 0), Effect::Redirected),
    ("AMAIR2_EL12", (5, 10, 3, 1), Effect::Redirected),
    ("VBAR_EL12", (5, 12, 0, 0), Effect::Redirected),
    ("CONTEXTIDR_EL12", (5, 13, 0, 1), Effect::Redirected),
];

/// What a word does that matters, if it does.
pub fn classify(word: u32) -> Option<Instruction> {
    let plain = |effect, name: &str| {
        Some(Instruction {
            effect,
            name: name.to_owned(),
        })
    };
    // C6.2: exception generation, with any immediate; returns, with and without pointer authentication.
    match word & 0xffe0_001f {
        0xd400_0003 => return plain(Effect::Firmware, "SMC"),
        0xd400_0002 => return plain(Effect::Call, "HVC"),
        _ => {}
    }
    match word {
        0xd69f_03e0 => return plain(Effect::Return, "ERET"),
        0xd69f_0bff => return plain(Effect::Return, "ERETAA"),
        0xd69f_0fff => return plain(Effect::Return, "ERETAB"),
        0xd6bf_03e0 => return plain(Effect::Return, "DRPS"),
        _ => {}
    }
    // C5.1.2: 1101 0101 0 p L op0 op1 CRn CRm op2 Rt, with p for a pair of registers, and L clear for a write.
    let mnemonic = match word & 0xfff0_0000 {
        0xd510_0000 => "MSR",
        0xd550_0000 => "MSRR",
        0xd500_0000 | 0xd540_0000 => return system(word),
        _ => return None,
    };
    let encoding = Encoding::of(word);
    let (effect, register) = register(encoding)?;
    plain(effect, &format!("{mnemonic} {register}"))
}

/// System instructions that are no register moves: op0 is 1.
fn system(word: u32) -> Option<Instruction> {
    let encoding = Encoding::of(word);
    let (effect, what) = match encoding {
        Encoding {
            op0: 1, crn: 8 | 9, ..
        } => (Effect::Maintenance, "TLBI"),
        Encoding {
            op0: 1,
            crn: 11 | 15,
            ..
        } => (Effect::ImplementationDefined, "SYS"),
        _ => return None,
    };
    let name = if effect == Effect::Maintenance {
        what.to_owned()
    } else {
        format!("{what} {encoding}")
    };
    Some(Instruction { effect, name })
}

fn register(encoding: Encoding) -> Option<(Effect, String)> {
    let Encoding {
        op0,
        op1,
        crn,
        crm,
        op2,
    } = encoding;
    if op0 != 3 {
        return None; // debug and trace
    }
    let known = REGISTERS.iter().find(|r| r.1 == (op1, crn, crm, op2));
    if let Some(&(name, _, effect)) = known {
        return Some((effect, name.to_owned()));
    }
    match (op1, crn, crm) {
        (_, 11 | 15, _) => Some((Effect::ImplementationDefined, encoding.to_string())),
        // MPAM: labels for caches and memory controllers.
        (4, 10, 4..=6) => None,
        // Control and translation registers of EL2.
        (4, 1 | 2 | 10, _) => Some((Effect::Translation, encoding.to_string())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(word: u32) -> String {
        classify(word).map_or_else(String::new, |i| i.name)
    }

    #[test]
    fn words_of_a_real_xen() {
        assert_eq!(name(0xd51c_2000), "MSR TTBR0_EL2");
        assert_eq!(name(0xd51c_1101), "MSR HCR_EL2");
        assert_eq!(name(0xd400_0003), "SMC");
        assert_eq!(name(0xd4000003 | 0xffff << 5), "SMC");
        assert_eq!(name(0xd508_871f), "TLBI");
        assert_eq!(name(0xd55c_2000), "MSRR TTBR0_EL2");
        // Reads, and the other exception-generating instructions.
        for word in [0xd53c_2000, 0xd400_0001, 0xd420_0000, 0xd503_201f, 0] {
            assert_eq!(classify(word), None, "{word:#x}");
        }
    }

    #[test]
    fn what_has_no_name_is_not_harmless() {
        let (effect, name) = (Effect::Translation, "MSR S3_4_C2_C3_2".to_owned());
        assert_eq!(classify(0xd51c_2340), Some(Instruction { effect, name }));
        let odd = classify(0xd51f_f200).unwrap();
        assert_eq!(odd.effect, Effect::ImplementationDefined);
    }
}
