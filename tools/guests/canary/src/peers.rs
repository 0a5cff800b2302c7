//! What takes two domains: event channels and grants. Every argument is in the
//! pages that can be shared, so a protected domain that shares them makes the
//! same hypercalls as any other.
//!
//! A grant is an entry in a page that Xen and the guest both have, the grant
//! table: to give one takes no hypercall, once that page is mapped.
#![allow(
    unsafe_code,
    reason = "pages that others write, and addresses of the device tree"
)]

use core::arch::asm;
use core::cell::Cell;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicU32, Ordering};

use canary_core::peer::Peer;

use bare::clock::Clock;
use bare::hypercall::{DOMID_SELF, Return};
use bare::interrupt::EVENT;
use bare::mmu::{self, Kind};
use bare::public::*;
use bare::say;
use bare::trap::catch;

use crate::actions::{Surroundings, grant_table};
use crate::sharing::{AREAS, ARRAY, LINKED, PAGES, PENDING, Shared, VCPU_INFO};

/// The page that others are granted.
const WORDS: u64 = 1;
/// Where in it what is copied from others arrives, and from where to others.
const FETCHED: u64 = 256;
const SENT: u64 = 512;
/// The first reference that is used here; the others are `grant`'s, and those
/// that are reserved.
const FIRST_REFERENCE: u64 = 16;
/// Where pages of others are mapped: no bank, device or magic page is there.
const GRANTED: u64 = 0x6e_0000_0000;

/// What lasts from one action to the next.
#[derive(Default)]
pub struct Peers {
    /// The next free reference.
    next: Cell<u64>,
    /// The handle of what is mapped.
    mapped: Cell<Option<u32>>,
    /// Interrupts for events up to the last wait.
    seen: Cell<u64>,
}

impl Peers {
    /// Does what it is told.
    pub fn run(&self, name: &str, peer: Peer, around: &Surroundings<'_>) {
        let shared = &around.shared;
        match peer {
            Peer::Port(domain) => {
                let mut unbound = [DOMID_SELF, domain, 0, 0];
                let result = shared.event(EVTCHNOP_ALLOC_UNBOUND, &mut unbound);
                let port = u32::from(unbound[2]) | u32::from(unbound[3]) << 16;
                say!("{name}: {result} port {port}");
            }
            Peer::Bind(domain, port) => {
                let mut bind = [u32::from(domain), port, 0];
                let result = shared.event(EVTCHNOP_BIND_INTERDOMAIN, &mut bind);
                say!("{name}: {result} port {}", bind[2]);
            }
            Peer::Notify(port) => {
                say!("{name}: {}", shared.event(EVTCHNOP_SEND, &mut [port]));
            }
            Peer::Wait(port, seconds) => self.wait(name, port, seconds, around),
            Peer::Table => {
                let gfn = grant_table(around.machine) >> 12;
                // domid, size; space; index; gfn
                let space = u64::from(DOMID_SELF) | u64::from(XENMAPSPACE_GRANT_TABLE) << 32;
                let mut request = [space, 0, gfn];
                let rest = [XENMEM_ADD_TO_PHYSMAP, 0, 0, 0];
                let result = shared.call(HYPERVISOR_MEMORY_OP, 1, &mut request, rest);
                say!("{name}: {result}");
            }
            Peer::Permit(domain, page) => self.permit(name, domain, page, around),
            Peer::Word(value) => word(name, shared.page(WORDS), value),
            Peer::Fetch(domain, reference) => {
                let at = shared.page(WORDS) + FETCHED;
                write(at, 0);
                let granted = [u64::from(reference), domain.into()];
                let own = [at >> 12, u64::from(DOMID_SELF) | FETCHED << 16];
                let (result, status) = copy(shared, granted, own, GNTCOPY_SOURCE_GREF);
                say!("{name}: {result} status {status} word {:#x}", read(at));
            }
            Peer::Put(domain, reference, value) => {
                let at = shared.page(WORDS) + SENT;
                write(at, value);
                let granted = [u64::from(reference), domain.into()];
                let own = [at >> 12, u64::from(DOMID_SELF) | SENT << 16];
                let (result, status) = copy(shared, own, granted, GNTCOPY_DEST_GREF);
                say!("{name}: {result} status {status}");
            }
            Peer::Map(domain, reference) => self.map(name, domain, reference, shared),
            Peer::Mapped(value) => match catch(|| read(GRANTED)) {
                Ok(_) => word(name, GRANTED, value),
                Err(abort) => say!("{name}: {abort}"),
            },
            Peer::Unmap => {
                let Some(handle) = self.mapped.get() else {
                    say!("{name}: nothing is mapped");
                    return;
                };
                // host address, bus address, handle and status
                let mut request = [GRANTED, 0, u64::from(handle)];
                let rest = [GNTTABOP_UNMAP_GRANT_REF, 0, 1, 0];
                let result = shared.call(HYPERVISOR_GRANT_TABLE_OP, 1, &mut request, rest);
                let status = (request[2] >> 32) as i16;
                say!("{name}: {result} status {status}");
            }
        }
    }

