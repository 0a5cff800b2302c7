//! A domain of 32 bits: what Xen does differently for it, before the blow and
//! after, and that it goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::{CANARY, Group, guests_go_on, undecoded};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::profile::{Domain, Guest};
use crate::lab::session::Session;

/// The group of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "narrow",
    system: |profile| {
        profile.xen.debug = true;
        let canary = profile.domains.iter().find(|d| d.guest == Guest::Canary);
        if let Some(narrow) = canary.cloned() {
            profile.domains[0] = Domain {
                guest: Guest::Narrow,
                arguments: String::new(),
                ..narrow
            };
        }
    },
    tests: &[
        ("goes-on-before", before),
        ("instructions-and-pointers-before", open),
        ("blow", blow),
        ("goes-on-after", guests_go_on),
        ("instructions-and-pointers-after", locked),
        ("holds", holds),
    ],
}];

/// The domain, in the place of Linux.
const NARROW: u16 = super::LINUX;
/// How long it may take to say all of its lines once more.
const LINES: Duration = Duration::from_secs(60);

/// What it said last, of what happened after now.
struct Said {
    /// Where its load without syndrome is.
    pc: String,
    /// What became of that.
    load: String,
    version: String,
    extraversion: String,
}

fn said(session: &mut Session) -> Result<Said> {
    // What is under way may be from before, so the one after the next.
    session.beats(NARROW, 2)?;
    session.wait_domain(NARROW, "narrow: extraversion", LINES)?;
    let lines = session.domain_lines(NARROW)?;
    let last = |what: &str| {
        let text = format!("narrow: {what} ");
        let mut lines = lines.iter().rev();
        let found = lines.find_map(|line| line.split_once(&text));
        let (_, rest) = found.with_context(|| format!("d{NARROW} has said no \"{text}\""))?;
        Ok::<_, anyhow::Error>(rest.trim().to_owned())
    };
    let load = last("load at")?;
    let (pc, load) = load
        .split_once(' ')
        .with_context(|| format!("load at {load}"))?;
    Ok(Said {
        pc: pc.to_owned(),
        load: load.to_owned(),
        version: last("xen_version")?,
        extraversion: last("extraversion")?,
    })
}

/// Both are hypercalls; the second has a pointer.
const VERSION: &str = "262164";
const EXTRAVERSION: &str = "0 \".4-pre\"";

fn before(session: &mut Session) -> Result<()> {
    session.wait_dom0()?;
    guests_go_on(session)
}

fn open(session: &mut Session) -> Result<()> {
    let said = said(session)?;
    // Xen can read the instruction, and does not emulate it.
    ensure!(said.load == "abort", "load: {}", said.load);
    ensure!(said.version == VERSION, "xen_version {}", said.version);
    ensure!(
        said.extraversion == EXTRAVERSION,
        "extraversion {}",
        said.extraversion
    );
    Ok(())
}

fn blow(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[NARROW, CANARY]).map(drop)
}

fn locked(session: &mut Session) -> Result<()> {
    let said = said(session)?;
    ensure!(said.load == "abort", "load: {}", said.load);
    ensure!(said.version == VERSION, "xen_version {}", said.version);
    ensure!(
        said.extraversion == "-14 \"\"",
        "extraversion {}",
        said.extraversion
    );
    let (count, pc) = undecoded(session, NARROW)?;
    ensure!(
        count > 1 && pc == said.pc,
        "{count} counted, the last at {pc}, and the domain's is at {}",
        said.pc
    );
    Ok(())
}

fn holds(session: &mut Session) -> Result<()> {
    let moment = session.moment("end", &[NARROW, CANARY])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)
}
