//! `lock` from end to end where there is too little room at first: where memory
//! lies in many pieces.

mod model;

use model::Op;
use model::machine::Sim;
use xen_vmf::policy::Seal;

#[test]
fn what_does_not_fit_is_counted_and_done_at_the_next_rendezvous() {
    let sim = Sim::new(true);
    for frame in (0x58000..0x58800).step_by(2) {
        sim.own(5, frame..frame + 1);
    }
    model::locked::check(&sim, Seal::None);
    let ops = sim.ops();
    let freeze = ops.iter().rposition(|op| *op == Op::Freeze);
    // From when guests were settled for this lock on.
    let since = ops.iter().rposition(|op| *op == Op::FlushGuests);
    let stops = &ops[since.expect("settled")..freeze.expect("frozen")];
    assert_eq!(stops.iter().filter(|op| **op == Op::Stop).count(), 2);
    // Both count as time that the machine stood still: one tick of the model each.
    let stopped = xen_vmf::state::counter(xen_vmf_abi::XENVMF_counter_lock_stopped_ns);
    assert_eq!(stopped, Some(2000));
}
