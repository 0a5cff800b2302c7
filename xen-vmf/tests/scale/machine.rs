//! A large machine whose work is counted: how many tables are looked at,
//! entries written, pages of lists passed, addresses tried.
//!
//! Tables are real, with the crate's own descriptors, and walked as hardware
//! would; TLBs, the order of things and refusals are not its subject (see
//! `model`). Memory has one bank:
//!
//! | from | what |
//! |---|---|
//! | start | image, static tables at its end, frametable |
//! | after it | frames for tables |
//! | then | domains, in chunks of 2 MiB; one in 64 is mapped page by page |
//! | end | xenheap |
//!
//! Domain 0 controls; each fourth domain is to be protected.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use xen_vmf::addr::{ENTRIES, Mfn, Vaddr, level_bytes, level_pages};
use xen_vmf::commit::Live;
use xen_vmf::descriptor::stage1::Stage1;
use xen_vmf::error::Error;
use xen_vmf::extents::Extent;
use xen_vmf::heap;
use xen_vmf::machine::{Domain, DomainFlags, Machine, Obstacles};
use xen_vmf::plan::VaRange;
use xen_vmf::policy::{Layout, Redistributors};
use xen_vmf::share::Shares;
use xen_vmf::stage2::Root;
use xen_vmf::walk::{Tables, TablesMut};
use xen_vmf::window::{TABLES, WINDOW_BYTES, Window};

const SLOT: u64 = 1 << 39;
const BASE: u64 = 4 * SLOT;
const DIRECTMAP: u64 = 256 * SLOT;
const GIB: u64 = 1 << 18;
/// Pages of a chunk.
pub const CHUNK: u64 = 512;
/// One chunk in so many is mapped page by page in stage 2.
const IN_PAGES: u64 = 64;
const RAM: u64 = GIB;
const IMAGE: Extent = Extent::new(Mfn::new(RAM + 0x200), 64);
const STATICS: u64 = 5;
const FRAMETABLE: u64 = RAM + 0x400;
/// Bytes of the frametable for each page of RAM.
const PAGE_INFO: u64 = 56;
/// Frames that tables are taken from.
const TABLE_FRAMES: u64 = GIB;
/// Attributes of a page of RAM in both stages.
const PAGE: u64 = Stage1::page(Mfn::new(0)).bits();
const S2_RAM: u64 = 1 << 55 | 3;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// What a machine is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// RAM.
    pub gib: u64,
    /// Domains, the control domain among them.
    pub domains: u64,
    /// CPUs.
    pub cpus: u64,
    /// `directmap=yes`.
    pub directmap: bool,
    /// Neighbouring chunks belong to different domains.
    pub scattered: bool,
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tables looked at, 512 entries each.
    pub tables: u64,
    /// Entries written.
    pub written: u64,
    /// Pages of domains' lists passed.
    pub listed: u64,
    /// Domains of Xen's list passed.
    pub passed: u64,
    /// Addresses tried, on each CPU.
    pub tried: u64,
    /// Tables taken.
    pub taken: u64,
    /// Most bytes of lists at a time.
    pub lists: u64,
}

pub struct Large {
    pub shape: Shape,
    work: Cell<Work>,
    tried: Cell<u64>,
    memory: RefCell<Vec<[u64; ENTRIES]>>,
    root: u64,
    windows: Vec<u64>,
    domains: RefCell<Vec<Domain>>,
    ram: [Extent; 1],
    buffers: RefCell<BTreeMap<usize, usize>>,
    clock: Cell<u64>,
}

impl Shape {
    fn pages(&self) -> u64 {
        self.gib * GIB
    }

    fn frametable(&self) -> Extent {
        let pages = (self.pages() * PAGE_INFO).div_ceil(4096);
        Extent::new(Mfn::new(FRAMETABLE), pages.next_multiple_of(CHUNK))
    }

    fn first_table(&self) -> u64 {
        self.frametable().end()
    }

