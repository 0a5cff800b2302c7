//! Where the split heap puts its border: size and alignment of the xenheap.

use crate::addr::PAGE_SHIFT;

/// Alignment of the xenheap's start and size in bytes: one level-2 block, so
/// that no block mapping holds both xenheap and other memory.
pub const XENHEAP_ALIGN: u64 = 2 << 20;
/// Smallest default size in bytes.
pub const XENHEAP_FLOOR: u64 = 32 << 20;
/// Largest default size in bytes, as on arm32.
pub const XENHEAP_CEILING: u64 = 1 << 30;

/// Bytes of xenheap for a machine with `ram` bytes of RAM.
///
/// `requested` is the command line's `xenheap_megabytes=` in MiB, 0 when it
/// is not there. Without it the size is 1/64 of RAM, from [`XENHEAP_FLOOR`] to
/// [`XENHEAP_CEILING`]; either way it is rounded up to [`XENHEAP_ALIGN`].
/// Measured use is 0.5 MiB for 2 GiB of RAM, three domains and four vCPUs,
/// and 37 KiB for each further vCPU.
pub fn xenheap_bytes(ram: u64, requested: u64) -> u64 {
    let wanted = if requested != 0 {
        requested.saturating_mul(1 << 20)
    } else {
        (ram / 64).clamp(XENHEAP_FLOOR, XENHEAP_CEILING)
    };
    wanted.saturating_add(XENHEAP_ALIGN - 1) & !(XENHEAP_ALIGN - 1)
}

/// The same in pages.
pub fn xenheap_pages(ram: u64, requested: u64) -> u64 {
    xenheap_bytes(ram, requested) >> PAGE_SHIFT
}
