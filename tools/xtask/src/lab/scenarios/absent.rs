//! What this configuration of Xen lacks, and introspection, which it has: asked
//! for on stock Xen, on an open one with the fuse, and on a locked one.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::boot::Own;
use super::shared::CANARY_PAGES;
use super::{CANARY, LINUX, dom0_goes_on, ends, guests_go_on, state_is, told};
use crate::lab::images::Images;
use crate::lab::profile::{Profile, Xen};
use crate::lab::session::Session;

/// The cases of this file.
pub const OWN: &[Own] = &[Own {
    name: "lab/absent/as-on-stock",
    run: as_on_stock,
    xens: |_| XENS.to_vec(),
}];

/// The Xens of these cases.
const XENS: [Xen; 2] = [
    Xen {
        fuse: false,
        debug: false,
        its: false,
        attack: false,
        shm: false,
    },
    Xen {
        fuse: true,
        debug: false,
        its: false,
        attack: false,
        shm: false,
    },
];

/// Calls of firmware that a domU may try, and what stands behind them: OP-TEE,
/// FF-A, SCMI, a silicon vendor's.
const FIRMWARE: [&str; 4] = [
    "smc:0xbf00ff01",
    "smc:0x84000063",
    "smc:0x82000010",
    "smc:0xc2000001",
];
/// What Xen answers to a call that it does not know.
const UNKNOWN: &str = "result 0xffffffffffffffff";
/// Hypercalls that have to be among those asked.
const MUST: [&str; 6] = [
    "argo_op",
    "dm_op",
    "xenoprof_op",
    "access_op",
    "livepatch_op",
    "gdbsx_guestmemio",
];

/// What is not there, and how Xen says so.
fn answers(session: &mut Session) -> Result<Vec<String>> {
    guests_go_on(session)?;
    let text = session.must(&format!("vmf-probe absent {CANARY}"))?;
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    for name in MUST {
        ensure!(
            words
                .iter()
                .any(|word| word == &format!("{name}=ENOSYS")
                    || word == &format!("{name}=EOPNOTSUPP")),
            "{name} is there, or was not asked for: {text}"
        );
    }
    ensure!(
        !words.iter().any(|word| word.ends_with("=done")),
        "something is there: {text}"
    );
    for call in FIRMWARE {
        let lines = told(session, CANARY, call, 2)?;
        ensure!(
            lines.iter().all(|line| line.trim().ends_with(UNKNOWN)),
            "{call}: {lines:?}"
        );
        words.extend(lines.iter().map(|line| format!("{call} {line}")));
    }
    Ok(words)
}

/// Has Xen tell of a domain's SMCs by a ring in its page.
fn introspects(session: &mut Session, domain: u16, gfn: u64, wanted: &str) -> Result<()> {
    let call = format!("vmf-probe introspect {domain} {gfn:#x}");
    let code = i32::from(!wanted.is_empty());
    ends(session, &call, code, &[wanted]).map(drop)
}

/// The first page that the canary shares, a private one of it, and one of Linux.
const SHARED: u64 = CANARY_PAGES[0] >> 12;
const PRIVATE: u64 = SHARED + 4;
const OTHER: u64 = 0x4_2000;

fn as_on_stock(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut seen = Vec::new();
    for xen in XENS {
        let mut profile = base.clone();
        profile.name = if xen.fuse { "absent" } else { "absent-stock" }.to_owned();
        profile.xen = xen;
        let mut session = Session::boot(images, &profile, lab, false)?;
        session.wait_dom0()?;
        seen.push(answers(&mut session)?);
        introspects(&mut session, CANARY, PRIVATE, "")?;
        introspects(&mut session, LINUX, OTHER, "")?;
        if xen.fuse {
            blown(&mut session)?;
            seen.push(answers(&mut session)?);
        }
        session.finish()?;
    }
    let stock = seen.first().context("nothing was seen")?;
    for (when, other) in ["open", "locked"].iter().zip(&seen[1..]) {
        ensure!(
            other == stock,
            "{when}: {other:?}, and stock Xen: {stock:?}"
        );
    }
    Ok(())
}

/// Whoever is told of a domain's events is told its registers, and sets them.
fn blown(session: &mut Session) -> Result<()> {
    let line = told(session, CANARY, "share", 1)?.remove(0);
    ensure!(line.starts_with("0 gfn "), "share: {line}");
    // A ring that is there is in the way, in a page that is shared as well.
    introspects(session, CANARY, SHARED, "")?;
    session.must(&format!("vmf-probe introspect {CANARY} {SHARED:#x} --stay"))?;
    let check = format!("vmfctl check {CANARY}");
    ends(session, &check, 1, &["PV interface"])?;
    session.must(&format!("vmf-probe introspect-end {CANARY}"))?;
    ends(session, &check, 0, &[])?;

    session.must(&format!("vmf-probe watch {CANARY}"))?;
    session.must(&format!("vmfctl protect --yes {CANARY}"))?;
    refused(session)?;
    introspects(session, LINUX, OTHER, "")?;
    session.must("vmfctl lock --yes")?;
    state_is(session, "locked")?;
    refused(session)?;
    introspects(session, LINUX, OTHER, "")?;
    guests_go_on(session)?;
    dom0_goes_on(session)
}

fn refused(session: &mut Session) -> Result<()> {
    introspects(session, CANARY, SHARED, "error=EPERM")?;
    introspects(session, CANARY, PRIVATE, "error=EPERM")?;
    let watch = format!("vmf-probe watch {CANARY}");
    ends(session, &watch, 1, &["error=EPERM"]).map(drop)
}
