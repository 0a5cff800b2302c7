//! Runs of leaves that are judged at once, against each page judged by itself:
//! over random layouts, sets and tables, a run never reaches over a page of which
//! something else is true. So for the planner, and so for what checks its plans.

mod model;

use model::{
    BLOCK, BOOT_TEXT, FRAMETABLE, GICR, IMAGE, Memory, PAGE, RAM, SMC_TEXT, XENHEAP, dm, layout,
};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeSet;
use xen_vmf::addr::{Mfn, Vaddr, level_bytes, level_pages};
use xen_vmf::descriptor::stage1::Stage1;
use xen_vmf::extents::{Extent, FrameSet};
use xen_vmf::plan::{self, Count, Edit, Error, Policy, Record, Rule, VaRange, Verdict};
use xen_vmf::policy::{Layout, Lock, Redistributors, Seal, Unmap};

const ROOT: u64 = 1;
/// First frames of the places where something begins or ends.
const PLACES: [u64; 7] = [
    GICR - 8,
    IMAGE.start.get() - 8,
    FRAMETABLE.start.get() - 8,
    XENHEAP.start.get() - 64,
    XENHEAP.end() - 64,
    0x40000 - 64,
    0x50000,
];
/// Frames of one of them.
const PLACE: u64 = 200;

/// A policy that says nothing of what follows a leaf, and counts questions.
struct OneByOne<'a, P> {
    policy: &'a P,
    asked: Cell<u64>,
    runs: bool,
}

impl<'a, P: Policy> OneByOne<'a, P> {
    fn new(policy: &'a P, runs: bool) -> Self {
        Self {
            policy,
            asked: Cell::new(0),
            runs,
        }
    }
}

impl<P: Policy> Policy for OneByOne<'_, P> {
    fn verdict(&self, va: Vaddr, frames: Extent) -> Verdict {
        self.asked.set(self.asked.get() + 1);
        self.policy.verdict(va, frames)
    }

    fn alike(&self, va: Vaddr, mfn: Mfn) -> u64 {
        if self.runs {
            self.policy.alike(va, mfn)
        } else {
            1
        }
    }

    fn elsewhere(&self, va: Vaddr, bytes: u64) -> bool {
        self.policy.elsewhere(va, bytes)
    }
}

/// Where frames lie, and what they are.
#[derive(Clone, Debug)]
struct Scene {
    tables: Vec<Extent>,
    protected: Vec<Extent>,
    unprotected: Vec<Extent>,
    redistributors: Redistributors,
    /// First frame of the image that is not its any more, and their number.
    init: (u64, u64),
    frozen: u64,
    seal: Seal,
}

impl Scene {
    fn layout(&self) -> Layout {
        let mut layout = layout();
        layout.redistributors[0] = self.redistributors;
        layout.init_frames = Extent::new(Mfn::new(IMAGE.start.get() + self.init.0), self.init.1);
        layout.frozen = Mfn::new(IMAGE.start.get() + self.frozen);
        layout
    }

    fn lock<R>(&self, test: impl FnOnce(&Lock) -> R) -> R {
        let layout = self.layout();
        let mut lists = [
            self.tables.clone(),
            self.protected.clone(),
            self.unprotected.clone(),
            RAM.to_vec(),
        ];
        let [tables, protected, unprotected, ram] = lists.each_mut().map(|list| set(list));
        test(&Lock {
            layout: &layout,
            tables: &tables,
            protected: &protected,
            unprotected: &unprotected,
            ram: &ram,
            seal: self.seal,
        })
    }
}

fn set(list: &mut [Extent]) -> FrameSet<'_> {
    let all = list.to_vec();
    let mut set = FrameSet::new(list);
    all.into_iter().for_each(|e| set.push(e).expect("room"));
    set.normalise();
    set
}

fn frame() -> impl Strategy<Value = u64> {
    (prop::sample::select(PLACES.to_vec()), 0..PLACE).prop_map(|(place, at)| place + at)
}

fn frames() -> impl Strategy<Value = Vec<Extent>> {
    let pages = prop_oneof![Just(1u64), 1..40u64, Just(512)];
    let one = (frame(), pages).prop_map(|(frame, pages)| Extent::new(Mfn::new(frame), pages));
    prop::collection::vec(one, 1..12)
}

