//! The identity map: 1 GiB blocks in the L1 table that boot.S has made.
#![allow(
    unsafe_code,
    reason = "writes the live translation table of this guest"
)]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is behind a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RAM: write-back, inner shareable.
    Normal,
    /// Registers: device nGnRE.
    Device,
}

const GIB: u64 = 1 << 30;
/// The last block is where the image is mapped.
const BLOCKS: u64 = 511;
const VALID: u64 = 1;
const BLOCK: u64 = 1;
const ACCESS_FLAG: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 3 << 8;
const ATTRIBUTE_DEVICE: u64 = 1 << 2;
const NO_EXEC: u64 = 3 << 53;

unsafe extern "C" {
    static table_l1: [AtomicU64; 512];
}

/// Maps `start..start + bytes` at its own address, never executable.
///
/// Returns false where an address is beyond the map, or its block is of the
/// other kind already.
pub fn map(start: u64, bytes: u64, kind: Kind) -> bool {
    let last = start.saturating_add(bytes.max(1) - 1);
    (start / GIB..=last / GIB).all(|index| map_block(index, kind))
}

fn map_block(index: u64, kind: Kind) -> bool {
    if index >= BLOCKS {
        return false;
    }
    // SAFETY: boot.S defines the table; atomics may be shared.
    let entry = unsafe { &table_l1[index as usize] };
    let attributes = match kind {
        Kind::Normal => INNER_SHAREABLE,
        Kind::Device => ATTRIBUTE_DEVICE,
    };
    let new = (index * GIB) | NO_EXEC | ACCESS_FLAG | attributes | BLOCK;
    let old = entry.load(Relaxed);
    if old == new {
        return true;
    }
    if old & VALID != 0 {
        if old & ATTRIBUTE_DEVICE != new & ATTRIBUTE_DEVICE {
            return false;
        }
        // Break before make: only the permission to execute changes, for the
        // blocks of boot.S. The code runs at its own address, not in them.
        entry.store(0, Relaxed);
        // SAFETY: barriers and TLB maintenance have no other effect.
        unsafe {
            asm!(
                "dsb ishst",
                "tlbi vmalle1",
                "dsb ish",
                "isb",
                options(nostack)
            )
        };
    }
    entry.store(new, Relaxed);
    // SAFETY: as above.
    unsafe { asm!("dsb ishst", "isb", options(nostack)) };
    true
}
