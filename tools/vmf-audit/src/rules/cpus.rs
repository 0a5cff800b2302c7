//! What the registers of each CPU have to be: U3, L5, L6, L9.

use crate::audit::{Audit, name};
use crate::judge::Findings;
use crate::registers::Cpu;
use crate::xen::IDLE;

pub(super) fn mmu_off(audit: &Audit, found: &mut Findings) {
    for root in audit.roots.iter().filter(|r| !r.regime.mmu) {
        found.plain(
            "the EL2 MMU is off: all memory is readable, writable, executable".into(),
            root.cpus.clone(),
            None,
            Vec::new(),
        );
    }
}

pub(super) fn cpus_disagree(audit: &Audit, found: &mut Findings) {
    type Value = fn(&Cpu) -> u64;
    let cpus = &audit.registers.cpus;
    for (register, value) in [
        ("TTBR0_EL2", (|c| c.ttbr0.0) as Value),
        ("TCR_EL2", |c| c.tcr.0),
        ("SCTLR_EL2", |c| c.sctlr.0),
        ("MAIR_EL2", |c| c.mair.0),
        ("VTCR_EL2", |c| c.vtcr.0),
    ] {
        let others: Vec<usize> = (0..cpus.len())
            .filter(|&i| value(&cpus[i]) != value(&cpus[0]))
            .collect();
        if let Some(&other) = others.first() {
            let what = format!(
                "{register} is {:#x} on CPU 0 and {:#x} on CPU {other}",
                value(&cpus[0]),
                value(&cpus[other])
            );
            found.plain(what, others, None, Vec::new());
        }
    }
}

/// Which stage 2 a CPU has loaded. In Xen it may be that of the last domain that ran, or of one whose TLB entries are
/// being removed, or the root that maps nothing (with any VMID: `p2m_force_tlb_flush_sync`, xen/arch/arm/mmu/p2m.c); where the CPU is in a guest, it is that guest's and no other.
pub(super) fn stage2_loaded(audit: &Audit, found: &mut Findings) {
    for stage2 in audit.stage2.iter().filter(|s| s.id.is_none() && !s.former) {
        let what = format!("VTTBR_EL2 is {:#x}: no known domain's", stage2.vttbr);
        found.plain(what, stage2.cpus.clone(), None, Vec::new());
    }
    let of_xen = audit.found.as_ref();
    for (i, cpu) in audit.registers.cpus.iter().enumerate() {
        let vttbr = cpu.vttbr.0;
        let loaded = audit.stage2.iter().find(|s| s.vttbr == vttbr);
        if let Some(like) = audit.stage2.iter().find(|s| s.cpus.contains(&i))
            && loaded.is_none()
        {
            let what = format!(
                "VTTBR_EL2 is {vttbr:#x}: the tables of {}, but not its VTTBR {:#x}",
                name(like),
                like.vttbr
            );
            found.plain(what, vec![i], None, Vec::new());
        }
        // How many CPUs there are is compared elsewhere.
        let Some(processor) = audit.dump.processors().get(i) else {
            continue;
        };
        if !processor.in_guest() {
            continue;
        }
        match of_xen.and_then(|f| *f.running.get(i)?) {
            Some(id) if id != IDLE && loaded.is_some_and(|s| s.id == Some(id)) => {}
            Some(id) => {
                let whose = loaded.map_or("of no known domain".to_owned(), name);
                let what = format!("a vCPU of d{id} runs, and VTTBR_EL2 is {vttbr:#x}, {whose}");
                found.plain(what, vec![i], None, Vec::new());
            }
            // Without xen-syms nothing of Xen's is known, and that is said once.
            None if of_xen.is_none() => {}
            None => found.doubt(format!("which domain runs on CPU {i} is not known")),
        }
    }
}

/// Bits that the lock relies on: register, what they are for, mask, value, and whether only where a guest's stage 2 is
/// loaded.
struct Bits(&'static str, &'static str, fn(&Cpu) -> u64, u64, u64, bool);