    fn xenheap(&self) -> Extent {
        let pages = heap::xenheap_pages(self.pages() << 12, 0);
        Extent::new(Mfn::new(RAM + self.pages() - pages), pages)
    }

    /// First chunk of domains' memory, and their number.
    fn chunks(&self) -> (u64, u64) {
        let first = self.first_table() + TABLE_FRAMES;
        let number = (self.xenheap().start.get() - first) / CHUNK;
        (first, number - number % self.domains)
    }

    /// Chunks that each domain has.
    pub fn share(&self) -> u64 {
        self.chunks().1 / self.domains
    }

    /// First frame of a domain's chunk.
    pub fn chunk(&self, id: u64, index: u64) -> u64 {
        let number = if self.scattered {
            index * self.domains + id
        } else {
            id * self.share() + index
        };
        self.chunks().0 + number * CHUNK
    }

    /// Which domain has a frame.
    pub fn owner(&self, frame: u64) -> Option<u64> {
        let (first, number) = self.chunks();
        let chunk = frame.checked_sub(first)? / CHUNK;
        (chunk < number).then(|| {
            if self.scattered {
                chunk % self.domains
            } else {
                chunk / self.share()
            }
        })
    }

    /// Whether a domain is to be protected.
    pub fn inside(id: u64) -> bool {
        id % 4 == 1
    }

    /// Guest frame of a chunk.
    pub fn gfn(index: u64) -> u64 {
        GIB + index * CHUNK
    }
}

const fn range(start: u64, bytes: u64) -> VaRange {
    VaRange {
        start,
        end: start + bytes,
    }
}

fn directmap(frame: u64) -> u64 {
    DIRECTMAP + (frame << 12)
}

impl Large {
    pub fn new(shape: Shape) -> Self {
        let mut large = Self {
            shape,
            work: Cell::default(),
            tried: Cell::default(),
            memory: RefCell::default(),
            root: 0,
            windows: Vec::new(),
            domains: RefCell::default(),
            ram: [Extent::new(Mfn::new(RAM), shape.pages())],
            buffers: RefCell::default(),
            clock: Cell::default(),
        };
        large.root = large.fresh();
        let layout = large.layout();
        for page in 0..IMAGE.pages {
            large.map(
                layout.image.start + (page << 12),
                3,
                IMAGE.start.get() + page,
            );
        }
        large.run(layout.frametable.start, shape.frametable(), false);
        large.run(layout.xenheap_va.start, shape.xenheap(), true);
        if shape.directmap {
            let below = shape.xenheap().start.get() - RAM;
            large.run(directmap(RAM), Extent::new(Mfn::new(RAM), below), true);
        }
        for cpu in 0..shape.cpus {
            let base = layout.windows.start + cpu * WINDOW_BYTES;
            for index in 0..TABLES as u64 {
                let at = base + index * level_bytes(2);
                large.set(large.root, at, 3, 0);
                large.windows.push(large.table_at(at));
            }
            for index in 0..TABLES {
                let slot = Window::system_slot(index) as u64;
                let table = large.windows[large.windows.len() - TABLES + index];
                large.map(base + (slot << 12), 3, table);
            }
        }
        (0..shape.domains).for_each(|id| large.domain(id));
        large
    }

    fn domain(&self, id: u64) {
        let root = self.fresh();
        let frame = Mfn::new(root);
        let control = if id == 0 {
            DomainFlags::CONTROL | DomainFlags::HARDWARE
        } else {
            DomainFlags::empty()
        };
        self.domains.borrow_mut().push(Domain {
            id: id as u16,
            vmid: id as u16 + 1,
            flags: control | DomainFlags::BUILT | DomainFlags::STAGE2,
            vttbr: root << 12,
            root: Root {
                frame,
                level: 0,
                order: 0,
                input_bits: 48,
            },
        });
        for index in 0..self.shape.share() {
            let (gfn, first) = (Shape::gfn(index), self.shape.chunk(id, index));
            if index % IN_PAGES == 0 {
                for page in 0..CHUNK {
                    self.set(root, (gfn + page) << 12, 3, S2_RAM | (first + page) << 12);
                }
            } else {
                self.set(root, gfn << 12, 2, S2_RAM & !2 | first << 12);
            }
        }
    }

