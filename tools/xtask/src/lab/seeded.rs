//! A Xen that may have a fault in it: boots it, blows the fuse, and asks every
//! oracle that needs a machine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Error, Result, anyhow, ensure};
use serde_json::Value;
use vmf_audit::report::{Level, Verdict};

use super::audit;
use super::experiment::{self, BLOW};
use super::images::Images;
use super::profile::{Cpu, Profile};
use super::scenarios::{self, sealed, stale};
use super::session::Session;
use crate::mutants::Oracle;
use crate::site::Site;
use crate::xen::Built;

/// How the machine differs from the `test` profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeededSystem {
    /// Another CPU.
    pub cpu: Option<Cpu>,
    /// `directmap=`.
    pub directmap: bool,
    /// How far the fuse is blown: `seal`, or `lock`.
    pub seal: bool,
}

impl fmt::Display for SeededSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.unwrap_or(Cpu::CortexA57);
        let directmap = if self.directmap { "yes" } else { "no" };
        let level = if self.seal { "seal" } else { "lock" };
        write!(f, "{cpu}, directmap={directmap}, {level}")
    }
}

/// What the oracles have said; empty if nothing is wrong.
pub type Spoken = BTreeMap<Oracle, String>;

/// The machines on which faults are tried.
pub struct Seeded<'a> {
    site: &'a Site,
    base: Profile,
    images: RefCell<Images>,
}

/// What must fail in dom0 once domains are protected, as documented.
const FOREIGN: [&str; 5] = [
    "vmf-probe foreign-map 1 0x40100",
    "vmf-probe foreign-map 2 0x40100",
    "vmf-probe raw-foreign-map 2 0x40100",
    "vmf-probe raw-grant-map 2 8",
    "vmf-probe gnttab-copy 2 8",
];
/// The same for what takes pages away, which after the lock succeeds without
/// effect.
const TAKEN: [&str; 1] = ["vmf-probe decrease 2 0x40100"];
/// Fewer pages than any domain of the lab has.
const LEAKED: u64 = 1024;
/// What must fail after the lock, besides.
const LOCKED: [&str; 3] = [
    "vmf-probe populate self 0x3c0000",
    "vmf-probe create",
    "vmfctl protect --yes 0",
];

impl<'a> Seeded<'a> {
    /// Gathers what all machines need.
    pub fn new(site: &'a Site) -> Result<Self> {
        let mut base = Profile::read(site.root(), "test")?;
        base.name = "mutant".to_owned();
        base.description = "a Xen with a deliberate fault".to_owned();
        let images = RefCell::new(Images::gather(site, [])?);
        Ok(Self { site, base, images })
    }

    /// Boots `built`, blows the fuse and asks the oracles. Fails only if the
    /// machine could not be asked.
    pub fn judge(&self, built: &Built, system: SeededSystem) -> Result<Spoken> {
        let mut profile = self.base.clone();
        profile.cpu = system.cpu.unwrap_or(profile.cpu);
        profile.directmap = system.directmap;
        self.images
            .borrow_mut()
            .replace_xen(profile.xen, built.clone());
        let lab = self.site.target().join("lab");
        let mut session = Session::boot(&self.images.borrow(), &profile, &lab, false)?;
        let folder = session.folder().to_owned();
        let mut spoken = Spoken::new();
        if let Err((oracle, error)) = ask(&mut session, system, &mut spoken) {
            spoken.entry(oracle).or_insert_with(|| first_line(&error));
        }
        // A machine that has crashed cannot end in an orderly way.
        let ended = session.finish().map(drop);
        if spoken.is_empty() {
            ended?;
        }
        super::suite::remove_dumps(&folder)?;
        Ok(spoken)
    }
}