fn scene() -> impl Strategy<Value = Scene> {
    let strides = prop::sample::select(vec![0, 5, 16, 32, 40, 64]);
    let redistributors = (0..100u64, 0..150u64, strides).prop_map(|(start, pages, stride)| {
        let start = GICR + start;
        Redistributors {
            start,
            pages,
            stride,
        }
    });
    let seal = prop::sample::select(vec![Seal::None, Seal::KeepFirmwareCalls, Seal::Full]);
    // What a seal takes is not freed after boot.
    let sealed = BOOT_TEXT.pages + SMC_TEXT.pages;
    let image = (
        (sealed..IMAGE.pages / 2, 0..IMAGE.pages / 2),
        0..IMAGE.pages,
    );
    let rest = (redistributors, image, seal);
    (frames(), frames(), frames(), rest).prop_map(|(tables, protected, unprotected, rest)| {
        let (redistributors, (init, frozen), seal) = rest;
        Scene {
            tables,
            protected,
            unprotected,
            redistributors,
            init,
            frozen,
            seal,
        }
    })
}

/// Addresses that begin 2 MiB each: of all regions, and of none.
fn addresses() -> Vec<u64> {
    let l = layout();
    let mib = 1 << 20;
    let mut all = vec![0, 2 * mib];
    for start in [
        l.image.start,
        l.fixmap.start,
        l.vmap.start,
        l.frametable.start,
    ] {
        all.extend([start - 2 * mib, start, start + 2 * mib]);
    }
    for frame in PLACES.map(|place| place & !511) {
        all.extend([dm(frame), dm(frame) + 2 * mib]);
    }
    all.extend([l.windows.end - 2 * mib, l.directmap.end - 2 * mib]);
    all.sort_unstable();
    all.dedup();
    all
}

/// Where a region begins or ends; of the image, which is small, more often.
fn border() -> impl Strategy<Value = u64> {
    let l = layout();
    let regions = [
        l.image,
        l.image,
        l.fixmap,
        l.vmap,
        l.frametable,
        l.directmap,
    ];
    let ends = regions.map(|region| [region.start, region.end]).concat();
    prop::sample::select(ends)
}

/// 2 MiB of addresses: a block, or runs of pages.
type Piece = (usize, bool, Vec<(u64, u64)>);

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let run = (frame(), prop_oneof![Just(1u64), 1..100u64, Just(300)]);
    let runs = prop::collection::vec(run, 1..14);
    let piece = (0..addresses().len(), prop::bool::weighted(0.3), runs);
    prop::collection::vec(piece, 1..14)
}

fn tree(pieces: &[Piece]) -> Memory {
    let memory = Memory::new(ROOT, 2);
    let mut free: Vec<_> = addresses().into_iter().map(Some).collect();
    for (at, block, runs) in pieces {
        let Some(va) = free[*at].take() else { continue };
        if *block {
            memory.map(va, 2, BLOCK | (runs[0].0 & !511) << 12);
            continue;
        }
        let all = runs.iter().flat_map(|(first, pages)| *first..first + pages);
        for (page, frame) in all.take(512).enumerate() {
            memory.map(va + ((page as u64) << 12), 3, PAGE | frame << 12);
        }
    }
    memory
}

/// What `policy` changes in `memory`: the edits, and the new tables.
fn planned(memory: &Memory, policy: &impl Policy, spare: &[Mfn]) -> (Vec<Edit>, Vec<u64>) {
    let none = Edit {
        table: Mfn::new(0),
        old: Stage1::INVALID,
        new: Stage1::INVALID,
        va: Vaddr::new(0),
        index: 0,
        level: 0,
    };
    let mut needs = Count::default();
    plan::plan(memory, Mfn::new(ROOT), policy, &mut needs).expect("a count");
    let mut edits = vec![none; needs.edits];
    let mut record = Record::new(memory, &mut edits, spare);
    plan::plan(memory, Mfn::new(ROOT), policy, &mut record).expect("a plan");
    let used = record.finish().1;
    let tables = spare[..used].iter().flat_map(|t| memory.look(t.get()));
    let tables = tables.collect();
    (edits, tables)
}

