//! The frozen snapshot: gfn to mfn after the lock.
//!
//! Xen goes on asking what a guest frame of an unprotected domain maps, but
//! cannot read the tables any more. The lock writes down the answer as sorted
//! extents, and stage 2 cannot change afterwards.

use crate::addr::{Gfn, Mfn};
use crate::descriptor::stage2::P2mType;
use crate::stage2::GuestExtent;

/// Largest order that a lookup reports: a level-1 block, as Xen's p2m has it.
const MAX_ORDER: u32 = 18;

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The machine frame; `None` where nothing is mapped.
    pub mfn: Option<Mfn>,
    /// The type; `Invalid` where nothing is mapped.
    pub p2m_type: P2mType,
    /// log2 of the number of frames, aligned to it and holding the one asked
    /// for, of which the same can be said.
    pub order: u32,
}

/// Appends `next` to the `len` extents in `storage`, merged with the last one
/// where that is possible. Returns the new length, `None` when it is full.
pub fn append(storage: &mut [GuestExtent], len: usize, next: GuestExtent) -> Option<usize> {
    if let Some(last) = storage[..len].last_mut()
        && last.p2m_type == next.p2m_type
        && last.gfn.get() + last.pages == next.gfn.get()
        && last.mfn.get() + last.pages == next.mfn.get()
    {
        last.pages += next.pages;
        return Some(len);
    }
    *storage.get_mut(len)? = next;
    Some(len + 1)
}

/// Looks `gfn` up in extents that are sorted by guest frame.
pub fn lookup(extents: &[GuestExtent], gfn: Gfn) -> Answer {
    let wanted = gfn.get();
    let after = extents.partition_point(|e| e.gfn.get() <= wanted);
    let below = after.checked_sub(1).map(|i| &extents[i]);
    if let Some(e) = below
        && wanted - e.gfn.get() < e.pages
    {
        let offset = wanted - e.gfn.get();
        return Answer {
            mfn: Some(Mfn::new(e.mfn.get() + offset)),
            p2m_type: e.p2m_type,
            order: order_within(wanted, e.gfn.get(), e.gfn.get() + e.pages),
        };
    }
    let start = below.map_or(0, |e| e.gfn.get() + e.pages);
    let end = extents.get(after).map_or(u64::MAX, |e| e.gfn.get());
    Answer {
        mfn: None,
        p2m_type: P2mType::Invalid,
        order: order_within(wanted, start, end),
    }
}

/// The largest order whose aligned run around `frame` lies in `start..end`.
fn order_within(frame: u64, start: u64, end: u64) -> u32 {
    (1..=MAX_ORDER)
        .rev()
        .find(|order| {
            let first = frame & !((1 << order) - 1);
            first >= start
                && first
                    .checked_add(1 << order)
                    .is_some_and(|last| last <= end)
        })
        .unwrap_or(0)
}