    /// Maps `frames` from `va` on, in blocks as large as they can be.
    fn run(&self, va: u64, frames: Extent, gigabytes: bool) {
        let (mut at, end) = (frames.start.get(), frames.end());
        while at < end {
            let here = va + ((at - frames.start.get()) << 12);
            let fits = |level: u8| {
                let pages = level_pages(level);
                at.is_multiple_of(pages)
                    && here.is_multiple_of(level_bytes(level))
                    && at + pages <= end
            };
            let level = match (fits(1) && gigabytes, fits(2)) {
                (true, _) => 1,
                (false, true) => 2,
                (false, false) => 3,
            };
            self.map(here, level, at);
            at += level_pages(level);
        }
    }

    fn map(&self, va: u64, level: u8, frame: u64) {
        let kind = if level == 3 { PAGE } else { PAGE & !2 };
        self.set(self.root, va, level, kind | frame << 12);
    }

    /// Sets the entry at `level` for `va`, with new tables above it.
    fn set(&self, root: u64, va: u64, level: u8, bits: u64) {
        let mut frame = root;
        let index = |level| (va / level_bytes(level)) as usize % ENTRIES;
        for above in 0..level {
            let entry = self.entry(frame, index(above));
            frame = if entry & 3 == 3 {
                (entry & ADDRESS) >> 12
            } else {
                assert_eq!(entry, 0, "a block is in the way at {va:#x}");
                let table = self.fresh();
                self.put(frame, index(above), S2_RAM | table << 12);
                table
            };
        }
        self.put(frame, index(level), bits);
    }

    /// The level-3 table for `va`.
    fn table_at(&self, va: u64) -> u64 {
        (0..3).fold(self.root, |frame, level| {
            let entry = self.entry(frame, (va / level_bytes(level)) as usize % ENTRIES);
            (entry & ADDRESS) >> 12
        })
    }

    fn fresh(&self) -> u64 {
        let mut memory = self.memory.borrow_mut();
        memory.push([0; ENTRIES]);
        assert!((memory.len() as u64) < TABLE_FRAMES, "no frame for a table");
        self.shape.first_table() + memory.len() as u64 - 1
    }

    fn place(&self, frame: u64) -> usize {
        (frame - self.shape.first_table()) as usize
    }

    fn entry(&self, frame: u64, index: usize) -> u64 {
        self.memory.borrow()[self.place(frame)][index]
    }

    fn put(&self, frame: u64, index: usize, bits: u64) {
        self.memory.borrow_mut()[self.place(frame)][index] = bits;
    }

    /// What has been done so far.
    pub fn work(&self) -> Work {
        Work {
            tried: self.tried.get(),
            ..self.work.get()
        }
    }

    fn count(&self, count: impl FnOnce(&mut Work)) {
        let mut work = self.work.get();
        count(&mut work);
        self.work.set(work);
    }

    /// Whether a walk ends at a leaf, and at which level it ends.
    fn walk(&self, va: u64) -> (bool, u8) {
        let mut frame = self.root;
        for level in 0..4 {
            let bits = self.entry(frame, (va / level_bytes(level)) as usize % ENTRIES);
            if bits & 1 == 0 || level == 3 || bits & 2 == 0 {
                return (bits & 1 != 0, level);
            }
            frame = (bits & ADDRESS) >> 12;
        }
        unreachable!()
    }

