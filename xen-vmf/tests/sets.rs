//! Sets of frames, the frozen snapshot and the xenheap's size, against naive
//! models.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use xen_vmf::addr::{Gfn, Mfn};
use xen_vmf::descriptor::stage2::P2mType;
use xen_vmf::extents::{Extent, FrameSet, Full};
use xen_vmf::heap;
use xen_vmf::snapshot;
use xen_vmf::stage2::GuestExtent;

const NONE: Extent = Extent::new(Mfn::new(0), 0);

fn extent(start: u64, pages: u64) -> Extent {
    Extent::new(Mfn::new(start), pages)
}

/// Runs of adjacent numbers in a set.
fn runs(frames: &BTreeSet<u64>) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for &frame in frames {
        match out.last_mut() {
            Some(last) if last.end() == frame => last.pages += 1,
            _ => out.push(extent(frame, 1)),
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_frame_set_is_a_set(
        pushes in prop::collection::vec((0..300u64, 0..12u64), 0..60),
        room in 0..40usize,
        middle in 0..60usize,
    ) {
        let mut storage = vec![NONE; room];
        let mut set = FrameSet::new(&mut storage);
        let mut model = BTreeSet::new();
        for (i, &(start, pages)) in pushes.iter().enumerate() {
            let mut more = model.clone();
            more.extend(start..start + pages);
            match set.push(extent(start, pages)) {
                Ok(()) => model = more,
                // It is sorted and merged before it gives up.
                Err(Full) => prop_assert!((runs(&model).len() + 1) * 4 > room * 3, "room is left"),
            }
            if i == middle {
                set.normalise();
            }
        }
        set.normalise();
        prop_assert_eq!(set.extents(), &runs(&model)[..]);
        prop_assert_eq!(set.pages(), model.len() as u64);
        for frame in 0..320 {
            prop_assert_eq!(set.contains(Mfn::new(frame)), model.contains(&frame));
        }
        for (start, pages) in [(0, 320), (17, 40), (100, 1), (200, 0), (310, 500)] {
            let expected = model.range(start..start + pages).count() as u64;
            prop_assert_eq!(set.overlap(&extent(start, pages)), expected);
        }
    }

    #[test]
    fn extents_overlap_as_ranges_do(a in 0..50u64, n in 0..20u64, b in 0..50u64, m in 0..20u64) {
        let left: BTreeSet<u64> = (a..a + n).collect();
        let right: BTreeSet<u64> = (b..b + m).collect();
        let common = left.intersection(&right).count() as u64;
        prop_assert_eq!(extent(a, n).overlap(&extent(b, m)), common);
        prop_assert_eq!(extent(a, n).contains(Mfn::new(b)), left.contains(&b));
    }

    #[test]
    fn a_snapshot_answers_as_the_list_of_leaves_does(
        leaves in prop::collection::vec((0..3u64, 1..40u64, any::<bool>(), any::<bool>()), 0..40),
        room in 0..48usize,
    ) {
        let nothing = GuestExtent {
            gfn: Gfn::new(0), mfn: Mfn::new(0), pages: 0, p2m_type: P2mType::Invalid,
        };
        let mut storage = vec![nothing; room];
        let (mut len, mut full) = (0, false);
        let mut model: BTreeMap<u64, (u64, P2mType)> = BTreeMap::new();
        let (mut gfn, mut mfn) = (5, 1000);
        for (gap, pages, read_only, jump) in leaves {
            gfn += gap;
            mfn += gap + u64::from(jump) * 512;
            let p2m_type = if read_only { P2mType::RamRo } else { P2mType::RamRw };
            let leaf = GuestExtent { gfn: Gfn::new(gfn), mfn: Mfn::new(mfn), pages, p2m_type };
            match snapshot::append(&mut storage, len, leaf) {
                Some(n) => {
                    len = n;
                    model.extend((0..pages).map(|i| (gfn + i, (mfn + i, p2m_type))));
                }
                None => full = true,
            }
            if full {
                prop_assert_eq!(len, room);
                break;
            }
            gfn += pages;
            mfn += pages;
        }
        let extents = &storage[..len];
        for pair in extents.windows(2) {
            let joins = pair[0].gfn.get() + pair[0].pages == pair[1].gfn.get()
                && pair[0].mfn.get() + pair[0].pages == pair[1].mfn.get()
                && pair[0].p2m_type == pair[1].p2m_type;
            prop_assert!(!joins, "not merged");
        }
        for wanted in 0..gfn + 10 {
            let answer = snapshot::lookup(extents, Gfn::new(wanted));
            let entry = model.get(&wanted).copied();
            prop_assert_eq!(answer.mfn.map(Mfn::get), entry.map(|e| e.0));
            prop_assert_eq!(answer.p2m_type, entry.map_or(P2mType::Invalid, |e| e.1));
            // Everything in the run has the same answer; the next larger run
            // reaches out of the extent or the hole, or is too large.
            let same = |order: u32| {
                let first = wanted >> order << order;
                (first..first + (1 << order)).all(|g| {
                    let found = model.get(&g).copied();
                    let shifted = entry.map(|(m, t)| ((m + g).wrapping_sub(wanted), t));
                    found == shifted
                })
            };
            prop_assert!(answer.order <= 18 && same(answer.order));
            if answer.order < 10 {
                prop_assert!(!same(answer.order + 1), "{wanted}: {answer:?}");
            }
        }
    }

    #[test]
    fn the_xenheap_has_its_size(ram in 0..1u64 << 42, megabytes in 0..5000u64) {
        let bytes = heap::xenheap_bytes(ram, megabytes);
        prop_assert_eq!(bytes % (2 << 20), 0);
        let wanted = if megabytes != 0 { megabytes << 20 } else { (ram / 64).clamp(32 << 20, 1 << 30) };
        prop_assert!(wanted <= bytes && bytes < wanted + (2 << 20));
        prop_assert_eq!(heap::xenheap_pages(ram, megabytes), bytes / 4096);
    }
}

#[test]
fn an_empty_set_has_nothing() {
    let mut set = FrameSet::new(&mut []);
    assert_eq!(set.push(NONE), Ok(()));
    assert_eq!(set.push(extent(1, 1)), Err(Full));
    set.normalise();
    assert_eq!(set.pages(), 0);
    assert!(!set.contains(Mfn::new(0)));
}

/// Two runs that grow in turn, beside pages that nothing is next to: each merge
/// would make room for two or three more.
#[test]
fn what_hardly_merges_is_full_and_not_sorted_for_each_page() {
    let mut storage = vec![NONE; 256];
    let mut set = FrameSet::new(&mut storage);
    (0..240).for_each(|i| set.push(extent(2 * i, 1)).expect("room"));
    let pushed =
        (0..10_000u64).take_while(|i| set.push(extent((0x10000 << (i % 2)) | (i / 2), 1)).is_ok());
    assert_eq!(pushed.count(), 16);
    // Two runs alone do: they are merged some fifty times.
    set.clear();
    (0..10_000u64).for_each(|i| {
        set.push(extent((0x10000 << (i % 2)) | (i / 2), 1))
            .expect("room")
    });
    set.normalise();
    assert_eq!(
        set.extents(),
        [extent(0x10000, 5000), extent(0x20000, 5000)]
    );
}

#[test]
fn the_end_of_the_number_space() {
    let last = extent(u64::MAX - 1, 5);
    assert_eq!(last.end(), u64::MAX);
    assert!(last.contains(Mfn::new(u64::MAX - 1)));
    let answer = snapshot::lookup(&[], Gfn::new(u64::MAX));
    assert_eq!((answer.mfn, answer.p2m_type), (None, P2mType::Invalid));
    assert_eq!(heap::xenheap_bytes(0, u64::MAX) % (2 << 20), 0);
}
