//! The two policies, region by region: what `lock` retains at which address,
//! and that a table or a protected frame stays nowhere.

mod model;

use model::{FRAMETABLE, FROZEN, GICR, GICR_PAGES, IMAGE, RAM, STATIC, XENHEAP, dm, layout, vaddr};
use xen_vmf::addr::Mfn;
use xen_vmf::extents::{Extent, FrameSet};
use xen_vmf::plan::{Policy, Verdict, Verdict::*};
use xen_vmf::policy::{Lock, Seal, Unmap};

const TABLE: u64 = 0x70000;
const PROTECTED: u64 = 0x52000;
const UNPROTECTED: u64 = 0x50000;
const FREE: u64 = 0x60000;
const DEVICE: u64 = 0x9000;

fn run(start: u64, pages: u64) -> Extent {
    Extent::new(Mfn::new(start), pages)
}

fn with_sets(extents: &mut [Vec<Extent>; 4], test: impl FnOnce(&Lock)) {
    let layout = layout();
    let [a, b, c, d] = extents.each_mut().map(|list| {
        let all = list.clone();
        let mut set = FrameSet::new(list);
        all.iter().for_each(|e| set.push(*e).expect("room"));
        set.normalise();
        set
    });
    test(&Lock {
        layout: &layout,
        tables: &a,
        protected: &b,
        unprotected: &c,
        ram: &d,
        seal: Seal::None,
    });
}

fn lists() -> [Vec<Extent>; 4] {
    [
        vec![run(STATIC, 5), run(TABLE, 8)],
        vec![run(PROTECTED, 0x400)],
        vec![run(UNPROTECTED, 0x400)],
        RAM.to_vec(),
    ]
}

#[test]
fn each_region_retains_its_own_kind_of_frame() {
    let l = layout();
    let image = IMAGE.start.get() + 3;
    let frametable = FRAMETABLE.start.get();
    let heap = XENHEAP.start.get() + 9;
    let gone = [TABLE, STATIC, PROTECTED];
    // Region, then the frames that stay there; all the others go.
    let regions: [(u64, &[u64]); 6] = [
        (l.image.start + 0x3000, &[image, FROZEN]),
        (l.fixmap.start, &[DEVICE]),
        (l.frametable.start, &[frametable]),
        (l.vmap.start, &[DEVICE, heap, UNPROTECTED, FREE, frametable]),
        (l.directmap.start, &[heap, UNPROTECTED]),
        (0x4020_0000, &[]),
    ];
    let frames = [image, FROZEN, frametable, heap, UNPROTECTED, FREE, DEVICE];
    with_sets(&mut lists(), |lock| {
        for (at, stays) in regions {
            for frame in frames {
                let expected = match stays.contains(&frame) {
                    true if frame == FROZEN => ReadOnly,
                    true => Keep,
                    false => Remove,
                };
                let found = lock.verdict(vaddr(at), run(frame, 1));
                assert_eq!(found, expected, "{frame:#x} at {at:#x}");
            }
            for frame in gone {
                let found = lock.verdict(vaddr(at), run(frame, 1));
                // On a page, the planner takes mixed for removed.
                assert!(matches!(found, Remove | Mixed), "{frame:#x} at {at:#x}");
            }
        }
    });
}

#[test]
fn blocks_are_judged_by_all_of_their_frames() {
    let l = layout();
    let cases: [(u64, Extent, Verdict); 8] = [
        (dm(UNPROTECTED), run(UNPROTECTED, 512), Keep),
        (dm(UNPROTECTED + 512), run(UNPROTECTED + 512, 1024), Mixed),
        (dm(PROTECTED), run(PROTECTED, 512), Remove),
        (dm(FREE), run(FREE, 512), Remove),
        (dm(XENHEAP.start.get()), run(XENHEAP.start.get(), 512), Keep),
        (dm(0x40000), run(0x40000, 0x40000), Mixed),
        (l.frametable.start, run(FRAMETABLE.start.get(), 512), Keep),
        (
            l.frametable.start + 0x1000,
            run(FRAMETABLE.start.get(), 1),
            Remove,
        ),
    ];
    with_sets(&mut lists(), |lock| {
        for (at, frames, expected) in cases {
            assert_eq!(lock.verdict(vaddr(at), frames), expected, "{frames:?}");
        }
    });
}

