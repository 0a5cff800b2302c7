//! How long the verifier takes for a dump of 2 GiB. This is time of the host.

use std::path::Path;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::images::Images;
use crate::lab::profile::{Bank, Profile, RAM_BASE};
use crate::lab::scenarios::boot::ALONE;
use crate::lab::session::{BOOT, Session};
use crate::lab::suite::remove_dumps;
use crate::process;
use crate::site::Site;

/// Size of the dump, in MiB.
const SIZE: u64 = 2048;
/// How often it is judged; the best time counts.
const RUNS: u32 = 3;

/// The result.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Audit {
    /// Size of the dump, in MiB.
    pub mib: u64,
    /// The shortest of the runs.
    pub seconds: f64,
    /// Number of runs.
    pub runs: u32,
    /// CPUs of the host.
    pub cpus: usize,
}

/// Locks a machine, dumps it, and judges the dump.
pub fn measure(site: &Site, images: &Images, base: &Profile, lab: &Path) -> Result<Audit> {
    process::logged(
        process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(site.root())
            .args(["build", "--release", "--package", "vmf-audit"])
            .arg("--target-dir")
            .arg(site.target()),
        "build of vmf-audit",
        &site.target().join("bench").join("vmf-audit.log"),
    )?;
    let mut profile = base.clone();
    profile.name = "bench-audit".to_owned();
    profile.device_tree = ALONE.to_owned();
    profile.xen_arguments = "vmf=lock conswitch=ax".to_owned();
    profile.banks = vec![Bank {
        start: RAM_BASE,
        mib: SIZE,
    }];
    let mut session = Session::boot(images, &profile, lab, false)?;
    session.wait_xen("VMF: boot: d1 lock", BOOT)?;
    let protected: Vec<u16> = (1..).take(profile.domains.len()).collect();
    let moment = session.moment("locked", &protected)?;
    let folder = session.folder().to_owned();
    session.finish()?;
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let answer = process::command(site.target().join("release/vmf-audit"))
            .args(["check", "--level", "lock"])
            .args([&moment.memory, &moment.registers])
            .output()
            .context("vmf-audit")?;
        best = best.min(start.elapsed());
        ensure!(
            answer.status.success(),
            "vmf-audit: the level does not hold ({}, run {})",
            answer.status,
            folder.display()
        );
    }
    remove_dumps(&folder)?;
    Ok(Audit {
        mib: SIZE,
        seconds: best.as_secs_f64(),
        runs: RUNS,
        cpus: available_parallelism().map_or(1, usize::from),
    })
}
