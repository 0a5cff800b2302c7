//! What must hold after a lock, judged by frame and from the outside.

use super::machine::{CPUS, Dom, Sim};
use super::*;
use xen_vmf::error::Error;
use xen_vmf::fuse;
use xen_vmf::hypercall::{self, Call, Outcome};
use xen_vmf::machine::{DomainFlags, Machine};
use xen_vmf::policy::Seal;
use xen_vmf::snapshot;
use xen_vmf_abi as abi;

/// [`check`] for the usual machine.
pub fn lock_and_check(all: bool, seal: Seal) {
    check(&Sim::new(all), seal);
}

/// Locks a machine, sealing it so far, and checks everything. A refusal on the
/// way does not spoil the next attempt. Being locked is a state of the
/// process, so each test program can do it once.
pub fn check(sim: &Sim, seal: Seal) {
    fuse::protect(sim, 1).expect("protected");
    sim.freeze_fails.set(true);
    let before = sim.picture();
    let refused = fuse::lock(sim, seal, &mut |_, _| ());
    assert_eq!(refused.err(), Some(Error::TooManyDomains));
    assert!(before == sim.picture());
    sim.freeze_fails.set(false);
    // What a run without the seal needs is no obstacle to it.
    sim.needs_firmware.set(seal != Seal::Full);

    let tables = sim.table_frames();
    let protected = sim.owned(1);
    let guests: Vec<(u16, Vec<Cached>)> = [0, 5].map(|id| (id, sim.guest(id).1)).into();

    let mut shares = BTreeMap::new();
    let frozen =
        fuse::lock(sim, seal, &mut |domain: &xen_vmf::machine::Domain,
                                    share| {
            shares.insert(domain.id, share);
        })
        .expect("locked");

    nothing_forbidden(sim, &tables, &protected);
    retained(sim, seal);
    order(sim);
    assert_eq!(sim.no_smc.get(), Some(seal == Seal::Full));
    for (id, leaves) in guests {
        let share = shares[&id];
        let extents = &frozen.snapshot[share.first..share.first + share.len];
        for leaf in leaves {
            let answer = snapshot::lookup(extents, xen_vmf::addr::Gfn::new(leaf.va));
            let mfn = Mfn::new((leaf.bits & ADDRESS) >> 12);
            assert_eq!(answer.mfn, Some(mfn), "domain {id}, gfn {:#x}", leaf.va);
            assert_eq!(answer.p2m_type as u64, leaf.bits >> 55 & 15);
        }
    }
    assert_eq!(shares[&1].len, 0, "a protected domain has no snapshot");
    for id in [0, 1, 5] {
        assert!(sim.guest(id).1.iter().all(|leaf| leaf.bits & 1 == 1));
    }
    // Who has asked before it may have to wait until after it.
    assert_eq!(fuse::stray_leaves(sim), Ok(0));
    after(sim, seal);
}

/// A status item of the machine.
fn value(sim: &Sim, item: u32) -> Result<u32, Error> {
    let call = Call {
        cmd: abi::XENVMF_status,
        domid: hypercall::DOMID_INVALID,
        arg0: item.into(),
        arg1: 0,
    };
    match hypercall::decide(sim, &call, 0)? {
        Outcome::Value(value) => Ok(value),
        Outcome::Deferred(job) => panic!("{job:?}"),
    }
}

fn nothing_forbidden(sim: &Sim, tables: &BTreeSet<u64>, protected: &BTreeSet<u64>) {
    let mut tables = tables.clone();
    tables.extend(sim.table_frames());
    let reachable = sim.memory.reachable();
    let mapped = |mfn: &u64| {
        reachable
            .iter()
            .any(|&(first, pages)| (first..first + pages).contains(mfn))
    };
    assert_eq!(tables.iter().find(|t| mapped(t)), None, "a table");
    assert_eq!(
        protected.iter().find(|p| mapped(p)),
        None,
        "a protected page"
    );
    let mut allowed = frames(&[IMAGE, FRAMETABLE, XENHEAP]);
    allowed.extend(sim.owned(0));
    allowed.extend(sim.owned(5));
    let ram = |mfn: u64| RAM.iter().any(|bank| bank.contains(Mfn::new(mfn)));
    for (first, pages) in reachable {
        for mfn in first..first + pages {
            assert!(
                !ram(mfn) || allowed.contains(&mfn),
                "{mfn:#x} is not retained"
            );
        }
    }
    let layout = layout();
    for leaf in sim.memory.leaves() {
        assert!(!layout.windows.contains(leaf.va), "a window is not empty");
        assert!(leaf.va >= BASE, "a stray mapping at {:#x}", leaf.va);
    }
    assert!(
        !sim.memory.readable(layout.vmap.start + 0x4000),
        "the image's alias"
    );
}

