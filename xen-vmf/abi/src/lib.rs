//! The `vmf_op` hypercall as callers see it: numbers, items and errors.
//!
//! This is the one description of the interface. `xen/include/public/vmf.h`
//! is generated from it by `cargo xtask headers`; Xen checks the hypercall
//! number with a `BUILD_BUG_ON`; the dom0 tool and the guests use the crate.
//!
//! `vmf_op(cmd, domid, arg0, arg1)` takes and returns registers only, so a
//! domain whose memory Xen can no longer read can still call it. Arguments
//! that a command does not use must be 0. The result is a value from 0 to
//! 2^31 - 1, or a negative errno from Xen's `public/errno.h`. Values that may
//! be larger are read 31 bits at a time, see [`XENVMF_status`].
//!
//! # Errors
//!
//! | errno | meaning |
//! |---|---|
//! | `ENOSYS` | unknown command, or Xen without VMF |
//! | `EINVAL` | unknown flag or item, an unused argument is not 0, or a domid that is not a guest's (idle and system domains) |
//! | `EPERM` | the caller is not the control domain (a domain may ask for its own status, and share its own pages), or shares pages of another domain that is protected |
//! | `ESRCH` | no such domain |
//! | `ENXIO` | the domain is dying |
//! | `EBUSY` | the domain is still being built |
//! | `EOPNOTSUPP` | the domain cannot be protected: it is the control or hardware domain |
//! | `EEXIST` | done already: the domain is protected, the machine is locked, or a page is shared |
//! | `EROFS` | the machine is locked: no further domain can be protected, no page shared, and it cannot be sealed any more |
//! | `ENOENT` | lock with no protected domain; or no further domain, or extent of shared pages |
//! | `EAGAIN` | CPUs are offline or coming up, or something changed meanwhile |
//! | `EMLINK` | another domain holds grant or foreign mappings of the domain's pages |
//! | `EADDRINUSE` | Xen holds pages of the domain mapped for a PV interface |
//! | `EXDEV` | an ITS is in use |
//! | `EADDRNOTAVAIL` | an IOMMU is in use: its tables and registers are not the fuse's to lock |
//! | `ENODATA` | CPUs can write samples or traces to memory (SPE, TRBE), by whose translations is up to data of Xen's |
//! | `ENODEV` | a device is assigned to the domain |
//! | `ENOMEM` | the xenheap has no room for the tables that are needed |
//! | `E2BIG` | lock with a domain whose VMID is 506 or more, for which the frozen page has no room |
//! | `ENOEXEC` | seal without firmware calls, where a work-around of a CPU makes one on entry from a guest |
//! | `ERANGE` | the CPUs differ in what HCR_EL2 can hold, so that one value cannot be locked for all |
//! | `EFAULT` | share of a guest frame that is not RAM of the domain |
//! | `ENOSPC` | share of more extents than a domain can have |
//! | `EIO` | the plan of the lock did not pass its check; nothing was changed |
#![no_std]
#![allow(
    non_upper_case_globals,
    reason = "the names are those of Xen's public headers"
)]

/// Number of the hypercall.
pub const __HYPERVISOR_vmf_op: u32 = 43;

/// Version of the interface: major number in bits 30:16, minor in bits 15:0.
/// A change that breaks a caller raises the major number.
pub const XENVMF_INTERFACE_VERSION: u32 = 0x0001_0001;

