//! Xen's public numbers, by their names in upper case (xen/include/public:
//! xen.h, version.h, memory.h, grant_table.h, vcpu.h, sched.h,
//! event_channel.h, domctl.h), as they stand in registers.
#![allow(missing_docs, reason = "the names are Xen's")]

pub const HYPERVISOR_MEMORY_OP: u64 = 12;
pub const HYPERVISOR_MULTICALL: u64 = 13;
pub const HYPERVISOR_XEN_VERSION: u64 = 17;
pub const HYPERVISOR_CONSOLE_IO: u64 = 18;
pub const HYPERVISOR_GRANT_TABLE_OP: u64 = 20;
pub const HYPERVISOR_VCPU_OP: u64 = 24;
pub const HYPERVISOR_SCHED_OP: u64 = 29;
pub const HYPERVISOR_EVENT_CHANNEL_OP: u64 = 32;

pub const XENVER_VERSION: u64 = 0;
pub const XENVER_EXTRAVERSION: u64 = 1;
pub const XENVER_CHANGESET: u64 = 4;
pub const XENVER_COMMANDLINE: u64 = 9;

pub const XENMEM_DECREASE_RESERVATION: u64 = 1;
pub const XENMEM_CURRENT_RESERVATION: u64 = 3;
pub const XENMEM_POPULATE_PHYSMAP: u64 = 6;
pub const XENMEM_ADD_TO_PHYSMAP: u64 = 7;
pub const XENMEM_EXCHANGE: u64 = 11;
pub const XENMEM_REMOVE_FROM_PHYSMAP: u64 = 15;
pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u64 = 23;
pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;
pub const XENMAPSPACE_GMFN_FOREIGN: u16 = 4;

pub const GNTTABOP_MAP_GRANT_REF: u64 = 0;
pub const GNTTABOP_UNMAP_GRANT_REF: u64 = 1;
pub const GNTTABOP_COPY: u64 = 5;
pub const GNTTABOP_CACHE_FLUSH: u64 = 12;
pub const GNTTAB_CACHE_CLEAN: u64 = 1;
pub const GNTCOPY_SOURCE_GREF: u64 = 1;
pub const GNTCOPY_DEST_GREF: u64 = 2;
pub const GNTMAP_HOST_MAP: u64 = 2;
pub const GTF_PERMIT_ACCESS: u16 = 1;

pub const VCPUOP_REGISTER_RUNSTATE: u64 = 5;
pub const VCPUOP_REGISTER_VCPU_INFO: u64 = 10;

pub const SCHEDOP_SHUTDOWN: u64 = 2;
pub const SCHEDOP_POLL: u64 = 3;
pub const SCHEDOP_WATCHDOG: u64 = 6;

pub const EVTCHNOP_BIND_INTERDOMAIN: u64 = 0;
pub const EVTCHNOP_CLOSE: u64 = 3;
pub const EVTCHNOP_SEND: u64 = 4;
pub const EVTCHNOP_STATUS: u64 = 5;
pub const EVTCHNOP_ALLOC_UNBOUND: u64 = 6;
pub const EVTCHNOP_UNMASK: u64 = 9;
pub const EVTCHNOP_INIT_CONTROL: u64 = 11;
pub const EVTCHNOP_EXPAND_ARRAY: u64 = 12;
pub const EVTCHNOP_SET_PRIORITY: u64 = 13;

pub const DOMCTL_DESTROYDOMAIN: u32 = 2;
pub const DOMCTL_INTERFACE_VERSION: u32 = 0x17;
