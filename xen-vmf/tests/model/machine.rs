//! The machine around the tables: domains, heaps, windows, a rendezvous.
//!
//! Every allocation is counted and can be made to fail; what is given back
//! has to be what was taken. `before_stop` runs when the CPUs have stopped and
//! the fuse has not looked yet: whatever it changes is a race.

use super::*;
use std::collections::BTreeMap;
use xen_vmf::addr::Gfn;
use xen_vmf::commit::Live;
use xen_vmf::error::Error;
use xen_vmf::hypercall::Status;
use xen_vmf::machine::{Domain, DomainFlags, Machine, Obstacles};
use xen_vmf::share::Shares;
use xen_vmf::stage2::{GuestExtent, Root};
use xen_vmf::walk::{Tables, TablesMut};
use xen_vmf::window::{TABLES, WINDOW_BYTES, Window};

pub const CPUS: u64 = 3;
/// Bits of a valid stage-2 page of RAM, and of a table.
pub const S2_RAM: u64 = 1 << 55 | 3;
/// Not executable, in stage 2.
const XN: u64 = 1 << 54;

/// A domain and what it owns.
#[derive(Clone, Debug)]
pub struct Dom {
    pub domain: Domain,
    pub pages: Vec<u64>,
    pub obstacles: Obstacles,
    pub shares: Shares,
}

type Hook = Box<dyn Fn(&Sim)>;

/// The machine. CPU 0 runs the fuse; the last CPU has a window and may be
/// offline.
#[derive(Default)]
pub struct Sim {
    pub memory: Memory,
    pub all: bool,
    pub doms: RefCell<BTreeMap<u16, Dom>>,
    pub window_tables: Vec<u64>,
    pub offline: Cell<u32>,
    pub its: Cell<bool>,
    pub iommu: Cell<bool>,
    pub needs_firmware: Cell<bool>,
    /// CPUs read back what the first one did not.
    pub unlike: Cell<bool>,
    /// `vmf=...,permissive` was given, and something was in the way.
    pub boot_failed: Cell<bool>,
    /// `vmf-reset=` was given.
    pub has_reset: Cell<bool>,
    /// CPUs with SPE or TRBE.
    pub trace_units: Cell<u32>,
    /// Frames that somebody else refers to.
    pub referenced: RefCell<BTreeSet<u64>>,
    /// Frames that their domain has given up, and that somebody else refers to.
    pub given_up: RefCell<BTreeSet<u64>>,
    /// Some CPU holds a mapping of its window.
    pub window_held: Cell<bool>,
    /// What the frozen page says about firmware calls.
    pub no_smc: Cell<Option<bool>>,
    pub before_stop: RefCell<Option<Hook>>,
    pub freeze_fails: Cell<bool>,
    /// The allocation that fails, counted from 0.
    pub fail_at: Cell<Option<usize>>,
    /// The first of those that fail from then on.
    pub fail_from: Cell<Option<usize>>,
    pub asked: Cell<usize>,
    pub buffers: RefCell<BTreeMap<usize, usize>>,
    pub spare: RefCell<BTreeSet<u64>>,
    pub stopped: Cell<bool>,
    clock: Cell<u64>,
}

impl Sim {
    pub fn new(all: bool) -> Self {
        let mut sim = Self {
            memory: Memory::new(STATIC, DOMHEAP_TABLES),
            all,
            ..Self::default()
        };
        sim.image();
        sim.heaps();
        sim.windows();
        sim.stray_mappings();
        sim.domains();
        sim
    }

