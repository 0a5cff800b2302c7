//! `vmf_op`: every command, what it wants, what it refuses and with which
//! errno, and that deciding changes nothing.

mod model;

use model::machine::Sim;
use xen_vmf::error::Error;
use xen_vmf::fuse;
use xen_vmf::hypercall::{Call, DOMID_INVALID, DOMID_SELF, Job, Outcome, decide};
use xen_vmf::hypercall::{is_known, needs_privilege};
use xen_vmf::machine::DomainFlags;
use xen_vmf::policy::Seal;
use xen_vmf_abi::*;

fn call(sim: &Sim, cmd: u32, domid: u32, arg0: u64, arg1: u64) -> Result<Outcome, Error> {
    let call = Call {
        cmd,
        domid,
        arg0,
        arg1,
    };
    let before = sim.picture();
    let ops = sim.ops();
    let result = decide(sim, &call, 0);
    assert!(
        before == sim.picture() && ops == sim.ops(),
        "{call:?} changes something"
    );
    result
}

fn value(n: u32) -> Result<Outcome, Error> {
    Ok(Outcome::Value(n))
}

#[test]
fn privilege_and_known_commands() {
    for cmd in 0..10 {
        assert_eq!(is_known(cmd), cmd <= 8);
        for (domid, own) in [
            (DOMID_SELF, true),
            (3, true),
            (4, false),
            (DOMID_INVALID, false),
        ] {
            let call = Call {
                cmd,
                domid,
                arg0: 0,
                arg1: 0,
            };
            let free = [XENVMF_status, XENVMF_version, XENVMF_share].contains(&cmd) && own;
            assert_eq!(needs_privilege(&call, 3), !free, "{call:?}");
        }
    }
    assert!(!is_known(u32::MAX));
    let sim = Sim::new(false);
    assert_eq!(call(&sim, 9, DOMID_SELF, 0, 0), Err(Error::UnknownCommand));
}

#[test]
fn version() {
    let sim = Sim::new(false);
    let version = value(XENVMF_INTERFACE_VERSION);
    assert_eq!(call(&sim, XENVMF_version, DOMID_SELF, 0, 0), version);
    for (domid, arg0, arg1) in [
        (0, 0, 0),
        (DOMID_INVALID, 0, 0),
        (DOMID_SELF, 1, 0),
        (DOMID_SELF, 0, 1),
    ] {
        let result = call(&sim, XENVMF_version, domid, arg0, arg1);
        assert_eq!(result, Err(Error::Invalid));
    }
}

#[test]
fn wrong_domains_and_arguments() {
    let sim = Sim::new(false);
    for cmd in [XENVMF_preflight, XENVMF_protect, XENVMF_status] {
        let arg0 = if cmd == XENVMF_status { 16 } else { 0 };
        for domid in [2, 4, 6, 0x7fef] {
            assert_eq!(call(&sim, cmd, domid, arg0, 0), Err(Error::NoDomain));
        }
        for domid in [0x7ff1, 0x7ff2, 0x7ff3, 0x7fff, 0x8000, 0x1_0001, u32::MAX] {
            assert_eq!(
                call(&sim, cmd, domid, arg0, 0),
                Err(Error::Invalid),
                "{cmd} {domid:#x}"
            );
        }
    }
    for cmd in [
        XENVMF_protect,
        XENVMF_lock,
        XENVMF_counters,
        XENVMF_next_domain,
    ] {
        assert_eq!(
            call(&sim, cmd, DOMID_INVALID, 1 << 40, 7),
            Err(Error::Invalid)
        );
    }
    for (cmd, domid) in [(XENVMF_protect, 1), (XENVMF_lock, DOMID_INVALID)] {
        assert_eq!(call(&sim, cmd, domid, 1, 0), Err(Error::Invalid));
        assert_eq!(call(&sim, cmd, domid, 0, 1), Err(Error::Invalid));
    }
    for cmd in [XENVMF_lock, XENVMF_counters, XENVMF_next_domain] {
        assert_eq!(call(&sim, cmd, 1, 0, 0), Err(Error::Invalid));
        assert_eq!(call(&sim, cmd, DOMID_SELF, 0, 0), Err(Error::Invalid));
    }
    assert_eq!(
        call(&sim, XENVMF_protect, DOMID_INVALID, 0, 0),
        Err(Error::Invalid)
    );
}

