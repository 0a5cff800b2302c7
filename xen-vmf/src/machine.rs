//! What the fuse needs from Xen, as a trait.
//!
//! [`crate::xen`] implements it with Xen's accessors; host tests implement it
//! with simulated memory, TLBs and CPUs, and run the same fuse.

use crate::addr::{Mfn, Vaddr};
use crate::commit::Live;
use crate::error::Error;
use crate::extents::Extent;
use crate::plan::VaRange;
use crate::policy::Layout;
use crate::share::Shares;
use crate::stage2::{GuestExtent, Root};
use bitflags::bitflags;

bitflags! {
    /// What is true of a domain.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(transparent)]
    pub struct DomainFlags: u32 {
        /// It may control others.
        const CONTROL = 1 << 0;
        /// It owns the hardware.
        const HARDWARE = 1 << 1;
        /// It is being destroyed.
        const DYING = 1 << 2;
        /// It has been built completely.
        const BUILT = 1 << 3;
        /// Its pages have left the directmap.
        const PROTECTED = 1 << 4;
        /// It has a stage 2.
        const STAGE2 = 1 << 5;
        /// It is dom0, and the device tree asks for its protection.
        const CHOSEN = 1 << 6;
        /// It is part of regions of static shared memory.
        const REGIONS = 1 << 7;
    }
}

/// A domain, as the fuse sees it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Domain {
    /// Domain id.
    pub id: u16,
    /// VMID, index of the domain's entry in the frozen page.
    pub vmid: u16,
    /// What is true of it.
    pub flags: DomainFlags,
    /// VTTBR_EL2 when one of its vCPUs runs.
    pub vttbr: u64,
    /// Root of its stage 2; meaningless without [`DomainFlags::STAGE2`].
    pub root: Root,
}

impl Domain {
    /// Whether it stays outside because it controls others, or owns the hardware.
    pub fn in_control(&self) -> bool {
        let control = DomainFlags::CONTROL | DomainFlags::HARDWARE;
        self.flags.intersects(control) && !self.flags.contains(DomainFlags::CHOSEN)
    }
}

/// How many things of one kind stand in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Obstacles {
    /// Pages that Xen has mapped for PV interfaces of the domain.
    pub pv_pages: u32,
    /// Pages of the domain that somebody else holds a reference to.
    pub shared_pages: u32,
    /// Devices and MMIO ranges assigned to the domain, or 1 for any number.
    pub devices: u32,
}

/// Xen, as the fuse sees it.
///
/// Unless said otherwise, methods are called from the tasklet that carries a
/// fuse command out, on CPU 0, with all domains paused.
pub trait Machine: Live {
    /// Xen's address space.
    fn layout(&self) -> Layout;
    /// Root of the EL2 stage 1 (level 0), from TTBR0_EL2.
    fn root(&self) -> Mfn;
    /// Banks of RAM in ascending order.
    fn ram(&self) -> &[Extent];
    /// Whether all RAM is in the directmap (`directmap=yes`).
    fn directmap_all(&self) -> bool;
    /// Frames of the image that hold tables, linked or not (`boot_pgtable`
    /// and its like): the `index`th, `None` after the last.
    fn static_table(&self, index: usize) -> Option<Mfn>;
    /// The frames of a CPU's window tables: the `index`th, over all CPUs that
    /// ever had a window, online or not. `None` after the last.
    fn window_table(&self, index: usize) -> Option<Mfn>;

    /// The domain with the smallest id from `id` on.
    fn next_domain(&self, id: u32) -> Option<Domain>;
    /// What stands in the way of protecting `domain`. Without `pages` its own
    /// are not looked through, which takes time with their number, but for those
    /// of the xenheap. Any context.
    fn obstacles(&self, domain: &Domain, pages: bool) -> Obstacles;
    /// How many of `frames`, pages of a domain, somebody else refers to, but for
    /// those that have them by static shared memory. Unless told that some may be
    /// `given_up`, each is taken to be one that the domain still has.
    fn referenced(&self, frames: Extent, given_up: bool) -> u64;
    /// Number of pages that `domain` owns. Any context.
    fn owned_pages(&self, domain: &Domain) -> u64;
    /// Whether the frame is a page of `domain`.
    fn owns(&self, domain: &Domain, mfn: Mfn) -> bool;
    /// Calls `visit` for the pages that `domain` owns, adjacent ones together
    /// where Xen's list has them in order.
    fn pages(&self, domain: &Domain, visit: &mut dyn FnMut(Extent));
    /// The pages that `domain` has been told to share, in no order. Any
    /// context.
    fn shares(&self, domain: &Domain) -> Shares;
    /// Replaces that list by a part of it.
    fn keep_shares(&self, domain: &Domain, shares: &Shares);
    /// From now on nothing may map a page of `domain`, but for those that it
    /// shares.
    fn set_protected(&self, domain: &Domain);

