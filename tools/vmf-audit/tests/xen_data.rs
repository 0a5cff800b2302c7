//! What is read from Xen's own data: domains, pools, pages of Xen's own, static tables; with a xen-syms that is
//! written here, and with ones that do not fit.

mod common;
#[path = "common/syms.rs"]
mod syms;

use common::*;
use proptest::prelude::*;
use syms::*;
use vmf_audit::dump::Dump;
use vmf_audit::report::{Level, Verdict};
use vmf_audit::symbols::Symbols;
use vmf_audit::{Audit, Error, xen};

/// Where Xen's heap is mapped, and where it is; likewise the frame table.
const HEAP_VA: u64 = DIRECTMAP + (6 << 30);
const HEAP: u64 = RAM + (2 << 20);
const FRAMETABLE: u64 = RAM + (6 << 20);
const DOMAIN_LIST: u64 = TEXT_VA + 0x1000;
const BASE_PDX: u64 = DOMAIN_LIST + 8;
const BOOT_TABLE: u64 = TEXT_VA + 0x2000;

fn page_info(pa: u64) -> u64 {
    xen::FRAMETABLE_VA + (pa - RAM) / 4096 * PAGE_INFO
}

/// A locked machine with Xen's data for its two domains: d1 has a page in its pool and one of Xen's own.
fn machine() -> (Machine, u64) {
    let mut m = Machine::locked();
    m.found = None;
    (0..8).for_each(|i| {
        m.el2(HEAP_VA + i * 4096, HEAP + i * 4096, 3, RW);
    });
    (0..64).for_each(|i| {
        m.el2(xen::FRAMETABLE_VA + i * 4096, FRAMETABLE + i * 4096, 3, RW);
    });
    let pool = m.frames(1);
    m.write(DATA, HEAP_VA);
    m.write(DATA + 8, RAM >> 12);
    for id in 0..2u64 {
        let (d, va) = (HEAP + id * 0x400, HEAP_VA + id * 0x400);
        let vttbr = m.registers.domains[id as usize].vttbr.0;
        m.write(d, id | 0xabcd_0000); // what follows the id is not part of it
        m.write(d + NEXT, if id == 0 { HEAP_VA + 0x400 } else { 0 });
        m.write(d + ROOT, page_info(vttbr & 0xffff_ffff_f000));
        m.write(d + VMID, vttbr >> 48);
        m.write(d + VTTBR, vttbr);
        m.write(d + PAGES, va + PAGES);
        m.write(d + FREELIST, va + FREELIST);
    }
    // d1: one page in the pool, the shared info, one grant-table frame.
    let d1 = HEAP + 0x400;
    m.write(d1 + FREELIST, page_info(pool) + LIST);
    m.write(
        FRAMETABLE + (page_info(pool) - xen::FRAMETABLE_VA) + LIST,
        HEAP_VA + 0x400 + FREELIST,
    );
    m.write(d1 + SHARED_INFO, HEAP_VA + 0x2000);
    m.write(d1 + GRANT_TABLE, HEAP_VA + 0x800);
    m.write(HEAP + 0x800 + GRANT_FRAMES - 4, 1 << 32);
    m.write(HEAP + 0x800 + SHARED_RAW, HEAP_VA + 0x900);
    m.write(HEAP + 0x900, HEAP_VA + 0x3000);
    m.s2(1, 0x3800_0000, HEAP + 0x2000, 3, S2_RAM);
    m.s2(1, 0x3800_1000, HEAP + 0x3000, 3, S2_RAM);
    (m, pool)
}

fn xen_syms() -> Syms {
    Syms {
        symbols: vec![
            ("domain_list", DOMAIN_LIST, 8),
            ("frametable_base_pdx", BASE_PDX, 8),
            ("boot_first", BOOT_TABLE, 4096),
        ],
        sections: vec![
            (".text", TEXT_VA, 0x1000),
            (".data", TEXT_VA + 0x1000, 0x2000),
        ],
        tables: vec![("boot_first", BOOT_TABLE)],
        debug: true,
    }
}

fn find(machine: &Machine, syms: &Syms) -> Result<xen::Found, Error> {
    let symbols = Symbols::parse(&write(syms), xen::MEMBERS)?;
    xen::find(
        &Dump::from_bytes(machine.elf())?,
        &machine.registers,
        &symbols,
    )
}

fn check(machine: &Machine) -> vmf_audit::report::Report {
    let found = find(machine, &xen_syms()).unwrap();
    Audit::new(
        Dump::from_bytes(machine.elf()).unwrap(),
        machine.registers.clone(),
        Some(found),
    )
    .unwrap()
    .check(Level::Lock)
}

