//! Hypercalls, through xen-sys.
//!
//! The stubs of xen-sys 0.0.0-pre2 declare x16 and the arguments after the
//! first as inputs only, so the compiler may go on using their values. A debug
//! build of Xen overwrites them (`do_trap_hypercall` in xen/arch/arm/traps.c).
//! Here each stub stands alone in a function that is never inlined, and the
//! calling convention takes all of them for lost. The crate has no constants
//! or types for memory_op, grant tables, xen_version and domain ids; those
//! that the canary needs are below.
#![allow(
    unsafe_code,
    reason = "hypercalls are instructions, some read memory by address"
)]

use core::fmt;

use xen_sys::{
    __HYPERVISOR_console_io, __HYPERVISOR_domctl, __HYPERVISOR_event_channel_op,
    __HYPERVISOR_memory_op, __HYPERVISOR_sched_op, __HYPERVISOR_xen_version, CONSOLEIO_write,
    EVTCHNOP_alloc_unbound, EVTCHNOP_send, SCHEDOP_poll, SCHEDOP_yield, evtchn_alloc_unbound_t,
    evtchn_send_t,
};
use xen_vmf_abi::__HYPERVISOR_vmf_op;

use crate::public::*;

/// The calling domain (public/xen.h).
pub const DOMID_SELF: u16 = 0x7ff0;
/// No domain (public/xen.h).
pub const DOMID_INVALID: u16 = 0x7ff4;

/// What a hypercall returned: a value, or a negative errno.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Return(pub i64);

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let name = match -self.0 {
            1 => "EPERM",
            2 => "ENOENT",
            3 => "ESRCH",
            5 => "EIO",
            6 => "ENXIO",
            11 => "EAGAIN",
            12 => "ENOMEM",
            14 => "EFAULT",
            16 => "EBUSY",
            17 => "EEXIST",
            18 => "EXDEV",
            19 => "ENODEV",
            22 => "EINVAL",
            28 => "ENOSPC",
            30 => "EROFS",
            31 => "EMLINK",
            38 => "ENOSYS",
            95 => "EOPNOTSUPP",
            98 => "EADDRINUSE",
            _ => return Ok(()),
        };
        write!(f, " {name}")
    }
}

// SAFETY (of the calls): `op` and its arguments are the caller's, see there.
#[inline(never)]
unsafe fn call2(op: u32, a: u64, b: u64) -> Return {
    // SAFETY: the caller's promise.
    Return(unsafe { xen_sys::hypercall_2(op, a, b) })
}

#[inline(never)]
unsafe fn call3(op: u32, a: u64, b: u64, c: u64) -> Return {
    // SAFETY: the caller's promise.
    Return(unsafe { xen_sys::hypercall_3(op, a, b, c) })
}

#[inline(never)]
unsafe fn call4(op: u32, a: u64, b: u64, c: u64, d: u64) -> Return {
    // SAFETY: the caller's promise.
    Return(unsafe { xen_sys::hypercall_4(op, a, b, c, d) })
}

/// Any hypercall, with its number.
///
/// # Safety
/// What the arguments point to is what the hypercall expects.
pub unsafe fn raw(op: u64, [a, b, c, d]: [u64; 4]) -> Return {
    // SAFETY: the caller's promise.
    unsafe { call4(op as u32, a, b, c, d) }
}

/// `vmf_op`: registers only.
pub fn vmf_op(cmd: u64, domid: u64, arg0: u64, arg1: u64) -> Return {
    // SAFETY: the command touches no memory that Rust knows of.
    unsafe { call4(__HYPERVISOR_vmf_op, cmd, domid, arg0, arg1) }
}

/// `memory_op` with a structure.
///
/// # Safety
/// The command's structure is at `pointer`, and what it points to is valid.
pub unsafe fn memory_op(cmd: u64, pointer: u64) -> Return {
    // SAFETY: the caller's promise.
    unsafe { call2(__HYPERVISOR_memory_op, cmd, pointer) }
}

