//! The plan: which entries of Xen's stage 1 change, as data.
//!
//! A [`Policy`] judges one leaf at a time by the frames behind it. The planner
//! walks the tables and turns verdicts into [`Edit`]s; blocks with a mixed
//! verdict get a new table that already has its final content. Nothing live
//! is written: new tables are not linked, and the edits are carried out later
//! by [`crate::commit`].
//!
//! The same code runs twice. First with a [`Count`], to learn how much room
//! and how many tables are needed; then, with all CPUs stopped, with a
//! [`Record`] that has them. If the tables have changed in between so that
//! the room does not suffice, the second run fails and nothing has happened.
//!
//! [`verify`] then looks at the tables as the edits would leave them, with
//! none of the policy's code, and fails if a frame of a table or of a
//! protected domain would still be mapped.

use crate::addr::{ENTRIES, Mfn, Vaddr, level_bytes, level_pages};
use crate::descriptor::stage1::{CONTIGUOUS_ENTRIES, Stage1};
use crate::extents::{Extent, FrameSet};
use crate::walk::{self, Item, Tables, TablesMut};

/// What is to become of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays, read-only.
    ReadOnly,
    /// It goes.
    Remove,
    /// Parts of it stay: a block has to be split.
    Mixed,
}

/// Judges leaves.
pub trait Policy {
    /// The verdict on the leaf that maps `frames` at `va`.
    fn verdict(&self, va: Vaddr, frames: Extent) -> Verdict;

    /// Whether the planner leaves the addresses from `va` on, `bytes` of
    /// them, to somebody else.
    fn elsewhere(&self, va: Vaddr, bytes: u64) -> bool;
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// More edits than there is room for.
    TooManyEdits,
    /// More tables needed than there are.
    TooFewTables,
    /// A leaf that would stay maps a frame that must not be mapped.
    Unsound(Mfn),
}

/// One entry that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Edit {
    /// Frame of the table.
    pub table: Mfn,
    /// The entry as it is.
    pub old: Stage1,
    /// The entry as it will be.
    pub new: Stage1,
    /// First address that the entry translates.
    pub va: Vaddr,
    /// Index of the entry.
    pub index: u16,
    /// Level of the entry.
    pub level: u8,
}

/// What a plan would change, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Leaves removed whole, and blocks split (each counts once).
    pub leaves: u64,
    /// Pages that are not mapped any more.
    pub pages: u64,
    /// Blocks split.
    pub splits: u64,
}

/// Takes what the planner finds.
pub trait Sink {
    /// An entry changes.
    fn edit(&mut self, edit: Edit) -> Result<(), Error>;
    /// A table for a split block; its content is undefined.
    fn take_table(&mut self) -> Result<Mfn, Error>;
    /// Content of a table from [`Sink::take_table`].
    fn fill(&mut self, table: Mfn, index: usize, entry: Stage1);
    /// What has been changed so far.
    fn tally(&mut self) -> &mut Tally;
}

/// A sink that only counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Edits needed.
    pub edits: usize,
    /// Tables needed.
    pub tables: usize,
    tally: Tally,
}

impl Sink for Count {
    fn edit(&mut self, _: Edit) -> Result<(), Error> {
        self.edits += 1;
        Ok(())
    }

    fn take_table(&mut self) -> Result<Mfn, Error> {
        self.tables += 1;
        Ok(Mfn::new(0))
    }

    fn fill(&mut self, _: Mfn, _: usize, _: Stage1) {}

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

/// A sink that keeps the plan.
#[derive(Debug)]
pub struct Record<'a, T> {
    tables: &'a T,
    edits: &'a mut [Edit],
    len: usize,
    spare: &'a [Mfn],
    used: usize,
    tally: Tally,
}

impl<'a, T: TablesMut> Record<'a, T> {
    /// A plan that may hold `edits.len()` edits and use the tables in
    /// `spare`, whose content it writes through `tables`.
    pub fn new(tables: &'a T, edits: &'a mut [Edit], spare: &'a [Mfn]) -> Self {
        Self {
            tables,
            edits,
            len: 0,
            spare,
            used: 0,
            tally: Tally::default(),
        }
    }

