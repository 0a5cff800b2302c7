//! Hostile guests: systems with the fuzzer of `tools/guests/fuzz` in the place
//! of a domU or of dom0, before, during and after the blow, and what must be
//! true at the end.
//!
//! What an event is, and which are left out and why, is in
//! `tools/guests/core/src/fuzz`. A seed and a number of events make the same
//! events on the same vCPU again; which vCPU is ahead of which, does not repeat.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use vmf_audit::report::Level;

use super::audit;
use super::demux::Source;
use super::experiment;
use super::images::Images;
use super::profile::{Domain, Guest, Profile, Xen};
use super::scenarios::boot::{ALONE, protected};
use super::session::{BOOT, Session};
use crate::site::Site;

/// Events of each vCPU that a run makes in a second at the very least, on a
/// busy host.
const SLOWEST: u64 = 200;
/// How long a fuzzer may say nothing.
const SILENT: Duration = Duration::from_secs(60);
/// How what is said of one that does begins.
const HANGS: &str = "nothing for ";
/// The word that makes it share them.
const SHARES: &str = " share";
/// How a fuzzer's last line begins.
const DONE: &str = "fuzz: done ";
/// Of Xen's messages about guests, ten in five seconds are enough. What is printed
/// faster than the UART takes it is not dropped: a canary's line has to be whole.
const QUIET: &str = "guest_loglvl=none/all sync_console";
/// vCPUs of a fuzzer: two that perform events, and one that they start.
const VCPUS: u32 = 3;
/// What a protected fuzzer shares with Xen, address and bytes: the structures
/// of one of its vCPUs, and the beginning of the memory that it may lose.
const SHARED: [[u64; 2]; 2] = [[0x4020_0000, 0x1000], [0x4040_0000, 0x1_0000]];

/// Who is hostile, and when the fuse is blown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// A domU beside Linux in dom0, which blows the fuse in the middle.
    Domu,
    /// The same, but the domU is not protected, and does before the blow what
    /// would be in the way if it were.
    Beside,
    /// The control domain, which blows the fuse itself in the middle.
    Control,
    /// Two domUs without dom0, one of them not protected, locked at boot.
    Locked,
    /// The same, sealed at boot.
    Sealed,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Which system.
    pub system: System,
    /// What the events are made from.
    pub seed: u64,
    /// How many each vCPU performs.
    pub events: u64,
    /// Debug build of Xen.
    pub debug: bool,
    /// Xen as upstream made it, on which nothing is blown.
    pub stock: bool,
    /// From which event on each is written to the console first.
    pub trace: Option<u64>,
    /// What of that which stock Xen does not survive is done, by name. The
    /// series' Xen survives all of it: there nothing means all.
    pub known: Option<&'static str>,
    /// On one vCPU only, so that all happens in one order.
    pub alone: bool,
}

/// A crash of stock Xen, or a CPU that it never gets back, that the fuzzer has
/// found, and that the series mends.
/// On stock Xen the fuzzer leaves it out since (`left_out.rs` in its grammar).
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name, for the fuzzer as well.
    pub name: &'static str,
    /// A run that finds it, on stock Xen. What takes more than one event is found
    /// for certain only where one vCPU performs them.
    pub run: Run,
    /// What Xen says; nothing where it hangs, and so does the fuzzer.
    pub says: Option<&'static str>,
}

/// All of them.
pub const KNOWN: [Known; 5] = [
    Known::new(
        "irq-permission",
        case(System::Locked, 4000, true),
        Some("Assertion 'unreachable' failed at ./include/xsm/dummy.h"),
    ),
    Known::new(
        "page-offline",
        case(System::Control, 4000, true),
        Some("Assertion 'unreachable' failed at arch/arm/mm.c"),
    ),
    Known::new(
        "interrupts-without-vcpus",
        alone(1003, case(System::Control, 60_000, false)),
        Some("Unexpected Trap: Data Abort"),
    ),
    Known::new(
        "part-of-a-cache-line",
        alone(1008, case(System::Control, 60_000, false)),
        None,
    ),
    Known::new(
        "half-removed-cpu",
        alone(2, case(System::Control, 20_000, true)),
        Some("Assertion 'get_sched_res(cpu)->cpupool == NULL' failed"),
    ),
];

const fn alone(seed: u64, run: Run) -> Run {
    Run {
        seed,
        alone: true,
        ..run
    }
}