/// `domctl`.
///
/// # Safety
/// A `struct xen_domctl` is at `pointer`.
pub unsafe fn domctl(pointer: u64) -> Return {
    // SAFETY: the caller's promise; the second argument is not used.
    unsafe { call2(__HYPERVISOR_domctl, pointer, 0) }
}

/// Writes to Xen's own console.
pub fn console_write(text: &str) -> Return {
    // SAFETY: Xen reads `len` bytes at the pointer.
    unsafe {
        call3(
            __HYPERVISOR_console_io,
            u64::from(CONSOLEIO_write),
            text.len() as u64,
            text.as_ptr().expose_provenance() as u64,
        )
    }
}

/// Xen's version: registers only.
pub fn version() -> Return {
    // SAFETY: this sub-command ignores its pointer.
    unsafe { call2(__HYPERVISOR_xen_version, XENVER_VERSION, 0) }
}

/// Asks for the rest of Xen's version, which Xen writes into `buffer`.
pub fn extra_version(buffer: &mut [u8; 16]) -> Return {
    // SAFETY: `xen_extraversion_t` is 16 bytes.
    unsafe {
        call2(
            __HYPERVISOR_xen_version,
            XENVER_EXTRAVERSION,
            buffer.as_mut_ptr().expose_provenance() as u64,
        )
    }
}

/// Yields the CPU: registers only.
pub fn yield_cpu() -> Return {
    // SAFETY: this sub-command ignores its pointer.
    unsafe { call2(__HYPERVISOR_sched_op, u64::from(SCHEDOP_yield), 0) }
}

/// `struct sched_poll`.
#[repr(C)]
struct SchedPoll {
    ports: u64,
    count: u32,
    timeout: u64,
}
const _: () = assert!(size_of::<SchedPoll>() == 24);

/// Polls no event channel until a time that is over: returns at once, having
/// read the structure.
pub fn poll_nothing() -> Return {
    let poll = SchedPoll {
        ports: 0,
        count: 0,
        timeout: 1,
    };
    let pointer = (&raw const poll).expose_provenance() as u64;
    // SAFETY: Xen reads the structure, and nothing behind `ports`.
    unsafe { call2(__HYPERVISOR_sched_op, u64::from(SCHEDOP_poll), pointer) }
}

/// `struct xen_add_to_physmap`.
#[repr(C)]
pub struct AddToPhysmap {
    /// Whose physmap.
    pub domid: u16,
    /// Frames, in some spaces.
    pub size: u16,
    /// `XENMAPSPACE_*`.
    pub space: u32,
    /// Which frame of that space.
    pub index: u64,
    /// Where it goes.
    pub gfn: u64,
}
const _: () = assert!(size_of::<AddToPhysmap>() == 24);

/// Maps the first frame of the own grant table, version 1, at `gfn`.
pub fn map_grant_table(gfn: u64) -> Return {
    let request = AddToPhysmap {
        domid: DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_GRANT_TABLE,
        index: 0,
        gfn,
    };
    let pointer = (&raw const request).expose_provenance() as u64;
    // SAFETY: Xen reads the structure; the caller's gfn is not RAM in use.
    unsafe { call2(__HYPERVISOR_memory_op, XENMEM_ADD_TO_PHYSMAP, pointer) }
}

/// Allocates a port that `remote` may bind.
pub fn alloc_unbound(remote: u16) -> Result<u32, Return> {
    let mut request = evtchn_alloc_unbound_t {
        dom: DOMID_SELF,
        remote_dom: remote,
        port: 0,
    };
    let pointer = (&raw mut request).expose_provenance() as u64;
    // SAFETY: Xen reads and writes the structure.
    let result = unsafe {
        call2(
            __HYPERVISOR_event_channel_op,
            u64::from(EVTCHNOP_alloc_unbound),
            pointer,
        )
    };
    if result.0 == 0 {
        Ok(request.port)
    } else {
        Err(result)
    }
}

