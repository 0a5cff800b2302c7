//! Xen's accessors: the [`Machine`] that the fuse runs on in earnest.
//!
//! The C side is `xen/arch/arm/vmf/glue.c`, listed in `asm/vmf_glue.h`. Each
//! accessor is a few lines without policy; structures are shared by layout,
//! and both sides check their size, the glue with `BUILD_BUG_ON`.
#![allow(
    unsafe_code,
    reason = "calls Xen's C functions and reads tables through mapped addresses"
)]

use crate::addr::{ENTRIES, Gfn, Mfn, PAGE_SHIFT, Vaddr};
use crate::commit::Live;
use crate::descriptor::stage1::Stage1;
use crate::error::Error;
use crate::extents::Extent;
use crate::hypercall::Status;
use crate::machine::{Domain, DomainFlags, Machine, Obstacles};
use crate::par;
use crate::plan::VaRange;
use crate::policy::Layout;
use crate::share::{self, Shares};
use crate::stage2::GuestExtent;
use crate::walk::{Tables, TablesMut};
use crate::window::{Hardware, REGION_PAGES, REGIONS, TABLES, WINDOW_BYTES, Window};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use static_assertions::const_assert_eq;

const_assert_eq!(size_of::<Domain>(), 40);
const_assert_eq!(size_of::<GuestExtent>(), 32);
const_assert_eq!(size_of::<Obstacles>(), 12);

unsafe extern "C" {
    fn vmf_c_layout(out: *mut Layout);
    fn vmf_c_root() -> u64;
    fn vmf_c_ram(banks: *mut usize) -> *const Extent;
    fn vmf_c_directmap_all() -> bool;
    fn vmf_c_static_table(index: u32) -> u64;
    fn vmf_c_window(cpu: u32) -> *const Window;
    fn vmf_c_nr_cpus() -> u32;
    fn vmf_c_this_cpu() -> u32;
    fn vmf_c_next_domain(from: u32, out: *mut Domain) -> bool;
    fn vmf_c_obstacles(domid: u16, pages: bool, out: *mut Obstacles);
    fn vmf_c_pages(domid: u16, visit: extern "C" fn(*mut c_void, u64, u64), context: *mut c_void);
    fn vmf_c_owned_pages(domid: u16) -> u64;
    fn vmf_c_set_protected(domid: u16);
    fn vmf_c_frame_protected(mfn: u64) -> bool;
    fn vmf_c_shares(domid: u16, index: u32, out: *mut GuestExtent) -> bool;
    fn vmf_c_keep_shares(domid: u16, list: *const GuestExtent, len: u32);
    fn vmf_c_undecoded(domid: u16, pc: bool) -> u64;
    fn vmf_c_owned_ram(domid: u16, gfn: u64) -> u64;
    fn vmf_c_share(domid: u16, list: *const GuestExtent, len: u32) -> i32;
    fn vmf_c_stray(domid: u16, gfn: u64, mfn: u64, pages: u64);
    fn vmf_c_cpus_offline() -> u32;
    fn vmf_c_its_in_use() -> bool;
    fn vmf_c_iommu_in_use() -> bool;
    fn vmf_c_trace_units() -> u32;
    fn vmf_c_has_reset() -> bool;
    fn vmf_c_boot_failed() -> bool;
    fn vmf_c_alloc(bytes: usize) -> *mut u8;
    fn vmf_c_free(buffer: *mut u8, bytes: usize);
    fn vmf_c_alloc_table() -> u64;
    fn vmf_c_free_table(mfn: u64);
    fn vmf_c_map_directmap(mfn: u64, pages: u64, block: bool) -> i32;
    fn vmf_c_unmap_directmap(mfn: u64, pages: u64, block: bool);
    fn vmf_c_directmap_address(mfn: u64) -> u64;
    fn vmf_c_par(va: u64) -> u64;
    fn vmf_c_referenced(mfn: u64, pages: u64, given_up: bool) -> u64;
    fn vmf_c_owns(domid: u16, mfn: u64) -> bool;
    fn vmf_c_stop_machine(run: extern "C" fn(*mut c_void) -> i32, context: *mut c_void) -> i32;
    fn vmf_c_on_every_cpu(run: extern "C" fn(*mut c_void), context: *mut c_void);
    fn vmf_c_irq_save() -> u64;
    fn vmf_c_irq_restore(flags: u64);
    fn vmf_c_flush_range(va: u64, bytes: u64);
    fn vmf_c_flush_all();
    fn vmf_c_flush_guests();
    fn vmf_c_publish();
    fn vmf_c_freeze(vmid: u16, vttbr: u64) -> bool;
    fn vmf_c_freeze_done(no_smc: bool);
    fn vmf_c_settle(vttbr: u64, first: bool) -> bool;
    fn vmf_c_needs_smc() -> bool;
    fn vmf_c_now() -> u64;
    fn vmf_c_xenheap_free_pages() -> u64;
    fn vmf_c_debug_build() -> bool;
}

