//! Pages that a protected domain shares on purpose: what holds, what breaks it, and claims that do not fit. Rules L3,
//! L12, L17, L18, and what the claim takes out of U1 and U2.

use crate::Fault;
use crate::common::*;
use vmf_audit::fused::Extent;
use vmf_audit::hex::Hex;
use vmf_audit::registers::GuestRange;
use vmf_audit::report::{Level, Verdict};
use vmf_audit::xen::OwnPage;

const GFN: u64 = GUEST_IPA >> 12;

fn claim(m: &mut Machine, gfn: u64, pages: u64) {
    let gfn = Hex(gfn);
    m.registers.domains[1]
        .shared
        .push(GuestRange { gfn, pages });
}

/// Takes the snapshot into the test's own hands: what d0 has, and this for d1.
fn snapshot(m: &mut Machine, of_d1: Option<Extent>) {
    m.keep_snapshot = true;
    let d0 = Extent {
        gfn: DOM0 >> 12,
        mfn: DOM0 >> 12,
        pages: 512,
        kind: 1,
    };
    let len = u64::from(of_d1.is_some());
    m.fused().snapshot = Ok([Some(d0), of_d1].into_iter().flatten().collect());
    let [first, second, ..] = &mut m.xen().domains[..] else {
        return;
    };
    first.note.as_mut().unwrap().len = 1;
    let second = second.note.as_mut().unwrap();
    (second.first, second.len) = (1, len);
}

/// What breaks a machine of which d1 shares two pages.
pub const FAULTS: &[(&str, Fault, &[&str])] = &[
    (
        "a page that Xen takes to be shared, and nobody claims",
        |m| {
            m.share(5, 2);
            m.registers.domains[1].shared.clear();
        },
        &["U1", "L12", "L18"],
    ),
    (
        "one page more in Xen's list, mapped nowhere",
        |m| {
            m.share(5, 2);
            m.shares()[0].pages += 1;
        },
        &["L12", "L18"],
    ),
    (
        "a shared page that Xen does not know of",
        |m| {
            m.share(5, 2);
            m.shares().clear();
        },
        &["L12", "L18"],
    ),
    (
        "a list of Xen's with another machine frame",
        |m| {
            m.share(5, 2);
            m.shares()[0].mfn += 1;
        },
        &["L12", "L18"],
    ),
    (
        "a shared page in the list and not in the snapshot",
        |m| {
            m.share(5, 1);
            snapshot(m, None);
        },
        &["L12"],
    ),
    (
        "a snapshot with a private page beside the shared one",
        |m| {
            m.share(5, 1);
            let more = Extent {
                pages: 2,
                ..m.shares()[0]
            };
            snapshot(m, Some(more));
        },
        &["L12"],
    ),
    (
        "a shared page that its guest can execute from",
        |m| {
            m.share(5, 2);
            m.s2(1, GUEST_IPA + 0x6000, GUEST + 0x6000, 3, S2_RAM);
        },
        &["L17"],
    ),
    (
        "a shared page that EL2 can execute from, and nobody at EL2 can write",
        |m| {
            m.share(5, 1);
            m.el2(DIRECTMAP + (GUEST - RAM) + 0x5000, GUEST + 0x5000, 3, RX);
        },
        &["L3"],
    ),
    (
        "the private page beside a shared one, mapped",
        |m| {
            m.share(5, 2);
            m.el2(DIRECTMAP + (GUEST - RAM) + 0x7000, GUEST + 0x7000, 3, RW);
        },
        &["U1"],
    ),
    (
        "the private page beside a shared one, in another guest's stage 2",
        |m| {
            m.share(5, 2);
            m.s2(0, 0, GUEST + 0x7000, 3, S2_RAM);
        },
        &["U2"],
    ),
];

/// Two ranges that follow one another, named apart; in Xen's list in no order.
fn sharing() -> Machine {
    let mut machine = Machine::locked();
    machine.share(6, 2);
    machine.share(5, 1);
    machine
}