    /// The edits in the order of addresses, the number of tables used, and
    /// the numbers.
    pub fn finish(self) -> (&'a [Edit], usize, Tally) {
        (&self.edits[..self.len], self.used, self.tally)
    }
}

impl<T: TablesMut> Sink for Record<'_, T> {
    fn edit(&mut self, edit: Edit) -> Result<(), Error> {
        let slot = self.edits.get_mut(self.len).ok_or(Error::TooManyEdits)?;
        *slot = edit;
        self.len += 1;
        Ok(())
    }

    fn take_table(&mut self) -> Result<Mfn, Error> {
        let table = *self.spare.get(self.used).ok_or(Error::TooFewTables)?;
        self.used += 1;
        Ok(table)
    }

    fn fill(&mut self, table: Mfn, index: usize, entry: Stage1) {
        self.tables.write(table, index, entry.bits());
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

/// Plans `policy` for the tables below the level-0 table in `root`.
///
/// `tables` reads the live tables; `sink` must not write any of them.
pub fn plan<T: Tables>(
    tables: &T,
    root: Mfn,
    policy: &impl Policy,
    sink: &mut impl Sink,
) -> Result<(), Error> {
    table(tables, root, 0, Vaddr::new(0), policy, sink)
}

fn table<T: Tables>(
    tables: &T,
    frame: Mfn,
    level: u8,
    base: Vaddr,
    policy: &impl Policy,
    sink: &mut impl Sink,
) -> Result<(), Error> {
    tables.with(frame, |entries| {
        for group in 0..ENTRIES / CONTIGUOUS_ENTRIES {
            let first = group * CONTIGUOUS_ENTRIES;
            let mut verdicts = [Verdict::Keep; CONTIGUOUS_ENTRIES];
            let mut contiguous = false;
            let mut all_keep = true;
            for i in 0..CONTIGUOUS_ENTRIES {
                let entry = Stage1::from_bits(entries[first + i]);
                let va = Vaddr::new(base.get() + (first + i) as u64 * level_bytes(level));
                if !entry.is_valid() || policy.elsewhere(va, level_bytes(level)) {
                    continue;
                }
                if entry.is_table(level) {
                    table(tables, entry.mfn(), level + 1, va, policy, sink)?;
                    continue;
                }
                verdicts[i] = judge(policy, va, entry.mfn(), level);
                contiguous |= entry.is_contiguous();
                all_keep &= verdicts[i] == Verdict::Keep;
            }
            if all_keep {
                continue;
            }
            for (i, verdict) in verdicts.into_iter().enumerate() {
                let old = Stage1::from_bits(entries[first + i]);
                let va = Vaddr::new(base.get() + (first + i) as u64 * level_bytes(level));
                if !old.is_leaf(level) || policy.elsewhere(va, level_bytes(level)) {
                    continue;
                }
                let new = match verdict {
                    // The group falls apart, so every entry of it changes.
                    Verdict::Keep if contiguous => old.without_contiguous(),
                    Verdict::Keep => continue,
                    Verdict::ReadOnly => old.without_contiguous().read_only(),
                    Verdict::Remove => {
                        sink.tally().leaves += 1;
                        sink.tally().pages += level_pages(level);
                        Stage1::INVALID
                    }
                    Verdict::Mixed => {
                        sink.tally().leaves += 1;
                        split(old, level, va, policy, sink)?
                    }
                };
                sink.edit(Edit {
                    table: frame,
                    old,
                    new,
                    va,
                    index: (first + i) as u16,
                    level,
                })?;
            }
        }
        Ok(())
    })
}

/// The verdict on a leaf; a page is never mixed.
fn judge(policy: &impl Policy, va: Vaddr, mfn: Mfn, level: u8) -> Verdict {
    match policy.verdict(va, Extent::new(mfn, level_pages(level))) {
        Verdict::Mixed if level == 3 => Verdict::Remove,
        // Only whole pages become read-only: a block is split first.
        Verdict::ReadOnly if level < 3 => Verdict::Mixed,
        verdict => verdict,
    }
}

/// Builds what a mixed block becomes and returns the entry that points to it.
fn split(
    block: Stage1,
    level: u8,
    base: Vaddr,
    policy: &impl Policy,
    sink: &mut impl Sink,
) -> Result<Stage1, Error> {
    let table = sink.take_table()?;
    let next = level + 1;
    sink.tally().splits += 1;
    for index in 0..ENTRIES {
        let va = Vaddr::new(base.get() + index as u64 * level_bytes(next));
        let mfn = Mfn::new(block.mfn().get() + index as u64 * level_pages(next));
        let leaf = block.narrowed(mfn, next);
        let entry = match judge(policy, va, mfn, next) {
            Verdict::Keep => leaf,
            Verdict::ReadOnly => leaf.read_only(),
            Verdict::Remove => {
                sink.tally().pages += level_pages(next);
                Stage1::INVALID
            }
            Verdict::Mixed => split(leaf, next, va, policy, sink)?,
        };
        sink.fill(table, index, entry);
    }
    Ok(Stage1::table(table))
}

/// The tables as they are after the edits.
struct Edited<'a, T> {
    tables: &'a T,
    edits: &'a [Edit],
}

