//! Numbers and layouts of Xen 4.20's public headers, arm64, as facts: names
//! are theirs. domctl.h and sysctl.h are not stable between releases, so each
//! call carries the version, and Xen refuses another one with -EACCES.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// xen.h.
pub const HYPERVISOR_MEMORY_OP: u32 = 12;
pub const HYPERVISOR_XEN_VERSION: u32 = 17;
pub const HYPERVISOR_GRANT_TABLE_OP: u32 = 20;
pub const HYPERVISOR_EVENT_CHANNEL_OP: u32 = 32;
pub const HYPERVISOR_HVM_OP: u32 = 34;
pub const HYPERVISOR_SYSCTL: u32 = 35;
pub const HYPERVISOR_DOMCTL: u32 = 36;
pub const HYPERVISOR_MULTICALL: u32 = 13;
pub const DOMID_SELF: u16 = 0x7ff0;
pub const DOMID_INVALID: u16 = 0x7ff4;

/// version.h.
pub const XENVER_VERSION: u64 = 0;
pub const XENVER_EXTRAVERSION: u64 = 1;
pub const XENVER_CHANGESET: u64 = 4;

/// memory.h.
pub const XENMEM_DECREASE_RESERVATION: u64 = 1;
pub const XENMEM_POPULATE_PHYSMAP: u64 = 6;
pub const XENMEM_REMOVE_FROM_PHYSMAP: u64 = 15;
pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u64 = 23;
pub const XENMAPSPACE_GMFN_FOREIGN: u16 = 4;

/// event_channel.h.
pub const EVTCHNOP_BIND_INTERDOMAIN: u64 = 0;
pub const EVTCHNOP_CLOSE: u64 = 3;
pub const EVTCHNOP_SEND: u64 = 4;
pub const EVTCHNOP_ALLOC_UNBOUND: u64 = 6;

/// domctl.h.
pub const DOMCTL_INTERFACE_VERSION: u32 = 0x17;
pub const DOMCTL_CREATEDOMAIN: u32 = 1;
pub const DOMCTL_DESTROYDOMAIN: u32 = 2;
pub const DOMCTL_PAUSEDOMAIN: u32 = 3;
pub const DOMCTL_UNPAUSEDOMAIN: u32 = 4;
pub const DOMCTL_MAX_MEM: u32 = 11;
pub const DOMCTL_SETVCPUCONTEXT: u32 = 12;
pub const DOMCTL_GETVCPUCONTEXT: u32 = 13;
pub const DOMCTL_IOMEM_PERMISSION: u32 = 20;
pub const DOMCTL_RESUMEDOMAIN: u32 = 27;
pub const DOMCTL_MEMORY_MAPPING: u32 = 39;
pub const DOMCTL_VM_EVENT_OP: u32 = 56;
pub const DOMCTL_MONITOR_OP: u32 = 77;
pub const DOMCTL_CACHEFLUSH: u32 = 71;
pub const DOMCTL_SET_PAGING_MEMPOOL_SIZE: u32 = 86;
/// XEN_DOMCTL_CDF_hvm, XEN_DOMCTL_CDF_hap.
pub const CDF_HVM_HAP: u32 = 0b11;
/// XEN_DOMINF_*.
pub const DOMINF_DYING: u32 = 1 << 0;
pub const DOMINF_SHUTDOWN: u32 = 1 << 2;
pub const DOMINF_PAUSED: u32 = 1 << 3;

/// hvm/hvm_op.h, hvm/params.h.
pub const HVMOP_SET_PARAM: u64 = 0;
pub const HVM_PARAM_MONITOR_RING_PFN: u32 = 28;

/// sysctl.h.
pub const SYSCTL_INTERFACE_VERSION: u32 = 0x15;
pub const SYSCTL_READCONSOLE: u32 = 1;
pub const SYSCTL_PHYSINFO: u32 = 3;
pub const SYSCTL_GETDOMAININFOLIST: u32 = 6;
pub const SYSCTL_DEBUG_KEYS: u32 = 7;

/// grant_table.h.
pub const GNTCOPY_SOURCE_GREF: u16 = 1;
pub const GNTTABOP_MAP_GRANT_REF: u64 = 0;
pub const GNTTABOP_UNMAP_GRANT_REF: u64 = 1;
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;

/// `struct xen_domctl`, its union as bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Domctl {
    pub cmd: u32,
    pub interface_version: u32,
    pub domain: u16,
    pub pad: [u16; 3],
    pub u: [u8; 128],
}
const _: () = assert!(size_of::<Domctl>() == 144);

/// `struct xen_sysctl`, its union as bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sysctl {
    pub cmd: u32,
    pub interface_version: u32,
    pub u: [u8; 128],
}
const _: () = assert!(size_of::<Sysctl>() == 136);

/// `struct xen_arch_domainconfig`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchDomainConfig {
    pub gic_version: u8,
    pub sve_vl: u8,
    pub tee_type: u16,
    pub nr_spis: u32,
    pub clock_frequency: u32,
}
const _: () = assert!(size_of::<ArchDomainConfig>() == 12);

/// `struct xen_domctl_createdomain`.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateDomain {
    pub ssidref: u32,
    pub handle: [u8; 16],
    pub flags: u32,
    pub iommu_opts: u32,
    pub max_vcpus: u32,
    pub max_evtchn_port: u32,
    pub max_grant_frames: i32,
    pub max_maptrack_frames: i32,
    pub grant_opts: u32,
    pub altp2m_opts: u32,
    pub vmtrace_size: u32,
    pub cpupool_id: u32,
    pub arch: ArchDomainConfig,
}
const _: () = assert!(size_of::<CreateDomain>() == 72);

