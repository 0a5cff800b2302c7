//! A dom0 that is protected itself: bare-metal, with the arguments of its
//! hypercalls in shared pages.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::boot::{ALONE, Own, finish, nobody_runs, release, reported};
use super::common::{claim_of, with_shm};
use super::shared;
use crate::lab::audit;
use crate::lab::images::Images;
use crate::lab::layout::cells;
use crate::lab::profile::{Guest, Profile};
use crate::lab::session::{BOOT, Session};

/// The cases of this file.
pub const OWN: &[Own] = &[
    Own {
        name: "lab/boot-dom0/protected-with-a-domu",
        run: protected,
        xens: release,
    },
    Own {
        name: "lab/boot-dom0/refusals",
        run: refusals,
        xens: release,
    },
    Own {
        name: "lab/boot-dom0/a-region-with-a-domu",
        run: region,
        xens: with_shm,
    },
];

/// dom0 and the domU.
const BOTH: [u16; 2] = [0, 1];
/// From where the canary's pages for hypercalls begin to its pattern: those
/// four, and one more.
const BEFORE_PATTERN: u64 = 5 << 12;

/// The canary as dom0, and as domU.
fn system(base: &Profile, name: &str, words: &str, chosen: &str) -> Profile {
    let mut profile = base.clone();
    profile.name = format!("boot-dom0-{name}");
    profile.dom0.guest = Guest::Canary;
    // What Xen emulates for dom0 in the place of its own UART.
    profile.dom0.arguments = "uart=0x9000000 status@1 badptr@1 areas@1 bounce@2".to_owned();
    profile.domains.retain(|d| d.guest == Guest::Canary);
    profile.xen_arguments = format!("{words} conswitch=ax");
    profile.overlay = format!("/ {{ chosen {{ {chosen} }}; }};\n");
    profile
}

/// The results of `badptr`, without what Xen says itself.
fn pointers(session: &mut Session) -> Result<Vec<String>> {
    session.wait_lines(0, "canary: badptr: ", 3, BOOT)?;
    let lines = session.domain_lines(0)?;
    let about = lines
        .iter()
        .filter_map(|line| line.split_once("canary: badptr: "));
    Ok(about.map(|(_, rest)| rest.trim().to_owned()).collect())
}

/// Where dom0's pages for hypercalls are, by what its canary says first.
fn pages(line: &str) -> Result<u64> {
    let start = line
        .split_once("memory 0x")
        .and_then(|(_, rest)| u64::from_str_radix(rest.split_once("..")?.0, 16).ok())
        .with_context(|| format!("where is dom0's memory? {line}"))?;
    Ok(start - BEFORE_PATTERN)
}

/// What `/chosen` says of a dom0 that is protected and shares these pages.
fn chosen(pages: u64) -> String {
    format!(
        "vmf-protected; vmf-share = <{} {}>;",
        cells(pages),
        cells(shared::CANARY_PAGES[1])
    )
}

fn protected(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    // Before: private pointers work. Where dom0's memory is, Xen decides.
    let profile = system(base, "before", "", "");
    let mut session = Session::boot(images, &profile, lab, false)?;
    let line = session.wait_domain(0, "canary: seed ", BOOT)?;
    let status = session.wait_domain(0, "canary: status: ", BOOT)?;
    ensure!(status.trim().ends_with(": 0"), "before: {status}");
    let before = pointers(&mut session)?;
    ensure!(
        before.iter().all(|line| !line.contains("EFAULT")),
        "before: {before:?}"
    );
    session.beats_of(&BOTH, 1)?;
    let moment = session.moment("open", &BOTH)?;
    audit::must_not_hold(&audit::check(&moment, Level::Unmap)?)?;
    finish(session)?;
    let pages = pages(&line)?;

    for (level, directmap) in [
        (Level::Unmap, true),
        (Level::Lock, true),
        (Level::Seal, false),
    ] {
        let words = format!("vmf={level}");
        let mut profile = system(base, &level.to_string(), &words, &chosen(pages));
        profile.directmap = directmap;
        let mut session = Session::boot(images, &profile, lab, false)?;
        let status = session.wait_domain(0, "canary: status: ", BOOT)?;
        ensure!(status.trim().ends_with(": 1"), "{level}: {status}");
        let word = format!("{level}, 4 pages shared");
        reported(&mut session, &[(0, &word), (1, &level.to_string())])?;
        let after = pointers(&mut session)?;
        ensure!(
            after.iter().all(|line| line.contains("EFAULT")),
            "{level}: {after:?}"
        );
        session.wait_lines(0, "canary: bounce: ", shared::LINES, BOOT)?;
        shared::judge_protected(&session, 0, true)?;
        session.shared = vec![audit::share(0, [pages, shared::CANARY_PAGES[1]])];
        let moment = session.moment("booted", &BOTH)?;
        audit::must_hold(&audit::check(&moment, level)?)?;
        session.beats_of(&BOTH, 2)?;
        finish(session)?;
    }
    Ok(())
}

