//! `protect`: the pages of a domain leave the directmap.
//!
//! With `directmap=no` they were never there, and only regions of the windows
//! have to go. With `directmap=yes` whole blocks are removed where all of a
//! block is the domain's, and mixed blocks are split.

use super::owned::Source;
use super::room::Room;
use super::selfcheck::Check;
use super::{domain, owned, preflight_domain, windows_idle};
use crate::buffer::Buffer;
use crate::commit;
use crate::error::Error;
use crate::extents::{Extent, FrameSet};
use crate::machine::{Domain, Machine};
use crate::plan::{self, Count, Record, Rule, Tally};
use crate::policy::Unmap;
use crate::share;
use crate::state;
use xen_vmf_abi as abi;

/// Extents of memory that there is room for at first: a page of them.
const EXTENTS: usize = 256;

/// Working storage of one `protect`.
#[derive(Debug, Default)]
struct Work {
    frames: Buffer<Extent>,
    /// None where domains are not in the directmap.
    room: Room,
}

impl Work {
    /// As much as usually suffices.
    fn usual<M: Machine>(&mut self, machine: &M) -> Result<(), Error> {
        self.frames = Buffer::new(machine, EXTENTS)?;
        if machine.directmap_all() {
            self.room = Room::usual(machine)?;
        }
        Ok(())
    }

    /// As much as a dry run takes, and a little more, in the place of what there
    /// is.
    fn recount<M: Machine>(&mut self, machine: &M, domain: &Domain) -> Result<(), Error> {
        core::mem::take(self).free(machine);
        self.frames = Buffer::new(machine, owned::runs(machine, domain)? + 16)?;
        if machine.directmap_all() {
            let mut count = Count::default();
            let policy = Unmap {
                layout: &machine.layout(),
                leaving: &leaving(machine, domain, self.frames.items())?.0,
            };
            plan::plan(machine, machine.root(), &policy, &mut count)?;
            self.room = Room::counted(machine, &count)?;
        }
        Ok(())
    }

    fn free<M: Machine>(self, machine: &M) {
        self.frames.free(machine);
        self.room.free(machine);
    }
}

/// The frames of `domain` that it does not share, collected into `storage`, and
/// where they have been read.
fn leaving<'a, M: Machine>(
    machine: &M,
    domain: &Domain,
    storage: &'a mut [Extent],
) -> Result<(FrameSet<'a>, Source), Error> {
    let mut set = FrameSet::new(storage);
    let source = owned::collect(machine, core::iter::once(*domain), &mut set)?;
    Ok((set, source))
}

/// Protects the domain with id `id`. On an error nothing has changed.
///
/// # Panics
/// If the self-check finds a page of the domain still readable.
pub fn protect<M: Machine>(machine: &M, id: u16) -> Result<(), Error> {
    let start = machine.now();
    let domain = domain(machine, id)?;
    preflight_domain(machine, &domain)?;

    let mut work = Work::default();
    let usual = work.usual(machine);
    let usual = usual.and_then(|()| stopped(machine, &domain, &mut work));
    let result = match usual {
        Err(Error::Room | Error::NoMemory) => work
            .recount(machine, &domain)
            .and_then(|()| stopped(machine, &domain, &mut work)),
        done => done,
    };
    if let Ok((tally, extents)) = &result {
        check(machine, &domain, &work.frames.items()[..*extents]);
        state::count(abi::XENVMF_counter_leaves_removed, tally.leaves);
        state::count(abi::XENVMF_counter_bytes_removed, tally.pages << 12);
        state::count(abi::XENVMF_counter_blocks_split, tally.splits);
        state::count(abi::XENVMF_counter_tables_allocated, tally.splits);
    }
    work.free(machine);
    state::count(abi::XENVMF_counter_protect_ns, machine.now() - start);
    result.map(|_| ())
}

/// The part with all CPUs stopped. What has changed, and how many extents of
/// the work's frames are the domain's.
fn stopped<M: Machine>(
    machine: &M,
    domain: &Domain,
    work: &mut Work,
) -> Result<(Tally, usize), Error> {
    let mut done = Default::default();
    let Work { frames, room } = work;
    machine.rendezvous(&mut |machine| {
        // First what is shared: what stands in the way is judged by it.
        machine.keep_shares(domain, &share::true_ones(machine, domain)?);
        // Once more: an idle CPU may have finished something.
        preflight_domain(machine, domain)?;
        windows_idle(machine)?;
        let (frames, source) = leaving(machine, domain, frames.items())?;
        let given_up = source == Source::List;
        let mut extents = frames.extents().iter();
        if extents.any(|extent| machine.referenced(*extent, given_up) != 0) {
            return Err(Error::SharedPages);
        }
        let tally = if machine.directmap_all() {
            remove(machine, &frames, room)?
        } else {
            Tally::default()
        };
        done = (tally, frames.extents().len());
        machine.set_protected(domain);
        machine.clear_windows();
        machine.flush_all();
        Ok(())
    })?;
    Ok(done)
}

/// Takes `leaving` out of the directmap.
fn remove<M: Machine>(machine: &M, leaving: &FrameSet, room: &mut Room) -> Result<Tally, Error> {
    let layout = machine.layout();
    let root = machine.root();
    let policy = Unmap {
        layout: &layout,
        leaving,
    };
    let (edits, spare) = room.parts();
    let mut record = Record::new(machine, edits, spare);
    plan::plan(machine, root, &policy, &mut record)?;
    let (edits, used, tally) = record.finish();
    let rule = Rule {
        forbidden: &[leaving],
        except: layout.windows,
    };
    plan::verify(machine, root, edits, &rule)?;
    commit::check(edits, &[layout.image, layout.xenheap_va, layout.frametable])?;
    commit::commit(machine, edits);
    room.link(used);
    Ok(tally)
}

/// Asks every CPU's MMU about all addresses of the domain's pages.
fn check<M: Machine>(machine: &M, domain: &Domain, gone: &[Extent]) {
    let clean = machine.on_every_cpu(&|machine| {
        let mut check = Check::new(machine);
        let clean = check.gone(gone.iter().copied());
        state::count(abi::XENVMF_counter_selfcheck_addresses, check.tried());
        clean
    });
    assert!(
        clean,
        "self-check: a page of domain {} is still mapped",
        domain.id
    );
}