/// Arm ARM D24: SCTLR_EL2, TCR_EL2, VTCR_EL2, HCR_EL2.
const BITS: &[Bits] = &[
    Bits("SCTLR_EL2.M", "the MMU", |c| c.sctlr.0, 1, 1, false),
    Bits(
        "SCTLR_EL2.C",
        "the data cache",
        |c| c.sctlr.0,
        1 << 2,
        1 << 2,
        false,
    ),
    Bits(
        "SCTLR_EL2.WXN",
        "writable means not executable",
        |c| c.sctlr.0,
        1 << 19,
        1 << 19,
        false,
    ),
    Bits(
        "SCTLR_EL2.EE",
        "big-endian tables",
        |c| c.sctlr.0,
        1 << 25,
        0,
        false,
    ),
    Bits(
        "TCR_EL2.SH0, ORGN0, IRGN0",
        "walks like normal memory, inner shareable",
        |c| c.tcr.0,
        0x3f00,
        0x3500,
        false,
    ),
    Bits(
        "TCR_EL2.HA, HD",
        "hardware writes to tables",
        |c| c.tcr.0,
        3 << 21,
        0,
        false,
    ),
    Bits(
        "VTCR_EL2.HA, HD",
        "hardware writes to tables",
        |c| c.vtcr.0,
        3 << 21,
        0,
        false,
    ),
    Bits(
        "HCR_EL2.E2H",
        "EL2 with the host's regime",
        |c| c.hcr.0,
        1 << 34,
        0,
        false,
    ),
    Bits(
        "HCR_EL2.TGE",
        "guests' traps to EL2, stage 2 off",
        |c| c.hcr.0,
        1 << 27,
        0,
        false,
    ),
    Bits(
        "HCR_EL2.DC",
        "the guest's MMU off",
        |c| c.hcr.0,
        1 << 12,
        0,
        false,
    ),
    Bits("HCR_EL2.VM", "stage 2", |c| c.hcr.0, 1, 1, true),
    Bits(
        "HCR_EL2.PTW",
        "no guest walks in device memory",
        |c| c.hcr.0,
        1 << 2,
        1 << 2,
        true,
    ),
];

pub(super) fn control_registers(audit: &Audit, found: &mut Findings) {
    for (i, cpu) in audit.registers.cpus.iter().enumerate() {
        let in_guest = audit.dump.processors().get(i).is_some_and(|p| p.in_guest());
        let guest = in_guest || audit.stage2.iter().any(|s| s.cpus.contains(&i));
        for Bits(register, what, value, mask, wanted, only_guest) in BITS {
            let value = value(cpu) & mask;
            if value != *wanted && (guest || !only_guest) {
                let what = format!("{register} ({what}) is {value:#x}, not {wanted:#x}");
                found.plain(what, vec![i], None, Vec::new());
            }
        }
        if audit.found.is_some() {
            vectors(audit, i, cpu.vbar.0, found);
        }
    }
}

/// The exception vectors: in Xen's text, and executable there.
fn vectors(audit: &Audit, cpu: usize, vbar: u64, found: &mut Findings) {
    let sections = audit.found.iter().flat_map(|f| &f.sections);
    let mut text = sections.filter(|s| s.region.executable).map(|s| &s.region);
    let inside = text.any(|t| (t.va..t.va + t.size).contains(&vbar));
    let root = audit.roots.iter().find(|r| r.cpus.contains(&cpu));
    let runs = root.is_some_and(|root| {
        let mut leaves = root.walk.leaves.iter();
        leaves.any(|l| (l.va..l.va + l.size()).contains(&vbar) && root.regime.executes(l))
    });
    if !inside || !runs {
        let what = format!("VBAR_EL2 is {vbar:#x}: no executable address of Xen's text");
        found.plain(what, vec![cpu], None, Vec::new());
    }
}
