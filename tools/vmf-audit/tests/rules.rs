//! For each rule a machine on which it holds and one on which it does not; and what cannot be judged.

#[path = "rules/between.rs"]
mod between;
mod common;
#[path = "rules/further.rs"]
mod further;
#[path = "rules/lock.rs"]
mod lock;
#[path = "rules/seal.rs"]
mod seal;
#[path = "rules/share.rs"]
mod share;

use common::*;
use further::FURTHER;
use lock::FAULTS;
use seal::FAULTS as SEAL_FAULTS;
use share::FAULTS as SHARED;
use vmf_audit::frametable::Noted;
use vmf_audit::hex::Hex;
use vmf_audit::report::{Level, Verdict};
use vmf_audit::rules::RULES;
use vmf_audit::xen::{IDLE, OwnPage};

type Fault = fn(&mut Machine);

/// PSTATE of a CPU in EL2.
const EL2: u64 = 0x3c9;

#[test]
fn a_locked_machine_holds() {
    for level in [Level::Unmap, Level::Lock] {
        let report = Machine::locked().check(level);
        assert_eq!(report.verdict, Verdict::Holds, "{report:#?}");
        assert_eq!(report.summary.protected_frames, GUEST_FRAMES as usize);
        assert_eq!(report.summary.protected_frames_mapped, 0);
        assert_eq!(report.summary.table_frames_mapped, 0);
        // EL2: root, 2 x level 1, 2 x level 2, level 3. Stage 2: d0 2 roots and level 2; d1 also level 3.
        assert_eq!(report.summary.table_frames, 6 + 3 + 4);
    }
}

#[test]
fn each_fault_is_found_by_its_rules_and_by_no_other() {
    for (what, fault, expected) in FAULTS.iter().chain(FURTHER).chain(SHARED) {
        let mut machine = Machine::locked();
        fault(&mut machine);
        let report = machine.check(Level::Lock);
        assert_eq!(
            &violated(&report),
            expected,
            "{what}: {:#?}",
            report.violations
        );
        assert_eq!(report.verdict, Verdict::Violated, "{what}");
        // The lower level sees its own rules, and nothing else.
        let lower: Vec<_> = expected
            .iter()
            .copied()
            .filter(|id| id.starts_with('U'))
            .collect();
        assert_eq!(
            violated(&machine.check(Level::Unmap)),
            lower,
            "{what} at unmap"
        );
    }
}

#[test]
fn a_sealed_machine_holds_and_each_fault_is_found() {
    let report = Machine::sealed().check(Level::Seal);
    assert_eq!(report.verdict, Verdict::Holds, "{report:#?}");
    for (what, fault, expected) in SEAL_FAULTS {
        let mut machine = Machine::sealed();
        fault(&mut machine);
        let report = machine.check(Level::Seal);
        assert_eq!(
            &violated(&report),
            expected,
            "{what}: {:#?}",
            report.violations
        );
        assert_eq!(report.verdict, Verdict::Violated, "{what}");
        assert_eq!(
            machine.check(Level::Lock).verdict,
            Verdict::Holds,
            "{what} at lock"
        );
        let holds: Vec<_> = report
            .rules
            .iter()
            .filter(|r| !r.holds)
            .map(|r| r.rule)
            .collect();
        assert_eq!(&holds, expected, "{what}");
    }
}

#[test]
fn a_lock_is_no_seal() {
    // No gate at all: the scan cannot have been of Xen's text.
    let report = Machine::locked().check(Level::Seal);
    assert_eq!(report.verdict, Verdict::CannotJudge, "{report:#?}");
    assert_eq!(report.unestablished.len(), 2);
}

#[test]
fn an_instruction_is_named_and_placed() {
    let mut machine = Machine::sealed();
    machine.code(0x44, 0xd400_0003);
    let report = machine.check(Level::Seal);
    let [v] = &report.violations[..] else {
        panic!("{:#?}", report.violations)
    };
    assert_eq!((v.rule, v.address), ("S2", Some(Hex(TEXT_VA + 0x44))));
    assert_eq!((v.mfn, v.walk.len()), (Some(Hex(TEXT >> 12)), 4));
    assert_eq!(v.owner.as_deref(), Some("Xen's image .text"));
}

