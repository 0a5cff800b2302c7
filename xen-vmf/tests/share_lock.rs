//! `lock` with pages that a protected domain shares. Being locked is a state of
//! the process, so this is a program of its own.

mod model;

use model::machine::Sim;
use model::{Op, dm};
use std::collections::BTreeMap;
use xen_vmf::addr::{Gfn, Mfn};
use xen_vmf::descriptor::stage2::P2mType;
use xen_vmf::error::Error;
use xen_vmf::fuse;
use xen_vmf::hypercall::{Call, DOMID_SELF, Outcome, decide};
use xen_vmf::policy::Seal;
use xen_vmf::snapshot;
use xen_vmf::stage2::GuestExtent;
use xen_vmf_abi::*;

/// `vmf_op` as domain 1 makes it for itself.
fn call(sim: &Sim, cmd: u32, arg0: u64, arg1: u64) -> Result<u32, Error> {
    let call = Call {
        cmd,
        domid: DOMID_SELF,
        arg0,
        arg1,
    };
    match decide(sim, &call, 1)? {
        Outcome::Value(value) => Ok(value),
        Outcome::Deferred(job) => panic!("{job:?}"),
    }
}

#[test]
fn the_lock_retains_what_is_shared() {
    let sim = &Sim::new(true);
    assert_eq!(call(sim, XENVMF_share, 0x52010, 4), Ok(0));
    fuse::protect(sim, 1).expect("protected");
    // After the directmap has lost it: the lock maps it again.
    assert_eq!(call(sim, XENVMF_share, 0x52300, 2), Ok(0));
    assert!(!sim.memory.readable(dm(0x52300)) && sim.memory.readable(dm(0x52010)));
    // One that is stale by the time of the lock.
    assert_eq!(call(sim, XENVMF_share, 0x52380, 1), Ok(0));
    let root = sim.doms.borrow()[&1].domain.root;
    sim.map_guest(&root, 0x52380, 3, model::machine::S2_RAM | 0x52381 << 12);

    // dom0's root has room for more than what the hardware translates.
    let last = (1 << (44 - 12)) - 1;
    sim.change(0, |dom| dom.domain.root.input_bits = 44);
    let root = sim.doms.borrow()[&0].domain.root;
    let device = (P2mType::MmioC as u64) << 55 | 0x8000 << 12 | 0b11;
    sim.map_guest(&root, last, 3, device);
    sim.map_guest(&root, last + 1, 3, device);

    // What is refused leaves nothing mapped.
    let before = sim.picture();
    sim.freeze_fails.set(true);
    let refused = fuse::lock(sim, Seal::None, &mut |_, _| ());
    assert_eq!(refused.err(), Some(Error::TooManyDomains));
    assert!(before == sim.picture());
    sim.freeze_fails.set(false);

    let mut parts = BTreeMap::new();
    let frozen = fuse::lock(sim, Seal::None, &mut |domain, part| {
        parts.insert(domain.id, part);
    })
    .expect("locked");
    for mfn in sim.owned(1) {
        let shared = (0x52010..0x52014).contains(&mfn) || (0x52300..0x52302).contains(&mfn);
        assert_eq!(sim.memory.readable(dm(mfn)), shared, "{mfn:#x}");
    }
    let part = parts[&1];
    let extent = |frame, pages| GuestExtent {
        gfn: Gfn::new(frame),
        mfn: Mfn::new(frame),
        pages,
        p2m_type: P2mType::RamRw,
    };
    assert_eq!(
        frozen.snapshot[part.first..][..part.len],
        [extent(0x52010, 4), extent(0x52300, 2)]
    );
    let answer = |id, gfn| {
        let part = parts[&id];
        let own = &frozen.snapshot[part.first..][..part.len];
        snapshot::lookup(own, Gfn::new(gfn)).mfn
    };
    assert_eq!(answer(1, 0x52301), Some(Mfn::new(0x52301)));
    assert_eq!(answer(1, 0x52380), None);
    assert_eq!(answer(1, 0x52400), None);
    assert_eq!(answer(0, last), Some(Mfn::new(0x8000)));
    assert_eq!(answer(0, last + 1), None);
    assert!(sim.ops().contains(&Op::Freeze));
    assert_eq!(
        call(
            sim,
            XENVMF_status,
            XENVMF_status_domain_shared_pages.into(),
            0
        ),
        Ok(6)
    );
    assert_eq!(call(sim, XENVMF_share, 0x52020, 1), Err(Error::Locked));
}
