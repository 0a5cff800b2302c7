//! What is read from Xen's own data: domains, pools, pages of Xen's own, static tables; with a xen-syms that is
//! written here, and with ones that do not fit.

mod common;
#[path = "common/syms.rs"]
mod syms;

use common::*;
use proptest::prelude::*;
use syms::*;
use vmf_audit::dump::Dump;
use vmf_audit::fused::NO_VTTBR;
use vmf_audit::hex::Hex;
use vmf_audit::registers::GuestRange;
use vmf_audit::report::{Level, Verdict};
use vmf_audit::symbols::Symbols;
use vmf_audit::{Audit, Error, frametable, xen};

/// Where Xen's heap is mapped, and where it is; likewise the frame table.
const HEAP_VA: u64 = DIRECTMAP + (6 << 30);
const HEAP: u64 = RAM + (2 << 20);
const FRAMETABLE: u64 = RAM + (6 << 20);
const DOMAIN_LIST: u64 = TEXT_VA + 0x1000;
const BASE_PDX: u64 = DOMAIN_LIST + 8;
const BOOT_TABLE: u64 = TEXT_VA + 0x3000;
/// Where the snapshot and a CPU's window state lie, and its window.
const SNAPSHOT: u64 = 0x4000;
const WINDOW: u64 = 0x5000;
const WINDOW_VA: u64 = 0x0a00_8000_0000;
const VCPU: u64 = 0xa00;

type Fault = fn(&mut Machine);

fn page_info(pa: u64) -> u64 {
    frametable::FRAMETABLE_VA + (pa - RAM) / 4096 * PAGE_INFO
}

