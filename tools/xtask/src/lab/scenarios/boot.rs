//! The fuse blown at boot (`vmf=`), before any guest runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::{CANARY, Group, LINUX, dom0_goes_on, ends, guests_go_on, state_is, status};
use crate::lab::audit;
use crate::lab::demux::Source;
use crate::lab::images::Images;
use crate::lab::profile::{Cpu, Guest, Profile, Scheduler};
use crate::lab::session::{BOOT, Session};

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "boot-seal",
        system: |profile| system(profile, "vmf=seal"),
        tests: &[
            ("blown-before-any-guest-runs", |s| blown(s, "seal")),
            ("the-guest-knows", knows),
            ("holds", |s| holds(s, "sealed", Level::Seal)),
        ],
    },
    Group {
        name: "boot-lock",
        system: |profile| {
            profile.cpu = Cpu::CortexA53;
            profile.scheduler = Scheduler::Null;
            profile.xen.debug = true;
            profile.directmap = false;
            profile.dom0.vcpus = 1;
            system(profile, "vmf=lock,strict");
            for domain in &mut profile.domains {
                domain.unprotected = domain.guest == Guest::Linux;
            }
        },
        tests: &[
            ("blown-before-any-guest-runs", outside),
            ("the-guest-knows", knows),
            ("holds", |s| holds(s, "locked", Level::Lock)),
        ],
    },
    Group {
        name: "boot-permissive",
        system: |profile| {
            // A CPU that is missing is in the way of the lock.
            profile.dead_cpus = 1;
            system(profile, "vmf=lock,permissive");
        },
        tests: &[("domains-are-started-and-it-is-told", permissive)],
    },
];

/// The case that has a boot of its own, because dom0 does not come up.
pub const STRICT: &str = "lab/boot-strict/no-domain-is-started";
/// Words that are not what they should be, and what Xen says of them.
const REFUSED: [(&str, &str); 3] = [
    ("vmf=lock,fast", "\"fast\" is not known"),
    ("vmf=permissiv", "\"permissiv\" is not known"),
    ("vmf=lock,keep-firmware-calls", "wants a level"),
];

/// The canary says at its first heartbeat whether it is protected.
fn system(profile: &mut Profile, words: &str) {
    profile.xen_arguments = words.to_owned();
    for domain in &mut profile.domains {
        if domain.guest == Guest::Canary {
            domain.arguments += " status@1";
        }
    }
}

/// Xen reports each domain before the first of them writes anything.
fn blown(session: &mut Session, level: &str) -> Result<()> {
    reported(session, &[(LINUX, level), (CANARY, level)])
}

fn outside(session: &mut Session) -> Result<()> {
    reported(session, &[(LINUX, "unprotected"), (CANARY, "lock")])
}

fn reported(session: &mut Session, domains: &[(u16, &str)]) -> Result<()> {
    let lines: Vec<(Source, String)> = session.look(|seen| {
        let lines = seen.streams.lines.iter();
        lines.map(|line| (line.source, line.text.clone())).collect()
    })?;
    let first = lines
        .iter()
        .position(|(source, _)| matches!(source, Source::Domain(_)))
        .context("no domain has written anything")?;
    for (id, level) in domains {
        let wanted = format!("VMF: boot: d{id} {level}");
        let at = lines.iter().position(|(_, text)| *text == wanted);
        ensure!(
            at.is_some_and(|at| at < first),
            "\"{wanted}\" is not before the first line of a domain: {at:?}, {first}"
        );
    }
    Ok(())
}

fn knows(session: &mut Session) -> Result<()> {
    let line = session.wait_domain(CANARY, "canary: status: ", BOOT)?;
    ensure!(line.trim().ends_with(": 1"), "the canary says: {line}");
    Ok(())
}

/// The level is what the machine's memory says, and everything goes on.
fn holds(session: &mut Session, state: &str, level: Level) -> Result<()> {
    state_is(session, state)?;
    let domains = session.report.profile.domains.clone();
    let protected: Vec<u16> = (1..)
        .zip(&domains)
        .filter(|(_, domain)| !domain.unprotected)
        .map(|(id, _)| id)
        .collect();
    let moment = session.moment("booted", &protected)?;
    audit::must_hold(&audit::check(&moment, level)?)?;
    guests_go_on(session)?;
    dom0_goes_on(session)
}

fn permissive(session: &mut Session) -> Result<()> {
    session.wait_xen("the fuse is NOT blown", BOOT)?;
    let status = status(session)?;
    ensure!(
        status["boot_failed"] == true && status["state"] != "locked",
        "vmfctl status: {status}"
    );
    ends(session, "vmfctl status", 0, &["was to be blown at boot"])?;
    guests_go_on(session)
}

/// With a word that is wrong, and with something in the way, nobody runs.
pub fn strict(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let offline = ("vmf=lock", "CPUs are not online");
    for (words, said) in REFUSED.into_iter().chain([offline]) {
        let mut profile = base.clone();
        profile.name = "boot-strict".to_owned();
        system(&mut profile, words);
        if words == offline.0 {
            profile.dead_cpus = 1;
        }
        let mut session = Session::boot(images, &profile, lab, false)?;
        session.wait_xen(said, BOOT)?;
        session.wait_xen("no domain is started", BOOT)?;
        // Long enough for the canary to say hello, which it does otherwise.
        std::thread::sleep(std::time::Duration::from_secs(3));
        let spoke = session.look(|seen| {
            let lines = seen.streams.lines.iter();
            let mut domains = lines.filter(|line| line.source != Source::Xen);
            let first = domains.next().map(|line| line.text.clone());
            first.or_else(|| {
                seen.streams
                    .dom0
                    .find("Linux version")
                    .map(|_| "dom0".into())
            })
        })?;
        ensure!(spoke.is_none(), "{words}: a domain runs: {spoke:?}");
        session.finish()?;
    }
    Ok(())
}
