/* SPDX-License-Identifier: MIT */
/*
 * The vmf_op hypercall: numbers, items and errors.
 *
 * Generated from Rust by cargo xtask headers: change it there.
 */

#ifndef __XEN_PUBLIC_VMF_H__
#define __XEN_PUBLIC_VMF_H__

/*
 * Number of the hypercall.
 */
#define __HYPERVISOR_vmf_op 43

/*
 * Version of the interface: major number in bits 30:16, minor in bits 15:0.
 * A change that breaks a caller raises the major number.
 */
#define XENVMF_INTERFACE_VERSION 65537

/*
 * Returns XENVMF_INTERFACE_VERSION. domid is DOMID_SELF.
 */
#define XENVMF_version 0

/*
 * Counts the obstacles of one kind.
 *
 * domid is a domain, or DOMID_INVALID for the machine; arg0 one of
 * XENVMF_obstacle_*. Returns how often it stands in the way: 0 means it
 * does not. Changes nothing.
 */
#define XENVMF_preflight 1

/*
 * Removes the pages of domid from the directmap, for ever. arg0 are
 * flags, none is defined.
 */
#define XENVMF_protect 2

/*
 * Removes every mapping of a translation table and everything else that is
 * not on the list of retained frames. domid is DOMID_INVALID, arg0
 * are flags, none is defined.
 */
#define XENVMF_lock 3

/*
 * Reads one 31-bit word of a status item.
 *
 * domid is a domain, DOMID_SELF, or DOMID_INVALID for the machine;
 * arg0 one of XENVMF_status_*; arg1 the word w: the result is
 * (value >> (31 * w)) & 0x7fffffff, with w from 0 to 2.
 * An unprivileged domain may read the items of a domain for itself.
 */
#define XENVMF_status 4

/*
 * Reads one 31-bit word of a counter: as XENVMF_status, with arg0 one
 * of XENVMF_counter_*.
 */
#define XENVMF_counters 5

/*
 * Returns the smallest domain id that is arg0 or larger; ENOENT where
 * there is none. domid is DOMID_INVALID.
 */
#define XENVMF_next_domain 6

/*
 * Does what XENVMF_lock does, and removes at the same time every
 * executable page with an instruction that could undo it. domid is
 * DOMID_INVALID, arg0 flags: XENVMF_seal_keep_firmware_calls. A
 * machine that is locked cannot be sealed any more: its tables are out of
 * reach.
 */
#define XENVMF_seal 7

/*
 * Shares pages of domid with Xen and, by grants, with others, although the
 * domain is protected or is going to be. arg0 is the first guest frame,
 * arg1 the number of frames, 1 to XENVMF_share_pages_max. They have to
 * be RAM of the domain, and can no longer be executed, given up or mapped
 * anew: there is no way back.
 * A domain may do it for itself until the machine is locked, the control
 * domain for others until they are protected: so a domain that relies on its
 * protection looks at what it shares.
 */
#define XENVMF_share 8

/*
 * Most pages of one XENVMF_share.
 */
#define XENVMF_share_pages_max 64

/*
 * Most extents (runs of guest frames with adjacent machine frames) that a
 * domain can share.
 */
#define XENVMF_shares_max 32

/*
 * The page with the instruction SMC stays: power management goes on
 * working, and whoever runs code at EL2 may have firmware start a CPU with
 * its MMU off.
 */
#define XENVMF_seal_keep_firmware_calls (1 << 0)

/*
 * Nothing has been removed.
 */
#define XENVMF_state_open 0

/*
 * At least one domain's pages have left the directmap.
 */
#define XENVMF_state_unmapped 1

/*
 * No translation table is mapped any more.
 */
#define XENVMF_state_locked 2

/*
 * No executable page holds an instruction that could change what is
 * translated, or by which tables.
 */
#define XENVMF_state_sealed 3

/*
 * Machine: one of XENVMF_state_*.
 */
#define XENVMF_status_state 0

/*
 * Machine: bits XENVMF_feature_*.
 */
#define XENVMF_status_features 1

/*
 * Machine: number of protected domains.
 */
#define XENVMF_status_protected_domains 2

/*
 * Machine: first machine address of the xenheap.
 */
#define XENVMF_status_xenheap_start 3

/*
 * Machine: size of the xenheap in bytes.
 */
#define XENVMF_status_xenheap_bytes 4

/*
 * Machine: free bytes of the xenheap.
 */
#define XENVMF_status_xenheap_free 5

/*
 * Machine: 1 if Xen can call firmware (SMC), 0 if the seal has taken that
 * away.
 */
#define XENVMF_status_firmware_calls 6

/*
 * Domain: 1 if the domain's pages have left the directmap, else 0.
 */
#define XENVMF_status_domain_protected 16

/*
 * Domain: the level that holds for it, one of XENVMF_state_*.
 */
#define XENVMF_status_domain_state 17

/*
 * Domain: pages of memory it owns.
 */
#define XENVMF_status_domain_pages 18

/*
 * Domain: 1 if it is the control domain, else 0.
 */
#define XENVMF_status_domain_control 19

/*
 * Domain: 1 if it is the hardware domain, else 0.
 */
#define XENVMF_status_domain_hardware 20

/*
 * Domain: pages that it shares with Xen on purpose.
 */
#define XENVMF_status_domain_shared_pages 21

