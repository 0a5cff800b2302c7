//! A simulated machine for the fuse: tables, TLBs, heaps, domains, CPUs.
//!
//! Memory is a map from frame to table. The TLBs are as bad as the
//! architecture allows: every translation that was live at any time since the
//! last flush is still held by every CPU. A valid entry that is written while
//! a TLB may hold a different one (Arm ARM D8.16.1) is a failed test, and so
//! is a look at a table after the windows are gone.
//!
//! One address in the directmap is its machine address plus the start. The
//! frames:
//!
//! | frames | what |
//! |---|---|
//! | `0x40200`, 64 | image; static tables at its end, linked but for the last |
//! | `0x40400`, 512 | frametable |
//! | `0x42000`, `0x2000` | xenheap |
//! | `0x50000` on | domains |
//! | `0x70000` on | tables of the domheap |
//! | `0x80000`, `0x40000` | second bank, one 1 GiB block of the directmap |
#![allow(dead_code, reason = "each test binary uses a part of the model")]

pub mod locked;
pub mod machine;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use xen_vmf::addr::{ENTRIES, Mfn, Vaddr, level_bytes, level_pages};
use xen_vmf::descriptor::stage1::Stage1;
use xen_vmf::extents::Extent;
use xen_vmf::plan::VaRange;
use xen_vmf::policy::{Layout, Redistributors};

pub const SLOT: u64 = 1 << 39;
pub const BASE: u64 = 4 * SLOT;
pub const DIRECTMAP: u64 = 256 * SLOT;
pub const IMAGE: Extent = Extent::new(Mfn::new(0x40200), 64);
pub const FROZEN: u64 = 0x40214;
/// The first pages of the image: boot-time code, and what calls firmware.
pub const BOOT_TEXT: Extent = Extent::new(IMAGE.start, 2);
pub const SMC_TEXT: Extent = Extent::new(Mfn::new(IMAGE.start.get() + 2), 1);
pub const STATIC: u64 = 0x40230;
pub const STATICS: u64 = 5;
pub const FRAMETABLE: Extent = Extent::new(Mfn::new(0x40400), 512);
pub const XENHEAP: Extent = Extent::new(Mfn::new(0x42000), 0x2000);
pub const RAM: [Extent; 2] = [
    Extent::new(Mfn::new(0x40000), 0x40000),
    Extent::new(Mfn::new(0x80000), 0x40000),
];
pub const DOMHEAP_TABLES: u64 = 0x70000;

/// Attributes of a writable page, of a block, and the bits to add to them.
pub const PAGE: u64 = Stage1::page(Mfn::new(0)).bits();
pub const BLOCK: u64 = PAGE & !2;
pub const CONTIGUOUS: u64 = 1 << 52;
pub const READ_ONLY: u64 = 1 << 7;
pub const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// What a machine did, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write { frame: u64, index: usize },
    FlushAll,
    FlushGuests,
    Publish,
    Stop,
    Go,
    SetProtected(u16),
    ClearWindows,
    DestroyWindows,
    Freeze,
    Settle(u64),
}

/// A translation that a TLB may hold: address, level, entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    pub va: u64,
    pub level: u8,
    pub bits: u64,
}

/// Translation tables with TLBs. `root` is the live level-0 table.
#[derive(Debug, Default)]
pub struct Memory {
    pub root: u64,
    pub tables: RefCell<BTreeMap<u64, Box<[u64; ENTRIES]>>>,
    pub tlb: RefCell<Vec<Cached>>,
    pub ops: RefCell<Vec<Op>>,
    pub next: Cell<u64>,
    pub unreachable: Cell<bool>,
    linked: RefCell<Option<BTreeMap<u64, (u8, u64)>>>,
}

/// Whether replacing `old` by `new` asks for break-before-make, said in the
/// words of the architecture and not with the crate's own predicate.
fn conflict(old: u64, new: u64, level: u8) -> bool {
    let table = |e: u64| level < 3 && e & 2 != 0;
    let valid = old & 1 != 0 && new & 1 != 0;
    let memory = |e: u64| (e >> 2 & 7, e >> 8 & 3, e >> 52 & 1);
    valid
        && (table(old) != table(new)
            || old & ADDRESS != new & ADDRESS
            || (!table(old) && memory(old) != memory(new)))
}

impl Memory {
    pub fn new(root: u64, next: u64) -> Self {
        let memory = Self {
            root,
            ..Self::default()
        };
        memory.next.set(next);
        memory.add(root);
        memory
    }

    pub fn add(&self, frame: u64) {
        let zero = Box::new([0; ENTRIES]);
        assert!(self.tables.borrow_mut().insert(frame, zero).is_none());
    }

    /// A new empty table.
    pub fn fresh(&self) -> u64 {
        let frame = self.next.get();
        self.next.set(frame + 1);
        self.add(frame);
        frame
    }

