//! Pages of a domU that somebody else has mapped: they stand in the way, are
//! named, and nothing changes.

use anyhow::{Result, ensure};

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
            ("mapping-of-a-page-given-up-is-in-the-way", given_up),
            ("without-them-the-blow-succeeds", free),
            ("no-new-mapping-afterwards", none_afterwards),
        ],
    },
];

/// A frame in the middle of the Linux domU's memory (GUEST_RAM0_BASE is 1 GiB).
const GFN: &str = "0x42000";
/// The bare-metal canary's first grant reference.
const REFERENCE: u32 = 8;
/// How `vmfctl` names one mapping of its pages.
pub const MAPPED: &str = "another domain has mapped (grants or foreign mappings): 1";

/// Starts a probe that keeps a mapping, and waits until it has it.
pub fn hold(session: &mut Session, what: &str) -> Result<()> {
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

/// Ends every probe that keeps a mapping, and waits until `domain` has none:
/// Linux gives a page back somewhat later where a process has it in use.
pub fn release(session: &mut Session, domain: u16) -> Result<()> {
    session
        .must(&format!(
            "killall vmf-probe 2>/dev/null; while pidof vmf-probe >/dev/null; do sleep 0.1; done; \
             n=0; until vmfctl check {domain} >/tmp/check; do \
             n=$((n+1)); [ $n -lt 20 ] || {{ cat /tmp/check; false; break; }}; sleep 0.2; done"
        ))
        .map(drop)
}

/// With this mapping the blow is refused, with its reason; without it nothing
/// is in the way.
fn in_the_way(session: &mut Session, domain: u16, mapping: &str) -> Result<()> {
    session.must(&format!("vmfctl check {domain}"))?;
    hold(session, mapping)?;
    let refused = ends(
        session,
        &format!("vmfctl blow --yes {domain}"),
        1,
        &[MAPPED, "nothing was done"],
    )
    .and_then(|_| state_is(session, "open"));
    release(session, domain)?;
    refused
}

fn foreign(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    in_the_way(session, LINUX, &format!("foreign-map {LINUX} {GFN}"))
}

/// A page of the canary that it does not use unless it shares it.
const UNUSED: &str = "0x40201";

/// What its domain has given up, but somebody has mapped, is still the domain's.
fn given_up(session: &mut Session) -> Result<()> {
    session.must(&format!("vmfctl check {CANARY}"))?;
    hold(session, &format!("foreign-map {CANARY} {UNUSED}"))?;
    session.must(&format!("vmf-probe decrease {CANARY} {UNUSED}"))?;
    let refused = [format!("check {CANARY}"), format!("blow --yes {CANARY}")]
        .iter()
        .try_for_each(|call| ends(session, &format!("vmfctl {call}"), 1, &[MAPPED]).map(drop))
        .and_then(|()| state_is(session, "open"));
    release(session, CANARY)?;
    session.must(&format!("vmf-probe populate {CANARY} {UNUSED}"))?;
    refused
}

/// The mappings that dom0 asks Xen itself for, without Linux's help.
fn raw() -> [String; 3] {
    [
        format!("raw-foreign-map {LINUX} {GFN}"),
        format!("raw-grant-map {CANARY} {REFERENCE}"),
        format!("gnttab-copy {CANARY} {REFERENCE}"),
    ]
}

fn grant(session: &mut Session) -> Result<()> {
    let line = canary(session, "grant")?;
    ensure!(
        line.starts_with(&format!("ref {REFERENCE} ")),
        "canary: grant: {line}"
    );
    in_the_way(session, CANARY, &format!("grant-map {CANARY} {REFERENCE}"))?;
    // What is refused afterwards succeeds before.
    for map in raw() {
        session.must(&format!("vmf-probe {map}"))?;
    }
    Ok(())
}

fn free(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[LINUX, CANARY])?;
    guests_go_on(session)
}

fn none_afterwards(session: &mut Session) -> Result<()> {
    state_is(session, "locked")?;
    // GNTST_bad_page is -9 (public/grant_table.h).
    let errors = ["error=EINVAL", "GNTST -9", "GNTST -9"];
    for (map, error) in raw().into_iter().zip(errors) {
        ends(session, &format!("vmf-probe {map}"), 1, &[error])?;
    }
    // Linux makes errors of its own of them.
    for map in [
        format!("foreign-map {LINUX} {GFN}"),
        format!("grant-map {CANARY} {REFERENCE}"),
    ] {
        ends(session, &format!("vmf-probe {map}"), 1, &["error="])?;
    }
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