    fn image(&self) {
        let m = &self.memory;
        let l = layout();
        (1..STATICS).for_each(|i| m.add(STATIC + i));
        let link = |from: u64, index, to: u64| {
            m.put(from, index, Stage1::table(Mfn::new(to)).bits());
        };
        link(STATIC, (BASE / SLOT) as usize, STATIC + 1);
        link(STATIC + 1, 0, STATIC + 2);
        link(STATIC + 2, 1, STATIC + 3);
        for i in 0..IMAGE.pages {
            let mfn = IMAGE.start.get() + i;
            let text = if i < 16 { READ_ONLY } else { 0 };
            m.map(l.image.start + (i << 12), 3, PAGE | text | mfn << 12);
        }
        m.map(l.fixmap.start, 3, PAGE | 0x9000 << 12);
        m.map(l.fixmap.start + 0x1000, 3, PAGE | 0x50001 << 12);
        m.map(l.vmap.start, 3, PAGE | 0x9100 << 12);
        for i in 0..GICR_PAGES {
            m.map(
                l.vmap.start + 0x10_0000 + (i << 12),
                3,
                PAGE | (GICR + i) << 12,
            );
        }
        m.map(
            l.vmap.start + 0x1000,
            3,
            PAGE | (XENHEAP.start.get() + 5) << 12,
        );
        m.map(l.frametable.start, 2, BLOCK | FRAMETABLE.start.get() << 12);
    }

    fn heaps(&self) {
        for first in (XENHEAP.start.get()..XENHEAP.end()).step_by(512) {
            self.memory
                .map(dm(first), 2, BLOCK | CONTIGUOUS | first << 12);
        }
        if !self.all {
            return;
        }
        for first in (RAM[0].start.get()..RAM[0].end()).step_by(512) {
            if !XENHEAP.contains(Mfn::new(first)) {
                self.memory
                    .map(dm(first), 2, BLOCK | CONTIGUOUS | first << 12);
            }
        }
        let second = RAM[1].start.get();
        self.memory.map(dm(second), 1, BLOCK | second << 12);
    }

    fn windows(&mut self) {
        for cpu in 0..CPUS {
            let base = layout().windows.start + cpu * WINDOW_BYTES;
            let at = |slot: usize| base + ((slot as u64) << 12);
            for _ in 0..TABLES {
                let table = self.memory.next.get();
                let index = self.window_tables.len() % TABLES;
                let slot = Window::system_slot(index);
                // Touch the table's range first, so that it is the one that
                // is mapped there.
                self.memory.map(at(index * 512), 3, 0);
                let table = self.live_table_at(at(index * 512)).unwrap_or(table);
                self.window_tables.push(table);
                self.memory.map(at(slot), 3, PAGE | table << 12);
            }
            // Left over from earlier use: a page of each domain, a table.
            for (slot, mfn) in [(0, 0x52000), (17, 0x50000), (40, self.memory.root)] {
                self.memory.map(at(slot), 3, PAGE | mfn << 12);
            }
        }
    }

    fn live_table_at(&self, va: u64) -> Option<u64> {
        let live = self.memory.live();
        live.iter().find(|(_, v)| **v == (3, va)).map(|(f, _)| *f)
    }

    /// Mappings that nobody asked for: judged by frame, they have to go.
    fn stray_mappings(&self) {
        let vmap = layout().vmap.start;
        let image = IMAGE.start.get();
        self.memory.map(image << 12, 3, PAGE | image << 12);
        self.memory.map(vmap + 0x4000, 3, PAGE | (image + 30) << 12);
        self.memory
            .map(vmap + 0x5000, 3, PAGE | self.memory.root << 12);
    }

    fn domains(&self) {
        let none = DomainFlags::empty();
        self.add_domain(0, DomainFlags::CONTROL | DomainFlags::HARDWARE, 0, 0);
        self.own(0, 0x50000..0x50400);
        self.own(0, 0x50500..0x50510);
        self.add_domain(1, none, 1, 1);
        self.own(1, 0x52000..0x52400);
        self.own(1, 0x52407..0x52409);
        self.own(1, 0x90003..0x90005);
        self.add_domain(5, none, 1, 1);
        self.own(5, 0x54000..0x54200);
        self.own(5, 0xa0000..0xa0021);
        // dom0 has a 1 GiB block of devices, and its grant table.
        let root = self.doms.borrow()[&0].domain.root;
        self.map_guest(&root, 0x8_0000_0000 >> 12, 1, 3 << 55 | 1 | 0x4_0000_0000);
        let grant = XENHEAP.start.get() + 9;
        self.map_guest(&root, 0x38000, 3, S2_RAM | grant << 12);
    }

