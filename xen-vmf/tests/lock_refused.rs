//! `lock` that is refused: each reason, and that nothing has changed. No test
//! in this binary gets the machine locked.

mod model;

use model::machine::{S2_RAM, Sim};
use model::{IMAGE, Op, RAM, STATIC, frames};
use std::cell::Cell;
use xen_vmf::error::Error;
use xen_vmf::fuse;
use xen_vmf::machine::DomainFlags;
use xen_vmf::policy::Seal;

type Race = fn(&Sim);
type Frame<'a> = &'a dyn Fn(&Sim) -> u64;

fn ready(all: bool) -> Sim {
    let sim = Sim::new(all);
    fuse::protect(&sim, 1).expect("protected");
    sim
}

fn refused(sim: &Sim, why: Error) {
    let before = sim.picture();
    let result = fuse::lock(sim, Seal::None, &mut |_, _| ());
    assert_eq!(result.err(), Some(why));
    assert!(before == sim.picture(), "{why:?} has changed something");
    assert!(!xen_vmf::state::locked());
    assert!(!sim.ops().contains(&Op::DestroyWindows));
}

#[test]
fn each_obstacle_is_named() {
    for all in [false, true] {
        refused(&Sim::new(all), Error::Nothing);
        let sim = ready(all);
        sim.iommu.set(true);
        refused(&sim, Error::Iommu);
        sim.iommu.set(false);
        sim.trace_units.set(2);
        refused(&sim, Error::TraceUnits);
        sim.its.set(true);
        refused(&sim, Error::Its);
        sim.offline.set(1);
        refused(&sim, Error::Again);
        sim.its.set(false);
        refused(&sim, Error::Again);
    }
}

/// A protected domain can give Xen areas in pages that it shares. Should one of
/// them not be shared any more, Xen would lose it.
#[test]
fn private_areas_of_a_protected_domain() {
    for all in [false, true] {
        let sim = ready(all);
        sim.change(1, |d| d.obstacles.pv_pages = 1);
        refused(&sim, Error::PvPages);
    }
}

#[test]
fn obstacles_of_the_seal_are_its_own() {
    for all in [false, true] {
        let sim = ready(all);
        sim.needs_firmware.set(true);
        let before = sim.picture();
        let result = fuse::lock(&sim, Seal::Full, &mut |_, _| ());
        assert_eq!(result.err(), Some(Error::NeedsFirmware));
        assert!(before == sim.picture());
        // The others get past it.
        for seal in [Seal::None, Seal::KeepFirmwareCalls] {
            sim.unlike.set(true);
            let result = fuse::lock(&sim, seal, &mut |_, _| ());
            assert_eq!(result.err(), Some(Error::UnlikeCpus));
            assert!(before == sim.picture());
        }
    }
}

#[test]
fn an_obstacle_that_comes_up_late_is_seen() {
    let late: [(Race, Error); 5] = [
        (|s| s.window_held.set(true), Error::Again),
        (|s| s.offline.set(1), Error::Again),
        (|s| s.its.set(true), Error::Its),
        (
            |s| s.change(1, |d| d.domain.flags -= DomainFlags::PROTECTED),
            Error::Nothing,
        ),
        (|s| s.freeze_fails.set(true), Error::TooManyDomains),
    ];
    for all in [false, true] {
        for (race, why) in late {
            let sim = ready(all);
            let undo = sim.doms.borrow()[&1].domain.flags;
            *sim.before_stop.borrow_mut() = Some(Box::new(race));
            let before = sim.picture();
            assert_eq!(
                fuse::lock(&sim, Seal::None, &mut |_, _| ()).err(),
                Some(why)
            );
            sim.change(1, |d| d.domain.flags = undo);
            assert!(before == sim.picture(), "{why:?}");
        }
    }
}

/// Tables that it leaves behind are empty, and where they are no block fits.
#[test]
fn a_lock_that_was_refused_is_in_no_later_ones_way() {
    let sim = ready(false);
    sim.freeze_fails.set(true);
    for frames in [0x58001..0x58200, 0x58000..0x58001] {
        sim.own(5, frames);
        refused(&sim, Error::TooManyDomains);
    }
}

