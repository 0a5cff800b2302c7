//! Carrying out a plan on live tables, by the architecture's rules.
//!
//! All edits share two TLB invalidations, however many they are:
//!
//! 1. every entry that goes, and every entry that needs break-before-make, is
//!    made invalid; permission changes are written as they are;
//! 2. `DSB ISHST; TLBI ALLE2IS; DSB ISH; ISB`: no PE uses the old entries any
//!    more (Arm ARM D8.16.1; what is flushed is the regime, so no address can
//!    be forgotten);
//! 3. what was only broken gets its new entry, and a barrier publishes it.
//!
//! Context: all other CPUs wait with IRQs masked. Between 1 and 3 the broken
//! addresses do not translate, so [`check`] refuses a plan that would pull
//! away what the waiting CPUs and this code stand on.

use crate::addr::level_bytes;
use crate::plan::{Edit, VaRange};
use crate::walk::TablesMut;

/// Live tables.
pub trait Live: TablesMut {
    /// Makes all table writes visible, removes every EL2 translation from
    /// every TLB of the inner-shareable domain, and waits for it.
    fn flush_all(&self);
    /// Makes table writes visible to the walkers (`DSB ISH; ISB`).
    fn publish(&self);
}

/// The plan would make an address invalid that must stay valid throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor;

/// Refuses edits that would make addresses in one of `floor` invalid, if only
/// for a moment. Permission changes are allowed there, and so are removals of
/// single pages (level 3), which are tables and never code or stack.
pub fn check(edits: &[Edit], floor: &[VaRange]) -> Result<(), Floor> {
    let stands_on = |edit: &Edit| {
        floor.iter().any(|range| {
            let end = edit.va.get() + level_bytes(edit.level);
            edit.va.get() < range.end && range.start < end
        })
    };
    let pulls = |edit: &Edit| {
        let removed = !edit.new.is_valid() && edit.level < 3;
        removed || edit.old.needs_break(edit.new)
    };
    match edits.iter().find(|e| pulls(e) && stands_on(e)) {
        None => Ok(()),
        Some(_) => Err(Floor),
    }
}

/// Carries out `edits`.
pub fn commit<L: Live>(live: &L, edits: &[Edit]) {
    for edits in edits.chunk_by(|a, b| a.table == b.table) {
        let entries = edits.iter().map(|edit| {
            let broken = edit.old.needs_break(edit.new);
            let now = if broken { 0 } else { edit.new.bits() };
            (edit.index.into(), now)
        });
        live.write_all(edits[0].table, entries);
    }
    live.flush_all();
    for edit in edits.iter().filter(|e| e.old.needs_break(e.new)) {
        live.write(edit.table, edit.index.into(), edit.new.bits());
    }
    live.publish();
}