/// Sends an event.
pub fn send(port: u32) -> Return {
    let request = evtchn_send_t { port };
    let pointer = (&raw const request).expose_provenance() as u64;
    // SAFETY: Xen reads the structure.
    unsafe {
        call2(
            __HYPERVISOR_event_channel_op,
            u64::from(EVTCHNOP_send),
            pointer,
        )
    }
}

/// `struct xen_remove_from_physmap`.
#[repr(C, align(16))]
struct RemoveFromPhysmap {
    domid: u16,
    gfn: u64,
}
const _: () = assert!(size_of::<RemoveFromPhysmap>() == 16);

/// Has Xen read 16 bytes, and find that there is no such domain: `ESRCH`.
pub fn remove_from_nobody() -> Return {
    let request = RemoveFromPhysmap {
        domid: DOMID_INVALID,
        gfn: 0,
    };
    let pointer = (&raw const request).expose_provenance() as u64;
    // SAFETY: Xen reads the structure.
    unsafe { call2(__HYPERVISOR_memory_op, XENMEM_REMOVE_FROM_PHYSMAP, pointer) }
}

/// Asks for Xen's change set, 64 bytes that Xen writes into `buffer`.
pub fn changeset(buffer: &mut [u8; 64]) -> Return {
    let pointer = buffer.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: `xen_changeset_info_t` is 64 bytes.
    unsafe { call2(__HYPERVISOR_xen_version, XENVER_CHANGESET, pointer) }
}

/// Asks for Xen's command line, of which Xen writes all or the beginning into
/// `buffer`.
pub fn command_line(buffer: &mut [u8; 1024]) -> Return {
    let pointer = buffer.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: `xen_commandline_t` is 1024 bytes.
    unsafe { call2(__HYPERVISOR_xen_version, XENVER_COMMANDLINE, pointer) }
}

/// `struct multicall_entry`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MulticallEntry {
    op: u64,
    result: u64,
    arguments: [u64; 6],
}
const _: () = assert!(size_of::<MulticallEntry>() == 64);

impl MulticallEntry {
    /// A call of [`version`].
    pub fn version() -> Self {
        Self {
            op: __HYPERVISOR_xen_version.into(),
            result: 0,
            arguments: [XENVER_VERSION, 0, 0, 0, 0, 0],
        }
    }
}

/// Makes all these hypercalls, in order.
pub fn multicall(entries: &mut [MulticallEntry]) -> Return {
    let pointer = entries.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: Xen reads the entries and writes their results; the only ones
    // that can be made ignore their pointers.
    unsafe { raw(HYPERVISOR_MULTICALL, [pointer, entries.len() as u64, 0, 0]) }
}

/// One end of a `struct gnttab_copy`.
#[repr(C)]
struct GrantCopyEnd {
    gfn: u64,
    domid: u16,
    offset: u16,
}

/// `struct gnttab_copy`.
#[repr(C)]
pub struct GrantCopy {
    source: GrantCopyEnd,
    destination: GrantCopyEnd,
    len: u16,
    flags: u16,
    status: i16,
}
const _: () = assert!(size_of::<GrantCopy>() == 40);

impl GrantCopy {
    /// The whole of one page of the own RAM to another one.
    ///
    /// `from` and `to` are frames; what is in `to` is lost.
    pub fn page(from: u64, to: u64) -> Self {
        let end = |gfn| GrantCopyEnd {
            gfn,
            domid: DOMID_SELF,
            offset: 0,
        };
        Self {
            source: end(from),
            destination: end(to),
            len: 4096,
            flags: 0,
            status: 0,
        }
    }
}

/// Has Xen copy; returns the status of the copy where the call itself succeeds.
///
/// The destination must be a page that holds nothing.
pub fn grant_copy(copy: &mut GrantCopy) -> Return {
    let pointer = (&raw mut *copy).expose_provenance() as u64;
    // SAFETY: Xen reads and writes the structure; it writes to a page that
    // Rust does not know of.
    let result = unsafe { raw(HYPERVISOR_GRANT_TABLE_OP, [GNTTABOP_COPY, pointer, 1, 0]) };
    match result.0 {
        0 => Return(copy.status.into()),
        _ => result,
    }
}
