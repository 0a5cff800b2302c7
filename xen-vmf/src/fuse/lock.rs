//! `lock`: no translation table is mapped any more, nor anything else that is
//! not retained. `seal` is the same with a shorter list: of the image's text,
//! code that could undo the lock is not on it.

use super::collect::{Facts, Needs, Share, Storage};
use super::retain::{release, retain};
use super::room::Room;
use super::selfcheck::Check;
use super::{domains, preflight_machine, windows_idle};
use crate::addr::{Mfn, PAGE_SHIFT, Vaddr};
use crate::buffer::Buffer;
use crate::commit;
use crate::error::Error;
use crate::extents::{Extent, FrameSet};
use crate::machine::{Domain, DomainFlags, Machine};
use crate::plan::{self, Count, Record, Rule, Tally};
use crate::policy::{Layout, Lock, Seal};
use crate::share;
use crate::stage2::{self, GuestExtent};
use crate::state;
use xen_vmf_abi as abi;

/// What the lock leaves behind for the time after it.
#[derive(Debug)]
pub struct Frozen {
    /// Stage 2 of all unprotected domains, one after the other.
    pub snapshot: &'static [GuestExtent],
}

/// Numbers of one lock.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    tally: Tally,
    tables: u64,
    retained: u64,
    forbidden: u64,
    extents: u64,
}

/// Locks the machine. On an error nothing that matters has changed: pages of
/// unprotected domains may have been mapped and unmapped again, entries of
/// stage 2 have their valid bits back, and what a protected domain shares with
/// Xen is not executable for it.
///
/// `share` is told which part of the snapshot belongs to which domain.
///
/// # Panics
/// If the self-check finds a table or a protected page still readable.
pub fn lock<M: Machine>(
    machine: &M,
    seal: Seal,
    share: &mut dyn FnMut(&Domain, Share),
) -> Result<Frozen, Error> {
    let start = machine.now();
    preflight_machine(machine, seal)?;
    for domain in domains(machine).filter(|d| d.flags.contains(DomainFlags::STAGE2)) {
        // What of Xen's own a protected domain sees (shared info, grant table),
        // and what it shares, Xen can write. Nobody is to put code there for
        // the guest to run.
        let protected = domain.flags.contains(DomainFlags::PROTECTED);
        let xenheap = machine.layout().xenheap;
        let shares = share::true_ones(machine, &domain)?;
        stage2::settle(machine, &domain.root, &|frames| {
            protected && (xenheap.overlap(frames) != 0 || shares.cover(frames))
        });
    }
    machine.publish();
    machine.flush_guests();

    let mut storage = Storage::default();
    let mut mapped = Buffer::default();
    let mut room = Room::default();
    let mut stopped_ns = 0;
    let result = retain(machine, &mut storage, &mut mapped).and_then(|()| {
        settle(machine)?;
        let mut attempt = |storage: &mut _, room: &mut _| {
            attempt(machine, seal, storage, room, share, &mut stopped_ns)
        };
        let usual = Room::usual(machine).and_then(|usual| {
            room = usual;
            attempt(&mut storage, &mut room)
        });
        match usual {
            Err(Error::Room | Error::NoMemory) => {
                storage.recount(machine)?;
                let count = count(machine, seal, &mut storage)?;
                core::mem::take(&mut room).free(machine);
                room = Room::counted(machine, &count)?;
                attempt(&mut storage, &mut room)
            }
            done => done,
        }
    });
    let result = match result {
        Ok(numbers) => {
            numbers.report(machine.now() - start, stopped_ns);
            let snapshot = storage.keep_snapshot(machine);
            Ok(Frozen {
                snapshot: &snapshot[..numbers.extents as usize],
            })
        }
        Err(error) => {
            release(machine, &mut mapped);
            storage.free(machine);
            Err(error)
        }
    };
    mapped.free(machine);
    room.free(machine);
    result
}

/// Counts the leaves in the stage 2 of unprotected domains that reach a page
/// of a protected domain or of Xen.
pub fn stray_leaves<M: Machine>(machine: &M) -> Result<u64, Error> {
    // Whoever asked may have waited for the lock; there is nothing to walk with now.
    if state::locked() {
        return Ok(0);
    }
    let mut storage = Storage::new(machine, Needs::count(machine)?)?;
    let stray = Facts::gather(machine, &mut storage, &mut |_, _| ()).map(|f| f.stray_leaves);
    storage.free(machine);
    stray
}

