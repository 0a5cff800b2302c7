//! What is true of the machine's frames now: the facts that a plan rests on.
//!
//! [`Facts::gather`] runs inside the rendezvous, with the room that there is. Where
//! that does not suffice, [`Needs::count`] looks at the same things in the same
//! order, for the next try.

use super::{RunCounter, domains, owned};
use crate::addr::Mfn;
use crate::buffer::Buffer;
use crate::error::Error;
use crate::extents::{Extent, FrameSet};
use crate::machine::{Domain, DomainFlags, Machine};
use crate::share;
use crate::snapshot;
use crate::stage2::{self, GuestExtent, Item};
use crate::walk;

/// Room that the lists of [`Facts`] need.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    tables: usize,
    protected: usize,
    unprotected: usize,
    snapshot: usize,
}

impl Needs {
    /// What suffices where memory lies in few pieces: each list has a page.
    const USUAL: Self = Self {
        tables: 213,
        protected: 213,
        unprotected: 213,
        snapshot: 100,
    };

    /// Counts what [`Facts::gather`] would find.
    pub fn count<M: Machine>(machine: &M) -> Result<Self, Error> {
        let mut tables = RunCounter::default();
        let mut protected = 0;
        let mut unprotected = RunCounter::default();
        let mut snapshot = 0;
        each_table(machine, &mut |frame| {
            tables.push(Extent::new(frame, 1));
            Ok(())
        })?;
        for domain in domains(machine) {
            let own = domain.flags.contains(DomainFlags::PROTECTED);
            if own {
                let shares = share::true_ones(machine, &domain)?;
                protected += owned::runs(machine, &domain)?;
                for extent in shares.extents() {
                    unprotected.push(Extent::new(extent.mfn, extent.pages));
                    snapshot += 1;
                }
            }
            if own {
                each_stage2_table(machine, &domain, &mut |frame| {
                    tables.push(Extent::new(frame, 1));
                    Ok(())
                })?;
                continue;
            }
            let mut last: Option<GuestExtent> = None;
            each_item(machine, &domain, &mut |item| {
                match item {
                    Item::Table(frame) => tables.push(Extent::new(frame, 1)),
                    Item::Leaf(leaf) => {
                        unprotected.push(Extent::new(leaf.mfn, leaf.pages));
                        let merges = last.as_mut().is_some_and(|last| {
                            let storage = core::slice::from_mut(last);
                            snapshot::append(storage, 1, leaf) == Some(1)
                        });
                        if !merges {
                            snapshot += 1;
                            last = Some(leaf);
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(Self {
            tables: tables.runs,
            protected,
            unprotected: unprotected.runs,
            snapshot,
        })
    }
}

/// Room for a list of `n` now and a few more at the rendezvous.
fn slack(n: usize) -> usize {
    n + n / 8 + 16
}

/// Working storage for [`Facts`].
#[derive(Debug, Default)]
pub struct Storage {
    tables: Buffer<Extent>,
    protected: Buffer<Extent>,
    unprotected: Buffer<Extent>,
    ram: Buffer<Extent>,
    snapshot: Buffer<GuestExtent>,
}

impl Storage {
    /// Allocates what usually suffices.
    pub fn usual<M: Machine>(machine: &M) -> Result<Self, Error> {
        Self::new(machine, Needs::USUAL)
    }

    /// Allocates as much as is needed, in the place of what there is.
    pub fn recount<M: Machine>(&mut self, machine: &M) -> Result<(), Error> {
        let needs = Needs::count(machine)?;
        core::mem::take(self).free(machine);
        *self = Self::new(machine, needs)?;
        Ok(())
    }

    /// Allocates what `needs` asks for, and a little more.
    pub fn new<M: Machine>(machine: &M, needs: Needs) -> Result<Self, Error> {
        let mut storage = Self::default();
        match storage.allocate(machine, needs) {
            Ok(()) => Ok(storage),
            Err(e) => {
                storage.free(machine);
                Err(e)
            }
        }
    }

    fn allocate<M: Machine>(&mut self, machine: &M, needs: Needs) -> Result<(), Error> {
        let banks = machine.ram().len();
        self.tables = Buffer::new(machine, slack(needs.tables))?;
        self.protected = Buffer::new(machine, slack(needs.protected))?;
        self.unprotected = Buffer::new(machine, slack(needs.unprotected))?;
        self.ram = Buffer::new(machine, banks)?;
        self.snapshot = Buffer::new(machine, slack(needs.snapshot))?;
        Ok(())
    }

    /// Gives everything back.
    pub fn free<M: Machine>(self, machine: &M) {
        self.tables.free(machine);
        self.protected.free(machine);
        self.unprotected.free(machine);
        self.ram.free(machine);
        self.snapshot.free(machine);
    }

    /// Gives everything back but the snapshot, which stays for good.
    pub fn keep_snapshot<M: Machine>(mut self, machine: &M) -> &'static mut [GuestExtent] {
        let snapshot = core::mem::take(&mut self.snapshot);
        self.free(machine);
        snapshot.leak()
    }
}

/// The facts.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Frames that hold a table of any regime.
    pub tables: FrameSet<'a>,
    /// Frames that protected domains own and do not share.
    pub protected: FrameSet<'a>,
    /// RAM but the xenheap that unprotected domains can reach, or that
    /// protected ones share.
    pub unprotected: FrameSet<'a>,
    /// All RAM.
    pub ram: FrameSet<'a>,
    /// Leaves of unprotected domains that reach what they must not.
    pub stray_leaves: u64,
    snapshot: &'a mut [GuestExtent],
    snapshot_len: usize,
}

/// Where the snapshot of one domain lies in the common list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Index of the first extent.
    pub first: usize,
    /// Number of extents.
    pub len: usize,
}

impl<'a> Facts<'a> {
    /// Looks at everything. `share` is told each domain's part of the
    /// snapshot: its extents for an unprotected domain, what it shares for
    /// another.
    pub fn gather<M: Machine>(
        machine: &M,
        storage: &'a mut Storage,
        share: &mut dyn FnMut(&Domain, Share),
    ) -> Result<Self, Error> {
        let mut facts = Self::none(machine, storage)?;
        each_table(machine, &mut |frame| {
            Ok(facts.tables.push(Extent::new(frame, 1))?)
        })?;
        let protected = domains(machine).filter(|d| d.flags.contains(DomainFlags::PROTECTED));
        owned::collect(machine, protected, &mut facts.protected)?;
        for domain in domains(machine) {
            facts.stage2(machine, &domain, share)?;
        }
        facts.tables.normalise();
        facts.unprotected.normalise();
        facts.find_strays(machine)?;
        Ok(facts)
    }

    /// [`Facts::unprotected`] by itself.
    pub fn reached<M: Machine>(
        machine: &M,
        storage: &'a mut Storage,
    ) -> Result<FrameSet<'a>, Error> {
        let mut facts = Self::none(machine, storage)?;
        for domain in domains(machine) {
            facts.stage2(machine, &domain, &mut |_, _| ())?;
        }
        facts.unprotected.normalise();
        Ok(facts.unprotected)
    }

    /// Nothing is known but RAM.
    fn none<M: Machine>(machine: &M, storage: &'a mut Storage) -> Result<Self, Error> {
        let mut facts = Self {
            tables: FrameSet::new(storage.tables.items()),
            protected: FrameSet::new(storage.protected.items()),
            unprotected: FrameSet::new(storage.unprotected.items()),
            ram: FrameSet::new(storage.ram.items()),
            stray_leaves: 0,
            snapshot: storage.snapshot.items(),
            snapshot_len: 0,
        };
        for &bank in machine.ram() {
            facts.ram.push(bank)?;
        }
        facts.ram.normalise();
        Ok(facts)
    }

    /// Counts and names leaves that reach what they must not, whatever their
    /// type says. Last, when all tables are known.
    fn find_strays<M: Machine>(&mut self, machine: &M) -> Result<(), Error> {
        let layout = machine.layout();
        let unprotected = |d: &Domain| !d.flags.contains(DomainFlags::PROTECTED);
        let mut count = 0;
        for domain in domains(machine).filter(unprotected) {
            each_item(machine, &domain, &mut |item| {
                if let Item::Leaf(leaf) = item {
                    let frames = Extent::new(leaf.mfn, leaf.pages);
                    let mut reached = self.protected.overlap(&frames)
                        + self.tables.overlap(&frames)
                        + layout.in_image(&frames)
                        + frames.overlap(&layout.frametable_frames);
                    // Pages of the xenheap that are a domain's (shared info,
                    // grant tables) are RAM to it.
                    if !leaf.p2m_type.is_any_ram() {
                        reached += frames.overlap(&layout.xenheap);
                    }
                    if reached != 0 {
                        count += 1;
                        machine.stray(&domain, &leaf);
                    }
                }
                Ok(())
            })?;
        }
        self.stray_leaves = count;
        Ok(())
    }

    fn stage2<M: Machine>(
        &mut self,
        machine: &M,
        domain: &Domain,
        share: &mut dyn FnMut(&Domain, Share),
    ) -> Result<(), Error> {
        let protected = domain.flags.contains(DomainFlags::PROTECTED);
        let layout = machine.layout();
        let first = self.snapshot_len;
        if protected {
            for &extent in share::true_ones(machine, domain)?.extents() {
                self.reachable(Extent::new(extent.mfn, extent.pages), &layout.xenheap)?;
                self.remember(first, extent)?;
            }
            each_stage2_table(machine, domain, &mut |frame| {
                Ok(self.tables.push(Extent::new(frame, 1))?)
            })?;
        } else {
            self.outside(machine, domain)?;
        }
        share(
            domain,
            Share {
                first,
                len: self.snapshot_len - first,
            },
        );
        Ok(())
    }

    /// Everything that stage 2 of a domain that is not protected maps.
    fn outside<M: Machine>(&mut self, machine: &M, domain: &Domain) -> Result<(), Error> {
        let layout = machine.layout();
        let first = self.snapshot_len;
        each_item(machine, domain, &mut |item| {
            let leaf = match item {
                Item::Table(frame) => return Ok(self.tables.push(Extent::new(frame, 1))?),
                Item::Leaf(leaf) => leaf,
            };
            if leaf.p2m_type.is_any_ram() {
                self.reachable(Extent::new(leaf.mfn, leaf.pages), &layout.xenheap)?;
            }
            // The snapshot is what the guest has, and no more.
            if domain.root.translates(leaf.gfn) {
                self.remember(first, leaf)?;
            }
            Ok(())
        })
    }

    /// Adds an extent to the snapshot of the domain whose part begins at
    /// `first`; never merged with the one before this domain.
    fn remember(&mut self, first: usize, extent: GuestExtent) -> Result<(), Error> {
        let storage = &mut self.snapshot[first..];
        let len = snapshot::append(storage, self.snapshot_len - first, extent);
        self.snapshot_len = first + len.ok_or(Error::Room)?;
        Ok(())
    }

    /// Adds what of `frames` is RAM and not in the xenheap.
    fn reachable(&mut self, frames: Extent, xenheap: &Extent) -> Result<(), Error> {
        for bank in self.ram.extents() {
            let start = frames.start.get().max(bank.start.get());
            let end = frames.end().min(bank.end());
            let before = Extent::new(
                Mfn::new(start),
                end.min(xenheap.start.get()).saturating_sub(start),
            );
            let from = start.max(xenheap.end());
            let after = Extent::new(Mfn::new(from), end.saturating_sub(from));
            self.unprotected.push(before)?;
            self.unprotected.push(after)?;
        }
        Ok(())
    }

    /// Number of extents in the snapshot.
    pub fn snapshot_extents(&self) -> usize {
        self.snapshot_len
    }
}

/// Calls `visit` for every frame with a table that is not a domain's.
fn each_table<M: Machine>(
    machine: &M,
    visit: &mut impl FnMut(Mfn) -> Result<(), Error>,
) -> Result<(), Error> {
    walk::each_table(machine, machine.root(), visit)?;
    let mut index = 0;
    while let Some(frame) = machine.static_table(index) {
        visit(frame)?;
        index += 1;
    }
    index = 0;
    while let Some(frame) = machine.window_table(index) {
        visit(frame)?;
        index += 1;
    }
    Ok(())
}

fn each_stage2_table<M: Machine>(
    machine: &M,
    domain: &Domain,
    visit: &mut impl FnMut(Mfn) -> Result<(), Error>,
) -> Result<(), Error> {
    if !domain.flags.contains(DomainFlags::STAGE2) {
        return Ok(());
    }
    stage2::each_table(machine, &domain.root, visit)
}

fn each_item<M: Machine>(
    machine: &M,
    domain: &Domain,
    visit: &mut impl FnMut(Item) -> Result<(), Error>,
) -> Result<(), Error> {
    if !domain.flags.contains(DomainFlags::STAGE2) {
        return Ok(());
    }
    Ok(stage2::visit(machine, &domain.root, visit)?)
}