/// Cases of the suite: a name and a run each. The seeds are their own; longer
/// runs and other seeds are `cargo xtask fuzz`.
pub const CASES: [(&str, Run); 5] = [
    ("lab/fuzz/control", case(System::Control, 20_000, true)),
    ("lab/fuzz/domu", case(System::Domu, 20_000, true)),
    ("lab/fuzz/beside", case(System::Beside, 20_000, true)),
    (
        "lab/fuzz/locked-at-boot",
        case(System::Locked, 20_000, true),
    ),
    (
        "lab/fuzz/sealed-at-boot",
        case(System::Sealed, 20_000, false),
    ),
];

const fn case(system: System, events: u64, debug: bool) -> Run {
    Run {
        system,
        seed: 1,
        events,
        debug,
        stock: false,
        trace: None,
        known: None,
        alone: false,
    }
}

/// Options of `cargo xtask fuzz`.
#[derive(Args)]
pub struct Options {
    /// How many events in all, at least
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// The first seed; each run takes the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this system
    #[arg(long)]
    system: Option<System>,
    /// Only the debug build of Xen
    #[arg(long, conflicts_with = "release")]
    debug: bool,
    /// Only the release build of Xen
    #[arg(long)]
    release: bool,
    /// The same events on Xen as upstream made it: what does not survive there either is no fault of the fuse
    #[arg(long)]
    stock: bool,
    /// Fuzzers write down each event from number N on before they perform it, which is slow
    #[arg(long, value_name = "N")]
    trace: Option<u64>,
    /// One vCPU performs, so that the same seed does the same in the same order
    #[arg(long)]
    alone: bool,
    /// One of the crashes of stock Xen that are known, on stock Xen and on the series'
    #[arg(long, value_name = "NAME")]
    known: Option<String>,
    /// No further run begins after so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// How many events each vCPU performs in one run
    #[arg(long, default_value_t = 100_000)]
    per_run: u64,
}

const SYSTEMS: [System; 5] = [
    System::Domu,
    System::Beside,
    System::Control,
    System::Locked,
    System::Sealed,
];

/// Runs systems one after the other, with a seed each, until enough events
/// have been performed; true if all was well.
pub fn fuzz(site: &Site, options: &Options) -> Result<bool> {
    let base = Profile::read(site.root(), "test")?;
    if let Some(name) = &options.known {
        return known(site, &base, name);
    }
    let builds: &[bool] = match (options.debug, options.release) {
        (true, _) => &[true],
        (_, true) => &[false],
        _ => &[true, false],
    };
    let systems = SYSTEMS
        .into_iter()
        .filter(|system| options.system.is_none_or(|only| only == *system));
    let runs: Vec<(System, bool)> = systems
        .flat_map(|system| builds.iter().map(move |&debug| (system, debug)))
        .collect();
    let run = |number: usize| {
        let (system, debug) = runs[number % runs.len()];
        Run {
            system,
            seed: options.seed + (number / runs.len()) as u64,
            events: options.per_run,
            debug,
            stock: options.stock,
            trace: options.trace,
            known: None,
            alone: options.alone,
        }
    };
    let xens = (0..runs.len()).map(|number| run(number).xen());
    let images = Images::gather(site, xens)?;
    let lab = site.target().join("lab");
    let (mut events, mut failed) = (0, 0);
    let end = options
        .minutes
        .map(|m| Instant::now() + Duration::from_secs(m * 60));
    for number in 0.. {
        let run = run(number);
        let start = Instant::now();
        let result = perform(&images, &base, &lab, &run);
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(done) => {
                events += done;
                println!("ok     {seconds:7.1}s  {run}: {done} events, {events} so far");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {seconds:7.1}s  {run}: {error:#}");
            }
        }
        let late = end.is_some_and(|end| Instant::now() >= end);
        if events >= options.events || failed >= 8 || late {
            break;
        }
    }
    println!("{events} events in runs that ended well, {failed} runs failed");
    Ok(failed == 0)
}

/// Shows that stock Xen crashes as is known and the series' does not; true if
/// it is so.
fn known(site: &Site, base: &Profile, name: &str) -> Result<bool> {
    let name = name.rsplit('/').next().unwrap_or(name);
    let known = KNOWN.iter().find(|known| known.name == name);
    let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
    let known = known.with_context(|| format!("known are: {}", names.join(", ")))?;
    let images = Images::gather(site, known.xens())?;
    let lab = site.target().join("lab");
    match known.perform(&images, base, &lab) {
        Ok(line) => println!("{}: {line}\n{}: lives", known.run, known.mended()),
        Err(error) => {
            println!("{error:#}");
            return Ok(false);
        }
    }
    Ok(true)
}

