//! For each rule a machine on which it holds and one on which it does not; and what cannot be judged.

mod common;
use common::*;
use vmf_audit::hex::Hex;
use vmf_audit::judge::RULES;
use vmf_audit::report::{Level, Verdict};
use vmf_audit::symbols::Region;
use vmf_audit::xen::{OwnPage, Placed};

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

type Fault = fn(&mut Machine);

/// What breaks a locked machine, and which rules must say so: all of them, and no other.
const FAULTS: &[(&str, Fault, &[&str])] = &[
    (
        "a protected page in the directmap",
        |m| {
            m.el2(DIRECTMAP, GUEST + 0x3000, 3, RW);
        },
        &["U1"],
    ),
    (
        "a protected page, read-only",
        |m| {
            m.el2(DIRECTMAP, GUEST, 3, R);
        },
        &["U1"],
    ),
    (
        "a protected page, access flag clear",
        |m| {
            m.el2(DIRECTMAP, GUEST, 3, RW & !AF);
        },
        &["U1"],
    ),
    (
        "protected pages inside a 2 MiB block",
        |m| {
            m.el2(DIRECTMAP, GUEST, 2, RW);
        },
        &["U1"],
    ),
    (
        "all memory in a 1 GiB block",
        |m| {
            m.el2(DIRECTMAP + (1 << 30), RAM, 1, RW);
        },
        &["U1", "L1", "L3"],
    ),
    (
        "a protected page, only on another CPU's root",
        |m| {
            let root = m.frames(1);
            m.map(root, 0, TEXT_VA, GUEST, 3, R);
            m.cpu().ttbr0 = Hex(root);
        },
        &["U1", "L5"],
    ),
    (
        "a protected page that the guest has invalidated",
        |m| {
            let entry = m.s2(1, 0x4000_0000, GUEST, 3, S2_RAM);
            m.write(entry, m.read(entry) & !1);
            m.el2(DIRECTMAP, GUEST, 3, RW);
        },
        &["U1"],
    ),
    (
        "a protected page below an invalidated table entry",
        |m| {
            let root = m.registers.domains[1].vttbr.0 & 0xffff_ffff_f000;
            m.write(root + 8, m.read(root + 8) & !1);
            m.el2(DIRECTMAP, GUEST, 3, RW);
        },
        &["U1"],
    ),
    (
        "a protected page in dom0's stage 2",
        |m| {
            m.s2(0, 0, GUEST, 3, S2_RAM);
        },
        &["U2"],
    ),
    (
        "a protected page in dom0's stage 2, invalidated",
        |m| {
            let entry = m.s2(0, 0, GUEST, 3, S2_RAM);
            m.write(entry, m.read(entry) & !1);
        },
        &["U2"],
    ),
    (
        "a protected page in another protected domain's stage 2",
        |m| {
            m.domain(2, true);
            m.s2(2, 0, RAM + (6 << 20), 3, S2_RAM);
            m.s2(2, 0x1000, GUEST, 3, S2_RAM);
        },
        &["U2"],
    ),
    (
        "a CPU with its MMU off",
        |m| m.cpu().sctlr = Hex(SCTLR & !1),
        &["U3", "L5"],
    ),
    (
        "the EL2 root mapped",
        |m| {
            m.el2(DIRECTMAP, m.registers.cpus[0].ttbr0.0, 3, RW);
        },
        &["L1"],
    ),
    (
        "an EL2 level-3 table mapped by itself",
        |m| {
            let entry = m.el2(DIRECTMAP, DOM0, 3, R);
            m.el2(DIRECTMAP + 0x1000, entry & !0xfff, 3, R);
        },
        &["L1"],
    ),
    (
        "the second half of a stage-2 root mapped",
        |m| {
            m.el2(
                DIRECTMAP,
                (m.registers.domains[1].vttbr.0 & 0xffff_ffff_f000) + 0x1000,
                3,
                R,
            );
        },
        &["L1"],
    ),
    (
        "dom0's stage-2 level-3 table mapped",
        |m| {
            let entry = m.s2(0, 0, RAM + (6 << 20), 3, S2_RAM);
            m.el2(DIRECTMAP, entry & !0xfff, 3, R);
        },
        &["L1"],
    ),
    (
        "a writable and executable page without WXN",
        |m| {
            m.registers.cpus[0].sctlr = Hex(SCTLR & !WXN);
            m.el2(DIRECTMAP, RAM + 0x2000, 3, RWX);
        },
        &["L2"],
    ),
    (
        "text with a writable alias",
        |m| {
            m.el2(DIRECTMAP, TEXT, 3, RW);
        },
        &["L3"],
    ),
    (
        "text with a writable alias in a block",
        |m| {
            m.el2(DIRECTMAP, RAM, 2, RW);
        },
        &["L3"],
    ),
    (
        "an executable device",
        |m| {
            m.el2(DIRECTMAP, 0x900_0000, 3, RX);
        },
        &["L3"],
    ),
    (
        "text writable on another CPU's root",
        |m| {
            let root = m.frames(1);
            m.map(root, 0, TEXT_VA, TEXT, 3, RW);
            m.cpu().ttbr0 = Hex(root);
        },
        &["L3", "L5"],
    ),
    (
        "the EL2 root in dom0's stage 2",
        |m| {
            m.s2(0, 0, m.registers.cpus[0].ttbr0.0, 3, S2_RAM);
        },
        &["L4"],
    ),
    (
        "d1's stage-2 root in its own stage 2",
        |m| {
            m.s2(
                1,
                0,
                m.registers.domains[1].vttbr.0 & 0xffff_ffff_f000,
                3,
                S2_RAM,
            );
        },
        &["L4"],
    ),
    (
        "a CPU with other attributes",
        |m| m.cpu().mair = Hex(0),
        &["L5"],
    ),
    (
        "a CPU on an older stage 2",
        |m| {
            let root = m.frames(2);
            m.cpu().vttbr = Hex(root | 7 << 48);
        },
        &["L6"],
    ),
    (
        "a CPU on an older stage 2 that reaches protected memory",
        |m| {
            let root = m.frames(2);
            m.map(root, 1, 0, GUEST, 3, S2_RAM);
            m.cpu().vttbr = Hex(root | 7 << 48);
        },
        &["U2", "L6"],
    ),
    (
        "a page of a domain's table pool mapped",
        |m| {
            let page = m.frames(1);
            m.xen().domains[1].pool = vec![page >> 12];
            m.el2(DIRECTMAP, page, 3, R);
        },
        &["L1"],
    ),
    (
        "a table that the walk does not reach, but Xen lists",
        |m| {
            let page = m.frames(1);
            m.xen().domains[0].tables = vec![page >> 12];
            m.el2(DIRECTMAP, page, 3, R);
        },
        &["L1"],
    ),
    (
        "the empty stage-2 root mapped",
        |m| {
            let page = m.frames(1);
            m.xen().empty_root = Some(page >> 12);
            m.el2(DIRECTMAP, page, 3, R);
        },
        &["L1"],
    ),
    (
        "a static table left from boot",
        |m| {
            let region = Region {
                name: "boot_first".into(),
                va: TEXT_VA + 0x2000,
                size: 0x1000,
            };
            m.xen().tables.push(Placed {
                region,
                pa: RAM + 0x2000,
            });
            m.el2(TEXT_VA + 0x2000, RAM + 0x2000, 3, RW);
        },
        &["L1"],
    ),
    (
        "Xen's data in a guest's stage 2",
        |m| {
            m.s2(0, 0, DATA, 3, S2_RAM);
        },
        &["L4"],
    ),
    (
        "read-only data with a writable alias",
        |m| {
            m.el2(TEXT_VA + 0x1000, DATA, 3, R);
            m.el2(DIRECTMAP, DATA, 3, RW);
        },
        &["L8"],
    ),
    (
        "a contiguous page alone",
        |m| {
            m.el2(DIRECTMAP, RAM + 0x2000, 3, RW | CONTIGUOUS);
        },
        &["L7"],
    ),
    (
        "a reserved encoding",
        |m| {
            let entry = m.el2(DIRECTMAP, RAM + 0x2000, 3, RW);
            m.write(entry, m.read(entry) & !2);
        },
        &["L7"],
    ),
];

