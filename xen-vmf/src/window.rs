//! On-demand mapping: the per-CPU window behind `map_domain_page()`.
//!
//! Each CPU owns a piece of EL2 address space, [`WINDOW_BYTES`] long, with
//! [`TABLES`] level-3 tables of its own. It is divided into regions of
//! [`REGION_PAGES`] adjacent pages (64 KiB): mapping one page maps the whole
//! aligned run around it at once, so that loading a kernel or walking a table
//! costs one miss for 16 pages. A region stays mapped after its last user is
//! gone and is found again by a hash of its frame number, which costs no TLB
//! maintenance at all. Only when a region is taken for another run are its
//! entries removed and flushed (break-before-make, Arm ARM D8.16.1).
//!
//! The tables are reached through the window itself: the last level-3 table
//! maps all of them in its first slots (the *system slots*). Nothing else in
//! Xen maps them, and clearing those slots last makes the window unreachable.
//!
//! The translation tables are shared by all CPUs, so another PE may hold a
//! speculative copy of any entry here. Flushes are therefore broadcast to the
//! inner-shareable domain, although only the owner uses the addresses.
//!
//! Frames that must not be mapped (outside RAM, or of a protected domain) are
//! left out of a region; asking for one is an error that names the frame.
//!
//! Context: the owner CPU only, IRQs masked. A mapping lasts until its unmap
//! on the same CPU; Xen does not schedule in between.

use crate::addr::{Mfn, PAGE_SHIFT, PAGE_SIZE, Vaddr};
use crate::descriptor::stage1::Stage1;
use static_assertions::const_assert;

/// Pages of a region.
pub const REGION_PAGES: u64 = 16;
/// Regions of a window.
pub const REGIONS: usize = 128;
/// Level-3 tables of a window: four for the regions, one for the system slots.
pub const TABLES: usize = REGIONS * REGION_PAGES as usize / 512 + 1;
/// Address space that one window takes up.
pub const WINDOW_BYTES: u64 = TABLES as u64 * 512 * PAGE_SIZE;

/// Places that a run of pages may be found in.
const PROBES: usize = 8;
/// Tag of a region that maps nothing.
const EMPTY: u64 = u64::MAX;

const_assert!(REGIONS.is_power_of_two());
const_assert!((TABLES - 1) * 512 == REGIONS * REGION_PAGES as usize);

/// What the window needs from the machine.
pub trait Hardware {
    /// Reads the entry of `slot` (counted through all tables) of the window
    /// at `base`.
    fn read(&self, base: Vaddr, slot: usize) -> Stage1;
    /// Writes an entry; the caller sees to barriers and TLB maintenance.
    fn write(&mut self, base: Vaddr, slot: usize, entry: Stage1);
    /// Makes table writes visible to the walkers of this CPU (DSB, ISB).
    fn publish(&mut self);
    /// Invalidates the TLB entries of all CPUs for the range.
    fn flush(&mut self, start: Vaddr, bytes: u64);
    /// Whether Xen may map the frame.
    fn may_map(&self, mfn: Mfn) -> bool;
}

/// Why a frame was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The frame is outside RAM or belongs to a protected domain.
    Forbidden,
    /// Every region is in use: a caller forgets to unmap.
    Full,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Region {
    /// Number of the run of frames that is mapped here, or [`EMPTY`].
    tag: u64,
    /// Users of the region.
    refs: u32,
}

/// State of one CPU's window.
///
/// # Invariants
/// The entries of a region whose tag is [`EMPTY`] are invalid, and no TLB
/// holds a translation for its addresses.
#[derive(Debug)]
#[repr(C)]
pub struct Window {
    base: Vaddr,
    tlbi: u64,
    tables: [Mfn; TABLES],
    regions: [Region; REGIONS],
}

impl Window {
    /// A window at `base`. Its level-3 tables, in the frames `tables`, are
    /// empty but for the system slots.
    pub const fn new(base: Vaddr, tables: [Mfn; TABLES]) -> Self {
        Self {
            base,
            tlbi: 0,
            tables,
            regions: [Region {
                tag: EMPTY,
                refs: 0,
            }; REGIONS],
        }
    }

    /// First address of the window.
    pub const fn base(&self) -> Vaddr {
        self.base
    }

    /// The frames of its level-3 tables.
    pub const fn tables(&self) -> &[Mfn; TABLES] {
        &self.tables
    }

    /// TLB maintenance sequences issued so far.
    pub const fn tlbi(&self) -> u64 {
        self.tlbi
    }

    /// The slot, counted through all tables, where table `index` is mapped.
    pub const fn system_slot(index: usize) -> usize {
        (TABLES - 1) * 512 + index
    }

