//! Pages of a domU that somebody else has mapped: they stand in the way, are
//! named, and nothing changes.

use anyhow::{Result, bail, ensure};

use super::{CANARY, Group, LINUX, canary, dom0_goes_on, ends, guests_go_on, state_is};
use crate::lab::experiment;
use crate::lab::profile::Guest;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "pv-pages",
        system: |profile| {
            // Linux with Xen's PV interfaces registers vcpu_info, which Xen keeps mapped.
            for domain in &mut profile.domains {
                domain.enhanced = domain.guest == Guest::Linux;
            }
        },
        tests: &[
            ("pages-mapped-by-xen-are-named", named),
            ("another-domain-can-be-blown", another),
        ],
    },
    Group {
        name: "holders",
        system: super::unchanged,
        tests: &[
            ("foreign-mapping-is-in-the-way", foreign),
            ("grant-mapping-is-in-the-way", grant),
            ("without-them-the-blow-succeeds", free),
            ("no-new-mapping-afterwards", none_afterwards),
        ],
    },
];

/// A frame in the middle of the Linux domU's memory (GUEST_RAM0_BASE is 1 GiB).
const GFN: &str = "0x42000";
/// What a mapping of its pages is called.
const MAPPED: &str = "mapped by another domain";

/// Starts a probe that keeps a mapping, and waits until it has it.
fn hold(session: &mut Session, what: &str) -> Result<()> {
    let output = session.must(&format!(
        "rm -f /tmp/held; vmf-probe {what} --hold 600 >/tmp/held 2>&1 & \
         while [ ! -s /tmp/held ] && kill -0 $!; do sleep 0.1; done; cat /tmp/held"
    ))?;
    ensure!(
        output.contains("word="),
        "vmf-probe {what}: {}",
        output.trim()
    );
    Ok(())
}

/// Ends that probe, and with it the mapping.
fn release(session: &mut Session) -> Result<()> {
    session
        .must("killall vmf-probe; while pidof vmf-probe >/dev/null; do sleep 0.1; done")
        .map(drop)
}

fn foreign(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    hold(session, &format!("foreign-map {LINUX} {GFN}"))?;
    ends(session, &format!("vmfctl blow --yes {LINUX}"), 1, &[MAPPED])?;
    state_is(session, "open")?;
    release(session)?;
    session.must(&format!("vmfctl check {LINUX}")).map(drop)
}

fn grant(session: &mut Session) -> Result<()> {
    let line = canary(session, "grant")?;
    let reference = line
        .strip_prefix("ref ")
        .and_then(|rest| rest.split_whitespace().next());
    let Some(reference) = reference else {
        bail!("canary: grant: {line}");
    };
    hold(session, &format!("grant-map {CANARY} {reference}"))?;
    ends(
        session,
        &format!("vmfctl blow --yes {CANARY}"),
        1,
        &[MAPPED],
    )?;
    state_is(session, "open")?;
    release(session)?;
    session.must(&format!("vmfctl check {CANARY}")).map(drop)
}

fn free(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[LINUX, CANARY])?;
    guests_go_on(session)
}

fn none_afterwards(session: &mut Session) -> Result<()> {
    let map = format!("vmf-probe foreign-map {LINUX} {GFN}");
    ends(session, &map, 1, &["error="])?;
    guests_go_on(session)?;
    dom0_goes_on(session)
}

fn named(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    let check = format!("vmfctl check {LINUX}");
    ends(session, &check, 1, &["PV interface"])?;
    let blow = format!("vmfctl blow --yes {LINUX} {CANARY}");
    let output = ends(session, &blow, 1, &["PV interface", "nothing was done"])?;
    ensure!(
        output.text.contains("xen,enhanced"),
        "vmfctl does not say what to do: {}",
        output.line()
    );
    state_is(session, "open")
}

/// The positive: the obstacle is that domain's alone.
fn another(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[CANARY])?;
    guests_go_on(session)?;
    dom0_goes_on(session)
}
