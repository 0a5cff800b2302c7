//! `protect` from end to end on a simulated machine: what is gone afterwards,
//! what stays, and that a refusal leaves everything as it was.

mod model;

use model::machine::Sim;
use model::{Op, dm};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use xen_vmf::addr::Mfn;
use xen_vmf::error::Error;
use xen_vmf::fuse;
use xen_vmf::machine::DomainFlags;

fn protected(sim: &Sim) {
    let before = sim.memory.pages();
    let owned = sim.owned(1);
    assert_eq!(fuse::protect(sim, 1), Ok(()));
    for &mfn in &owned {
        assert!(!sim.memory.reaches(mfn), "{mfn:#x} is still mapped");
    }
    let windows = model::layout().windows;
    let mut expected = before;
    expected.retain(|va, (mfn, _)| !owned.contains(mfn) && !windows.contains(*va));
    let mut after = sim.memory.pages();
    after.retain(|va, _| !windows.contains(*va));
    assert!(expected == after, "other mappings changed");
    assert!(
        sim.memory.tlb.borrow().is_empty(),
        "a TLB holds old entries"
    );
    assert!(sim.buffers.borrow().is_empty(), "a list is leaked");
    let live = sim.memory.live();
    assert!(
        sim.spare.borrow().iter().all(|t| live.contains_key(t)),
        "a table is leaked"
    );
    let flags = sim.doms.borrow()[&1].domain.flags;
    assert!(flags.contains(DomainFlags::PROTECTED));
}

#[test]
fn pages_leave_the_windows_without_a_directmap() {
    let sim = Sim::new(false);
    protected(&sim);
    assert!(sim.spare.borrow().is_empty(), "nothing was to be split");
}

#[test]
fn pages_leave_a_full_directmap() {
    let sim = Sim::new(true);
    protected(&sim);
    // The mixed 2 MiB block, the 1 GiB block, and one of its 2 MiB blocks.
    assert_eq!(sim.spare.borrow().len(), 3);
}

#[test]
fn nothing_may_map_a_page_before_the_windows_are_cleared() {
    for all in [false, true] {
        let sim = Sim::new(all);
        fuse::protect(&sim, 1).expect("protected");
        let ops = sim.ops();
        let at = |op| ops.iter().rposition(|&o| o == op).expect("in the log");
        assert!(at(Op::Stop) < at(Op::SetProtected(1)));
        assert!(at(Op::SetProtected(1)) < at(Op::ClearWindows));
        let last = ops.iter().rposition(|o| matches!(o, Op::Write { .. }));
        assert!(last.expect("a write") < at(Op::FlushAll));
        assert!(at(Op::FlushAll) < at(Op::Go));
    }
}

#[test]
fn a_second_domain_can_follow() {
    let sim = Sim::new(true);
    fuse::protect(&sim, 1).expect("protected");
    fuse::protect(&sim, 5).expect("protected");
    for mfn in sim.owned(1).union(&sim.owned(5)) {
        assert!(!sim.memory.reaches(*mfn));
    }
    assert_eq!(fuse::protect(&sim, 5), Err(Error::Done));
}

fn refused(sim: &Sim, id: u16, why: Error) {
    let before = sim.picture();
    assert_eq!(fuse::protect(sim, id), Err(why));
    assert!(before == sim.picture(), "{why:?} has changed something");
    assert!(sim.memory.tlb.borrow().is_empty());
}

#[test]
fn each_obstacle_is_named_and_nothing_changes() {
    for all in [false, true] {
        let sim = Sim::new(all);
        refused(&sim, 2, Error::NoDomain);
        refused(&sim, 0, Error::ControlDomain);
        sim.change(5, |d| d.domain.flags |= DomainFlags::DYING);
        refused(&sim, 5, Error::Dying);
        sim.change(5, |d| d.domain.flags = DomainFlags::STAGE2);
        refused(&sim, 5, Error::Unfinished);
        sim.change(1, |d| d.obstacles.shared_pages = 1);
        refused(&sim, 1, Error::SharedPages);
        sim.change(1, |d| d.obstacles.pv_pages = 1);
        refused(&sim, 1, Error::PvPages);
        sim.change(1, |d| d.obstacles.devices = 1);
        refused(&sim, 1, Error::Devices);
        assert!(
            !sim.ops().contains(&Op::Stop),
            "the CPUs were stopped for it"
        );
    }
}

#[test]
fn an_obstacle_that_comes_up_late_is_seen() {
    for all in [false, true] {
        let sim = Sim::new(all);
        *sim.before_stop.borrow_mut() =
            Some(Box::new(|s| s.change(1, |d| d.obstacles.pv_pages = 1)));
        refused(&sim, 1, Error::PvPages);
    }
}

