//! Translation table descriptors, one type for each regime.
//!
//! An attribute of EL2 stage 1 cannot be put into a stage-2 entry: the two
//! have no type in common. Field positions follow the Arm ARM (DDI 0487),
//! sections "VMSAv8-64 descriptor formats" D8.3; a test compares each with
//! Xen's `asm/lpae.h`.
//!
//! # States of a stage-1 entry, and what may follow
//!
//! | from | to | how |
//! |---|---|---|
//! | invalid | page, block, table | write; no TLB maintenance (an invalid entry is never cached, D8.16) |
//! | page, block | invalid | write, then TLBI |
//! | page, block | same, other permissions | write, then TLBI: permissions are not on the list that asks for break-before-make |
//! | block | table; contiguous | not contiguous | break-before-make: invalid, TLBI on all PEs, then the new entry (D8.16.1) |
//! | table | anything else | never done: tables live as long as Xen does |

pub mod stage1;
pub mod stage2;

use crate::addr::Mfn;

/// Output address bits of a descriptor with the 4 KiB granule and 48-bit
/// addresses: bits 47:12.
pub const ADDRESS_MASK: u64 = 0x0000_ffff_ffff_f000;

/// What a walk asks of an entry, whichever the regime.
pub trait Descriptor {
    /// The table that an entry with these bits at `level` points to, if it
    /// points to one.
    fn next_table(bits: u64, level: u8) -> Option<Mfn>;
}
