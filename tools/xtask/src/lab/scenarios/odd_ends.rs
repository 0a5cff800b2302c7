//! How a domain ends of itself, without a toolstack: hypercalls with pointers
//! are refused where Xen cannot read the domain's memory.

use std::time::Duration;

use anyhow::{Result, ensure};
use vmf_audit::report::Level;

use super::{ACTION, CANARY, Group, canary_gets, dom0_goes_on, state_is, told};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::profile::Guest;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "odd-ends",
    system: |profile| {
        profile.dom0.vcpus = 4;
        profile.deadline = 420;
        profile
            .domains
            .retain(|domain| domain.guest == Guest::Canary);
        for domain in &mut profile.domains {
            domain.arguments += " size=2M";
        }
        let canary = profile.domains.clone();
        for _ in [CANARY, CRASHES, WATCHED] {
            profile.domains.extend(canary.iter().cloned());
        }
    },
    tests: &[
        ("blow", blow),
        ("crash-of-an-unprotected-domu", crash),
        ("watchdog-of-an-unprotected-domu", watchdog),
        ("none-of-it-in-a-protected-domu", refused),
        ("still-locked", still_locked),
    ],
}];

/// An unprotected domain that crashes.
const CRASHES: u16 = 3;
/// An unprotected domain that has a watchdog.
const WATCHED: u16 = 4;

/// The domain's canary says nothing any more.
fn silent(session: &mut Session, id: u16) -> Result<()> {
    let last = session.pulse(id)?;
    std::thread::sleep(Duration::from_secs(4));
    let now = session.pulse(id)?;
    ensure!(now == last, "domain {id} goes on: {last:?}, then {now:?}");
    session.beats(CANARY, 1)?;
    dom0_goes_on(session)
}

/// A hypercall that does not come back.
fn crash(session: &mut Session) -> Result<()> {
    session.beats(CRASHES, 1)?;
    session.type_to_domain(CRASHES, "shutdown:3")?;
    std::thread::sleep(Duration::from_secs(4));
    let lines = session.domain_lines(CRASHES)?;
    let came_back = lines.iter().find(|line| line.contains("canary: shutdown:"));
    ensure!(came_back.is_none(), "shutdown:3 comes back: {came_back:?}");
    silent(session, CRASHES)
}

/// A watchdog that is set, and that nobody feeds.
fn watchdog(session: &mut Session) -> Result<()> {
    session.beats(WATCHED, 1)?;
    let lines = told(session, WATCHED, "watchdog:2", 1)?;
    ensure!(lines[0].trim() == "1", "watchdog: {lines:?}");
    let bites = format!("Watchdog timer fired for domain {WATCHED}");
    session.wait_xen(&bites, ACTION)?;
    silent(session, WATCHED)
}

fn blow(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[CANARY])?;
    state_is(session, "locked")
}

fn refused(session: &mut Session) -> Result<()> {
    canary_gets(session, "shutdown:3", "-14 EFAULT")?;
    canary_gets(session, "shutdown:2", "-14 EFAULT")?;
    canary_gets(session, "watchdog:2", "-14 EFAULT")?;
    session.beats(CANARY, 4)?;
    // Xen 4.20 does not suspend domUs by PSCI, protected or not.
    canary_gets(session, "suspend", "-1 EPERM")?;
    session.beats(CANARY, 1).map(drop)
}

fn still_locked(session: &mut Session) -> Result<()> {
    state_is(session, "locked")?;
    let moment = session.moment("end", &[CANARY])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)
}
