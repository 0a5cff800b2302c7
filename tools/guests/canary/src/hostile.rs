//! What a domain may ask of Xen to get at another's pages, one hypercall after
//! the other. On itself, those that a domain may do to itself succeed.
#![allow(
    unsafe_code,
    reason = "hypercalls read and write structures by address"
)]

use core::ptr::from_mut;

use bare::hypercall::{AddToPhysmap, DOMID_SELF, Return, domctl, memory_op};
use bare::public::*;
use bare::say;

/// `struct xen_memory_reservation`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Reservation {
    extents: u64,
    count: u64,
    order: u32,
    flags: u32,
    domid: u16,
}
const _: () = assert!(size_of::<Reservation>() == 32);

/// `struct xen_memory_exchange`.
#[repr(C)]
struct Exchange {
    from: Reservation,
    to: Reservation,
    done: u64,
}
const _: () = assert!(size_of::<Exchange>() == 72);

/// `struct xen_add_to_physmap_batch`.
#[repr(C)]
struct Batch {
    domid: u16,
    space: u16,
    size: u16,
    foreign: u16,
    indices: u64,
    gfns: u64,
    errors: u64,
}
const _: () = assert!(size_of::<Batch>() == 32);

/// `struct xen_remove_from_physmap`.
#[repr(C)]
struct Remove {
    domid: u16,
    gfn: u64,
}
const _: () = assert!(size_of::<Remove>() == 16);

/// `struct xen_domctl`, as far as it matters here.
#[repr(C)]
struct Domctl {
    cmd: u32,
    version: u32,
    domain: u16,
    pad: [u16; 3],
    rest: [u64; 16],
}
const _: () = assert!(size_of::<Domctl>() == 144);

fn address<T>(of: &mut T) -> u64 {
    from_mut(of).expose_provenance() as u64
}

/// `frame` of `domain` at `at` of the caller.
fn foreign(domain: u16, frame: u64, at: u64) -> Return {
    let (mut index, mut gfn, mut error) = (frame, at, 0i32);
    let mut request = Batch {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GMFN_FOREIGN,
        size: 1,
        foreign: domain,
        indices: address(&mut index),
        gfns: address(&mut gfn),
        errors: address(&mut error),
    };
    // SAFETY: the structure and what it points to outlive the call.
    let result = unsafe { memory_op(XENMEM_ADD_TO_PHYSMAP_BATCH, address(&mut request)) };
    match result.0 {
        0 => Return(error.into()),
        _ => result,
    }
}

fn reservation(domain: u16, extents: u64) -> Reservation {
    Reservation {
        extents,
        count: 1,
        order: 0,
        flags: 0,
        domid: domain,
    }
}

/// Takes the frame from a domain, or gives it one there: how many were.
fn reserve(op: u64, domain: u16, frame: u64) -> Return {
    let mut frame = frame;
    let mut request = reservation(domain, address(&mut frame));
    // SAFETY: as above; the caller's frame holds nothing if it is its own.
    unsafe { memory_op(op, address(&mut request)) }
}

fn exchange(domain: u16, frame: u64) -> Return {
    let (mut from, mut to) = (frame, frame);
    let mut request = Exchange {
        from: reservation(domain, address(&mut from)),
        to: reservation(domain, address(&mut to)),
        done: 0,
    };
    // SAFETY: as above.
    unsafe { memory_op(XENMEM_EXCHANGE, address(&mut request)) }
}

/// Puts the domain's shared info page in the place of its frame.
fn replace(domain: u16, frame: u64) -> Return {
    let mut request = AddToPhysmap {
        domid: domain,
        size: 0,
        space: XENMAPSPACE_SHARED_INFO,
        index: 0,
        gfn: frame,
    };
    // SAFETY: as above.
    unsafe { memory_op(XENMEM_ADD_TO_PHYSMAP, address(&mut request)) }
}

fn remove(domain: u16, frame: u64) -> Return {
    let mut request = Remove {
        domid: domain,
        gfn: frame,
    };
    // SAFETY: as above.
    unsafe { memory_op(XENMEM_REMOVE_FROM_PHYSMAP, address(&mut request)) }
}

fn destroy(domain: u16) -> Return {
    let mut request = Domctl {
        cmd: DOMCTL_DESTROYDOMAIN,
        version: DOMCTL_INTERFACE_VERSION,
        domain,
        pad: [0; 3],
        rest: [0; 16],
    };
    // SAFETY: as above.
    unsafe { domctl(address(&mut request)) }
}

/// Tries all of them, two lines with what came back; `nothing` is a frame of
/// the caller at which there is nothing. On itself the caller replaces and
/// removes that one, and `frame` gets a new page in the end.
pub fn steal(name: &str, domain: u16, frame: u64, nothing: u64) {
    let other = if domain == DOMID_SELF { nothing } else { frame };
    say!(
        "{name}: foreign {}, exchange {}, replace {}, remove {}",
        foreign(domain, frame, nothing),
        exchange(domain, frame),
        replace(domain, other),
        remove(domain, other),
    );
    say!(
        "{name}: destroy {}, decrease {}, populate {}",
        destroy(domain),
        reserve(XENMEM_DECREASE_RESERVATION, domain, frame),
        reserve(XENMEM_POPULATE_PHYSMAP, domain, frame),
    );
}
