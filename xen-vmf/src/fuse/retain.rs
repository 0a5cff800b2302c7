//! RAM of unprotected domains in the directmap, where it has to be when the
//! machine is locked, and out of it again if it is not.
//!
//! Xen never gives a table of its own back. One that is empty, because of a lock
//! that was refused, is in the way of a block: `xen_pt_update()` takes the largest
//! that alignment and length allow, and then finds a table there. So it is asked
//! for pieces, each below one entry that tells whether blocks will do.

use super::collect::{Facts, Storage};
use super::domains;
use crate::addr::{ENTRIES, Mfn, PAGE_SHIFT, Vaddr, level_pages};
use crate::buffer::Buffer;
use crate::descriptor::Descriptor;
use crate::descriptor::stage1::Stage1;
use crate::error::Error;
use crate::extents::Extent;
use crate::machine::{Domain, DomainFlags, Machine};
use crate::share;

/// Maps RAM of unprotected domains at its address in the directmap, where it
/// is not there yet, so that it can stay. Tables may be allocated here, so
/// this comes before they are looked for.
pub fn retain<M: Machine>(
    machine: &M,
    storage: &mut Storage,
    mapped: &mut Buffer<Extent>,
) -> Result<(), Error> {
    match Storage::usual(machine) {
        Ok(usual) => *storage = usual,
        Err(_) => storage.recount(machine)?,
    }
    if machine.directmap_all() {
        return retain_shares(machine, mapped);
    }
    let reached = match Facts::reached(machine, storage) {
        Err(Error::Room) => {
            storage.recount(machine)?;
            Facts::reached(machine, storage)?
        }
        done => done?,
    };
    let wanted = reached.extents();
    *mapped = Buffer::new(machine, wanted.len())?;
    for (done, &extent) in mapped.items().iter_mut().zip(wanted) {
        *done = extent;
        map(machine, extent)?;
    }
    Ok(())
}

/// The same where all RAM is in the directmap but for what protected domains
/// own: a page that was shared after its domain was protected is not there.
fn retain_shares<M: Machine>(machine: &M, mapped: &mut Buffer<Extent>) -> Result<(), Error> {
    let protected = |d: &Domain| d.flags.contains(DomainFlags::PROTECTED);
    let mut pages = 0;
    for domain in domains(machine).filter(protected) {
        pages += share::true_ones(machine, &domain)?.pages() as usize;
    }
    *mapped = Buffer::new(machine, pages)?;
    let mut done = mapped.items().iter_mut();
    for domain in domains(machine).filter(protected) {
        let shares = share::true_ones(machine, &domain)?;
        let frames = shares.extents().iter();
        for frame in frames.flat_map(|e| e.mfn.get()..e.mfn.get() + e.pages) {
            let page = Extent::new(Mfn::new(frame), 1);
            if !machine.readable(machine.directmap_address(page.start)) {
                *done.next().ok_or(Error::Again)? = page;
                map(machine, page)?;
            }
        }
    }
    Ok(())
}

/// Takes [`retain`] back.
pub fn release<M: Machine>(machine: &M, mapped: &mut Buffer<Extent>) {
    for &extent in mapped.items().iter().filter(|e| e.pages != 0) {
        for (frames, block) in pieces(machine, extent) {
            machine.unmap_directmap(frames, block);
        }
    }
}

/// Maps `extent`, of which nothing is mapped.
fn map<M: Machine>(machine: &M, extent: Extent) -> Result<(), Error> {
    for (frames, block) in pieces(machine, extent) {
        machine.map_directmap(frames, block)?;
    }
    Ok(())
}

/// The pieces of `extent` one after the other, and whether blocks may be used for
/// each. Looks at the tables as they are when it is asked for the next one.
fn pieces<M: Machine>(machine: &M, extent: Extent) -> impl Iterator<Item = (Extent, bool)> {
    let mut start = extent.start;
    core::iter::from_fn(move || {
        let left = extent.end() - start.get();
        if left == 0 {
            return None;
        }
        let (pages, block) = piece(machine, machine.directmap_address(start));
        let frames = Extent::new(start, pages.min(left));
        start = Mfn::new(frames.end());
        Some((frames, block))
    })
}

/// For how many pages from `va` on one answer is right, and whether it is that
/// there may be blocks.
fn piece<M: Machine>(machine: &M, va: Vaddr) -> (u64, bool) {
    let page = va.get() >> PAGE_SHIFT;
    let mut table = machine.root();
    for level in 0..2 {
        let index = (page / level_pages(level)) as usize % ENTRIES;
        let next = machine.with(table, |entries| Stage1::next_table(entries[index], level));
        match next {
            Some(next) => table = next,
            None => return (level_pages(level) - page % level_pages(level), true),
        }
    }
    // Not all entries of level 2 at once, or it would be a block of level 1.
    const HALF: usize = ENTRIES / 2;
    let index = (page / level_pages(2)) as usize % ENTRIES;
    let here = index..index / HALF * HALF + HALF;
    let free = machine.with(table, |entries| {
        let entries = entries[here].iter();
        entries
            .take_while(|&&bits| Stage1::next_table(bits, 2).is_none())
            .count() as u64
    });
    let rest = level_pages(2) - page % level_pages(2);
    match free {
        0 => (rest, false),
        free => (rest + (free - 1) * level_pages(2), true),
    }
}
