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
//! What most calls do takes no lock and masks no IRQ: [`Window::find`] and
//! [`Window::unmap`] are one atomic addition to the word of a region, which
//! holds what is mapped there and how many use it. An IRQ that comes in
//! between finds the region in use, and leaves it as it was when it is through.
//! Filling a region is for [`Window::map`], with IRQs masked.
//!
//! Context: the owner CPU only. A mapping lasts until its unmap on the same
//! CPU; Xen does not schedule in between.

use crate::addr::{Mfn, PAGE_SHIFT, PAGE_SIZE, Vaddr};
use crate::descriptor::stage1::Stage1;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};
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
/// Bits of a region's word that count its users.
const USERS: u64 = GAPS - 1;
/// The bit that says that frames of the run were left out.
const GAPS: u64 = 1 << 24;
/// Bits below the tag: the number of the run of frames that is mapped there.
const TAG_SHIFT: u32 = 25;
/// Tag of a region that maps nothing: no frame has so high an address.
const EMPTY: u64 = u64::MAX >> TAG_SHIFT;

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

/// State of one CPU's window. Only that CPU changes it.
///
/// # Invariants
/// The entries of a region whose tag is [`EMPTY`] are invalid, and no TLB
/// holds a translation for its addresses. A region that has users keeps its tag.
#[derive(Debug)]
#[repr(C)]
pub struct Window {
    /// Tag, [`GAPS`] and number of users of each region.
    regions: [AtomicU64; REGIONS],
    base: Vaddr,
    tlbi: AtomicU64,
    tables: [Mfn; TABLES],
}

impl Window {
    /// A window at `base`. Its level-3 tables, in the frames `tables`, are
    /// empty but for the system slots.
    pub const fn new(base: Vaddr, tables: [Mfn; TABLES]) -> Self {
        Self {
            regions: [const { AtomicU64::new(EMPTY << TAG_SHIFT) }; REGIONS],
            base,
            tlbi: AtomicU64::new(0),
            tables,
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
    pub fn tlbi(&self) -> u64 {
        self.tlbi.load(Relaxed)
    }

    /// The slot, counted through all tables, where table `index` is mapped.
    pub const fn system_slot(index: usize) -> usize {
        (TABLES - 1) * 512 + index
    }

    /// The address of `mfn` where its run of frames is mapped, whole, in the
    /// first place of the hash: one more user. IRQs may come.
    #[inline(always)]
    pub fn find(&self, mfn: Mfn) -> Option<Vaddr> {
        let tag = mfn.get() / REGION_PAGES;
        let index = home(tag) % REGIONS;
        // First the user, then the look: nobody takes it away any more.
        let was = self.regions[index].fetch_add(1, Relaxed);
        compiler_fence(SeqCst);
        // Shifted so, nothing of the tag is lost, and GAPS is in the way.
        if was >> (TAG_SHIFT - 1) == tag << 1 {
            return Some(self.address(slot_of(index, mfn)));
        }
        self.regions[index].fetch_sub(1, Relaxed);
        None
    }

    /// Maps `mfn` and returns its address. IRQs masked.
    pub fn map<H: Hardware>(&self, hw: &mut H, mfn: Mfn) -> Result<Vaddr, Refusal> {
        let tag = mfn.get() / REGION_PAGES;
        let near = (0..PROBES).map(|probe| (home(tag) + probe) % REGIONS);
        for index in near.clone() {
            if self.tag(index) == tag {
                let slot = slot_of(index, mfn);
                // Left out when the region was filled; free by now?
                if !hw.read(self.base, slot).is_valid() {
                    self.fill_one(hw, slot, mfn)?;
                }
                self.regions[index].fetch_add(1, Relaxed);
                compiler_fence(SeqCst);
                return Ok(self.address(slot));
            }
        }
        if !hw.may_map(mfn) {
            return Err(Refusal::Forbidden);
        }
        let free = |i: &usize| self.users(*i) == 0;
        let index = near
            .clone()
            .find(|i| self.tag(*i) == EMPTY && free(i))
            .or_else(|| near.clone().find(free))
            .or_else(|| (0..REGIONS).find(free))
            .ok_or(Refusal::Full)?;
        if self.tag(index) != EMPTY {
            self.clear(hw, index);
        }
        self.fill(hw, index, tag);
        Ok(self.address(slot_of(index, mfn)))
    }

    fn fill_one<H: Hardware>(&self, hw: &mut H, slot: usize, mfn: Mfn) -> Result<(), Refusal> {
        if !hw.may_map(mfn) {
            return Err(Refusal::Forbidden);
        }
        hw.write(self.base, slot, Stage1::page(mfn));
        hw.publish();
        Ok(())
    }

    /// Maps run `tag` in an empty region, for one user.
    fn fill<H: Hardware>(&self, hw: &mut H, index: usize, tag: u64) {
        let mut word = tag << TAG_SHIFT | 1;
        for i in 0..REGION_PAGES {
            let frame = Mfn::new(tag * REGION_PAGES + i);
            if hw.may_map(frame) {
                hw.write(self.base, slot_of(index, frame), Stage1::page(frame));
            } else {
                word |= GAPS;
            }
        }
        hw.publish();
        self.regions[index].store(word, Relaxed);
    }

    /// Removes the entries of a region and flushes them.
    fn clear<H: Hardware>(&self, hw: &mut H, index: usize) {
        let first = index * REGION_PAGES as usize;
        for slot in first..first + REGION_PAGES as usize {
            hw.write(self.base, slot, Stage1::INVALID);
        }
        hw.flush(self.address(first), REGION_PAGES * PAGE_SIZE);
        self.tlbi.fetch_add(1, Relaxed);
        self.regions[index].store(EMPTY << TAG_SHIFT, Relaxed);
    }

    /// Ends the use of an address that [`Window::find`] or [`Window::map`]
    /// returned. `false` if the address is not one that is in use. IRQs may
    /// come.
    #[inline(always)]
    pub fn unmap(&self, va: Vaddr) -> bool {
        let Some(index) = self.region_of(va) else {
            return false;
        };
        compiler_fence(SeqCst);
        let used = self.users(index) != 0;
        if used {
            self.regions[index].fetch_sub(1, Relaxed);
        }
        used
    }

    /// The frame behind an address that is in use.
    pub fn frame(&self, va: Vaddr) -> Option<Mfn> {
        let index = self.region_of(va)?;
        let page = (va.get() - self.base.get()) >> PAGE_SHIFT;
        let first = self.tag(index) * REGION_PAGES;
        (self.users(index) > 0).then(|| Mfn::new(first + page % REGION_PAGES))
    }

    /// Whether nobody uses the window.
    pub fn is_idle(&self) -> bool {
        (0..REGIONS).all(|index| self.users(index) == 0)
    }

    /// Forgets every region. The caller has removed the entries, or does so
    /// before anything is mapped again, and flushes all TLBs afterwards.
    pub fn forget(&self) {
        for region in &self.regions {
            region.store(EMPTY << TAG_SHIFT, Relaxed);
        }
    }

    fn tag(&self, index: usize) -> u64 {
        self.regions[index].load(Relaxed) >> TAG_SHIFT
    }

    fn users(&self, index: usize) -> u64 {
        self.regions[index].load(Relaxed) & USERS
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

/// Where the hash looks first for run `tag`, before it is cut to size.
const fn home(tag: u64) -> usize {
    (tag ^ (tag >> 7)) as usize
}

/// The slot of `mfn` in the region with number `index`.
const fn slot_of(index: usize, mfn: Mfn) -> usize {
    index * REGION_PAGES as usize + (mfn.get() % REGION_PAGES) as usize
}
