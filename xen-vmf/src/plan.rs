//! The plan: which entries of Xen's stage 1 change, as data.
//!
//! A [`Policy`] judges leaves by the frames behind them, and says how far the
//! same is true of those that follow: thousands of pages of a device take a few
//! questions. The planner walks the tables and turns verdicts into [`Edit`]s;
//! blocks with a mixed verdict get a new table that already has its final content.
//! Nothing live is written: new tables are not linked, and the edits are carried
//! out later by [`crate::commit`].
//!
//! With all CPUs stopped it runs with a [`Record`], which has so much room and so
//! many tables. If they do not suffice it fails and nothing has happened; then the
//! same code runs with a [`Count`], to learn how many are needed.
//!
//! [`verify`] then looks at the tables as the edits would leave them, with
//! none of the policy's code and none of its runs, and fails if a frame of a
//! table or of a protected domain would still be mapped, or if an edit is not of
//! an entry that it comes by.

use crate::addr::{ENTRIES, Mfn, PAGE_SIZE, Vaddr, level_bytes, level_pages};
use crate::descriptor::stage1::{CONTIGUOUS_ENTRIES, Stage1};
use crate::extents::{Extent, FrameSet};
use crate::walk::{Tables, TablesMut, empty};

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

    /// Where the addresses from `va` on map `mfn` and the frames behind it, one
    /// after the other: for how many pages [`Policy::verdict`] is the same on any
    /// part of them, be it one page or all. At least 1; less than is true is
    /// allowed, more is not.
    fn alike(&self, va: Vaddr, mfn: Mfn) -> u64;

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
    /// An edit is not of an entry in use, or not in the order of addresses. The
    /// frame is that of its table.
    Misplaced(Mfn),
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
/// `tables` reads the live tables; `sink` must not write any of them. Edits come
/// in the order of addresses.
pub fn plan<T: Tables>(
    tables: &T,
    root: Mfn,
    policy: &impl Policy,
    sink: &mut impl Sink,
) -> Result<(), Error> {
    table(tables, Place::root(root), &mut Judge::new(policy), sink)
}

/// A policy, and the run that it has judged last.
struct Judge<'a, P> {
    policy: &'a P,
    /// The verdict on any part of the run.
    verdict: Verdict,
    /// Its addresses; none where nothing is known but of the leaf before.
    run: VaRange,
    /// From its machine addresses to its addresses.
    offset: u64,
}

impl<'a, P: Policy> Judge<'a, P> {
    fn new(policy: &'a P) -> Self {
        Self {
            policy,
            verdict: Verdict::Keep,
            run: VaRange { start: 0, end: 0 },
            offset: 0,
        }
    }

    /// The verdict on a leaf, of which `more` follow for adjacent frames; a page is
    /// never mixed.
    #[inline(always)]
    fn leaf(&mut self, va: Vaddr, mfn: Mfn, level: u8, more: bool) -> Verdict {
        let offset = va.get().wrapping_sub(mfn.maddr());
        let inside = self.run.start <= va.get() && va.get() + level_bytes(level) <= self.run.end;
        if offset != self.offset || !inside {
            self.ask(va, mfn, level, more);
        }
        match self.verdict {
            Verdict::Mixed if level == 3 => Verdict::Remove,
            // Only whole pages become read-only: a block is split first.
            Verdict::ReadOnly if level < 3 => Verdict::Mixed,
            verdict => verdict,
        }
    }

    /// How many of `leaves` of adjacent frames from `va` on have the verdict that
    /// the first one was given right now.
    #[inline(always)]
    fn reach(&self, va: Vaddr, level: u8, leaves: usize) -> usize {
        if leaves == 1 {
            return 1;
        }
        let bytes = self.run.end - va.get();
        leaves.min((bytes / level_bytes(level)) as usize)
    }

    #[inline(never)]
    fn ask(&mut self, va: Vaddr, mfn: Mfn, level: u8, more: bool) {
        let pages = level_pages(level);
        self.verdict = self.policy.verdict(va, Extent::new(mfn, pages));
        self.offset = va.get().wrapping_sub(mfn.maddr());
        // Most leaves that stand alone have nothing alike behind them.
        let alike = if more { self.policy.alike(va, mfn) } else { 0 };
        self.run = if alike >= pages {
            let bytes = alike.saturating_mul(PAGE_SIZE);
            VaRange {
                start: va.get(),
                end: va.get().saturating_add(bytes),
            }
        } else {
            // Parts of a block may be judged otherwise than all of it.
            let end = va.get() + level_bytes(level);
            VaRange { start: end, end }
        };
    }
}

/// A table, and where in the address space it is.
#[derive(Clone, Copy)]
struct Place {
    frame: Mfn,
    level: u8,
    base: Vaddr,
}

impl Place {
    /// The level-0 table.
    fn root(frame: Mfn) -> Self {
        Self {
            frame,
            level: 0,
            base: Vaddr::new(0),
        }
    }

