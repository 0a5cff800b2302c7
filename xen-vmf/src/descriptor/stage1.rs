//! EL2 stage-1 descriptors, as Xen writes them (`mfn_to_xen_entry`).

use super::{ADDRESS_MASK, Descriptor};
use crate::addr::Mfn;
use bitflags::bitflags;
use static_assertions::const_assert_eq;

bitflags! {
    /// Attribute bits of a block or page descriptor (D8.3.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Attributes: u64 {
        /// The entry is valid.
        const VALID = 1 << 0;
        /// Set for tables and for pages of level 3, clear for blocks.
        const TABLE_OR_PAGE = 1 << 1;
        /// AP\[2\]: read-only.
        const READ_ONLY = 1 << 7;
        /// One of 16 adjacent entries that a TLB may cache as one.
        const CONTIGUOUS = 1 << 52;
        /// XN: not executable at EL2.
        const EXECUTE_NEVER = 1 << 54;
    }
}

const_assert_eq!(
    Attributes::all().bits() & ADDRESS_MASK,
    0 // attributes and the output address never share a bit
);

/// Number of entries in a contiguous group with the 4 KiB granule.
pub const CONTIGUOUS_ENTRIES: usize = 16;

/// An entry of an EL2 stage-1 table. Its level is the caller's knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Stage1(u64);

impl Stage1 {
    /// The invalid entry.
    pub const INVALID: Self = Self(0);

    /// Wraps the bits of an entry.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits of the entry.
    pub const fn bits(self) -> u64 {
        self.0
    }

    fn attributes(self) -> Attributes {
        Attributes::from_bits_truncate(self.0)
    }

    /// Whether hardware uses the entry.
    pub fn is_valid(self) -> bool {
        self.attributes().contains(Attributes::VALID)
    }

    /// Whether a valid entry at `level` points to a table.
    pub fn is_table(self, level: u8) -> bool {
        level < 3 && self.is_valid() && self.attributes().contains(Attributes::TABLE_OR_PAGE)
    }

    /// Whether a valid entry at `level` maps memory.
    pub fn is_leaf(self, level: u8) -> bool {
        self.is_valid() && !self.is_table(level)
    }

    /// The frame that the entry points to: a table, or the first mapped one.
    pub const fn mfn(self) -> Mfn {
        Mfn::of_maddr(self.0 & ADDRESS_MASK)
    }

    /// Whether the entry is part of a contiguous group.
    pub fn is_contiguous(self) -> bool {
        self.attributes().contains(Attributes::CONTIGUOUS)
    }

    /// Whether the entry forbids writing.
    pub fn is_read_only(self) -> bool {
        self.attributes().contains(Attributes::READ_ONLY)
    }

    /// Whether the entry forbids execution.
    pub fn is_execute_never(self) -> bool {
        self.attributes().contains(Attributes::EXECUTE_NEVER)
    }

    /// The same mapping, not part of a contiguous group.
    pub fn without_contiguous(self) -> Self {
        Self(self.0 & !Attributes::CONTIGUOUS.bits())
    }

    /// The same mapping, read-only.
    pub fn read_only(self) -> Self {
        Self(self.0 | Attributes::READ_ONLY.bits())
    }

    /// A leaf at `level` with the attributes of this leaf that maps `mfn`:
    /// what a block becomes when it is split.
    pub fn narrowed(self, mfn: Mfn, level: u8) -> Self {
        let mut bits =
            (self.0 & !(ADDRESS_MASK | Attributes::CONTIGUOUS.bits())) | mfn.maddr() & ADDRESS_MASK;
        if level == 3 {
            bits |= Attributes::TABLE_OR_PAGE.bits();
        } else {
            bits &= !Attributes::TABLE_OR_PAGE.bits();
        }
        Self(bits)
    }

    /// An entry that points to the table in `mfn`. The attributes are those
    /// of `mfn_to_xen_entry(mfn, MT_NORMAL)`; hardware ignores them.
    pub const fn table(mfn: Mfn) -> Self {
        Self(TABLE_BITS | mfn.maddr() & ADDRESS_MASK)
    }

    /// A writable, not executable page of normal memory in `mfn`: what
    /// `mfn_to_xen_entry(mfn, MT_NORMAL)` gives at level 3.
    pub const fn page(mfn: Mfn) -> Self {
        Self(TABLE_BITS | mfn.maddr() & ADDRESS_MASK)
    }

    /// Whether going from this entry to `new` needs break-before-make: both
    /// valid and the kind, the output address, the memory attributes or the
    /// contiguous bit differ (D8.16.1).
    pub fn needs_break(self, new: Self) -> bool {
        const PERMISSIONS: u64 =
            Attributes::READ_ONLY.bits() | Attributes::EXECUTE_NEVER.bits() | AF_AND_IGNORED;
        self.is_valid() && new.is_valid() && (self.0 ^ new.0) & !PERMISSIONS != 0
    }
}

impl Descriptor for Stage1 {
    fn next_table(bits: u64, level: u8) -> Option<Mfn> {
        let entry = Self::from_bits(bits);
        entry.is_table(level).then(|| entry.mfn())
    }
}

/// Access flag, and the bits 58:55 that hardware ignores.
const AF_AND_IGNORED: u64 = 1 << 10 | 0xf << 55;

/// VALID, TABLE_OR_PAGE, AttrIndx = MT_NORMAL (7), NS, AP\[1\] (RES1), inner
/// shareable, AF, nG, XN.
const TABLE_BITS: u64 =
    1 | 1 << 1 | 7 << 2 | 1 << 5 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11 | 1 << 54;
