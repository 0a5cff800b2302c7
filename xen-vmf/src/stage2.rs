//! Reading a domain's stage 2: what it maps, in which tables.

use crate::addr::{ENTRIES, Gfn, Mfn, PAGE_SHIFT, level_pages};
use crate::descriptor::stage2::{P2mType, Stage2};
use crate::extents::Extent;
use crate::walk::{Tables, TablesMut, tables_below};

/// The root of a stage 2: `1 << order` concatenated tables at `level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Root {
    /// First table.
    pub frame: Mfn,
    /// Level of the root's entries (`P2M_ROOT_LEVEL`), 0 or 1.
    pub level: u32,
    /// log2 of the number of tables (`P2M_ROOT_ORDER`).
    pub order: u32,
    /// Bits of the addresses that the hardware translates (`p2m_ipa_bits`, 64 -
    /// VTCR_EL2.T0SZ). A root at level 0 has room for 48.
    pub input_bits: u32,
}

impl Root {
    /// Whether the hardware translates addresses of that guest frame. Xen puts
    /// entries into its root for others as well, which no guest comes to: beyond
    /// VTCR_EL2.T0SZ an address is a translation fault before any table is read.
    pub fn translates(&self, gfn: Gfn) -> bool {
        gfn.get() >> (self.input_bits - PAGE_SHIFT) == 0
    }
}

/// A run of guest frames that map adjacent machine frames alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GuestExtent {
    /// First guest frame.
    pub gfn: Gfn,
    /// The machine frame behind it.
    pub mfn: Mfn,
    /// Number of frames.
    pub pages: u64,
    /// Xen's type of the mapping.
    pub p2m_type: P2mType,
}

/// Something that a stage-2 walk comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A table.
    Table(Mfn),
    /// A leaf, whatever its valid bit says.
    Leaf(GuestExtent),
}

/// Why a stage 2 cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// An entry has a type that Xen does not define.
    UnknownType(u8),
    /// The visitor's own error.
    Visitor(E),
}

/// Visits every table and every leaf in ascending order of guest frame.
pub fn visit<T: Tables, E>(
    tables: &T,
    root: &Root,
    visitor: &mut impl FnMut(Item) -> Result<(), E>,
) -> Result<(), Error<E>> {
    let level = root.level as u8;
    for i in 0..1u64 << root.order {
        let frame = Mfn::new(root.frame.get() + i);
        let gfn = i * ENTRIES as u64 * level_pages(level);
        below(tables, frame, level, gfn, visitor)?;
    }
    Ok(())
}

/// Calls `visit` for every table, and looks at no leaf.
pub fn each_table<T: Tables, E>(
    tables: &T,
    root: &Root,
    visit: &mut impl FnMut(Mfn) -> Result<(), E>,
) -> Result<(), E> {
    for i in 0..1u64 << root.order {
        let frame = Mfn::new(root.frame.get() + i);
        tables_below::<Stage2, T, E>(tables, frame, root.level as u8, visit)?;
    }
    Ok(())
}

fn below<T: Tables, E>(
    tables: &T,
    frame: Mfn,
    level: u8,
    base: u64,
    visitor: &mut impl FnMut(Item) -> Result<(), E>,
) -> Result<(), Error<E>> {
    visitor(Item::Table(frame)).map_err(Error::Visitor)?;
    tables.with(frame, |entries| {
        for (index, &bits) in entries.iter().enumerate() {
            let entry = Stage2::from_bits(bits);
            if !entry.is_present() {
                continue;
            }
            let gfn = base + index as u64 * level_pages(level);
            if entry.is_table(level) {
                below(tables, entry.mfn(), level + 1, gfn, visitor)?;
                continue;
            }
            let p2m_type = entry.p2m_type().map_err(Error::UnknownType)?;
            visitor(Item::Leaf(GuestExtent {
                gfn: Gfn::new(gfn),
                mfn: entry.mfn(),
                pages: level_pages(level),
                p2m_type,
            }))
            .map_err(Error::Visitor)?;
        }
        Ok(())
    })
}

/// Sets the valid bit of every entry that means something, and takes the right
/// to execute from every leaf whose frames are `forbidden`.
///
/// Xen clears the valid bit to learn what a guest touches and restores it on a
/// fault; after the lock it could not. Invalid to valid needs no TLB
/// maintenance, only a barrier. A change of permissions needs no
/// break-before-make (Arm ARM DDI 0487J.a, D8.14.1), but the TLBs of guests
/// flushed. Both are the caller's. Returns how many entries changed.
pub fn settle<T: TablesMut>(tables: &T, root: &Root, forbidden: &dyn Fn(&Extent) -> bool) -> u64 {
    let mut changed = 0;
    for i in 0..1u64 << root.order {
        let frame = Mfn::new(root.frame.get() + i);
        changed += settle_table(tables, frame, root.level as u8, forbidden);
    }
    changed
}

/// Entries that [`settle`] copies at a time: looking at a table means mapping
/// it, and Xen's stack is short.
const AT_ONCE: usize = 64;

fn settle_table<T: TablesMut>(
    tables: &T,
    frame: Mfn,
    level: u8,
    forbidden: &dyn Fn(&Extent) -> bool,
) -> u64 {
    let mut changed = 0;
    let mut some = [0; AT_ONCE];
    for index in 0..ENTRIES {
        if index % AT_ONCE == 0 {
            tables.with(frame, |entries| {
                some.copy_from_slice(&entries[index..index + AT_ONCE]);
            });
        }
        let old = Stage2::from_bits(some[index % AT_ONCE]);
        if !old.is_present() {
            continue;
        }
        let entry = if old.is_table(level) {
            // Below first: an entry becomes visible with all that hangs on it.
            changed += settle_table(tables, old.mfn(), level + 1, forbidden);
            old
        } else {
            let frames = Extent::new(old.mfn(), level_pages(level));
            if forbidden(&frames) {
                old.never_executed()
            } else {
                old
            }
        };
        if entry.validated() != old {
            tables.write(frame, index, entry.validated().bits());
            changed += 1;
        }
    }
    changed
}
