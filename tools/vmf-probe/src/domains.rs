//! Hypercalls about domains and the machine: domctl, sysctl, memory_op,
//! xen_version, event channels.

use std::io::Write;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::public::{
    AllocUnbound, CDF_HVM_HAP, CreateDomain, DOMCTL_CREATEDOMAIN, DOMCTL_DESTROYDOMAIN,
    DOMCTL_GETVCPUCONTEXT, DOMCTL_INTERFACE_VERSION, DOMCTL_IOMEM_PERMISSION, DOMCTL_MAX_MEM,
    DOMCTL_MEMORY_MAPPING, DOMCTL_PAUSEDOMAIN, DOMCTL_SET_PAGING_MEMPOOL_SIZE,
    DOMCTL_SETVCPUCONTEXT, DOMCTL_UNPAUSEDOMAIN, DOMID_SELF, DOMINF_DYING, DOMINF_PAUSED,
    DOMINF_SHUTDOWN, DebugKeys, DomainInfo, Domctl, EVTCHNOP_ALLOC_UNBOUND,
    EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_CLOSE, EVTCHNOP_SEND, GetDomainInfoList, HYPERVISOR_DOMCTL,
    HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_MEMORY_OP, HYPERVISOR_SYSCTL, HYPERVISOR_XEN_VERSION,
    IomemPermission, MemoryMapping, MemoryReservation, PhysInfo, ReadConsole, SYSCTL_DEBUG_KEYS,
    SYSCTL_GETDOMAININFOLIST, SYSCTL_INTERFACE_VERSION, SYSCTL_PHYSINFO, SYSCTL_READCONSOLE,
    Sysctl, VcpuContext, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP, XENVER_CHANGESET,
    XENVER_EXTRAVERSION, XENVER_VERSION,
};
use crate::xen::{Buffer, Failure, Xen};

/// Offset of the union in `struct xen_domctl` and `struct xen_sysctl`.
const DOMCTL_U: usize = 16;
const SYSCTL_U: usize = 8;
/// Where a guest's RAM begins, as a frame (GUEST_RAM0_BASE in arch-arm.h).
const GUEST_RAM_GFN: u64 = 0x4_0000;
/// Memory for a new domain's tables.
const MEMPOOL: u64 = 1 << 20;

fn union_of<T: IntoBytes + Immutable>(payload: &T) -> [u8; 128] {
    let mut u = [0; 128];
    let bytes = payload.as_bytes();
    u[..bytes.len()].copy_from_slice(bytes);
    u
}

/// A domctl; returns its structure.
pub fn domctl<T: IntoBytes + Immutable>(
    xen: &Xen,
    what: &str,
    cmd: u32,
    domain: u16,
    payload: &T,
) -> Result<Buffer, Failure> {
    let mut buffer = xen.buffer(size_of::<Domctl>())?;
    buffer.put(&Domctl {
        cmd,
        interface_version: DOMCTL_INTERFACE_VERSION,
        domain,
        pad: [0; 3],
        u: union_of(payload),
    });
    let arguments = [buffer.address(), 0, 0, 0, 0];
    xen.with(what, HYPERVISOR_DOMCTL, arguments, &mut [&mut buffer])?;
    Ok(buffer)
}

