//! Walks a domain's stage 2: VTTBR_EL2 and VTCR_EL2, 4 KiB granule, a root of up to 16 concatenated tables (Arm ARM
//! DDI 0487: D8.2.2 concatenation, D8.3 descriptors, D8.4.3 stage-2 permissions).
//!
//! Xen keeps frame numbers in entries whose valid bit is clear: `p2m_invalidate_table` clears bit 0 of block, page and
//! table entries alike, and a fault sets it again (xen/arch/arm/mmu/p2m.c). So every entry that is not zero counts,
//! here, as what it would be with bit 0 set. Entries that Xen has removed are zero.

use crate::descriptor;
use crate::dump::Dump;
use crate::error::{Error, Result};
use crate::stage1::output_bits;
use crate::walk::{self, Entry, Stage, Top};

/// The shape of every domain's stage 2, from VTCR_EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regime {
    /// Level of the root table.
    pub start_level: u8,
    /// How many tables the root is made of: 1 to 16.
    pub roots: usize,
    /// Entries of a root table; fewer than 512 only if it is a single one.
    pub root_entries: usize,
    /// Bits of an output address, by VTCR_EL2.PS.
    pub output_bits: u32,
}

/// One block or page of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First intermediate physical address.
    pub ipa: u64,
    /// First physical address.
    pub pa: u64,
    /// The descriptor.
    pub descriptor: u64,
    /// 1 for 1 GiB, 2 for 2 MiB, 3 for 4 KiB.
    pub level: u8,
    /// Whether this and all entries above have their valid bit: the guest gets here without a fault.
    pub live: bool,
}

impl Leaf {
    /// Bytes it maps.
    pub fn size(&self) -> u64 {
        descriptor::size(self.level)
    }

    /// S2AP[1], bit 7.
    pub fn writable(&self) -> bool {
        self.descriptor & 1 << 7 != 0
    }

    /// Whether the guest can execute from here, at EL1 or EL0: XN, bits 54 and 53; 0b10 is neither.
    pub fn executable(&self) -> bool {
        self.descriptor >> 53 & 3 != 2
    }

    /// What Xen notes in bits 58 to 55, which the hardware ignores (`p2m_type_t` in xen/arch/arm/include/asm/p2m.h).
    pub fn type_number(&self) -> u8 {
        (self.descriptor >> 55 & 0xf) as u8
    }

    /// Whether it is RAM of the domain that maps it, and that the domain may write.
    pub fn is_ram(&self) -> bool {
        self.type_number() == 1
    }

    /// Whether it is another domain's page (`p2m_map_foreign_rw`, `p2m_map_foreign_ro`).
    pub fn is_foreign(&self) -> bool {
        matches!(self.type_number(), 6 | 7)
    }

    /// The type in words.
    pub fn kind(&self) -> &'static str {
        match self.type_number() {
            0 => "none",
            1 => "ram",
            2 => "ram, read-only",
            3..=5 => "device",
            _ if self.is_foreign() => "foreign",
            8 | 9 => "grant",
            10 | 11 => "iommu",
            _ => "unknown",
        }
    }
}

/// All that one VTTBR reaches; leaves whether valid or not.
pub type Walk = walk::Walk<Leaf>;

impl Regime {
    /// Reads VTCR_EL2.
    pub fn of(vtcr: u64) -> Result<Regime> {
        let refuse = |why: String| Err(Error::CannotJudge(why));
        let field = |high: u32, low: u32| vtcr >> low & ((1 << (high - low + 1)) - 1);
        if field(15, 14) != 0 {
            return refuse(format!(
                "VTCR_EL2.TG0 is {}: only the 4 KiB granule is judged",
                field(15, 14)
            ));
        }
        if field(33, 32) != 0 {
            return refuse("VTCR_EL2.DS or SL2 is set: 52-bit addresses".into());
        }
        let start_level = match field(7, 6) {
            0 => 2,
            1 => 1,
            2 => 0,
            _ => return refuse("VTCR_EL2.SL0 is 3".into()),
        };
        let t0sz = field(5, 0) as u32;
        let input_bits = 64 - t0sz;
        // One table resolves 9 bits above the level's shift; up to 4 more make concatenated tables, except at level 0.
        let one = descriptor::shift(start_level) + 9;
        let most = if start_level == 0 { one } else { one + 4 };
        if input_bits > most || input_bits <= descriptor::shift(start_level) {
            return refuse(format!(
                "VTCR_EL2.T0SZ {t0sz} does not go with a root at level {start_level}"
            ));
        }
        let Some(output_bits) = output_bits(field(18, 16)) else {
            return refuse(format!("VTCR_EL2.PS is {}", field(18, 16)));
        };
        Ok(Regime {
            start_level,
            roots: 1 << input_bits.saturating_sub(one),
            root_entries: 1 << (input_bits.min(one) - descriptor::shift(start_level)),
            output_bits,
        })
    }

    /// The same with all entries of the root's tables, those as well that no guest's address leads to: Xen takes such
    /// addresses for a domain's (`p2m_set_entry`).
    pub fn beyond(self) -> Regime {
        let root_entries = 512;
        Regime {
            root_entries,
            ..self
        }
    }

    fn start(&self, vttbr: u64) -> Top {
        Top {
            root: self.root(vttbr),
            roots: self.roots,
            entries: self.root_entries,
            level: self.start_level,
            output_bits: self.output_bits,
        }
    }

    /// The root's physical address in a VTTBR_EL2 value: aligned to the root's size, bits 47 to 1.
    pub fn root(&self, vttbr: u64) -> u64 {
        let size = (self.roots * self.root_entries * 8).max(64) as u64;
        vttbr & 0x0000_ffff_ffff_fffe & !(size - 1)
    }
}

impl Stage for Regime {
    /// Whether the hardware gets here.
    type Above = bool;
    type Leaf = Leaf;
    const NAME: &'static str = "stage-2";
    const PENDING_COUNTS: bool = true;

    fn top(&self) -> bool {
        true
    }

    fn below(&self, above: bool, entry: &Entry) -> bool {
        above && entry.valid
    }

    fn leaf(&self, above: bool, entry: &Entry) -> Leaf {
        Leaf {
            ipa: entry.address,
            pa: descriptor::output_address(entry.descriptor, entry.level),
            descriptor: entry.descriptor,
            level: entry.level,
            live: above && entry.valid,
        }
    }
}

/// Walks all of a domain's stage 2.
pub fn walk(dump: &Dump, regime: &Regime, vttbr: u64) -> Result<Walk> {
    walk::walk(dump, regime, &regime.start(vttbr))
}

/// The entries that lead to `ipa`, root first, as Xen would follow them (whatever the valid bit says).
pub fn trace(dump: &Dump, regime: &Regime, vttbr: u64, ipa: u64) -> Vec<descriptor::Step> {
    walk::trace::<Regime>(dump, &regime.start(vttbr), ipa)
}
