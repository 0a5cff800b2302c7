//! The attacks on a machine that was blown at boot: what works on a domain
//! outside fails on one that was protected before it ran, and dom0's lock takes
//! what level `unmap` leaves open.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::attack::{self, rows, system};
use super::{Group, state_is};
use crate::lab::profile::Guest;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "boot-attack",
    system: |profile| {
        system(profile, true);
        profile.xen_arguments = "vmf=unmap".to_owned();
        profile.domains.retain(|d| d.guest == Guest::Canary);
        for domain in &mut profile.domains {
            // None of them keeps a CPU busy.
            let seed = domain.arguments.split(' ').next();
            domain.arguments = seed.unwrap_or_default().to_owned();
        }
        let mut outside = profile.domains.clone();
        for domain in &mut outside {
            // Another secret: it is not to be taken for those inside.
            domain.arguments += "07";
            domain.unprotected = true;
        }
        profile.domains.append(&mut outside);
    },
    tests: &[
        ("on-domains-outside", outside),
        ("unmap-from-the-first-instruction-on", unmapped),
        ("lock-from-dom0", locked),
        ("guests-go-on", |s| s.beats(INSIDE[0], 2).map(drop)),
    ],
}];

/// Canaries that were protected at boot, and canaries that stay outside: the
/// victim, and one that may be broken.
const INSIDE: [u16; 2] = [1, 2];
const OUTSIDE: [u16; 2] = [3, 4];
/// What level `unmap` takes from those who read at EL2, from Xen's own copying, and
/// from dom0's hypercalls. Nobody grants anything: a protected domain without
/// shared pages cannot.
const UNMAP: [&str; 3] = ["V01", "V04", "V05"];
/// What the lock takes besides.
const LOCK: [&str; 7] = ["V03", "V07", "V08", "V11", "V12", "V23", "V24"];

/// Attacks one of a pair, both of which are alive.
fn attack(session: &mut Session, pair: [u16; 2], options: &str, name: &str) -> Result<Value> {
    session.beats_of(&pair, 2)?;
    let options = format!("{options} --no-races");
    attack::attack(session, pair, &options, name).map(|(report, _)| report)
}

/// Titles of the attempts at these vectors that ended so at a time.
fn attempts(report: &Value, ids: &[&str], time: &str, outcome: &str) -> BTreeSet<String> {
    let rows = report["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let these = rows.iter().filter(|row| {
        let id = row["id"].as_str().unwrap_or_default();
        ids.contains(&id) && row[time]["outcome"] == outcome
    });
    these.map(|row| row["title"].to_string()).collect()
}

/// The files of the two runs.
const REPORTS: [&str; 2] = ["attacks-outside.json", "attacks-inside.json"];

/// What the run on this side has found.
fn found(session: &Session, name: &str) -> Result<Value> {
    let text = fs::read_to_string(session.folder().join(name))
        .with_context(|| format!("vmf-attack has left no {name}"))?;
    serde_json::from_str(&text).with_context(|| name.to_owned())
}

/// The positive: on a domain of the same system that is not protected they work.
fn outside(session: &mut Session) -> Result<()> {
    state_is(session, "unmapped")?;
    let report = attack(session, OUTSIDE, "", REPORTS[0])?;
    for id in UNMAP {
        ensure!(
            !attempts(&report, &[id], "before", "success").is_empty(),
            "{id} does not succeed on a domain outside: {:?}",
            rows(&report, id, true)
        );
    }
    Ok(())
}

/// Each that works there fails here.
fn unmapped(session: &mut Session) -> Result<()> {
    let report = attack(session, INSIDE, "--blow", REPORTS[1])?;
    let positive = attempts(&found(session, REPORTS[0])?, &UNMAP, "before", "success");
    let failed = attempts(&report, &UNMAP, "before", "failed");
    let odd: Vec<_> = positive.difference(&failed).collect();
    ensure!(odd.is_empty(), "with vmf=unmap these do not fail: {odd:?}");
    Ok(())
}

/// What level `unmap` leaves open, dom0's lock closes.
fn locked(session: &mut Session) -> Result<()> {
    state_is(session, "locked")?;
    let report = found(session, REPORTS[1])?;
    ensure!(
        report["blow"]["whole"] == true,
        "the blow: {}",
        report["blow"]
    );
    for id in LOCK {
        ensure!(
            report["claims"][id] == "closed",
            "{id} is {}: {:?}",
            report["claims"][id],
            rows(&report, id, true)
        );
    }
    let all = attempts(
        &report,
        &[&UNMAP[..], &LOCK[..]].concat(),
        "after",
        "success",
    );
    let claimed = rows_claimed(&report);
    let open: Vec<_> = all.intersection(&claimed).collect();
    ensure!(open.is_empty(), "after the lock these succeed: {open:?}");
    Ok(())
}

/// Titles of what level `lock` claims.
fn rows_claimed(report: &Value) -> BTreeSet<String> {
    let rows = report["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let claimed = rows.iter().filter(|row| row["claimed"] == true);
    claimed.map(|row| row["title"].to_string()).collect()
}
