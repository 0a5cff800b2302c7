//! Mappings asked of Xen itself, past Linux's drivers.
//!
//! Those drivers first take a page from dom0 (XENMEM_decrease_reservation), and
//! Linux's balloon stops with a BUG if Xen refuses that: behind it, what Xen
//! says to the mapping cannot be seen. Here the frame in dom0 is the caller's
//! choice, one that holds nothing.

use crate::domains::domctl;
use crate::public::{
    AddToPhysmapBatch, CacheFlush, DOMCTL_CACHEFLUSH, GNTMAP_HOST_MAP, GNTTABOP_MAP_GRANT_REF,
    GNTTABOP_UNMAP_GRANT_REF, HYPERVISOR_GRANT_TABLE_OP, HYPERVISOR_MEMORY_OP,
    HYPERVISOR_MULTICALL, MapGrantRef, MulticallEntry, RemoveFromPhysmap, UnmapGrantRef,
    XENMAPSPACE_GMFN_FOREIGN, XENMEM_ADD_TO_PHYSMAP_BATCH, XENMEM_REMOVE_FROM_PHYSMAP,
};
use crate::xen::{Failure, Xen};

/// Maps `gfn` of `domain` at `at` of `into`, and takes it away again unless it is
/// to `stay`.
pub fn foreign(
    xen: &Xen,
    domain: u16,
    gfn: u64,
    into: u16,
    at: u64,
    stay: bool,
) -> Result<String, Failure> {
    let mut frame = xen.buffer(8)?;
    frame.put(&gfn);
    let mut place = xen.buffer(8)?;
    place.put(&at);
    let mut error = xen.buffer(4)?;
    let mut request = xen.buffer(size_of::<AddToPhysmapBatch>())?;
    request.put(&AddToPhysmapBatch {
        domid: into,
        space: XENMAPSPACE_GMFN_FOREIGN,
        size: 1,
        foreign_domid: domain,
        idxs: frame.address(),
        gpfns: place.address(),
        errs: error.address(),
    });
    let arguments = [XENMEM_ADD_TO_PHYSMAP_BATCH, request.address(), 0, 0, 0];
    let buffers = &mut [&mut request, &mut frame, &mut place, &mut error];
    xen.with(
        "add_to_physmap_batch",
        HYPERVISOR_MEMORY_OP,
        arguments,
        buffers,
    )?;
    match error.get::<i32>(0) {
        0 => {}
        errno => return Err(Failure::new("add_to_physmap of the frame", errno.abs())),
    }

    if !stay {
        remove(xen, into, at)?;
    }
    Ok(format!("domain={domain} gfn={gfn:#x} at={at:#x}"))
}

/// `vmf_op` as the only entry of a multicall.
pub fn listed(xen: &Xen, arguments: [u64; 4]) -> Result<String, Failure> {
    let [cmd, domain, arg0, arg1] = arguments;
    let mut entry = xen.buffer(size_of::<MulticallEntry>())?;
    entry.put(&MulticallEntry {
        op: xen_vmf_abi::__HYPERVISOR_vmf_op.into(),
        result: 0,
        args: [cmd, domain, arg0, arg1, 0, 0],
    });
    let arguments = [entry.address(), 1, 0, 0, 0];
    let (op, buffers) = (HYPERVISOR_MULTICALL, &mut [&mut entry]);
    xen.with("multicall", op, arguments, buffers)?;
    match entry.get::<MulticallEntry>(0).result {
        result @ 0.. => Ok(format!("result={result}")),
        errno => Err(Failure::new("vmf_op in a multicall", -errno as i32)),
    }
}

/// Has Xen clean the cache of a frame of `domain`.
pub fn flush(xen: &Xen, domain: u16, gfn: u64) -> Result<String, Failure> {
    let range = CacheFlush {
        start_pfn: gfn,
        nr_pfns: 1,
    };
    domctl(xen, "cacheflush", DOMCTL_CACHEFLUSH, domain, &range)?;
    Ok(format!("domain={domain} gfn={gfn:#x}"))
}

/// Takes `gfn` out of the physmap of `domain`; whose page it is does not change.
pub fn remove(xen: &Xen, domain: u16, gfn: u64) -> Result<String, Failure> {
    let mut request = xen.buffer(size_of::<RemoveFromPhysmap>())?;
    request.put(&RemoveFromPhysmap {
        domid: domain,
        pad: [0; 3],
        gpfn: gfn,
    });
    let arguments = [XENMEM_REMOVE_FROM_PHYSMAP, request.address(), 0, 0, 0];
    let what = "remove_from_physmap";
    xen.with(what, HYPERVISOR_MEMORY_OP, arguments, &mut [&mut request])?;
    Ok(format!("domain={domain} gfn={gfn:#x}"))
}

/// Maps what `domain` grants by `reference` at frame `at` of dom0, and takes it
/// away again.
pub fn grant(xen: &Xen, domain: u16, reference: u32, at: u64) -> Result<String, Failure> {
    let mut request = xen.buffer(size_of::<MapGrantRef>())?;
    request.put(&MapGrantRef {
        host_addr: at << 12,
        flags: GNTMAP_HOST_MAP,
        reference,
        dom: domain,
        status: 0,
        handle: 0,
        dev_bus_addr: 0,
    });
    let arguments = [GNTTABOP_MAP_GRANT_REF, request.address(), 1, 0, 0];
    let (op, buffers) = (HYPERVISOR_GRANT_TABLE_OP, &mut [&mut request]);
    xen.with("map_grant_ref", op, arguments, buffers)?;
    let answer: MapGrantRef = request.get(0);
    status("map_grant_ref", answer.status)?;

    request.put(&UnmapGrantRef {
        host_addr: at << 12,
        dev_bus_addr: 0,
        handle: answer.handle,
        status: 0,
        pad: 0,
    });
    let arguments = [GNTTABOP_UNMAP_GRANT_REF, request.address(), 1, 0, 0];
    let (op, buffers) = (HYPERVISOR_GRANT_TABLE_OP, &mut [&mut request]);
    xen.with("unmap_grant_ref", op, arguments, buffers)?;
    status("unmap_grant_ref", request.get::<UnmapGrantRef>(0).status)?;
    Ok(format!("domain={domain} ref={reference} at={at:#x}"))
}

/// `GNTST_*`: 0 is okay, and negative values have numbers of their own.
fn status(what: &str, status: i16) -> Result<(), Failure> {
    match status {
        0 => Ok(()),
        status => Err(Failure::new(format!("{what}: GNTST {status}"), libc::EIO)),
    }
}