    /// First address of an entry.
    fn address(&self, index: usize) -> Vaddr {
        Vaddr::new(self.base.get() + index as u64 * level_bytes(self.level))
    }
}

fn table<T: Tables>(
    tables: &T,
    place: Place,
    judge: &mut Judge<impl Policy>,
    sink: &mut impl Sink,
) -> Result<(), Error> {
    tables.with(place.frame, move |content| {
        entries(tables, place, content, judge, sink)
    })
}

fn entries<T: Tables>(
    tables: &T,
    place: Place,
    entries: &[u64; ENTRIES],
    judge: &mut Judge<impl Policy>,
    sink: &mut impl Sink,
) -> Result<(), Error> {
    let (level, bytes) = (place.level, level_bytes(place.level));
    let (groups, _) = entries.as_chunks::<CONTIGUOUS_ENTRIES>();
    for (group, entries) in groups.iter().enumerate() {
        if empty(entries) {
            continue;
        }
        let first = group * CONTIGUOUS_ENTRIES;
        let apart = falls_apart(&place, first, entries, judge);
        let mut next = 0;
        while let Some((&bits, rest)) = entries[next..].split_first() {
            let (old, index) = (Stage1::from_bits(bits), first + next);
            let va = place.address(index);
            next += 1;
            if !old.is_valid() || judge.policy.elsewhere(va, bytes) {
                continue;
            }
            if old.is_table(level) {
                let below = Place {
                    frame: old.mfn(),
                    level: level + 1,
                    base: va,
                };
                table(tables, below, judge, sink)?;
                continue;
            }
            let leaves = 1 + adjacent(bits, rest, bytes);
            let verdict = judge.leaf(va, old.mfn(), level, leaves > 1 || rest.is_empty());
            let leaves = match verdict {
                Verdict::Mixed => 1,
                _ => judge.reach(va, level, leaves),
            };
            next += leaves - 1;
            if verdict == Verdict::Keep && !apart {
                continue;
            }
            for (index, &bits) in (index..).zip(&entries[index - first..][..leaves]) {
                change(&place, index, bits, verdict, judge, sink)?;
            }
        }
    }
    Ok(())
}

/// How many of `rest` map what follows `first`, in the same way.
#[inline(always)]
fn adjacent(first: u64, rest: &[u64], bytes: u64) -> usize {
    let mut expected = first;
    rest.iter()
        .take_while(|bits| {
            expected += bytes;
            // Not from the last machine address to the first one.
            **bits == expected && Stage1::from_bits(expected).mfn().get() != 0
        })
        .count()
}

/// Whether an entry of a contiguous group changes: then all of it do.
fn falls_apart(
    place: &Place,
    first: usize,
    group: &[u64; CONTIGUOUS_ENTRIES],
    judge: &mut Judge<impl Policy>,
) -> bool {
    let level = place.level;
    let mut entries = (first..).zip(group.map(Stage1::from_bits));
    // A group without it takes no time.
    let all = group.iter().fold(0, |all, bits| all | bits);
    Stage1::from_bits(all).is_contiguous()
        && entries.any(|(index, entry)| {
            let va = place.address(index);
            entry.is_leaf(level)
                && !judge.policy.elsewhere(va, level_bytes(level))
                && judge.leaf(va, entry.mfn(), level, true) != Verdict::Keep
        })
}

/// An entry with that verdict changes. One that is kept is of a group that falls
/// apart.
fn change(
    place: &Place,
    index: usize,
    bits: u64,
    verdict: Verdict,
    judge: &mut Judge<impl Policy>,
    sink: &mut impl Sink,
) -> Result<(), Error> {
    let (old, va, level) = (Stage1::from_bits(bits), place.address(index), place.level);
    let new = match verdict {
        Verdict::Keep => old.without_contiguous(),
        Verdict::ReadOnly => old.without_contiguous().read_only(),
        Verdict::Remove => {
            sink.tally().leaves += 1;
            sink.tally().pages += level_pages(level);
            Stage1::INVALID
        }
        Verdict::Mixed => {
            sink.tally().leaves += 1;
            split(old, level, va, judge, sink)?
        }
    };
    sink.edit(Edit {
        table: place.frame,
        old,
        new,
        va,
        index: index as u16,
        level,
    })
}

/// Builds what a mixed block becomes and returns the entry that points to it.
fn split(
    block: Stage1,
    level: u8,
    base: Vaddr,
    judge: &mut Judge<impl Policy>,
    sink: &mut impl Sink,
) -> Result<Stage1, Error> {
    let table = sink.take_table()?;
    let next = level + 1;
    sink.tally().splits += 1;
    for index in 0..ENTRIES {
        let va = Vaddr::new(base.get() + index as u64 * level_bytes(next));
        let mfn = Mfn::new(block.mfn().get() + index as u64 * level_pages(next));
        let leaf = block.narrowed(mfn, next);
        let entry = match judge.leaf(va, mfn, next, true) {
            Verdict::Keep => leaf,
            Verdict::ReadOnly => leaf.read_only(),
            Verdict::Remove => {
                sink.tally().pages += level_pages(next);
                Stage1::INVALID
            }
            Verdict::Mixed => split(leaf, next, va, judge, sink)?,
        };
        sink.fill(table, index, entry);
    }
    Ok(Stage1::table(table))
}