/// A sysctl; returns its part of the structure.
pub fn sysctl<T: IntoBytes + FromBytes + Immutable + KnownLayout>(
    xen: &Xen,
    what: &str,
    cmd: u32,
    payload: &T,
    others: &mut [&mut Buffer],
) -> Result<T, Failure> {
    let mut buffer = xen.buffer(size_of::<Sysctl>())?;
    buffer.put(&Sysctl {
        cmd,
        interface_version: SYSCTL_INTERFACE_VERSION,
        u: union_of(payload),
    });
    let arguments = [buffer.address(), 0, 0, 0, 0];
    xen.with(what, HYPERVISOR_SYSCTL, arguments, others)?;
    Ok(buffer.get(SYSCTL_U))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Xen's version.
pub fn version(xen: &Xen) -> Result<String, Failure> {
    let number = xen.registers(
        "xen_version",
        HYPERVISOR_XEN_VERSION,
        [XENVER_VERSION, 0, 0, 0, 0],
    )?;
    let mut words = Vec::new();
    for (what, sub) in [
        ("extraversion", XENVER_EXTRAVERSION),
        ("changeset", XENVER_CHANGESET),
    ] {
        let mut buffer = xen.buffer(64)?;
        let arguments = [sub, buffer.address(), 0, 0, 0];
        xen.with(what, HYPERVISOR_XEN_VERSION, arguments, &mut [&mut buffer])?;
        words.push(format!("{what}=\"{}\"", text(&buffer.bytes()[..64])));
    }
    Ok(format!(
        "version={}.{} {}",
        number >> 16,
        number & 0xffff,
        words.join(" ")
    ))
}

/// CPUs and memory of the machine.
pub fn sysinfo(xen: &Xen) -> Result<String, Failure> {
    let empty = PhysInfo::new_zeroed();
    let info = sysctl(xen, "physinfo", SYSCTL_PHYSINFO, &empty, &mut [])?;
    Ok(format!(
        "cpus={} total_pages={} free_pages={}",
        info.nr_cpus, info.total_pages, info.free_pages
    ))
}

/// Most domains that are listed.
const MOST: usize = 64;

/// Every domain.
pub fn list(xen: &Xen) -> Result<String, Failure> {
    let mut infos = xen.buffer(MOST * size_of::<DomainInfo>())?;
    let request = GetDomainInfoList {
        first_domain: 0,
        pad0: 0,
        max_domains: MOST as u32,
        buffer: infos.address(),
        num_domains: 0,
        pad1: 0,
    };
    let what = "getdomaininfolist";
    let answer = sysctl(
        xen,
        what,
        SYSCTL_GETDOMAININFOLIST,
        &request,
        &mut [&mut infos],
    )?;
    let count = (answer.num_domains as usize).min(MOST);
    let domains: Vec<String> = (0..count)
        .map(|index| {
            let info: DomainInfo = infos.get(index * size_of::<DomainInfo>());
            let state = if info.flags & DOMINF_DYING != 0 {
                "dying"
            } else if info.flags & DOMINF_SHUTDOWN != 0 {
                "shutdown"
            } else if info.flags & DOMINF_PAUSED != 0 {
                "paused"
            } else {
                "running"
            };
            format!("{}:{state}:{}", info.domain, info.tot_pages)
        })
        .collect();
    Ok(format!("count={count} domains={}", domains.join(",")))
}

/// A command of domctl without arguments.
pub fn simple(xen: &Xen, domain: u16, cmd: u32) -> Result<String, Failure> {
    domctl(xen, &format!("domctl {cmd}"), cmd, domain, &0u64)?;
    Ok(format!("domain={domain}"))
}

/// Allows a domain to have the frame `mfn` of MMIO mapped, or forbids it.
pub fn iomem(xen: &Xen, domain: u16, mfn: u64, allow: bool) -> Result<String, Failure> {
    let request = IomemPermission {
        first_mfn: mfn,
        nr_mfns: 1,
        allow_access: allow.into(),
        pad: [0; 7],
    };
    let cmd = DOMCTL_IOMEM_PERMISSION;
    domctl(xen, "iomem_permission", cmd, domain, &request)?;
    Ok(format!("domain={domain} mfn={mfn:#x} allow={allow}"))
}

/// Reads the registers of a domain's first vCPU and, with `set`, writes them
/// back as they were; with `reset` only resets it.
pub fn registers(xen: &Xen, domain: u16, set: bool, reset: bool) -> Result<String, Failure> {
    if reset {
        let request = VcpuContext {
            vcpu: 0,
            pad: 0,
            context: 0,
        };
        let cmd = DOMCTL_SETVCPUCONTEXT;
        domctl(xen, "setvcpucontext (reset)", cmd, domain, &request)?;
        return Ok(format!("domain={domain} reset=done"));
    }
    // A good deal larger than `vcpu_guest_context_t`.
    let context = xen.buffer(4096)?;
    let request = VcpuContext {
        vcpu: 0,
        pad: 0,
        context: context.address(),
    };
    if set {
        simple(xen, domain, DOMCTL_PAUSEDOMAIN)?;
    }
    let both = || {
        let cmd = DOMCTL_GETVCPUCONTEXT;
        domctl(xen, "getvcpucontext", cmd, domain, &request)?;
        if set {
            let cmd = DOMCTL_SETVCPUCONTEXT;
            domctl(xen, "setvcpucontext", cmd, domain, &request)?;
        }
        Ok(format!("domain={domain} set={set}"))
    };
    let done = both();
    if set {
        simple(xen, domain, DOMCTL_UNPAUSEDOMAIN)?;
    }
    done
}

/// Maps the frame `mfn` of MMIO at `gfn` of a domain, and takes it away again.
pub fn mmio(xen: &Xen, domain: u16, gfn: u64, mfn: u64) -> Result<String, Failure> {
    for (what, add) in [("memory_mapping", 1), ("memory_mapping (remove)", 0)] {
        let request = MemoryMapping {
            first_gfn: gfn,
            first_mfn: mfn,
            nr_mfns: 1,
            add_mapping: add,
            padding: 0,
        };
        domctl(xen, what, DOMCTL_MEMORY_MAPPING, domain, &request)?;
    }
    Ok(format!("domain={domain} gfn={gfn:#x} mfn={mfn:#x}"))
}

fn reservation(
    xen: &Xen,
    what: &str,
    cmd: u64,
    domain: u16,
    gfn: u64,
    count: usize,
) -> Result<u32, Failure> {
    let mut extents = xen.buffer(count * 8)?;
    for (slot, frame) in extents
        .bytes_mut()
        .chunks_exact_mut(8)
        .zip(gfn..gfn + count as u64)
    {
        slot.copy_from_slice(&frame.to_le_bytes());
    }
    let mut request = xen.buffer(size_of::<MemoryReservation>())?;
    request.put(&MemoryReservation {
        extent_start: extents.address(),
        nr_extents: count as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: domain,
        pad: [0; 3],
    });
    let arguments = [cmd, request.address(), 0, 0, 0];
    let buffers = &mut [&mut request, &mut extents];
    let done = xen.with(what, HYPERVISOR_MEMORY_OP, arguments, buffers)?;
    // Xen returns how many it has done, and no errno if that is not all.
    if done as usize == count {
        Ok(done)
    } else {
        Err(Failure::new(
            format!("{what}: {done} of {count} pages"),
            libc::ENOMEM,
        ))
    }
}

/// Gives `domain` new pages.
pub fn populate(xen: &Xen, domain: u16, gfn: u64, count: usize) -> Result<String, Failure> {
    let done = reservation(xen, "populate", XENMEM_POPULATE_PHYSMAP, domain, gfn, count)?;
    Ok(format!("pages={done} gfn={gfn:#x}"))
}

/// Takes pages from `domain`.
pub fn decrease(xen: &Xen, domain: u16, gfn: u64, count: usize) -> Result<String, Failure> {
    let done = reservation(
        xen,
        "decrease",
        XENMEM_DECREASE_RESERVATION,
        domain,
        gfn,
        count,
    )?;
    Ok(format!("pages={done} gfn={gfn:#x}"))
}

/// Creates a domain and gives it `pages`; destroys it again if that fails.
pub fn create(xen: &Xen, pages: usize) -> Result<String, Failure> {
    let config = CreateDomain {
        handle: *b"vmf-probe-domain",
        flags: CDF_HVM_HAP,
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 1,
        ..CreateDomain::default()
    };
    // Domain 0: Xen chooses the id.
    let answer = domctl(xen, "createdomain", DOMCTL_CREATEDOMAIN, 0, &config)?;
    let id = answer.get::<Domctl>(0).domain;
    let filled = fill(xen, id, pages);
    if let Err(failure) = filled {
        let gone = simple(xen, id, DOMCTL_DESTROYDOMAIN).is_ok();
        let what = format!("domain {id} (destroyed={gone})");
        return Err(failure.within(&what));
    }
    Ok(format!("domain={id} pages={pages}"))
}

fn fill(xen: &Xen, id: u16, pages: usize) -> Result<(), Failure> {
    // Room for a test that populates further pages.
    let kib = pages as u64 * 8;
    domctl(xen, "max_mem", DOMCTL_MAX_MEM, id, &kib)?;
    let what = "set_paging_mempool_size";
    domctl(xen, what, DOMCTL_SET_PAGING_MEMPOOL_SIZE, id, &MEMPOOL)?;
    populate(xen, id, GUEST_RAM_GFN, pages)?;
    Ok(())
}

/// Presses debug keys.
pub fn debug_keys(xen: &Xen, keys: &str) -> Result<String, Failure> {
    let mut buffer = xen.buffer(keys.len())?;
    buffer.bytes_mut()[..keys.len()].copy_from_slice(keys.as_bytes());
    let request = DebugKeys {
        keys: buffer.address(),
        nr_keys: keys.len() as u32,
        pad: 0,
    };
    sysctl(
        xen,
        "debug_keys",
        SYSCTL_DEBUG_KEYS,
        &request,
        &mut [&mut buffer],
    )?;
    Ok(format!("keys={keys}"))
}

/// Prints Xen's console ring.
pub fn console(xen: &Xen) -> Result<String, Failure> {
    let size = 64 << 10;
    let mut buffer = xen.buffer(size)?;
    let request = ReadConsole {
        clear: 0,
        incremental: 0,
        pad0: 0,
        index: 0,
        buffer: buffer.address(),
        count: size as u32,
        pad1: 0,
    };
    let answer = sysctl(
        xen,
        "readconsole",
        SYSCTL_READCONSOLE,
        &request,
        &mut [&mut buffer],
    )?;
    let count = (answer.count as usize).min(size);
    let mut out = std::io::stdout();
    out.write_all(&buffer.bytes()[..count])
        .map_err(|error| Failure::io("standard output", &error))?;
    Ok(format!("bytes={count}"))
}

/// Binds the port that `domain` has for the caller, sends on it, closes it.
pub fn notify(xen: &Xen, domain: u16, port: u32) -> Result<String, Failure> {
    let mut buffer = xen.buffer(12)?;
    // `struct evtchn_bind_interdomain`: remote domain and port, local port
    buffer.put(&[u32::from(domain), port, 0]);
    let call = |what: &str, cmd: u64, buffer: &mut Buffer| {
        let arguments = [cmd, buffer.address(), 0, 0, 0];
        xen.with(what, HYPERVISOR_EVENT_CHANNEL_OP, arguments, &mut [buffer])
    };
    call("bind_interdomain", EVTCHNOP_BIND_INTERDOMAIN, &mut buffer)?;
    let local: u32 = buffer.get(8);
    buffer.put(&local);
    call("send", EVTCHNOP_SEND, &mut buffer)?;
    call("close", EVTCHNOP_CLOSE, &mut buffer)?;
    Ok(format!("domain={domain} port={port} local={local}"))
}

/// Allocates a port, sends on it, closes it.
pub fn event_channel(xen: &Xen) -> Result<String, Failure> {
    let mut buffer = xen.buffer(size_of::<AllocUnbound>())?;
    buffer.put(&AllocUnbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    });
    let call = |what: &str, cmd: u64, buffer: &mut Buffer| {
        let arguments = [cmd, buffer.address(), 0, 0, 0];
        xen.with(what, HYPERVISOR_EVENT_CHANNEL_OP, arguments, &mut [buffer])
    };
    call("alloc_unbound", EVTCHNOP_ALLOC_UNBOUND, &mut buffer)?;
    let port = buffer.get::<AllocUnbound>(0).port;
    buffer.put(&port);
    call("send", EVTCHNOP_SEND, &mut buffer)?;
    call("close", EVTCHNOP_CLOSE, &mut buffer)?;
    Ok(format!("port={port}"))
}

const _: () = assert!(std::mem::offset_of!(Domctl, u) == DOMCTL_U);
const _: () = assert!(std::mem::offset_of!(Sysctl, u) == SYSCTL_U);