    pub fn entry(&self, frame: u64, index: usize) -> u64 {
        self.tables.borrow()[&frame][index]
    }

    /// Writes without TLBs or order: sets a scene.
    pub fn put(&self, frame: u64, index: usize, bits: u64) {
        *self.linked.borrow_mut() = None;
        self.tables.borrow_mut().get_mut(&frame).expect("a table")[index] = bits;
    }

    /// Sets the entry at `level` for `va`, with new tables above it.
    pub fn map(&self, va: u64, level: u8, bits: u64) {
        self.map_with(va, level, bits, &|| self.fresh());
    }

    pub fn map_with(&self, va: u64, level: u8, bits: u64, fresh: &dyn Fn() -> u64) {
        let mut frame = self.root;
        for l in 0..level {
            let index = (va / level_bytes(l)) as usize % ENTRIES;
            let entry = self.entry(frame, index);
            frame = if entry & 1 == 0 {
                let table = fresh();
                self.put(frame, index, Stage1::table(Mfn::new(table)).bits());
                table
            } else {
                assert!(entry & 2 != 0, "a block is in the way at {va:#x}");
                (entry & ADDRESS) >> 12
            };
        }
        self.put(frame, (va / level_bytes(level)) as usize % ENTRIES, bits);
    }

    /// Whether the entry of `level` that covers `va` points to a table.
    pub fn has_table(&self, va: u64, level: u8) -> bool {
        let mut frame = self.root;
        for l in 0..=level {
            let entry = self.entry(frame, (va / level_bytes(l)) as usize % ENTRIES);
            if l == 3 || entry & 3 != 3 {
                return false;
            }
            frame = (entry & ADDRESS) >> 12;
        }
        true
    }

    /// Each live leaf: address, level, entry.
    pub fn leaves(&self) -> Vec<Cached> {
        let mut out = Vec::new();
        self.scan(self.root, 0, 0, &mut |_, _, _| (), &mut |leaf| {
            out.push(leaf)
        });
        out
    }

    /// Frames of live tables, with level and first address.
    pub fn live(&self) -> BTreeMap<u64, (u8, u64)> {
        let mut out = BTreeMap::new();
        self.scan(
            self.root,
            0,
            0,
            &mut |frame, level, va| {
                out.insert(frame, (level, va));
            },
            &mut |_| (),
        );
        out
    }

    fn scan(
        &self,
        frame: u64,
        level: u8,
        base: u64,
        table: &mut dyn FnMut(u64, u8, u64),
        leaf: &mut dyn FnMut(Cached),
    ) {
        table(frame, level, base);
        let entries = *self.tables.borrow()[&frame];
        for (index, bits) in entries.into_iter().enumerate() {
            let va = base + index as u64 * level_bytes(level);
            if bits & 1 == 0 {
                continue;
            }
            if level < 3 && bits & 2 != 0 {
                self.scan((bits & ADDRESS) >> 12, level + 1, va, table, leaf);
            } else {
                leaf(Cached { va, level, bits });
            }
        }
    }

    /// What each page maps to: machine frame and read-only.
    pub fn pages(&self) -> BTreeMap<u64, (u64, bool)> {
        let mut out = BTreeMap::new();
        for leaf in self.leaves() {
            for i in 0..level_pages(leaf.level) {
                let mfn = ((leaf.bits & ADDRESS) >> 12) + i;
                out.insert(leaf.va + (i << 12), (mfn, leaf.bits & READ_ONLY != 0));
            }
        }
        out
    }

    /// Frames that a leaf or a TLB can still reach, as (first, pages).
    pub fn reachable(&self) -> Vec<(u64, u64)> {
        let cached = self.tlb.borrow();
        let live = self.leaves();
        live.iter()
            .chain(cached.iter())
            .filter(|c| c.level == 3 || c.bits & 2 == 0)
            .map(|c| ((c.bits & ADDRESS) >> 12, level_pages(c.level)))
            .collect()
    }

    pub fn reaches(&self, mfn: u64) -> bool {
        self.reachable()
            .iter()
            .any(|&(first, pages)| (first..first + pages).contains(&mfn))
    }

    /// Whether a CPU can read at `va`, from its TLB or by a walk.
    pub fn readable(&self, va: u64) -> bool {
        let cached = self.tlb.borrow().iter().any(|c| {
            (c.level == 3 || c.bits & 2 == 0) && (c.va..c.va + level_bytes(c.level)).contains(&va)
        });
        cached || self.walks(va)
    }

    fn walks(&self, va: u64) -> bool {
        self.missing(va).is_none()
    }

    /// The level at which a walk finds nothing.
    fn missing(&self, va: u64) -> Option<u8> {
        let mut frame = self.root;
        for level in 0..4 {
            let bits = self.entry(frame, (va / level_bytes(level)) as usize % ENTRIES);
            if bits & 1 == 0 {
                return Some(level);
            }
            if level == 3 || bits & 2 == 0 {
                return None;
            }
            frame = (bits & ADDRESS) >> 12;
        }
        unreachable!()
    }