    /// Calls `visit` with the frames of every leaf of Xen's.
    pub fn leaves(&self, visit: &mut dyn FnMut(Extent)) {
        let mut todo = vec![(self.root, 0)];
        while let Some((frame, level)) = todo.pop() {
            for bits in self.memory.borrow()[self.place(frame)] {
                let next = (bits & ADDRESS) >> 12;
                if bits & 1 != 0 && level < 3 && bits & 2 != 0 {
                    todo.push((next, level + 1));
                } else if bits & 1 != 0 {
                    visit(Extent::new(Mfn::new(next), level_pages(level)));
                }
            }
        }
    }

    /// Bytes of lists that have not been given back.
    pub fn kept(&self) -> usize {
        self.buffers.borrow().values().sum()
    }

    /// Frames of tables.
    pub fn tables(&self) -> Extent {
        let number = self.memory.borrow().len() as u64;
        Extent::new(Mfn::new(self.shape.first_table()), number)
    }
}

impl Tables for Large {
    fn with<R>(&self, frame: Mfn, look: impl FnOnce(&[u64; ENTRIES]) -> R) -> R {
        self.count(|work| work.tables += 1);
        let table = self.memory.borrow()[self.place(frame.get())];
        look(&table)
    }
}

impl TablesMut for Large {
    fn write_all(&self, frame: Mfn, entries: impl Iterator<Item = (usize, u64)>) {
        for (index, bits) in entries {
            self.count(|work| work.written += 1);
            self.put(frame.get(), index, bits);
        }
    }
}

impl Live for Large {
    fn flush_all(&self) {}

    fn publish(&self) {}
}

impl Machine for Large {
    fn layout(&self) -> Layout {
        let xenheap = self.shape.xenheap();
        Layout {
            image: range(BASE + (2 << 20), IMAGE.pages << 12),
            fixmap: range(BASE + (10 << 20), 2 << 20),
            vmap: range(BASE + (1 << 30), 1 << 30),
            windows: range(BASE + (2 << 30), 30 << 30),
            frametable: range(BASE + (32 << 30), 32 << 30),
            directmap: range(DIRECTMAP, 10 * SLOT),
            xenheap_va: range(directmap(xenheap.start.get()), xenheap.pages << 12),
            image_frames: IMAGE,
            init_frames: Extent::new(Mfn::new(0), 0),
            frametable_frames: self.shape.frametable(),
            xenheap,
            boot_text: Extent::new(IMAGE.start, 2),
            smc_text: Extent::new(Mfn::new(IMAGE.start.get() + 2), 1),
            frozen: Mfn::new(IMAGE.start.get() + 20),
            redistributors: [Redistributors::default(); 4],
        }
    }

    fn root(&self) -> Mfn {
        Mfn::new(self.root)
    }

    fn ram(&self) -> &[Extent] {
        &self.ram
    }

    fn directmap_all(&self) -> bool {
        self.shape.directmap
    }

    fn static_table(&self, index: usize) -> Option<Mfn> {
        let index = index as u64;
        (index < STATICS).then(|| Mfn::new(IMAGE.end() - STATICS + index))
    }

    fn window_table(&self, index: usize) -> Option<Mfn> {
        self.windows.get(index).map(|&frame| Mfn::new(frame))
    }

    fn next_domain(&self, id: u32) -> Option<Domain> {
        // As Xen's accessor, which goes through its list from the start.
        self.count(|work| work.passed += u64::from(id) + 1);
        self.domains.borrow().get(id as usize).copied()
    }

    fn obstacles(&self, _: &Domain, pages: bool) -> Obstacles {
        if pages {
            self.count(|work| work.listed += self.shape.share() * CHUNK);
        }
        Obstacles::default()
    }

    fn referenced(&self, frames: Extent, _: bool) -> u64 {
        self.count(|work| work.listed += frames.pages);
        0
    }

    fn owned_pages(&self, _: &Domain) -> u64 {
        self.shape.share() * CHUNK
    }