    pub fn add_domain(&self, id: u16, flags: DomainFlags, level: u32, order: u32) {
        let root = self.memory.fresh();
        (1..1 << order).for_each(|_| {
            self.memory.fresh();
        });
        let domain = Domain {
            id,
            vmid: id + 1,
            flags: flags | DomainFlags::BUILT | DomainFlags::STAGE2,
            vttbr: root << 12,
            root: Root {
                frame: Mfn::new(root),
                level,
                order,
                input_bits: 48 - 9 * level + order,
            },
        };
        let dom = Dom {
            domain,
            pages: Vec::new(),
            obstacles: Obstacles::default(),
            shares: Shares::default(),
        };
        self.doms.borrow_mut().insert(id, dom);
    }

    /// Gives frames to a domain, at the guest frames of the same number. One
    /// in seven has its valid bit cleared, as set/way emulation leaves it.
    pub fn own(&self, id: u16, frames: std::ops::Range<u64>) {
        let root = self.doms.borrow()[&id].domain.root;
        for mfn in frames {
            let valid = u64::from(mfn % 7 != 0);
            self.map_guest(&root, mfn, 3, S2_RAM & !1 | valid | mfn << 12);
            let mut doms = self.doms.borrow_mut();
            doms.get_mut(&id).expect("a domain").pages.push(mfn);
        }
    }

    pub fn map_guest(&self, root: &Root, gfn: u64, level: u8, bits: u64) {
        let top = root.level as u8;
        let m = &self.memory;
        let mut frame = root.frame.get() + gfn / (512 * level_pages(top));
        for l in top..level {
            let index = (gfn / level_pages(l)) as usize % 512;
            let entry = m.entry(frame, index);
            frame = if entry == 0 {
                let table = m.fresh();
                m.put(frame, index, S2_RAM | table << 12);
                table
            } else {
                (entry & ADDRESS) >> 12
            };
        }
        m.put(frame, (gfn / level_pages(level)) as usize % 512, bits);
    }

    /// Writes entries for `frames` of the directmap as `xen_pt_update()` does, with
    /// the largest blocks that alignment and number allow.
    fn by_level(&self, frames: Extent, block: bool, bits: impl Fn(u64, u8) -> u64) {
        let mut mfn = frames.start.get();
        while mfn < frames.end() {
            let fits = |&level: &u8| {
                let pages = level_pages(level);
                mfn.is_multiple_of(pages) && mfn + pages <= frames.end()
            };
            let largest = if block { 1 } else { 3 };
            let level = (largest..=3).find(fits).expect("a page always fits");
            assert!(
                !self.memory.has_table(dm(mfn), level),
                "a table is in the way of a block at {mfn:#x}"
            );
            self.memory.map(dm(mfn), level, bits(mfn, level));
            mfn += level_pages(level);
        }
    }

    pub fn change(&self, id: u16, change: impl FnOnce(&mut Dom)) {
        change(self.doms.borrow_mut().get_mut(&id).expect("a domain"));
    }

    pub fn owned(&self, id: u16) -> BTreeSet<u64> {
        self.doms.borrow()[&id].pages.iter().copied().collect()
    }