#[test]
fn what_is_claimed_and_shared_holds_page_by_page() {
    let mut machine = sharing();
    // Another domain may have it by a grant, and nobody need have it mapped at EL2.
    machine.s2(0, 0, GUEST + 0x5000, 3, S2_RAM | 2 << 53);
    machine.s2(
        0,
        0x1000,
        GUEST + 0x6000,
        3,
        (S2_RAM + (7 << 55)) | (2 << 53),
    );
    let entry = machine.el2(DIRECTMAP + (GUEST - RAM) + 0x7000, GUEST + 0x7000, 3, RW);
    machine.write(entry, 0);
    let report = machine.check(Level::Lock);
    assert_eq!(report.verdict, Verdict::Holds, "{report:#?}");
    let pages: Vec<_> = report
        .excluded
        .iter()
        .map(|e| (e.domain, e.gfn.unwrap().0, e.mfn.0, e.why))
        .collect();
    let page = |i| (1, GFN + i, (GUEST >> 12) + i, "shared on purpose");
    assert_eq!(pages, [page(6), page(7), page(5)]);
    let s = &report.summary;
    assert_eq!(s.protected_frames, GUEST_FRAMES as usize - 3);
    assert_eq!((s.shared_frames, s.shared_frames_mapped), (3, 2));
    assert_eq!(
        (s.domains[0].shared_frames, s.domains[1].shared_frames),
        (0, 3)
    );
}

/// Another protected domain has the page by a grant: it is its owner's to share, and no one else's.
#[test]
fn a_grant_to_another_protected_domain_changes_no_owner() {
    let mut machine = sharing();
    machine.domain(2, true);
    machine.s2(2, 0, DOM0 + (3 << 20), 3, S2_RAM);
    let grant = (S2_RAM + (7 << 55)) | (2 << 53);
    machine.s2(2, 0x1000, GUEST + 0x5000, 3, grant);
    let findings = |m: &Machine| {
        let report = m.check(Level::Unmap);
        assert_eq!(report.summary.shared_frames, 3);
        let of_d1 = report.violations.iter().map(|v| (v.rule, v.mfn.unwrap().0));
        of_d1.collect::<Vec<_>>()
    };
    assert_eq!(findings(&machine), []);
    // One that is not shared.
    machine.s2(2, 0x2000, GUEST + 0x8000, 3, grant);
    assert_eq!(findings(&machine), [("U2", (GUEST >> 12) + 8)]);
}

#[test]
fn a_difference_names_both_lists() {
    let mut machine = sharing();
    machine.shares().pop();
    let report = machine.check(Level::Lock);
    let what = report.violations.iter().find(|v| v.rule == "L18").unwrap();
    assert_eq!(
        what.what,
        "Xen takes d1 to share gfn 0x40006+0x2 to mfn 0x40406, type 1, claimed is \
         gfn 0x40005+0x3 to mfn 0x40405, type 1"
    );
}

#[test]
fn a_list_that_cannot_be_read_is_a_doubt_and_none_at_all_is_nothing() {
    let mut machine = Machine::locked();
    machine.xen().domains[1].shares = Some(Err("unreadable".into()));
    let report = machine.check(Level::Lock);
    assert_eq!(report.verdict, Verdict::CannotJudge);
    assert!(report.unestablished[0].starts_with("L18: "));
    // Of a domain that is not protected nobody asks.
    let mut machine = Machine::locked();
    machine.xen().domains[0].shares = Some(Err("unreadable".into()));
    assert_eq!(machine.check(Level::Lock).verdict, Verdict::Holds);
    // A Xen without lists, and a claim.
    let mut machine = Machine::locked();
    machine.share(5, 1);
    snapshot(&mut machine, None);
    machine.xen().domains[1].shares = None;
    assert_eq!(violated(&machine.check(Level::Lock)), ["L12", "L18"]);
}

/// As long as nothing is locked, Xen's list and the snapshot are nobody's business, the claim is.
#[test]
fn shared_pages_may_be_mapped_at_the_lower_level() {
    let mut machine = sharing();
    assert_eq!(machine.check(Level::Unmap).verdict, Verdict::Holds);
    machine.shares().clear();
    assert_eq!(machine.check(Level::Unmap).verdict, Verdict::Holds);
    machine.registers.domains[1].shared.pop();
    assert_eq!(violated(&machine.check(Level::Unmap)), ["U1"]);
}

