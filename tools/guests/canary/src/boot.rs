//! Entry and exception vectors (boot.S), and the symbols of the linker script.
#![allow(
    unsafe_code,
    reason = "the first instructions and the vectors can only be assembly"
)]

use core::arch::global_asm;
use core::ops::Range;

global_asm!(include_str!("boot.S"));

unsafe extern "C" {
    static _image_start: u8;
    static _image_end: u8;
}

/// Bytes from the start of the image to its end, stack and tables included.
pub fn image_bytes() -> usize {
    (&raw const _image_end).addr() - (&raw const _image_start).addr()
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