#[test]
fn no_memory_at_any_allocation() {
    for (all, pieces) in [(false, 0), (true, 0), (false, 300), (true, 300)] {
        let sim = || {
            let sim = ready(all);
            (0..pieces).for_each(|i| sim.own(5, 0x58000 + 2 * i..0x58001 + 2 * i));
            sim.freeze_fails.set(true);
            sim.asked.set(0);
            sim
        };
        // One that gets as far as the rendezvous, to count allocations. What a
        // refusal at one of them comes to, in the order of allocations:
        let whole = sim();
        refused(&whole, Error::TooManyDomains);
        let mut results = Vec::new();
        for n in 0..whole.asked.get() {
            let sim = sim();
            sim.fail_at.set(Some(n));
            let before = sim.picture();
            let result = fuse::lock(&sim, Seal::None, &mut |_, _| ());
            results.push(result.expect_err("freezing fails"));
            assert!(before == sim.picture(), "allocation {n}");
            assert!(sim.buffers.borrow().is_empty(), "allocation {n}");
        }
        let first = |why| results.iter().position(|result| *result == why);
        // As much as is needed is tried where the usual is not there.
        assert!(
            results
                .iter()
                .all(|r| [Error::NoMemory, Error::TooManyDomains].contains(r))
        );
        assert!(first(Error::TooManyDomains).is_some() && first(Error::NoMemory).is_some());
        // None of it is there: it is said.
        for n in 0..3 {
            let sim = sim();
            sim.fail_from.set(Some(n));
            refused(&sim, Error::NoMemory);
        }
    }
}

#[test]
fn stray_leaves_are_found_and_counted() {
    let table = |s: &Sim| s.doms.borrow()[&5].domain.root.frame.get();
    let frames: [(&str, Frame); 6] = [
        ("protected", &|_| 0x52001),
        ("image", &|_| IMAGE.start.get() + 2),
        ("static table", &|_| STATIC),
        ("frametable", &|_| model::FRAMETABLE.end() - 1),
        ("stage-2 table", &table),
        ("window table", &|s| s.window_tables[7]),
    ];
    for (what, frame) in frames {
        // Valid or not, early or late.
        for valid in [0, 1] {
            let sim = ready(false);
            assert_eq!(fuse::stray_leaves(&sim), Ok(0));
            let root = sim.doms.borrow()[&5].domain.root;
            let bits = S2_RAM & !1 | valid | frame(&sim) << 12;
            sim.map_guest(&root, 0x30001, 3, bits);
            let found = fuse::stray_leaves(&sim).expect("counted");
            assert!(found >= 1, "{what}");
            refused(&sim, Error::SharedPages);
            assert!(sim.buffers.borrow().is_empty());
        }
    }
    let sim = ready(true);
    *sim.before_stop.borrow_mut() = Some(Box::new(|s| {
        let root = s.doms.borrow()[&0].domain.root;
        s.map_guest(&root, 0x50001, 3, S2_RAM | 0x52001 << 12);
    }));
    let result = fuse::lock(&sim, Seal::None, &mut |_, _| ());
    assert_eq!(result.err(), Some(Error::SharedPages));
    assert!(sim.buffers.borrow().is_empty() && !xen_vmf::state::locked());
}

#[test]
fn an_unknown_stage_2_type_is_not_taken_for_something_else() {
    let sim = ready(false);
    let root = sim.doms.borrow()[&5].domain.root;
    sim.map_guest(&root, 0x30001, 3, 13 << 55 | 3 | 0x54000 << 12);
    refused(&sim, Error::Unsound);
    assert_eq!(fuse::stray_leaves(&sim), Err(Error::Unsound));
}

/// Runs `race` with other frames at each rendezvous: each time with as many as there
/// is no room for.
fn at_each_stop(sim: &Sim, race: fn(&Sim, &mut dyn Iterator<Item = u64>)) {
    let stop = Cell::new(0);
    *sim.before_stop.borrow_mut() = Some(Box::new(move |s| {
        let first = 0x58000 + 0x400 * stop.get();
        stop.set(stop.get() + 1);
        race(s, &mut (first..first + 0x400).step_by(2));
    }));
}

#[test]
fn domains_that_do_not_stand_still() {
    for all in [false, true] {
        let sim = ready(all);
        at_each_stop(&sim, |s, frames| s.change(1, |d| d.pages.extend(frames)));
        sim.memory.ops.borrow_mut().clear();
        refused(&sim, Error::Room);
        let stops = |sim: &Sim| sim.ops().iter().filter(|op| **op == Op::Stop).count();
        assert_eq!(stops(&sim), 2);
        let sim = ready(all);
        at_each_stop(&sim, |s, frames| frames.for_each(|f| s.own(5, f..f + 1)));
        let result = fuse::lock(&sim, Seal::None, &mut |_, _| ());
        assert_eq!(result.err(), Some(Error::Room));
        assert!(sim.buffers.borrow().is_empty());
    }
}

#[test]
fn the_model_has_something_to_lock() {
    // Guards the tests above: before the lock, tables are mapped.
    let sim = ready(true);
    let tables = sim.table_frames();
    assert!(tables.iter().filter(|t| sim.memory.reaches(**t)).count() > 20);
    assert!(frames(&RAM).len() == 0x80000);
}
