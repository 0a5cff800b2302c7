//! Pages that a domain shares on purpose: who may name them, that they stay
//! and everything else goes, and that what has moved since is private again.

mod model;

use model::dm;
use model::machine::Sim;
use xen_vmf::addr::Mfn;
use xen_vmf::error::Error;
use xen_vmf::fuse;
use xen_vmf::hypercall::{Call, DOMID_INVALID, DOMID_SELF, Outcome, decide};
use xen_vmf::machine::DomainFlags;
use xen_vmf_abi::*;

/// `vmf_op` as domain `caller` makes it.
fn call(sim: &Sim, caller: u16, cmd: u32, domid: u32, arg0: u64, arg1: u64) -> Result<u32, Error> {
    let call = Call {
        cmd,
        domid,
        arg0,
        arg1,
    };
    match decide(sim, &call, caller)? {
        Outcome::Value(value) => Ok(value),
        Outcome::Deferred(job) => panic!("{job:?}"),
    }
}

fn share(sim: &Sim, caller: u16, domid: u32, gfn: u64, pages: u64) -> Result<u32, Error> {
    call(sim, caller, XENVMF_share, domid, gfn, pages)
}

fn status(sim: &Sim, item: u64) -> Result<u32, Error> {
    call(sim, 1, XENVMF_status, DOMID_SELF, item, 0)
}

#[test]
fn ranges_become_extents_that_status_lists() {
    let sim = Sim::new(false);
    assert_eq!(status(&sim, XENVMF_status_domain_shares.into()), Ok(0));
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52010, 3), Ok(0));
    assert_eq!(share(&sim, 0, 1, 0x90003, 2), Ok(0));
    assert_eq!(status(&sim, XENVMF_status_domain_shares.into()), Ok(2));
    assert_eq!(
        status(&sim, XENVMF_status_domain_shared_pages.into()),
        Ok(5)
    );
    for (i, gfn, pages) in [(0, 0x52010, 3), (1, 0x90003, 2)] {
        let item = |item: u32| u64::from(item) | i << 16;
        assert_eq!(status(&sim, item(XENVMF_status_share_gfn)), Ok(gfn));
        assert_eq!(status(&sim, item(XENVMF_status_share_pages)), Ok(pages));
        assert_eq!(
            status(&sim, item(XENVMF_status_domain_pages)),
            if i == 0 {
                Ok(sim.owned(1).len() as u32)
            } else {
                Err(Error::Invalid)
            }
        );
    }
    let third = u64::from(XENVMF_status_share_gfn) | 2 << 16;
    assert_eq!(status(&sim, third), Err(Error::Nothing));
}

#[test]
fn guest_frames_of_scattered_machine_frames_are_several_extents() {
    let sim = Sim::new(false);
    let root = sim.doms.borrow()[&1].domain.root;
    // 0x52011 swapped with 0x90003.
    sim.map_guest(&root, 0x52011, 3, model::machine::S2_RAM | 0x90003 << 12);
    sim.map_guest(&root, 0x90003, 3, model::machine::S2_RAM | 0x52011 << 12);
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52010, 3), Ok(0));
    let shares = sim.doms.borrow()[&1].shares;
    let found: Vec<_> = shares
        .extents()
        .iter()
        .map(|e| (e.gfn.get(), e.mfn.get(), e.pages))
        .collect();
    let expected = [
        (0x52010, 0x52010, 1),
        (0x52011, 0x90003, 1),
        (0x52012, 0x52012, 1),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_frame_that_no_guest_comes_to_is_not_shared() {
    let sim = Sim::new(false);
    let shorten = |bits| sim.change(1, |dom| dom.domain.root.input_bits = bits);
    // 0x52010 is at 0x5201_0000.
    shorten(30);
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52010, 1), Err(Error::NotRam));
    shorten(31);
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52010, 1), Ok(0));
    let pages = XENVMF_status_domain_shared_pages.into();
    assert_eq!(status(&sim, pages), Ok(1));
    // No hardware changes it, but the list goes by what is there.
    shorten(30);
    let domain = sim.doms.borrow()[&1].domain;
    let kept = xen_vmf::share::true_ones(&sim, &domain).expect("read");
    assert_eq!(kept.pages(), 0);
    shorten(31);
    let domain = sim.doms.borrow()[&1].domain;
    let kept = xen_vmf::share::true_ones(&sim, &domain).expect("read");
    assert_eq!(kept.pages(), 1);
}

