//! Hypercalls with pointers into pages that can be shared with Xen, through
//! xen-vmf-guest. They work before anything is protected, whether or not the
//! pages have been shared, and afterwards if they have.
#![allow(
    unsafe_code,
    reason = "hypercalls read and write structures by address"
)]

use core::cell::{Cell, RefCell};
use core::ptr::{NonNull, with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{
    AtomicU8, AtomicU32, AtomicUsize,
    Ordering::{AcqRel, Relaxed, SeqCst},
};

use xen_vmf_guest::{Bounce, PAGE_SIZE, share_arguments};

use bare::hypercall::{DOMID_SELF, Return, raw};
use bare::public::*;
use bare::say;

/// Pages that can be shared: one for arguments, one for what is copied and for
/// other domains, one for the event array, one for what else Xen writes.
pub const PAGES: u64 = 4;
/// They begin at a multiple of this.
pub const ALIGNMENT: u64 = 2 << 20;
/// Page of the event array.
pub const ARRAY: u64 = 2;
/// Page of the control block, and where in it other areas are.
pub const AREAS: u64 = 3;
pub const VCPU_INFO: u64 = 1024;
const RUNSTATE: u64 = 2048;
/// Where in it the port is to which events are sent.
const PORT: usize = 3072;
/// Bits of an event word (public/event_channel.h): pending; linked, with the link.
pub const PENDING: u32 = 1 << 31;
pub const LINKED: u32 = 1 << 29 | 0x1_ffff;

/// The pages.
pub struct Shared {
    start: u64,
    bounce: RefCell<Bounce>,
    /// Xen has the canary's vcpu_info there.
    has_info: Cell<bool>,
}

impl Shared {
    /// [`PAGES`] pages from `start` on.
    ///
    /// # Safety
    /// They are RAM, mapped at their own address, and used by nothing else. The
    /// page behind them holds nothing.
    pub unsafe fn new(start: u64) -> Self {
        let first = NonNull::new(with_exposed_provenance_mut(start as usize));
        let first = first.expect("the device tree has no RAM at 0");
        // SAFETY: the caller's promise.
        unsafe { first.write_bytes(0, PAGES as usize * PAGE_SIZE) };
        // SAFETY: the caller's promise. They need not be shared to be used.
        let bounce = unsafe { Bounce::new(first, PAGE_SIZE) };
        Self {
            start,
            bounce: RefCell::new(bounce),
            has_info: Cell::new(false),
        }
    }

    /// The address of a page.
    pub fn page(&self, index: u64) -> u64 {
        self.start + index * PAGE_SIZE as u64
    }

    /// Shares the pages.
    pub fn share(&self, name: &str) {
        let gfn = self.start >> 12;
        let (op, arguments) = share_arguments(gfn, PAGES);
        // SAFETY: registers only.
        let result = unsafe { raw(op, arguments) };
        say!("{name}: {result} gfn {gfn:#x} pages {PAGES}");
    }

    /// A hypercall whose argument at `place` is the address of `value`.
    pub fn call<T: Copy>(&self, op: u64, place: usize, value: &mut T, rest: [u64; 4]) -> Return {
        let made = self.bounce.borrow_mut().with(value, |_, address| {
            let mut arguments = rest;
            arguments[place] = address;
            // SAFETY: the structure is in the shared pages, and lasts.
            unsafe { raw(op, arguments) }
        });
        made.expect("a page holds any argument")
    }

    /// A hypercall about event channels.
    pub fn event<T: Copy>(&self, sub: u64, value: &mut T) -> Return {
        self.call(HYPERVISOR_EVENT_CHANNEL_OP, 1, value, [sub, 0, 0, 0])
    }

    /// Ends the own domain for this reason.
    pub fn shutdown(&self, reason: u32) -> Return {
        self.call(
            HYPERVISOR_SCHED_OP,
            1,
            &mut { reason },
            [SCHEDOP_SHUTDOWN, 0, 0, 0],
        )
    }

    /// Starts a watchdog that ends the domain after this time; returns its number.
    pub fn watchdog(&self, seconds: u32) -> Return {
        // `struct sched_watchdog`: the id (0 makes a new one), the timeout.
        let rest = [SCHEDOP_WATCHDOG, 0, 0, 0];
        self.call(HYPERVISOR_SCHED_OP, 1, &mut [0, seconds], rest)
    }

    /// Blocks until something comes through the port, or an interrupt.
    pub fn poll(&self, port: u32) -> Return {
        let mut bounce = self.bounce.borrow_mut();
        let result = bounce.with(&mut { port }, |bounce, ports| {
            // `struct sched_poll`: ports, how many, until when (0: for ever)
            let made = bounce.with(&mut [ports, 1, 0], |_, address| {
                // SAFETY: both are in the shared pages, and last.
                unsafe { raw(HYPERVISOR_SCHED_OP, [SCHEDOP_POLL, address, 0, 0]) }
            });
            made.expect("room")
        });
        result.expect("room")
    }

    /// One hypercall of each kind.
    pub fn use_all(&self, name: &str, private: u64) {
        self.version(name);
        self.console(name);
        let mut poll = [0u64, 0, 1];
        let result = self.call(HYPERVISOR_SCHED_OP, 1, &mut poll, [SCHEDOP_POLL, 0, 0, 0]);
        say!("{name}: sched_op {result}");
        self.events(name);
        let mut domain = DOMID_SELF;
        let rest = [XENMEM_CURRENT_RESERVATION, 0, 0, 0];
        let result = self.call(HYPERVISOR_MEMORY_OP, 1, &mut domain, rest);
        say!("{name}: memory_op {result}");
        self.multicall(name);
        self.runstate(name);
        self.copy(name, private);
        self.across(name);
    }

    fn version(&self, name: &str) {
        let mut text = [0u8; 16];
        let rest = [XENVER_EXTRAVERSION, 0, 0, 0];
        let result = self.call(HYPERVISOR_XEN_VERSION, 1, &mut text, rest);
        let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        let text = core::str::from_utf8(&text[..end]).unwrap_or("?");
        say!("{name}: xen_version {result} \"{text}\"");
    }

    fn console(&self, name: &str) {
        let mut text = *b"canary bounces\n";
        let rest = [0, text.len() as u64, 0, 0];
        let result = self.call(HYPERVISOR_CONSOLE_IO, 2, &mut text, rest);
        say!("{name}: console_io {result}");
    }

    /// A port to itself: allocated, bound, and a message through it.
    fn events(&self, name: &str) {
        let mut unbound = [DOMID_SELF, DOMID_SELF, 0, 0];
        let allocated = self.event(EVTCHNOP_ALLOC_UNBOUND, &mut unbound);
        let port = u32::from(unbound[2]) | u32::from(unbound[3]) << 16;
        // remote domain, remote port, local port
        let mut bind = [u32::from(DOMID_SELF), port, 0];
        let bound = self.event(EVTCHNOP_BIND_INTERDOMAIN, &mut bind);
        let local = bind[2];
        let priority = self.event(EVTCHNOP_SET_PRIORITY, &mut [port, 3]);
        let unmask = self.event(EVTCHNOP_UNMASK, &mut [port]);
        // SAFETY: a page of RAM that is mapped; nobody else writes it but Xen.
        let word = || unsafe {
            let at = self.page(ARRAY) + 4 * u64::from(port);
            with_exposed_provenance::<u32>(at as usize).read_volatile()
        };
        let before = word() >> 31;
        let sent = self.event(EVTCHNOP_SEND, &mut [local]);
        // domain, port; status, vcpu; union
        let mut status = [u32::from(DOMID_SELF), port, 0, 0, 0, 0];
        let asked = self.event(EVTCHNOP_STATUS, &mut status);
        say!(
            "{name}: event_channel alloc {allocated} bind {bound} priority {priority} unmask {unmask} send {sent} status {asked} is {} pending {before} {}",
            status[2],
            word() >> 31,
        );
        let closed = [port, local].map(|port| self.event(EVTCHNOP_CLOSE, &mut [port]));
        say!("{name}: event_channel close {} {}", closed[0], closed[1]);
    }

    /// Cleans the data cache for a frame of the machine.
    pub fn clean(&self, name: &str, frame: u64) {
        // machine address; offset, length, what is done
        let mut request = [
            frame << 12,
            (PAGE_SIZE as u64) << 16 | GNTTAB_CACHE_CLEAN << 32,
        ];
        let rest = [GNTTABOP_CACHE_FLUSH, 0, 1, 0];
        let result = self.call(HYPERVISOR_GRANT_TABLE_OP, 1, &mut request, rest);
        say!("{name}: {result}");
    }

    /// Takes an event from a port: whether there was one. The queue is that of
    /// [`Shared::areas`], whose head nobody looks at.
    pub fn take(&self, name: &str, port: u32) {
        let at = self.page(ARRAY) + 4 * u64::from(port);
        let word = with_exposed_provenance::<AtomicU32>(at as usize);
        // SAFETY: in a page of RAM that is mapped; an atomic may be shared.
        let old = unsafe { &*word }.fetch_and(!PENDING, AcqRel);
        say!(
            "{name}: port {port} pending {}",
            u32::from(old & PENDING != 0)
        );
    }

    /// Two calls in one, the second with a pointer of its own.
    fn multicall(&self, name: &str) {
        let mut text = [0u8; 16];
        let mut calls = [[0u64; 8]; 2];
        calls[0][0] = HYPERVISOR_XEN_VERSION;
        calls[1][0] = HYPERVISOR_XEN_VERSION;
        calls[1][2] = XENVER_EXTRAVERSION;
        let result = self
            .bounce
            .borrow_mut()
            .with_bytes(&mut text, |bounce, address| {
                calls[1][3] = address;
                let made = bounce.with(&mut calls, |_, list| {
                    // SAFETY: list and text are in the shared pages.
                    unsafe { raw(HYPERVISOR_MULTICALL, [list, 2, 0, 0]) }
                });
                made.expect("room")
            });
        let result = result.expect("room");
        say!(
            "{name}: multicall {result} results {} {} byte {}",
            calls[0][1],
            calls[1][1] as i64,
            text[0]
        );
    }

    /// Has Xen write the runstate of this vCPU into the last page.
    fn runstate(&self, name: &str) {
        let area = self.page(AREAS) + RUNSTATE;
        let rest = [VCPUOP_REGISTER_RUNSTATE, 0, 0, 0];
        let result = self.call(HYPERVISOR_VCPU_OP, 2, &mut { area }, rest);
        // SAFETY: RAM, mapped. The second word is when the state was entered.
        let entered = unsafe { with_exposed_provenance::<u64>(area as usize + 8).read_volatile() };
        say!("{name}: runstate {result} written {}", entered != 0);
    }

    /// Grant copies of 16 bytes: inside the shared pages, and from them to a
    /// private page.
    fn copy(&self, name: &str, private: u64) {
        let from = self.page(1) + 2048;
        for (what, to) in [("shared", from + 64), ("private", private)] {
            let bytes = |address: u64| with_exposed_provenance_mut::<[u8; 16]>(address as usize);
            // SAFETY: RAM that is mapped, where nothing else is.
            unsafe {
                bytes(from).write_volatile(*b"a canary's song\n");
                bytes(to).write_volatile([0; 16]);
            }
            let pointer = |address: u64| {
                [
                    address >> 12,
                    u64::from(DOMID_SELF) | (address & 0xfff) << 16,
                ]
            };
            let ([a, b], [c, d]) = (pointer(from), pointer(to));
            // Both by frame (GNTCOPY_* flags 0), 16 bytes.
            let mut copy = [a, b, c, d, 16];
            let rest = [GNTTABOP_COPY, 0, 1, 0];
            let result = self.call(HYPERVISOR_GRANT_TABLE_OP, 1, &mut copy, rest);
            let status = (copy[4] >> 32) as i16;
            // SAFETY: as above.
            let arrived = unsafe { bytes(to).read_volatile() == *b"a canary's song\n" };
            say!("{name}: copy {what} {result} status {status} arrived {arrived}");
        }
    }

    /// A buffer of which the second half is in the page behind.
    fn across(&self, name: &str) {
        let at = self.page(PAGES) - 8;
        // SAFETY: the page behind holds nothing.
        let result = unsafe { raw(HYPERVISOR_XEN_VERSION, [XENVER_EXTRAVERSION, at, 0, 0]) };
        say!("{name}: across {result}");
    }

    /// Gives Xen areas for good: vcpu_info, and a FIFO event queue.
    pub fn areas(&self, name: &str) {
        let gfn = self.page(AREAS) >> 12;
        let mut info = [gfn, VCPU_INFO];
        let rest = [VCPUOP_REGISTER_VCPU_INFO, 0, 0, 0];
        let info = self.call(HYPERVISOR_VCPU_OP, 2, &mut info, rest);
        // frame; offset and vCPU; link bits
        let control = self.event(EVTCHNOP_INIT_CONTROL, &mut [gfn, 0, 0]);
        let array = self.event(EVTCHNOP_EXPAND_ARRAY, &mut [self.page(ARRAY) >> 12]);
        self.has_info.set(self.has_info.get() || info.0 == 0);
        say!("{name}: vcpu_info {info} control {control} array {array}");
    }

    /// Takes back evtchn_upcall_pending, the first byte of vcpu_info, with which
    /// Xen does not let a vCPU sleep (WFI). What is in the queues stays there.
    pub fn let_sleep(&self) {
        if self.has_info.get() {
            let at = self.page(AREAS) + VCPU_INFO;
            // SAFETY: in a page that is RAM, mapped, and used for nothing else.
            let pending = unsafe { &*with_exposed_provenance::<AtomicU8>(at as usize) };
            pending.store(0, SeqCst);
        }
    }

    /// Offers a domain a port to bind.
    pub fn offer(&self, domain: u16) -> Result<u32, Return> {
        let mut unbound = [DOMID_SELF, domain, 0, 0];
        let result = self.event(EVTCHNOP_ALLOC_UNBOUND, &mut unbound);
        let port = u32::from(unbound[2]) | u32::from(unbound[3]) << 16;
        if result.0 == 0 { Ok(port) } else { Err(result) }
    }

    /// Binds a port that a domain may have offered; returns the own one.
    pub fn accept(&self, domain: u16, port: u32) -> Option<u32> {
        // remote domain, remote port, local port
        let mut bind = [u32::from(domain), port, 0];
        let result = self.event(EVTCHNOP_BIND_INTERDOMAIN, &mut bind);
        (result.0 == 0).then_some(bind[2])
    }
}

/// A port with its event word, and the areas that tell of it: what a handler
/// of events touches.
pub struct Bell {
    areas: AtomicUsize,
    word: AtomicUsize,
}

impl Bell {
    /// One that hangs nowhere yet.
    pub const fn new() -> Self {
        Self {
            areas: AtomicUsize::new(0),
            word: AtomicUsize::new(0),
        }
    }

    /// Events of `port` are heard, and sent through it.
    pub fn hang(&self, shared: &Shared, port: u32) {
        let areas = shared.page(AREAS) as usize;
        let word = shared.page(ARRAY) as usize + 4 * port as usize;
        // SAFETY: in a page that is RAM, mapped, and used for nothing else there.
        unsafe { with_exposed_provenance_mut::<u32>(areas + PORT).write_volatile(port) };
        self.areas.store(areas, Relaxed);
        self.word.store(word, Relaxed);
    }

    /// Takes the one event that there is out of the queue (FIFO
    /// ABI: public/event_channel.h).
    pub fn hear(&self) {
        let (areas, word) = (self.areas.load(Relaxed), self.word.load(Relaxed));
        // Not hung yet: it is the event of another port.
        if areas == 0 {
            return;
        }
        let atomic = |address: usize| with_exposed_provenance::<AtomicU32>(address);
        // SAFETY: `hang` was told of these pages; Xen writes them atomically.
        unsafe {
            with_exposed_provenance_mut::<u8>(areas + VCPU_INFO as usize).write_volatile(0);
            (*atomic(areas)).store(0, SeqCst);
            (*atomic(word)).fetch_and(!(PENDING | LINKED), SeqCst);
        }
    }

    /// Sends an event.
    pub fn ring(&self) {
        let at = self.areas.load(Relaxed) + PORT;
        // SAFETY: `hang` has put the port there.
        let _ = unsafe {
            raw(
                HYPERVISOR_EVENT_CHANNEL_OP,
                [EVTCHNOP_SEND, at as u64, 0, 0],
            )
        };
    }
}
