//! The grammar of the hostile guest: what it may do, made by chance from a
//! seed, so that the same seed does the same on the same vCPU.
//!
//! * [`random`]: chance; [`place`]: what is known of the guest; [`event`]: an
//!   instruction with its registers and memory;
//! * [`values`], [`tables`], [`hypercalls`]: calls of Xen; [`calls`]: of
//!   firmware; [`registers`], [`accesses`]: other traps;
//! * [`left_out`]: what is not done, and why.

pub mod accesses;
pub mod calls;
pub mod event;
pub mod hypercalls;
pub mod left_out;
pub mod place;
pub mod random;
pub mod registers;
pub mod tables;
pub mod values;

use event::Event;
use place::{Phase, Place};
use random::Random;

/// The event at `index` of a vCPU's phase.
#[must_use]
pub fn event(seed: u64, index: u64, place: &Place) -> Event {
    let phase = match place.phase {
        Phase::Before => 0,
        Phase::After => 1,
    };
    let mut random = Random::of(seed, place.vcpu, phase, index);
    loop {
        let event = match random.below(8) {
            0..4 => hypercalls::hypercall(place, &mut random),
            4 => calls::call(place, &mut random),
            5 => registers::register(place, &mut random),
            _ => accesses::access(place, &mut random),
        };
        if left_out::reason(place, &event).is_none() {
            return event;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::event::{KINDS, Kind};
    use super::place::{Known, Role};
    use super::*;

    pub fn place() -> Place {
        Place {
            role: Role::Guest,
            phase: Phase::After,
            vcpu: 0,
            spare: 2,
            spare_entry: 0x4020_1000,
            arena: 0x41e0_0000,
            page: 0x4100_0000,
            image: 0x7f_c000_0000,
            distributor: 0x300_1000,
            redistributor: 0x302_0000,
            uart: 0x2200_0000,
            sentinel: 1,
            prey: 2,
            known: Known::None,
            outside: false,
        }
    }

    fn control() -> Place {
        Place {
            role: Role::Control,
            ..place()
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_events() {
        for index in 0..2000 {
            assert_eq!(event(7, index, &place()), event(7, index, &place()));
        }
        let differ =
            (0..2000).filter(|&index| event(7, index, &place()) != event(8, index, &place()));
        assert!(differ.count() > 1900);
    }

    #[test]
    fn every_hypercall_and_every_kind_comes() {
        let mut numbers = BTreeSet::new();
        let mut kinds = [0; 4];
        for index in 0..40_000 {
            let event = event(1, index, &place());
            if event.kind == Kind::Hypercall {
                numbers.insert(event.number);
            }
            kinds[KINDS.iter().position(|&kind| kind == event.kind).unwrap()] += 1;
        }
        assert!((0..64).all(|number| numbers.contains(&number)));
        assert!(kinds.iter().all(|&count| count > 2000), "{kinds:?}");
    }

    #[test]
    fn every_rule_leaves_something_out_and_nothing_slips_through() {
        let mut calls = vec![0; left_out::CALLS.len()];
        let mut words = vec![0; left_out::WORDS.len()];
        for index in 0..400_000 {
            let place = Place {
                phase: [Phase::Before, Phase::After][index as usize % 2],
                ..[place(), control()][index as usize / 2 % 2]
            };
            let mut random = Random::of(3, 0, 0, index);
            let candidates = [
                hypercalls::hypercall(&place, &mut random),
                super::calls::call(&place, &mut random),
                registers::register(&place, &mut random),
            ];
            for event in &candidates {
                hypercalls::calls(&place, event, |call| {
                    for (rule, count) in left_out::CALLS.iter().zip(&mut calls) {
                        *count += u32::from(
                            event.kind == Kind::Hypercall && (rule.matches)(&place, event, call),
                        );
                    }
                });
                for (rule, count) in left_out::WORDS.iter().zip(&mut words) {
                    *count += u32::from((rule.matches)(event));
                }
            }
            let event = super::event(3, index, &place);
            assert_eq!(left_out::reason(&place, &event), None);
        }
        for (rule, count) in left_out::CALLS.iter().zip(&calls) {
            assert!(*count > 0, "{} never comes up", rule.what);
        }
        for (rule, count) in left_out::WORDS.iter().zip(&words) {
            assert!(*count > 0, "{} never comes up", rule.what);
        }
    }

    #[test]
    fn frames_are_the_arenas_or_none_of_the_guests() {
        let place = place();
        for index in 0..100_000 {
            let frame = values::frame(&place, &mut Random::of(1, 0, 0, index));
            let arena = place.arena >> 12..(place.arena + place::ARENA) >> 12;
            assert!(arena.contains(&frame) || !(0x4_0000..0x8_0000).contains(&frame));
        }
    }
}