impl Known {
    const fn new(name: &'static str, run: Run, says: Option<&'static str>) -> Self {
        let run = Run {
            stock: true,
            known: Some(name),
            ..run
        };
        Self { name, run, says }
    }

    /// Its case in the suite.
    pub fn case(&self) -> String {
        format!("lab/fuzz/known/{}", self.name)
    }

    /// The same on the series' Xen.
    fn mended(&self) -> Run {
        Run {
            stock: false,
            ..self.run
        }
    }

    /// The Xens that it boots.
    pub fn xens(&self) -> [Xen; 2] {
        [self.run.xen(), self.mended().xen()]
    }

    /// Boots both: stock Xen has to crash or to hang, and the series' must not.
    /// Returns what stock Xen says, or what is said of it.
    pub fn perform(&self, images: &Images, base: &Profile, lab: &Path) -> Result<String> {
        let line = match self.says {
            Some(says) => {
                let mut session = Session::boot(images, &self.run.profile(base), lab, false)?;
                session.expect_crash();
                let line = session.wait_xen(says, self.run.allowed() + BOOT);
                session.finish()?;
                line.with_context(|| format!("{} should crash", self.run))?
            }
            None => match perform(images, base, lab, &self.run) {
                Err(error) if format!("{error:#}").contains(HANGS) => format!("{error:#}"),
                Err(error) => return Err(error.context(format!("{} should hang", self.run))),
                Ok(_) => bail!("{} should hang", self.run),
            },
        };
        perform(images, base, lab, &self.mended())?;
        Ok(line)
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let build = if self.debug { "debug" } else { "release" };
        let stock = if self.stock { " stock" } else { "" };
        let alone = if self.alone { " alone" } else { "" };
        let system = format!("{:?}", self.system).to_lowercase();
        write!(f, "{system} seed {} {build}{stock}{alone}", self.seed)
    }
}

impl Run {
    /// The Xen that it boots.
    pub fn xen(&self) -> Xen {
        Xen {
            fuse: !self.stock,
            debug: self.debug,
            its: false,
            shm: false,
            attack: false,
        }
    }

    /// The system that it boots.
    fn profile(&self, base: &Profile) -> Profile {
        let mut profile = base.clone();
        profile.name = format!("fuzz-{:?}", self.system).to_lowercase();
        profile.description = format!("hostile guests: {self}");
        profile.xen = self.xen();
        profile.deadline = 240 + self.allowed().as_secs();
        let canary = profile
            .domains
            .iter()
            .find(|domain| domain.guest == Guest::Canary);
        let canary = canary.cloned();
        profile.domains.clear();
        let blow = match self.system {
            System::Locked | System::Sealed => "past",
            // Nobody is there to blow it.
            System::Domu | System::Beside if self.stock => "self",
            System::Domu => "wait",
            System::Beside => "told",
            System::Control => "self",
        };
        let mut arguments = format!("seed={:#x} events={} blow={blow}", self.seed, self.events);
        if let Some(first) = self.trace {
            arguments.push_str(&format!(" trace={first}"));
        }
        match self.known {
            Some(name) => arguments.push_str(&format!(" known={name}")),
            None if !self.stock => arguments.push_str(" known"),
            None => {}
        }
        if self.alone {
            arguments.push_str(" from=0");
        }
        if self.dom0() {
            // Linux needs minutes to boot beside a guest that is hostile already.
            arguments.push_str(" go");
        }
        if self.system == System::Beside {
            arguments.push_str(" outside");
        }
        if self.shares() {
            arguments.push_str(SHARES);
        }
        let by_tree = matches!(self.system, System::Locked | System::Sealed);
        let fuzzer = canary.as_ref().map(|canary| Domain {
            guest: Guest::Fuzz,
            vcpus: VCPUS,
            arguments,
            share: if by_tree && self.shares() {
                SHARED.to_vec()
            } else {
                Vec::new()
            },
            ..canary.clone()
        });
        let (canary, fuzzer) = (canary.into_iter(), fuzzer.into_iter());
        let outside = |domain: Domain| Domain {
            unprotected: true,
            arguments: domain.arguments.replace(SHARES, ""),
            share: Vec::new(),
            // As many that are busy as there are CPUs.
            vcpus: 1,
            ..domain
        };
        match self.system {
            System::Domu | System::Beside => profile.domains.extend(fuzzer.chain(canary)),
            System::Control => {
                profile.dom0.guest = Guest::Fuzz;
                profile.dom0.vcpus = VCPUS;
                profile.dom0.arguments = fuzzer.map(|f| f.arguments).collect();
                profile.domains.extend(canary.clone().chain(canary));
            }
            System::Locked | System::Sealed => {
                let second = fuzzer.clone().map(outside);
                profile.domains.extend(fuzzer.chain(second).chain(canary));
                profile.device_tree = ALONE.to_owned();
            }
        }
        let words = match self.system {
            System::Locked if !self.stock => "vmf=lock conswitch=ax",
            System::Sealed if !self.stock => "vmf=seal conswitch=ax",
            System::Locked | System::Sealed => "conswitch=ax",
            _ => "",
        };
        profile.xen_arguments = format!("{QUIET} {words}").trim_end().to_owned();
        profile
    }

