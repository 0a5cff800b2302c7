//! What a domain owns and does not share, as extents.
//!
//! Xen keeps a list of a domain's pages, one by one. Its stage 2 says the same
//! in as many words as it has leaves, so that is read instead where it is all:
//! where the leaves that are memory of the domain's own have as many different
//! pages as it owns, and are its own. A leaf comes from one allocation, and no part
//! of it is given away without leaving stage 2 (Xen steals no pages on Arm), so
//! its first frame is asked for its owner. What a domain has by static shared memory
//! is not always its own, and goes with others: then it is the list that is read.

use super::RunCounter;
use crate::addr::Mfn;
use crate::error::Error;
use crate::extents::{Extent, FrameSet};
use crate::machine::{Domain, DomainFlags, Machine};
use crate::share::{self, Shares};
use crate::stage2::{self, GuestExtent, Item};

/// How many extents [`collect`] will need for `domain`.
pub fn runs<M: Machine>(machine: &M, domain: &Domain) -> Result<usize, Error> {
    let shares = share::true_ones(machine, domain)?;
    let mut runs = RunCounter::default();
    let mut pages = 0;
    let plain = ram(machine, domain, &mut |leaf| {
        pages += leaf.pages;
        without(Extent::new(leaf.mfn, leaf.pages), &shares, &mut |pages| {
            runs.push(pages);
        });
        true
    });
    if !plain || pages != machine.owned_pages(domain) {
        runs = RunCounter::default();
        list(machine, domain, &shares, &mut |pages| runs.push(pages));
    }
    Ok(runs.runs)
}

/// Where what a domain owns has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its stage 2: the domain still has each page.
    Stage2,
    /// Xen's list, which also has pages that the domain has given up and that
    /// others still use.
    List,
}

/// Adds what each domain in `of` owns and does not share to the empty `set`, and
/// sorts it.
pub fn collect<M: Machine>(
    machine: &M,
    of: impl Iterator<Item = Domain> + Clone,
    set: &mut FrameSet,
) -> Result<Source, Error> {
    if by_stage2(machine, of.clone(), set)? {
        return Ok(Source::Stage2);
    }
    set.clear();
    for domain in of {
        let shares = share::true_ones(machine, &domain)?;
        let mut full = Ok(());
        list(machine, &domain, &shares, &mut |pages| {
            full = full.and_then(|()| set.push(pages));
        });
        full?;
    }
    set.normalise();
    Ok(Source::List)
}

/// [`collect`] from stage 2; `false` where that does not have it all.
fn by_stage2<M: Machine>(
    machine: &M,
    of: impl Iterator<Item = Domain>,
    set: &mut FrameSet,
) -> Result<bool, Error> {
    let mut private = 0;
    for domain in of {
        let shares = share::true_ones(machine, &domain)?;
        let (mut pages, mut full) = (0, Ok(()));
        let owned = ram(machine, &domain, &mut |leaf| {
            pages += leaf.pages;
            without(Extent::new(leaf.mfn, leaf.pages), &shares, &mut |pages| {
                full = full.and_then(|()| set.push(pages));
            });
            machine.owns(&domain, leaf.mfn)
        });
        if !owned || pages != machine.owned_pages(&domain) {
            return Ok(false);
        }
        // The list says the same, page by page.
        full?;
        private += pages - shares.pages();
    }
    set.normalise();
    // Fewer, if a page stands in two places of a stage 2, and another in none.
    Ok(set.pages() == private)
}

/// The same from Xen's list, in no order.
fn list<M: Machine>(machine: &M, domain: &Domain, shares: &Shares, visit: &mut dyn FnMut(Extent)) {
    machine.pages(domain, &mut |pages| without(pages, shares, visit));
}

/// Calls `visit` for the leaves that are memory of the domain itself, until it
/// returns `false`. Whether it never did, and stage 2 is what to read.
fn ram<M: Machine>(
    machine: &M,
    domain: &Domain,
    visit: &mut dyn FnMut(&GuestExtent) -> bool,
) -> bool {
    let plain = DomainFlags::STAGE2 | DomainFlags::REGIONS;
    let xenheap = machine.layout().xenheap;
    let own = |leaf: &GuestExtent| {
        // What of Xen's own it sees (shared info, grant table) has that type, too.
        leaf.p2m_type.is_ram() && xenheap.overlap(&Extent::new(leaf.mfn, leaf.pages)) == 0
    };
    (domain.flags & plain) == DomainFlags::STAGE2
        && stage2::visit(machine, &domain.root, &mut |item| match item {
            Item::Leaf(leaf) if own(&leaf) && !visit(&leaf) => Err(()),
            _ => Ok(()),
        })
        .is_ok()
}

/// Calls `visit` for what of `pages` is in none of `shares`.
fn without(pages: Extent, shares: &Shares, visit: &mut dyn FnMut(Extent)) {
    if shares.extents().is_empty() {
        return visit(pages);
    }
    let mut start = pages.start.get();
    while start < pages.end() {
        let left = Extent::new(Mfn::new(start), pages.end() - start);
        let next = shares
            .extents()
            .iter()
            .map(|share| Extent::new(share.mfn, share.pages))
            .filter(|share| share.overlap(&left) != 0)
            .min_by_key(|share| share.start);
        let (until, then) = next.map_or((left.end(), left.end()), |share| {
            (share.start.get().max(start), share.end())
        });
        if until > start {
            visit(Extent::new(left.start, until - start));
        }
        start = then;
    }
}
