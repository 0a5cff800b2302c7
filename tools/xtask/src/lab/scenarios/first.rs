//! The machine as the first guest finds it: stopped right before the first
//! instruction of any guest, recorded, and judged.

use std::path::Path;

use anyhow::{Result, ensure};
use vmf_audit::report::Level;

use super::boot::{self, ALONE, Own, finish, release};
use super::{CANARY, LINUX, guests_go_on};
use crate::lab::audit;
use crate::lab::images::Images;
use crate::lab::profile::{Guest, Profile, RAM_BASE};
use crate::lab::session::{Moment, Session};

/// The cases of this file.
pub const OWN: &[Own] = &[
    Own {
        name: "lab/boot-first-instruction/lock-and-seal-hold",
        run: blown,
        xens: release,
    },
    Own {
        name: "lab/boot-first-instruction/unmap-holds-with-dom0",
        run: unmapped,
        xens: release,
    },
    Own {
        name: "lab/boot-first-instruction/less-is-told",
        run: less,
        xens: release,
    },
];

/// Boots up to the first guest, of whom nothing may have been heard.
fn boot_to_guest(
    images: &Images,
    profile: &Profile,
    lab: &Path,
    protected: &[u16],
) -> Result<(Session, Moment)> {
    let (mut session, first, moment) = Session::boot_to_guest(images, profile, lab, protected)?;
    let seen = format!(
        "CPU {} at {:#x}, after {} returns to Xen",
        first.cpu, first.pc, first.before
    );
    session
        .report
        .verdict("no guest has run", first.heard.is_none(), &seen)?;
    let end = profile.banks.last().map_or(RAM_BASE, |bank| bank.end());
    ensure!(
        (RAM_BASE..end).contains(&first.pc),
        "the first guest is at {:#x}, which is no RAM: {first:?}",
        first.pc
    );
    ensure!(
        first.heard.is_none(),
        "a domain had written something before: {first:?}"
    );
    Ok((session, moment))
}

fn alone(base: &Profile, name: &str, words: &str) -> Profile {
    let mut profile = base.clone();
    profile.name = format!("boot-first-{name}");
    profile.device_tree = ALONE.to_owned();
    profile.xen_arguments = format!("{words} conswitch=ax");
    profile
}

/// The level holds before any guest has run one instruction, and goes on to.
fn blown(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for (level, directmap) in [(Level::Lock, false), (Level::Seal, true)] {
        let mut profile = alone(base, &level.to_string(), &format!("vmf={level}"));
        profile.directmap = directmap;
        let (mut session, moment) = boot_to_guest(images, &profile, lab, &[LINUX, CANARY])?;
        audit::must_hold(&audit::check(&moment, level)?)?;
        guests_go_on(&mut session)?;
        let word = level.to_string();
        let wanted = [(LINUX, word.as_str()), (CANARY, word.as_str())];
        boot::reported(&mut session, &wanted)?;
        boot::holds(&mut session, "booted", level)?;
        finish(session)?;
    }
    Ok(())
}

/// With a dom0, what is protected at boot is so before dom0 runs as well.
fn unmapped(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut profile = base.clone();
    profile.name = "boot-first-unmap".to_owned();
    profile.xen_arguments = "vmf=unmap".to_owned();
    let (mut session, moment) = boot_to_guest(images, &profile, lab, &[LINUX, CANARY])?;
    audit::must_hold(&audit::check(&moment, Level::Unmap)?)?;
    session.wait_dom0()?;
    guests_go_on(&mut session)?;
    boot::holds(&mut session, "booted", Level::Unmap)?;
    finish(session)
}

/// The same look finds what is missing where the fuse is blown less far than
/// claimed, not for this domain, or not at all.
fn less(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for (name, words, level) in [
        ("not-blown", "", Level::Unmap),
        ("blown-less", "vmf=unmap", Level::Lock),
        ("one-outside", "vmf=lock", Level::Unmap),
    ] {
        let mut profile = alone(base, name, words);
        for domain in &mut profile.domains {
            domain.unprotected = name == "one-outside" && domain.guest == Guest::Linux;
        }
        let (mut session, moment) = boot_to_guest(images, &profile, lab, &[LINUX, CANARY])?;
        let report = audit::check(&moment, level)?;
        audit::must_not_hold(&report)?;
        ensure!(
            (report.summary.protected_frames_mapped > 0) != (name == "blown-less"),
            "{name}: {}",
            audit::sentence(&report)
        );
        guests_go_on(&mut session)?;
        finish(session)?;
    }
    Ok(())
}
