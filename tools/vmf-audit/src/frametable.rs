//! Xen's frame table: which frame a struct page_info stands for, and what it says of that frame.

use crate::descriptor::frame_of;
use crate::error::{Error, Result};
use crate::stage1;
use crate::xen::Xen;
use std::collections::HashMap;

/// `FRAMETABLE_VIRT_START`, xen/arch/arm/include/asm/mmu/layout.h: a macro, so neither symbol nor DWARF has it.
pub const FRAMETABLE_VA: u64 = 0x0a08_0000_0000;
/// `FRAMETABLE_SIZE`, same place.
pub const FRAMETABLE_SIZE: u64 = 32 << 30;

/// What the frame table says of a frame of RAM (`struct page_info`, xen/arch/arm/include/asm/mm.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Noted {
    /// Nothing that could be read, or an owner that is no domain on the list.
    #[default]
    Nothing,
    /// Free.
    Free,
    /// In use, without an owner: Xen's own, or left by the boot.
    Xen,
    /// Owned by this domain.
    Domain(u16),
}

/// Which bits of a frame number the frame table leaves out.
#[derive(Clone, Copy)]
struct Hole {
    shift: u32,
    low: u64,
    high: u64,
}

impl Xen<'_> {
    /// The frame that a pointer to struct page_info stands for (`page_to_mfn`, xen/arch/arm/include/asm/mm.h).
    pub(crate) fn page_to_mfn(&self, page: u64) -> Result<u64> {
        let size = self.symbols.size_of("page_info")?;
        let within = page
            .checked_sub(FRAMETABLE_VA)
            .filter(|o| o % size == 0 && *o < FRAMETABLE_SIZE);
        let Some(within) = within else {
            return Err(Error::CannotJudge(format!(
                "{page:#x} is not in the frame table"
            )));
        };
        let pdx = within / size
            + self.word(self.global("frametable_base_pdx")?, "frametable_base_pdx")?;
        Ok(self
            .hole()?
            .map_or(pdx, |h| pdx & h.low | pdx << h.shift & h.high))
    }

    /// What the frame table says of each frame of RAM.
    pub(crate) fn noted(&self, domains: &HashMap<u64, u16>) -> Result<Vec<Noted>> {
        let size = self.symbols.size_of("page_info")?;
        let count = self.symbols.member("page_info", "count_info")?.offset;
        let owner = self.symbols.member("page_info", "v.inuse.domain")?.offset;
        let base = self.word(self.global("frametable_base_pdx")?, "frametable_base_pdx")?;
        let hole = self.hole()?;
        let walk = stage1::walk(self.dump, &self.regime)?;
        let word = |va: u64| {
            let after = walk.leaves.partition_point(|l| l.va <= va);
            let leaf = &walk.leaves[after.checked_sub(1)?];
            let within = va - leaf.va;
            (within < leaf.size()).then(|| self.dump.word(leaf.pa + within))?
        };
        let mut noted = Vec::with_capacity(self.dump.frames());
        for (start, len) in self.dump.banks() {
            for mfn in frame_of(start)..frame_of(start + len) {
                let pdx = hole.map_or(mfn, |h| mfn & h.low | (mfn & h.high) >> h.shift);
                let page = pdx
                    .checked_sub(base)
                    .and_then(|i| i.checked_mul(size))
                    .filter(|at| *at < FRAMETABLE_SIZE)
                    .map(|at| FRAMETABLE_VA + at);
                let state = page.and_then(|page| Some((word(page + count)?, word(page + owner)?)));
                // PGC_state: bits 56 and 55; 3 is free, 0 is in use.
                noted.push(match state {
                    Some((count, _)) if count >> 55 & 3 == 3 => Noted::Free,
                    Some((_, 0)) => Noted::Xen,
                    Some((_, owner)) => domains
                        .get(&owner)
                        .map_or(Noted::Nothing, |&id| Noted::Domain(id)),
                    None => Noted::Nothing,
                });
            }
        }
        Ok(noted)
    }

    /// How frame numbers are compressed, where they are (xen/common/pdx.c).
    fn hole(&self) -> Result<Option<Hole>> {
        let Some(shift) = self.symbols.address("pfn_pdx_hole_shift") else {
            return Ok(None);
        };
        Ok(Some(Hole {
            shift: self.bytes(shift, 4, "pfn_pdx_hole_shift")? as u32 & 63,
            low: self.word(self.global("pfn_pdx_bottom_mask")?, "pfn_pdx_bottom_mask")?,
            high: self.word(self.global("pfn_top_mask")?, "pfn_top_mask")?,
        }))
    }
}
