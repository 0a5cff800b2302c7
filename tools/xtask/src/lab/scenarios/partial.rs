//! Blows that are early, partial, or on a system that is not complete.

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::unchanged;
use super::{
    CANARY, Group, LINUX, canary, canary_gets, dom0_goes_on, ends, guests_go_on, state_is,
};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::profile::{Cpu, Guest};
use crate::lab::session::{BOOT, Session};

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "booting",
        system: |profile| {
            // A kernel that says everything over its emulated UART boots long
            // after dom0.
            for domain in &mut profile.domains {
                if domain.guest == Guest::Linux {
                    domain.arguments += " ignore_loglevel initcall_debug";
                }
            }
        },
        tests: &[("blow-while-a-guest-boots", booting)],
    },
    Group {
        name: "one-of-two",
        system: unchanged,
        tests: &[
            ("frames-that-no-guest-comes-to", unreachable),
            ("blow-one-domain", blow_one),
            ("the-other-is-refused", other_refused),
            ("the-other-goes-on", other_goes_on),
        ],
    },
    Group {
        name: "areas-outside",
        system: |profile| profile.directmap = true,
        tests: &[("areas-in-pages-that-are-gone", areas_outside)],
    },
    Group {
        name: "cpus-offline",
        system: |profile| {
            profile.cpus = 2;
            profile.dead_cpus = 1;
        },
        tests: &[("lock-is-refused", cpus_offline)],
    },
    Group {
        name: "devices",
        system: unchanged,
        tests: &[("a-domain-with-a-device-is-refused", devices)],
    },
    Group {
        name: "gicv2",
        system: |profile| profile.gic = 2,
        tests: &[("blow", gicv2)],
    },
    Group {
        name: "its",
        system: |profile| profile.xen.its = true,
        tests: &[("lock-is-refused", its)],
    },
];

fn booting(session: &mut Session) -> Result<()> {
    // The premise: the guest is not there yet.
    let early = session.pulse(LINUX)?;
    ensure!(
        early.beats == 0,
        "the guest was up before dom0, so nothing is tested"
    );
    experiment::blow(session, &[LINUX, CANARY])?;
    ensure!(
        session.pulse(LINUX)?.beats == 0,
        "the guest was up before the blow, so nothing is tested"
    );
    session.wait_domain(LINUX, "canary-linux: heartbeat", BOOT)?;
    guests_go_on(session)?;
    let moment = session.moment("after", &[LINUX, CANARY])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)
}

/// A page of the Linux domU.
const GFN: &str = "0x42000";
/// Frames of dom0 that hold nothing: one that it comes to, and one beyond the
/// 44 bits of address that VTCR_EL2 gives a guest on a Cortex-A57. Its root at
/// level 0 has room for both.
const PLACES: [&str; 2] = ["0x3c0000", "0x100000005"];

/// Both stay mapped during the blow. What the lock then notes of dom0, the audit
/// compares with what the hardware translates (rule L12).
///
/// `control`, seed 1000 of the hostile guests: dom0 mapped a device's page at
/// such a frame, the snapshot had it, and the hardware's stage 2 did not.
fn unreachable(session: &mut Session) -> Result<()> {
    ensure!(session.report.profile.cpu == Cpu::CortexA57);
    session.beats(CANARY, 1)?;
    for place in PLACES {
        let map = format!("vmf-probe raw-foreign-map {LINUX} {GFN} {place} --stay");
        session.must(&map)?;
    }
    state_is(session, "open")
}

fn blow_one(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    experiment::blow(session, &[CANARY])?;
    let moment = session.moment("after", &[CANARY])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)
}

fn other_refused(session: &mut Session) -> Result<()> {
    let command = format!("vmfctl protect --yes {LINUX}");
    ends(session, &command, 1, &["locked already"])?;
    let command = format!("vmfctl blow --yes {LINUX} {CANARY}");
    ends(session, &command, 1, &["locked already"])?;
    state_is(session, "locked")
}

fn other_goes_on(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    canary_gets(session, "status", "1")?;
    dom0_goes_on(session)
}

fn cpus_offline(session: &mut Session) -> Result<()> {
    // The premise.
    session.wait_xen("Failed to bring up CPU", BOOT)?;
    session.beats(CANARY, 1)?;
    let command = format!("vmfctl blow --yes {CANARY}");
    ends(session, &command, 1, &["not online"])?;
    state_is(session, "open")?;
    session.beats(CANARY, 1).map(drop)
}

/// The frame of QEMU's real-time clock, which Xen does not use.
const CLOCK: &str = "0x9010";

fn devices(session: &mut Session) -> Result<()> {
    session.beats(CANARY, 1)?;
    ends(session, &format!("vmfctl check {CANARY}"), 0, &[])?;
    session.must(&format!("vmf-probe iomem {CANARY} {CLOCK}"))?;
    let refused = &["devices"];
    ends(session, &format!("vmfctl check {CANARY}"), 1, refused)?;
    ends(session, &format!("vmfctl blow --yes {CANARY}"), 1, refused)?;
    state_is(session, "open")?;
    // Without the device, the same command does it.
    session.must(&format!("vmf-probe iomem --deny {CANARY} {CLOCK}"))?;
    experiment::blow(session, &[CANARY])?;
    guests_go_on(session)
}

fn its(session: &mut Session) -> Result<()> {
    // The premise.
    session.wait_xen("Found ITS", BOOT)?;
    session.beats(CANARY, 1)?;
    // An ITS stands in the way of the lock, not of protecting a domain.
    session.must(&format!("vmfctl protect --yes {CANARY}"))?;
    ends(session, "vmfctl lock --yes", 1, &["ITS"])?;
    state_is(session, "unmapped")?;
    guests_go_on(session)
}

fn gicv2(session: &mut Session) -> Result<()> {
    // The premise.
    session.wait_xen("GICv2 initialization", BOOT)?;
    let outcome = experiment::experiment(session)?;
    for claim in outcome.claims(session.report.profile.directmap) {
        ensure!(claim.held, "{}: {}", claim.text, claim.seen);
    }
    Ok(())
}

/// Pages of the canary with areas: the event array, then control block and vcpu_info.
const AREAS: [u64; 2] = [0x4_0202, 0x4_0203];
/// As many that it does without.
const OTHERS: [u64; 2] = [0x4_0201, 0x4_0204];

/// A domain that is not protected has given Xen areas in pages that it has no
/// more: no stage 2 has them, and Xen goes on using them.
fn areas_outside(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    let areas = canary(session, "areas")?;
    ensure!(
        areas.trim() == "vcpu_info 0 control 0 array 0",
        "areas: {areas}"
    );
    let notify = |session: &mut Session| -> Result<()> {
        let line = canary(session, "port:0")?;
        let port = line.trim().strip_prefix("0 port ");
        let port = port.with_context(|| format!("port: {line}"))?;
        session.must(&format!("vmf-probe notify {CANARY} {port}"))?;
        Ok(())
    };
    notify(session)?;
    // The canary looks at them all the time; it finds new ones.
    session.must(&format!("vmf-probe pause {CANARY}"))?;
    for (area, other) in AREAS.into_iter().zip(OTHERS) {
        session.must(&format!("vmf-probe remove {CANARY} {area:#x}"))?;
        session.must(&format!("vmf-probe decrease {CANARY} {other:#x}"))?;
        session.must(&format!("vmf-probe populate {CANARY} {area:#x}"))?;
    }
    session.must(&format!("vmf-probe unpause {CANARY}"))?;
    notify(session)?;
    experiment::blow(session, &[LINUX])?;
    notify(session)?;
    guests_go_on(session)?;
    dom0_goes_on(session)
}
