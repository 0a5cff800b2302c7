//! The fuse blown at boot (`vmf=`), before any guest runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::shared;
use super::{CANARY, Group, LINUX, dom0_goes_on, ends, guests_go_on, state_is, status};
use crate::lab::audit;
use crate::lab::demux::Source;
use crate::lab::images::Images;
use crate::lab::profile::{Cpu, Guest, Profile, Scheduler, Xen};
use crate::lab::session::{BOOT, Session};

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "boot-unmap",
        system: |profile| system(profile, "vmf=unmap"),
        tests: &[
            ("blown-before-any-guest-runs", |s| {
                reported(
                    s,
                    &[(0, "unprotected"), (LINUX, "unmap"), (CANARY, "unmap")],
                )
            }),
            ("the-guest-knows", knows),
            ("holds", |s| {
                state_is(s, "unmapped")?;
                holds(s, "booted", Level::Unmap)
            }),
            ("dom0-locks", lock),
        ],
    },
    Group {
        name: "boot-permissive",
        system: |profile| system(profile, "vmf=seal,permissive"),
        tests: &[("domains-are-started-and-it-is-told", permissive)],
    },
];

/// A case that boots its own machines, because no dom0 comes up on them.
pub struct Own {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Images, &Profile, &Path) -> Result<()>,
    /// The Xens that it boots, from that of the `test` profile.
    pub xens: fn(Xen) -> Vec<Xen>,
}

/// Those of this file.
pub const OWN: &[Own] = &[
    Own {
        name: "lab/boot-strict/no-domain-is-started",
        run: strict,
        xens: |xen| vec![xen, Xen { its: true, ..xen }],
    },
    Own {
        name: "lab/boot-without-dom0/seal",
        run: seal,
        xens: release,
    },
    Own {
        name: "lab/boot-without-dom0/lock-with-one-outside",
        run: lock_but_one,
        xens: |xen| vec![Xen { debug: true, ..xen }],
    },
    Own {
        name: "lab/boot-without-dom0/lock-with-shared-pages",
        run: lock_sharing,
        xens: release,
    },
    Own {
        name: "lab/boot-insist/no-work-unprotected",
        run: insist,
        xens: |xen| vec![xen, Xen { fuse: false, ..xen }],
    },
    Own {
        name: "lab/boot-permissive/words-are-told",
        run: words,
        xens: release,
    },
];

/// The Xen of the `test` profile.
pub fn release(xen: Xen) -> Vec<Xen> {
    vec![xen]
}

/// Words of `vmf=`, and what Xen says of them where there is a dom0.
const REFUSED: [(&str, &str); 3] = [
    ("vmf=unmap,fast", "\"fast\" is not known"),
    ("vmf=unmap,keep-firmware-calls", "wants a level"),
    ("vmf=lock", "with a dom0"),
];
/// The same without one, on a machine that lacks a CPU.
const OFFLINE: (&str, &str) = ("vmf=lock", "CPUs are not online");
/// And on one with an ITS.
const ITS: (&str, &str) = ("vmf=lock", "cannot be locked: an ITS is in use");
/// A system without dom0. With `conswitch=ax` nobody gets the console's input,
/// whose output Xen would not mark as a domain's.
pub const ALONE: &str = "dts/system-without-dom0.dts";

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
pub fn reported(session: &mut Session, domains: &[(u16, &str)]) -> Result<()> {
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
        let at = lines.iter().position(|(_, text)| text.starts_with(&wanted));
        ensure!(
            at.is_some_and(|at| at < first),
            "\"{wanted}\" is not before the first line of a domain: {at:?}, {first}"
        );
    }
    let lines = lines.iter().filter(|(source, _)| *source == Source::Xen);
    let lines = lines.filter(|(_, text)| text.starts_with("VMF: boot: d"));
    let parsed: Option<Vec<Line>> = lines.map(|(_, text)| Line::parse(text)).collect();
    let parsed = parsed.context("a line of the report is not as documented")?;
    let mut found: Vec<u16> = parsed.iter().map(|line| line.id).collect();
    let mut wanted: Vec<u16> = domains.iter().map(|(id, _)| *id).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    ensure!(
        found == wanted,
        "one line for each domain is wanted, there are {parsed:?}"
    );
    Ok(())
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    id: u16,
    level: String,
    pages: u64,
}

impl Line {
    /// `VMF: boot: d<id> <level>, <n> pages shared`, and nothing else.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("VMF: boot: d")?;
        let (id, rest) = rest.split_once(' ')?;
        let (level, rest) = rest.split_once(", ")?;
        let pages = rest.strip_suffix(" pages shared")?;
        let known = ["unprotected", "unmap", "lock", "seal"];
        known.contains(&level).then_some(())?;
        Some(Self {
            id: id.parse().ok()?,
            level: level.to_owned(),
            pages: pages.parse().ok()?,
        })
    }
}

