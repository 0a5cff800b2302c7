//! Translation tables as an attacker reads and builds them: entries of both
//! stages, and walks that use nothing but L1 reads.

use crate::lab::Lab;
use crate::memory::{PAGE, Page, WORDS};
use crate::primitive::Stop;

/// An entry that is a table, or a page at level 3.
const TABLE: u64 = 3;
/// A block at level 1 or 2.
const BLOCK: u64 = 1;
const VALID: u64 = 1;
/// Output address of an entry.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Stage 1 at EL2, as Xen maps RAM: normal memory (MAIR index 7), inner
/// shareable, access flag, AP[1] RES1 (Arm ARM D8.3).
const STAGE1: u64 = 7 << 2 | 1 << 5 | 1 << 6 | 3 << 8 | 1 << 10;
const STAGE1_XN: u64 = 1 << 54;
const STAGE1_READ_ONLY: u64 = 1 << 7;
/// Stage 2: normal write-back memory, read and write, inner shareable.
const STAGE2: u64 = 0xf << 2 | 3 << 6 | 3 << 8 | 1 << 10;

/// 1 GiB.
pub const GIB: u64 = 1 << 30;

/// The page at `maddr`, for data.
pub fn stage1_page(maddr: u64) -> u64 {
    maddr & !(PAGE - 1) | STAGE1 | STAGE1_XN | TABLE
}

/// The GiB that holds `maddr`, for data.
pub fn stage1_gib(maddr: u64) -> u64 {
    maddr & !(GIB - 1) | STAGE1 | STAGE1_XN | BLOCK
}

/// The GiB that holds `maddr`, for code.
pub fn stage1_gib_code(maddr: u64) -> u64 {
    maddr & !(GIB - 1) | STAGE1 | STAGE1_READ_ONLY | BLOCK
}

/// A table of the next level, in both stages.
pub fn table(maddr: u64) -> u64 {
    maddr | TABLE
}

/// The GiB that holds `maddr`, in stage 2.
pub fn stage2_gib(maddr: u64) -> u64 {
    maddr & !(GIB - 1) | STAGE2 | BLOCK
}

/// Whether an entry leads anywhere.
pub fn is_valid(entry: u64) -> bool {
    entry & VALID != 0
}

/// Where a walk has ended.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Machine address of the table that holds the last entry.
    pub table: u64,
    /// Index of the last entry.
    pub index: usize,
    /// The entry.
    pub entry: u64,
    /// Its level.
    pub level: u32,
    /// The machine address that is translated to.
    pub maddr: u64,
}

impl Found {
    /// Where the entry lies.
    pub fn at(&self) -> u64 {
        self.table + 8 * self.index as u64
    }
}

/// Bits of the address below the index of a level.
fn shift(level: u32) -> u32 {
    39 - 9 * level
}

/// Walks from the table at `root`, of `level`, for `address`; `None` where
/// nothing is mapped.
pub fn walk(lab: &mut Lab, root: u64, level: u32, address: u64) -> Result<Option<Found>, Stop> {
    // The root of stage 2 may be several tables next to each other.
    let mut index = (address >> shift(level)) as usize;
    let (mut table, mut level) = (root + (index / WORDS) as u64 * PAGE, level);
    loop {
        index %= WORDS;
        let entry = lab.read_physical(table + 8 * index as u64)?;
        // Xen clears the valid bit of stage-2 entries to see accesses.
        if entry & ADDRESS == 0 {
            return Ok(None);
        }
        if level == 3 || entry & 2 == 0 {
            let inside = (1 << shift(level)) - 1;
            return Ok(Some(Found {
                table,
                index,
                entry,
                level,
                maddr: (entry & ADDRESS & !inside) | (address & inside),
            }));
        }
        table = entry & ADDRESS;
        level += 1;
        index = (address >> shift(level)) as usize;
    }
}

/// A copy of the table at `maddr` in a page of one's own.
pub fn copy(lab: &mut Lab, maddr: u64) -> Result<Page, crate::Failure> {
    let page = Page::new()?;
    for index in 0..WORDS {
        let entry = lab.read_physical(maddr + 8 * index as u64)?;
        page.put(index, entry);
    }
    page.publish();
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_the_architecture() {
        assert_eq!(stage1_page(0x4000_1000), 0x0040_0000_4000_177f);
        assert_eq!(stage1_gib(0x4abc_d000), 0x0040_0000_4000_077d);
        assert_eq!(stage1_gib_code(0x4abc_d000), 0x0000_0000_4000_07fd);
        assert_eq!(stage2_gib(0x4abc_d000), 0x0000_0000_4000_07fd);
        assert_eq!(table(0x4000_2000), 0x4000_2003);
    }
}