impl Numbers {
    fn report(&self, lock_ns: u64, stopped_ns: u64) {
        state::count(abi::XENVMF_counter_leaves_removed, self.tally.leaves);
        state::count(
            abi::XENVMF_counter_bytes_removed,
            self.tally.pages << PAGE_SHIFT,
        );
        state::count(abi::XENVMF_counter_blocks_split, self.tally.splits);
        state::count(abi::XENVMF_counter_tables_allocated, self.tally.splits);
        state::count(abi::XENVMF_counter_table_frames, self.tables);
        state::count(abi::XENVMF_counter_retained_frames, self.retained);
        state::count(abi::XENVMF_counter_forbidden_frames, self.forbidden);
        state::count(abi::XENVMF_counter_snapshot_extents, self.extents);
        state::count(abi::XENVMF_counter_lock_stopped_ns, stopped_ns);
        state::count(abi::XENVMF_counter_lock_ns, lock_ns);
    }
}

/// One rendezvous, and the self-check after it. [`Error::Room`] if there was too
/// little; then nothing has happened.
fn attempt<M: Machine>(
    machine: &M,
    seal: Seal,
    storage: &mut Storage,
    room: &mut Room,
    share: &mut dyn FnMut(&Domain, Share),
    stopped_ns: &mut u64,
) -> Result<Numbers, Error> {
    let (numbers, facts) = stopped(machine, seal, storage, room, share, stopped_ns)?;
    check(machine, seal, &facts, room.linked());
    Ok(numbers)
}

/// How much the plan takes, by a dry run.
fn count<M: Machine>(machine: &M, seal: Seal, storage: &mut Storage) -> Result<Count, Error> {
    let mut count = Count::default();
    let facts = Facts::gather(machine, storage, &mut |_, _| ())?;
    let layout = machine.layout();
    let policy = policy(&layout, seal, &facts);
    plan::plan(machine, machine.root(), &policy, &mut count)?;
    Ok(count)
}

fn policy<'a>(layout: &'a Layout, seal: Seal, facts: &'a Facts) -> Lock<'a> {
    Lock {
        layout,
        tables: &facts.tables,
        protected: &facts.protected,
        unprotected: &facts.unprotected,
        ram: &facts.ram,
        seal,
    }
}

/// Lets every CPU hold what the lock allows. No vCPU runs, so it stays.
fn settle<M: Machine>(machine: &M) -> Result<(), Error> {
    let vttbr = domains(machine)
        .find(|d| d.flags.contains(DomainFlags::STAGE2))
        .map_or(0, |d| d.vttbr);
    if machine.settle(vttbr, true) && machine.on_every_cpu(&|machine| machine.settle(vttbr, false))
    {
        Ok(())
    } else {
        Err(Error::UnlikeCpus)
    }
}

/// The rendezvous; `stopped_ns` grows by how long it takes, whatever comes of it.
fn stopped<'a, M: Machine>(
    machine: &M,
    seal: Seal,
    storage: &'a mut Storage,
    room: &mut Room,
    share: &mut dyn FnMut(&Domain, Share),
    stopped_ns: &mut u64,
) -> Result<(Numbers, Facts<'a>), Error> {
    let mut storage = Some(storage);
    let mut outcome = None;
    machine.rendezvous(&mut |machine| {
        let start = machine.now();
        let storage = storage.take().ok_or(Error::Again)?;
        let done = with_cpus_stopped(machine, seal, storage, room, share);
        *stopped_ns += machine.now() - start;
        outcome = Some(done?);
        Ok(())
    })?;
    outcome.ok_or(Error::Again)
}