/// No such frame (`INVALID_MFN`).
const NO_FRAME: u64 = u64::MAX;
/// `-ESRCH`, `-ENOMEM`, `-EEXIST` and `-ENOSPC` from `vmf_c_share`.
const SHARE_NO_DOMAIN: i32 = -3;
const SHARE_NO_MEMORY: i32 = -12;
const SHARE_EXISTS: i32 = -17;
const SHARE_NO_SPACE: i32 = -28;

/// The machine that Xen runs on. It has no state of its own: all of it is
/// Xen's.
#[derive(Clone, Copy, Debug)]
pub struct Xen;

/// The hardware behind the window at some base.
#[derive(Clone, Copy, Debug)]
pub struct WindowTables;

impl WindowTables {
    fn entry(base: Vaddr, slot: usize) -> *mut u64 {
        let table = Window::system_slot(slot / ENTRIES) as u64;
        let va = base.get() + (table << PAGE_SHIFT) + (slot % ENTRIES) as u64 * 8;
        va as *mut u64
    }
}

impl Hardware for WindowTables {
    fn read(&self, base: Vaddr, slot: usize) -> Stage1 {
        // SAFETY: the system slots of the window at `base` map its tables
        // from `vmf_window_init` on until the window is destroyed.
        Stage1::from_bits(unsafe { Self::entry(base, slot).read_volatile() })
    }

    fn write(&mut self, base: Vaddr, slot: usize, entry: Stage1) {
        // SAFETY: as in `read`; the owner CPU is the only writer.
        unsafe { Self::entry(base, slot).write_volatile(entry.bits()) }
    }

    fn publish(&mut self) {
        Xen.publish();
    }

    fn flush(&mut self, start: Vaddr, bytes: u64) {
        // SAFETY: TLB maintenance has no memory effects; DSB before and after
        // are part of Xen's helper.
        unsafe { vmf_c_flush_range(start.get(), bytes) }
    }

    fn may_map(&self, mfn: Mfn) -> bool {
        // SAFETY: reads the owner of a frame of RAM; any context.
        Xen.ram().iter().any(|bank| bank.contains(mfn))
            && !unsafe { vmf_c_frame_protected(mfn.get()) }
    }
}

/// A frame mapped in this CPU's window for as long as the guard lives.
#[must_use]
struct Mapped {
    va: Vaddr,
}

impl Mapped {
    fn new(mfn: Mfn) -> Self {
        let window = Xen.own_window();
        if let Some(va) = window.find(mfn) {
            return Self { va };
        }
        // SAFETY: balanced by the restore below, on the same CPU.
        let flags = unsafe { vmf_c_irq_save() };
        let va = window.map(&mut WindowTables, mfn);
        // SAFETY: as above.
        unsafe { vmf_c_irq_restore(flags) };
        match va {
            Ok(va) => Self { va },
            Err(refusal) => panic!("frame {:#x} of a table: {refusal:?}", mfn.get()),
        }
    }

    fn entries(&self) -> *mut u64 {
        self.va.get() as *mut u64
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        Xen.own_window().unmap(self.va);
    }
}