#[test]
fn preflight_counts_each_obstacle() {
    let sim = Sim::new(false);
    let ask = |domid, obstacle: u32| call(&sim, XENVMF_preflight, domid, obstacle.into(), 0);
    for obstacle in 0..XENVMF_obstacle_end + 2 {
        let domain = obstacle <= XENVMF_obstacle_protected;
        let expected = if domain {
            value(0)
        } else {
            Err(Error::Invalid)
        };
        assert_eq!(ask(1, obstacle), expected, "{obstacle}");
        let machine = !domain && obstacle < XENVMF_obstacle_end;
        assert_eq!(ask(DOMID_INVALID, obstacle).is_ok(), machine, "{obstacle}");
    }
    sim.change(1, |d| {
        d.obstacles.pv_pages = 3;
        d.obstacles.shared_pages = u32::MAX;
        d.obstacles.devices = 5;
        d.domain.flags = DomainFlags::DYING;
    });
    sim.offline.set(2);
    sim.its.set(true);
    let found = [
        (1, XENVMF_obstacle_pv_pages, 3),
        (1, XENVMF_obstacle_shared_pages, 0x7fff_ffff),
        (1, XENVMF_obstacle_devices, 5),
        (1, XENVMF_obstacle_dying, 1),
        (1, XENVMF_obstacle_unfinished, 1),
        (DOMID_SELF, XENVMF_obstacle_control_domain, 1),
        (DOMID_INVALID, XENVMF_obstacle_cpus_offline, 2),
        (DOMID_INVALID, XENVMF_obstacle_its, 1),
        (DOMID_INVALID, XENVMF_obstacle_nothing_protected, 1),
        (DOMID_INVALID, XENVMF_obstacle_locked, 0),
    ];
    for (domid, obstacle, count) in found {
        assert_eq!(ask(domid, obstacle), value(count), "{obstacle}");
    }
    let stray = ask(DOMID_INVALID, XENVMF_obstacle_stage2_leaves);
    assert_eq!(stray, Ok(Outcome::Deferred(Job::CountStray)));
    let large = call(&sim, XENVMF_preflight, 1, 1 << 32, 0);
    assert_eq!(large, Err(Error::Invalid));
    assert_eq!(call(&sim, XENVMF_preflight, 1, 0, 1), Err(Error::Invalid));
}

#[test]
fn protect_and_lock_are_deferred_after_the_preflight() {
    let sim = Sim::new(false);
    let protect = |domid| call(&sim, XENVMF_protect, domid, 0, 0);
    let lock = || call(&sim, XENVMF_lock, DOMID_INVALID, 0, 0);
    assert_eq!(protect(DOMID_SELF), Err(Error::ControlDomain));
    assert_eq!(protect(1), Ok(Outcome::Deferred(Job::Protect(1))));
    assert_eq!(lock(), Err(Error::Nothing));
    fuse::protect(&sim, 1).expect("protected");
    assert_eq!(protect(1), Err(Error::Done));
    assert_eq!(lock(), Ok(Outcome::Deferred(Job::Lock(Seal::None))));
    let seal = |flags| call(&sim, XENVMF_seal, DOMID_INVALID, flags, 0);
    let keep = u64::from(XENVMF_seal_keep_firmware_calls);
    let deferred = |seal| Ok(Outcome::Deferred(Job::Lock(seal)));
    assert_eq!(seal(0), deferred(Seal::Full));
    assert_eq!(seal(keep), deferred(Seal::KeepFirmwareCalls));
    assert_eq!(seal(2), Err(Error::Invalid));
    sim.needs_firmware.set(true);
    assert_eq!(seal(0), Err(Error::NeedsFirmware));
    assert_eq!(seal(keep), deferred(Seal::KeepFirmwareCalls));
    sim.its.set(true);
    assert_eq!(lock(), Err(Error::Its));
}

