//! Device registers, in the one form of access that every hypervisor can
//! emulate: a load or store of one register without write-back.
//!
//! `read_volatile` does not do: LLVM may choose a post-indexed form, which has
//! no syndrome (ESR_EL2.ISV is 0), and Xen can then only read the instruction
//! from the guest's memory, which it cannot once the guest is protected.
#![allow(unsafe_code, reason = "device registers at addresses")]

use core::arch::asm;

/// A device that was mapped.
#[derive(Clone, Copy)]
pub struct Device {
    base: u64,
}

impl Device {
    /// The device at `base`.
    ///
    /// # Safety
    /// The registers of a device are there, mapped as device memory, and
    /// reading or writing them cannot change memory that Rust knows of.
    pub const unsafe fn new(base: u64) -> Self {
        Self { base }
    }

    /// The registers from `offset` on.
    pub const fn at(self, offset: u64) -> Self {
        Self {
            base: self.base + offset,
        }
    }

    /// Loads a 32-bit register.
    pub fn load(self, offset: u64) -> u32 {
        let value: u32;
        // SAFETY: the promise of `new`.
        unsafe {
            asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) self.base + offset,
                options(nostack, preserves_flags));
        }
        value
    }

    /// Stores a 32-bit register.
    pub fn store(self, offset: u64, value: u32) {
        // SAFETY: the promise of `new`.
        unsafe {
            asm!("str {0:w}, [{1}]", in(reg) value, in(reg) self.base + offset,
                options(nostack, preserves_flags));
        }
    }
}
