//! Walking translation tables, without knowing where they live.
//!
//! Code here sees a table as 512 entries behind a frame number. In Xen the
//! frame is mapped through the window for as long as it is looked at; in
//! tests it is an array.

use crate::addr::{ENTRIES, Mfn};
use crate::descriptor::Descriptor;
use crate::descriptor::stage1::Stage1;
use static_assertions::const_assert;

/// Read access to translation tables.
pub trait Tables {
    /// Calls `look` with the entries of the table in `frame`.
    fn with<R>(&self, frame: Mfn, look: impl FnOnce(&[u64; ENTRIES]) -> R) -> R;
}

/// Write access to translation tables.
pub trait TablesMut: Tables {
    /// Writes entries of one table, by index. No barrier, no TLB maintenance.
    fn write_all(&self, frame: Mfn, entries: impl Iterator<Item = (usize, u64)>);

    /// Writes one entry, likewise.
    fn write(&self, frame: Mfn, index: usize, bits: u64) {
        self.write_all(frame, core::iter::once((index, bits)));
    }
}

/// Calls `visit` for every table of the stage 1 below the level-0 table in
/// `root`, the root included. Stops at the first error of `visit`.
pub fn each_table<T: Tables, E>(
    tables: &T,
    root: Mfn,
    visit: &mut impl FnMut(Mfn) -> Result<(), E>,
) -> Result<(), E> {
    tables_below::<Stage1, T, E>(tables, root, 0, visit)
}

/// Entries that are looked at together.
const GROUP: usize = 16;
const_assert!(ENTRIES.is_multiple_of(GROUP));

/// Whether none of the entries means anything.
#[inline(always)]
pub fn empty(group: &[u64]) -> bool {
    group.iter().fold(0, |all, bits| all | bits) == 0
}

/// Calls `visit` for the table in `frame`, whose entries are of `level`, and
/// for every one below it. Looks at no leaf, and stops at the first error.
pub fn tables_below<D: Descriptor, T: Tables, E>(
    tables: &T,
    frame: Mfn,
    level: u8,
    visit: &mut impl FnMut(Mfn) -> Result<(), E>,
) -> Result<(), E> {
    visit(frame)?;
    // Entries of level 3 are leaves.
    if level == 3 {
        return Ok(());
    }
    tables.with(frame, |entries| {
        // Most of what is above the leaves is empty.
        for group in entries.chunks_exact(GROUP).filter(|group| !empty(group)) {
            for next in group.iter().filter_map(|&bits| D::next_table(bits, level)) {
                tables_below::<D, T, E>(tables, next, level + 1, visit)?;
            }
        }
        Ok(())
    })
}