    /// Frames of all tables of the stage 2 of a domain, and its leaves.
    pub fn guest(&self, id: u16) -> (BTreeSet<u64>, Vec<Cached>) {
        let root = self.doms.borrow()[&id].domain.root;
        let (mut tables, mut leaves) = (BTreeSet::new(), Vec::new());
        let mut todo: Vec<_> = (0..1 << root.order)
            .map(|i| (root.frame.get() + i, root.level as u8, (i * 512) << 18))
            .collect();
        while let Some((frame, level, gfn)) = todo.pop() {
            tables.insert(frame);
            for (i, &bits) in self.memory.tables.borrow()[&frame].iter().enumerate() {
                let gfn = gfn + i as u64 * level_pages(level);
                if bits >> 55 & 15 != 0 && level < 3 && bits & 2 != 0 {
                    todo.push(((bits & ADDRESS) >> 12, level + 1, gfn));
                } else if bits >> 55 & 15 != 0 {
                    leaves.push(Cached {
                        va: gfn,
                        level,
                        bits,
                    });
                }
            }
        }
        (tables, leaves)
    }

    /// Frames that hold tables of any regime, linked or not.
    pub fn table_frames(&self) -> BTreeSet<u64> {
        let mut all: BTreeSet<u64> = self.memory.live().into_keys().collect();
        all.extend(STATIC..STATIC + STATICS);
        all.extend(self.window_tables.iter());
        for &id in self.doms.borrow().keys() {
            all.extend(self.guest(id).0);
        }
        all
    }

    /// All that must be the same after a failed step: leaves, flags, and what
    /// is allocated. Valid bits of stage 2 do not count.
    pub fn picture(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let guests: Vec<_> = self
            .doms
            .borrow()
            .iter()
            .map(|(id, dom)| {
                let mut leaves = self.guest(*id).1;
                leaves.iter_mut().for_each(|l| l.bits |= 1);
                (*id, dom.domain.flags, leaves)
            })
            .collect();
        let leaves = self.memory.leaves();
        let buffers = self.buffers.borrow().len();
        (leaves, guests, buffers, self.spare.borrow().clone())
    }

    /// Whether the next allocation works.
    fn grant(&self) -> bool {
        assert!(!self.stopped.get(), "an allocation in the rendezvous");
        let n = self.asked.get();
        self.asked.set(n + 1);
        self.fail_at.get() != Some(n) && self.fail_from.get().is_none_or(|from| n < from)
    }

    pub fn ops(&self) -> Vec<Op> {
        self.memory.ops.borrow().clone()
    }
}

impl Tables for Sim {
    fn with<R>(&self, frame: Mfn, look: impl FnOnce(&[u64; ENTRIES]) -> R) -> R {
        self.memory.with(frame, look)
    }
}

impl TablesMut for Sim {
    fn write_all(&self, frame: Mfn, entries: impl Iterator<Item = (usize, u64)>) {
        self.memory.write_all(frame, entries);
    }
}

impl Live for Sim {
    fn flush_all(&self) {
        self.memory.flush_all();
    }

    fn publish(&self) {
        self.memory.publish();
    }
}

impl Machine for Sim {
    fn layout(&self) -> Layout {
        layout()
    }

    fn root(&self) -> Mfn {
        Mfn::new(self.memory.root)
    }

    fn ram(&self) -> &[Extent] {
        &RAM
    }

    fn directmap_all(&self) -> bool {
        self.all
    }

    fn static_table(&self, index: usize) -> Option<Mfn> {
        ((index as u64) < STATICS).then(|| Mfn::new(STATIC + index as u64))
    }

    fn window_table(&self, index: usize) -> Option<Mfn> {
        self.window_tables.get(index).map(|&f| Mfn::new(f))
    }

    fn next_domain(&self, id: u32) -> Option<Domain> {
        let doms = self.doms.borrow();
        doms.values()
            .map(|d| d.domain)
            .find(|d| u32::from(d.id) >= id)
    }

    fn obstacles(&self, domain: &Domain, _: bool) -> Obstacles {
        self.doms.borrow()[&domain.id].obstacles
    }

    fn referenced(&self, frames: Extent, given_up: bool) -> u64 {
        assert!(self.stopped.get());
        let (held, left) = (self.referenced.borrow(), self.given_up.borrow());
        held.iter()
            .chain(left.iter().filter(|_| given_up))
            .filter(|&&f| frames.contains(Mfn::new(f)))
            .count() as u64
    }