    /// Says that `leaf` of `domain` reaches what it must not.
    fn stray(&self, domain: &Domain, leaf: &GuestExtent) {
        let _ = (domain, leaf);
    }

    /// CPUs that are present and not online.
    fn cpus_offline(&self) -> u32;
    /// Whether an ITS is in use.
    fn its_in_use(&self) -> bool;
    /// Whether an IOMMU is in use.
    fn iommu_in_use(&self) -> bool;
    /// CPUs that can write samples or traces to memory (SPE, TRBE).
    fn trace_units(&self) -> u32;
    /// Whether a CPU calls firmware on every entry from a guest, or on some.
    fn needs_firmware(&self) -> bool;

    /// A zeroed page-aligned buffer of at least `bytes` bytes in the xenheap.
    fn alloc(&self, bytes: usize) -> Option<*mut u8>;
    /// Gives a buffer of [`Machine::alloc`] back.
    fn free(&self, buffer: *mut u8, bytes: usize);
    /// A page for a translation table, from the domheap.
    fn alloc_table(&self) -> Option<Mfn>;
    /// Gives an unused table page back.
    fn free_table(&self, table: Mfn);

    /// Maps frames at their address in the directmap, in blocks as far as
    /// alignment and number allow, or in none. Where there is an error, a part
    /// may be mapped.
    fn map_directmap(&self, frames: Extent, block: bool) -> Result<(), Error>;
    /// Removes what [`Machine::map_directmap`] has mapped, in blocks or not.
    fn unmap_directmap(&self, frames: Extent, block: bool);
    /// Address of a frame in the directmap.
    fn directmap_address(&self, mfn: Mfn) -> Vaddr;
    /// Asks this CPU's MMU (`AT S1E2R`) where `va` is not mapped: how far the
    /// entry reaches that is not there, which is where something else may
    /// begin. `None` if `va` is mapped. Any context.
    fn unmapped_until(&self, va: Vaddr) -> Option<Vaddr>;

    /// Whether this CPU can read `va`. Any context.
    fn readable(&self, va: Vaddr) -> bool {
        self.unmapped_until(va).is_none()
    }

    /// Stops all other CPUs and calls `run` with IRQs masked on this one.
    fn rendezvous(&self, run: &mut dyn FnMut(&Self) -> Result<(), Error>) -> Result<(), Error>;
    /// Calls `run` on every online CPU and waits; `false` if one of the calls
    /// returned `false`.
    fn on_every_cpu(&self, run: &(dyn Fn(&Self) -> bool + Sync)) -> bool;
    /// Whether no CPU has anything mapped in its window. In the rendezvous.
    fn windows_idle(&self) -> bool;
    /// Removes every region of every CPU's window, which is idle. In the
    /// rendezvous.
    fn clear_windows(&self);
    /// Removes every entry of every window, the system slots of this CPU's
    /// own window last. Nothing can be mapped on demand any more. In the
    /// rendezvous.
    fn destroy_windows(&self);
    /// Removes all stage-1&2 translations from all TLBs (`TLBI ALLE1IS`).
    fn flush_guests(&self);
    /// Addresses of this CPU's own window: first and last plus one. Any context.
    fn window_range(&self) -> VaRange;
    /// Gives this CPU values of VTTBR_EL2 (`vttbr`, a domain's) and HCR_EL2
    /// that the lock allows: an idle one may hold anything. `false` if it
    /// reads back another HCR_EL2 than the CPU that was `first`. Any CPU,
    /// IRQs masked or not.
    fn settle(&self, vttbr: u64, first: bool) -> bool;
    /// Fills the frozen page: what each vCPU's switch loads from now on, and
    /// that the machine is locked. In the rendezvous. On an error some of the
    /// page may be filled, which means nothing as long as it does not say locked.
    /// With `no_smc`, it says that firmware cannot be called any more.
    fn freeze(&self, no_smc: bool) -> Result<(), Error>;

    /// Nanoseconds since boot.
    fn now(&self) -> u64;
}