    /// Sleeps in Xen until the event comes or the time is over, and takes it.
    fn wait(&self, name: &str, port: u32, seconds: u64, around: &Surroundings<'_>) {
        let (shared, clock) = (&around.shared, around.clock);
        ready_for_more(shared);
        let start = clock.now();
        // Any interrupt ends the poll.
        clock.arm(start + seconds * clock.frequency());
        let result = shared.poll(port);
        clock.disarm();
        while clock.acknowledge() {}
        let took = (clock.now() - start) * 1000 / clock.frequency();
        let pending = event_word(shared, port).fetch_and(!PENDING, Ordering::SeqCst) & PENDING;
        ready_for_more(shared);
        let interrupts = clock.events() - self.seen.replace(clock.events());
        say!(
            "{name}: {result} pending {} interrupts {interrupts} after {took} ms",
            u32::from(pending != 0),
        );
    }

    /// Writes an entry of the grant table.
    fn permit(&self, name: &str, domain: u16, page: u64, around: &Surroundings<'_>) {
        let table = grant_table(around.machine);
        let kinds = [Kind::Normal, Kind::Device];
        if page > PAGES || !kinds.iter().any(|kind| mmu::map(table, 4096, *kind)) {
            say!("{name}: there is no page {page}, or no place for the table");
            return;
        }
        let (reference, gfn) = (
            FIRST_REFERENCE + self.next.replace(self.next.get() + 1),
            around.shared.page(page) >> 12,
        );
        let entry = table + reference * 8;
        // frame, domain, and the flags make it valid: they come last.
        let written = catch(|| {
            // SAFETY: an entry of the grant table, if it is mapped; nothing else
            // is at this address.
            unsafe {
                let at = |offset: u64| (entry + offset) as usize;
                with_exposed_provenance_mut::<u32>(at(4)).write_volatile(gfn as u32);
                with_exposed_provenance_mut::<u16>(at(2)).write_volatile(domain);
                asm!("dmb ishst", options(nostack));
                with_exposed_provenance_mut::<u16>(at(0)).write_volatile(GTF_PERMIT_ACCESS);
            }
        });
        match written {
            Ok(()) => say!("{name}: ref {reference} gfn {gfn:#x} to {domain}"),
            Err(abort) => say!("{name}: {abort}"),
        }
    }

    fn map(&self, name: &str, domain: u16, reference: u32, shared: &Shared) {
        // host address; flags, reference; domain, status, handle; bus address
        let mut request = [
            GRANTED,
            GNTMAP_HOST_MAP | u64::from(reference) << 32,
            u64::from(domain),
            0,
        ];
        let rest = [GNTTABOP_MAP_GRANT_REF, 0, 1, 0];
        let result = shared.call(HYPERVISOR_GRANT_TABLE_OP, 1, &mut request, rest);
        let status = (request[2] >> 16) as i16;
        if result.0 == 0 && status == 0 {
            self.mapped.set(Some((request[2] >> 32) as u32));
            mmu::map(GRANTED, 4096, Kind::Normal);
        }
        say!("{name}: {result} status {status}");
    }
}

fn read(address: u64) -> u64 {
    // SAFETY: memory that is mapped and holds nothing of Rust's, or a trap that
    // the caller catches.
    unsafe { with_exposed_provenance::<u64>(address as usize).read_volatile() }
}

fn write(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) };
}

fn word(name: &str, address: u64, value: Option<u64>) {
    let before = read(address);
    if let Some(value) = value {
        write(address, value);
    }
    say!("{name}: {before:#x}");
}

/// Copies 8 bytes; both ends are a frame or a reference, and domain and offset.
fn copy(shared: &Shared, from: [u64; 2], to: [u64; 2], flags: u64) -> (Return, i16) {
    let mut copy = [from[0], from[1], to[0], to[1], 8 | flags << 16];
    let result = shared.call(
        HYPERVISOR_GRANT_TABLE_OP,
        1,
        &mut copy,
        [GNTTABOP_COPY, 0, 1, 0],
    );
    (result, (copy[4] >> 32) as i16)
}

fn event_word(shared: &Shared, port: u32) -> &AtomicU32 {
    let at = shared.page(ARRAY) + 4 * u64::from(port % 1024);
    // SAFETY: a page of RAM that is mapped for good, and only read and written
    // as atomics from here on.
    unsafe { &*with_exposed_provenance(at as usize) }
}

/// Has the next event come as an interrupt: empties the queues, and takes back
/// what says that there is something in them. What is pending stays so.
fn ready_for_more(shared: &Shared) {
    let area = |offset: u64| shared.page(AREAS) + offset;
    // evtchn_upcall_pending is the first byte of vcpu_info, `ready` the first
    // word of the control block.
    for at in [area(VCPU_INFO), area(0)] {
        // SAFETY: as above.
        let word: &AtomicU32 = unsafe { &*with_exposed_provenance(at as usize) };
        word.store(0, Ordering::SeqCst);
    }
    for port in 0..1024 {
        event_word(shared, port).fetch_and(!LINKED, Ordering::SeqCst);
    }
}

/// Takes interrupts for events from now on.
pub fn listen(clock: &Clock) {
    clock.listen(EVENT);
}