impl Xen {
    fn window(&self, cpu: u32) -> Option<&'static Window> {
        // SAFETY: NULL or a window that lives for good. Changed by its own
        // CPU, or in the rendezvous, where that CPU waits: never two at a time.
        unsafe { vmf_c_window(cpu).as_ref() }
    }

    fn own_window(&self) -> &'static Window {
        // SAFETY: plain read of the CPU's number.
        let cpu = unsafe { vmf_c_this_cpu() };
        self.window(cpu).expect("this CPU has a window")
    }

    fn cpus(&self) -> u32 {
        // SAFETY: plain read.
        unsafe { vmf_c_nr_cpus() }
    }

    fn clear_table(&self, table: Mfn) {
        let mapped = Mapped::new(table);
        for index in 0..ENTRIES {
            // SAFETY: `mapped` maps a whole page of entries.
            unsafe { mapped.entries().add(index).write_volatile(0) };
        }
    }
}

impl Tables for Xen {
    fn with<R>(&self, frame: Mfn, look: impl FnOnce(&[u64; ENTRIES]) -> R) -> R {
        let mapped = Mapped::new(frame);
        // SAFETY: the guard keeps a page of entries mapped during `look`;
        // with all domains paused nobody else writes tables, and `look` only
        // writes tables that it does not read.
        look(unsafe { &*mapped.entries().cast() })
    }
}

impl TablesMut for Xen {
    fn write_all(&self, frame: Mfn, entries: impl Iterator<Item = (usize, u64)>) {
        let mapped = Mapped::new(frame);
        let table = mapped.entries();
        for (index, bits) in entries {
            assert!(index < ENTRIES);
            // SAFETY: in range, and aligned as `mapped` is a page.
            unsafe { table.add(index).write_volatile(bits) }
        }
    }
}

impl Live for Xen {
    fn flush_all(&self) {
        // SAFETY: TLB maintenance with its barriers.
        unsafe { vmf_c_flush_all() }
    }

    fn publish(&self) {
        // SAFETY: barriers.
        unsafe { vmf_c_publish() }
    }
}

extern "C" fn visit_pages(context: *mut c_void, mfn: u64, pages: u64) {
    // SAFETY: `Machine::pages` passes a pointer to its visitor, which
    // outlives the call.
    let visit = unsafe { &mut *context.cast::<&mut dyn FnMut(Extent)>() };
    visit(Extent::new(Mfn::new(mfn), pages));
}

/// The closure of a rendezvous and what became of it.
struct Stopped<'a> {
    run: &'a mut dyn FnMut(&Xen) -> Result<(), Error>,
    result: Result<(), Error>,
}

extern "C" fn run_stopped(context: *mut c_void) -> i32 {
    // SAFETY: `Machine::rendezvous` passes a pointer to its `Stopped`; only
    // one CPU runs it.
    let stopped = unsafe { &mut *context.cast::<Stopped>() };
    stopped.result = (stopped.run)(&Xen);
    0
}

/// The closure of a cross-CPU call, and whether it was `true` everywhere.
struct Everywhere<'a> {
    run: &'a (dyn Fn(&Xen) -> bool + Sync),
    failed: core::sync::atomic::AtomicBool,
}

extern "C" fn run_everywhere(context: *mut c_void) {
    // SAFETY: `Machine::on_every_cpu` passes a pointer to its `Everywhere`,
    // which is shared and `Sync`, and waits for all CPUs.
    let everywhere = unsafe { &*context.cast::<Everywhere>() };
    if !(everywhere.run)(&Xen) {
        everywhere
            .failed
            .store(true, core::sync::atomic::Ordering::Release);
    }
}

impl Machine for Xen {
    fn layout(&self) -> Layout {
        let mut layout = MaybeUninit::uninit();
        // SAFETY: the accessor fills all of it.
        unsafe {
            vmf_c_layout(layout.as_mut_ptr());
            layout.assume_init()
        }
    }

    fn root(&self) -> Mfn {
        // SAFETY: reads TTBR0_EL2.
        Mfn::new(unsafe { vmf_c_root() })
    }

    fn ram(&self) -> &[Extent] {
        let mut banks = 0;
        // SAFETY: the accessor returns `banks` extents that are filled at
        // boot and never change after.
        unsafe {
            let first = vmf_c_ram(&mut banks);
            core::slice::from_raw_parts(first, banks)
        }
    }