    fn owned_pages(&self, domain: &Domain) -> u64 {
        self.doms.borrow()[&domain.id].pages.len() as u64
    }

    fn owns(&self, domain: &Domain, mfn: Mfn) -> bool {
        // Shared info and the like are the domain's by the frame table.
        if XENHEAP.contains(mfn) {
            return true;
        }
        self.doms.borrow()[&domain.id].pages.contains(&mfn.get())
    }

    fn pages(&self, domain: &Domain, visit: &mut dyn FnMut(Extent)) {
        // In pieces of up to five: the fuse has to put them together.
        let doms = self.doms.borrow();
        for run in doms[&domain.id].pages.chunk_by(|a, b| a + 1 == *b) {
            for piece in run.chunks(5) {
                visit(Extent::new(Mfn::new(piece[0]), piece.len() as u64));
            }
        }
    }

    fn shares(&self, domain: &Domain) -> Shares {
        self.doms.borrow()[&domain.id].shares
    }

    fn keep_shares(&self, domain: &Domain, shares: &Shares) {
        assert!(self.stopped.get());
        self.change(domain.id, |d| d.shares = *shares);
    }

    fn set_protected(&self, domain: &Domain) {
        self.memory.log(Op::SetProtected(domain.id));
        self.change(domain.id, |d| d.domain.flags |= DomainFlags::PROTECTED);
    }

    fn cpus_offline(&self) -> u32 {
        self.offline.get()
    }

    fn its_in_use(&self) -> bool {
        self.its.get()
    }

    fn trace_units(&self) -> u32 {
        self.trace_units.get()
    }

    fn iommu_in_use(&self) -> bool {
        self.iommu.get()
    }

    fn needs_firmware(&self) -> bool {
        self.needs_firmware.get()
    }

    fn alloc(&self, bytes: usize) -> Option<*mut u8> {
        self.grant().then(|| {
            let words: &mut [u64] = Box::leak(vec![0; bytes.div_ceil(8)].into_boxed_slice());
            let buffer = words.as_mut_ptr().cast::<u8>();
            self.buffers.borrow_mut().insert(buffer as usize, bytes);
            buffer
        })
    }

    fn free(&self, buffer: *mut u8, bytes: usize) {
        let taken = self.buffers.borrow_mut().remove(&(buffer as usize));
        assert_eq!(taken, Some(bytes), "freed what was not allocated");
    }

    fn alloc_table(&self) -> Option<Mfn> {
        self.grant().then(|| {
            let frame = self.memory.next.get();
            self.memory.fresh();
            // What was on the page before is undefined.
            (0..512).for_each(|i| self.memory.put(frame, i, 0xdead_beef));
            self.spare.borrow_mut().insert(frame);
            Mfn::new(frame)
        })
    }

    fn free_table(&self, table: Mfn) {
        let frame = table.get();
        assert!(self.spare.borrow_mut().remove(&frame), "not allocated");
        let live = self.memory.live();
        assert!(!live.contains_key(&frame), "a linked table is freed");
    }

    fn map_directmap(&self, frames: Extent, block: bool) -> Result<(), Error> {
        if !self.grant() {
            return Err(Error::NoMemory);
        }
        self.by_level(frames, block, |mfn, level| {
            (mfn << 12) | if level == 3 { PAGE } else { BLOCK }
        });
        Ok(())
    }

    fn unmap_directmap(&self, frames: Extent, block: bool) {
        self.by_level(frames, block, |_, _| 0);
    }

    fn directmap_address(&self, mfn: Mfn) -> Vaddr {
        vaddr(dm(mfn.get()))
    }

    fn unmapped_until(&self, va: Vaddr) -> Option<Vaddr> {
        self.memory.unmapped_until(va.get()).map(Vaddr::new)
    }

    fn rendezvous(&self, run: &mut dyn FnMut(&Self) -> Result<(), Error>) -> Result<(), Error> {
        if let Some(race) = self.before_stop.borrow().as_ref() {
            race(self);
        }
        self.memory.log(Op::Stop);
        self.stopped.set(true);
        let result = run(self);
        self.stopped.set(false);
        self.memory.log(Op::Go);
        result
    }

