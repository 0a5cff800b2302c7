//! Stage-2 descriptors, as Xen's p2m writes them (`mfn_to_p2m_entry`).
//!
//! Xen uses the valid bit for its own purposes: `p2m_domain_creation_finished`
//! and set/way emulation clear it and restore it on the next fault. What says
//! that an entry means something is its type, in the ignored bits 58:55.

use super::{ADDRESS_MASK, Descriptor};
use crate::addr::Mfn;

/// Xen's `p2m_type_t` (`asm/p2m.h`), checked by `BUILD_BUG_ON` in the glue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum P2mType {
    /// `p2m_invalid`: nothing mapped.
    Invalid = 0,
    /// `p2m_ram_rw`.
    RamRw = 1,
    /// `p2m_ram_ro`.
    RamRo = 2,
    /// `p2m_mmio_direct_dev`.
    MmioDev = 3,
    /// `p2m_mmio_direct_nc`.
    MmioNc = 4,
    /// `p2m_mmio_direct_c`.
    MmioC = 5,
    /// `p2m_map_foreign_rw`.
    ForeignRw = 6,
    /// `p2m_map_foreign_ro`.
    ForeignRo = 7,
    /// `p2m_grant_map_rw`.
    GrantRw = 8,
    /// `p2m_grant_map_ro`.
    GrantRo = 9,
    /// `p2m_iommu_map_rw`.
    IommuRw = 10,
    /// `p2m_iommu_map_ro`.
    IommuRo = 11,
}

impl P2mType {
    /// The type with number `raw`, if there is one.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::Invalid,
            1 => Self::RamRw,
            2 => Self::RamRo,
            3 => Self::MmioDev,
            4 => Self::MmioNc,
            5 => Self::MmioC,
            6 => Self::ForeignRw,
            7 => Self::ForeignRo,
            8 => Self::GrantRw,
            9 => Self::GrantRo,
            10 => Self::IommuRw,
            11 => Self::IommuRo,
            _ => return None,
        })
    }

    /// Memory of the domain itself.
    pub const fn is_ram(self) -> bool {
        matches!(self, Self::RamRw | Self::RamRo)
    }

    /// Memory of another domain.
    pub const fn is_borrowed(self) -> bool {
        matches!(
            self,
            Self::ForeignRw | Self::ForeignRo | Self::GrantRw | Self::GrantRo
        )
    }

    /// Memory that Xen may be asked to map on behalf of the domain.
    pub const fn is_any_ram(self) -> bool {
        self.is_ram() || self.is_borrowed() || matches!(self, Self::IommuRw | Self::IommuRo)
    }
}

/// An entry of a stage-2 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Stage2(u64);

impl Stage2 {
    /// Wraps the bits of an entry.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits of the entry.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Xen's type of the entry; an unknown number is reported as it is.
    pub const fn p2m_type(self) -> Result<P2mType, u8> {
        let raw = ((self.0 >> 55) & 0xf) as u8;
        match P2mType::from_raw(raw) {
            Some(t) => Ok(t),
            None => Err(raw),
        }
    }

    /// Whether the entry means something to Xen, whatever its valid bit says
    /// (`p2m_is_valid`).
    pub const fn is_present(self) -> bool {
        (self.0 >> 55) & 0xf != 0
    }

    /// Whether hardware uses the entry.
    pub const fn is_valid(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether a present entry at `level` points to a table
    /// (`lpae_is_table`).
    pub const fn is_table(self, level: u8) -> bool {
        level < 3 && self.0 & 2 != 0
    }

    /// The frame of the table or of the first page.
    pub const fn mfn(self) -> Mfn {
        Mfn::of_maddr(self.0 & ADDRESS_MASK)
    }

    /// The same entry with the valid bit set.
    pub const fn validated(self) -> Self {
        Self(self.0 | 1)
    }

    /// The same leaf, not to be executed from: XN, bit 54, and with FEAT_XNX
    /// bits 54:53 as 0b10 (Arm ARM DDI 0487J.a, D8.4.5).
    pub const fn never_executed(self) -> Self {
        Self(self.0 & !(1 << 53) | 1 << 54)
    }
}

impl Descriptor for Stage2 {
    fn next_table(bits: u64, level: u8) -> Option<Mfn> {
        let entry = Self::from_bits(bits);
        (entry.is_present() && entry.is_table(level)).then(|| entry.mfn())
    }
}