    fn directmap_all(&self) -> bool {
        // SAFETY: plain read.
        unsafe { vmf_c_directmap_all() }
    }

    fn static_table(&self, index: usize) -> Option<Mfn> {
        // SAFETY: looks into a constant list, any index.
        let frame = unsafe { vmf_c_static_table(index as u32) };
        (frame != NO_FRAME).then(|| Mfn::new(frame))
    }

    fn window_table(&self, index: usize) -> Option<Mfn> {
        let mut left = index;
        for cpu in 0..self.cpus() {
            if let Some(window) = self.window(cpu) {
                if left < TABLES {
                    return Some(window.tables()[left]);
                }
                left -= TABLES;
            }
        }
        None
    }

    fn next_domain(&self, id: u32) -> Option<Domain> {
        let mut domain = MaybeUninit::uninit();
        // SAFETY: the accessor fills all of it when it returns true.
        unsafe { vmf_c_next_domain(id, domain.as_mut_ptr()).then(|| domain.assume_init()) }
    }

    fn obstacles(&self, domain: &Domain, pages: bool) -> Obstacles {
        let mut obstacles = Obstacles::default();
        // SAFETY: the accessor finds the domain itself and fills in numbers.
        unsafe { vmf_c_obstacles(domain.id, pages, &mut obstacles) };
        obstacles
    }

    fn referenced(&self, frames: Extent, given_up: bool) -> u64 {
        // SAFETY: reads the frame table, which has all RAM.
        unsafe { vmf_c_referenced(frames.start.get(), frames.pages, given_up) }
    }

    fn owned_pages(&self, domain: &Domain) -> u64 {
        // SAFETY: plain read of the domain, if it exists.
        unsafe { vmf_c_owned_pages(domain.id) }
    }

    fn owns(&self, domain: &Domain, mfn: Mfn) -> bool {
        // SAFETY: reads the frame table, if the frame is in it.
        unsafe { vmf_c_owns(domain.id, mfn.get()) }
    }

    fn pages(&self, domain: &Domain, visit: &mut dyn FnMut(Extent)) {
        let mut visit: &mut dyn FnMut(Extent) = visit;
        let context = core::ptr::from_mut(&mut visit).cast();
        // SAFETY: `visit_pages` gets back the visitor, during the call only.
        unsafe { vmf_c_pages(domain.id, visit_pages, context) }
    }

    fn shares(&self, domain: &Domain) -> Shares {
        let mut shares = Shares::default();
        let mut extent = MaybeUninit::uninit();
        for index in 0..share::MAX as u32 {
            // SAFETY: the accessor fills all of it when it returns true, with
            // what `share` or `keep_shares` gave it.
            let extent = unsafe {
                vmf_c_shares(domain.id, index, extent.as_mut_ptr()).then(|| extent.assume_init())
            };
            let Some(extent) = extent else { break };
            if shares.push(extent).is_err() {
                break;
            }
        }
        shares
    }

    fn keep_shares(&self, domain: &Domain, shares: &Shares) {
        let list = shares.extents();
        // SAFETY: the accessor copies the list.
        unsafe { vmf_c_keep_shares(domain.id, list.as_ptr(), list.len() as u32) }
    }

    fn set_protected(&self, domain: &Domain) {
        // SAFETY: sets a flag of the domain, if it exists.
        unsafe { vmf_c_set_protected(domain.id) }
    }

    fn stray(&self, domain: &Domain, leaf: &GuestExtent) {
        // SAFETY: prints four numbers.
        unsafe { vmf_c_stray(domain.id, leaf.gfn.get(), leaf.mfn.get(), leaf.pages) }
    }

    fn cpus_offline(&self) -> u32 {
        // SAFETY: plain read.
        unsafe { vmf_c_cpus_offline() }
    }

    fn its_in_use(&self) -> bool {
        // SAFETY: plain read.
        unsafe { vmf_c_its_in_use() }
    }

    fn trace_units(&self) -> u32 {
        // SAFETY: reads what was read from each CPU when it came up.
        unsafe { vmf_c_trace_units() }
    }

