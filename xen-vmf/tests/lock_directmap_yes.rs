//! `lock` from end to end with `directmap=yes`. Being locked is a state of the
//! process, so this has a test binary to itself.

mod model;

use model::locked::lock_and_check;
use model::machine::Sim;
use xen_vmf::error::Error;
use xen_vmf::fuse;

#[test]
fn nothing_forbidden_is_mapped_after_the_lock() {
    let sim = Sim::new(true);
    fuse::protect(&sim, 1).expect("protected");
    // A refusal on the way does not spoil the next attempt.
    sim.freeze_fails.set(true);
    let before = sim.picture();
    let refused = fuse::lock(&sim, &mut |_, _| ());
    assert_eq!(refused.err(), Some(Error::TooManyDomains));
    assert!(before == sim.picture());
    sim.freeze_fails.set(false);
    lock_and_check(&sim);
}
