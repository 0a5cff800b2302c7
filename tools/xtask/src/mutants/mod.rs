//! `cargo xtask mutants`: Xen with one deliberate fault at a time, and which
//! oracle catches it.
//!
//! A fault that nothing catches shows a hole in the tests; a test that no fault
//! can fail shows nothing at all. The unchanged Xen goes through the same
//! oracles in the same run, and none may speak up.
//!
//! - [`fault`]: the faults, as data in `tools/xtask/mutants/`
//! - [`build`]: a copy of crate or Xen with the fault in it, and what it builds
//! - the machine: [`crate::lab::seeded`] blows the fuse and asks every oracle

mod build;
mod fault;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use self::fault::Fault;
pub use self::fault::Oracle;
use crate::cases::Cases;
use crate::lab::Seeded;
use crate::site::Site;

/// Options of `cargo xtask mutants`.
#[derive(Args)]
pub struct Options {
    /// Only the faults whose name contains this text
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only list the faults
    #[arg(long)]
    list: bool,
    /// Write the result to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What became of one fault.
struct Tried {
    fault: Fault,
    caught: BTreeSet<Oracle>,
    seconds: f64,
}

impl Tried {
    /// Oracles that were to catch it and did not.
    fn missed(&self) -> Vec<Oracle> {
        self.fault
            .caught_by
            .difference(&self.caught)
            .copied()
            .collect()
    }
}

/// Tries all faults, or lists them; true if all were caught as they should be.
pub fn run(site: &Site, options: &Options) -> Result<bool> {
    let mut faults = Fault::all(site.root())?;
    if let Some(only) = &options.only {
        faults.retain(|fault| fault.name.contains(only));
    }
    if faults.is_empty() {
        bail!("no fault has such a name; `cargo xtask mutants --list` lists them");
    }
    if options.list {
        for fault in &faults {
            println!("{:28} {}", fault.name, fault.why);
        }
        return Ok(true);
    }
    let lab = Seeded::new(site)?;
    baseline(site, &lab, &faults)?;
    let mut tried = Vec::new();
    for fault in faults {
        let one = one(site, &lab, fault)?;
        print(&one);
        tried.push(one);
    }
    if let Some(path) = &options.json {
        let list: Vec<_> = tried
            .iter()
            .map(|one| {
                json!({"name": one.fault.name, "why": one.fault.why, "file": one.fault.file,
                    "caught_by": one.caught, "missed": one.missed()})
            })
            .collect();
        std::fs::write(path, serde_json::to_string_pretty(&list)?)
            .with_context(|| format!("{}: cannot write", path.display()))?;
    }
    let alone: Vec<String> = tried
        .iter()
        .filter(|one| one.caught.len() == 1)
        .filter_map(|one| Some(format!("{} ({})", one.fault.name, one.caught.first()?)))
        .collect();
    println!("caught by one oracle alone: {}", alone.join(", "));
    let good = tried.iter().filter(|one| one.missed().is_empty()).count();
    println!("{good} of {} faults caught by what should", tried.len());
    Ok(good == tried.len())
}

/// The short form, as test cases.
pub fn suite(site: &Site, cases: &mut Cases) -> Result<()> {
    let mut faults = Fault::all(site.root())?;
    cases.case("mutants: every fault of Xen's applies", || {
        let patched = build::patched(site)?;
        faults
            .iter()
            .filter(|fault| !fault.in_crate())
            .try_for_each(|fault| fault.changed(&patched).map(drop))
    });
    faults.retain(|fault| fault.short && cases.wants(&case(fault)));
    if faults.is_empty() {
        return Ok(());
    }
    let lab = Seeded::new(site)?;
    cases.case("mutants: without a fault no oracle speaks", || {
        baseline(site, &lab, &faults)
    });
    for fault in faults {
        cases.case(&case(&fault), || {
            let one = one(site, &lab, fault)?;
            match one.missed().as_slice() {
                [] => Ok(()),
                missed => bail!(
                    "not caught by {}: caught by {}",
                    words(missed),
                    words(&one.caught)
                ),
            }
        });
    }
    Ok(())
}

fn case(fault: &Fault) -> String {
    format!("mutants/{}", fault.name)
}

/// The positive: on each kind of system that the faults need, Xen as it is
/// passes every oracle.
fn baseline(site: &Site, lab: &Seeded<'_>, faults: &[Fault]) -> Result<()> {
    build::host(site, None).context("without a fault: host")?;
    let built = build::xen(site, None)?;
    let systems: BTreeSet<_> = faults.iter().map(Fault::system).collect();
    for system in systems {
        let caught = lab.judge(&built, system)?;
        if let Some((oracle, what)) = caught.first_key_value() {
            bail!("without a fault the oracle {oracle} says ({system}): {what}");
        }
    }
    Ok(())
}

fn one(site: &Site, lab: &Seeded<'_>, fault: Fault) -> Result<Tried> {
    let start = Instant::now();
    let mut caught = BTreeSet::new();
    if fault.in_crate() && build::host(site, Some(&fault)).is_err() {
        caught.insert(Oracle::Host);
    }
    match build::xen(site, Some(&fault)) {
        Ok(built) => {
            let spoken = lab.judge(&built, fault.system())?;
            for (oracle, what) in &spoken {
                println!("    {}: {oracle}: {what}", fault.name);
            }
            caught.extend(spoken.into_keys());
        }
        Err(error) => {
            if !build::refused_by_scan(site) {
                return Err(error).with_context(|| format!("{}: does not build", fault.name));
            }
            caught.insert(Oracle::Build);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Tried {
        fault,
        caught,
        seconds,
    })
}

fn print(one: &Tried) {
    let verdict = match one.missed().as_slice() {
        [] => "caught".to_owned(),
        missed => format!("MISSED by {}", words(missed)),
    };
    println!(
        "{verdict:8} {:6.1}s  {:28} by {}",
        one.seconds,
        one.fault.name,
        words(&one.caught)
    );
}

fn words<'a>(oracles: impl IntoIterator<Item = &'a Oracle>) -> String {
    let words: Vec<String> = oracles.into_iter().map(Oracle::to_string).collect();
    if words.is_empty() {
        "nothing".to_owned()
    } else {
        words.join(", ")
    }
}