/// A locked machine with Xen's data for its two domains: d1 has a page in its pool and one of Xen's own.
fn machine() -> (Machine, u64) {
    let mut m = Machine::locked();
    m.found = None;
    (0..8).for_each(|i| {
        m.el2(HEAP_VA + i * 4096, HEAP + i * 4096, 3, RW);
    });
    (0..64).for_each(|i| {
        m.el2(
            frametable::FRAMETABLE_VA + i * 4096,
            FRAMETABLE + i * 4096,
            3,
            RW,
        );
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
        FRAMETABLE + (page_info(pool) - frametable::FRAMETABLE_VA) + LIST,
        HEAP_VA + 0x400 + FREELIST,
    );
    m.write(d1 + SHARED_INFO, HEAP_VA + 0x2000);
    m.write(d1 + GRANT_TABLE, HEAP_VA + 0x800);
    m.write(HEAP + 0x800 + GRANT_FRAMES - 4, 1 << 32);
    m.write(HEAP + 0x800 + SHARED_RAW, HEAP_VA + 0x900);
    m.write(HEAP + 0x900, HEAP_VA + 0x3000);
    fuse(&mut m);
    share(&mut m);
    m.s2(1, 0x3800_0000, HEAP + 0x2000, 3, S2_RAM | 2 << 53);
    m.s2(1, 0x3800_1000, HEAP + 0x3000, 3, S2_RAM | 2 << 53);
    (m, pool)
}

/// What the fuse leaves, and which vCPU runs.
fn fuse(m: &mut Machine) {
    m.write(DATA + 16, HEAP >> 12);
    m.write(DATA + 24, (HEAP >> 12) + 8);
    m.write(DATA + 0x28, HEAP_VA + VCPU);
    m.write(HEAP + VCPU + 8, HEAP_VA);
    m.write(DATA + 0x30, HEAP_VA + SNAPSHOT);
    m.write(DATA + 0x38, 1);
    for (i, word) in [DOM0 >> 12, DOM0 >> 12, 512, 1].into_iter().enumerate() {
        m.write(HEAP + SNAPSHOT + 8 * i as u64, word);
    }
    m.write(HEAP + SNAPSHOT_LEN, 1);
    m.write(HEAP + 0x400 + PROTECTED, 1);
    let tables = m.frames(8);
    m.write(DATA + 0x48, HEAP_VA + WINDOW);
    m.write(HEAP + WINDOW + 1024, WINDOW_VA);
    (0..5).for_each(|i| m.write(HEAP + WINDOW + 1040 + 8 * i, (tables >> 12) + i));
    m.write(FROZEN, 1);
    m.write(FROZEN + 8, 1 << 34 | 1 << 27 | 1 << 12 | 5);
    m.write(FROZEN + 16, 5);
    m.write(FROZEN + FROZEN_VTTBR, NO_VTTBR);
    for domain in m.registers.domains.clone() {
        let vttbr = domain.vttbr.0;
        m.write(FROZEN + FROZEN_VTTBR + 8 * (vttbr >> 48), vttbr);
    }
}

/// d1 shares a page of its memory, and Xen has noted that.
fn share(m: &mut Machine) {
    m.s2(1, GUEST_IPA, GUEST, 3, S2_RAM | 2 << 53);
    m.registers.domains[1].shared.push(GuestRange {
        gfn: Hex(GUEST_IPA >> 12),
        pages: 1,
    });
    let d1 = HEAP + 0x400;
    m.write(d1 + NR_SHARES, 1);
    let extent = [
        (SHARE_GFN, GUEST_IPA >> 12),
        (SHARE_MFN, GUEST >> 12),
        (SHARE_PAGES, 1),
        (SHARE_TYPE, 0xabcd_ef01), // what follows the type is not part of it
    ];
    for (i, (member, word)) in extent.into_iter().enumerate() {
        m.write(d1 + SHARES + member, word);
        let of_snapshot = [0, 8, 16, 24][i];
        m.write(HEAP + SNAPSHOT + 32 + of_snapshot, word);
    }
    m.write(DATA + 0x38, 2);
    m.write(d1 + SNAPSHOT_FIRST, 1);
    m.write(d1 + SNAPSHOT_LEN, 1);
}

fn xen_syms() -> Syms {
    Syms {
        symbols: vec![
            ("domain_list", DOMAIN_LIST, 8),
            ("frametable_base_pdx", BASE_PDX, 8),
            ("boot_first", BOOT_TABLE, 4096),
            ("xenheap_mfn_start", DOMAIN_LIST + 16, 8),
            ("xenheap_mfn_end", DOMAIN_LIST + 24, 8),
            ("__per_cpu_offset", DOMAIN_LIST + 0x20, 8),
            ("per_cpu__curr_vcpu", DOMAIN_LIST + 0x28, 8),
            ("_RNvNtCsx_7xen_vmf5c_abi8SNAPSHOT.0", DOMAIN_LIST + 0x30, 8),
            (
                "_RNvNtCsx_7xen_vmf5c_abi12SNAPSHOT_LEN.0",
                DOMAIN_LIST + 0x38,
                8,
            ),
            ("vmf_windows", DOMAIN_LIST + 0x40, 16),
            ("vmf_frozen", TEXT_VA + 0x2000, 4096),
        ],
        sections: vec![
            (".text", TEXT_VA, 0x1000),
            (".data", TEXT_VA + 0x1000, 0x3000),
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
        [("boot_first", RAM + 0x3000)],
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
    assert_eq!(report.excluded.len(), 3);
    assert_eq!(report.summary.shared_frames, 1);
    machine.el2(DIRECTMAP, pool, 3, R);
    let report = check(&machine);
    assert_eq!(violated(&report), ["L1"]);
    assert_eq!(
        report.violations[0].owner.as_deref(),
        Some("table pool of d1")
    );
    // The static table from boot, at the address where Xen's image has it.
    machine.el2(DIRECTMAP, DOM0, 3, R);
    machine.el2(BOOT_TABLE, RAM + 0x3000, 3, RW);
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
    let syms = xen_syms();
    assert_eq!(
        find(&machine, &syms).unwrap().xenheap,
        Some((HEAP >> 12, (HEAP >> 12) + 8))
    );
    machine.write(DATA + 24, 0);
    assert!(find(&machine, &syms).is_err());
}

/// What the fuse left is read, and each piece of it that is broken is found out.
#[test]
fn what_the_fuse_left_is_read_and_judged() {
    let (good, _) = machine();
    assert_eq!(check(&good).verdict, Verdict::Holds);
    let found = find(&good, &xen_syms()).unwrap();
    let fused = found.fused.unwrap();
    assert!(fused.frozen.locked);
    assert_eq!(fused.frozen.vttbr.len(), 16);
    assert_eq!(
        (fused.snapshot.unwrap().len(), fused.windows.unwrap().len()),
        (2, 5)
    );
    assert_eq!(found.running, [Some(0)]);
    assert_eq!(found.domains[1].note.map(|n| n.protected), Some(true));

    let cases: &[(&str, Fault, &str)] = &[
        ("not locked", |m| m.write(FROZEN, 0), "L11"),
        (
            "another VTTBR",
            |m| m.write(FROZEN + FROZEN_VTTBR + 16, 0),
            "L11",
        ),
        (
            "not protected",
            |m| m.write(HEAP + 0x400 + PROTECTED, 0),
            "L11",
        ),
        (
            "another frame",
            |m| m.write(HEAP + SNAPSHOT + 8, RAM >> 12),
            "L12",
        ),
        ("another type", |m| m.write(HEAP + SNAPSHOT + 24, 7), "L12"),
        ("no snapshot", |m| m.write(DATA + 0x30, 0), "L12"),
        (
            "another page shared",
            |m| m.write(HEAP + 0x400 + SHARES + SHARE_GFN, 1),
            "L18",
        ),
        (
            "no page shared",
            |m| m.write(HEAP + 0x400 + NR_SHARES, 0),
            "L18",
        ),
        (
            "an endless list of shared pages",
            |m| m.write(HEAP + 0x400 + NR_SHARES, u64::MAX),
            "L18",
        ),
        (
            "a shared page that is missing in the snapshot",
            |m| m.write(HEAP + 0x400 + SNAPSHOT_LEN, 0),
            "L12",
        ),
        (
            "an unreadable snapshot",
            |m| m.write(DATA + 0x30, 0x1000),
            "L12",
        ),
        (
            "an endless snapshot",
            |m| m.write(DATA + 0x38, u64::MAX),
            "L12",
        ),
        (
            "a part beyond the snapshot",
            |m| m.write(HEAP + SNAPSHOT_FIRST, u64::MAX),
            "L12",
        ),
        (
            "a window in the directmap",
            |m| m.write(HEAP + WINDOW + 1024, DIRECTMAP),
            "L14",
        ),
        (
            "a window table that is no memory",
            |m| m.write(HEAP + WINDOW + 1040, 1),
            "L14",
        ),
        ("no vCPU", |m| m.write(DATA + 0x28, 0), "L6"),
        (
            "a vCPU of d1",
            |m| m.write(HEAP + VCPU + 8, HEAP_VA + 0x400),
            "L6",
        ),
        (
            "a free page mapped",
            |m| {
                let page = page_info(GUEST - 0x1000) - frametable::FRAMETABLE_VA;
                m.write(FRAMETABLE + page, 3 << 55);
                m.el2(DIRECTMAP, GUEST - 0x1000, 3, RW);
            },
            "L16",
        ),
        (
            "a page mapped that d1 owns",
            |m| {
                let page = page_info(GUEST - 0x1000) - frametable::FRAMETABLE_VA;
                m.write(FRAMETABLE + page + OWNER, HEAP_VA + 0x400);
                m.el2(DIRECTMAP, GUEST - 0x1000, 3, RW);
            },
            "U1",
        ),
    ];
    for (what, fault, rule) in cases {
        let mut machine = good.clone();
        fault(&mut machine);
        let report = check(&machine);
        assert_ne!(report.verdict, Verdict::Holds, "{what}");
        let failed = report.rules.iter().any(|r| r.rule == *rule && !r.holds);
        assert!(
            failed,
            "{what}: {:#?} {:#?}",
            report.violations, report.unestablished
        );
    }
}

/// A Xen with a fuse, but other names than those that are known: nothing is taken for granted.
#[test]
fn missing_symbols_are_missing_facts() {
    let (machine, _) = machine();
    assert_eq!(check(&machine).verdict, Verdict::Holds);
    for (name, rules) in [
        ("SNAPSHOT.0", &["L12"][..]),
        ("SNAPSHOT_LEN.0", &["L12"]),
        ("vmf_windows", &["L1", "L14"]),
        ("vmf_frozen", &["L10", "L11", "L12"]),
        ("per_cpu__curr_vcpu", &["L6"]),
        ("xenheap_mfn_end", &["L4"]),
    ] {
        let mut syms = xen_syms();
        syms.symbols.retain(|s| !s.0.ends_with(name));
        let found = find(&machine, &syms).unwrap();
        let dump = Dump::from_bytes(machine.elf()).unwrap();
        let audit = Audit::new(dump, machine.registers.clone(), Some(found)).unwrap();
        let report = audit.check(Level::Lock);
        for rule in rules {
            let failed = report.rules.iter().any(|r| r.rule == *rule && !r.holds);
            assert!(failed, "{name}: {rule} holds");
        }
    }
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