#[test]
fn domains_are_found() {
    let (machine, pool) = machine();
    let found = find(&machine, &xen_syms()).unwrap();
    let seen: Vec<_> = found.domains.iter().map(|d| (d.id, d.vttbr)).collect();
    assert_eq!(
        seen,
        machine
            .registers
            .domains
            .iter()
            .map(|d| (d.id, d.vttbr.0))
            .collect::<Vec<_>>()
    );
    assert_eq!(found.domains[1].pool, [pool >> 12]);
    let own: Vec<_> = found.domains[1]
        .own_pages
        .iter()
        .map(|p| (p.mfn, p.what))
        .collect();
    assert_eq!(
        own,
        [
            ((HEAP >> 12) + 2, "shared info"),
            ((HEAP >> 12) + 3, "grant table")
        ]
    );
    assert!(found.domains[0].own_pages.is_empty() && found.domains[0].pool.is_empty());
    let tables: Vec<_> = found
        .tables
        .iter()
        .map(|t| (&t.region.name[..], t.pa))
        .collect();
    assert_eq!(
        tables,
        [("boot_first", RAM + 0x2000)],
        "only arrays of lpae_t are tables"
    );
    let sections: Vec<_> = found
        .sections
        .iter()
        .map(|s| (&s.region.name[..], s.pa))
        .collect();
    assert_eq!(sections, [(".text", TEXT), (".data", DATA)]);
}

#[test]
fn a_machine_holds_and_its_pool_has_to_be_unmapped() {
    let (mut machine, pool) = machine();
    let report = check(&machine);
    assert_eq!(report.verdict, Verdict::Holds, "{report:#?}");
    assert_eq!(report.excluded.len(), 2);
    machine.el2(DIRECTMAP, pool, 3, R);
    let report = check(&machine);
    assert_eq!(violated(&report), ["L1"]);
    assert_eq!(
        report.violations[0].owner.as_deref(),
        Some("table pool of d1")
    );
    // The static table from boot, at the address where Xen's image has it.
    machine.el2(DIRECTMAP, DOM0, 3, R);
    machine.el2(BOOT_TABLE, RAM + 0x2000, 3, RW);
    assert_eq!(
        check(&machine).violations[0].owner.as_deref(),
        Some("static table boot_first")
    );
}

#[test]
fn the_vttbr_that_xen_keeps_has_to_agree_if_it_is_there() {
    let (mut machine, _) = machine();
    machine.write(HEAP + VTTBR, 0);
    assert!(find(&machine, &xen_syms()).is_ok());
    machine.write(HEAP + VTTBR, 0x4000_0000);
    assert!(find(&machine, &xen_syms()).is_err());
}

#[test]
fn the_xenheap_is_taken_from_its_symbols() {
    let (mut machine, _) = machine();
    let mut syms = xen_syms();
    syms.symbols
        .push(("xenheap_mfn_start", DOMAIN_LIST + 16, 8));
    syms.symbols.push(("xenheap_mfn_end", DOMAIN_LIST + 24, 8));
    machine.write(DATA + 16, HEAP >> 12);
    machine.write(DATA + 24, (HEAP >> 12) + 8);
    assert_eq!(
        find(&machine, &syms).unwrap().xenheap,
        Some((HEAP >> 12, (HEAP >> 12) + 8))
    );
    machine.write(DATA + 24, 0);
    assert!(find(&machine, &syms).is_err());
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let error = |fault: fn(&mut Machine, &mut Syms)| {
        let ((mut machine, _), mut syms) = (machine(), xen_syms());
        fault(&mut machine, &mut syms);
        find(&machine, &syms).expect_err("it was taken").to_string()
    };
    assert!(error(|_, s| s.debug = false).contains("build Xen with CONFIG_DEBUG_INFO=y"));
    assert!(error(|_, s| s.symbols.clear()).contains("has no symbol domain_list"));
    assert!(
        error(|_, s| s.symbols[0].1 = 0x1000).contains("is this the xen-syms of the Xen that ran?")
    );
    assert!(error(|_, s| s.sections[0].1 = HEAP_VA).contains("not in one piece"));
    assert!(error(|m, _| m.write(HEAP + 0x400 + NEXT, HEAP_VA)).contains("has no end"));
    assert!(error(|m, _| m.write(HEAP + ROOT, HEAP_VA)).contains("is not in the frame table"));
    assert!(
        error(|m, _| m.write(HEAP + 0x400 + PAGES, page_info(RAM) + LIST))
            .contains("is not in the frame table")
    );
    assert!(error(|m, _| m.registers.cpus[0].sctlr.0 &= !1).contains("no CPU has its EL2 MMU on"));
    let foreign = Symbols::parse(b"\x7fELF and then nothing", xen::MEMBERS);
    assert!(
        foreign
            .err()
            .unwrap()
            .to_string()
            .contains("not a usable ELF file")
    );
}

proptest! {
    /// xen-syms with some bytes changed: read or refused, never a panic.
    #[test]
    fn a_changed_file_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = write(&xen_syms());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Symbols::parse(&bytes, xen::MEMBERS);
    }

    /// Xen's data with some words changed: read or refused, never a panic.
    #[test]
    fn changed_data_never_panics(changes in prop::collection::vec((0u64..0x200, any::<u64>(), any::<bool>()), 1..6)) {
        let (mut machine, _) = machine();
        for (at, word, near) in changes {
            machine.write(HEAP + at * 8, if near { HEAP_VA + word % 0x8000 } else { word });
        }
        let _ = find(&machine, &xen_syms());
    }
}