/// The part with all CPUs stopped.
fn with_cpus_stopped<'a, M: Machine>(
    machine: &M,
    seal: Seal,
    storage: &'a mut Storage,
    room: &mut Room,
    share: &mut dyn FnMut(&Domain, Share),
) -> Result<(Numbers, Facts<'a>), Error> {
    preflight_machine(machine, seal)?;
    windows_idle(machine)?;
    for domain in domains(machine).filter(|d| d.flags.contains(DomainFlags::PROTECTED)) {
        machine.keep_shares(&domain, &share::true_ones(machine, &domain)?);
        if machine.obstacles(&domain, false).pv_pages != 0 {
            return Err(Error::PvPages);
        }
    }
    let facts = Facts::gather(machine, storage, share)?;
    if facts.stray_leaves != 0 {
        return Err(Error::SharedPages);
    }
    let numbers = carry_out(machine, seal, &facts, room)?;
    Ok((numbers, facts))
}

fn carry_out<M: Machine>(
    machine: &M,
    seal: Seal,
    facts: &Facts,
    room: &mut Room,
) -> Result<Numbers, Error> {
    let layout = machine.layout();
    let root = machine.root();
    let (edits, spare) = room.parts();
    let mut record = Record::new(machine, edits, spare);
    plan::plan(machine, root, &policy(&layout, seal, facts), &mut record)?;
    let (edits, used, tally) = record.finish();

    let mut text = [Extent::new(Mfn::new(0), 0); 2];
    let text = gone_text(&layout, seal, &mut text)?;
    let rule = Rule {
        forbidden: &[&facts.tables, &facts.protected, &text],
        except: layout.windows,
    };
    plan::verify(machine, root, edits, &rule)?;
    // The tables that the plan adds are tables as well. They come from the
    // domheap, of which the directmap retains only what domains reach.
    let stays = |t: &Mfn| facts.unprotected.contains(*t) || layout.xenheap.contains(*t);
    if spare[..used].iter().any(stays) {
        return Err(Error::Unsound);
    }
    commit::check(edits, &[layout.image, layout.xenheap_va, layout.frametable])?;

    machine.freeze(seal == Seal::Full)?;
    commit::commit(machine, edits);
    machine.destroy_windows();
    machine.flush_all();
    state::set_locked(seal);
    room.link(used);
    let retained =
        facts.unprotected.pages() + layout.xenheap.pages + layout.in_image(&layout.image_frames)
            - text.pages();
    Ok(Numbers {
        tally,
        tables: facts.tables.pages() + used as u64,
        retained,
        forbidden: facts.ram.pages().saturating_sub(retained),
        extents: facts.snapshot_extents() as u64,
    })
}

/// The frames of text that go with `seal`.
fn gone_text<'a>(
    layout: &Layout,
    seal: Seal,
    storage: &'a mut [Extent],
) -> Result<FrameSet<'a>, Error> {
    let mut text = FrameSet::new(storage);
    for frames in [layout.boot_text, layout.smc_text] {
        if seal.takes(layout, &frames) != 0 {
            text.push(frames)?;
        }
    }
    text.normalise();
    Ok(text)
}

/// On every CPU: no table and no protected page can be read, at its address
/// in the directmap or in the image, and no window is left. The xenheap can,
/// so that the check is seen to tell the two apart.
fn check<M: Machine>(machine: &M, seal: Seal, facts: &Facts, linked: &[Mfn]) {
    let layout = machine.layout();
    let image_address = |table: Mfn| {
        let offset = table.get().wrapping_sub(layout.image_frames.start.get());
        Vaddr::new(layout.image.start + (offset << PAGE_SHIFT))
    };
    let clean = machine.on_every_cpu(&|machine| {
        let mut check = Check::new(machine);
        let gone = check.gone(facts.tables.extents().iter().copied())
            && check.gone(facts.protected.extents().iter().copied())
            && check.gone(linked.iter().map(|&t| Extent::new(t, 1)))
            && check.unmapped(machine.window_range());
        state::count(abi::XENVMF_counter_selfcheck_addresses, check.tried());
        let mut statics = (0..).map_while(|i| machine.static_table(i));
        let image = statics.any(|t| machine.readable(image_address(t)));
        let heap = machine.readable(Vaddr::new(layout.xenheap_va.start));
        let text = [layout.boot_text, layout.smc_text]
            .iter()
            .filter(|frames| seal.takes(&layout, frames) != 0)
            .any(|frames| machine.readable(image_address(frames.start)));
        gone && !text && !image && heap
    });
    assert!(
        clean,
        "self-check: a table, a protected page, or sealed code is still mapped"
    );
}
