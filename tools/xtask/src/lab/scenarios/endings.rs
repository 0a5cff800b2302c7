//! How a domain ends by its own doing, and what Xen's tools in dom0 see of it:
//! before the lock, and after it in a protected domain. Its pages go nowhere.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vmf_audit::registers::Share;
use vmf_audit::report::Level;

use super::shared::CANARY_PAGES;
use super::xl::{self, PATTERN, listed, says};
use super::{Group, dom0_goes_on, state_is, status, told};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::pattern;
use crate::lab::profile::Guest;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "ends",
    system: |profile| {
        xl::with_tools(profile);
        profile.domains.retain(|d| d.guest == Guest::Canary);
        let one = profile.domains.clone();
        profile.domains = (1..=6)
            .flat_map(|id| {
                one.iter().cloned().map(move |mut canary| {
                    canary.arguments = xl::arguments(seed(id));
                    canary
                })
            })
            .collect();
    },
    tests: &[
        ("the-tools-start", xl::start),
        ("crash-before", |s| crash(s, CRASHES_FIRST)),
        ("watchdog-before", |s| watchdog(s, WATCHED_FIRST)),
        ("suspend-and-resume-before", suspend),
        ("their-memory-is-free-before", freed),
        ("trace-before", trace),
        ("blow", blow),
        ("without-shared-pages-only-psci", without_pages),
        ("crash-after", |s| crash(s, CRASHES)),
        ("watchdog-after", |s| watchdog(s, WATCHED)),
        ("suspend-and-resume-after", suspend),
        ("their-memory-stays-after", stays),
        ("destroyed-after-its-own-end", destroyed),
        ("no-trace-after", no_trace),
        ("still-locked", still_locked),
    ],
}];

/// Shares nothing, and goes on to the end.
const STAYS: u16 = 1;
/// Ends by a crash after the lock.
const CRASHES: u16 = 2;
/// Ends by its watchdog after the lock.
const WATCHED: u16 = 3;
/// Is suspended before and after.
const SUSPENDS: u16 = 4;
/// These end before the lock.
const CRASHES_FIRST: u16 = 5;
const WATCHED_FIRST: u16 = 6;
/// Pages of a canary of 32 MiB.
const PAGES: u64 = 32 * 256;
/// How long `xl list` may take to show an end.
const SEEN: Duration = Duration::from_secs(120);

fn seed(id: u16) -> u64 {
    0xe4d0 + u64::from(id)
}

