//! Walking translation tables, without knowing where they live.
//!
//! Code here sees a table as 512 entries behind a frame number. In Xen the
//! frame is mapped through the window for as long as it is looked at; in
//! tests it is an array.

use crate::addr::{ENTRIES, Mfn, Vaddr, level_bytes, level_pages};
use crate::descriptor::stage1::Stage1;
use crate::extents::Extent;

/// Read access to translation tables.
pub trait Tables {
    /// Calls `look` with the entries of the table in `frame`.
    fn with<R>(&self, frame: Mfn, look: impl FnOnce(&[u64; ENTRIES]) -> R) -> R;
}

/// Write access to translation tables.
pub trait TablesMut: Tables {
    /// Writes one entry. No barrier, no TLB maintenance.
    fn write(&self, frame: Mfn, index: usize, bits: u64);
}

/// Something that a stage-1 walk comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A table, with the level of its entries.
    Table {
        /// Its frame.
        frame: Mfn,
        /// Level of its entries, 0 to 3.
        level: u8,
    },
    /// A leaf.
    Leaf {
        /// First address that it maps.
        va: Vaddr,
        /// The entry.
        entry: Stage1,
        /// Level of the entry, 1 to 3.
        level: u8,
    },
}

impl Item {
    /// The frames that a leaf maps; empty for a table.
    pub fn frames(&self) -> Extent {
        match *self {
            Item::Table { frame, .. } => Extent::new(frame, 0),
            Item::Leaf { entry, level, .. } => Extent::new(entry.mfn(), level_pages(level)),
        }
    }
}

/// Visits every table and every leaf below the level-0 table in `root`, in
/// ascending order of address. Stops at the first error of `visit`.
pub fn stage1<T: Tables, E>(
    tables: &T,
    root: Mfn,
    visit: &mut impl FnMut(Item) -> Result<(), E>,
) -> Result<(), E> {
    below(tables, root, 0, Vaddr::new(0), visit)
}

fn below<T: Tables, E>(
    tables: &T,
    frame: Mfn,
    level: u8,
    base: Vaddr,
    visit: &mut impl FnMut(Item) -> Result<(), E>,
) -> Result<(), E> {
    visit(Item::Table { frame, level })?;
    tables.with(frame, |entries| {
        for (index, &bits) in entries.iter().enumerate() {
            let entry = Stage1::from_bits(bits);
            let va = Vaddr::new(base.get() + index as u64 * level_bytes(level));
            if entry.is_table(level) {
                below(tables, entry.mfn(), level + 1, va, visit)?;
            } else if entry.is_leaf(level) {
                visit(Item::Leaf { va, entry, level })?;
            }
        }
        Ok(())
    })
}