    /// Maps `mfn` and returns its address.
    #[inline(always)]
    pub fn map<H: Hardware>(&mut self, hw: &mut H, mfn: Mfn) -> Result<Vaddr, Refusal> {
        let tag = mfn.get() / REGION_PAGES;
        let page = (mfn.get() % REGION_PAGES) as usize;
        let home = (tag ^ (tag >> 7)) as usize;
        for probe in 0..PROBES {
            let index = (home + probe) % REGIONS;
            if self.regions[index].tag == tag {
                let slot = index * REGION_PAGES as usize + page;
                // Left out when the region was filled; free by now?
                if !hw.read(self.base, slot).is_valid() {
                    self.fill_one(hw, slot, mfn)?;
                }
                self.regions[index].refs += 1;
                return Ok(self.address(slot));
            }
        }
        self.miss(hw, mfn, tag, page, home)
    }

    #[cold]
    fn fill_one<H: Hardware>(&self, hw: &mut H, slot: usize, mfn: Mfn) -> Result<(), Refusal> {
        if !hw.may_map(mfn) {
            return Err(Refusal::Forbidden);
        }
        hw.write(self.base, slot, Stage1::page(mfn));
        hw.publish();
        Ok(())
    }

    #[cold]
    fn miss<H: Hardware>(
        &mut self,
        hw: &mut H,
        mfn: Mfn,
        tag: u64,
        page: usize,
        home: usize,
    ) -> Result<Vaddr, Refusal> {
        if !hw.may_map(mfn) {
            return Err(Refusal::Forbidden);
        }
        let near = (0..PROBES).map(|p| (home + p) % REGIONS);
        let index = near
            .clone()
            .find(|&i| self.regions[i].tag == EMPTY)
            .or_else(|| near.clone().find(|&i| self.regions[i].refs == 0))
            .or_else(|| (0..REGIONS).find(|&i| self.regions[i].refs == 0))
            .ok_or(Refusal::Full)?;
        if self.regions[index].tag != EMPTY {
            self.clear(hw, index);
        }
        let first = tag * REGION_PAGES;
        for i in 0..REGION_PAGES {
            let frame = Mfn::new(first + i);
            if hw.may_map(frame) {
                let slot = index * REGION_PAGES as usize + i as usize;
                hw.write(self.base, slot, Stage1::page(frame));
            }
        }
        hw.publish();
        self.regions[index] = Region { tag, refs: 1 };
        Ok(self.address(index * REGION_PAGES as usize + page))
    }

    /// Removes the entries of a region and flushes them.
    fn clear<H: Hardware>(&mut self, hw: &mut H, index: usize) {
        let first = index * REGION_PAGES as usize;
        for slot in first..first + REGION_PAGES as usize {
            hw.write(self.base, slot, Stage1::INVALID);
        }
        hw.flush(self.address(first), REGION_PAGES * PAGE_SIZE);
        self.tlbi += 1;
        self.regions[index].tag = EMPTY;
    }

    /// Ends the use of an address that [`Window::map`] returned. `false` if
    /// the address is not one that is in use.
    #[inline]
    pub fn unmap(&mut self, va: Vaddr) -> bool {
        match self.region_of(va) {
            Some(index) if self.regions[index].refs > 0 => {
                self.regions[index].refs -= 1;
                true
            }
            _ => false,
        }
    }

    /// The frame behind an address that [`Window::map`] returned.
    pub fn frame(&self, va: Vaddr) -> Option<Mfn> {
        let index = self.region_of(va)?;
        let page = (va.get() - self.base.get()) >> PAGE_SHIFT;
        let region = self.regions[index];
        (region.refs > 0).then(|| Mfn::new(region.tag * REGION_PAGES + page % REGION_PAGES))
    }

    /// Whether nobody uses the window.
    pub fn is_idle(&self) -> bool {
        self.regions.iter().all(|r| r.refs == 0)
    }

    /// Forgets every region. The caller has removed the entries, or does so
    /// before anything is mapped again, and flushes all TLBs afterwards.
    pub fn forget(&mut self) {
        for region in &mut self.regions {
            *region = Region {
                tag: EMPTY,
                refs: 0,
            };
        }
    }

    fn address(&self, slot: usize) -> Vaddr {
        Vaddr::new(self.base.get() + ((slot as u64) << PAGE_SHIFT))
    }

    fn region_of(&self, va: Vaddr) -> Option<usize> {
        let offset = va.get().checked_sub(self.base.get())?;
        let index = (offset >> PAGE_SHIFT) as usize / REGION_PAGES as usize;
        (index < REGIONS).then_some(index)
    }
}
