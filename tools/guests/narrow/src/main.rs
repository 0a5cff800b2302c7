//! A guest of 32 bits (AArch32 at EL1): a canary, as small as can be, that also
//! does what Xen does differently for such a domain.
//!
//! It is a zImage, needs one vCPU, `vpl011` and a GICv3, and runs with the MMU
//! off. About once a second it prints four lines:
//!
//! ```text
//! canary: heartbeat 7 pattern ok
//! narrow: load at 0x400080c8 abort
//! narrow: xen_version 262164
//! narrow: extraversion 0 ".4-pre"
//! ```
//!
//! `load` is a load of GICD_CTLR with writeback, of which the CPU gives no
//! syndrome. Xen reads the instruction, where it can, and does not emulate it:
//! `abort`, or `read 0x...` with a Xen that does. `extraversion` is a hypercall with
//! a pointer, and -14 where Xen cannot follow it.
#![no_std]
#![no_main]

#[cfg(target_arch = "arm")]
mod guest;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