/// Returns [`XENVMF_INTERFACE_VERSION`]. `domid` is `DOMID_SELF`.
pub const XENVMF_version: u32 = 0;
/// Counts the obstacles of one kind.
///
/// `domid` is a domain, or `DOMID_INVALID` for the machine; `arg0` one of
/// `XENVMF_obstacle_*`. Returns how often it stands in the way: 0 means it
/// does not. Changes nothing.
pub const XENVMF_preflight: u32 = 1;
/// Removes the pages of `domid` from the directmap, for ever. `arg0` are
/// flags, none is defined.
pub const XENVMF_protect: u32 = 2;
/// Removes every mapping of a translation table and everything else that is
/// not on the list of retained frames. `domid` is `DOMID_INVALID`, `arg0`
/// are flags, none is defined.
pub const XENVMF_lock: u32 = 3;
/// Reads one 31-bit word of a status item.
///
/// `domid` is a domain, `DOMID_SELF`, or `DOMID_INVALID` for the machine;
/// `arg0` one of `XENVMF_status_*`; `arg1` the word `w`: the result is
/// `(value >> (31 * w)) & 0x7fffffff`, with `w` from 0 to 2.
/// An unprivileged domain may read the items of a domain for itself.
pub const XENVMF_status: u32 = 4;
/// Reads one 31-bit word of a counter: as [`XENVMF_status`], with `arg0` one
/// of `XENVMF_counter_*`.
pub const XENVMF_counters: u32 = 5;
/// Returns the smallest domain id that is `arg0` or larger; `ENOENT` where
/// there is none. `domid` is `DOMID_INVALID`.
pub const XENVMF_next_domain: u32 = 6;
/// Does what [`XENVMF_lock`] does, and removes at the same time every
/// executable page with an instruction that could undo it. `domid` is
/// `DOMID_INVALID`, `arg0` flags: [`XENVMF_seal_keep_firmware_calls`]. A
/// machine that is locked cannot be sealed any more: its tables are out of
/// reach.
pub const XENVMF_seal: u32 = 7;
/// Shares pages of `domid` with Xen and, by grants, with others, although the
/// domain is protected or is going to be. `arg0` is the first guest frame,
/// `arg1` the number of frames, 1 to [`XENVMF_share_pages_max`]. They have to
/// be RAM of the domain, and can no longer be executed, given up or mapped
/// anew: there is no way back.
/// A domain may do it for itself until the machine is locked, the control
/// domain for others until they are protected: so a domain that relies on its
/// protection looks at what it shares.
pub const XENVMF_share: u32 = 8;

/// Most pages of one [`XENVMF_share`].
pub const XENVMF_share_pages_max: u32 = 64;
/// Most extents (runs of guest frames with adjacent machine frames) that a
/// domain can share.
pub const XENVMF_shares_max: u32 = 32;

/// The page with the instruction `SMC` stays: power management goes on
/// working, and whoever runs code at EL2 may have firmware start a CPU with
/// its MMU off.
pub const XENVMF_seal_keep_firmware_calls: u32 = 1 << 0;

/// Nothing has been removed.
pub const XENVMF_state_open: u32 = 0;
/// At least one domain's pages have left the directmap.
pub const XENVMF_state_unmapped: u32 = 1;
/// No translation table is mapped any more.
pub const XENVMF_state_locked: u32 = 2;
/// No executable page holds an instruction that could change what is
/// translated, or by which tables.
pub const XENVMF_state_sealed: u32 = 3;

/// Machine: one of `XENVMF_state_*`.
pub const XENVMF_status_state: u32 = 0;
/// Machine: bits `XENVMF_feature_*`.
pub const XENVMF_status_features: u32 = 1;
/// Machine: number of protected domains.
pub const XENVMF_status_protected_domains: u32 = 2;
/// Machine: first machine address of the xenheap.
pub const XENVMF_status_xenheap_start: u32 = 3;
/// Machine: size of the xenheap in bytes.
pub const XENVMF_status_xenheap_bytes: u32 = 4;
/// Machine: free bytes of the xenheap.
pub const XENVMF_status_xenheap_free: u32 = 5;
/// Machine: 1 if Xen can call firmware (`SMC`), 0 if the seal has taken that
/// away.
pub const XENVMF_status_firmware_calls: u32 = 6;
/// Domain: 1 if the domain's pages have left the directmap, else 0.
pub const XENVMF_status_domain_protected: u32 = 16;
/// Domain: the level that holds for it, one of `XENVMF_state_*`.
pub const XENVMF_status_domain_state: u32 = 17;
/// Domain: pages of memory it owns.
pub const XENVMF_status_domain_pages: u32 = 18;
/// Domain: 1 if it is the control domain, else 0.
pub const XENVMF_status_domain_control: u32 = 19;
/// Domain: 1 if it is the hardware domain, else 0.
pub const XENVMF_status_domain_hardware: u32 = 20;

/// Domain: pages that it shares with Xen on purpose.
pub const XENVMF_status_domain_shared_pages: u32 = 21;
/// Domain: number of extents of them.
pub const XENVMF_status_domain_shares: u32 = 22;
/// Domain: accesses to emulated devices that Xen could not decode, because it
/// cannot read the instruction, and which the guest got an abort for.
pub const XENVMF_status_domain_undecoded: u32 = 23;
/// Domain: guest PC of the last of them.
pub const XENVMF_status_domain_undecoded_pc: u32 = 24;
/// Domain: first guest frame of an extent of shared pages, whose index from 0
/// on is in bits 31:16 of `arg0`. In no order before the lock.
pub const XENVMF_status_share_gfn: u32 = 32;
/// Domain: number of pages of that extent.
pub const XENVMF_status_share_pages: u32 = 33;