    fn iommu_in_use(&self) -> bool {
        // SAFETY: plain read.
        unsafe { vmf_c_iommu_in_use() }
    }

    fn needs_firmware(&self) -> bool {
        // SAFETY: plain reads.
        unsafe { vmf_c_needs_smc() }
    }

    fn alloc(&self, bytes: usize) -> Option<*mut u8> {
        // SAFETY: allocates whole zeroed pages of the xenheap, or NULL.
        let buffer = unsafe { vmf_c_alloc(bytes) };
        (!buffer.is_null()).then_some(buffer)
    }

    fn free(&self, buffer: *mut u8, bytes: usize) {
        // SAFETY: `buffer` came from `alloc` with the same size.
        unsafe { vmf_c_free(buffer, bytes) }
    }

    fn alloc_table(&self) -> Option<Mfn> {
        // SAFETY: allocates a page of the domheap.
        let frame = unsafe { vmf_c_alloc_table() };
        (frame != NO_FRAME).then(|| Mfn::new(frame))
    }

    fn free_table(&self, table: Mfn) {
        // SAFETY: `table` came from `alloc_table` and is not linked.
        unsafe { vmf_c_free_table(table.get()) }
    }

    fn map_directmap(&self, frames: Extent, block: bool) -> Result<(), Error> {
        // SAFETY: maps frames of unprotected domains at their own address.
        match unsafe { vmf_c_map_directmap(frames.start.get(), frames.pages, block) } {
            0 => Ok(()),
            _ => Err(Error::NoMemory),
        }
    }

    fn unmap_directmap(&self, frames: Extent, block: bool) {
        // SAFETY: `frames` were mapped by `map_directmap`, and nobody has
        // been given their address.
        unsafe { vmf_c_unmap_directmap(frames.start.get(), frames.pages, block) }
    }

    fn directmap_address(&self, mfn: Mfn) -> Vaddr {
        // SAFETY: arithmetic.
        Vaddr::new(unsafe { vmf_c_directmap_address(mfn.get()) })
    }

    fn unmapped_until(&self, va: Vaddr) -> Option<Vaddr> {
        // SAFETY: an AT instruction; PAR_EL1 is preserved.
        par::unmapped_until(va, unsafe { vmf_c_par(va.get()) })
    }

    fn rendezvous(&self, run: &mut dyn FnMut(&Self) -> Result<(), Error>) -> Result<(), Error> {
        let mut stopped = Stopped {
            run,
            result: Err(Error::Again),
        };
        let context = core::ptr::from_mut(&mut stopped).cast();
        // SAFETY: `run_stopped` gets back `stopped`, during the call only.
        match unsafe { vmf_c_stop_machine(run_stopped, context) } {
            0 => stopped.result,
            _ => Err(Error::Again),
        }
    }

    fn on_every_cpu(&self, run: &(dyn Fn(&Self) -> bool + Sync)) -> bool {
        let mut everywhere = Everywhere {
            run,
            failed: false.into(),
        };
        let context = core::ptr::from_mut(&mut everywhere).cast();
        // SAFETY: `run_everywhere` gets back `everywhere`; the accessor waits
        // until every CPU is through.
        unsafe { vmf_c_on_every_cpu(run_everywhere, context) };
        !everywhere.failed.into_inner()
    }

    fn windows_idle(&self) -> bool {
        (0..self.cpus())
            .filter_map(|cpu| self.window(cpu))
            .all(|window| window.is_idle())
    }

    fn clear_windows(&self) {
        let own = self.own_window();
        for slot in 0..REGIONS * REGION_PAGES as usize {
            WindowTables.write(own.base(), slot, Stage1::INVALID);
        }
        own.forget();
        // The regions may be filled again at once, so not only at the end.
        self.flush_all();
        // SAFETY: plain read of the CPU's number.
        let this = unsafe { vmf_c_this_cpu() };
        for cpu in (0..self.cpus()).filter(|&cpu| cpu != this) {
            if let Some(window) = self.window(cpu) {
                // Not the last table: the system slots stay.
                for &table in &window.tables()[..TABLES - 1] {
                    self.clear_table(table);
                }
                window.forget();
            }
        }
    }

