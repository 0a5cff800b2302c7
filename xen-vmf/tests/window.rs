//! The on-demand window against a model: random maps and unmaps on hardware
//! whose TLBs keep every entry until it is flushed.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use xen_vmf::addr::{Mfn, PAGE_SIZE, Vaddr};
use xen_vmf::descriptor::stage1::Stage1;
use xen_vmf::window::{Hardware, REGION_PAGES, REGIONS, Refusal, TABLES, WINDOW_BYTES, Window};

const BASE: Vaddr = Vaddr::new(0x20_8000_0000);
/// RAM ends here.
const END: u64 = 0x40_0000;

/// Entries and the translations that TLBs hold, by slot.
#[derive(Default)]
struct Fake {
    entries: BTreeMap<usize, u64>,
    cached: BTreeMap<usize, u64>,
    forbidden: BTreeSet<u64>,
    flushes: Vec<(u64, u64)>,
    unpublished: bool,
}

impl Fake {
    fn slot(va: Vaddr) -> usize {
        ((va.get() - BASE.get()) / PAGE_SIZE) as usize
    }

    /// What a CPU reads at `va`: from its TLB if it can.
    fn translate(&mut self, va: Vaddr) -> Option<Mfn> {
        assert!(!self.unpublished, "used before it is published");
        let slot = Self::slot(va);
        let now = self.entries.get(&slot).copied().unwrap_or(0);
        let seen = self.cached.get(&slot).copied().unwrap_or(now);
        (seen & 1 != 0).then(|| Stage1::from_bits(seen).mfn())
    }
}

impl Hardware for Fake {
    fn read(&self, base: Vaddr, slot: usize) -> Stage1 {
        assert_eq!(base, BASE);
        Stage1::from_bits(self.entries.get(&slot).copied().unwrap_or(0))
    }

    fn write(&mut self, base: Vaddr, slot: usize, entry: Stage1) {
        assert_eq!(base, BASE);
        assert!(slot < REGIONS * REGION_PAGES as usize, "a system slot");
        if entry.is_valid() {
            assert!(!self.forbidden.contains(&entry.mfn().get()), "forbidden");
            assert!(entry.mfn().get() < END, "not RAM");
            assert!(entry.is_execute_never());
            let held = self.cached.get(&slot);
            assert_eq!(held, None, "slot {slot} is used before it is flushed");
            // Other PEs cache it at once.
            self.cached.insert(slot, entry.bits());
            self.unpublished = true;
        }
        self.entries.insert(slot, entry.bits());
    }

    fn publish(&mut self) {
        self.unpublished = false;
    }

    fn flush(&mut self, start: Vaddr, bytes: u64) {
        let first = Self::slot(start);
        for slot in first..first + (bytes / PAGE_SIZE) as usize {
            let now = self.entries.get(&slot).copied().unwrap_or(0);
            assert_eq!(now, 0, "flushed before it is removed");
            self.cached.remove(&slot);
        }
        self.flushes.push((start.get(), bytes));
    }

    fn may_map(&self, mfn: Mfn) -> bool {
        mfn.get() < END && !self.forbidden.contains(&mfn.get())
    }
}

fn window() -> Window {
    Window::new(BASE, [Mfn::new(1); TABLES])
}

