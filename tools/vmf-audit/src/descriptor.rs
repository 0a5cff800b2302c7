//! VMSAv8-64 descriptors, 4 KiB granule, 48-bit output addresses (Arm ARM DDI 0487, section D8.3): what both regimes
//! have in common. Attributes that differ are with their walkers.

use crate::dump::{FRAME_SHIFT, FRAME_SIZE};
use serde::Serialize;

/// Entries of a full table.
pub const ENTRIES: u64 = 512;
/// Bit 0: valid. Bit 1: table (levels 0 to 2), page (level 3).
const VALID: u64 = 1 << 0;
const TABLE: u64 = 1 << 1;
/// Bit 10: access flag. A leaf without it faults, unless the hardware sets it by itself.
const ACCESS_FLAG: u64 = 1 << 10;
/// Bit 51: dirty-bit modifier. With hardware dirty state a read-only leaf that has it becomes writable when written to.
const DIRTY_MODIFIER: u64 = 1 << 51;
/// Bit 52: one of 16 adjacent entries that the TLB may hold as one.
const CONTIGUOUS: u64 = 1 << 52;

/// What an entry is, by its two lowest bits and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bit 0 is clear: the hardware faults. Software may keep anything in the other bits.
    Invalid,
    /// Points to a table of the next level.
    Table,
    /// Maps a block (levels 1 and 2) or a page (level 3).
    Leaf,
    /// An encoding that is reserved at this level: the hardware faults.
    Reserved,
}

/// What `descriptor` at `level` is to the hardware.
pub fn kind(descriptor: u64, level: u8) -> Kind {
    if descriptor & VALID == 0 {
        Kind::Invalid
    } else {
        shape(descriptor, level)
    }
}

/// What `descriptor` would be if its valid bit were set.
pub fn shape(descriptor: u64, level: u8) -> Kind {
    match (descriptor & TABLE != 0, level) {
        (true, 0..=2) => Kind::Table,
        (true, 3) | (false, 1 | 2) => Kind::Leaf,
        _ => Kind::Reserved,
    }
}

/// log2 of what one entry of `level` maps.
pub fn shift(level: u8) -> u32 {
    FRAME_SHIFT + 9 * (3 - u32::from(level.min(3)))
}

/// Bytes that one entry of `level` maps.
pub fn size(level: u8) -> u64 {
    1 << shift(level)
}

/// The next table's address: bits 47 to 12.
pub fn table_address(descriptor: u64) -> u64 {
    descriptor & 0x0000_ffff_ffff_f000
}

/// A leaf's output address: bits 47 to the size's.
pub fn output_address(descriptor: u64, level: u8) -> u64 {
    table_address(descriptor) & !(size(level) - 1)
}

/// Whether the access flag is set.
pub fn accessed(descriptor: u64) -> bool {
    descriptor & ACCESS_FLAG != 0
}

/// Whether the dirty-bit modifier is set.
pub fn dirty_modifier(descriptor: u64) -> bool {
    descriptor & DIRTY_MODIFIER != 0
}

/// Whether the contiguous hint is set.
pub fn contiguous(descriptor: u64) -> bool {
    descriptor & CONTIGUOUS != 0
}

/// Whether the leaf at `index` of `table` claims to be one of 16 that are not what the claim needs: all leaves, all
/// with the hint, same attributes, one run of aligned output addresses. What a TLB then holds is not predictable.
pub fn broken_contiguous(table: &[[u8; 8]], index: usize, level: u8) -> bool {
    let group = index & !15;
    let Some(group) = table.get(group..group + 16) else {
        return true;
    };
    let group: Vec<u64> = group.iter().map(|&word| u64::from_le_bytes(word)).collect();
    let first = group[0];
    let attributes = |d: u64| d & !0x0000_ffff_ffff_f000;
    !output_address(first, level).is_multiple_of(16 * size(level))
        || group.iter().enumerate().any(|(i, &d)| {
            kind(d, level) != Kind::Leaf
                || attributes(d) != attributes(first)
                || output_address(d, level) != output_address(first, level) + i as u64 * size(level)
        })
}

/// The frame that holds the entry or byte at `pa`.
pub fn frame_of(pa: u64) -> u64 {
    pa / FRAME_SIZE
}

/// One step of a walk: which entry was read, and what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Level, 0 to 3.
    pub level: u8,
    /// Physical address of the table.
    pub table: crate::hex::Hex,
    /// Index of the entry.
    pub index: u16,
    /// The entry.
    pub descriptor: crate::hex::Hex,
}

/// An entry that the walker refuses to interpret, or that contradicts the architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Malformed {
    /// Input address of the entry.
    pub address: crate::hex::Hex,
    /// Level, 0 to 3.
    pub level: u8,
    /// The entry.
    pub descriptor: crate::hex::Hex,
    /// What is wrong with it.
    pub why: &'static str,
    /// Whether what the entry maps is unknown (a table that the dump does not hold), not just odd.
    pub blind: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_level() {
        for level in 0..=3 {
            assert_eq!(kind(0b00, level), Kind::Invalid);
            assert_eq!(kind(0b10, level), Kind::Invalid);
        }
        assert_eq!(
            [0, 1, 2, 3].map(|l| kind(0b11, l)),
            [Kind::Table, Kind::Table, Kind::Table, Kind::Leaf]
        );
        assert_eq!(
            [0, 1, 2, 3].map(|l| kind(0b01, l)),
            [Kind::Reserved, Kind::Leaf, Kind::Leaf, Kind::Reserved]
        );
    }

    #[test]
    fn addresses_by_level() {
        let d = 0xffff_ffff_ffff_ffff;
        assert_eq!(output_address(d, 3), 0x0000_ffff_ffff_f000);
        assert_eq!(output_address(d, 2), 0x0000_ffff_ffe0_0000);
        assert_eq!(output_address(d, 1), 0x0000_ffff_c000_0000);
        assert_eq!([size(3), size(2), size(1)], [4 << 10, 2 << 20, 1 << 30]);
    }

    #[test]
    fn contiguous_groups() {
        let entry = |i: u64| (0x4000_0000 + 0x1000 * i) | 1 << 52 | 0x403;
        let mut table = [[0; 8]; 512];
        for (i, word) in table.iter_mut().enumerate().take(16) {
            *word = entry(i as u64).to_le_bytes();
        }
        assert!((0..16).all(|i| !broken_contiguous(&table, i, 3)));
        table[5] = entry(6).to_le_bytes();
        assert!((0..16).all(|i| broken_contiguous(&table, i, 3)));
        table[5] = [0; 8];
        assert!(broken_contiguous(&table, 0, 3));
        assert!(broken_contiguous(&table[..8], 0, 3));
    }
}
