//! The examples of `dts/`, booted as whoever copies them would.

use std::path::Path;

use anyhow::Result;
use vmf_audit::report::Level;

use super::boot::{Own, finish, release, reported};
use super::common::{self, with_shm};
use super::shared;
use crate::lab::audit;
use crate::lab::images::Images;
use crate::lab::profile::{Domain, Guest, Profile};
use crate::lab::session::{BOOT, Session};

/// The cases of this file.
pub const OWN: &[Own] = &[
    Own {
        name: "lab/boot-example/two-that-talk",
        run: two_that_talk,
        xens: with_shm,
    },
    Own {
        name: "lab/boot-example/with-dom0",
        run: with_dom0,
        xens: release,
    },
];

fn system(base: &Profile, name: &str, guests: &[Guest]) -> Profile {
    let mut profile = base.clone();
    profile.name = format!("example-{name}");
    profile.device_tree = format!("dts/example-{name}.dts");
    let domains = guests.iter().map(|&guest| Domain {
        guest,
        arguments: String::new(),
        ..base.domains[0].clone()
    });
    profile.domains = domains.collect();
    profile
}

fn two_that_talk(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut profile = system(base, "two-that-talk", &[Guest::Canary, Guest::Canary]);
    profile.xen.shm = true;
    let mut session = Session::boot(images, &profile, lab, false)?;
    session.beats_of(&[1, 2], 1)?;
    let word = "lock, 4 pages shared";
    reported(&mut session, &[(1, word), (2, word)])?;
    common::claim(&mut session);
    session.shared = [1, 2].map(|id| shared::share(id, 4)).to_vec();
    let moment = session.moment("booted", &[1, 2])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)?;
    common::areas(&mut session)?;
    common::exchange(&mut session, 0)?;
    session.beats_of(&[1, 2], 2)?;
    finish(session)
}

fn with_dom0(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut profile = system(base, "with-dom0", &[Guest::Linux, Guest::Canary]);
    profile.banks[0].mib = 2048;
    let mut session = Session::boot(images, &profile, lab, false)?;
    session.wait_domain(1, "Linux version", BOOT)?;
    session.wait("Linux in dom0", BOOT, |seen| {
        seen.streams.dom0.contains("Linux version").then_some(())
    })?;
    session.beats(2, 1)?;
    let wanted = [
        (0, "unprotected"),
        (1, "unprotected"),
        (2, "unmap, 4 pages"),
    ];
    reported(&mut session, &wanted)?;
    session.shared = vec![shared::share(2, 4)];
    let moment = session.moment("booted", &[2])?;
    audit::must_hold(&audit::check(&moment, Level::Unmap)?)?;
    session.beats(2, 2)?;
    finish(session)
}