impl<T: Tables> Tables for Edited<'_, T> {
    fn with<R>(&self, frame: Mfn, look: impl FnOnce(&[u64; ENTRIES]) -> R) -> R {
        self.tables.with(frame, look)
    }
}

impl<T: Tables> Edited<'_, T> {
    /// What entry `index` of the table in `frame` will be. Edits of one table
    /// stand together, in the order of their index.
    fn entry(&self, frame: Mfn, index: usize, bits: u64, hint: &mut usize) -> Stage1 {
        if let Some(edit) = self.edits.get(*hint)
            && edit.table == frame
            && usize::from(edit.index) == index
        {
            *hint += 1;
            return edit.new;
        }
        Stage1::from_bits(bits)
    }

    fn check(&self, frame: Mfn, level: u8, base: Vaddr, rule: &Rule) -> Result<(), Error> {
        let mut hint = self
            .edits
            .iter()
            .position(|e| e.table == frame)
            .unwrap_or(self.edits.len());
        self.with(frame, |entries| {
            for (index, &bits) in entries.iter().enumerate() {
                // A child's edits may stand between those of its parent.
                while let Some(edit) = self.edits.get(hint)
                    && edit.table != frame
                {
                    hint += 1;
                }
                let entry = self.entry(frame, index, bits, &mut hint);
                let va = base.get() + index as u64 * level_bytes(level);
                if rule.except.contains(va) {
                    continue;
                }
                if entry.is_table(level) {
                    self.check(entry.mfn(), level + 1, Vaddr::new(va), rule)?;
                } else if entry.is_leaf(level) {
                    rule.leaf(Item::Leaf {
                        va: Vaddr::new(va),
                        entry,
                        level,
                    })?;
                }
            }
            Ok(())
        })
    }
}

/// A run of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct VaRange {
    /// First address.
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
}

impl VaRange {
    /// Whether `va` lies in it.
    pub const fn contains(&self, va: u64) -> bool {
        self.start <= va && va < self.end
    }
}

/// What must hold after the edits.
#[derive(Debug)]
pub struct Rule<'a> {
    /// Frames that no leaf may map.
    pub forbidden: &'a [&'a FrameSet<'a>],
    /// Addresses that are dealt with elsewhere (the windows).
    pub except: VaRange,
}

impl Rule<'_> {
    fn leaf(&self, leaf: Item) -> Result<(), Error> {
        let frames = leaf.frames();
        if self.forbidden.iter().any(|set| set.overlap(&frames) != 0) {
            return Err(Error::Unsound(frames.start));
        }
        Ok(())
    }
}

/// Checks the tables as `edits` would leave them against `rule`.
pub fn verify<T: Tables>(tables: &T, root: Mfn, edits: &[Edit], rule: &Rule) -> Result<(), Error> {
    Edited { tables, edits }.check(root, 0, Vaddr::new(0), rule)
}

/// Calls `visit` for every table below `root`, the root included.
pub fn each_table<T: Tables, E>(
    tables: &T,
    root: Mfn,
    visit: &mut impl FnMut(Mfn) -> Result<(), E>,
) -> Result<(), E> {
    walk::stage1(tables, root, &mut |item| match item {
        Item::Table { frame, .. } => visit(frame),
        Item::Leaf { .. } => Ok(()),
    })
}