/// Each of these would be a fault if it were anything else than it is.
#[test]
fn what_is_allowed_is_not_a_violation() {
    let cases: &[(&str, Fault)] = &[
        ("a CPU in EL2 with the last guest's stage 2", |m| {
            m.pstate = vec![EL2];
            m.xen().running = vec![Some(IDLE)];
        }),
        ("an idle CPU that never ran a guest", |m| {
            m.pstate = vec![EL2];
            m.registers.cpus[0].vttbr = Hex(0);
            m.registers.cpus[0].hcr = Hex(0x38);
        }),
        ("an idle CPU on the empty root, with a VMID", |m| {
            m.pstate = vec![EL2];
            let page = m.frames(2);
            m.xen().empty_root = Some(page >> 12);
            m.registers.cpus[0].vttbr = Hex(page | 2 << 48);
            m.fused().frozen.further = vec![("empty", page), ("none", 0)];
        }),
        ("a window's table that is reachable and empty", |m| {
            let entry = m.el2(DIRECTMAP, SPARE, 3, RW);
            m.write(entry, 0);
            m.fused().windows = Ok(vec![entry >> 12]);
        }),
        ("a window's table that is not reachable", |m| {
            let table = m.frames(1);
            m.write(table, SPARE | RW | 3);
            m.fused().windows = Ok(vec![table >> 12]);
        }),
        ("a device in the fixmap", |m| {
            m.el2(TEXT_VA + (8 << 20), 0x900_0000, 3, RW & !NORMAL | 2 << 8);
        }),
        ("Xen's own memory in vmap", |m| {
            m.el2(0x0a00_4000_0000, GUEST - 0x1000, 3, RW);
        }),
        ("a page of Xen's own that its domain sees", |m| {
            m.s2(0, 0, SPARE, 3, S2_RAM);
            let (mfn, what) = (SPARE >> 12, "shared info");
            m.xen().domains[0].own_pages = vec![OwnPage { mfn, what }];
        }),
        ("the stage 2 of a domain that was destroyed", |m| {
            let root = m.frames(2);
            m.map(root, 1, 0, DOM0, 2, S2_RAM);
            m.fused().frozen.vttbr[9] = root | 9 << 48;
        }),
    ];
    for (what, change) in cases {
        let mut machine = Machine::locked();
        change(&mut machine);
        let report = machine.check(Level::Lock);
        assert_eq!(
            report.verdict,
            Verdict::Holds,
            "{what}: {:#?}",
            report.violations
        );
    }
}

/// A fact that a rule needs and that is not there: the rule does not hold, and says so.
#[test]
fn a_rule_without_its_facts_does_not_hold() {
    let cases: &[(&str, Fault, &[&str])] = &[
        (
            "no fuse in this Xen",
            |m| m.xen().fused = None,
            &["L10", "L11", "L12"],
        ),
        (
            "no bounds of the xenheap",
            |m| m.xen().xenheap = None,
            &["L4"],
        ),
        (
            "who runs on a CPU",
            |m| m.xen().running = vec![None],
            &["L6"],
        ),
        ("the frame table", |m| m.xen().noted.clear(), &["L16"]),
        (
            "the snapshot",
            |m| m.fused().snapshot = Err("unreadable".into()),
            &["L12"],
        ),
        (
            "the windows",
            |m| m.fused().windows = Err("unreadable".into()),
            &["L1", "L14"],
        ),
        (
            "the frozen page is not in the dump",
            |m| m.fused().pages[0].pa = 0x1000,
            &["L10"],
        ),
        (
            "what Xen notes of a domain",
            |m| m.xen().domains[0].note = None,
            &["L12"],
        ),
    ];
    for (what, fault, expected) in cases {
        let mut machine = Machine::locked();
        fault(&mut machine);
        let report = machine.check(Level::Lock);
        assert_eq!(
            report.verdict,
            Verdict::CannotJudge,
            "{what}: {:#?}",
            report.violations
        );
        let failed: Vec<_> = report
            .rules
            .iter()
            .filter(|r| !r.holds)
            .map(|r| r.rule)
            .collect();
        assert_eq!(&failed, expected, "{what}");
        assert!(
            expected
                .iter()
                .all(|id| report.unestablished.iter().any(|u| u.starts_with(id)))
        );
    }
}