    /// How long the events may take.
    fn allowed(&self) -> Duration {
        Duration::from_secs(60 + self.events / SLOWEST)
    }

    /// The domains that perform events.
    fn fuzzers(&self) -> &'static [u16] {
        match self.system {
            System::Domu | System::Beside => &[1],
            System::Control => &[0],
            System::Locked | System::Sealed => &[1, 2],
        }
    }

    /// Whether Linux is in dom0.
    fn dom0(&self) -> bool {
        matches!(self.system, System::Domu | System::Beside)
    }

    /// Whether a fuzzer shares pages.
    fn shares(&self) -> bool {
        !self.stock && !matches!(self.system, System::Control | System::Beside)
    }

    /// How many vCPUs of such a domain do.
    fn performers(&self, id: u16) -> u64 {
        match (self.system, id) {
            (System::Locked | System::Sealed, 2) => 1,
            _ if self.alone => 1,
            _ => u64::from(VCPUS - 1),
        }
    }

    /// The domain whose memory must be as it was.
    fn witness(&self) -> u16 {
        match self.system {
            System::Domu | System::Beside => 2,
            System::Control => 1,
            System::Locked | System::Sealed => 3,
        }
    }
}

/// What a fuzzer says at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Done {
    events: u64,
    state: i64,
    protected: Vec<u16>,
}

/// Reads `fuzz: done N events state S protected 1,2` (or `-`).
fn done(line: &str) -> Option<Done> {
    let (_, rest) = line.split_once("fuzz: done ")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let &[events, "events", "state", state, "protected", protected] = words.as_slice() else {
        return None;
    };
    let ids = protected.split(',').filter(|&id| id != "-");
    Some(Done {
        events: events.parse().ok()?,
        state: state.parse().ok()?,
        protected: ids.map(|id| id.parse().ok()).collect::<Option<_>>()?,
    })
}

/// Boots it, lets it run to its end, and judges; returns how many events were
/// performed.
pub fn perform(images: &Images, base: &Profile, lab: &Path, run: &Run) -> Result<u64> {
    let profile = run.profile(base);
    // At boot they are hostile from their first instruction on.
    let at_boot = matches!(run.system, System::Locked | System::Sealed);
    let mut session = if at_boot && !run.stock {
        let ids = protected(&profile);
        let (session, _, moment) = Session::boot_to_guest(images, &profile, lab, &ids)?;
        audit::must_hold(&audit::check(&moment, Level::Lock)?)?;
        session
    } else {
        Session::boot(images, &profile, lab, false)?
    };
    let folder = session.folder().to_owned();
    let judged = course(&mut session, run)
        .and_then(|events| session.finish().map(|_| events))
        .with_context(|| format!("run {}", folder.display()));
    if judged.is_ok() {
        super::suite::remove_dumps(&folder)?;
    }
    judged
}

fn course(session: &mut Session, run: &Run) -> Result<u64> {
    session.beats(run.witness(), 1)?;
    if run.dom0() {
        session.wait_dom0()?;
        session.type_to_domain(1, "go")?;
    }
    if run.dom0() && !run.stock {
        said(session, run, 1, "fuzz: ready")?;
        if run.system == System::Domu {
            experiment::blow(session, &[1, 2])?;
        } else {
            experiment::blow(session, &[2])?;
            session.type_to_domain(1, "blown")?;
        }
    }
    let mut events = 0;
    let mut last = None;
    for &id in run.fuzzers() {
        let line = said(session, run, id, DONE)?;
        let done = done(&line).with_context(|| format!("d{id}: {line}"))?;
        ensure!(
            done.events >= run.events * run.performers(id),
            "d{id}: fewer events than were asked for: {line}"
        );
        events += done.events;
        last = Some(done);
    }
    let last = last.context("no fuzzer")?;
    session.beats(run.witness(), 2)?;
    if run.dom0() || run.system == System::Control {
        let lines = session.debug_key('r')?;
        ensure!(!lines.is_empty(), "Xen does not answer a debug key");
    }
    quiet(session)?;
    if !run.stock {
        level(session, run, &last)?;
    }
    Ok(events)
}

