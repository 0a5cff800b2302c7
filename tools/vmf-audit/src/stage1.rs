//! Walks EL2's stage 1: the regime of HCR_EL2.E2H == 0, one range of addresses from 0, 4 KiB granule, 48-bit output
//! (Arm ARM DDI 0487: D8.2 the walk, D8.3 descriptors, D8.4 permissions; D19 the registers). Anything that would be
//! read differently (another granule, E2H, big-endian tables, 52-bit addresses) is refused, never guessed.

use crate::descriptor::{self, Kind, Step};
use crate::dump::Dump;
use crate::error::{Error, Result};
use crate::registers::Cpu;
use crate::walk::{self, Entry, Stage, Top};

/// How a CPU translates at EL2. Two CPUs with equal regimes see the same, and are walked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Regime {
    /// SCTLR_EL2.M. Without it every physical address is reachable, readable, writable and executable.
    pub mmu: bool,
    /// Physical address of the root table.
    pub root: u64,
    /// Level of the root table.
    pub start_level: u8,
    /// Bits of a virtual address: 64 - T0SZ.
    pub input_bits: u32,
    /// Bits of a physical address, by TCR_EL2.PS.
    pub output_bits: u32,
    /// SCTLR_EL2.WXN: what is writable is not executable.
    pub wxn: bool,
    /// TCR_EL2.HPD: attributes in table descriptors do not count.
    pub flat_attributes: bool,
    /// TCR_EL2.HA and HD: the hardware makes a read-only leaf with the dirty-bit modifier writable.
    pub hardware_dirty: bool,
}

/// One block or page that EL2 can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First virtual address.
    pub va: u64,
    /// First physical address.
    pub pa: u64,
    /// The descriptor.
    pub descriptor: u64,
    /// 1 for 1 GiB, 2 for 2 MiB, 3 for 4 KiB.
    pub level: u8,
    /// Whether descriptors, hierarchical ones included, allow writes.
    pub writable: bool,
    /// Whether descriptors, hierarchical ones included, allow execution; WXN is not counted here.
    pub executable: bool,
}

impl Leaf {
    /// Bytes it maps.
    pub fn size(&self) -> u64 {
        descriptor::size(self.level)
    }

    /// SH, bits 9 and 8: 2 outer, 3 inner shareable, 1 reserved.
    pub fn shareability(&self) -> u8 {
        (self.descriptor >> 8 & 3) as u8
    }

    /// Index into MAIR_EL2: bits 4 to 2.
    pub fn attribute_index(&self) -> u8 {
        (self.descriptor >> 2 & 7) as u8
    }
}

/// All that one root reaches. A leaf without access flag is listed too: the flag is one store away.
pub type Walk = walk::Walk<Leaf>;

impl Regime {
    /// Reads the registers of one CPU.
    pub fn of(cpu: &Cpu) -> Result<Regime> {
        let refuse = |why: String| Err(Error::CannotJudge(why));
        let (tcr, sctlr, hcr) = (cpu.tcr.0, cpu.sctlr.0, cpu.hcr.0);
        let field = |high: u32, low: u32| tcr >> low & ((1 << (high - low + 1)) - 1);
        if hcr & 1 << 34 != 0 {
            return refuse("HCR_EL2.E2H is set: EL2 uses a regime that Xen 4.20 does not".into());
        }
        if sctlr & 1 == 0 {
            // MMU off: the other registers may still be what they were at reset.
            return Ok(Regime {
                mmu: false,
                root: 0,
                start_level: 0,
                input_bits: 48,
                output_bits: 48,
                wxn: false,
                flat_attributes: false,
                hardware_dirty: false,
            });
        }
        if sctlr & 1 << 25 != 0 {
            return refuse("SCTLR_EL2.EE is set: big-endian tables".into());
        }
        if field(15, 14) != 0 {
            return refuse(format!(
                "TCR_EL2.TG0 is {}: only the 4 KiB granule is judged",
                field(15, 14)
            ));
        }
        if field(32, 32) != 0 {
            return refuse("TCR_EL2.DS is set: 52-bit addresses".into());
        }
        let t0sz = field(5, 0) as u32;
        if !(16..=39).contains(&t0sz) {
            return refuse(format!("TCR_EL2.T0SZ is {t0sz}: only 16 to 39 are judged"));
        }
        let Some(output_bits) = output_bits(field(18, 16)) else {
            return refuse(format!("TCR_EL2.PS is {}", field(18, 16)));
        };
        let input_bits = 64 - t0sz;
        let start_level = (0..=3)
            .find(|&l| descriptor::shift(l) < input_bits)
            .unwrap_or(3);
        // The root has one entry for each value of the topmost bits, and is aligned to its size, 64 bytes at least.
        let root_bits = (input_bits - descriptor::shift(start_level) + 3).max(6);
        let root = cpu.ttbr0.0 & 0x0000_ffff_ffff_fffe & !((1 << root_bits) - 1);
        Ok(Regime {
            mmu: true,
            root,
            start_level,
            input_bits,
            output_bits,
            wxn: sctlr & 1 << 19 != 0,
            flat_attributes: field(24, 24) != 0,
            hardware_dirty: field(21, 21) != 0 && field(22, 22) != 0,
        })
    }

