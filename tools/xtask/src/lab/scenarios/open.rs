//! A system whose fuse is not blown: refusals, each with its own error, and
//! everything as before afterwards.

use anyhow::{Result, ensure};
use vmf_audit::report::Level;

use super::{CANARY, Group, LINUX, canary, canary_gets, canary_line, ends, guests_go_on};
use super::{state_is, unchanged};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "open",
        system: unchanged,
        tests: &[
            ("domu-may-only-ask-for-itself", unprivileged),
            ("domu-cannot-protect-or-lock", domu_cannot),
            ("dom0-cannot-be-protected", protect_dom0),
            ("unknown-domain", unknown_domain),
            ("lock-with-nothing-protected", lock_nothing),
            ("blow-needs-a-yes", needs_yes),
            ("refusals-change-nothing", still_open),
            ("protect-one-domain", protect_one),
            ("protect-twice", protect_twice),
            ("reboot-of-an-unprotected-domu", poweroff_unprotected),
        ],
    },
    Group {
        name: "set-way-before",
        system: |profile| {
            // 40-bit addresses: stage 2 starts at level 1, so an invalidated
            // root hides nearly the whole guest.
            profile.cpu = crate::lab::profile::Cpu::CortexA53;
        },
        tests: &[("blow-after-set-way-maintenance", set_way)],
    },
];

fn unprivileged(session: &mut Session) -> Result<()> {
    session.beats(CANARY, 1)?;
    // The positive: it may ask for itself.
    canary_gets(session, "status", "0")?;
    canary_gets(session, "status:0", "-1 EPERM")?;
    canary_gets(session, &format!("status:{LINUX}"), "-1 EPERM")
}

fn domu_cannot(session: &mut Session) -> Result<()> {
    canary_gets(session, "protect", "-1 EPERM")?;
    canary_gets(session, &format!("protect:{LINUX}"), "-1 EPERM")?;
    canary_gets(session, "protect:0", "-1 EPERM")?;
    canary_gets(session, "lock", "-1 EPERM")?;
    state_is(session, "open")
}

fn protect_dom0(session: &mut Session) -> Result<()> {
    ends(session, "vmfctl protect --yes 0", 1, &["control"])?;
    ends(session, "vmfctl blow --yes 0", 1, &["control"])?;
    state_is(session, "open")
}

fn unknown_domain(session: &mut Session) -> Result<()> {
    let output = session.run("vmfctl protect --yes 77")?;
    ensure!(
        output.code != 0 && output.text.contains("77"),
        "vmfctl protect 77: exit code {}: {}",
        output.code,
        output.line()
    );
    state_is(session, "open")
}

fn lock_nothing(session: &mut Session) -> Result<()> {
    ends(session, "vmfctl lock --yes", 1, &["no domain is protected"])?;
    state_is(session, "open")
}

fn needs_yes(session: &mut Session) -> Result<()> {
    ends(session, &format!("vmfctl blow {CANARY}"), 1, &["--yes"])?;
    state_is(session, "open")
}

fn still_open(session: &mut Session) -> Result<()> {
    let ids = experiment::domus(session);
    let moment = session.moment("refused", &ids)?;
    let report = audit::check(&moment, Level::Unmap)?;
    audit::must_be_open(&report.summary, session.report.profile.directmap)?;
    guests_go_on(session)
}

fn protect_one(session: &mut Session) -> Result<()> {
    session.must(&format!("vmfctl protect --yes {CANARY}"))?;
    state_is(session, "unmapped")?;
    canary_gets(session, "status", "1")?;
    let moment = session.moment("protected", &[CANARY])?;
    audit::must_hold(&audit::check(&moment, Level::Unmap)?)?;
    // The negative of the next level: tables are still there.
    audit::must_not_hold(&audit::check(&moment, Level::Lock)?)?;
    guests_go_on(session)
}

fn protect_twice(session: &mut Session) -> Result<()> {
    ends(
        session,
        &format!("vmfctl protect --yes {CANARY}"),
        0,
        &["already"],
    )?;
    canary_gets(session, "protect", "-1 EPERM")?;
    state_is(session, "unmapped")
}

fn poweroff_unprotected(session: &mut Session) -> Result<()> {
    session.type_to_domain(LINUX, "poweroff")?;
    session.wait_domain(LINUX, "Power down", super::ACTION)?;
    session.beats(CANARY, 2)?;
    state_is(session, "unmapped")
}

fn set_way(session: &mut Session) -> Result<()> {
    session.beats(CANARY, 1)?;
    let line = canary(session, "setway")?;
    ensure!(line.contains("operations"), "canary: setway: {line}");
    let outcome = experiment::experiment(session)?;
    for claim in outcome.claims(session.report.profile.directmap) {
        ensure!(claim.held, "{}: {}", claim.text, claim.seen);
    }
    // Once more, on the locked machine: refused, or the guest alone suffers.
    let lines = canary_line(session, "setway", 1)?;
    ensure!(!lines.is_empty(), "the canary is silent");
    session.beats(CANARY, 1).map(drop)
}
