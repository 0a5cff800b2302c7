//! Entry and exception vectors (boot.S), further vCPUs, and the symbols of the
//! linker script.
#![allow(
    unsafe_code,
    reason = "the first instructions and the vectors can only be assembly"
)]

use core::arch::global_asm;
use core::ops::Range;

use aarch64_cpu::registers::MPIDR_EL1;
use tock_registers::interfaces::Readable;

use crate::psci::{self, Conduit};

global_asm!(include_str!("boot.S"));

/// Most vCPUs that a guest may use.
pub const VCPUS: usize = 8;

const PSCI_CPU_ON: u64 = 0xc400_0003;

unsafe extern "C" {
    static _image_start: u8;
    static _image_end: u8;
    static further_vcpu: u8;
}

/// What a further vCPU starts with. boot.S reads the first two fields.
#[repr(C)]
pub struct Start {
    /// First address behind its stack, 16-byte aligned.
    pub stack_top: u64,
    /// Where it goes.
    pub enter: extern "C" fn(&'static Start) -> !,
    /// For whoever is there.
    pub argument: u64,
}

/// The number of the vCPU that asks.
pub fn vcpu() -> usize {
    MPIDR_EL1.get() as usize % VCPUS
}

/// Bytes from the start of the image to its end, stack and tables included.
pub fn image_bytes() -> usize {
    (&raw const _image_end).addr() - (&raw const _image_start).addr()
}

/// The physical address of something in the image, which was loaded at `start`.
pub fn physical<T>(of: *const T, start: u64) -> u64 {
    start + (of.addr() - (&raw const _image_start).addr()) as u64
}

/// Starts a further vCPU with the first one's tables; returns what PSCI says.
///
/// # Safety
/// The stack is the vCPU's own. `image_start` is where the image was loaded.
pub unsafe fn start_vcpu(vcpu: u64, start: &'static Start, image_start: u64) -> i32 {
    let entry = physical(&raw const further_vcpu, image_start);
    let context = core::ptr::from_ref(start).expose_provenance() as u64;
    // SAFETY: boot.S expects this; the rest is the caller's promise.
    unsafe { psci::call(Conduit::Hvc, PSCI_CPU_ON, [vcpu, entry, context]) as i32 }
}

/// The device tree that the loader has left at `address`.
///
/// # Safety
/// `address` is what the loader passed, and mapped, and nothing writes there.
pub unsafe fn device_tree(address: usize) -> Result<fdt::Fdt<'static>, fdt::FdtError> {
    // SAFETY: the caller's promise; the crate reads the header, then the size
    // that the header states.
    unsafe { fdt::Fdt::from_ptr(core::ptr::with_exposed_provenance(address)) }
}

/// Physical range of the image, which was loaded at `start`.
pub fn image(start: u64) -> Range<u64> {
    start..start + image_bytes() as u64
}