/// The tables as they are after the edits, read once from the first address on.
struct Edited<'a, T> {
    tables: &'a T,
    /// The edits that have not been come by yet.
    edits: &'a [Edit],
}

impl<T: Tables> Edited<'_, T> {
    /// Index of the next entry of a table that changes; behind all of them if that
    /// is in another table, or none is left.
    #[inline(always)]
    fn upcoming(&self, table: Mfn) -> usize {
        match self.edits.first() {
            Some(edit) if edit.table == table => ENTRIES.min(edit.index.into()),
            _ => ENTRIES,
        }
    }

    /// Takes the next edit: what its entry becomes.
    #[inline(always)]
    fn take(&mut self, unchanged: Stage1) -> Stage1 {
        let Some((edit, rest)) = self.edits.split_first() else {
            return unchanged;
        };
        self.edits = rest;
        edit.new
    }

    fn check(&mut self, place: Place, rule: &Rule) -> Result<(), Error> {
        let tables = self.tables;
        tables.with(place.frame, move |entries| {
            self.entries(place, entries, rule)
        })
    }

    fn entries(
        &mut self,
        place: Place,
        entries: &[u64; ENTRIES],
        rule: &Rule,
    ) -> Result<(), Error> {
        let (level, pages) = (place.level, level_pages(place.level));
        let mut run = Extent::new(Mfn::new(0), 0);
        let mut upcoming = self.upcoming(place.frame);
        let mut next = 0;
        while let Some(&bits) = entries.get(next) {
            let index = next;
            next += 1;
            // An edit of an empty entry is left over, and found at the end.
            if bits == 0 {
                next += zeroes(&entries[next..]);
                continue;
            }
            let changes = upcoming == index;
            let mut entry = Stage1::from_bits(bits);
            if changes {
                entry = self.take(entry);
                upcoming = self.upcoming(place.frame);
            }
            let va = place.address(index);
            if !entry.is_valid() || rule.except.contains(va.get()) {
                continue;
            }
            if entry.is_table(level) {
                let below = Place {
                    frame: entry.mfn(),
                    level: level + 1,
                    base: va,
                };
                self.check(below, rule)?;
                upcoming = self.upcoming(place.frame);
                continue;
            }
            if entry.mfn().get() != run.end() {
                rule.leaves(&run)?;
                run = Extent::new(entry.mfn(), 0);
            }
            run.pages += pages;
            if changes {
                continue;
            }
            // Entries that go on like this one, up to the next that changes.
            let alike = rule.except.alike(va.get()).div_ceil(pages);
            let until = upcoming.min(index.saturating_add(alike as usize));
            let (mut expected, step) = (bits, level_bytes(level));
            while next < until {
                expected += step;
                if entries[next] != expected || Stage1::from_bits(expected).mfn().get() == 0 {
                    break;
                }
                next += 1;
            }
            run.pages += (next - index - 1) as u64 * pages;
        }
        rule.leaves(&run)
    }
}

/// How many entries at the front mean nothing, in groups.
#[inline(always)]
fn zeroes(entries: &[u64]) -> usize {
    let (groups, _) = entries.as_chunks::<8>();
    groups.iter().take_while(|group| empty(*group)).count() * 8
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

    /// For how many pages from `va` on the same is true of their first addresses:
    /// that they lie in it, or that they do not.
    pub const fn alike(&self, va: u64) -> u64 {
        let bytes = if va < self.start {
            self.start - va
        } else if va < self.end {
            self.end - va
        } else {
            return u64::MAX;
        };
        bytes.div_ceil(PAGE_SIZE)
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
    /// Judges leaves that map adjacent frames.
    fn leaves(&self, frames: &Extent) -> Result<(), Error> {
        let bad = |frames: &Extent| self.forbidden.iter().any(|set| set.overlap(frames) != 0);
        if !bad(frames) {
            return Ok(());
        }
        let mut each = (frames.start.get()..frames.end()).map(Mfn::new);
        let first = each.find(|&mfn| bad(&Extent::new(mfn, 1)));
        Err(Error::Unsound(first.unwrap_or(frames.start)))
    }
}

/// Checks the tables as `edits` would leave them against `rule`. All edits must
/// be of entries that are in use, in the order of addresses, each once.
pub fn verify<T: Tables>(tables: &T, root: Mfn, edits: &[Edit], rule: &Rule) -> Result<(), Error> {
    let mut edited = Edited { tables, edits };
    edited.check(Place::root(root), rule)?;
    match edited.edits {
        [] => Ok(()),
        [edit, ..] => Err(Error::Misplaced(edit.table)),
    }
}