/// Waits until a fuzzer has said something; returns the line.
fn said(session: &mut Session, run: &Run, id: u16, text: &str) -> Result<String> {
    let name = format!("d{id} says \"{text}\"");
    session
        .step(&name, |session| {
            let mut spoken = (0, Instant::now());
            session.wait(&name, run.allowed() + BOOT, |seen| {
                // Only lines that are complete.
                let dom0 = seen.streams.dom0.split_inclusive('\n');
                let dom0 = dom0.filter(|line| id == 0 && line.ends_with('\n'));
                let domus = seen.streams.lines.iter();
                let domus = domus.filter(|line| line.source == Source::Domain(id));
                let lines = dom0.chain(domus.map(|line| line.text.as_str()));
                let beats = lines
                    .clone()
                    .filter(|line| line.contains("fuzz: heartbeat"));
                let beats = beats.count();
                if beats != spoken.0 {
                    spoken = (beats, Instant::now());
                }
                let mut found = lines
                    .filter(|line| {
                        // Others may have written into the middle of it.
                        let whole = text != DONE || done(line).is_some();
                        line.contains(text) && whole || line.contains("fuzz: PANIC")
                    })
                    .map(str::to_owned);
                found.next().or_else(|| {
                    let silent = spoken.1.elapsed() > SILENT;
                    silent.then(|| format!("{HANGS}{} s", SILENT.as_secs()))
                })
            })
        })
        .and_then(|line| {
            ensure!(line.contains(text), "d{id} does not say \"{text}\": {line}");
            Ok(line)
        })
}

/// Xen has complained of nothing.
fn quiet(session: &Session) -> Result<()> {
    let complaint = session.look(|seen| {
        let lines = seen.streams.lines.iter();
        let mut xen = lines.filter(|line| line.source == Source::Xen);
        let words = ["Assertion", "BUG", "Panic on CPU", "Unexpected Trap"];
        xen.find(|line| words.iter().any(|word| line.text.contains(word)))
            .map(|line| line.text.clone())
    })?;
    match complaint {
        Some(text) => bail!("Xen says: {text}"),
        None => Ok(()),
    }
}

/// The level that was blown holds.
fn level(session: &mut Session, run: &Run, last: &Done) -> Result<()> {
    let (level, protected): (_, Vec<u16>) = match run.system {
        System::Domu => (Level::Lock, vec![1, 2]),
        System::Beside => (Level::Lock, vec![2]),
        System::Locked => (Level::Lock, vec![1, 3]),
        System::Sealed => (Level::Seal, vec![1, 3]),
        System::Control => {
            let level = match last.state {
                2 => Level::Lock,
                3 => Level::Seal,
                state => bail!("the control domain has not blown the fuse: state {state}"),
            };
            (level, last.protected.clone())
        }
    };
    if run.shares() && run.system == System::Domu {
        session.shared = SHARED.map(|range| audit::share(1, range)).to_vec();
    }
    let moment = session.moment("end", &protected)?;
    audit::must_hold(&audit::check(&moment, level)?)
}

#[cfg(test)]
mod tests {
    use canary_core::fuzz::place::Crash;

    use super::*;

    #[test]
    fn the_fuzzer_knows_each_crash_by_its_name() {
        for known in &KNOWN {
            assert!(Crash::named(known.name).is_some(), "{}", known.name);
        }
    }

    #[test]
    fn a_fuzzers_last_line() {
        let line = "fuzz: done 20031 events state 2 protected 1,2";
        let wanted = Done {
            events: 20031,
            state: 2,
            protected: vec![1, 2],
        };
        assert_eq!(done(line), Some(wanted));
        let nobody = done("fuzz: done 1 events state -1 protected -").unwrap();
        assert!(nobody.protected.is_empty() && nobody.state == -1);
        assert_eq!(done("fuzz: done 1 events sta"), None);
    }
}
