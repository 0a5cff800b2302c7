//! The fuse blown at boot (`vmf=`), before any guest runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::shared;
use super::{CANARY, Group, LINUX, dom0_goes_on, ends, guests_go_on, state_is, status};
use crate::lab::audit;
use crate::lab::demux::Source;
use crate::lab::images::Images;
use crate::lab::profile::{Cpu, Domain, Guest, Profile, Scheduler};
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
pub type Own = fn(&Images, &Profile, &Path) -> Result<()>;

/// Those cases.
pub const OWN: [(&str, Own); 5] = [
    ("lab/boot-strict/no-domain-is-started", strict),
    ("lab/boot-without-dom0/seal", seal),
    ("lab/boot-without-dom0/lock-with-one-outside", lock_but_one),
    ("lab/boot-without-dom0/lock-with-shared-pages", lock_sharing),
    ("lab/boot-strict/properties-are-named", properties),
];

/// Words of `vmf=`, and what Xen says of them where there is a dom0.
const REFUSED: [(&str, &str); 3] = [
    ("vmf=unmap,fast", "\"fast\" is not known"),
    ("vmf=unmap,keep-firmware-calls", "wants a level"),
    ("vmf=lock", "with a dom0"),
];
/// The same without one, on a machine that lacks a CPU.
const OFFLINE: (&str, &str) = ("vmf=lock", "CPUs are not online");
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
        let at = lines.iter().position(|(_, text)| text.starts_with(&wanted));
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

/// The level is what the machine's memory says, and the guests go on.
fn holds(session: &mut Session, name: &str, level: Level) -> Result<()> {
    let domains = session.report.profile.domains.clone();
    let protected: Vec<u16> = (1..)
        .zip(&domains)
        .filter(|(_, domain)| !domain.unprotected)
        .map(|(id, _)| id)
        .collect();
    let moment = session.moment(name, &protected)?;
    audit::must_hold(&audit::check(&moment, level)?)?;
    guests_go_on(session)
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
    for (words, said) in REFUSED.into_iter().chain([OFFLINE]) {
        let mut profile = base.clone();
        profile.name = "boot-strict".to_owned();
        system(&mut profile, words);
        if (words, said) == OFFLINE {
            profile.dead_cpus = 1;
            profile.device_tree = ALONE.to_owned();
        }
        let mut session = Session::boot(images, &profile, lab, false)?;
        session.wait_xen(said, BOOT)?;
        nobody_runs(&mut session, words)?;
        session.finish()?;
    }
    Ok(())
}

/// Xen says that it starts no domain, and starts none.
fn nobody_runs(session: &mut Session, why: &str) -> Result<()> {
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
    for id in [first, second] {
        session.beats(id, 2)?;
    }
    finish(session)
}

/// Properties of a domain's node that are wrong: Xen names node and property,
/// and starts nobody.
fn properties(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    type Change = fn(&mut Domain);
    let cases: [(Change, &str); 5] = [
        (
            |d| d.share = vec![[0x4000_0800, 0x1000]],
            "does not begin and end with a page",
        ),
        (
            |d| d.share = vec![[0x1_0000_0000, 0x1000]],
            "not all of it is memory",
        ),
        (
            |d| d.share = vec![[0x4010_0000, 0x2000], [0x4010_1000, 0x1000]],
            "overlaps another range",
        ),
        (
            |d| {
                d.share = vec![[0x4010_0000, 0x1000]];
                d.unprotected = true;
            },
            "vmf-unprotected",
        ),
        (|d| d.enhanced = true, "has xen,enhanced"),
    ];
    for (change, said) in cases {
        let mut profile = base.clone();
        profile.name = "boot-properties".to_owned();
        // Enhanced domains need a dom0, and with one there is no lock.
        profile.xen_arguments = "vmf=unmap conswitch=ax".to_owned();
        profile.domains.retain(|d| d.guest == Guest::Canary);
        change(&mut profile.domains[0]);
        let node = match profile.domains[0].enhanced {
            false => "vmf-share: ",
            true => "xen,enhanced: ",
        };
        let mut session = Session::boot(images, &profile, lab, false)?;
        let line = session.wait_xen(said, BOOT)?;
        ensure!(
            line.contains(node) && (line.contains("/chosen/") || line.contains("d1 ")),
            "{line}"
        );
        nobody_runs(&mut session, said)?;
        session.finish()?;
    }
    Ok(())
}

fn finish(session: Session) -> Result<()> {
    let folder = session.folder().to_owned();
    session.finish()?;
    crate::lab::suite::remove_dumps(&folder)
}
