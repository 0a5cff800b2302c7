//! Hypercalls with pointers that no other program of the lab makes.
#![allow(unsafe_code, reason = "hypercalls that read memory by address")]

use crate::Failure;
use crate::memory::{Buffer, PAGE};
use crate::primitive::Primitive;

// Numbers of Xen's public headers.
const MEMORY_OP: u64 = 12;
const HVM_OP: u64 = 34;
const SYSCTL: u64 = 35;
const KEXEC_OP: u64 = 37;
const XENMEM_EXCHANGE: u64 = 11;
const HVMOP_ALTP2M: u64 = 25;
const HVMOP_ALTP2M_INTERFACE: u64 = 1;
const ALTP2M_SET_DOMAIN_STATE: u64 = 2;
const SYSCTL_INTERFACE: u64 = 0x15;
/// `XEN_SYSCTL_cpu_hotplug`.
pub const CPU_HOTPLUG: u64 = 11;
/// `XEN_SYSCTL_livepatch_op`.
pub const LIVEPATCH: u64 = 27;

fn call(primitive: &Primitive, op: u64, arguments: [u64; 5]) -> i64 {
    // SAFETY: the callers pass addresses of pages that they own, each large
    // enough for `op`.
    unsafe { primitive.hypercall(op, arguments) }
}

/// `XENMEM_exchange` of one page (public/memory.h, `struct
/// xen_memory_exchange`): 0, or a negative errno.
pub fn exchange(primitive: &Primitive, domain: u16, gfn: u64) -> Result<i64, Failure> {
    let page = Buffer::new(PAGE as usize)?;
    let lists = page.address() + PAGE / 2;
    page.put(PAGE / 2, gfn);
    page.put(PAGE / 2 + 8, gfn);
    for (at, list) in [(0, lists), (32, lists + 8)] {
        page.put(at, list);
        page.put(at + 8, 1);
        page.put(at + 24, domain.into());
    }
    Ok(call(
        primitive,
        MEMORY_OP,
        [XENMEM_EXCHANGE, page.address(), 0, 0, 0],
    ))
}

/// `HVMOP_altp2m` (public/hvm/hvm_op.h): switches it on for a domain.
pub fn altp2m(primitive: &Primitive, domain: u16) -> Result<i64, Failure> {
    let page = Buffer::new(PAGE as usize)?;
    page.put(0, HVMOP_ALTP2M_INTERFACE | ALTP2M_SET_DOMAIN_STATE << 32);
    page.put(8, domain.into());
    page.put(16, 1);
    Ok(call(
        primitive,
        HVM_OP,
        [HVMOP_ALTP2M, page.address(), 0, 0, 0],
    ))
}

/// A sysctl with arguments that are all zero: 0, or a negative errno.
pub fn sysctl(primitive: &Primitive, cmd: u64) -> Result<i64, Failure> {
    let page = Buffer::new(PAGE as usize)?;
    page.put(0, cmd | SYSCTL_INTERFACE << 32);
    Ok(call(primitive, SYSCTL, [page.address(), 0, 0, 0, 0]))
}

/// `kexec_op`: 0, or a negative errno.
pub fn kexec(primitive: &Primitive) -> Result<i64, Failure> {
    let page = Buffer::new(PAGE as usize)?;
    Ok(call(primitive, KEXEC_OP, [0, page.address(), 0, 0, 0]))
}