/// Asks all of them, in the order in which the machine allows it. An error
/// after which nothing further can be asked names its oracle.
fn ask(
    session: &mut Session,
    system: SeededSystem,
    spoken: &mut Spoken,
) -> Result<(), (Oracle, Error)> {
    let survival = |error| (Oracle::Survival, error);
    session.wait_dom0().map_err(survival)?;
    scenarios::guests_go_on(session).map_err(survival)?;
    scenarios::canary(session, "grant").map_err(survival)?;
    for command in FOREIGN {
        session.must(command).map_err(survival)?;
    }
    let ids = experiment::domus(session);
    let level = if system.seal {
        Level::Seal
    } else {
        Level::Lock
    };

    let before = session.moment("before", &ids).map_err(survival)?;
    let report = audit::check(&before, Level::Lock).map_err(|error| (Oracle::Audit, error))?;
    audit::must_not_hold(&report).map_err(|error| (Oracle::Audit, error))?;
    // Without the directmap, nothing of the guests is mapped to begin with.
    let mut addresses = Vec::new();
    if system.directmap {
        addresses = stale::addresses(&report).map_err(|error| (Oracle::Touch, error))?;
        let reached = session.touch(&addresses).map_err(survival)?;
        if !reached.iter().flatten().all(|reached| *reached) {
            return Err((Oracle::Touch, anyhow!("not all could be reached before")));
        }
    }

    // In two steps, to see what is refused in between.
    let blow = |session: &mut Session, command: &str| {
        let output = session
            .run_within(command, BLOW)
            .map_err(|error| (stopped_by(&error), error))?;
        if output.code != 0 {
            return Err((Oracle::SelfCheck, anyhow!("{}", output.line())));
        }
        Ok(())
    };
    let list = experiment::arguments(&ids);
    blow(session, &format!("vmfctl protect --yes {list}"))?;
    if let Err(error) = refused(session, &FOREIGN).and_then(|()| refused(session, &TAKEN)) {
        spoken.insert(stopped_by(&error), first_line(&error));
    }
    let word = if system.seal { "seal" } else { "lock" };
    let command = format!("vmfctl {word} --yes");
    if addresses.is_empty() {
        blow(session, &command)?;
    } else {
        let (output, _, reached) = session
            .run_touched(&command, BLOW, &addresses)
            .map_err(|error| (stopped_by(&error), error))?;
        if output.code != 0 {
            return Err((Oracle::SelfCheck, anyhow!("{}", output.line())));
        }
        let first = reached.iter().zip(0..).find_map(|(each, cpu)| {
            let reached = each.iter().zip(&addresses).find(|(reached, _)| **reached)?;
            Some((cpu, *reached.1))
        });
        if let Some((cpu, address)) = first {
            let what = format!("CPU {cpu} still reaches {address:#x}");
            spoken.insert(Oracle::Touch, what);
        }
    }
    let after = session.moment("after", &ids).map_err(survival)?;
    let report = audit::check(&after, level).map_err(|error| (Oracle::Audit, error))?;
    if report.verdict != Verdict::Holds {
        spoken.insert(Oracle::Audit, audit::sentence(&report));
    }
    if system.seal
        && let Err(error) = sealed::gates_after(session)
    {
        spoken.insert(Oracle::Gates, first_line(&error));
    }
    // Last: it costs a domain.
    if let Err(error) = afterwards(session) {
        spoken.insert(stopped_by(&error), first_line(&error));
    }
    Ok(())
}

/// Life after the blow: what goes on, and what is refused.
fn afterwards(session: &mut Session) -> Result<()> {
    scenarios::guests_go_on(session)?;
    scenarios::dom0_goes_on(session)?;
    refused(session, &FOREIGN)?;
    refused(session, &LOCKED)?;
    // A guest's memory is freed and scrubbed, or not.
    let before = leaked(session)?;
    session.must("vmf-probe destroy 1")?;
    session.must("sleep 2; vmf-probe domains")?;
    ensure!(
        leaked(session)? > before + LEAKED,
        "the memory of a domain that goes is not leaked"
    );
    scenarios::dom0_goes_on(session)
}

fn leaked(session: &mut Session) -> Result<u64> {
    let status: Value = serde_json::from_str(&session.must("vmfctl status --json")?)?;
    let leaked = status["counters"]["leaked_pages"].as_u64();
    leaked.ok_or_else(|| anyhow!("vmfctl status counts no leaked pages: {status}"))
}

fn refused(session: &mut Session, commands: &[&str]) -> Result<()> {
    for command in commands {
        let output = session.run(command)?;
        ensure!(
            output.code != 0,
            "{command} should be refused: {}",
            output.line()
        );
    }
    Ok(())
}

/// Whose find a machine is that has stopped: the fuse's, if it says so.
fn stopped_by(error: &Error) -> Oracle {
    if format!("{error:#}").contains("VMF:") {
        Oracle::SelfCheck
    } else {
        Oracle::Survival
    }
}

fn first_line(error: &Error) -> String {
    let text = format!("{error:#}");
    let line: String = text.lines().next().unwrap_or_default().to_owned();
    line.chars().take(200).collect()
}