/// Waits until `xl list` says this of a domain: `s` for shut down, then why.
fn ended(session: &mut Session, id: u16, wanted: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        let (mib, state) = listed(session, id)?.with_context(|| format!("no domain {id}"))?;
        if state == wanted {
            ensure!(mib > 0, "domain {id} has no memory any more");
            break;
        }
        ensure!(
            start.elapsed() < SEEN,
            "domain {id} is {state} in xl list, not {wanted}"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    // It has ended, and says nothing any more.
    let silent = session.pulse(id)?;
    dom0_goes_on(session)?;
    session.beats(STAYS, 2)?;
    ensure!(
        session.pulse(id)? == silent,
        "domain {id} is {wanted} in xl list, and its canary goes on"
    );
    Ok(())
}

fn crash(session: &mut Session, id: u16) -> Result<()> {
    session.type_to_domain(id, "shutdown:3")?;
    ended(session, id, "---sc-")
}

fn watchdog(session: &mut Session, id: u16) -> Result<()> {
    let number = told(session, id, "watchdog:3", 1)?.remove(0);
    ensure!(number.trim() == "1", "d{id}: watchdog: {number}");
    ended(session, id, "---sw-")
}

/// By its hypercall, which Xen's tools can undo. PSCI's call is none of Xen's.
fn suspend(session: &mut Session) -> Result<()> {
    let refused = told(session, SUSPENDS, "suspend", 1)?.remove(0);
    ensure!(refused.trim() == "-1", "d{SUSPENDS}: suspend: {refused}");
    session.type_to_domain(SUSPENDS, "shutdown:2")?;
    ended(session, SUSPENDS, "---ss-")?;
    session.must(&format!("vmf-probe resume {SUSPENDS}"))?;
    session.beats(SUSPENDS, 2).map(drop)
}

fn leaked(session: &mut Session) -> Result<u64> {
    let status = status(session)?;
    let pages = status["counters"]["leaked_pages"].as_u64();
    pages.with_context(|| format!("no leaked_pages in {status}"))
}

/// Free memory of the machine in MiB, as Xen's tools say.
fn free(session: &mut Session) -> Result<u64> {
    let text = says(session, "xl info", 0, "free_memory")?;
    let line = text.lines().find(|line| line.starts_with("free_memory"));
    line.and_then(|line| line.split(':').nth(1)?.trim().parse().ok())
        .with_context(|| format!("xl info: {text}"))
}

/// The positive of what does not come back afterwards.
fn freed(session: &mut Session) -> Result<()> {
    let before = free(session)?;
    for id in [CRASHES_FIRST, WATCHED_FIRST] {
        says(session, &format!("xl destroy {id}"), 0, "")?;
        ensure!(listed(session, id)?.is_none(), "domain {id} does not go");
    }
    let after = free(session)?;
    ensure!(
        after >= before + 2 * PAGES / 256,
        "{before} MiB were free, and {after} are"
    );
    ensure!(leaked(session)? == 0, "pages leak on an open machine");
    Ok(())
}

fn blow(session: &mut Session) -> Result<()> {
    for id in [CRASHES, WATCHED, SUSPENDS] {
        let line = told(session, id, "share", 1)?.remove(0);
        ensure!(line.starts_with("0 gfn "), "d{id}: share: {line}");
    }
    experiment::blow(session, &[STAYS, CRASHES, WATCHED, SUSPENDS])?;
    state_is(session, "locked")
}

/// Xen's trace of what its scheduler does, for a second.
const TRACE: &str = "xentrace -D -e 0x0002f000 -T 1 /trace";

fn trace(session: &mut Session) -> Result<()> {
    says(session, TRACE, 0, "")?;
    session.must("[ -s /trace ] && rm /trace").map(drop)
}

/// The buffers are Xen's, and dom0 would have to map them.
fn no_trace(session: &mut Session) -> Result<()> {
    let output = xl::tool(session, TRACE)?;
    ensure!(
        output.code != 0 && output.text.contains("Failed to mmap trace buffers"),
        "xentrace: exit code {}: {}",
        output.code,
        output.line()
    );
    dom0_goes_on(session)
}

/// A domain that shares no page cannot ask for such an end.
fn without_pages(session: &mut Session) -> Result<()> {
    for action in ["shutdown:3", "watchdog:3"] {
        let line = told(session, STAYS, action, 1)?.remove(0);
        ensure!(line.trim() == "-14 EFAULT", "d{STAYS}: {action}: {line}");
    }
    session.beats(STAYS, 2).map(drop)
}

/// The pages of those that have ended are theirs: none was freed, and each holds
/// what it held.
fn stays(session: &mut Session) -> Result<()> {
    let status = status(session)?;
    let domains = status["domains"].as_array().context("domains")?;
    for id in [CRASHES, WATCHED] {
        let domain = domains.iter().find(|domain| domain["id"] == id);
        let domain = domain.with_context(|| format!("no domain {id} in {status}"))?;
        ensure!(
            domain["protected"] == true && domain["pages"].as_u64() >= Some(PAGES),
            "domain {id} has ended: {domain}"
        );
    }
    session.shared = shares(&[CRASHES, WATCHED, SUSPENDS]);
    let moment = session.moment("ended", &[STAYS, CRASHES, WATCHED, SUSPENDS])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)?;
    for id in [CRASHES, WATCHED, SUSPENDS] {
        let frames = pattern::frames(&moment, seed(id), PATTERN)?;
        ensure!(
            frames == PATTERN,
            "domain {id}: {frames} frames hold the pattern, of {PATTERN}"
        );
    }
    Ok(())
}

/// What is destroyed leaks: no memory is free because of it, none was scrubbed.
fn destroyed(session: &mut Session) -> Result<()> {
    let free_before = free(session)?;
    let before = leaked(session)?;
    for id in [CRASHES, WATCHED] {
        says(session, &format!("xl destroy {id}"), 0, "")?;
        ensure!(listed(session, id)?.is_none(), "domain {id} does not go");
    }
    let gone = leaked(session)? - before;
    // Beside their memory, tables and what Xen kept for them.
    ensure!(
        (2 * PAGES..2 * PAGES + 2048).contains(&gone),
        "{gone} pages leaked, the domains had {}",
        2 * PAGES
    );
    let free_after = free(session)?;
    ensure!(
        free_after <= free_before,
        "{free_before} MiB were free, and {free_after} are"
    );
    session.shared = shares(&[SUSPENDS]);
    let moment = session.moment("destroyed", &[STAYS, SUSPENDS])?;
    for id in [CRASHES, WATCHED] {
        let frames = pattern::frames(&moment, seed(id), PATTERN)?;
        ensure!(
            frames == PATTERN,
            "domain {id}: {frames} frames hold the pattern, of {PATTERN}"
        );
    }
    Ok(())
}

/// What these domains share.
fn shares(domains: &[u16]) -> Vec<Share> {
    let share = |&domain: &u16| audit::share(domain, CANARY_PAGES);
    domains.iter().map(share).collect()
}

/// What the two that are gone had shared is mapped, as it was, and nobody's. The
/// verifier says so, and has no other complaint.
fn still_locked(session: &mut Session) -> Result<()> {
    state_is(session, "locked")?;
    session.beats(STAYS, 2)?;
    session.beats(SUSPENDS, 2)?;
    dom0_goes_on(session)?;
    session.shared = shares(&[SUSPENDS]);
    let moment = session.moment("end", &[STAYS, SUSPENDS])?;
    let report = audit::check(&moment, Level::Lock)?;
    let left = 2 * (CANARY_PAGES[1] >> 12);
    let frames: u64 = report.violations.iter().map(|found| found.frames).sum();
    ensure!(
        report.violations.iter().all(|found| found.rule == "L16") && frames == left,
        "{frames} frames, of {left}: {}",
        audit::sentence(&report)
    );
    Ok(())
}
