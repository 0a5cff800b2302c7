//! Hypercalls of dom0, made one by one: each error of `vmf_op`, and what a
//! control domain does to domains and memory, before and after.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::holders::{hold, release};
use super::unchanged;
use super::{CANARY, Group, LINUX, dom0_goes_on, ends, guests_go_on, state_is, status};
use crate::lab::experiment;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "calls",
    system: unchanged,
    tests: &[
        ("each-bad-input-has-its-error", bad_input),
        ("half-a-domain-has-its-error", half),
        ("domains-come-and-go-before", come_and_go),
        ("blow", blow),
        ("each-refusal-has-its-error", refusals),
        ("no-domain-comes-afterwards", none_comes),
        ("a-domain-goes-afterwards", goes),
        ("no-memory-comes-afterwards", memory),
        ("no-memory-goes-afterwards", taken),
        ("guests-go-on", guests_go_on),
    ],
}];

/// Numbers of `vmf_op`'s commands (`xen-vmf/abi`).
const PROTECT: u32 = 2;
/// As above.
const LOCK: u32 = 3;
/// As above.
const STATUS: u32 = 4;

/// The first frame of a guest's memory.
const FIRST: &str = "0x40000";

/// Each call must end with this error.
fn errors(session: &mut Session, calls: &[(&str, &str)]) -> Result<()> {
    for (call, error) in calls {
        let error = format!("error={error} ");
        ends(session, &format!("vmf-probe vmf {call}"), 1, &[&error])?;
    }
    Ok(())
}

fn bad_input(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    errors(
        session,
        &[
            ("99 machine", "ENOSYS"),
            (&format!("{PROTECT} {LINUX} 1"), "EINVAL"),
            (&format!("{PROTECT} {LINUX} 0 1"), "EINVAL"),
            (&format!("{PROTECT} 77"), "ESRCH"),
            // DOMID_IDLE, DOMID_XEN, DOMID_IO.
            (&format!("{PROTECT} 0x7fff"), "EINVAL"),
            (&format!("{PROTECT} 0x7ff2"), "EINVAL"),
            (&format!("{PROTECT} 0x7ff1"), "EINVAL"),
            (&format!("{PROTECT} 0"), "EOPNOTSUPP"),
            (&format!("{PROTECT} self"), "EOPNOTSUPP"),
            (&format!("{LOCK} machine 1"), "EINVAL"),
            (&format!("{LOCK} machine"), "ENOENT"),
            // Its result would come later than the list's.
            (&format!("{PROTECT} {LINUX} --listed"), "EINVAL"),
            ("99 machine --listed", "ENOSYS"),
        ],
    )?;
    // What has its result at once may be in a list.
    let status = |listed| format!("vmf-probe vmf {STATUS} machine{listed}");
    let [alone, listed] = [status(""), status(" --listed")].map(|call| session.must(&call));
    ensure!(alone? == listed?, "a multicall says something else");
    state_is(session, "open")
}

/// Creates a domain; returns its id.
fn create(session: &mut Session) -> Result<u16> {
    let text = session.must("vmf-probe create")?;
    let id = text.split_once("domain=").and_then(|(_, rest)| {
        let word = rest.split_whitespace().next()?;
        word.parse().ok()
    });
    id.with_context(|| format!("vmf-probe create: {}", text.trim()))
}

/// A domain that was never started, and one that a mapping keeps from going.
fn half(session: &mut Session) -> Result<()> {
    let id = create(session)?;
    let protect = format!("{PROTECT} {id}");
    let check = format!("vmfctl check {id}");
    errors(session, &[(&protect, "EBUSY")])?;
    ends(session, &check, 1, &["still being built"])?;
    hold(session, &format!("foreign-map {id} {FIRST}"))?;
    session.must(&format!("vmf-probe destroy {id}"))?;
    errors(session, &[(&protect, "ENXIO")])?;
    ends(session, &check, 1, &["dying"])?;
    state_is(session, "open")?;
    release(session, LINUX)?;
    errors(session, &[(&protect, "ESRCH")])
}

fn come_and_go(session: &mut Session) -> Result<()> {
    let id = create(session)?;
    session.must(&format!("vmf-probe destroy {id}"))?;
    session.must("vmf-probe balloon 256")?;
    // One is left for later.
    create(session).map(drop)
}

fn blow(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[LINUX, CANARY]).map(drop)
}

fn refusals(session: &mut Session) -> Result<()> {
    errors(
        session,
        &[
            (&format!("{PROTECT} {LINUX}"), "EEXIST"),
            (&format!("{LOCK} machine"), "EEXIST"),
            (&format!("{PROTECT} 0"), "EOPNOTSUPP"),
        ],
    )?;
    let other = newest(session)?;
    errors(session, &[(&format!("{PROTECT} {other}"), "EROFS")])?;
    state_is(session, "locked")
}

/// The id of the domain that is neither dom0 nor a guest of the profile.
fn newest(session: &mut Session) -> Result<u16> {
    let text = session.must("vmf-probe domains")?;
    let list = text.split_once("domains=").map_or("", |(_, rest)| rest);
    let ids = list
        .trim()
        .split(',')
        .filter_map(|domain| domain.split(':').next()?.parse::<u16>().ok());
    ids.filter(|id| *id > CANARY)
        .max()
        .with_context(|| format!("no domain was created: {}", text.trim()))
}

fn none_comes(session: &mut Session) -> Result<()> {
    ends(session, "vmf-probe create", 1, &["error=ENOMEM"])?;
    dom0_goes_on(session)
}

fn goes(session: &mut Session) -> Result<()> {
    let id = newest(session)?;
    session.run(&format!("vmf-probe destroy {id}"))?;
    dom0_goes_on(session)?;
    guests_go_on(session)
}

fn memory(session: &mut Session) -> Result<()> {
    for call in [
        format!("populate {LINUX} 0x60000"),
        format!("populate {CANARY} 0x60000"),
        "balloon 256".to_owned(),
    ] {
        let output = session.run(&format!("vmf-probe {call}"))?;
        ensure!(
            output.code == 1 && output.text.contains("error="),
            "vmf-probe {call}: exit code {}: {}",
            output.code,
            output.line()
        );
        dom0_goes_on(session)?;
    }
    Ok(())
}

/// The canaries fill nearly all of their memory: the middle of it, as a frame.
const IN_USE: [(u16, u64); 2] = [(LINUX, 0x4_4000), (CANARY, 0x4_1000)];

/// A page that is taken away stays: the call succeeds, the page counts as
/// leaked, and its domain has it as before.
fn taken(session: &mut Session) -> Result<()> {
    for (domain, gfn) in IN_USE {
        let before = status(session)?;
        session.must(&format!("vmf-probe decrease {domain} {gfn:#x}"))?;
        let after = status(session)?;
        let leaked = |status: &Value| status["counters"]["leaked_pages"].as_u64();
        ensure!(
            leaked(&before).map(|pages| pages + 1) == leaked(&after),
            "leaked pages: {:?}, then {:?}",
            leaked(&before),
            leaked(&after)
        );
        ensure!(
            before["domains"] == after["domains"],
            "the domains were {}, and are {}",
            before["domains"],
            after["domains"]
        );
    }
    guests_go_on(session)?;
    dom0_goes_on(session)
}