    fn destroy_windows(&self) {
        // SAFETY: plain read of the CPU's number.
        let this = unsafe { vmf_c_this_cpu() };
        for cpu in (0..self.cpus()).filter(|&cpu| cpu != this) {
            if let Some(window) = self.window(cpu) {
                for &table in window.tables() {
                    self.clear_table(table);
                }
                window.forget();
            }
        }
        let own = self.own_window();
        for slot in 0..REGIONS * REGION_PAGES as usize {
            WindowTables.write(own.base(), slot, Stage1::INVALID);
        }
        own.forget();
        for table in 0..TABLES {
            // The last of them is the slot through which this is written.
            let slot = Window::system_slot(table);
            WindowTables.write(own.base(), slot, Stage1::INVALID);
        }
    }

    fn flush_guests(&self) {
        // SAFETY: TLB maintenance with its barriers.
        unsafe { vmf_c_flush_guests() }
    }

    fn window_range(&self) -> VaRange {
        let start = self.own_window().base().get();
        VaRange {
            start,
            end: start + WINDOW_BYTES,
        }
    }

    fn settle(&self, vttbr: u64, first: bool) -> bool {
        // SAFETY: no vCPU runs on this CPU; what a switch to one loads does
        // not depend on what is there.
        unsafe { vmf_c_settle(vttbr, first) }
    }

    fn freeze(&self, no_smc: bool) -> Result<(), Error> {
        for domain in crate::fuse::domains(self) {
            if !domain.flags.contains(DomainFlags::STAGE2) {
                continue;
            }
            // SAFETY: writes an entry of the frozen page, which is still
            // writable; refuses an index that is out of range.
            if !unsafe { vmf_c_freeze(domain.vmid, domain.vttbr) } {
                return Err(Error::TooManyDomains);
            }
        }
        // SAFETY: as above.
        unsafe { vmf_c_freeze_done(no_smc) };
        Ok(())
    }

    fn now(&self) -> u64 {
        // SAFETY: reads the system time.
        unsafe { vmf_c_now() }
    }
}

impl Status for Xen {
    fn undecoded(&self, domain: &Domain) -> (u64, u64) {
        // SAFETY: plain reads of the domain, if it exists.
        let read = |pc| unsafe { vmf_c_undecoded(domain.id, pc) };
        (read(false), read(true))
    }

    fn xenheap_free_pages(&self) -> u64 {
        // SAFETY: plain read.
        unsafe { vmf_c_xenheap_free_pages() }
    }

    fn boot_failed(&self) -> bool {
        // SAFETY: plain read.
        unsafe { vmf_c_boot_failed() }
    }

    fn has_reset(&self) -> bool {
        // SAFETY: plain read.
        unsafe { vmf_c_has_reset() }
    }

    fn debug_build(&self) -> bool {
        // SAFETY: plain read.
        unsafe { vmf_c_debug_build() }
    }

    fn owned_ram(&self, domain: &Domain, gfn: Gfn) -> Option<Mfn> {
        // SAFETY: looks up the domain's stage 2, if it exists.
        let frame = unsafe { vmf_c_owned_ram(domain.id, gfn.get()) };
        (frame != NO_FRAME).then(|| Mfn::new(frame))
    }

    fn share(&self, domain: &Domain, new: &Shares) -> Result<(), Error> {
        let list = new.extents();
        // SAFETY: the accessor copies the list, and compares it with stage 2.
        match unsafe { vmf_c_share(domain.id, list.as_ptr(), list.len() as u32) } {
            0 => Ok(()),
            SHARE_NO_DOMAIN => Err(Error::NoDomain),
            SHARE_NO_MEMORY => Err(Error::NoMemory),
            SHARE_EXISTS => Err(Error::Done),
            SHARE_NO_SPACE => Err(Error::NoSpace),
            _ => Err(Error::Again),
        }
    }

    fn window_tlbi(&self) -> u64 {
        (0..self.cpus())
            .filter_map(|cpu| self.window(cpu))
            .map(|window| window.tlbi())
            .sum()
    }
}