    fn on_every_cpu(&self, run: &(dyn Fn(&Self) -> bool + Sync)) -> bool {
        (0..CPUS).all(|_| run(self))
    }

    fn windows_idle(&self) -> bool {
        assert!(self.stopped.get());
        !self.window_held.get()
    }

    fn clear_windows(&self) {
        assert!(self.stopped.get() && !self.window_held.get());
        self.memory.log(Op::ClearWindows);
        for (i, &table) in self.window_tables.iter().enumerate() {
            if i % TABLES != TABLES - 1 {
                (0..512).for_each(|slot| self.memory.write(table, slot, 0));
            }
        }
    }

    fn destroy_windows(&self) {
        assert!(self.stopped.get());
        self.memory.log(Op::DestroyWindows);
        for &table in self.window_tables[TABLES..]
            .iter()
            .chain(&self.window_tables[..TABLES])
        {
            (0..512).for_each(|slot| self.memory.write(table, slot, 0));
        }
        self.memory.unreachable.set(true);
    }

    fn flush_guests(&self) {
        self.memory.log(Op::FlushGuests);
    }

    fn window_range(&self) -> VaRange {
        let start = layout().windows.start;
        range(start, CPUS * WINDOW_BYTES)
    }

    fn settle(&self, vttbr: u64, first: bool) -> bool {
        assert!(!self.stopped.get() && vttbr != 0);
        self.memory.log(Op::Settle(vttbr));
        first || !self.unlike.get()
    }

    fn freeze(&self, no_smc: bool) -> Result<(), Error> {
        assert!(self.stopped.get());
        self.no_smc.set(Some(no_smc));
        self.memory.log(Op::Freeze);
        if self.freeze_fails.get() {
            return Err(Error::TooManyDomains);
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.clock.set(self.clock.get() + 1000);
        self.clock.get()
    }
}

impl Status for Sim {
    fn undecoded(&self, domain: &Domain) -> (u64, u64) {
        (3, 0x4000_0000 + u64::from(domain.id))
    }

    fn xenheap_free_pages(&self) -> u64 {
        0x1234
    }

    fn debug_build(&self) -> bool {
        true
    }

    fn boot_failed(&self) -> bool {
        self.boot_failed.get()
    }

    fn has_reset(&self) -> bool {
        self.has_reset.get()
    }

    fn window_tlbi(&self) -> u64 {
        0x1_8000_0001
    }

    fn owned_ram(&self, domain: &Domain, gfn: Gfn) -> Option<Mfn> {
        let leaves = self.guest(domain.id).1;
        let leaf = leaves.iter().find(|l| l.va == gfn.get() && l.level == 3)?;
        let mfn = (leaf.bits & ADDRESS) >> 12;
        let own = self.owned(domain.id).contains(&mfn) && leaf.bits >> 55 & 15 == 1;
        own.then(|| Mfn::new(mfn))
    }

    fn share(&self, domain: &Domain, new: &Shares) -> Result<(), Error> {
        let mut shares = self.shares(domain);
        for extent in new.extents() {
            let gfns = |e: &GuestExtent| e.gfn.get()..e.gfn.get() + e.pages;
            let wanted = gfns(extent);
            let mut noted = shares.extents().iter().map(gfns);
            if noted.any(|n| n.start < wanted.end && wanted.start < n.end) {
                return Err(Error::Done);
            }
            shares.push(*extent)?;
        }
        self.change(domain.id, |d| d.shares = shares);
        let leaves = self.guest(domain.id).1;
        for leaf in leaves.iter().filter(|leaf| leaf.level == 3) {
            if new.contains(Mfn::new((leaf.bits & ADDRESS) >> 12)) {
                self.map_guest(&domain.root, leaf.va, 3, leaf.bits | XN);
            }
        }
        Ok(())
    }
}