/// What does not fit is named, and starts nobody.
fn refusals(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for (chosen, alone, said) in [
        (
            "vmf-protected;",
            false,
            "/chosen: vmf-protected: hypercalls of d0 would fail",
        ),
        (
            "vmf-protected; vmf-share = <0x0 0x9000000 0x0 0x1000>;",
            false,
            "/chosen: vmf-share: 0x00000009000000, 0x00000000001000 bytes: not all of it is memory",
        ),
        (
            "vmf-share = <0x0 0x60000000 0x0 0x1000>;",
            false,
            "of a dom0 without vmf-protected",
        ),
        (
            "domU1 { vmf-protected; };",
            false,
            "/chosen/domU1: vmf-protected: not the node of a dom0",
        ),
        (
            "vmf-protected;",
            true,
            "/chosen: vmf-protected: there is no dom0",
        ),
        ("", false, "with a dom0, which maps pages when it starts"),
    ] {
        let mut profile = system(base, "refusal", "vmf=lock", chosen);
        if alone {
            profile.device_tree = ALONE.to_owned();
        }
        let mut session = Session::boot(images, &profile, lab, false)?;
        session.wait_xen(said, BOOT)?;
        nobody_runs(&mut session, said)?;
        session.finish()?;
    }
    Ok(())
}

/// What both have in common, for the host and for both.
const REGION: u64 = 0x7000_0000;
const REGION_BYTES: u64 = 1 << 16;

/// Each writes what the other reads. With dom0 outside, the region is as well;
/// with dom0 protected it is out of Xen's reach.
fn region(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut place = None;
    for (words, level) in [("vmf=unmap", Level::Unmap), ("vmf=lock", Level::Lock)] {
        let node = format!(
            "common {{ compatible = \"xen,domain-shared-memory-v1\"; xen,shm-id = \"common\"; \
             xen,shared-mem = <{region} {region} {}>; }};",
            cells(REGION_BYTES),
            region = cells(REGION)
        );
        let protected = place.map_or_else(String::new, chosen);
        let overlay = format!("{protected} {node} domU1 {{ {node} }};");
        let mut profile = system(base, "region", words, &overlay);
        profile.xen.shm = true;
        let second = REGION + 8;
        profile.dom0.arguments =
            format!("uart=0x9000000 poke:{REGION:#x}:0xd0@1 peek:{second:#x}@4");
        profile.domains[0].arguments += &format!(" poke:{second:#x}:0xd1@1 peek:{REGION:#x}@4");
        let mut session = Session::boot(images, &profile, lab, false)?;
        for (id, at, word) in [(0, second, 0xd1), (1, REGION, 0xd0)] {
            let line = session.wait_domain(id, "canary: peek: ", BOOT)?;
            let wanted = format!("canary: peek: {at:#x} {word:#x}");
            ensure!(line.trim().ends_with(&wanted), "{words}: d{id}: {line}");
        }
        session.common = vec![claim_of(REGION, REGION_BYTES, &BOTH)];
        let inside: &[u16] = match place {
            Some(pages) => {
                session.shared = vec![audit::share(0, [pages, shared::CANARY_PAGES[1]])];
                reported(&mut session, &[(0, "lock, 4 pages"), (1, "lock")])?;
                &BOTH
            }
            None => {
                reported(&mut session, &[(0, "unprotected"), (1, "unmap")])?;
                &BOTH[1..]
            }
        };
        let moment = session.moment("booted", inside)?;
        audit::must_hold(&audit::check(&moment, level)?)?;
        // Untold, the verifier finds that both have it.
        session.common.clear();
        let without = session.moment("unclaimed", inside)?;
        audit::must_not_hold(&audit::check(&without, level)?)?;
        session.beats_of(&BOTH, 1)?;
        let line = session.wait_domain(0, "canary: seed ", BOOT)?;
        place = Some(pages(&line)?);
        finish(session)?;
    }
    Ok(())
}
