//! The stage-1 walk, the planner and the commit, against a map of pages.
//!
//! Trees of pages, 2 MiB and 1 GiB blocks and contiguous groups are planned
//! for a random policy; what is left is compared page by page with what the
//! policy says. Seeded faults in a plan have to be found by `plan::verify`.

mod model;

use model::{ADDRESS, BLOCK, CONTIGUOUS, Memory, Op, PAGE, READ_ONLY, dm};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use xen_vmf::addr::{Mfn, Vaddr, level_pages};
use xen_vmf::commit::{self, Live};
use xen_vmf::descriptor::stage1::Stage1;
use xen_vmf::extents::{Extent, FrameSet};
use xen_vmf::plan::{self, Count, Edit, Error, Policy, Record, Rule, VaRange, Verdict};
use xen_vmf::walk;

const ROOT: u64 = 1;
/// First frame that the trees map; also where they map it.
const FIRST: u64 = 0x100_000;
/// Frames of one group of 2 MiB blocks.
const GROUP: u64 = 16 * 512;
const NO_EDIT: Edit = Edit {
    table: Mfn::new(0),
    old: Stage1::INVALID,
    new: Stage1::INVALID,
    va: Vaddr::new(0),
    index: 0,
    level: 0,
};

/// Keeps all but `gone`; `frozen` becomes read-only.
#[derive(Debug, Clone)]
struct Rules {
    gone: Vec<Extent>,
    frozen: Vec<Extent>,
}

impl Rules {
    fn new(gone: &[(u64, u64)], frozen: &[u64]) -> Self {
        // Disjoint, so that overlaps add up.
        let mut all = BTreeSet::new();
        for &(start, pages) in gone {
            all.extend(FIRST + start..FIRST + start + pages);
        }
        let one = |f| Extent::new(Mfn::new(f), 1);
        let frozen: BTreeSet<u64> = frozen.iter().map(|f| FIRST + f).collect();
        let frozen = frozen.difference(&all).copied().map(one).collect();
        let mut gone: Vec<Extent> = Vec::new();
        for frame in all {
            match gone.last_mut() {
                Some(last) if last.end() == frame => last.pages += 1,
                _ => gone.push(one(frame)),
            }
        }
        Self { gone, frozen }
    }

    fn overlap(list: &[Extent], frames: &Extent) -> u64 {
        list.iter().map(|e| e.overlap(frames)).sum()
    }

    fn mixed(&self, first: u64, pages: u64) -> bool {
        let frames = Extent::new(Mfn::new(first), pages);
        let gone = Self::overlap(&self.gone, &frames);
        gone != pages && (gone != 0 || Self::overlap(&self.frozen, &frames) != 0)
    }
}

impl Policy for Rules {
    fn verdict(&self, _: Vaddr, frames: Extent) -> Verdict {
        let gone = Self::overlap(&self.gone, &frames);
        let frozen = Self::overlap(&self.frozen, &frames);
        if gone == frames.pages {
            Verdict::Remove
        } else if gone != 0 || (frozen != 0 && frozen != frames.pages) {
            Verdict::Mixed
        } else if frozen != 0 {
            Verdict::ReadOnly
        } else {
            Verdict::Keep
        }
    }

    fn alike(&self, _: Vaddr, mfn: Mfn) -> u64 {
        let all = self.gone.iter().chain(&self.frozen);
        all.map(|e| e.alike(mfn)).fold(u64::MAX, u64::min)
    }

    fn elsewhere(&self, _: Vaddr, _: u64) -> bool {
        false
    }
}