/// `struct xen_domctl_getdomaininfo`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainInfo {
    pub domain: u16,
    pub pad1: u16,
    pub flags: u32,
    pub tot_pages: u64,
    pub max_pages: u64,
    pub outstanding_pages: u64,
    pub shr_pages: u64,
    pub paged_pages: u64,
    pub shared_info_frame: u64,
    pub cpu_time: u64,
    pub nr_online_vcpus: u32,
    pub max_vcpu_id: u32,
    pub ssidref: u32,
    pub handle: [u8; 16],
    pub cpupool: u32,
    pub gpaddr_bits: u8,
    pub pad2: [u8; 7],
    pub arch_config: ArchDomainConfig,
    pub pad3: u32,
}
const _: () = assert!(size_of::<DomainInfo>() == 120);
const _: () = assert!(std::mem::offset_of!(DomainInfo, cpu_time) == 56);
const _: () = assert!(std::mem::offset_of!(DomainInfo, arch_config) == 104);

/// `struct xen_sysctl_getdomaininfolist`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetDomainInfoList {
    pub first_domain: u16,
    pub pad0: u16,
    pub max_domains: u32,
    pub buffer: u64,
    pub num_domains: u32,
    pub pad1: u32,
}
const _: () = assert!(size_of::<GetDomainInfoList>() == 24);

/// `struct xen_sysctl_physinfo`, up to what is used.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PhysInfo {
    pub threads_per_core: u32,
    pub cores_per_socket: u32,
    pub nr_cpus: u32,
    pub max_cpu_id: u32,
    pub nr_nodes: u32,
    pub max_node_id: u32,
    pub cpu_khz: u32,
    pub capabilities: u32,
    pub arch_capabilities: u32,
    pub pad: u32,
    pub total_pages: u64,
    pub free_pages: u64,
}
const _: () = assert!(size_of::<PhysInfo>() == 56);

/// `struct xen_sysctl_debug_keys`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DebugKeys {
    pub keys: u64,
    pub nr_keys: u32,
    pub pad: u32,
}
const _: () = assert!(size_of::<DebugKeys>() == 16);

/// `struct xen_sysctl_readconsole`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadConsole {
    pub clear: u8,
    pub incremental: u8,
    pub pad0: u16,
    pub index: u32,
    pub buffer: u64,
    pub count: u32,
    pub pad1: u32,
}
const _: () = assert!(size_of::<ReadConsole>() == 24);

/// `struct xen_domctl_iomem_permission`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IomemPermission {
    pub first_mfn: u64,
    pub nr_mfns: u64,
    pub allow_access: u8,
    pub pad: [u8; 7],
}
const _: () = assert!(size_of::<IomemPermission>() == 24);

/// `struct xen_domctl_vcpucontext`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuContext {
    pub vcpu: u32,
    pub pad: u32,
    pub context: u64,
}
const _: () = assert!(size_of::<VcpuContext>() == 16);

/// `struct xen_domctl_memory_mapping`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMapping {
    pub first_gfn: u64,
    pub first_mfn: u64,
    pub nr_mfns: u64,
    pub add_mapping: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<MemoryMapping>() == 32);

/// `struct xen_memory_reservation`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryReservation {
    pub extent_start: u64,
    pub nr_extents: u64,
    pub extent_order: u32,
    pub mem_flags: u32,
    pub domid: u16,
    pub pad: [u16; 3],
}
const _: () = assert!(size_of::<MemoryReservation>() == 32);

/// `struct evtchn_alloc_unbound`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllocUnbound {
    pub dom: u16,
    pub remote_dom: u16,
    pub port: u32,
}
const _: () = assert!(size_of::<AllocUnbound>() == 8);

/// `struct xen_add_to_physmap_batch`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmapBatch {
    pub domid: u16,
    pub space: u16,
    pub size: u16,
    pub foreign_domid: u16,
    pub idxs: u64,
    pub gpfns: u64,
    pub errs: u64,
}
const _: () = assert!(size_of::<AddToPhysmapBatch>() == 32);

/// `struct multicall_entry`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MulticallEntry {
    pub op: u64,
    pub result: i64,
    pub args: [u64; 6],
}
const _: () = assert!(size_of::<MulticallEntry>() == 64);

/// `struct xen_domctl_cacheflush`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CacheFlush {
    pub start_pfn: u64,
    pub nr_pfns: u64,
}

/// `struct xen_remove_from_physmap`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    pub domid: u16,
    pub pad: [u16; 3],
    pub gpfn: u64,
}
const _: () = assert!(size_of::<RemoveFromPhysmap>() == 16);

/// `struct gnttab_map_grant_ref`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapGrantRef {
    pub host_addr: u64,
    pub flags: u32,
    pub reference: u32,
    pub dom: u16,
    pub status: i16,
    pub handle: u32,
    pub dev_bus_addr: u64,
}
const _: () = assert!(size_of::<MapGrantRef>() == 32);

/// `struct gnttab_unmap_grant_ref`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapGrantRef {
    pub host_addr: u64,
    pub dev_bus_addr: u64,
    pub handle: u32,
    pub status: i16,
    pub pad: u16,
}
const _: () = assert!(size_of::<UnmapGrantRef>() == 24);
