//! Addresses and frame numbers, each with a type of its own.
//!
//! The names are Xen's (`xen/include/xen/mm-frame.h`): a machine frame number
//! ([`Mfn`]) is a machine address divided by the page size, a guest frame
//! number ([`Gfn`]) the same for an intermediate physical address, and a
//! [`Vaddr`] is an EL2 virtual address. The granule is 4 KiB throughout
//! (`PAGE_SHIFT` in `asm/page-shift.h`).

use static_assertions::const_assert;

/// log2 of the size of a page in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Size of a page in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Entries of a translation table with the 4 KiB granule.
pub const ENTRIES: usize = 512;
/// Width of a machine address that Xen supports (`PADDR_BITS`).
pub const PADDR_BITS: u32 = 52;

const_assert!(ENTRIES as u64 * 8 == PAGE_SIZE);

macro_rules! frame_number {
    ($name:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a frame number.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The frame number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The frame `pages` further on; `None` on overflow.
            pub const fn checked_add(self, pages: u64) -> Option<Self> {
                match self.0.checked_add(pages) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
        }
    };
}

frame_number!(Mfn, "A machine frame number.");
frame_number!(
    Gfn,
    "A guest frame number: a page of a domain's stage-2 input."
);

impl Mfn {
    /// The frame that holds machine address `maddr`.
    pub const fn of_maddr(maddr: u64) -> Self {
        Self(maddr >> PAGE_SHIFT)
    }

    /// Machine address of the frame's first byte.
    pub const fn maddr(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

/// An EL2 virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Vaddr(u64);

impl Vaddr {
    /// Wraps a virtual address.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The virtual address.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Pages that one entry of a table at `level` covers (0 to 3).
pub const fn level_pages(level: u8) -> u64 {
    1 << (9 * (3 - level as u32))
}

/// Bytes that one entry of a table at `level` covers (0 to 3).
pub const fn level_bytes(level: u8) -> u64 {
    level_pages(level) << PAGE_SHIFT
}
