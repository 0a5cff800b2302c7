//! What this configuration of Xen lacks, asked for all the same; and introspection
//! (`vm_event`), which Xen 4.20 has on Arm whatever is configured.

use zerocopy::{Immutable, IntoBytes, KnownLayout};

use crate::domains::{domctl, sysctl};
use crate::public::{
    DOMCTL_MONITOR_OP, DOMCTL_VM_EVENT_OP, HVM_PARAM_MONITOR_RING_PFN, HVMOP_SET_PARAM,
    HYPERVISOR_GRANT_TABLE_OP, HYPERVISOR_HVM_OP, HYPERVISOR_MEMORY_OP,
};
use crate::xen::{Failure, Xen};

/// Hypercalls by number (public/xen.h), with a first argument that they would know.
const HYPERCALLS: [(&str, u32, u64); 6] = [
    ("nmi_op", 28, 0),
    ("xenoprof_op", 31, 0),
    ("kexec_op", 37, 0),
    ("argo_op", 39, 1),
    ("xenpmu_op", 40, 0),
    ("dm_op", 41, 0),
];
/// Of memory_op (public/memory.h).
const MEMORY: [(&str, u64); 3] = [("paging_op", 20), ("access_op", 21), ("sharing_op", 22)];
/// Of sysctl (public/sysctl.h).
const SYSCTLS: [(&str, u32); 6] = [
    ("perfc_op", 5),
    ("cpu_hotplug", 11),
    ("lockprof_op", 15),
    ("coverage_op", 20),
    ("livepatch_op", 27),
    ("dt_overlay", 30),
];
/// Of domctl (public/domctl.h), on another domain.
const DOMCTLS: [(&str, u32); 3] = [
    ("debug_op", 54),
    ("audit_p2m", 65),
    ("gdbsx_guestmemio", 1000),
];
/// HVMOP_altp2m.
const ALTP2M: u64 = 25;
/// Of grant_table_op (public/grant_table.h); the version is its argument.
const GNTTABOP_SET_VERSION: u64 = 8;

/// Asks for everything that is not there: `name=ERRNO`, or `name=done`.
pub fn all(xen: &Xen, domain: u16) -> Result<String, Failure> {
    let mut words = Vec::new();
    let mut note = |name: &str, result: Result<(), Failure>| {
        let what = result.err().map_or("done", |failure| failure.name());
        words.push(format!("{name}={what}"));
    };
    let mut buffer = xen.buffer(4096)?;
    for (name, op, first) in HYPERCALLS {
        let arguments = [first, buffer.address(), 0, 0, 0];
        let result = xen.with(name, op, arguments, &mut [&mut buffer]);
        note(name, result.map(drop));
    }
    for (name, op) in MEMORY {
        buffer.bytes_mut().fill(0);
        let arguments = [op, buffer.address(), 0, 0, 0];
        let result = xen.with(name, HYPERVISOR_MEMORY_OP, arguments, &mut [&mut buffer]);
        note(name, result.map(drop));
    }
    buffer.bytes_mut().fill(0);
    let arguments = [ALTP2M, buffer.address(), 0, 0, 0];
    let result = xen.with("altp2m", HYPERVISOR_HVM_OP, arguments, &mut [&mut buffer]);
    note("altp2m", result.map(drop));
    buffer.put(&2u32);
    let arguments = [GNTTABOP_SET_VERSION, buffer.address(), 1, 0, 0];
    let (op, buffers) = (HYPERVISOR_GRANT_TABLE_OP, &mut [&mut buffer]);
    let result = xen.with("grant_tables_v2", op, arguments, buffers);
    note("grant_tables_v2", result.map(drop));
    for (name, op) in SYSCTLS {
        note(name, sysctl(xen, name, op, &[0u64; 4], &mut []).map(drop));
    }
    for (name, op) in DOMCTLS {
        note(name, domctl(xen, name, op, domain, &[0u64; 4]).map(drop));
    }
    Ok(words.join(" "))
}

/// `struct xen_hvm_param`.
#[derive(IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct HvmParam {
    domid: u16,
    pad: u16,
    index: u32,
    value: u64,
}

/// `struct xen_domctl_vm_event_op`.
#[derive(IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct VmEventOp {
    op: u32,
    mode: u32,
    port: u32,
    pad: u32,
}

/// XEN_DOMCTL_VM_EVENT_OP_MONITOR.
const MONITOR: u32 = 2;
/// XEN_VM_EVENT_ENABLE, XEN_VM_EVENT_DISABLE.
const ENABLE: u32 = 0;
const DISABLE: u32 = 1;

/// `struct xen_domctl_monitor_op`: enable (0), the event, no options.
const PRIVILEGED_CALL: [u32; 4] = [0, 7, 0, 0];

/// Has Xen tell of each SMC of a domain, with registers, through a ring in its
/// page `gfn`; and takes that back, unless it is to `stay`.
pub fn introspect(xen: &Xen, domain: u16, gfn: u64, stay: bool) -> Result<String, Failure> {
    let mut buffer = xen.buffer(size_of::<HvmParam>())?;
    buffer.put(&HvmParam {
        domid: domain,
        pad: 0,
        index: HVM_PARAM_MONITOR_RING_PFN,
        value: gfn,
    });
    let arguments = [HVMOP_SET_PARAM, buffer.address(), 0, 0, 0];
    let (op, buffers) = (HYPERVISOR_HVM_OP, &mut [&mut buffer]);
    xen.with("set_param", op, arguments, buffers)?;
    ring(xen, domain, true)?;
    if !stay {
        let told = watch(xen, domain);
        ring(xen, domain, false)?;
        told?;
    }
    Ok(format!("domain={domain} gfn={gfn:#x} stay={stay}"))
}

/// Has Xen map the ring whose place it knows, or give it up.
pub fn ring(xen: &Xen, domain: u16, there: bool) -> Result<String, Failure> {
    let (what, op) = match there {
        true => ("vm_event_op enable", ENABLE),
        false => ("vm_event_op disable", DISABLE),
    };
    let request = VmEventOp {
        op,
        mode: MONITOR,
        port: 0,
        pad: 0,
    };
    domctl(xen, what, DOMCTL_VM_EVENT_OP, domain, &request)?;
    Ok(format!("domain={domain} ring={there}"))
}

/// Asks for one event, ring or not: whether Xen lets this domain be watched.
pub fn watch(xen: &Xen, domain: u16) -> Result<String, Failure> {
    let (op, call) = (DOMCTL_MONITOR_OP, &PRIVILEGED_CALL);
    domctl(xen, "monitor_op", op, domain, call)?;
    let (op, call) = (DOMCTL_MONITOR_OP, &[1, PRIVILEGED_CALL[1], 0, 0]);
    domctl(xen, "monitor_op disable", op, domain, call)?;
    Ok(format!("domain={domain}"))
}
