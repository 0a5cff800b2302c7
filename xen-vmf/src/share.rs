//! Pages that a domain shares with Xen on purpose.
//!
//! A protected domain that wants hypercalls with pointers, rings, or areas that
//! Xen writes, names pages of its own for them before the lock. They stay in
//! Xen's reach, and in that of whoever the domain gives grants to; everything
//! else of the domain does not.
//!
//! What has been named is a list of guest frames with the machine frames that
//! were behind them, and Xen does not let stage 2 change there any more. Should
//! it have changed all the same when the fuse is blown, the extent is private
//! again ([`true_ones`]): forbidden is the default. What is judged and what is
//! taken away go by the same list, in the rendezvous.
//!
//! Nobody executes from a shared page. The right goes when it is shared:
//! whoever writes Xen's data could put code there for the guest to run.

use crate::addr::{Gfn, Mfn};
use crate::descriptor::stage2::P2mType;
use crate::error::Error;
use crate::extents::Extent;
use crate::hypercall::Status;
use crate::machine::{Domain, DomainFlags, Machine};
use crate::stage2::{self, GuestExtent, Item};
use xen_vmf_abi as abi;

/// Most extents that a domain can share.
pub const MAX: usize = abi::XENVMF_shares_max as usize;

/// Extents of shared pages of one domain, sorted by guest frame where nothing
/// else is said.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    list: [GuestExtent; MAX],
    len: usize,
}

impl Default for Shares {
    fn default() -> Self {
        let none = GuestExtent {
            gfn: Gfn::new(0),
            mfn: Mfn::new(0),
            pages: 0,
            p2m_type: P2mType::Invalid,
        };
        Self {
            list: [none; MAX],
            len: 0,
        }
    }
}

impl Shares {
    /// The extents.
    pub fn extents(&self) -> &[GuestExtent] {
        &self.list[..self.len]
    }

    /// Adds one at the end; `NoSpace` where there is no room.
    pub fn push(&mut self, extent: GuestExtent) -> Result<(), Error> {
        let slot = self.list.get_mut(self.len).ok_or(Error::NoSpace)?;
        *slot = extent;
        self.len += 1;
        Ok(())
    }

    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.extents().iter().map(|e| e.pages).sum()
    }

    /// Whether the machine frame is one of them.
    pub fn contains(&self, mfn: Mfn) -> bool {
        self.extents()
            .iter()
            .any(|e| Extent::new(e.mfn, e.pages).contains(mfn))
    }

    /// Whether all of `frames` are in one of the extents.
    pub fn cover(&self, frames: &Extent) -> bool {
        self.extents()
            .iter()
            .any(|e| Extent::new(e.mfn, e.pages).overlap(frames) == frames.pages)
    }

    fn sort(&mut self) {
        self.list[..self.len].sort_unstable_by_key(|e| e.gfn);
    }
}

/// What sharing `pages` guest frames from `gfn` on means: extents of machine
/// frames, all of them RAM of the domain. A guest's hypercall: the answer may
/// be out of date at once, so [`Status::share`] compares again.
pub fn wanted<S: Status>(xen: &S, domain: &Domain, gfn: u64, pages: u64) -> Result<Shares, Error> {
    let end = gfn.checked_add(pages).ok_or(Error::Invalid)?;
    if pages == 0 || pages > u64::from(abi::XENVMF_share_pages_max) {
        return Err(Error::Invalid);
    }
    if !domain.flags.contains(DomainFlags::STAGE2) || !domain.root.translates(Gfn::new(end - 1)) {
        return Err(Error::NotRam);
    }
    let mut new = Shares::default();
    for frame in gfn..end {
        let mfn = xen
            .owned_ram(domain, Gfn::new(frame))
            .ok_or(Error::NotRam)?;
        let last = new.len.checked_sub(1).map(|i| &mut new.list[i]);
        match last {
            Some(last) if last.mfn.get() + last.pages == mfn.get() => last.pages += 1,
            _ => new.push(GuestExtent {
                gfn: Gfn::new(frame),
                mfn,
                pages: 1,
                p2m_type: P2mType::RamRw,
            })?,
        }
    }
    Ok(new)
}

/// What of a domain's shared pages is still true: whole extents whose guest
/// frames map the machine frames that were noted. With all domains paused.
pub fn true_ones<M: Machine>(machine: &M, domain: &Domain) -> Result<Shares, Error> {
    let noted = machine.shares(domain);
    let mut found = [0; MAX];
    if noted.len != 0 && domain.flags.contains(DomainFlags::STAGE2) {
        stage2::visit(machine, &domain.root, &mut |item| {
            if let Item::Leaf(leaf) = item
                && leaf.p2m_type == P2mType::RamRw
                && domain.root.translates(leaf.gfn)
            {
                let pages = noted.extents().iter().map(|share| agreement(share, &leaf));
                for (sum, pages) in found.iter_mut().zip(pages) {
                    *sum += pages;
                }
            }
            Ok::<(), Error>(())
        })?;
    }
    let mut kept = Shares::default();
    for (share, found) in noted.extents().iter().zip(found) {
        if share.pages == found {
            kept.push(*share)?;
        }
    }
    kept.sort();
    Ok(kept)
}

/// How many guest frames of `share` the leaf maps to the frames noted.
fn agreement(share: &GuestExtent, leaf: &GuestExtent) -> u64 {
    let alike = share.mfn.get().wrapping_sub(share.gfn.get())
        == leaf.mfn.get().wrapping_sub(leaf.gfn.get());
    if alike {
        Extent::new(share.mfn, share.pages).overlap(&Extent::new(leaf.mfn, leaf.pages))
    } else {
        0
    }
}