#[test]
fn a_job_survives_its_way_to_the_tasklet() {
    let seals = [Seal::None, Seal::KeepFirmwareCalls, Seal::Full];
    let jobs = seals.map(Job::Lock).into_iter();
    let ids = [0, 1, 0x7fef].map(Job::Protect);
    for job in jobs.chain(ids).chain([Job::CountStray]) {
        assert_ne!(job.encode(), 0);
        assert_eq!(Job::decode(job.encode()), Some(job));
    }
    assert_eq!(Job::decode(0), None);
    assert_eq!(Job::decode(u64::MAX), None);
}

#[test]
fn status_items() {
    let sim = Sim::new(true);
    let ask = |domid, item: u32| call(&sim, XENVMF_status, domid, item.into(), 0);
    let machine = |item| ask(DOMID_INVALID, item);
    assert_eq!(machine(XENVMF_status_state), value(XENVMF_state_open));
    assert_eq!(ask(1, XENVMF_status_domain_state), value(XENVMF_state_open));
    fuse::protect(&sim, 1).expect("protected");
    assert_eq!(machine(XENVMF_status_state), value(XENVMF_state_unmapped));
    assert_eq!(machine(XENVMF_status_protected_domains), value(1));
    let both = XENVMF_feature_directmap | XENVMF_feature_debug;
    assert_eq!(machine(XENVMF_status_features), value(both));
    sim.has_reset.set(true);
    let with_reset = value(both | XENVMF_feature_reset);
    assert_eq!(machine(XENVMF_status_features), with_reset);
    sim.has_reset.set(false);
    sim.boot_failed.set(true);
    let failed = value(both | XENVMF_feature_boot_failed);
    assert_eq!(machine(XENVMF_status_features), failed);
    assert_eq!(machine(XENVMF_status_xenheap_start), value(0x4200_0000));
    assert_eq!(machine(XENVMF_status_xenheap_bytes), value(32 << 20));
    assert_eq!(machine(XENVMF_status_xenheap_free), value(0x1234 << 12));
    assert_eq!(ask(1, XENVMF_status_domain_protected), value(1));
    assert_eq!(
        ask(1, XENVMF_status_domain_state),
        value(XENVMF_state_unmapped)
    );
    assert_eq!(ask(5, XENVMF_status_domain_state), value(XENVMF_state_open));
    assert_eq!(ask(1, XENVMF_status_domain_pages), value(0x404));
    for (domid, yes) in [(DOMID_SELF, 1), (1, 0)] {
        assert_eq!(ask(domid, XENVMF_status_domain_control), value(yes));
        assert_eq!(ask(domid, XENVMF_status_domain_hardware), value(yes));
    }
    assert_eq!(ask(1, XENVMF_status_domain_undecoded), value(3));
    assert_eq!(
        ask(1, XENVMF_status_domain_undecoded_pc),
        value(0x4000_0001)
    );
    for item in 0..30 {
        assert_eq!(machine(item).is_ok(), item < 7, "{item}");
        assert_eq!(ask(1, item).is_ok(), (16..=24).contains(&item), "{item}");
    }
}

#[test]
fn values_come_in_words_of_31_bits() {
    let sim = Sim::new(false);
    let item = XENVMF_counter_window_tlbi.into();
    let word = |w| call(&sim, XENVMF_counters, DOMID_INVALID, item, w);
    assert_eq!(word(0), value(1));
    assert_eq!(word(1), value(3));
    assert_eq!(word(2), value(0));
    assert_eq!(word(3), Err(Error::Invalid));
    assert_eq!(word(u64::MAX), Err(Error::Invalid));
    for counter in 0..XENVMF_counter_end + 2 {
        let result = call(&sim, XENVMF_counters, DOMID_INVALID, counter.into(), 0);
        assert_eq!(result.is_ok(), counter < XENVMF_counter_end, "{counter}");
    }
}

#[test]
fn domains_are_enumerated_to_the_end() {
    let sim = Sim::new(false);
    let next = |from| call(&sim, XENVMF_next_domain, DOMID_INVALID, from, 0);
    assert_eq!(next(0), value(0));
    assert_eq!(next(1), value(1));
    assert_eq!(next(2), value(5));
    for from in [6, 0x7ff0, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        assert_eq!(next(from), Err(Error::Nothing));
    }
}
