//! Walks a domain's stage 2: VTTBR_EL2 and VTCR_EL2, 4 KiB granule, a root of up to 16 concatenated tables (Arm ARM
//! DDI 0487: D8.2.2 concatenation, D8.3 descriptors, D8.4.3 stage-2 permissions).
//!
//! Xen keeps frame numbers in entries whose valid bit is clear: `p2m_invalidate_table` clears bit 0 of block, page and
//! table entries alike, and a fault sets it again (xen/arch/arm/mmu/p2m.c). So every entry that is not zero counts,
//! here, as what it would be with bit 0 set. Entries that Xen has removed are zero.

use crate::descriptor::{self, ENTRIES, Kind, Malformed};
use crate::dump::{Dump, FRAME_SIZE};
use crate::error::{Error, Result};
use crate::hex::Hex;
use crate::stage1::output_bits;
use std::collections::BTreeMap;

const MAX_TABLES: usize = 1 << 18;
const MAX_LEAVES: usize = 1 << 24;

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

    /// What Xen notes in bits 58 to 55, which the hardware ignores (`p2m_type_t` in xen/arch/arm/include/asm/p2m.h).
    pub fn kind(&self) -> &'static str {
        match self.descriptor >> 55 & 0xf {
            0 => "none",
            1 => "ram",
            2 => "ram, read-only",
            3..=5 => "device",
            6 | 7 => "foreign",
            8 | 9 => "grant",
            10 | 11 => "iommu",
            _ => "unknown",
        }
    }
}

/// All that one VTTBR reaches.
#[derive(Default)]
pub struct Walk {
    /// Every leaf, by intermediate physical address, valid or not.
    pub leaves: Vec<Leaf>,
    /// Every frame that holds a table, with its level.
    pub tables: BTreeMap<u64, u8>,
    /// Entries that contradict the architecture.
    pub malformed: Vec<Malformed>,
    /// Entries whose valid bit is clear, and that count nevertheless.
    pub pending: usize,
}

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

    /// The root's physical address in a VTTBR_EL2 value: aligned to the root's size, bits 47 to 1.
    pub fn root(&self, vttbr: u64) -> u64 {
        let size = (self.roots * self.root_entries * 8).max(64) as u64;
        vttbr & 0x0000_ffff_ffff_fffe & !(size - 1)
    }
}

struct Walker<'d> {
    dump: &'d Dump,
    regime: Regime,
    walk: Walk,
    visits: usize,
}

/// Walks all of a domain's stage 2.
pub fn walk(dump: &Dump, regime: &Regime, vttbr: u64) -> Result<Walk> {
    let root = regime.root(vttbr);
    let mut walker = Walker {
        dump,
        regime: *regime,
        walk: Walk::default(),
        visits: 0,
    };
    for i in 0..regime.roots as u64 {
        let table = root + i * FRAME_SIZE;
        if dump.bytes_at(table, regime.root_entries * 8).is_none() {
            return Err(Error::CannotJudge(format!(
                "the stage-2 root table {table:#x} is not in the dump"
            )));
        }
        let base = i * ENTRIES * descriptor::size(regime.start_level);
        walker.table(table, regime.root_entries, regime.start_level, base, true)?;
    }
    Ok(walker.walk)
}

impl Walker<'_> {
    fn table(
        &mut self,
        table: u64,
        entries: usize,
        level: u8,
        base: u64,
        live: bool,
    ) -> Result<()> {
        self.visits += 1;
        if self.visits > MAX_TABLES || self.walk.leaves.len() > MAX_LEAVES {
            return Err(Error::CannotJudge(
                "a stage 2 has no end: a loop, or a root that is no table".into(),
            ));
        }
        let dump = self.dump;
        let Some(bytes) = dump.bytes_at(table, entries * 8) else {
            return Ok(()); // the caller has made sure
        };
        let used = self
            .walk
            .tables
            .entry(descriptor::frame_of(table))
            .or_insert(level);
        *used = level.min(*used);
        for (index, d) in bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| u64::from_le_bytes(*b))
            .enumerate()
        {
            if d == 0 {
                continue;
            }
            let ipa = base + index as u64 * descriptor::size(level);
            let valid = descriptor::kind(d, level) != Kind::Invalid;
            self.walk.pending += usize::from(!valid);
            let live = live && valid;
            match descriptor::shape(d, level) {
                Kind::Table => {
                    let next = descriptor::table_address(d);
                    if dump.bytes_at(next, FRAME_SIZE as usize).is_some() {
                        self.table(next, ENTRIES as usize, level + 1, ipa, live)?;
                    } else {
                        self.malformed(ipa, level, d, "table that is not in the dump", true);
                    }
                }
                Kind::Leaf => self.leaf(d, level, ipa, live),
                Kind::Reserved | Kind::Invalid => {
                    self.malformed(ipa, level, d, "reserved encoding", false);
                    if level == 3 {
                        self.leaf(d, level, ipa, false);
                    }
                }
            }
        }
        Ok(())
    }

    fn leaf(&mut self, descriptor: u64, level: u8, ipa: u64, live: bool) {
        let pa = descriptor::output_address(descriptor, level);
        if pa >> self.regime.output_bits != 0 {
            self.malformed(
                ipa,
                level,
                descriptor,
                "output address beyond VTCR_EL2.PS",
                false,
            );
        }
        self.walk.leaves.push(Leaf {
            ipa,
            pa,
            descriptor,
            level,
            live,
        });
    }

    fn malformed(&mut self, ipa: u64, level: u8, d: u64, why: &'static str, blind: bool) {
        self.walk.malformed.push(Malformed {
            address: Hex(ipa),
            level,
            descriptor: Hex(d),
            why,
            blind,
        });
    }
}

/// The entries that lead to `ipa`, root first, as Xen would follow them (whatever the valid bit says).
pub fn trace(dump: &Dump, regime: &Regime, vttbr: u64, ipa: u64) -> Vec<descriptor::Step> {
    let mut steps = Vec::new();
    let top = ipa >> descriptor::shift(regime.start_level);
    if top >= (regime.roots * regime.root_entries) as u64 {
        return steps;
    }
    let mut table = regime.root(vttbr) + (top / ENTRIES) * FRAME_SIZE;
    for level in regime.start_level..=3 {
        let index = ipa >> descriptor::shift(level) & (ENTRIES - 1);
        let Some(d) = dump.word(table + index * 8) else {
            break;
        };
        steps.push(descriptor::Step {
            level,
            table: Hex(table),
            index: index as u16,
            descriptor: Hex(d),
        });
        if d == 0 || descriptor::shape(d, level) != Kind::Table {
            break;
        }
        table = descriptor::table_address(d);
    }
    steps
}
