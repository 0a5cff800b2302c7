//! Memory that several domains have on purpose: what holds, what breaks it, and claims that do not fit.

use crate::common::*;
use crate::violated;
use vmf_audit::hex::Hex;
use vmf_audit::registers::Common;
use vmf_audit::report::{Level, Verdict};

/// Never executable, of another domain (p2m_map_foreign_rw).
const S2_FOREIGN: u64 = AF | 3 << 6 | 0xf << 2 | 6 << 55 | 2 << 53;
const PLACE: u64 = 0x7000_0000;
/// Two frames that are nobody's RAM.
const REGION: u64 = RAM + (6 << 20);

fn claim(m: &mut Machine, domains: &[u16]) {
    m.registers.common = vec![Common {
        mfn: Hex(REGION >> 12),
        pages: 2,
        domains: domains.to_vec(),
    }];
}

fn map(m: &mut Machine, domain: usize) {
    for page in [0, 0x1000] {
        m.s2(domain, PLACE + page, REGION + page, 3, S2_FOREIGN);
    }
}

/// d1 and d2, both protected, have two frames in common.
fn both_protected() -> Machine {
    let mut m = Machine::locked();
    m.domain(2, true);
    map(&mut m, 1);
    map(&mut m, 2);
    claim(&mut m, &[1, 2]);
    m
}

#[test]
fn between_protected_domains_it_is_protected() {
    let m = both_protected();
    let report = m.check(Level::Unmap);
    assert_eq!(report.verdict, Verdict::Holds, "{report:#?}");
    assert_eq!(report.summary.protected_frames, GUEST_FRAMES as usize + 2);

    let mut mapped = m.clone();
    mapped.el2(DIRECTMAP + (REGION - RAM), REGION, 3, RW);
    assert_eq!(violated(&mapped.check(Level::Unmap)), ["U1"]);

    let mut third = m.clone();
    map(&mut third, 0);
    assert_eq!(violated(&third.check(Level::Unmap)), ["U2"]);

    let mut unclaimed = m;
    unclaimed.registers.common.clear();
    assert_eq!(violated(&unclaimed.check(Level::Unmap)), ["U2"]);
}

/// Xen reaches it through the one that is not.
#[test]
fn with_one_outside_it_may_be_mapped() {
    let mut m = Machine::locked();
    map(&mut m, 0);
    map(&mut m, 1);
    m.el2(DIRECTMAP + (REGION - RAM), REGION, 3, RW);
    assert_eq!(violated(&m.check(Level::Unmap)), ["U1", "U2"]);
    claim(&mut m, &[0, 1]);
    assert_eq!(m.check(Level::Unmap).verdict, Verdict::Holds);
    // Its owner, protected, could execute what Xen writes there.
    m.s2(1, PLACE, REGION, 3, S2_RAM);
    assert!(violated(&m.check(Level::Lock)).contains(&"L17"));
    m.s2(1, PLACE, REGION, 3, S2_RAM | 2 << 53);
    assert!(!violated(&m.check(Level::Lock)).contains(&"L17"));
}

#[test]
fn a_claim_that_does_not_fit_does_not_pass() {
    type Change = fn(&mut Machine);
    let cases: [(&str, Change); 4] = [
        ("no two domains", |m| claim(m, &[1])),
        ("domain 9 has no stage 2", |m| claim(m, &[1, 9])),
        ("does not reach 0x40602", |m| {
            m.registers.common[0].pages = 3
        }),
        ("no frames", |m| m.registers.common[0].pages = 0),
    ];
    for (what, change) in cases {
        let mut m = both_protected();
        change(&mut m);
        let report = m.check(Level::Unmap);
        assert_ne!(report.verdict, Verdict::Holds, "{what}");
        let said = &report.unestablished;
        assert!(
            said.iter().any(|why| why.contains(what)),
            "{what}: {said:?}"
        );
    }
}