/// Groups of sixteen 2 MiB entries, then perhaps a 1 GiB block.
fn tree(groups: &[u8], giant: bool) -> Memory {
    let memory = Memory::new(ROOT, 2);
    for (i, kind) in groups.iter().enumerate() {
        let first = FIRST + i as u64 * GROUP;
        for block in (first..first + GROUP).step_by(512) {
            match kind % 4 {
                0 => memory.map(dm(block), 2, BLOCK | CONTIGUOUS | block << 12),
                1 => memory.map(dm(block), 2, BLOCK | u64::from(kind & 4) << 5 | block << 12),
                2 if block == first => {
                    for page in block..block + 512 {
                        // The middle is contiguous, some pages are missing.
                        let contiguous = page / 64 % 2 == 1;
                        let bits = PAGE | if contiguous { CONTIGUOUS } else { 0 } | page << 12;
                        if contiguous || page % 5 != 0 {
                            memory.map(dm(page), 3, bits);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    if giant {
        let block = FIRST + level_pages(1);
        memory.map(dm(block), 1, BLOCK | block << 12);
    }
    memory
}

/// Frame and attributes of every page, without the contiguous bit.
fn pages(memory: &Memory) -> BTreeMap<u64, u64> {
    let mut out = BTreeMap::new();
    for leaf in memory.leaves() {
        let bits = leaf.bits & !CONTIGUOUS | 2;
        for i in 0..level_pages(leaf.level) {
            out.insert(leaf.va + (i << 12), bits + (i << 12));
        }
    }
    out
}

fn count(memory: &Memory, rules: &Rules) -> Count {
    let mut count = Count::default();
    plan::plan(memory, Mfn::new(ROOT), rules, &mut count).expect("a count");
    count
}

/// Blocks that have to be split, counted from the frames alone.
fn splits(memory: &Memory, rules: &Rules) -> usize {
    let mut splits = 0;
    for leaf in memory.leaves() {
        let first = (leaf.bits & ADDRESS) >> 12;
        if leaf.level < 3 && rules.mixed(first, level_pages(leaf.level)) {
            splits += 1;
            if leaf.level == 1 {
                let parts = (0..512).map(|i| first + i * 512);
                splits += parts.filter(|&p| rules.mixed(p, 512)).count();
            }
        }
    }
    splits
}

/// Contiguous entries stand in whole groups of adjacent frames.
fn groups_are_whole(memory: &Memory) {
    let bits: BTreeMap<_, _> = memory.leaves().iter().map(|l| (l.va, l.bits)).collect();
    for leaf in memory.leaves().iter().filter(|l| l.bits & CONTIGUOUS != 0) {
        let size = level_pages(leaf.level) << 12;
        let first = leaf.va & !(16 * size - 1);
        for i in 0..16 {
            let other = bits.get(&(first + i * size)).copied().unwrap_or(0);
            let expected = leaf.bits - (leaf.va - first) + i * size;
            assert_eq!(other, expected, "group at {first:#x}");
        }
    }
}

/// Groups, whether there is a 1 GiB block, what goes, what is frozen.
type Scene = (Vec<u8>, bool, Vec<(u64, u64)>, Vec<u64>);

fn strategy() -> impl Strategy<Value = Scene> {
    let frame = prop_oneof![0..6 * GROUP, level_pages(1)..level_pages(1) + 4096];
    let aligned = (0..6 * GROUP / 512, 1..20u64).prop_map(|(f, n)| (f * 512, n * 512));
    let gone = prop_oneof![
        (frame.clone(), 1..1500u64),
        (frame.clone(), Just(1)),
        aligned
    ];
    (
        prop::collection::vec(any::<u8>(), 1..6),
        prop::bool::weighted(0.3),
        prop::collection::vec(gone, 0..6),
        prop::collection::vec(frame, 0..3),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_the_policy_keeps_remains((groups, giant, gone, frozen) in strategy()) {
        let memory = tree(&groups, giant);
        let rules = Rules::new(&gone, &frozen);
        let mut expected = pages(&memory);
        expected.retain(|_, bits| {
            let frame = Mfn::new((*bits & ADDRESS) >> 12);
            if rules.frozen.iter().any(|e| e.contains(frame)) {
                *bits |= READ_ONLY;
            }
            !rules.gone.iter().any(|e| e.contains(frame))
        });
        let needs = count(&memory, &rules);
        prop_assert_eq!(needs.tables, splits(&memory, &rules));

        let spare: Vec<Mfn> = (0..needs.tables).map(|_| Mfn::new(memory.fresh())).collect();
        let mut edits = vec![NO_EDIT; needs.edits];

        // One less of either: nothing has happened.
        let before = memory.leaves();
        if needs.edits > 0 {
            let mut few = Record::new(&memory, &mut edits[1..], &spare);
            let result = plan::plan(&memory, Mfn::new(ROOT), &rules, &mut few);
            prop_assert_eq!(result, Err(Error::TooManyEdits));
        }
        if needs.tables > 0 {
            let mut few = Record::new(&memory, &mut edits, &spare[1..]);
            let result = plan::plan(&memory, Mfn::new(ROOT), &rules, &mut few);
            prop_assert_eq!(result, Err(Error::TooFewTables));
        }
        prop_assert_eq!(&before, &memory.leaves());

        let mut record = Record::new(&memory, &mut edits, &spare);
        plan::plan(&memory, Mfn::new(ROOT), &rules, &mut record).expect("a plan");
        let (edits, used, tally) = record.finish();
        prop_assert_eq!((edits.len(), used), (needs.edits, needs.tables));
        prop_assert_eq!(tally.splits as usize, needs.tables);
        prop_assert_eq!(&before, &memory.leaves(), "planning writes live tables");
        let total = before.iter().map(|l| level_pages(l.level)).sum::<u64>();
        prop_assert_eq!(tally.pages, total - expected.len() as u64);

        memory.ops.borrow_mut().clear();
        commit::commit(&memory, edits);
        prop_assert!(expected == pages(&memory));
        prop_assert!(memory.tlb.borrow().is_empty());
        groups_are_whole(&memory);
        let flushes = memory.ops.borrow().iter().filter(|o| **o == Op::FlushAll).count();
        prop_assert_eq!(flushes, 1, "one flush, however many edits");
        prop_assert_eq!(memory.ops.borrow().last().copied(), Some(Op::Publish));
    }

    #[test]
    fn the_walk_sees_every_table((groups, giant, _, _) in strategy()) {
        let memory = tree(&groups, giant);
        let mut tables = BTreeSet::new();
        walk::each_table(&memory, Mfn::new(ROOT), &mut |frame| {
            assert!(tables.insert(frame.get()), "twice");
            Ok::<(), Infallible>(())
        }).expect("no error");
        prop_assert_eq!(tables, memory.live().into_keys().collect());
    }
}

const NOWHERE: VaRange = VaRange { start: 0, end: 0 };

/// A plan that takes `gone` away, judged by `verify` after `spoil`.
fn judged(gone: (u64, u64), spoil: impl FnOnce(&Memory, &mut Vec<Edit>)) -> Result<(), Error> {
    let memory = tree(&[0, 1, 2], false);
    let rules = Rules::new(&[gone], &[]);
    let needs = count(&memory, &rules);
    let spare: Vec<Mfn> = (0..needs.tables)
        .map(|_| Mfn::new(memory.fresh()))
        .collect();
    let mut edits = vec![NO_EDIT; needs.edits];
    let mut record = Record::new(&memory, &mut edits, &spare);
    plan::plan(&memory, Mfn::new(ROOT), &rules, &mut record).expect("a plan");
    spoil(&memory, &mut edits);
    let mut storage = rules.gone.clone();
    let mut set = FrameSet::new(&mut storage);
    rules.gone.iter().for_each(|e| set.push(*e).expect("room"));
    set.normalise();
    let rule = Rule {
        forbidden: &[&set],
        except: NOWHERE,
    };
    plan::verify(&memory, Mfn::new(ROOT), &edits, &rule)
}

#[test]
fn verify_passes_a_sound_plan() {
    assert_eq!(judged((100, 3 * GROUP - 200), |_, _| ()), Ok(()));
}

#[test]
fn verify_finds_each_dropped_edit() {
    let gone = (0, 2 * GROUP + 512);
    let mut n = 0;
    assert_eq!(judged(gone, |_, edits| n = edits.len()), Ok(()));
    assert!(n > 300);
    for i in 0..n {
        let result = judged(gone, |_, edits| {
            edits.remove(i);
        });
        assert!(
            matches!(result, Err(Error::Unsound(_))),
            "edit {i}: {result:?}"
        );
    }
}

#[test]
fn verify_finds_a_page_that_is_kept_in_a_new_table() {
    let result = judged((5, 1), |memory, edits| {
        let split = edits.iter().find(|e| e.new.is_table(2)).expect("a split");
        memory.put(split.new.mfn().get(), 5, PAGE | (FIRST + 5) << 12);
    });
    assert_eq!(result, Err(Error::Unsound(Mfn::new(FIRST + 5))));
}

#[test]
fn verify_finds_a_split_that_was_undone() {
    let result = judged((5, 1), |_, edits| {
        let split = edits
            .iter_mut()
            .find(|e| e.new.is_table(2))
            .expect("a split");
        split.new = split.old;
    });
    assert_eq!(result, Err(Error::Unsound(Mfn::new(FIRST + 5))));
}

/// `verify` goes through tables and edits once: an edit that it does not come by
/// would be carried out unseen.
#[test]
fn verify_finds_an_edit_that_it_does_not_come_by() {
    let gone = (0, 2 * GROUP + 512);
    let spoilt = |spoil: &dyn Fn(&Memory, &mut Vec<Edit>)| judged(gone, |m, edits| spoil(m, edits));
    let misplaced = |spoil: &dyn Fn(&Memory, &mut Vec<Edit>)| {
        let result = spoilt(spoil);
        assert!(matches!(result, Err(Error::Misplaced(_))), "{result:?}");
    };
    assert_eq!(spoilt(&|_, _| ()), Ok(()));
    // Once more the first, at the end.
    misplaced(&|_, edits| edits.push(edits[0]));
    // The last one, twice in a row: the second could be of any content.
    misplaced(&|_, edits| edits.push(*edits.last().expect("edits")));
    // A table that is not linked.
    misplaced(&|memory, edits| {
        let table = Mfn::new(memory.fresh());
        let last = *edits.last().expect("edits");
        edits.push(Edit { table, ..last });
    });
    // A page where there was none, in its place: none behind it is seen.
    let result = spoilt(&|_, edits| {
        let hole = edits.windows(2).position(|e| {
            e[0].table == e[1].table && e[0].level == 3 && e[1].index == e[0].index + 2
        });
        let at = hole.expect("a missing page");
        let new = Edit {
            index: edits[at].index + 1,
            new: Stage1::from_bits(PAGE | FIRST << 12),
            ..edits[at]
        };
        edits.insert(at + 1, new);
    });
    assert!(matches!(result, Err(Error::Unsound(_))), "{result:?}");
    // Out of order, one of two is not seen, and what it takes away stays.
    let result = spoilt(&|_, edits| edits.swap(3, 4));
    assert!(matches!(result, Err(Error::Unsound(_))), "{result:?}");
}

#[test]
fn the_floor_does_not_open() {
    let block = Stage1::from_bits(BLOCK | FIRST << 12);
    let edit = |old: Stage1, new: Stage1, level| Edit {
        old,
        new,
        va: Vaddr::new(dm(FIRST)),
        level,
        ..NO_EDIT
    };
    let floor = VaRange {
        start: dm(FIRST + 3),
        end: dm(FIRST + 4),
    };
    let refused = |e: Edit| commit::check(&[e], &[floor]).is_err();
    assert!(refused(edit(block, Stage1::INVALID, 2)));
    assert!(refused(edit(block, Stage1::table(Mfn::new(9)), 2)));
    assert!(!refused(edit(block, block.read_only(), 2)));
    assert!(!refused(edit(block, Stage1::INVALID, 3)), "another page");
    let elsewhere = VaRange {
        start: dm(FIRST + 512),
        end: dm(FIRST + 513),
    };
    assert!(commit::check(&[edit(block, Stage1::INVALID, 2)], &[elsewhere]).is_ok());
}

#[test]
#[should_panic(expected = "may be cached")]
fn the_model_catches_a_missing_flush() {
    let memory = tree(&[1], false);
    let table = *memory.live().keys().last().expect("a table");
    memory.write(table, 0, 0);
    memory.publish();
    memory.write(table, 0, PAGE | 0x77 << 12);
}
