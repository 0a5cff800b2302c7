//! A run's folder, and what `report.json` in it says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::profile::Profile;

/// What is known about a run, written after every step.
#[derive(Serialize)]
pub struct Report {
    /// The profile as it was used.
    pub profile: Profile,
    /// What was done, in order.
    pub steps: Vec<StepReport>,
    /// What was claimed, and whether it held.
    pub verdicts: Vec<Verdict>,
    #[serde(skip)]
    folder: PathBuf,
}

/// One step.
#[derive(Serialize)]
pub struct StepReport {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One claim.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The claim.
    pub claim: String,
    /// Whether it held.
    pub held: bool,
    /// What was seen.
    pub seen: String,
}

impl Report {
    /// Makes the folder `<lab>/<profile>/<run>/` and points `latest` to it.
    pub fn new(lab: &Path, profile: &Profile) -> Result<Self> {
        let parent = lab.join(&profile.name);
        fs::create_dir_all(&parent)
            .with_context(|| format!("{}: cannot create", parent.display()))?;
        let run = run_name();
        let folder = parent.join(&run);
        fs::create_dir(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        // Runs go on side by side: the link is made aside and renamed into place.
        let aside = parent.join(format!(".latest-{run}"));
        symlink(&run, &aside).with_context(|| format!("{}: cannot create", aside.display()))?;
        fs::rename(&aside, parent.join("latest")).context("latest: cannot replace")?;
        let report = Self {
            profile: profile.clone(),
            steps: Vec::new(),
            verdicts: Vec::new(),
            folder,
        };
        report.write()?;
        Ok(report)
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Records a step that started at `start`.
    pub fn step<T>(&mut self, name: &str, start: Instant, result: &Result<T>) -> Result<()> {
        self.steps.push(StepReport {
            name: name.to_owned(),
            seconds: seconds(start.elapsed()),
            error: result.as_ref().err().map(|error| format!("{error:#}")),
        });
        self.write()
    }

    /// Records a verdict; returns whether it held.
    pub fn verdict(
        &mut self,
        claim: impl Into<String>,
        held: bool,
        seen: impl Into<String>,
    ) -> Result<bool> {
        self.verdicts.push(Verdict {
            claim: claim.into(),
            held,
            seen: seen.into(),
        });
        self.write()?;
        Ok(held)
    }

    fn write(&self) -> Result<()> {
        let path = self.folder.join("report.json");
        let text = serde_json::to_string_pretty(self).context("report.json")?;
        fs::write(&path, text).with_context(|| format!("{}: cannot write", path.display()))
    }
}

/// Milliseconds are enough.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Runs sort by name: UTC time, then this process' count.
fn run_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let time = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    format!("{time}-{}-{number}", std::process::id())
}