    /// What AT says. The architecture lets it use TLBs, so what one of them holds
    /// cuts the hole short.
    pub fn unmapped_until(&self, va: u64) -> Option<u64> {
        if self.readable(va) {
            return None;
        }
        let bytes = level_bytes(self.missing(va)?);
        let end = va / bytes * bytes + bytes;
        let held = self.tlb.borrow();
        let leaves = held.iter().filter(|c| c.level == 3 || c.bits & 2 == 0);
        Some(
            leaves
                .map(|c| c.va)
                .filter(|&at| at > va)
                .fold(end, u64::min),
        )
    }

    /// One entry is written by Xen: TLBs keep the old one, order is kept, and
    /// a conflict fails the test.
    pub fn write(&self, frame: u64, index: usize, new: u64) {
        assert!(!self.unreachable.get(), "a table is written after the lock");
        let old = self.entry(frame, index);
        let mut linked = self.linked.borrow_mut();
        let live = linked.get_or_insert_with(|| self.live());
        if let Some(&(level, base)) = live.get(&frame) {
            let va = base + index as u64 * level_bytes(level);
            let mut tlb = self.tlb.borrow_mut();
            for held in tlb.iter().filter(|c| c.va == va && c.level == level) {
                assert!(
                    !conflict(held.bits, new, level),
                    "{va:#x}: {new:#x} written while {:#x} may be cached",
                    held.bits
                );
            }
            assert!(!conflict(old, new, level), "{va:#x}: no break before make");
            if old & 1 != 0 && old != new {
                tlb.push(Cached {
                    va,
                    level,
                    bits: old,
                });
            }
            if level < 3 && (old | new) & 2 != 0 {
                *linked = None;
            }
        }
        self.tables.borrow_mut().get_mut(&frame).expect("a table")[index] = new;
        self.ops.borrow_mut().push(Op::Write { frame, index });
    }

    pub fn look(&self, frame: u64) -> [u64; ENTRIES] {
        assert!(!self.unreachable.get(), "a table is read after the lock");
        *self.tables.borrow()[&frame]
    }

    pub fn log(&self, op: Op) {
        if op == Op::FlushAll {
            self.tlb.borrow_mut().clear();
        }
        self.ops.borrow_mut().push(op);
    }
}

impl xen_vmf::walk::Tables for Memory {
    fn with<R>(&self, frame: Mfn, look: impl FnOnce(&[u64; ENTRIES]) -> R) -> R {
        look(&self.look(frame.get()))
    }
}

impl xen_vmf::walk::TablesMut for Memory {
    fn write_all(&self, frame: Mfn, entries: impl Iterator<Item = (usize, u64)>) {
        for (index, bits) in entries {
            Memory::write(self, frame.get(), index, bits);
        }
    }
}

impl xen_vmf::commit::Live for Memory {
    fn flush_all(&self) {
        self.log(Op::FlushAll);
    }

    fn publish(&self) {
        self.log(Op::Publish);
    }
}

/// Address of a frame in the directmap.
pub fn dm(mfn: u64) -> u64 {
    DIRECTMAP + (mfn << 12)
}

const fn range(start: u64, bytes: u64) -> VaRange {
    VaRange {
        start,
        end: start + bytes,
    }
}

/// The address space of the model.
pub fn layout() -> Layout {
    Layout {
        image: range(BASE + (2 << 20), IMAGE.pages << 12),
        fixmap: range(BASE + (10 << 20), 2 << 20),
        vmap: range(BASE + (1 << 30), 1 << 30),
        windows: range(BASE + (2 << 30), 30 << 30),
        frametable: range(BASE + (32 << 30), 32 << 30),
        directmap: range(DIRECTMAP, 10 * SLOT),
        xenheap_va: range(dm(XENHEAP.start.get()), XENHEAP.pages << 12),
        image_frames: IMAGE,
        init_frames: Extent::new(Mfn::new(0), 0),
        frametable_frames: FRAMETABLE,
        xenheap: XENHEAP,
        boot_text: BOOT_TEXT,
        smc_text: SMC_TEXT,
        frozen: Mfn::new(FROZEN),
        redistributors: [
            Redistributors {
                start: GICR,
                pages: GICR_PAGES,
                stride: 64,
            },
            Redistributors::default(),
            Redistributors::default(),
            Redistributors::default(),
        ],
    }
}

/// Two redistributors with virtual LPIs.
pub const GICR: u64 = 0x9200;
/// Their pages.
pub const GICR_PAGES: u64 = 128;

/// The frames of some extents.
pub fn frames(extents: &[Extent]) -> BTreeSet<u64> {
    extents
        .iter()
        .flat_map(|e| e.start.get()..e.end())
        .collect()
}

pub fn vaddr(va: u64) -> Vaddr {
    Vaddr::new(va)
}