#[derive(Clone, Debug)]
enum Action {
    Map(u64),
    Unmap(prop::sample::Index),
    Allow(prop::sample::Index),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    // Few runs of frames that share places of the hash, and many others.
    let frame = prop_oneof![
        (0..40u64, 0..16u64).prop_map(|(run, page)| run * 128 * 16 + page),
        0..END + 64,
        0..2048u64,
    ];
    let action = prop_oneof![
        4 => frame.prop_map(Action::Map),
        3 => any::<prop::sample::Index>().prop_map(Action::Unmap),
        1 => any::<prop::sample::Index>().prop_map(Action::Allow),
    ];
    prop::collection::vec(action, 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn addresses_always_translate_to_their_frame(actions in actions()) {
        let window = window();
        let mut hw = Fake { forbidden: (0..2048).step_by(5).collect(), ..Fake::default() };
        let mut held: Vec<(Vaddr, u64)> = Vec::new();
        for action in actions {
            match action {
                Action::Map(frame) => {
                    let users: BTreeSet<u64> = held.iter().map(|(_, f)| f / REGION_PAGES).collect();
                    let flushes = hw.flushes.len();
                    let mfn = Mfn::new(frame);
                    match window.find(mfn).map_or_else(|| window.map(&mut hw, mfn), Ok) {
                        Ok(va) => {
                            prop_assert!(hw.may_map(Mfn::new(frame)));
                            held.push((va, frame));
                        }
                        Err(Refusal::Forbidden) => prop_assert!(!hw.may_map(Mfn::new(frame))),
                        Err(Refusal::Full) => prop_assert_eq!(users.len(), REGIONS),
                    }
                    prop_assert!(hw.flushes.len() <= flushes + 1);
                }
                Action::Unmap(index) if !held.is_empty() => {
                    let (va, _) = held.swap_remove(index.index(held.len()));
                    let flushes = hw.flushes.len();
                    prop_assert!(window.unmap(va));
                    prop_assert_eq!(hw.flushes.len(), flushes, "unmap flushes");
                }
                Action::Allow(index) if !hw.forbidden.is_empty() => {
                    let all: Vec<u64> = hw.forbidden.iter().copied().collect();
                    hw.forbidden.remove(&all[index.index(all.len())]);
                }
                _ => {}
            }
            for &(va, frame) in &held {
                prop_assert_eq!(hw.translate(va), Some(Mfn::new(frame)));
                prop_assert_eq!(window.frame(va), Some(Mfn::new(frame)));
            }
            prop_assert_eq!(window.is_idle(), held.is_empty());
        }
        prop_assert_eq!(window.tlbi(), hw.flushes.len() as u64);
        for (start, bytes) in hw.flushes {
            prop_assert_eq!(bytes, REGION_PAGES * PAGE_SIZE);
            prop_assert_eq!((start - BASE.get()) % bytes, 0);
        }
        for (va, _) in held {
            prop_assert!(window.unmap(va));
        }
        prop_assert!(window.is_idle());
    }
}

#[test]
fn a_hit_costs_nothing() {
    let (window, mut hw) = (window(), Fake::default());
    let first = window.map(&mut hw, Mfn::new(160)).expect("mapped");
    window.unmap(first);
    let entries = hw.entries.clone();
    for _ in 0..3 {
        let again = window.find(Mfn::new(163)).expect("found");
        assert_eq!(again.get(), first.get() + 3 * PAGE_SIZE);
        assert!(window.unmap(again));
    }
    assert_eq!(window.find(Mfn::new(176)), None);
    assert!(window.is_idle(), "a miss leaves no user behind");
    assert!(entries == hw.entries && hw.flushes.is_empty());
}

#[test]
fn a_run_with_gaps_is_not_found_at_once() {
    let (window, mut hw) = (window(), Fake::default());
    hw.forbidden.insert(165);
    let va = window.map(&mut hw, Mfn::new(160)).expect("mapped");
    for frame in [160, 165] {
        assert_eq!(window.find(Mfn::new(frame)), None);
    }
    assert_eq!(window.map(&mut hw, Mfn::new(165)), Err(Refusal::Forbidden));
    assert!(window.unmap(va) && window.is_idle());
}

#[test]
fn it_is_full_when_every_region_is_in_use_and_not_before() {
    let (window, mut hw) = (window(), Fake::default());
    // All of the same place of the hash.
    let frame = |i: usize| Mfn::new(((i as u64) << 14) * REGION_PAGES % END + i as u64 * 16);
    let mut held = Vec::new();
    for i in 0..REGIONS {
        held.push(window.map(&mut hw, frame(i)).expect("room"));
    }
    let other = Mfn::new(END - 1);
    assert_eq!(window.map(&mut hw, other), Err(Refusal::Full));
    assert!(hw.flushes.is_empty(), "nothing was to be evicted");
    window.unmap(held[77]);
    let va = window.map(&mut hw, other).expect("room");
    assert_eq!(hw.flushes.len(), 1);
    assert_eq!(hw.translate(va), Some(other));
}

#[test]
fn wrong_addresses_are_refused() {
    let (window, mut hw) = (window(), Fake::default());
    let va = window.map(&mut hw, Mfn::new(5)).expect("mapped");
    let system = BASE.get() + Window::system_slot(0) as u64 * PAGE_SIZE;
    for wrong in [0, BASE.get() - 1, BASE.get() + WINDOW_BYTES, system] {
        assert!(!window.unmap(Vaddr::new(wrong)));
        assert_eq!(window.frame(Vaddr::new(wrong)), None);
    }
    assert!(window.unmap(va) && !window.unmap(va));
    assert_eq!(window.frame(va), None);
}