fn same_plan(memory: &Memory, policy: &impl Policy) -> (u64, u64) {
    let spare: Vec<_> = (0..64).map(|_| Mfn::new(memory.fresh())).collect();
    let single = OneByOne::new(policy, false);
    let expected = planned(memory, &single, &spare);
    let runs = OneByOne::new(policy, true);
    assert!(expected == planned(memory, &runs, &spare), "another plan");
    let ascending = expected.0.windows(2).all(|e| e[0].va < e[1].va);
    assert!(ascending, "edits are not in the order of addresses");
    (single.asked.get(), runs.asked.get())
}

/// What becomes of some leaves: which of a hundred, and the frame that it maps then,
/// if any.
fn changes() -> impl Strategy<Value = Vec<(u64, Option<u64>)>> {
    prop::collection::vec((0..100u64, prop::option::of(frame())), 0..12)
}

fn edits(memory: &Memory, changes: &[(u64, Option<u64>)]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (table, (level, base)) in memory.live() {
        for (index, &bits) in memory.look(table).iter().enumerate() {
            let va = base + index as u64 * level_bytes(level);
            let old = Stage1::from_bits(bits);
            let change = changes.iter().find(|(at, _)| (va >> 12) % 100 == *at);
            let Some((_, to)) = change.filter(|_| old.is_leaf(level)) else {
                continue;
            };
            let new = to.map_or(Stage1::INVALID, |frame| {
                old.narrowed(Mfn::new(frame & !(level_pages(level) - 1)), level)
            });
            edits.push(Edit {
                table: Mfn::new(table),
                old,
                new,
                va: Vaddr::new(va),
                index: index as u16,
                level,
            });
        }
    }
    edits.sort_by_key(|edit| edit.va);
    edits
}

/// Whether an entry of `level`, or a table on the way to it, is somebody else's.
fn skipped(va: u64, level: u8, except: &VaRange) -> bool {
    (0..=level).any(|l| except.contains(va & !(level_bytes(l) - 1)))
}

/// Every frame that is mapped when the edits are done, where it is looked at.
fn left(memory: &Memory, edits: &[Edit], except: &VaRange) -> BTreeSet<u64> {
    let mut left = BTreeSet::new();
    for leaf in memory.leaves() {
        let edit = edits.iter().find(|edit| edit.va.get() == leaf.va);
        let entry = edit.map_or(Stage1::from_bits(leaf.bits), |edit| edit.new);
        if entry.is_valid() && !skipped(leaf.va, leaf.level, except) {
            let first = entry.mfn().get();
            left.extend(first..first + level_pages(leaf.level));
        }
    }
    left
}

