//! The walk that both regimes share: tables of 512 entries, 4 KiB granule, down to a leaf (Arm ARM DDI 0487, D8.2).
//! What an entry means beyond that is the regime's: [`crate::stage1`], [`crate::stage2`].

use crate::descriptor::{self, ENTRIES, Kind, Malformed, Step};
use crate::dump::{Dump, FRAME_SIZE};
use crate::error::{Error, Result};
use crate::hex::Hex;
use std::collections::BTreeMap;

/// Where a walk starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Top {
    /// Physical address of the root: of the first table, where there are several.
    pub root: u64,
    /// How many tables the root is made of.
    pub roots: usize,
    /// Entries of each of them.
    pub entries: usize,
    /// Level of the root.
    pub level: u8,
    /// Bits of an output address.
    pub output_bits: u32,
}

/// An entry on the way, or at its end.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// First input address that it stands for.
    pub address: u64,
    /// The descriptor.
    pub descriptor: u64,
    /// Level, 0 to 3.
    pub level: u8,
    /// Whether the hardware follows it.
    pub valid: bool,
}

/// What differs between the regimes.
pub trait Stage {
    /// What the entries above say about everything below them.
    type Above: Copy;
    /// A block or page.
    type Leaf;
    /// In messages.
    const NAME: &'static str;
    /// Whether an entry counts although its valid bit is clear.
    const PENDING_COUNTS: bool;

    /// What holds at the root.
    fn top(&self) -> Self::Above;
    /// What holds below a table entry.
    fn below(&self, above: Self::Above, entry: &Entry) -> Self::Above;
    /// A leaf.
    fn leaf(&self, above: Self::Above, entry: &Entry) -> Self::Leaf;
}

/// All that one root reaches.
pub struct Walk<L> {
    /// Every leaf, by input address.
    pub leaves: Vec<L>,
    /// Every frame that holds a table, with the level it is used at (the lowest number if at several).
    pub tables: BTreeMap<u64, u8>,
    /// Entries that contradict the architecture.
    pub malformed: Vec<Malformed>,
    /// Entries whose valid bit is clear, and that count nevertheless.
    pub pending: usize,
}

impl<L> Default for Walk<L> {
    fn default() -> Self {
        Walk {
            leaves: Vec::new(),
            tables: BTreeMap::new(),
            malformed: Vec::new(),
            pending: 0,
        }
    }
}

struct Walker<'d, S: Stage> {
    dump: &'d Dump,
    stage: &'d S,
    output_bits: u32,
    walk: Walk<S::Leaf>,
    visits: usize,
}

/// Walks all that lies below `top`.
pub fn walk<S: Stage>(dump: &Dump, stage: &S, top: &Top) -> Result<Walk<S::Leaf>> {
    let mut walker = Walker {
        dump,
        stage,
        output_bits: top.output_bits,
        walk: Walk::default(),
        visits: 0,
    };
    for i in 0..top.roots as u64 {
        let table = top.root + i * FRAME_SIZE;
        if dump.bytes_at(table, top.entries * 8).is_none() {
            return Err(Error::CannotJudge(format!(
                "the {} root table {table:#x} is not in the dump",
                S::NAME
            )));
        }
        let base = i * ENTRIES * descriptor::size(top.level);
        walker.table(table, top.entries, top.level, base, stage.top())?;
    }
    Ok(walker.walk)
}

impl<S: Stage> Walker<'_, S> {
    /// A loop, or garbage, has more tables and leaves than any machine with this much memory.
    fn endless(&self) -> bool {
        let frames = self.dump.frames();
        self.visits > 2 * frames + (1 << 12) || self.walk.leaves.len() > 4 * frames + (1 << 20)
    }

    fn table(
        &mut self,
        table: u64,
        entries: usize,
        level: u8,
        base: u64,
        above: S::Above,
    ) -> Result<()> {
        self.visits += 1;
        if self.endless() {
            return Err(Error::CannotJudge(format!(
                "the {} tables have no end: a loop, or a root that is no table",
                S::NAME
            )));
        }
        let dump = self.dump;
        let Some(bytes) = dump.bytes_at(table, entries * 8) else {
            return Ok(()); // the caller has made sure
        };
        let used = self
            .walk
            .tables
            .entry(descriptor::frame_of(table))
            .or_insert(level);
        *used = level.min(*used);
        let words = bytes.as_chunks().0;
        for (index, &word) in words.iter().enumerate() {
            let descriptor = u64::from_le_bytes(word);
            if descriptor == 0 {
                continue;
            }
            let entry = Entry {
                address: base + index as u64 * descriptor::size(level),
                descriptor,
                level,
                valid: descriptor::kind(descriptor, level) != Kind::Invalid,
            };
            if !entry.valid {
                if !S::PENDING_COUNTS {
                    continue;
                }
                self.walk.pending += 1;
            }
            match descriptor::shape(descriptor, level) {
                Kind::Table => self.next(&entry, above)?,
                Kind::Leaf => {
                    if descriptor::contiguous(descriptor)
                        && descriptor::broken_contiguous(words, index, level)
                    {
                        self.odd(&entry, "contiguous hint on entries that are not one run");
                    }
                    self.leaf(&entry, above);
                }
                Kind::Reserved | Kind::Invalid => {
                    self.odd(&entry, "reserved encoding");
                    // Set right by one store, it would be a page.
                    if S::PENDING_COUNTS && level == 3 {
                        let valid = false;
                        self.leaf(&Entry { valid, ..entry }, above);
                    }
                }
            }
        }
        Ok(())
    }

    fn next(&mut self, entry: &Entry, above: S::Above) -> Result<()> {
        let next = descriptor::table_address(entry.descriptor);
        if self.dump.bytes_at(next, FRAME_SIZE as usize).is_none() {
            self.malformed(entry, "table that is not in the dump", true);
            return Ok(());
        }
        let below = self.stage.below(above, entry);
        self.table(
            next,
            ENTRIES as usize,
            entry.level + 1,
            entry.address,
            below,
        )
    }

    fn leaf(&mut self, entry: &Entry, above: S::Above) {
        let pa = descriptor::output_address(entry.descriptor, entry.level);
        if pa >> self.output_bits != 0 {
            self.odd(entry, "output address beyond the regime's PS");
        }
        self.walk.leaves.push(self.stage.leaf(above, entry));
    }

    fn odd(&mut self, entry: &Entry, why: &'static str) {
        self.malformed(entry, why, false);
    }

    fn malformed(&mut self, entry: &Entry, why: &'static str, blind: bool) {
        self.walk.malformed.push(Malformed {
            address: Hex(entry.address),
            level: entry.level,
            descriptor: Hex(entry.descriptor),
            why,
            blind,
        });
    }
}

/// The entries that lead to `address`, root first, down to a leaf or to what is not there.
pub fn trace<S: Stage>(dump: &Dump, top: &Top, address: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    let first = address >> descriptor::shift(top.level);
    if first >= (top.roots * top.entries) as u64 {
        return steps;
    }
    let mut table = top.root + first / ENTRIES * FRAME_SIZE;
    for level in top.level..=3 {
        let index = address >> descriptor::shift(level) & (ENTRIES - 1);
        let Some(d) = dump.word(table + index * 8) else {
            break;
        };
        steps.push(Step {
            level,
            table: Hex(table),
            index: index as u16,
            descriptor: Hex(d),
        });
        let counts = S::PENDING_COUNTS || descriptor::kind(d, level) != Kind::Invalid;
        if d == 0 || !counts || descriptor::shape(d, level) != Kind::Table {
            break;
        }
        table = descriptor::table_address(d);
    }
    steps
}