    fn owns(&self, domain: &Domain, mfn: Mfn) -> bool {
        self.shape.owner(mfn.get()) == Some(domain.id.into())
    }

    fn pages(&self, domain: &Domain, visit: &mut dyn FnMut(Extent)) {
        for index in 0..self.shape.share() {
            let first = self.shape.chunk(domain.id.into(), index);
            self.count(|work| work.listed += CHUNK);
            visit(Extent::new(Mfn::new(first), CHUNK));
        }
    }

    fn shares(&self, _: &Domain) -> Shares {
        Shares::default()
    }

    fn keep_shares(&self, _: &Domain, _: &Shares) {}

    fn set_protected(&self, domain: &Domain) {
        let mut domains = self.domains.borrow_mut();
        domains[usize::from(domain.id)].flags |= DomainFlags::PROTECTED;
    }

    fn cpus_offline(&self) -> u32 {
        0
    }

    fn its_in_use(&self) -> bool {
        false
    }

    fn iommu_in_use(&self) -> bool {
        false
    }

    fn trace_units(&self) -> u32 {
        0
    }

    fn needs_firmware(&self) -> bool {
        false
    }

    fn alloc(&self, bytes: usize) -> Option<*mut u8> {
        let words: &mut [u64] = Box::leak(vec![0; bytes.div_ceil(8)].into_boxed_slice());
        let buffer = words.as_mut_ptr().cast::<u8>();
        self.buffers.borrow_mut().insert(buffer as usize, bytes);
        let now = self.kept() as u64;
        self.count(|work| work.lists = work.lists.max(now));
        Some(buffer)
    }

    fn free(&self, buffer: *mut u8, bytes: usize) {
        let taken = self.buffers.borrow_mut().remove(&(buffer as usize));
        assert_eq!(taken, Some(bytes), "freed what was not allocated");
    }

    fn alloc_table(&self) -> Option<Mfn> {
        self.count(|work| work.taken += 1);
        Some(Mfn::new(self.fresh()))
    }

    fn free_table(&self, _: Mfn) {
        self.count(|work| work.taken -= 1);
    }

    fn map_directmap(&self, frames: Extent, _: bool) -> Result<(), Error> {
        let before = self.tables().pages;
        self.run(directmap(frames.start.get()), frames, true);
        let more = self.tables().pages - before;
        self.count(|work| work.taken += more);
        Ok(())
    }

    fn unmap_directmap(&self, _: Extent, _: bool) {
        unreachable!("nothing fails here")
    }

    fn directmap_address(&self, mfn: Mfn) -> Vaddr {
        Vaddr::new(directmap(mfn.get()))
    }

    fn unmapped_until(&self, va: Vaddr) -> Option<Vaddr> {
        self.tried.set(self.tried.get() + 1);
        let (mapped, level) = self.walk(va.get());
        let bytes = level_bytes(level);
        (!mapped).then(|| Vaddr::new((va.get() / bytes + 1) * bytes))
    }

    fn rendezvous(&self, run: &mut dyn FnMut(&Self) -> Result<(), Error>) -> Result<(), Error> {
        run(self)
    }

    /// One stands for all: they do the same, at the same time.
    fn on_every_cpu(&self, run: &(dyn Fn(&Self) -> bool + Sync)) -> bool {
        run(self)
    }

    fn windows_idle(&self) -> bool {
        true
    }

    fn clear_windows(&self) {}

    fn destroy_windows(&self) {
        for &table in &self.windows {
            (0..ENTRIES).for_each(|slot| TablesMut::write(self, Mfn::new(table), slot, 0));
        }
    }

    fn flush_guests(&self) {}

    fn window_range(&self) -> VaRange {
        range(self.layout().windows.start, WINDOW_BYTES)
    }

    fn settle(&self, _: u64, _: bool) -> bool {
        true
    }

    fn freeze(&self, _: bool) -> Result<(), Error> {
        Ok(())
    }

    fn now(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}