/// Frames where a run of adjacent ones begins or ends, or `except` does.
fn corners(memory: &Memory, except: &VaRange) -> Vec<u64> {
    let pages = memory.pages();
    let mut corners = Vec::new();
    for (&va, &(mfn, _)) in &pages {
        let follows = |va: u64, mfn: u64| pages.get(&va).is_some_and(|page| page.0 == mfn);
        let inside = follows(va.wrapping_sub(4096), mfn - 1) && follows(va + 4096, mfn + 1);
        if !inside
            || [except.start, except.end]
                .iter()
                .any(|end| va.abs_diff(*end) <= 4096)
        {
            corners.push(mfn);
        }
    }
    corners
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// What `alike` promises, near where a region begins or ends.
    #[test]
    fn a_verdict_holds_for_any_part_of_its_run(
        scene in scene(),
        places in prop::collection::vec((border(), 0..200u64, frame(), any::<bool>()), 48),
        parts in prop::collection::vec((0..512u64, 1..512u64), 8),
    ) {
        scene.lock(|lock| {
            for (border, page, frame, own) in places {
                let va = border - (100 << 12) + (page << 12);
                // Every other one what belongs there.
                let frame = match lock.layout.frametable.start {
                    start if own && start == border => {
                        (FRAMETABLE.start.get() + page).wrapping_sub(100)
                    }
                    _ => frame,
                };
                let pages = lock.alike(Vaddr::new(va), Mfn::new(frame));
                assert!(pages >= 1);
                let judge = |first: u64, pages| {
                    let frames = Extent::new(Mfn::new(frame + first), pages);
                    lock.verdict(Vaddr::new(va + (first << 12)), frames)
                };
                let said = judge(0, 1);
                for page in 0..pages.min(600) {
                    assert_eq!(judge(page, 1), said, "{va:#x} {frame:#x}: page {page} of {pages}");
                }
                let fitting = parts.iter().filter(|(first, length)| first + length <= pages);
                for &(first, length) in fitting {
                    assert_eq!(judge(first, length), said, "{va:#x} {frame:#x}: {length} from {first}");
                }
            }
        });
    }

    #[test]
    fn the_lock_is_planned_as_page_by_page(scene in scene(), pieces in pieces()) {
        let memory = tree(&pieces);
        scene.lock(|lock| same_plan(&memory, lock));
    }

    #[test]
    fn what_leaves_the_directmap_is_planned_as_page_by_page(
        mut leaving in frames(),
        pieces in pieces(),
    ) {
        let memory = tree(&pieces);
        let unmap = Unmap { layout: &layout(), leaving: &set(&mut leaving) };
        same_plan(&memory, &unmap);
    }

    /// The check of a plan goes by runs of its own: it says what looking at each
    /// page that the edits leave would say.
    #[test]
    fn a_check_sees_what_is_left_page_by_page(
        pieces in pieces(),
        changes in changes(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..30),
        except in (0..addresses().len(), 0..600u64, 1..600u64),
    ) {
        let memory = tree(&pieces);
        let edits = edits(&memory, &changes);
        let start = addresses()[except.0] + (except.1 << 12);
        let except = VaRange { start, end: start + (except.2 << 12) };
        let left = left(&memory, &edits, &except);
        let corners = corners(&memory, &except);
        // An edit below a table in `except` is not come by, and in the way of others.
        let lost = edits.iter().any(|edit| skipped(edit.va.get(), edit.level - 1, &except));
        for forbidden in picks.iter().map(|pick| *pick.get(&corners)) {
            let mut frames = [Extent::new(Mfn::new(forbidden), 1)];
            let rule = Rule { forbidden: &[&set(&mut frames)], except };
            let verdict = plan::verify(&memory, Mfn::new(ROOT), &edits, &rule);
            if lost {
                prop_assert!(verdict.is_err());
            } else if left.contains(&forbidden) {
                prop_assert_eq!(verdict, Err(Error::Unsound(Mfn::new(forbidden))));
            } else {
                prop_assert_eq!(verdict, Ok(()));
            }
        }
    }

    #[test]
    fn a_set_tells_where_it_changes(mut list in frames(), from in frame()) {
        let set = set(&mut list);
        let pages = set.alike(Mfn::new(from));
        let inside = set.contains(Mfn::new(from));
        for frame in from..from.saturating_add(pages.min(2000)) {
            prop_assert_eq!(set.contains(Mfn::new(frame)), inside, "{:#x}", frame);
        }
        if let Some(next) = from.checked_add(pages) {
            prop_assert_eq!(set.contains(Mfn::new(next)), !inside);
        }
    }
}

/// Xen on QEMU's machine: redistributors of 123 CPUs, 32 pages each.
#[test]
fn pages_of_a_device_take_a_few_questions() {
    const CPUS: u64 = 123;
    let mut scene = Scene {
        tables: vec![Extent::new(Mfn::new(0x70000), 1)],
        protected: vec![Extent::new(Mfn::new(0x52000), 1)],
        unprotected: vec![Extent::new(Mfn::new(0x50000), 1)],
        redistributors: Redistributors {
            start: GICR,
            pages: 32 * CPUS,
            stride: 32,
        },
        init: (0, 0),
        frozen: 1,
        seal: Seal::None,
    };
    let memory = Memory::new(ROOT, 2);
    // One page behind the start of a table, as after a guard page.
    let va = layout().vmap.start + (1 << 12);
    for page in 0..32 * CPUS {
        memory.map(va + (page << 12), 3, PAGE | (GICR + page) << 12);
    }
    // Both plans of `planned` ask.
    let (single, runs) = scene.lock(|lock| same_plan(&memory, lock));
    assert_eq!(single, 2 * 32 * CPUS);
    assert_eq!(runs, 2 * 2 * CPUS);
    // Without what controls them, it is one run.
    scene.redistributors.pages = 0;
    let (_, runs) = scene.lock(|lock| same_plan(&memory, lock));
    assert_eq!(runs, 2);
}
