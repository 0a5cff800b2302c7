//! What becomes of a protected domain's memory when it is destroyed before the
//! lock: Xen scrubs it, and other domains get it.

use std::time::Duration;

use anyhow::{Result, ensure};
use vmf_audit::report::Level;

use super::xl::{self, PATTERN, listed, says};
use super::{CANARY, Group, dom0_goes_on, state_is, status};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::pattern;
use crate::lab::profile::Guest;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "freed",
    system: |profile| {
        xl::with_tools(profile);
        let canary = |domain: &crate::lab::profile::Domain| domain.guest == Guest::Canary;
        profile.domains.retain(canary);
        let mut other = profile.domains.clone();
        for domain in &mut other {
            domain.arguments = xl::arguments(SEED);
        }
        profile.domains.append(&mut other);
    },
    tests: &[
        ("the-tools-start", xl::start),
        ("protect", protect),
        ("destroy-scrubs-before-the-lock", destroy),
        ("a-new-domain-gets-nothing-of-it", create),
        ("a-lock-still-succeeds", lock),
    ],
}];

/// The canary that stays.
const STAYS: u16 = 1;
/// The seed of the other one, which is protected and destroyed.
const SEED: u64 = 0x0bad_5eed;
/// How often the scrubbing is looked at.
const LOOKS: usize = 5;

/// The positive: the pattern is there, in as many frames as it has pages.
fn protect(session: &mut Session) -> Result<()> {
    session.must(&format!("vmfctl protect --yes {CANARY}"))?;
    state_is(session, "unmapped")?;
    session.beats(CANARY, 1)?;
    let moment = session.moment("protected", &[CANARY])?;
    let frames = pattern::frames(&moment, SEED, PATTERN)?;
    ensure!(
        frames == PATTERN,
        "{frames} frames hold the pattern, which has {PATTERN} pages"
    );
    audit::must_hold(&audit::check(&moment, Level::Unmap)?)
}

fn destroy(session: &mut Session) -> Result<()> {
    says(session, &format!("xl destroy {CANARY}"), 0, "")?;
    ensure!(
        listed(session, CANARY)?.is_none(),
        "domain {CANARY} does not go"
    );
    // Xen scrubs when its CPUs are idle, or when the memory is wanted.
    let mut frames = PATTERN;
    for _ in 0..LOOKS {
        let moment = session.moment("destroyed", &[])?;
        frames = pattern::frames(&moment, SEED, PATTERN)?;
        if frames == 0 {
            break;
        }
        std::thread::sleep(Duration::from_secs(3));
    }
    ensure!(frames == 0, "{frames} frames still hold the pattern");
    let counters = &status(session)?["counters"];
    ensure!(
        counters["leaked_pages"] == 0,
        "before the lock nothing leaks: {counters}"
    );
    session.beats(STAYS, 1)?;
    dom0_goes_on(session)
}

fn create(session: &mut Session) -> Result<()> {
    xl::create(session, "new")?;
    xl::console(session, "new")?;
    let moment = session.moment("created", &[])?;
    let frames = pattern::frames(&moment, SEED, PATTERN)?;
    ensure!(frames == 0, "{frames} frames hold the old pattern again");
    let frames = pattern::frames(&moment, xl::OWN_SEED, PATTERN)?;
    ensure!(
        frames == PATTERN,
        "{frames} frames hold the new pattern, which has {PATTERN} pages"
    );
    session.beats(STAYS, 1).map(drop)
}

fn lock(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[STAYS])?;
    let moment = session.moment("end", &[STAYS])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)?;
    session.beats(STAYS, 2)?;
    dom0_goes_on(session)
}
