//! `vmf-attack`: the attackers of the threat model, in the dom0 of a lab whose
//! Xen has `CONFIG_VMF_ATTACK`. It tries every vector, blows the fuse, and
//! tries them all again with what it has learned.
//!
//! * [`cli`]: the command line; [`report`]: the table and the exit code;
//! * [`primitive`]: L1, L2 and L3 at EL2; [`memory`]: memory of dom0 by its
//!   machine address; [`hypercalls`]: others that no tool makes;
//! * [`symbols`]: what is known of Xen; [`tables`]: translation tables;
//!   [`victim`]: domains and the secret; [`lab`]: all of it together;
//! * [`vectors`]: the attacks; [`blow`]: the blow and its races.

mod blow;
mod cli;
mod hypercalls;
mod lab;
mod memory;
mod pin;
mod primitive;
mod report;
mod symbols;
mod tables;
mod vectors;
mod victim;

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;

use crate::cli::{Cli, Command, Run, StopWith};
use crate::lab::{Lab, Phase};
use crate::primitive::{Primitive, Stop};
use crate::report::{Report, Row};
use crate::symbols::Symbols;
use crate::vectors::{Outcome, Vector};
use crate::victim::Domain;

/// Why the attack could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// From an error of the operating system.
    fn io(what: &str, error: &io::Error) -> Self {
        Self(format!("{what}: {error}"))
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Self(format!(
            "the attack primitives do not do what they must: {stop}"
        ))
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Probe => probe(),
        Command::Run(run) => attack(&run),
        Command::Stop(stop) => change_for_good(&stop),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(2)
        }
    }
}

fn probe() -> Result<u8, Failure> {
    Primitive::open().map_err(|error| Failure(error.to_string()))?;
    println!("this Xen has the attack primitives");
    Ok(0)
}

/// A failure in one attempt is about that attempt.
fn outcome(vector: &mut dyn Vector, lab: &mut Lab) -> Outcome {
    let attempt = vector.attempt(lab);
    // Mappings that were made to read are not the attack.
    let tidy = lab.give_back();
    match (attempt, tidy) {
        (Ok(outcome), Ok(())) => outcome,
        (Err(failure), _) | (_, Err(failure)) => Outcome::NotAttempted(failure.to_string()),
    }
}

fn attack(run: &Run) -> Result<u8, Failure> {
    if run.accomplice != 0 {
        return Err(Failure(
            "--accomplice: only the domain that this runs in (0) can tell what it reads".into(),
        ));
    }
    pin::to_cpu(0)?;
    let mut lab = Lab::open(Symbols::read(&run.symbols)?)?;
    let seed = run.expendable_seed.unwrap_or(run.seed);
    lab.look(
        run.accomplice,
        (run.victim, run.seed),
        (run.expendable, seed),
    )?;

    let mut vectors = vectors::all();
    let mut before = Vec::new();
    for vector in &mut vectors {
        let facts = vector.facts();
        eprintln!("before: {} {}", facts.id, facts.title);
        before.push(outcome(vector.as_mut(), &mut lab));
    }
    let mut blown = None;
    let mut after = Vec::new();
    if run.blow {
        let ids = if run.protect.is_empty() {
            vec![run.victim, run.expendable]
        } else {
            run.protect.clone()
        };
        for vector in &mut vectors {
            vector.touch(&mut lab)?;
        }
        eprintln!("blow");
        // At boot it may have been, and only the lock is left.
        let unmapped = blow::is_protected(&lab, run.victim)?;
        let refused = if unmapped {
            None
        } else {
            blow::refusal(&lab, run.victim)?
        };
        if unmapped || refused.is_some() {
            for vector in &mut vectors {
                vector.tidy(&mut lab)?;
            }
        }
        blown = Some(blow::blow(&lab, &ids, run.levels, !run.no_races, refused)?);
        lab.phase = Phase::After;
        for vector in &mut vectors {
            let facts = vector.facts();
            eprintln!("after: {} {}", facts.id, facts.title);
            after.push(outcome(vector.as_mut(), &mut lab));
        }
    }
    let mut after = after.into_iter();
    let rows: Vec<Row> = vectors
        .iter()
        .zip(before)
        .map(|(vector, before)| Row::new(vector.facts(), run.levels.level(), before, after.next()))
        .collect();
    let report = Report {
        level: run.levels.word(),
        directmap: lab.directmap,
        cpus: lab.cpus,
        blow: blown,
        claims: report::claims(&rows),
        rows,
    };
    show(run, &report)?;
    Ok(report.code())
}

fn show(run: &Run, report: &Report) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(report)
        .map_err(|error| Failure(format!("report: {error}")))?;
    if let Some(path) = &run.output {
        std::fs::write(path, &json).map_err(|e| Failure::io(&path.display().to_string(), &e))?;
    }
    let text = if run.json { json } else { report.table() };
    println!("{}", text.trim_end());
    io::stdout().flush().map_err(|e| Failure::io("stdout", &e))
}

/// How long Xen has to notice.
const NOTICE: Duration = Duration::from_secs(5);

/// Writes what a context switch loads; Xen is to stop before it loads it.
fn change_for_good(stop: &cli::Stop) -> Result<u8, Failure> {
    let mut lab = Lab::open(Symbols::read(&stop.symbols)?)?;
    let own = Domain::find(&mut lab, 0)?;
    let victim = Domain::find(&mut lab, stop.victim)?;
    let (at, value) = match stop.with {
        StopWith::Vttbr => {
            let member = lab.symbols.member("domain", "arch.p2m.vttbr")?;
            (
                own.structure + member,
                own.vttbr & (0xffff << 48) | victim.root,
            )
        }
        StopWith::Hcr => {
            let at = own.vcpu + lab.symbols.member("vcpu", "arch.hcr_el2")?;
            (at, lab.read(at)? & !1)
        }
    };
    println!("vmf-attack: the last write");
    io::stdout()
        .flush()
        .map_err(|e| Failure::io("stdout", &e))?;
    lab.primitive.store(0, at, value)?;
    thread::sleep(NOTICE);
    println!("vmf-attack: Xen did not notice");
    Ok(1)
}
