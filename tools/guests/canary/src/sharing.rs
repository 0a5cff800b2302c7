//! Hypercalls with pointers into pages that can be shared with Xen, through
//! xen-vmf-guest. They work before anything is protected, whether or not the
//! pages have been shared, and afterwards if they have.
#![allow(
    unsafe_code,
    reason = "hypercalls read and write structures by address"
)]

use core::cell::RefCell;
use core::ptr::{NonNull, with_exposed_provenance, with_exposed_provenance_mut};

use xen_vmf_guest::{Bounce, PAGE_SIZE, share_arguments};

use bare::hypercall::{DOMID_SELF, Return, raw};
use bare::say;

const MEMORY_OP: u64 = 12;
const MULTICALL: u64 = 13;
const XEN_VERSION: u64 = 17;
const CONSOLE_IO: u64 = 18;
const GRANT_TABLE_OP: u64 = 20;
const VCPU_OP: u64 = 24;
const SCHED_OP: u64 = 29;
const EVENT_CHANNEL_OP: u64 = 32;

const XENVER_EXTRAVERSION: u64 = 1;
const XENMEM_CURRENT_RESERVATION: u64 = 3;
const GNTTABOP_COPY: u64 = 5;
const VCPUOP_REGISTER_RUNSTATE: u64 = 5;
const VCPUOP_REGISTER_VCPU_INFO: u64 = 10;
const SCHEDOP_POLL: u64 = 3;
const EVTCHNOP_BIND_INTERDOMAIN: u64 = 0;
const EVTCHNOP_CLOSE: u64 = 3;
const EVTCHNOP_SEND: u64 = 4;
const EVTCHNOP_STATUS: u64 = 5;
const EVTCHNOP_ALLOC_UNBOUND: u64 = 6;
const EVTCHNOP_UNMASK: u64 = 9;
const EVTCHNOP_INIT_CONTROL: u64 = 11;
const EVTCHNOP_EXPAND_ARRAY: u64 = 12;
const EVTCHNOP_SET_PRIORITY: u64 = 13;

/// Pages that can be shared: two for arguments, one for the event array, one
/// for what else Xen writes.
pub const PAGES: u64 = 4;
/// They begin at a multiple of this.
pub const ALIGNMENT: u64 = 2 << 20;
/// Page of the event array.
const ARRAY: u64 = 2;
/// Page of the control block, and where in it other areas are.
const AREAS: u64 = 3;
const VCPU_INFO: u64 = 1024;
const RUNSTATE: u64 = 2048;

/// The pages.
pub struct Shared {
    start: u64,
    bounce: RefCell<Bounce>,
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
        let bounce = unsafe { Bounce::new(first, 2 * PAGE_SIZE) };
        Self {
            start,
            bounce: RefCell::new(bounce),
        }
    }

    fn page(&self, index: u64) -> u64 {
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
    fn call<T: Copy>(&self, op: u64, place: usize, value: &mut T, rest: [u64; 4]) -> Return {
        let made = self.bounce.borrow_mut().with(value, |_, address| {
            let mut arguments = rest;
            arguments[place] = address;
            // SAFETY: the structure is in the shared pages, and lasts.
            unsafe { raw(op, arguments) }
        });
        made.expect("two pages hold any argument")
    }

    fn event<T: Copy>(&self, sub: u64, value: &mut T) -> Return {
        self.call(EVENT_CHANNEL_OP, 1, value, [sub, 0, 0, 0])
    }

    /// One hypercall of each kind.
    pub fn use_all(&self, name: &str, private: u64) {
        self.version(name);
        self.console(name);
        let mut poll = [0u64, 0, 1];
        let result = self.call(SCHED_OP, 1, &mut poll, [SCHEDOP_POLL, 0, 0, 0]);
        say!("{name}: sched_op {result}");
        self.events(name);
        let mut domain = DOMID_SELF;
        let rest = [XENMEM_CURRENT_RESERVATION, 0, 0, 0];
        let result = self.call(MEMORY_OP, 1, &mut domain, rest);
        say!("{name}: memory_op {result}");
        self.multicall(name);
        self.runstate(name);
        self.copy(name, private);
        self.across(name);
    }

    fn version(&self, name: &str) {
        let mut text = [0u8; 16];
        let rest = [XENVER_EXTRAVERSION, 0, 0, 0];
        let result = self.call(XEN_VERSION, 1, &mut text, rest);
        let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        let text = core::str::from_utf8(&text[..end]).unwrap_or("?");
        say!("{name}: xen_version {result} \"{text}\"");
    }

    fn console(&self, name: &str) {
        let mut text = *b"canary bounces\n";
        let rest = [0, text.len() as u64, 0, 0];
        let result = self.call(CONSOLE_IO, 2, &mut text, rest);
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

    /// Two calls in one, the second with a pointer of its own.
    fn multicall(&self, name: &str) {
        let mut text = [0u8; 16];
        let mut calls = [[0u64; 8]; 2];
        calls[0][0] = XEN_VERSION;
        calls[1][0] = XEN_VERSION;
        calls[1][2] = XENVER_EXTRAVERSION;
        let result = self
            .bounce
            .borrow_mut()
            .with_bytes(&mut text, |bounce, address| {
                calls[1][3] = address;
                let made = bounce.with(&mut calls, |_, list| {
                    // SAFETY: list and text are in the shared pages.
                    unsafe { raw(MULTICALL, [list, 2, 0, 0]) }
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
        let result = self.call(VCPU_OP, 2, &mut { area }, rest);
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
            let result = self.call(GRANT_TABLE_OP, 1, &mut copy, rest);
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
        let result = unsafe { raw(XEN_VERSION, [XENVER_EXTRAVERSION, at, 0, 0]) };
        say!("{name}: across {result}");
    }

    /// Gives Xen areas for good: vcpu_info, and a FIFO event queue.
    pub fn areas(&self, name: &str) {
        let gfn = self.page(AREAS) >> 12;
        let mut info = [gfn, VCPU_INFO];
        let rest = [VCPUOP_REGISTER_VCPU_INFO, 0, 0, 0];
        let info = self.call(VCPU_OP, 2, &mut info, rest);
        // frame; offset and vCPU; link bits
        let control = self.event(EVTCHNOP_INIT_CONTROL, &mut [gfn, 0, 0]);
        let array = self.event(EVTCHNOP_EXPAND_ARRAY, &mut [self.page(ARRAY) >> 12]);
        say!("{name}: vcpu_info {info} control {control} array {array}");
    }
}
