//! The rules of each level, one function each. A rule looks at machine frames, never at where something is expected to
//! be mapped; a fact that it cannot establish is a doubt, and a rule with a doubt does not hold.
//!
//! Pages of Xen's own that a protected domain sees (shared info, grant table) are in its stage 2 and stay mapped by
//! design. They are not held to be protected if, and only if, Xen's struct domain of that very domain names the frame
//! (and it lies in the xenheap, where its bounds are known); each is listed in the report. Without xen-syms none is.

mod cpus;
mod fused;
mod permissions;
mod reach;
mod seal;
mod shared;
mod space;
mod tables;

use crate::audit::Audit;
use crate::judge::Findings;
use crate::report::Level;
use serde::Serialize;

/// What a level demands.
#[derive(Serialize)]
pub struct Rule {
    /// Its id, stable.
    pub id: &'static str,
    /// From which level on it applies.
    pub level: Level,
    /// The threat model's vectors that it checks.
    pub vectors: &'static [&'static str],
    /// In words.
    pub demands: &'static str,
    /// Whether it cannot be judged without xen-syms.
    pub needs_xen: bool,
    #[serde(skip)]
    pub(crate) find: fn(&Audit, &mut Findings),
}

/// Every rule, by id.
pub const RULES: &[Rule] = &[
    Rule {
        id: "U1",
        level: Level::Unmap,
        vectors: &["V01", "V02", "V03"],
        demands: "no frame of a protected domain is mapped at EL2",
        needs_xen: false,
        find: tables::protected_mapped,
    },
    Rule {
        id: "U2",
        level: Level::Unmap,
        vectors: &["V05", "V06"],
        demands: "no other domain's stage 2 reaches a frame of a protected domain",
        needs_xen: false,
        find: tables::protected_in_other_stage2,
    },
    Rule {
        id: "U3",
        level: Level::Unmap,
        vectors: &["V10", "V13"],
        demands: "no CPU has its EL2 MMU off",
        needs_xen: false,
        find: cpus::mmu_off,
    },
    Rule {
        id: "L1",
        level: Level::Lock,
        vectors: &["V07", "V08"],
        demands: "no frame with a translation table of any regime, in use, static or pooled, is mapped at EL2",
        needs_xen: true,
        find: tables::table_mapped,
    },
    Rule {
        id: "L2",
        level: Level::Lock,
        vectors: &["V23"],
        demands: "no EL2 mapping is both writable and executable",
        needs_xen: false,
        find: permissions::writable_and_executable,
    },
    Rule {
        id: "L3",
        level: Level::Lock,
        vectors: &["V23"],
        demands: "no frame that can be executed from has a writable EL2 mapping or is shared, and each is in the dump",
        needs_xen: false,
        find: permissions::executable_with_writable_alias,
    },
    Rule {
        id: "L4",
        level: Level::Lock,
        vectors: &["V07", "V08"],
        demands: "no domain's stage 2 reaches a translation table, Xen's image, or memory that is Xen's alone",
        needs_xen: true,
        find: tables::private_in_stage2,
    },
    Rule {
        id: "L5",
        level: Level::Lock,
        vectors: &["V09", "V10"],
        demands: "all CPUs translate in the same way",
        needs_xen: false,
        find: cpus::cpus_disagree,
    },
    Rule {
        id: "L6",
        level: Level::Lock,
        vectors: &["V11", "V24"],
        demands: "each CPU has a domain's stage 2 loaded or none, in a guest that guest's",
        needs_xen: true,
        find: cpus::stage2_loaded,
    },
    Rule {
        id: "L7",
        level: Level::Lock,
        vectors: &["V07"],
        demands: "no entry contradicts the architecture",
        needs_xen: false,
        find: tables::malformed,
    },
    Rule {
        id: "L8",
        level: Level::Lock,
        vectors: &["V23", "V24"],
        demands: "what Xen's image maps read-only is writable nowhere else",
        needs_xen: true,
        find: permissions::read_only_with_writable_alias,
    },
    Rule {
        id: "L9",
        level: Level::Lock,
        vectors: &["V10", "V11", "V12", "V14"],
        demands: "each CPU's control registers are what the lock relies on, its vectors in Xen's text",
        needs_xen: true,
        find: cpus::control_registers,
    },
    Rule {
        id: "L10",
        level: Level::Lock,
        vectors: &["V11", "V12", "V24"],
        demands: "what is read-only from the fuse on is writable in no alias",
        needs_xen: true,
        find: permissions::frozen_with_writable_alias,
    },
    Rule {
        id: "L11",
        level: Level::Lock,
        vectors: &["V21", "V22", "V24"],
        demands: "the frozen page says what the dump says: locked, each domain's VTTBR, the bits of HCR_EL2",
        needs_xen: true,
        find: fused::frozen_page,
    },
    Rule {
        id: "L12",
        level: Level::Lock,
        vectors: &["V05", "V22"],
        demands: "the frozen snapshot agrees with the real stage 2 of each domain, of protected ones what they share",
        needs_xen: true,
        find: fused::snapshot,
    },
    Rule {
        id: "L13",
        level: Level::Lock,
        vectors: &["V15"],
        demands: "the identity map is gone",
        needs_xen: false,
        find: space::identity_map,
    },
    Rule {
        id: "L14",
        level: Level::Lock,
        vectors: &["V02", "V03", "V07"],
        demands: "windows map nothing, the fixmap no memory, and their tables are empty or unreachable",
        needs_xen: true,
        find: space::windows_and_fixmap,
    },
    Rule {
        id: "L15",
        level: Level::Lock,
        vectors: &["V02", "V23"],
        demands: "no leaf has attributes that are stale: access flag, memory type, shareability, aliases that differ",
        needs_xen: false,
        find: space::attributes,
    },
    Rule {
        id: "L16",
        level: Level::Lock,
        vectors: &["V01", "V03"],
        demands: "no memory is mapped at EL2 but Xen's image, xenheap, frame table, what unprotected domains have or others share",
        needs_xen: true,
        find: space::retained,
    },
    Rule {
        id: "L17",
        level: Level::Lock,
        vectors: &["V23"],
        demands: "no protected domain can execute from memory that Xen can write",
        needs_xen: true,
        find: tables::executable_for_guest,
    },
    Rule {
        id: "L18",
        level: Level::Lock,
        vectors: &["V01", "V05"],
        demands: "Xen takes each protected domain to share what it is claimed to share, and nothing else",
        needs_xen: true,
        find: shared::same_as_claimed,
    },
    Rule {
        id: "S1",
        level: Level::Seal,
        vectors: &["V09", "V10", "V11", "V14"],
        demands: "no executable instruction writes a register that controls translation, but for the two gates",
        needs_xen: true,
        find: seal::translation,
    },
    Rule {
        id: "S2",
        level: Level::Seal,
        vectors: &["V13", "V20"],
        demands: "no executable instruction enters firmware (SMC)",
        needs_xen: true,
        find: seal::firmware,
    },
    Rule {
        id: "S3",
        level: Level::Seal,
        vectors: &["V11"],
        demands: "one executable instruction writes VTTBR_EL2: the gate",
        needs_xen: true,
        find: seal::vttbr_gate,
    },
    Rule {
        id: "S4",
        level: Level::Seal,
        vectors: &["V10", "V12"],
        demands: "one executable instruction writes HCR_EL2: the gate",
        needs_xen: true,
        find: seal::hcr_gate,
    },
    Rule {
        id: "S5",
        level: Level::Seal,
        vectors: &["V10"],
        demands: "no executable instruction does what only the CPU's maker knows",
        needs_xen: true,
        find: seal::implementation_defined,
    },
    Rule {
        id: "S6",
        level: Level::Seal,
        vectors: &["V14", "V15", "V16"],
        demands: "nothing can be executed from but Xen's text, at its own address",
        needs_xen: true,
        find: seal::only_text,
    },
];