#[test]
fn an_image_without_sections_is_not_taken_for_clean() {
    let mut machine = Machine::locked();
    machine.xen().sections.clear();
    let report = machine.check(Level::Lock);
    let rule = report.rules.iter().find(|r| r.rule == "L8").unwrap();
    assert!(!rule.holds && report.verdict != Verdict::Holds);
}

#[test]
fn every_rule_has_a_fault() {
    for rule in RULES {
        let faults = || {
            FAULTS
                .iter()
                .chain(FURTHER)
                .chain(SHARED)
                .chain(SEAL_FAULTS)
        };
        assert!(
            faults().any(|(_, _, rules)| rules.contains(&rule.id)),
            "{}",
            rule.id
        );
    }
}

#[test]
fn wxn_saves_a_writable_and_executable_page() {
    let mut machine = Machine::locked();
    machine.el2(DIRECTMAP, SPARE, 3, RWX);
    let report = machine.check(Level::Lock);
    assert_eq!(report.verdict, Verdict::Holds);
    assert_eq!(
        (report.summary.wx_leaves, report.summary.wx_leaves_effective),
        (1, 0)
    );
}

#[test]
fn a_violation_says_where_and_whose() {
    let mut machine = Machine::locked();
    machine.el2(DIRECTMAP, GUEST, 2, RW);
    let report = machine.check(Level::Unmap);
    let [v] = &report.violations[..] else {
        panic!("{:#?}", report.violations)
    };
    assert_eq!((v.rule, v.vectors), ("U1", &["V01", "V02", "V03"][..]));
    assert_eq!((v.mfn, v.frames), (Some(Hex(GUEST >> 12)), GUEST_FRAMES));
    assert_eq!(v.owner.as_deref(), Some("d1"));
    assert_eq!((v.address, &v.cpus[..]), (Some(Hex(DIRECTMAP)), &[0][..]));
    assert_eq!(
        v.walk.iter().map(|s| s.level).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(v.walk[0].table, machine.registers.cpus[0].ttbr0);
    assert_eq!(v.walk[2].descriptor.0, GUEST | RW | 1);
}

#[test]
fn pages_that_follow_one_another_are_one_violation() {
    let mut machine = Machine::locked();
    for i in 0..GUEST_FRAMES {
        machine.el2(DIRECTMAP + i * 4096, GUEST + i * 4096, 3, RW);
    }
    let report = machine.check(Level::Unmap);
    assert_eq!(report.violations.len(), 1);
    assert_eq!(report.violations[0].frames, GUEST_FRAMES);
}

/// In Xen's vmap area.
const VMAP: u64 = 0x0a00_4000_0000;

/// A page that nobody has, with the frame table's word that it is this domain's.
fn owned_page(id: u16) -> (Machine, u64) {
    let mut machine = Machine::locked();
    let page = GUEST - 0x1000;
    machine.xen().noted[((page - RAM) >> 12) as usize] = Noted::Domain(id);
    (machine, page)
}

#[test]
fn what_an_unprotected_domain_has_given_up_may_be_mapped_in_the_vmap() {
    // 9 is none that the claims name.
    for (id, vmap, directmap) in [
        (0, &[][..], &["L16"][..]),
        (1, &["U1"], &["U1"]),
        (9, &["L16"], &["L16"]),
    ] {
        let (mut machine, page) = owned_page(id);
        machine.el2(VMAP, page, 3, RW);
        assert_eq!(violated(&machine.check(Level::Lock)), vmap, "d{id}");
        let (mut machine, page) = owned_page(id);
        machine.el2(DIRECTMAP, page, 3, RW);
        assert_eq!(violated(&machine.check(Level::Lock)), directmap, "d{id}");
    }
}

#[test]
fn what_an_unprotected_domain_has_beyond_its_addresses_may_be_mapped() {
    // 36 bits, a root of 64 entries; here is the first behind them.
    const BEYOND: u64 = 1 << 36;
    let beyond = |domain: u16, noted: u16| {
        let (mut machine, page) = owned_page(noted);
        for cpu in &mut machine.registers.cpus {
            cpu.vtcr = Hex(VTCR_40 & !0x3f | 28);
        }
        machine.el2(DIRECTMAP, page, 3, RW);
        assert!(!violated(&machine.check(Level::Lock)).is_empty());
        let root = machine.registers.domains[usize::from(domain)].vttbr.0 & 0xffff_ffff_f000;
        machine.map(root, 1, BEYOND, page, 3, S2_RAM);
        violated(&machine.check(Level::Lock))
    };
    assert!(beyond(0, 0).is_empty());
    // Of a protected one it is private, whoever has it in his tables.
    assert_eq!(beyond(1, 1), ["U1"]);
    assert_eq!(beyond(0, 1), ["U1"]);
}

#[test]
fn pages_of_xens_own_may_be_mapped_only_where_xen_names_them() {
    let mut machine = Machine::locked();
    machine.el2(DIRECTMAP, GUEST, 3, RW);
    let page = OwnPage {
        mfn: GUEST >> 12,
        what: "shared info",
    };
    machine.xen().xenheap = Some((GUEST >> 12, (GUEST >> 12) + 1));
    // Named by another domain: no excuse.
    machine.xen().domains[0].own_pages = vec![page.clone()];
    assert_eq!(violated(&machine.check(Level::Lock)), ["U1", "L4", "L17"]);
    machine.s2(1, 0x4000_0000, GUEST, 3, S2_RAM | 2 << 53);
    assert_eq!(violated(&machine.check(Level::Lock)), ["U1", "L4"]);
    machine.xen().domains[0].own_pages.clear();
    machine.xen().domains[1].own_pages = vec![page];
    let report = machine.check(Level::Lock);
    assert_eq!(report.verdict, Verdict::Holds);
    let [excluded] = &report.excluded[..] else {
        panic!("{:?}", report.excluded)
    };
    assert_eq!(
        (excluded.domain, excluded.mfn, excluded.why),
        (1, Hex(GUEST >> 12), "shared info")
    );
    // Outside the xenheap: no excuse either.
    machine.xen().xenheap = Some(XENHEAP);
    assert_eq!(violated(&machine.check(Level::Unmap)), ["U1"]);
}

#[test]
fn claims_are_compared_with_the_dump() {
    let cases: &[(&str, Fault)] = &[
        ("is in the dump, but not in the registers file", |m| {
            m.fused().frozen.vttbr[9] = 9 << 48;
            m.xen().domains.push(xen_domain(5, 9 << 48, false))
        }),
        ("is in the registers file, but not in the dump", |m| {
            m.xen().domains.truncate(1)
        }),
        ("the registers file says VTTBR", |m| {
            m.fused().frozen.vttbr[3] = m.fused().frozen.vttbr[2] + (1 << 48);
            m.xen().domains[1].vttbr += 1 << 48
        }),
        ("xen-syms is needed", |m| m.found = None),
    ];
    for (what, fault) in cases {
        let mut machine = Machine::locked();
        fault(&mut machine);
        let report = machine.check(Level::Lock);
        assert_eq!(report.verdict, Verdict::CannotJudge, "{what}");
        let [doubt] = &report.unestablished[..] else {
            panic!("{what}: {:?}", report.unestablished)
        };
        assert!(doubt.contains(what), "{doubt}");
    }
}

#[test]
fn what_cannot_be_established_does_not_pass() {
    let cases: &[(&str, Fault)] = &[
        ("no domain is protected", |m| {
            m.registers.domains[1].protected = false
        }),
        ("a protected domain without memory", |m| m.domain(2, true)),
        ("a shared page that is not the domain's", |m| {
            m.registers.domains[1].shared_pages = vec![Hex(1)]
        }),
        ("a CPU without registers", |m| m.cpu_notes += 1),
        ("a table that is not in the dump", |m| {
            let entry = m.el2(0, RAM + 0x2000, 1, 0);
            m.write(entry, 0x9_0000_0003);
        }),
    ];
    for (what, fault) in cases {
        let mut machine = Machine::locked();
        fault(&mut machine);
        let report = machine.check(Level::Unmap);
        assert_eq!(report.verdict, Verdict::CannotJudge, "{what}");
        assert_eq!(report.verdict.exit_code(), 2);
        assert_eq!(
            report.unestablished.len(),
            1,
            "{what}: {:?}",
            report.unestablished
        );
    }
}

#[test]
fn what_is_set_up_in_another_way_is_refused() {
    let cases: &[(&str, Fault)] = &[
        ("E2H", |m| m.registers.cpus[0].hcr.0 |= 1 << 34),
        ("big-endian tables", |m| {
            m.registers.cpus[0].sctlr.0 |= 1 << 25
        }),
        ("64 KiB granule", |m| m.registers.cpus[0].tcr.0 |= 1 << 14),
        ("52-bit addresses", |m| m.registers.cpus[0].tcr.0 |= 1 << 32),
        ("T0SZ 15", |m| m.registers.cpus[0].tcr.0 -= 1),
        ("T0SZ 40", |m| m.registers.cpus[0].tcr.0 += 24),
        ("a root that is not in the dump", |m| {
            m.registers.cpus[0].ttbr0 = Hex(0x1000)
        }),
        ("stage 2 with 16 KiB granule", |m| {
            m.registers.cpus[0].vtcr.0 |= 2 << 14
        }),
        ("stage 2 with a shape that does not exist", |m| {
            m.registers.cpus[0].vtcr.0 &= !0x3f
        }),
        ("CPUs with different VTCR_EL2", |m| {
            m.cpu().vtcr = Hex(VTCR_44)
        }),
        ("no VTCR_EL2", |m| m.registers.cpus[0].vtcr = Hex(0)),
        ("a stage-2 root that is not in the dump", |m| {
            m.registers.domains[1].vttbr = Hex(0x2000)
        }),
        ("a table that contains itself for ever", |m| {
            let root = m.registers.cpus[0].ttbr0.0;
            (0..512).for_each(|i| m.write(root + 8 * i, root | 3));
        }),
    ];
    for (what, fault) in cases {
        let mut machine = Machine::locked();
        fault(&mut machine);
        let Err(error) = machine.audit() else {
            panic!("{what} was audited")
        };
        assert!(
            error.to_string().starts_with("cannot judge: "),
            "{what}: {error}"
        );
    }
}

/// Another domain may have mapped a page that Xen names for one, if neither is protected.
#[test]
fn a_page_of_xens_own_as_a_foreign_page() {
    let foreign = S2_RAM & !(0xf << 55) | 2 << 53 | 6 << 55;
    let with = |named: u16, by: usize, bits: u64| {
        let mut machine = Machine::locked();
        machine.domain(2, false);
        let page = OwnPage {
            mfn: SPARE >> 12,
            what: "shared info",
        };
        let domains = &mut machine.xen().domains;
        let domain = domains.iter_mut().find(|d| d.id == named).unwrap();
        domain.own_pages = vec![page];
        machine.s2(by, 0, SPARE, 3, bits);
        machine.check(Level::Lock)
    };
    assert_eq!(with(2, 0, foreign).verdict, Verdict::Holds);
    assert_eq!(violated(&with(2, 0, S2_RAM)), ["L4"]);
    assert_eq!(violated(&with(1, 0, foreign)), ["L4"]);
    assert_eq!(violated(&with(2, 1, foreign)), ["L4"]);
    let mut unnamed = Machine::locked();
    unnamed.s2(0, 0, SPARE, 3, foreign);
    assert_eq!(violated(&unnamed.check(Level::Lock)), ["L4"]);
}