#[test]
fn refusals() {
    let sim = Sim::new(false);
    let cases = [
        (1, DOMID_SELF, 0x52010, 0, Error::Invalid),
        (
            1,
            DOMID_SELF,
            0x52000,
            u64::from(XENVMF_share_pages_max) + 1,
            Error::Invalid,
        ),
        (1, DOMID_SELF, u64::MAX, 2, Error::Invalid),
        // Not RAM, partly not RAM, another's, no RAM of its own.
        (1, DOMID_SELF, 0x1000, 1, Error::NotRam),
        (1, DOMID_SELF, 0x523ff, 2, Error::NotRam),
        (1, DOMID_SELF, 0x54000, 1, Error::NotRam),
        (0, 1, 0x1000, 1, Error::NotRam),
        (0, 7, 0x52010, 1, Error::NoDomain),
        (0, DOMID_INVALID, 0x52010, 1, Error::Invalid),
        (0, DOMID_SELF, 0x50000, 1, Error::ControlDomain),
    ];
    for (caller, domid, gfn, pages, error) in cases {
        assert_eq!(
            share(&sim, caller, domid, gfn, pages),
            Err(error),
            "{gfn:#x}"
        );
    }
    assert_eq!(status(&sim, XENVMF_status_domain_shares.into()), Ok(0));
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52010, 4), Ok(0));
    for (gfn, pages) in [(0x52010, 1), (0x5200f, 2), (0x52013, 4)] {
        assert_eq!(share(&sim, 1, DOMID_SELF, gfn, pages), Err(Error::Done));
    }
    // Protected: nobody but the domain itself gives more away.
    fuse::protect(&sim, 1).expect("protected");
    assert_eq!(share(&sim, 0, 1, 0x52020, 1), Err(Error::NotYours));
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52020, 1), Ok(0));
    sim.change(1, |d| d.domain.flags |= DomainFlags::DYING);
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52030, 1), Err(Error::Dying));
}

#[test]
fn no_more_extents_than_the_list_has_room_for() {
    let sim = Sim::new(false);
    for i in 0..u64::from(XENVMF_shares_max) {
        assert_eq!(share(&sim, 1, DOMID_SELF, 0x52000 + 2 * i, 1), Ok(0));
    }
    let next = 0x52000 + 2 * u64::from(XENVMF_shares_max);
    assert_eq!(share(&sim, 1, DOMID_SELF, next, 1), Err(Error::NoSpace));
    assert_eq!(
        status(&sim, XENVMF_status_domain_shares.into()),
        Ok(XENVMF_shares_max)
    );
}

#[test]
fn protect_leaves_what_is_shared_and_takes_what_has_moved() {
    let sim = Sim::new(true);
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52010, 4), Ok(0));
    assert_eq!(share(&sim, 1, DOMID_SELF, 0x52100, 2), Ok(0));
    // One page of the second range has another frame behind it by now.
    let root = sim.doms.borrow()[&1].domain.root;
    sim.map_guest(&root, 0x52101, 3, model::machine::S2_RAM | 0x52200 << 12);
    fuse::protect(&sim, 1).expect("protected");
    for mfn in sim.owned(1) {
        let shared = (0x52010..0x52014).contains(&mfn);
        assert_eq!(sim.memory.readable(dm(mfn)), shared, "{mfn:#x}");
    }
    let kept = sim.doms.borrow()[&1].shares;
    assert_eq!(kept.extents().len(), 1);
    assert!(kept.contains(Mfn::new(0x52010)) && !kept.contains(Mfn::new(0x52100)));
}