#[test]
fn no_memory_at_any_allocation() {
    for (all, pieces) in [(false, 0), (true, 0), (false, 400), (true, 400)] {
        let sim = || {
            let sim = Sim::new(all);
            sim.change(1, |d| d.pages.extend((0..pieces).map(|i| 0x58000 + 2 * i)));
            sim
        };
        let whole = sim();
        fuse::protect(&whole, 1).expect("protected");
        let asked = whole.asked.get();
        // One that fails: as much as is needed is tried, or it is said.
        for n in 0..asked {
            let sim = sim();
            sim.fail_at.set(Some(n));
            let before = sim.picture();
            match fuse::protect(&sim, 1) {
                Ok(()) => assert!(sim.owned(1).iter().all(|mfn| !sim.memory.reaches(*mfn))),
                Err(why) => {
                    assert_eq!(why, Error::NoMemory, "allocation {n}");
                    assert!(before == sim.picture(), "allocation {n}");
                }
            }
            assert!(sim.buffers.borrow().is_empty(), "a list is leaked");
        }
        // None from then on: it is said, at every one of them.
        for n in 0..asked {
            let sim = sim();
            sim.fail_from.set(Some(n));
            refused(&sim, 1, Error::NoMemory);
            assert!(sim.buffers.borrow().is_empty(), "a list is leaked");
        }
    }
}

/// At each of the next `stops` rendezvous, domain 1 gets `count` more pages, `step`
/// frames apart.
fn grow(sim: &Sim, stops: u64, step: u64, count: u64) {
    let stop = Cell::new(0);
    *sim.before_stop.borrow_mut() = Some(Box::new(move |s| {
        let before = stop.get();
        stop.set(before + 1);
        if before < stops {
            let more = (before * count..).take(count as usize);
            s.change(1, |d| d.pages.extend(more.map(|i| 0x58000 + i * step)));
        }
    }));
}

#[test]
fn pages_that_come_before_the_rendezvous() {
    // Few fit into the room that there is, and leave as well. More runs, edits
    // or tables than that are counted, and leave at the next one.
    for (step, count, stops) in [(1, 1, [1, 1]), (2, 400, [2, 2]), (512, 12, [1, 2])] {
        for (all, stops) in [false, true].into_iter().zip(stops) {
            let sim = Sim::new(all);
            grow(&sim, 1, step, count);
            fuse::protect(&sim, 1).expect("protected");
            let seen = sim.ops().iter().filter(|op| **op == Op::Stop).count();
            assert_eq!(seen, stops, "{count} pages, directmap {all}");
            assert!((0..count).all(|i| !sim.memory.reaches(0x58000 + i * step)));
            assert!(sim.buffers.borrow().is_empty(), "a list is leaked");
        }
    }
    // If that many come again, somebody does not stand still.
    for (step, count) in [(2, 400), (512, 12)] {
        let sim = Sim::new(true);
        grow(&sim, 2, step, count);
        refused(&sim, 1, Error::Room);
    }
}

#[test]
fn a_page_that_is_still_mapped_stops_xen() {
    // vmap is out of protect's reach: the plan's own check sees it.
    let sim = Sim::new(true);
    let vmap = model::layout().vmap.start + 0x8000;
    sim.memory.map(vmap, 3, model::PAGE | 0x52001 << 12);
    refused(&sim, 1, Error::Unsound);
    // A mapping that appears behind the planner's back: the self-check.
    let sim = Sim::new(false);
    sim.memory.map(dm(0x52001), 3, model::PAGE | 0x52001 << 12);
    let result = catch_unwind(AssertUnwindSafe(|| fuse::protect(&sim, 1)));
    assert!(result.is_err(), "the self-check did not see it");
}

#[test]
fn xenheap_cannot_be_pulled_away() {
    let sim = Sim::new(true);
    let heap = model::XENHEAP.start.get();
    sim.change(1, |d| d.pages.extend(heap..heap + 3));
    refused(&sim, 1, Error::Unsound);
    assert!(sim.memory.reaches(Mfn::new(heap).get()));
}

#[test]
fn a_mapping_that_is_held_is_in_the_way_and_nothing_changes() {
    for all in [false, true] {
        let sim = Sim::new(all);
        sim.window_held.set(true);
        let before = sim.picture();
        assert_eq!(fuse::protect(&sim, 1), Err(Error::Again));
        assert!(before == sim.picture());
        sim.window_held.set(false);
        protected(&sim);
    }
}

#[test]
fn nothing_is_in_the_way_of_a_dom0_that_is_chosen() {
    let sim = Sim::new(true);
    let look = |id| fuse::preflight_domain(&sim, &fuse::domain(&sim, id).expect("domain"));
    sim.change(0, |d| d.obstacles.devices = 7);
    assert_eq!(look(0), Err(Error::ControlDomain));
    sim.change(0, |d| d.domain.flags |= DomainFlags::CHOSEN);
    assert_eq!(look(0), Ok(()));
    // Of any other domain devices stay in the way.
    sim.change(1, |d| d.obstacles.devices = 1);
    assert_eq!(look(1), Err(Error::Devices));
}
