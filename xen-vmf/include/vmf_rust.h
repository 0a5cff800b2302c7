/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What Xen's C code calls in the crate xen-vmf.
 *
 * Generated from Rust by cargo xtask headers: change it there.
 */

#ifndef ASM_ARM_VMF_RUST_H
#define ASM_ARM_VMF_RUST_H

#include <xen/types.h>

struct vmf_window;

/*
 * Level-3 tables of a CPU's window.
 */
#define VMF_WINDOW_TABLES 5

/*
 * Bytes of address space of a CPU's window.
 */
#define VMF_WINDOW_BYTES (VMF_WINDOW_TABLES << 21)

/*
 * Bytes of a struct Window.
 */
#define VMF_WINDOW_STATE_BYTES 1080

/*
 * Answer of vmf_window_map when every region is in use; no address.
 */
#define VMF_WINDOW_FULL 1

/*
 * Pages of xenheap for a machine with ram bytes, when the command line asks
 * for megabytes (0: it does not). Early boot.
 */
uint64_t vmf_xenheap_pages(uint64_t ram, uint64_t megabytes);

/*
 * Makes window the state of a window at base. Its tables are in the
 * VMF_WINDOW_TABLES frames tables; vmf_system_slot() says where they
 * are mapped.
 *
 * Safety:
 * window points to VMF_WINDOW_STATE_BYTES bytes, aligned to 8, that
 * nobody uses yet; tables to as many frames.
 */
void vmf_window_init(struct vmf_window *window,
                     uint64_t base,
                     const uint64_t *tables);

/*
 * Page of the window, counted from its start, where table index is mapped.
 */
uint32_t vmf_system_slot(uint32_t index);

/*
 * The address of mfn in this CPU's window, which it has one more use of from
 * now on; or 0 where that takes vmf_window_map. IRQs may come.
 *
 * Safety:
 * window is this CPU's.
 */
uint64_t vmf_window_find(const struct vmf_window *window, uint64_t mfn);

/*
 * Maps mfn in this CPU's window and returns its address, or 0 if the frame
 * must not be mapped, or VMF_WINDOW_FULL. IRQs masked.
 *
 * Safety:
 * window is this CPU's.
 */
uint64_t vmf_window_map(const struct vmf_window *window, uint64_t mfn);

/*
 * Ends the use of an address from vmf_window_find or vmf_window_map;
 * false if it is not one that is in use. IRQs may come.
 *
 * Safety:
 * window is this CPU's.
 */
bool vmf_window_unmap(const struct vmf_window *window, uint64_t va);

/*
 * The frame behind an address that is in use, ~0 if there is none. IRQs may
 * come.
 *
 * Safety:
 * window is this CPU's.
 */
uint64_t vmf_window_frame(const struct vmf_window *window, uint64_t va);

/*
 * Whether vmf_op knows the command.
 */
bool vmf_is_known(uint32_t cmd);

/*
 * Whether only the control domain may make the call.
 */
bool vmf_needs_privilege(uint32_t cmd, uint32_t domid, uint16_t caller);

/*
 * Decides a vmf_op that XSM has let through. Returns the hypercall's result
 * and stores 0 in job, or stores a job for vmf_run.
 *
 * Safety:
 * job can be written.
 */
int64_t vmf_decide(uint32_t cmd,
                   uint32_t domid,
                   uint64_t arg0,
                   uint64_t arg1,
                   uint16_t caller,
                   uint64_t *job);

/*
 * Does a job from vmf_decide. In a tasklet on CPU 0, all domains paused.
 */
int64_t vmf_run(uint64_t job);

/*
 * Looks up a guest frame in the frozen snapshot, in the len extents from
 * first on. Returns the machine frame or ~0, and stores the p2m type and
 * the order. Any context, after the lock.
 *
 * Safety:
 * p2m_type and order can be written.
 */
uint64_t vmf_snapshot_lookup(uint64_t first,
                             uint64_t len,
                             uint64_t gfn,
                             uint32_t *p2m_type,
                             uint32_t *order);

/*
 * Adds to one of the counters of XENVMF_counters.
 */
void vmf_count(uint32_t counter, uint64_t amount);

#endif  /* ASM_ARM_VMF_RUST_H */