#[test]
fn a_table_in_retained_memory_is_cut_out() {
    let mut sets = lists();
    sets[0].push(run(XENHEAP.start.get() + 100, 1));
    sets[1].push(run(UNPROTECTED + 7, 1));
    with_sets(&mut sets, |lock| {
        for first in [XENHEAP.start.get(), UNPROTECTED] {
            assert_eq!(lock.verdict(vaddr(dm(first)), run(first, 512)), Mixed);
        }
        for frame in [XENHEAP.start.get() + 100, UNPROTECTED + 7] {
            assert_eq!(lock.verdict(vaddr(dm(frame)), run(frame, 1)), Remove);
        }
    });
}

#[test]
fn only_the_windows_are_somebody_else_s() {
    let l = layout();
    with_sets(&mut lists(), |lock| {
        assert!(lock.elsewhere(vaddr(l.windows.start), 1 << 30));
        assert!(lock.elsewhere(vaddr(l.windows.end - 4096), 4096));
        assert!(!lock.elsewhere(vaddr(l.windows.end), 4096));
        // An entry that holds more than the windows is looked into.
        assert!(!lock.elsewhere(vaddr(l.windows.start), 1 << 39));
        assert!(!lock.elsewhere(vaddr(l.vmap.start), 4096));
    });
}

#[test]
fn unmap_touches_the_directmap_and_nothing_else() {
    let mut storage = [run(PROTECTED, 0x400)];
    let all = storage;
    let mut leaving = FrameSet::new(&mut storage);
    leaving.push(all[0]).expect("room");
    leaving.normalise();
    let l = layout();
    let unmap = Unmap {
        layout: &l,
        leaving: &leaving,
    };
    let judge = |first, pages| unmap.verdict(vaddr(dm(first)), run(first, pages));
    assert_eq!(judge(PROTECTED, 512), Remove);
    assert_eq!(judge(PROTECTED + 512, 1024), Mixed);
    assert_eq!(judge(PROTECTED - 512, 512), Keep);
    assert!(!unmap.elsewhere(vaddr(l.directmap.start), 1 << 39));
    assert!(!unmap.elsewhere(vaddr(l.directmap.end - 4096), 4096));
    assert!(unmap.elsewhere(vaddr(l.directmap.end), 4096));
    assert!(unmap.elsewhere(vaddr(l.vmap.start), 4096));
    assert!(unmap.elsewhere(vaddr(0), 1 << 39));
}

/// Xen gives its init sections to the domheap. A domain that got such pages
/// once made the lock refuse, as if it reached Xen's image.
#[test]
fn memory_of_the_boot_time_code_is_not_the_image() {
    let mut layout = layout();
    layout.init_frames = run(IMAGE.start.get() + 4, 2);
    assert_eq!(layout.in_image(&run(IMAGE.start.get() + 3, 1)), 1);
    assert_eq!(layout.in_image(&run(IMAGE.start.get() + 4, 2)), 0);
    assert_eq!(layout.in_image(&layout.image_frames), IMAGE.pages - 2);
}

#[test]
fn what_controls_a_redistributor_is_read_only() {
    let l = layout();
    let cases: [(u64, u64, Verdict); 8] = [
        (0, 1, ReadOnly),
        (0, 16, ReadOnly),
        (16, 16, Keep),
        (31, 1, Keep),
        (32, 32, ReadOnly),
        (15, 2, Mixed),
        (64 + 16, 1, Keep),
        (GICR_PAGES, 16, Keep),
    ];
    with_sets(&mut lists(), |lock| {
        for (first, pages, expected) in cases {
            for at in [l.vmap.start, l.fixmap.start] {
                let found = lock.verdict(vaddr(at), run(GICR + first, pages));
                assert_eq!(found, expected, "{first} {pages}");
            }
        }
    });
}