#[test]
fn each_fault_is_found_by_its_rules_and_by_no_other() {
    for (what, fault, expected) in FAULTS {
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
fn every_rule_has_a_fault() {
    for rule in RULES {
        assert!(
            FAULTS.iter().any(|(_, _, rules)| rules.contains(&rule.id)),
            "{}",
            rule.id
        );
    }
}

#[test]
fn wxn_saves_a_writable_and_executable_page() {
    let mut machine = Machine::locked();
    machine.el2(DIRECTMAP, RAM + 0x2000, 3, RWX);
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

#[test]
fn shared_pages_may_be_mapped() {
    let mut machine = Machine::locked();
    machine.el2(DIRECTMAP, GUEST + 0x5000, 3, RW);
    machine.s2(0, 0, GUEST + 0x5000, 3, S2_RAM);
    assert_eq!(violated(&machine.check(Level::Lock)), ["U1", "U2"]);
    machine.registers.domains[1].shared_pages = vec![Hex((GUEST >> 12) + 5)];
    let report = machine.check(Level::Lock);
    assert_eq!(report.verdict, Verdict::Holds);
    assert_eq!(report.excluded.len(), 1);
    assert_eq!(report.summary.protected_frames, GUEST_FRAMES as usize - 1);
}

#[test]
fn pages_of_xens_own_may_be_mapped_only_where_xen_names_them() {
    let mut machine = Machine::locked();
    machine.el2(DIRECTMAP, GUEST, 3, RW);
    let page = OwnPage {
        mfn: GUEST >> 12,
        what: "shared info",
    };
    // Named by another domain: no excuse.
    machine.xen().domains[0].own_pages = vec![page.clone()];
    assert_eq!(violated(&machine.check(Level::Lock)), ["U1"]);
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
    machine.xen().xenheap = Some((DOM0 >> 12, (DOM0 >> 12) + 16));
    assert_eq!(violated(&machine.check(Level::Lock)), ["U1"]);
}

#[test]
fn claims_are_compared_with_the_dump() {
    let cases: &[(&str, Fault)] = &[
        ("is in the dump, but not in the registers file", |m| {
            m.xen().domains.push(xen_domain(5, 0))
        }),
        ("is in the registers file, but not in the dump", |m| {
            m.xen().domains.truncate(1)
        }),
        ("the registers file says VTTBR", |m| {
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