/*
 * Domain: number of extents of them.
 */
#define XENVMF_status_domain_shares 22

/*
 * Domain: accesses to emulated devices that Xen could not decode, because it
 * cannot read the instruction, and which the guest got an abort for.
 */
#define XENVMF_status_domain_undecoded 23

/*
 * Domain: guest PC of the last of them.
 */
#define XENVMF_status_domain_undecoded_pc 24

/*
 * Domain: first guest frame of an extent of shared pages, whose index from 0
 * on is in bits 31:16 of arg0. In no order before the lock.
 */
#define XENVMF_status_share_gfn 32

/*
 * Domain: number of pages of that extent.
 */
#define XENVMF_status_share_pages 33

/*
 * All RAM is in the directmap (directmap=yes).
 */
#define XENVMF_feature_directmap (1 << 0)

/*
 * Xen is a debug build.
 */
#define XENVMF_feature_debug (1 << 1)

/*
 * Xen was built with attack primitives for tests (CONFIG_VMF_ATTACK): it
 * must not be used for anything else.
 */
#define XENVMF_feature_attack (1 << 2)

/*
 * Xen can reset the machine without firmware (vmf-reset=).
 */
#define XENVMF_feature_reset (1 << 3)

/*
 * The fuse was to be blown at boot (vmf=...,permissive), and was not.
 */
#define XENVMF_feature_boot_failed (1 << 4)

/*
 * Machine: EL2 leaves that the fuse has removed.
 */
#define XENVMF_counter_leaves_removed 0

/*
 * Machine: bytes that the removed leaves mapped.
 */
#define XENVMF_counter_bytes_removed 1

/*
 * Machine: block entries of the directmap that were split.
 */
#define XENVMF_counter_blocks_split 2

/*
 * Machine: table pages that splitting has allocated.
 */
#define XENVMF_counter_tables_allocated 3

/*
 * Machine: nanoseconds that all protect commands took.
 */
#define XENVMF_counter_protect_ns 4

/*
 * Machine: nanoseconds that lock took.
 */
#define XENVMF_counter_lock_ns 5

/*
 * Machine: nanoseconds of lock in which all CPUs were stopped.
 */
#define XENVMF_counter_lock_stopped_ns 6

/*
 * Machine: frames that hold a translation table of any regime.
 */
#define XENVMF_counter_table_frames 7

/*
 * Machine: frames that the lock made forbidden.
 */
#define XENVMF_counter_forbidden_frames 8

/*
 * Machine: frames that the lock retained.
 */
#define XENVMF_counter_retained_frames 9

/*
 * Machine: attempts to use a forbidden page or table that were refused.
 */
#define XENVMF_counter_refused 10

/*
 * Machine: pages freed after the lock, which are kept out of use for ever.
 */
#define XENVMF_counter_leaked_pages 11

/*
 * Machine: addresses that the self-check has tested with AT instructions.
 */
#define XENVMF_counter_selfcheck_addresses 12

/*
 * Machine: extents of the frozen gfn-to-mfn snapshot.
 */
#define XENVMF_counter_snapshot_extents 13

/*
 * Machine: TLB invalidations that the on-demand windows have issued.
 */
#define XENVMF_counter_window_tlbi 14

/*
 * Number of counters.
 */
#define XENVMF_counter_end 15

/*
 * Domain: it is the control or hardware domain.
 */
#define XENVMF_obstacle_control_domain 0

/*
 * Domain: it is dying.
 */
#define XENVMF_obstacle_dying 1

/*
 * Domain: it is still being built.
 */
#define XENVMF_obstacle_unfinished 2

/*
 * Domain: pages of it that another domain has mapped by foreign mapping or
 * grant.
 */
#define XENVMF_obstacle_shared_pages 3

/*
 * Domain: pages of it that Xen has mapped for a PV interface (vcpu_info,
 * FIFO event channels, ioreq).
 */
#define XENVMF_obstacle_pv_pages 4

/*
 * Domain: devices that are assigned to it.
 */
#define XENVMF_obstacle_devices 5

/*
 * Domain: it is protected already.
 */
#define XENVMF_obstacle_protected 6

/*
 * Machine: it is locked already.
 */
#define XENVMF_obstacle_locked 7

/*
 * Machine: no domain is protected (in the way of lock).
 */
#define XENVMF_obstacle_nothing_protected 8

/*
 * Machine: CPUs that are present and not online.
 */
#define XENVMF_obstacle_cpus_offline 9

/*
 * Machine: an ITS is in use.
 */
#define XENVMF_obstacle_its 10

/*
 * Machine: leaves in the stage 2 of unprotected domains that reach a page
 * of a protected domain or of Xen.
 */
#define XENVMF_obstacle_stage2_leaves 11

/*
 * Machine: a work-around of a CPU calls firmware on entry from a guest (in
 * the way of seal without XENVMF_seal_keep_firmware_calls).
 */
#define XENVMF_obstacle_firmware_calls 12

/*
 * Machine: an IOMMU is in use.
 */
#define XENVMF_obstacle_iommu 13

/*
 * Machine: CPUs that can write samples or traces to memory (SPE, TRBE).
 */
#define XENVMF_obstacle_trace_units 14

/*
 * Number of obstacles.
 */
#define XENVMF_obstacle_end 15

#endif  /* __XEN_PUBLIC_VMF_H__ */
