//! What a domain owns, where its stage 2 says less or other than Xen's list: pages
//! leave the directmap all the same, and nobody else's do.

mod model;

use model::machine::{S2_RAM, Sim};
use model::{XENHEAP, dm};
use xen_vmf::error::Error;
use xen_vmf::fuse;

/// A page of domain 1, and the guest frame of the same number.
const PAGE: u64 = 0x52123;
/// A page of domain 0.
const OTHER: u64 = 0x50123;
/// A guest frame where domain 1 has nothing.
const FREE: u64 = 0x7000;

/// Protects domain 1 after `change`: all of its pages could be read and cannot be
/// any more, and domain 0's can.
fn protected_after(change: impl Fn(&Sim)) {
    let sim = Sim::new(true);
    change(&sim);
    let owned = sim.owned(1);
    assert!(owned.iter().all(|&mfn| sim.memory.reaches(mfn)));
    assert_eq!(fuse::protect(&sim, 1), Ok(()));
    for mfn in owned {
        assert!(!sim.memory.reaches(mfn), "{mfn:#x} is still mapped");
    }
    for mfn in sim.owned(0) {
        assert!(sim.memory.readable(dm(mfn)), "{mfn:#x} is gone");
    }
}

/// Maps `mfn` at `gfn` of domain 1; nothing for 0.
fn guest(sim: &Sim, gfn: u64, mfn: u64) {
    let root = sim.doms.borrow()[&1].domain.root;
    let bits = if mfn == 0 { 0 } else { S2_RAM | mfn << 12 };
    sim.map_guest(&root, gfn, 3, bits);
}

#[test]
fn stage_2_lacks_a_page() {
    protected_after(|sim| guest(sim, PAGE, 0));
}

#[test]
fn stage_2_has_a_page_of_another_domain() {
    protected_after(|sim| guest(sim, FREE, OTHER));
}

#[test]
fn stage_2_has_another_page_in_place_of_one() {
    protected_after(|sim| guest(sim, PAGE, OTHER));
}

#[test]
fn stage_2_has_a_page_of_the_xenheap_in_place_of_one() {
    // As a guest does that has its shared info mapped over its own memory.
    protected_after(|sim| guest(sim, PAGE, XENHEAP.start.get() + 7));
}

#[test]
fn stage_2_has_a_page_twice_and_another_not_at_all() {
    protected_after(|sim| {
        guest(sim, PAGE, 0);
        guest(sim, FREE, PAGE + 1);
    });
}

#[test]
fn a_page_that_somebody_refers_to_is_in_the_way() {
    let sim = Sim::new(true);
    for foreign in [OTHER, 0x99_9999] {
        sim.referenced.borrow_mut().insert(foreign);
    }
    sim.referenced.borrow_mut().insert(PAGE);
    assert_eq!(fuse::protect(&sim, 1), Err(Error::SharedPages));
    assert!(sim.memory.readable(dm(PAGE)) && sim.buffers.borrow().is_empty());
    sim.referenced.borrow_mut().remove(&PAGE);
    assert_eq!(fuse::protect(&sim, 1), Ok(()));
    assert!(!sim.memory.readable(dm(PAGE)));
}

#[test]
fn a_page_that_was_given_up_and_is_still_used_is_in_the_way() {
    let sim = Sim::new(true);
    guest(&sim, PAGE, 0);
    sim.given_up.borrow_mut().insert(PAGE);
    assert_eq!(fuse::protect(&sim, 1), Err(Error::SharedPages));
    assert!(sim.memory.readable(dm(PAGE)) && sim.buffers.borrow().is_empty());
    sim.given_up.borrow_mut().remove(&PAGE);
    assert_eq!(fuse::protect(&sim, 1), Ok(()));
    assert!(!sim.memory.readable(dm(PAGE)));
}