fn knows(session: &mut Session) -> Result<()> {
    let line = session.wait_domain(CANARY, "canary: status: ", BOOT)?;
    ensure!(line.trim().ends_with(": 1"), "the canary says: {line}");
    Ok(())
}

/// The level is what the machine's memory says, and the guests go on.
pub fn holds(session: &mut Session, name: &str, level: Level) -> Result<()> {
    let protected = protected(&session.report.profile);
    let moment = session.moment(name, &protected)?;
    audit::must_hold(&audit::check(&moment, level)?)?;
    guests_go_on(session)
}

/// Ids of the domains that do not stay outside.
pub fn protected(profile: &Profile) -> Vec<u16> {
    let domains = (1..).zip(&profile.domains);
    let inside = domains.filter(|(_, domain)| !domain.unprotected);
    inside.map(|(id, _)| id).collect()
}

/// What was protected before it ever ran, dom0 locks when it is up.
fn lock(session: &mut Session) -> Result<()> {
    session.must("vmfctl lock --yes")?;
    state_is(session, "locked")?;
    holds(session, "locked", Level::Lock)?;
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

/// With a word that is wrong, or something in the way, nobody runs.
fn strict(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for (words, said) in REFUSED.into_iter().chain([OFFLINE, ITS]) {
        let mut profile = base.clone();
        profile.name = "boot-strict".to_owned();
        system(&mut profile, words);
        if [OFFLINE, ITS].contains(&(words, said)) {
            profile.device_tree = ALONE.to_owned();
        }
        profile.dead_cpus = u32::from((words, said) == OFFLINE);
        profile.xen.its = (words, said) == ITS;
        let mut session = Session::boot(images, &profile, lab, false)?;
        session.wait_xen(said, BOOT)?;
        nobody_runs(&mut session, words)?;
        session.finish()?;
    }
    Ok(())
}

/// Xen says that it starts no domain, and starts none.
pub fn nobody_runs(session: &mut Session, why: &str) -> Result<()> {
    session.wait_xen("no domain is started", BOOT)?;
    // Long enough for the canary to say hello, which it does otherwise.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let spoke = session.look(|seen| {
        let lines = seen.streams.lines.iter();
        let mut domains = lines.filter(|line| line.source != Source::Xen);
        let first = domains.next().map(|line| line.text.clone());
        let dom0 = || seen.streams.dom0.contains("Linux version");
        first.or_else(|| dom0().then(|| "dom0".to_owned()))
    })?;
    ensure!(spoke.is_none(), "{why}: a domain runs: {spoke:?}");
    Ok(())
}

/// A guest that relies on being protected finds that it is; that it is not, with
/// `permissive`; and that this Xen does not know the fuse. Then it does nothing.
fn insist(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for (words, fuse, answer) in [
        ("vmf=lock", true, "insist: 1"),
        ("vmf=lock,fast,permissive", true, "insist: 0: not protected"),
        ("vmf=lock", false, "insist: -38 ENOSYS: not protected"),
    ] {
        let mut profile = base.clone();
        profile.name = "boot-insist".to_owned();
        profile.device_tree = ALONE.to_owned();
        profile.xen.fuse = fuse;
        profile.xen_arguments = format!("{words} conswitch=ax");
        profile.domains.retain(|d| d.guest == Guest::Canary);
        profile.domains[0].arguments += " insist";
        if !fuse {
            // Nor does it know the properties.
            profile.domains[0].share = vec![shared::CANARY_PAGES];
            profile.overlay =
                "/ { chosen { vmf-protected; domU1 { vmf-unprotected; }; }; };".to_owned();
        }
        let mut session = Session::boot(images, &profile, lab, false)?;
        let line = session.wait_domain(1, "canary: insist: ", BOOT)?;
        ensure!(line.contains(answer), "{words}: {line}, not {answer}");
        if answer == "insist: 1" {
            session.beats(1, 1)?;
        } else {
            // Long enough for two heartbeats.
            std::thread::sleep(std::time::Duration::from_secs(3));
            let lines = session.domain_lines(1)?;
            ensure!(
                lines.last() == Some(&line),
                "{words}: it goes on: {lines:?}"
            );
        }
        session.finish()?;
    }
    Ok(())
}