    fn start(&self) -> Top {
        Top {
            root: self.root,
            roots: 1,
            entries: 1 << (self.input_bits - descriptor::shift(self.start_level)),
            level: self.start_level,
            output_bits: self.output_bits,
        }
    }

    /// Whether a leaf can be executed from, all controls counted.
    pub fn executes(&self, leaf: &Leaf) -> bool {
        leaf.executable && !(self.wxn && leaf.writable)
    }
}

/// Bits of an output address for PS (D19.2: TCR_EL2.PS, VTCR_EL2.PS). Without DS the 4 KiB granule ends at 48.
pub(crate) fn output_bits(ps: u64) -> Option<u32> {
    [32, 36, 40, 42, 44, 48, 48].get(ps as usize).copied()
}

/// Attributes of table descriptors, which restrict everything below them.
#[derive(Clone, Copy, Default)]
pub struct Inherited {
    read_only: bool,
    no_execute: bool,
}

impl Stage for Regime {
    type Above = Inherited;
    type Leaf = Leaf;
    const NAME: &'static str = "EL2";
    const PENDING_COUNTS: bool = false;

    fn top(&self) -> Inherited {
        Inherited::default()
    }

    fn below(&self, above: Inherited, entry: &Entry) -> Inherited {
        // APTable[1] is bit 62, XNTable bit 60; the others are RES0 in a regime with one exception level.
        let counts = !self.flat_attributes;
        Inherited {
            read_only: above.read_only || counts && entry.descriptor & 1 << 62 != 0,
            no_execute: above.no_execute || counts && entry.descriptor & 1 << 60 != 0,
        }
    }

    fn leaf(&self, above: Inherited, entry: &Entry) -> Leaf {
        // AP[2] is bit 7 (1: read-only), XN bit 54.
        let d = entry.descriptor;
        let read_only = d & 1 << 7 != 0 && !(self.hardware_dirty && descriptor::dirty_modifier(d));
        Leaf {
            va: entry.address,
            pa: descriptor::output_address(d, entry.level),
            descriptor: d,
            level: entry.level,
            writable: !read_only && !above.read_only,
            executable: d & 1 << 54 == 0 && !above.no_execute,
        }
    }
}

/// Walks all of a regime. With the MMU off there are no tables, and the result is empty: see [`Regime::mmu`].
pub fn walk(dump: &Dump, regime: &Regime) -> Result<Walk> {
    if regime.mmu {
        walk::walk(dump, regime, &regime.start())
    } else {
        Ok(Walk::default())
    }
}

/// The entries that lead to `va`, root first, down to a leaf or to what is not there.
pub fn trace(dump: &Dump, regime: &Regime, va: u64) -> Vec<Step> {
    if regime.mmu {
        walk::trace::<Regime>(dump, &regime.start(), va)
    } else {
        Vec::new()
    }
}

/// The physical address behind `va`, if EL2 can read there.
pub fn translate(dump: &Dump, regime: &Regime, va: u64) -> Option<u64> {
    if !regime.mmu {
        return Some(va);
    }
    let last = *trace(dump, regime, va).last()?;
    (descriptor::kind(last.descriptor.0, last.level) == Kind::Leaf).then(|| {
        descriptor::output_address(last.descriptor.0, last.level)
            | va & (descriptor::size(last.level) - 1)
    })
}

/// What [`memory_type`] says of an attribute that Xen does not use.
pub const OTHER_MEMORY: &str = "other";

/// What MAIR_EL2 says for a leaf, in the architecture's words.
pub fn memory_type(mair: u64, leaf: &Leaf) -> &'static str {
    match mair >> (8 * leaf.attribute_index()) & 0xff {
        0x00 => "Device-nGnRnE",
        0x04 => "Device-nGnRE",
        0x08 => "Device-nGRE",
        0x0c => "Device-GRE",
        0x44 => "Normal non-cacheable",
        0xaa => "Normal write-through",
        0xbb => "Normal write-through, read and write allocate",
        0xee => "Normal write-back, read allocate",
        0xff => "Normal write-back",
        _ => OTHER_MEMORY,
    }
}