fn retained(sim: &Sim, seal: Seal) {
    let pages = sim.memory.pages();
    let layout = layout();
    let tables = sim.table_frames();
    for i in 0..IMAGE.pages {
        let mfn = IMAGE.start.get() + i;
        let found = pages.get(&(layout.image.start + (i << 12)));
        let sealed = match seal {
            Seal::None => false,
            Seal::KeepFirmwareCalls => i < 2,
            Seal::Full => i < 3,
        };
        if sealed || tables.contains(&mfn) {
            assert_eq!(found, None, "image {mfn:#x}");
        } else {
            assert_eq!(
                found,
                Some(&(mfn, i < 16 || mfn == FROZEN)),
                "image {mfn:#x}"
            );
        }
    }
    for i in 0..FRAMETABLE.pages {
        let at = layout.frametable.start + (i << 12);
        assert_eq!(pages.get(&at), Some(&(FRAMETABLE.start.get() + i, false)));
    }
    let heap = frames(&[XENHEAP]);
    for mfn in heap.iter().chain(&sim.owned(0)).chain(&sim.owned(5)) {
        assert_eq!(pages.get(&dm(*mfn)), Some(&(*mfn, false)), "{mfn:#x}");
    }
    assert!(pages.contains_key(&layout.fixmap.start), "a device");
    assert!(pages.contains_key(&layout.vmap.start), "a device");
    for i in 0..GICR_PAGES {
        let found = pages.get(&(layout.vmap.start + 0x10_0000 + (i << 12)));
        let sgi = i % 64 / 16 == 1;
        assert_eq!(found, Some(&(GICR + i, !sgi)), "redistributor page {i}");
    }
    assert!(pages.contains_key(&(layout.vmap.start + 0x1000)), "xenheap");
    assert!(!pages.contains_key(&(layout.fixmap.start + 0x1000)), "RAM");
}

fn order(sim: &Sim) {
    let ops = sim.ops();
    let last = |wanted: Op| ops.iter().rposition(|&o| o == wanted).expect("done");
    let (stop, go) = (last(Op::Stop), last(Op::Go));
    assert!(last(Op::FlushGuests) < stop);
    // Every CPU, and the one that the fuse is blown on twice.
    let settled = |o: &&Op| matches!(o, Op::Settle(_));
    let since = ops
        .iter()
        .rposition(|&o| o == Op::FlushGuests)
        .expect("done");
    assert_eq!(
        ops[since..stop].iter().filter(settled).count(),
        CPUS as usize + 1
    );
    assert!(stop < last(Op::Freeze) && last(Op::Freeze) < last(Op::DestroyWindows));
    let mut live = sim.memory.live();
    // New tables are filled before they are linked.
    live.retain(|frame, _| !sim.spare.borrow().contains(frame));
    let mut edits = ops.iter().enumerate().skip(stop);
    let first_edit = edits
        .clone()
        .find(|(_, o)| matches!(o, Op::Write { frame, .. } if live.contains_key(frame)))
        .expect("an edit");
    assert!(
        last(Op::Freeze) < first_edit.0,
        "the page is written while it can be"
    );
    let last_write = edits
        .rfind(|(_, o)| matches!(o, Op::Write { .. }))
        .expect("a write");
    // The model writes the own system slots last.
    assert!(last(Op::DestroyWindows) < last_write.0);
    assert!(
        last_write.0 < last(Op::FlushAll),
        "no flush after the last write"
    );
    assert!(last(Op::FlushAll) < go);
}

/// The time after: no way back, nothing leaked, the state is visible.
fn after(sim: &Sim, seal: Seal) {
    assert!(xen_vmf::state::locked());
    assert_eq!(
        sim.buffers.borrow().len(),
        1,
        "the snapshot and nothing else"
    );
    let live = sim.memory.live();
    assert!(
        sim.spare.borrow().iter().all(|t| live.contains_key(t)),
        "a table is leaked"
    );
    assert_eq!(xen_vmf::state::seal(), seal);
    for again in [Seal::None, Seal::KeepFirmwareCalls, Seal::Full] {
        // Tables are out of reach: what is mapped stays.
        let done = again == Seal::None || again == seal;
        let why = if done { Error::Done } else { Error::Locked };
        assert_eq!(fuse::lock(sim, again, &mut |_, _| ()).err(), Some(why));
    }
    assert_eq!(fuse::protect(sim, 5), Err(Error::Locked));
    assert_eq!(fuse::protect(sim, 1), Err(Error::Done));
    let level = match seal {
        Seal::None => abi::XENVMF_state_locked,
        _ => abi::XENVMF_state_sealed,
    };
    assert_eq!(value(sim, abi::XENVMF_status_state), Ok(level));
    let firmware = u32::from(seal != Seal::Full);
    assert_eq!(value(sim, abi::XENVMF_status_firmware_calls), Ok(firmware));
    let doms: Vec<Dom> = sim.doms.borrow().values().cloned().collect();
    for dom in doms {
        let wanted = dom.domain.id == 1;
        assert_eq!(dom.domain.flags.contains(DomainFlags::PROTECTED), wanted);
    }
    assert_eq!(
        fuse::machine_obstacle(sim, abi::XENVMF_obstacle_locked),
        Some(1)
    );
    assert_eq!(
        fuse::machine_obstacle(sim, abi::XENVMF_obstacle_stage2_leaves),
        Some(0)
    );
    let tables = sim.table_frames().len() as u64;
    let counter = |c| xen_vmf::state::counter(c).expect("a counter");
    assert_eq!(counter(abi::XENVMF_counter_table_frames), tables);
    assert!(sim.next_domain(6).is_none());
}