/// The same where it is told to go on: on whichever side of the wrong word that
/// stands, and with a CPU that is not there.
fn words(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for (words, said, dead_cpus) in [
        ("vmf=unmap,fast,permissive", "\"fast\" is not known", 0),
        ("vmf=permissive,unmap,fast", "\"fast\" is not known", 0),
        ("vmf=permissive", "wants a level", 0),
        ("vmf=lock,permissive", OFFLINE.1, 1),
    ] {
        let mut profile = base.clone();
        profile.name = "boot-words".to_owned();
        profile.device_tree = ALONE.to_owned();
        profile.xen_arguments = format!("{words} conswitch=ax");
        profile.domains.retain(|d| d.guest == Guest::Canary);
        profile.dead_cpus = dead_cpus;
        let mut session = Session::boot(images, &profile, lab, false)?;
        session.wait_xen(said, BOOT)?;
        // What was done before the lock was refused stays.
        let level = if dead_cpus == 0 {
            "unprotected"
        } else {
            "unmap"
        };
        unfused(&mut session, level)?;
        session.finish()?;
    }
    Ok(())
}

/// Xen says that the fuse is not blown, or in part, and starts all domains.
pub fn unfused(session: &mut Session, level: &str) -> Result<()> {
    session.wait_xen("the fuse is NOT blown", BOOT)?;
    session.beats(1, 1)?;
    reported(session, &[(1, level)])
}

/// Sealed by itself, with nobody there to ask for it.
fn seal(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut profile = base.clone();
    profile.name = "boot-without-dom0-seal".to_owned();
    profile.device_tree = ALONE.to_owned();
    system(&mut profile, "vmf=seal conswitch=ax");
    let mut session = Session::boot(images, &profile, lab, false)?;
    session.beats(CANARY, 1)?;
    reported(&mut session, &[(LINUX, "seal"), (CANARY, "seal")])?;
    knows(&mut session)?;
    session.beats(LINUX, 1)?;
    holds(&mut session, "booted", Level::Seal)?;
    finish(session)
}

/// One domain stays outside; the smaller CPU, one vCPU on each.
fn lock_but_one(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut profile = base.clone();
    profile.name = "boot-without-dom0-lock".to_owned();
    profile.device_tree = ALONE.to_owned();
    profile.cpu = Cpu::CortexA53;
    profile.scheduler = Scheduler::Null;
    profile.xen.debug = true;
    profile.directmap = false;
    system(&mut profile, "vmf=lock,strict conswitch=ax");
    for domain in &mut profile.domains {
        domain.unprotected = domain.guest == Guest::Linux;
    }
    let mut session = Session::boot(images, &profile, lab, false)?;
    session.beats(CANARY, 1)?;
    reported(&mut session, &[(LINUX, "unprotected"), (CANARY, "lock")])?;
    knows(&mut session)?;
    session.beats(LINUX, 1)?;
    holds(&mut session, "booted", Level::Lock)?;
    finish(session)
}

/// A canary whose pages for hypercalls the device tree shares, and one without:
/// neither ever ran unprotected.
fn lock_sharing(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut profile = base.clone();
    profile.name = "boot-without-dom0-shared".to_owned();
    profile.device_tree = ALONE.to_owned();
    profile.domains.retain(|d| d.guest == Guest::Canary);
    let (first, second) = (1, 2);
    for domain in &mut profile.domains {
        domain.arguments += " areas@1 bounce@2";
    }
    let mut without = profile.domains.clone();
    profile.domains[0].share = vec![shared::CANARY_PAGES];
    profile.domains.append(&mut without);
    profile.xen_arguments = "vmf=lock conswitch=ax".to_owned();
    let mut session = Session::boot(images, &profile, lab, false)?;
    for (id, wanted) in [
        (first, "vcpu_info 0 control 0 array 0"),
        (
            second,
            "vcpu_info -14 EFAULT control -14 EFAULT array -14 EFAULT",
        ),
    ] {
        let line = session.wait_domain(id, "canary: areas: ", BOOT)?;
        ensure!(line.trim().ends_with(wanted), "d{id}: {line}");
        session.wait_lines(id, "canary: bounce: ", shared::LINES, BOOT)?;
    }
    reported(
        &mut session,
        &[
            (first, "lock, 4 pages shared"),
            (second, "lock, 0 pages shared"),
        ],
    )?;
    shared::judge_protected(&session, first, true)?;
    shared::judge_protected(&session, second, false)?;
    session.beats_of(&[first, second], 2)?;
    finish(session)
}

/// Ends a good run.
pub fn finish(session: Session) -> Result<()> {
    let folder = session.folder().to_owned();
    session.finish()?;
    crate::lab::suite::remove_dumps(&folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_one_form() {
        let line = Line::parse("VMF: boot: d12 seal, 4 pages shared").unwrap();
        assert_eq!((line.id, line.level.as_str(), line.pages), (12, "seal", 4));
        for wrong in [
            "VMF: boot: d1 seal",
            "VMF: boot: d1 sealed, 0 pages shared",
            "VMF: boot: d lock, 0 pages shared",
            "VMF: boot: d1 lock, 0 pages shared ",
        ] {
            assert_eq!(Line::parse(wrong), None, "{wrong}");
        }
    }
}
