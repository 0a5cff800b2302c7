//! Interrupts of a GICv3 as a vCPU sees its own: its redistributor, its CPU
//! interface, and a handler for those that are not masked in PSTATE.
//!
//! They are masked but in [`until`] and [`spin_until`].
#![allow(
    unsafe_code,
    reason = "interrupt controller registers, and a handler that is called from the vectors"
)]

use core::arch::asm;
use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use crate::mmio::Device;

/// The interrupt that a vCPU sends itself or another (an SGI).
pub const SENT: u32 = 1;
/// The interrupt of events, of a domain that Xen has built from the device tree
/// (GUEST_EVTCHN_PPI).
pub const EVENT: u32 = 31;
/// Interrupt ids from here on are special: nothing is pending.
pub const SPECIAL: u32 = 1020;
/// Bytes from one vCPU's redistributor to the next.
pub const STRIDE: u64 = 0x2_0000;
/// From a redistributor to its frame of private interrupts.
pub const PRIVATE: u64 = 0x1_0000;
/// GICR_WAKER.
const WAKER: u64 = 0x14;

/// Called with the virtual counter as it was when the vector was entered.
pub type Handler = fn(u64);

static HANDLER: AtomicPtr<()> = AtomicPtr::new(null_mut());

unsafe extern "C" {
    static interrupt_nops_end: u8;
}

/// Has a vCPU's own private interrupts come to it.
///
/// # Safety
/// `redistributor` is the calling vCPU's, mapped as device. Interrupts are
/// masked.
pub unsafe fn enable(redistributor: Device, interrupts: &[u32]) {
    redistributor.store(WAKER, redistributor.load(WAKER) & !(1 << 1));
    while redistributor.load(WAKER) & (1 << 2) != 0 {}
    let private = redistributor.at(PRIVATE);
    private.store(0x80, u32::MAX);
    for interrupt in interrupts {
        enable_private(private, *interrupt);
    }
    // SAFETY: enables the CPU interface; interrupts are masked.
    unsafe {
        asm!(
            "msr s3_0_c12_c12_5, {one}", // ICC_SRE_EL1
            "isb",
            "msr s3_0_c4_c6_0, {all}",   // ICC_PMR_EL1
            "msr s3_0_c12_c12_3, xzr",   // ICC_BPR1_EL1
            "msr s3_0_c12_c12_7, {one}", // ICC_IGRPEN1_EL1
            "isb",
            one = in(reg) 1u64,
            all = in(reg) 0xffu64,
            options(nostack)
        );
    }
}

/// `frame` is a GICv2 distributor or the private frame of a redistributor:
/// the registers of private interrupts have the same offsets in both.
pub fn enable_private(frame: Device, interrupt: u32) {
    let priority = 0x400 + u64::from(interrupt & !3);
    let shift = (interrupt & 3) * 8;
    let others = frame.load(priority) & !(0xff << shift);
    frame.store(priority, others | (0x80 << shift));
    frame.store(0x100, 1 << interrupt);
}

/// Sends a vCPU, of the first sixteen, an interrupt.
pub fn send(vcpu: usize) {
    let target = 1u64 << (vcpu % 16);
    // SAFETY: writes ICC_SGI1R_EL1.
    unsafe {
        asm!("msr s3_0_c12_c11_5, {}", "isb",
            in(reg) (u64::from(SENT) << 24) | target, options(nostack));
    }
}

/// Acknowledges an interrupt, if one is pending.
pub fn take() -> Option<u32> {
    let interrupt: u64;
    // SAFETY: reads ICC_IAR1_EL1, which acknowledges.
    unsafe {
        asm!("mrs {}, s3_0_c12_c12_0", "dsb sy", out(reg) interrupt, options(nostack));
    }
    let interrupt = interrupt as u32;
    (interrupt & 0x3ff < SPECIAL).then_some(interrupt)
}

/// Ends an interrupt that was taken.
pub fn end(interrupt: u32) {
    // SAFETY: writes ICC_EOIR1_EL1.
    unsafe {
        asm!("msr s3_0_c12_c12_1, {}", "isb", in(reg) u64::from(interrupt), options(nostack));
    }
}

/// From now on interrupts that are not masked go to `handler`, on all vCPUs.
pub fn handle(handler: Handler) {
    HANDLER.store(handler as *mut (), Relaxed);
}

/// An interrupt was taken; false if nobody handles any.
pub(crate) fn entered(counter: u64) -> bool {
    let handler = HANDLER.load(Relaxed);
    if handler.is_null() {
        return false;
    }
    // SAFETY: `handle` has stored a `Handler`, and nothing else is ever stored.
    let handler = unsafe { transmute::<*mut (), Handler>(handler) };
    handler(counter);
    true
}

/// Has the vector of this vCPU execute so many instructions, 15 at most, before
/// it reads the counter. A tick of the counter can be more than one
/// instruction: over as many delays as a tick has instructions, what is cut off
/// adds up to the same each time.
pub fn delay(instructions: usize) {
    let end = (&raw const interrupt_nops_end).addr();
    // SAFETY: the vector goes there; there are 15 nops in front of it.
    unsafe {
        asm!("msr tpidr_el1, {}", in(reg) end - 4 * instructions.min(15), options(nostack));
    }
}

/// Sleeps until `done`; interrupts are handled as they come.
pub fn until(done: impl Fn() -> bool) {
    while !done() {
        // SAFETY: WFI ends for an interrupt that is masked as well.
        unsafe {
            asm!(
                "wfi",
                "msr daifclr, #2",
                "isb",
                "msr daifset, #2",
                options(nostack)
            )
        };
    }
}

/// The same without sleeping.
pub fn spin_until(done: impl Fn() -> bool) {
    // SAFETY: whatever comes is handled, on the stack of who is here.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
    while !done() {}
    // SAFETY: masks them again.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
}