/// A claim by machine frame is as good.
#[test]
fn frames_can_be_claimed_as_well() {
    let mut machine = sharing();
    machine.registers.domains[1].shared.clear();
    assert_eq!(violated(&machine.check(Level::Lock)), ["U1", "L12", "L18"]);
    machine.registers.domains[1].shared_pages = (5..8).map(|i| Hex((GUEST >> 12) + i)).collect();
    let report = machine.check(Level::Lock);
    assert_eq!(report.verdict, Verdict::Holds, "{report:#?}");
    assert!(report.excluded.iter().all(|e| e.gfn.is_none()));
    // Claimed twice is claimed.
    claim(&mut machine, GFN + 5, 3);
    assert_eq!(machine.check(Level::Lock).verdict, Verdict::Holds);
}

#[test]
fn a_claim_that_does_not_fit_does_not_pass() {
    let cases: &[(&str, Fault)] = &[
        ("guest frame 0x123 is said", |m| claim(m, 0x123, 1)),
        ("guest frame 0x40010 is said", |m| claim(m, GFN + 14, 3)),
        ("guest frame 0x123 is said", |m| claim(m, 0x123, u64::MAX)),
        ("guest frame 0x40000 is said", |m| claim(m, GFN, 0)),
        ("guest frame 0x40001 is said", |m| {
            // Read-only RAM, which Xen would not take.
            m.s2(1, GUEST_IPA + 0x1000, GUEST + 0x1000, 3, S2_RAM + (1 << 55));
            claim(m, GFN + 1, 1);
        }),
        ("guest frame 0x38000 is said", |m| {
            // A foreign page.
            m.s2(1, 0x3800_0000, DOM0, 3, (S2_RAM + (5 << 55)) | (2 << 53));
            claim(m, 0x38000, 1);
        }),
        ("seen by d1", |m| {
            m.s2(1, 0x3800_0000, SPARE, 3, S2_RAM | 2 << 53);
            let (mfn, what) = (SPARE >> 12, "shared info");
            m.xen().domains[1].own_pages = vec![OwnPage { mfn, what }];
            claim(m, 0x38000, 1);
        }),
        ("Xen's or another's as well", |m| {
            m.s2(1, 0x3800_0000, SPARE, 3, S2_RAM | 2 << 53);
            claim(m, 0x38000, 1);
        }),
        ("stage-2 table of d1", |m| {
            let root = m.registers.domains[1].vttbr.0 & 0xffff_ffff_f000;
            m.s2(1, 0x3800_0000, root, 3, S2_RAM | 2 << 53);
            claim(m, 0x38000, 1);
        }),
        ("EL2 table", |m| {
            let root = m.registers.cpus[0].ttbr0.0;
            m.s2(1, 0x3800_0000, root, 3, S2_RAM | 2 << 53);
            claim(m, 0x38000, 1);
        }),
        ("no memory", |m| {
            m.registers.domains[1].shared_pages = vec![Hex(1)];
        }),
    ];
    for (what, fault) in cases {
        let mut machine = Machine::locked();
        fault(&mut machine);
        let report = machine.check(Level::Lock);
        assert_ne!(report.verdict, Verdict::Holds, "{what}");
        let [doubt] = &report.unestablished[..] else {
            panic!("{what}: {:?}", report.unestablished)
        };
        assert!(doubt.contains(what), "{what}: {doubt}");
        assert!(report.rules.iter().all(|r| !r.holds), "{what}");
        assert!(report.excluded.iter().all(|e| e.why != "shared on purpose"));
    }
}

/// Nobody but a protected domain needs a claim, and none is heard.
#[test]
fn a_claim_for_an_unprotected_domain_changes_nothing() {
    let mut machine = Machine::locked();
    let range = GuestRange {
        gfn: Hex(DOM0 >> 12),
        pages: 1,
    };
    machine.registers.domains[0].shared.push(range);
    let report = machine.check(Level::Lock);
    assert_eq!(report.verdict, Verdict::Holds);
    assert_eq!(report.summary.shared_frames, 0);
}
