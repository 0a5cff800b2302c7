//! Calls of firmware, which Xen answers itself.
#![allow(unsafe_code, reason = "HVC and SMC are instructions")]

use core::arch::asm;

/// The instruction that makes the call.
#[derive(Clone, Copy)]
pub enum Conduit {
    /// HVC #0.
    Hvc,
    /// SMC #0.
    Smc,
}

/// Calls `function` with up to three arguments; returns x0.
///
/// # Safety
/// The function reads and writes no memory that Rust knows of, and lets no
/// vCPU run where it must not.
pub unsafe fn call(conduit: Conduit, function: u64, arguments: [u64; 3]) -> u64 {
    let result: u64;
    let [a, b, c] = arguments;
    // SAFETY: the caller's promise; the SMC calling convention keeps all but
    // x0 to x17.
    unsafe {
        match conduit {
            Conduit::Hvc => asm!("hvc #0", inout("x0") function => result,
                in("x1") a, in("x2") b, in("x3") c, clobber_abi("C"), options(nostack)),
            Conduit::Smc => asm!("smc #0", inout("x0") function => result,
                in("x1") a, in("x2") b, in("x3") c, clobber_abi("C"), options(nostack)),
        }
    }
    result
}