/// All RAM is in the directmap (`directmap=yes`).
pub const XENVMF_feature_directmap: u32 = 1 << 0;
/// Xen is a debug build.
pub const XENVMF_feature_debug: u32 = 1 << 1;
/// Xen was built with attack primitives for tests (`CONFIG_VMF_ATTACK`): it
/// must not be used for anything else.
pub const XENVMF_feature_attack: u32 = 1 << 2;
/// Xen can reset the machine without firmware (`vmf-reset=`).
pub const XENVMF_feature_reset: u32 = 1 << 3;
/// The fuse was to be blown at boot (`vmf=...,permissive`), and was not.
pub const XENVMF_feature_boot_failed: u32 = 1 << 4;

/// Machine: EL2 leaves that the fuse has removed.
pub const XENVMF_counter_leaves_removed: u32 = 0;
/// Machine: bytes that the removed leaves mapped.
pub const XENVMF_counter_bytes_removed: u32 = 1;
/// Machine: block entries of the directmap that were split.
pub const XENVMF_counter_blocks_split: u32 = 2;
/// Machine: table pages that splitting has allocated.
pub const XENVMF_counter_tables_allocated: u32 = 3;
/// Machine: nanoseconds that all `protect` commands took.
pub const XENVMF_counter_protect_ns: u32 = 4;
/// Machine: nanoseconds that `lock` took.
pub const XENVMF_counter_lock_ns: u32 = 5;
/// Machine: nanoseconds of `lock` in which all CPUs were stopped.
pub const XENVMF_counter_lock_stopped_ns: u32 = 6;
/// Machine: frames that hold a translation table of any regime.
pub const XENVMF_counter_table_frames: u32 = 7;
/// Machine: frames that the lock made forbidden.
pub const XENVMF_counter_forbidden_frames: u32 = 8;
/// Machine: frames that the lock retained.
pub const XENVMF_counter_retained_frames: u32 = 9;
/// Machine: attempts to use a forbidden page or table that were refused.
pub const XENVMF_counter_refused: u32 = 10;
/// Machine: pages freed after the lock, which are kept out of use for ever.
pub const XENVMF_counter_leaked_pages: u32 = 11;
/// Machine: addresses that the self-check has tested with AT instructions.
pub const XENVMF_counter_selfcheck_addresses: u32 = 12;
/// Machine: extents of the frozen gfn-to-mfn snapshot.
pub const XENVMF_counter_snapshot_extents: u32 = 13;
/// Machine: TLB invalidations that the on-demand windows have issued.
pub const XENVMF_counter_window_tlbi: u32 = 14;
/// Number of counters.
pub const XENVMF_counter_end: u32 = 15;

/// Domain: it is the control or hardware domain.
pub const XENVMF_obstacle_control_domain: u32 = 0;
/// Domain: it is dying.
pub const XENVMF_obstacle_dying: u32 = 1;
/// Domain: it is still being built.
pub const XENVMF_obstacle_unfinished: u32 = 2;
/// Domain: pages of it that another domain has mapped by foreign mapping or
/// grant.
pub const XENVMF_obstacle_shared_pages: u32 = 3;
/// Domain: pages of it that Xen has mapped for a PV interface (`vcpu_info`,
/// FIFO event channels, ioreq).
pub const XENVMF_obstacle_pv_pages: u32 = 4;
/// Domain: devices that are assigned to it.
pub const XENVMF_obstacle_devices: u32 = 5;
/// Domain: it is protected already.
pub const XENVMF_obstacle_protected: u32 = 6;
/// Machine: it is locked already.
pub const XENVMF_obstacle_locked: u32 = 7;
/// Machine: no domain is protected (in the way of `lock`).
pub const XENVMF_obstacle_nothing_protected: u32 = 8;
/// Machine: CPUs that are present and not online.
pub const XENVMF_obstacle_cpus_offline: u32 = 9;
/// Machine: an ITS is in use.
pub const XENVMF_obstacle_its: u32 = 10;
/// Machine: leaves in the stage 2 of unprotected domains that reach a page
/// of a protected domain or of Xen.
pub const XENVMF_obstacle_stage2_leaves: u32 = 11;
/// Machine: a work-around of a CPU calls firmware on entry from a guest (in
/// the way of `seal` without [`XENVMF_seal_keep_firmware_calls`]).
pub const XENVMF_obstacle_firmware_calls: u32 = 12;
/// Machine: an IOMMU is in use.
pub const XENVMF_obstacle_iommu: u32 = 13;
/// Machine: CPUs that can write samples or traces to memory (SPE, TRBE).
pub const XENVMF_obstacle_trace_units: u32 = 14;
/// Number of obstacles.
pub const XENVMF_obstacle_end: u32 = 15;
