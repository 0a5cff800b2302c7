//! The lab's part of `cargo xtask test`: the matrix and the scenarios, several
//! machines side by side.
//!
//! Each boot is a job of its own; a case is recorded for each claim that a job
//! makes. There are no retries: a claim that fails once has failed.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, ensure};

use super::SuiteOptions;
use super::experiment::experiment;
use super::fuzz;
use super::images::Images;
use super::pairwise::{self, Case, EXCLUDED};
use super::profile::{Profile, Xen};
use super::queue::Queue;
use super::scenarios::{self, Group, boot::Own, cost};
use super::session::Session;
use crate::bench::figure;
use crate::cases::Cases;
use crate::site::Site;

/// One boot.
enum Job {
    /// A case of the matrix: the whole experiment.
    Matrix(Case),
    /// A group of scenario tests on one system.
    Group(&'static Group),
    /// A case that boots its own machines.
    Own(&'static Own),
    /// One that counts instructions.
    Counted(&'static str, cost::Run),
    /// The cases about what guests see, from the same boots.
    Cost,
    /// Hostile guests.
    Fuzz(&'static str, fuzz::Run),
    /// A crash of stock Xen that hostile guests have found.
    Known(&'static fuzz::Known),
}

/// How one case went.
struct Outcome {
    name: String,
    time: Duration,
    result: Result<()>,
}

/// What every job needs.
struct Shared<'a> {
    site: &'a Site,
    images: Images,
    base: Profile,
    keep: bool,
}

/// The lab's test cases.
pub fn suite(site: &Site, options: &SuiteOptions, cases: &mut Cases) -> Result<()> {
    ensure!(options.jobs > 0, "--jobs 0: at least one machine is needed");
    let base = Profile::read(site.root(), "test")?;
    let matrix = if options.full {
        pairwise::every()
    } else {
        pairwise::cover()
    };
    let attacks = if options.full || options.attacks {
        scenarios::ATTACKS
    } else {
        &[]
    };
    let groups = attacks
        .iter()
        .chain(scenarios::GROUPS.iter().copied().flatten());
    // The long ones first, so that none of them comes last alone.
    let costs = cost::CASES.map(|(name, run)| Job::Counted(name, run));
    let boots = scenarios::OWN.iter().copied().flatten().map(Job::Own);
    let jobs: VecDeque<Job> = [Job::Cost]
        .into_iter()
        .chain(costs)
        .chain(boots)
        .chain(fuzz::CASES.map(|(name, run)| Job::Fuzz(name, run)))
        .chain(fuzz::KNOWN.iter().map(Job::Known))
        .chain(groups.map(Job::Group))
        .chain(matrix.into_iter().map(Job::Matrix))
        .filter(|job| job.names().iter().any(|name| cases.wants(name)))
        .collect();
    if jobs.is_empty() {
        return Ok(());
    }
    println!("lab: {} boots, {} at a time", jobs.len(), options.jobs);
    println!("lab: {EXCLUDED}");
    let xens: Vec<Xen> = jobs.iter().flat_map(|job| job.xens(&base)).collect();
    let mut images = Images::gather(site, xens)?;
    for job in &jobs {
        if let Job::Group(group) = job {
            images.add_extras(site, &group.profile(&base))?;
        }
    }
    let shared = Shared {
        site,
        images,
        base,
        keep: options.keep,
    };
    let queue = Queue::new(jobs, options.jobs, |job| job.needs_the_host(&shared.base));
    let (sender, receiver) = channel::<Outcome>();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            let sender = sender.clone();
            let (queue, shared) = (&queue, &shared);
            scope.spawn(move || {
                while let Some(taken) = queue.take() {
                    taken.job.run(shared, &sender);
                    queue.give_back(&taken);
                }
            });
        }
        drop(sender);
        for outcome in receiver {
            cases.record(&outcome.name, outcome.time, outcome.result);
        }
    });
    Ok(())
}

impl Job {
    /// Names of the cases that it records.
    fn names(&self) -> Vec<String> {
        match self {
            Self::Matrix(case) => vec![matrix_name(case)],
            Self::Group(group) => group.names(),
            Self::Own(own) => vec![own.name.to_owned()],
            Self::Counted(name, _) | Self::Fuzz(name, _) => vec![(*name).to_owned()],
            Self::Known(known) => vec![known.case()],
            Self::Cost => figure::CASES.map(str::to_owned).to_vec(),
        }
    }

    /// The Xens that it boots.
    fn xens(&self, base: &Profile) -> Vec<Xen> {
        match self {
            Self::Matrix(case) => vec![case.profile(base).xen],
            Self::Group(group) => vec![group.profile(base).xen],
            Self::Own(own) => (own.xens)(base.xen),
            Self::Counted(..) | Self::Cost => cost::XENS.to_vec(),
            Self::Fuzz(_, run) => vec![run.xen()],
            Self::Known(known) => known.xens().to_vec(),
        }
    }

    /// Whether it runs alone.
    fn needs_the_host(&self, base: &Profile) -> bool {
        matches!(self, Self::Group(group) if group.profile(base).needs_the_host())
    }

    fn run(&self, shared: &Shared<'_>, sender: &Sender<Outcome>) {
        // The receiver lives as long as any sender.
        let send = |name: String, start: Instant, result| {
            let _ = sender.send(Outcome {
                name,
                time: start.elapsed(),
                result,
            });
        };
        let start = Instant::now();
        match self {
            Self::Matrix(case) => {
                let result = matrix(case, shared);
                send(matrix_name(case), start, result);
            }
            Self::Group(group) => run_group(group, shared, send),
            Self::Own(own) => {
                let lab = shared.site.target().join("lab");
                let result = (own.run)(&shared.images, &shared.base, &lab);
                send(own.name.to_owned(), start, result);
            }
            Self::Counted(name, run) => {
                let lab = shared.site.target().join("lab");
                let result = run(&shared.images, &shared.base, &lab);
                send((*name).to_owned(), start, result);
            }
            Self::Cost => {
                let lab = shared.site.target().join("lab");
                match cost::guests(&shared.images, &shared.base, &lab) {
                    Ok(judged) => {
                        for (name, result) in judged {
                            send(name, start, result);
                        }
                    }
                    Err(error) => {
                        let text = format!("{error:#}");
                        for name in self.names() {
                            send(name, start, Err(Error::msg(text.clone())));
                        }
                    }
                }
            }
            Self::Fuzz(name, run) => {
                let lab = shared.site.target().join("lab");
                let result = fuzz::perform(&shared.images, &shared.base, &lab, run);
                send((*name).to_owned(), start, result.map(drop));
            }
            Self::Known(known) => {
                let lab = shared.site.target().join("lab");
                let result = known.perform(&shared.images, &shared.base, &lab);
                send(known.case(), start, result.map(drop));
            }
        }
    }
}

fn matrix_name(case: &Case) -> String {
    format!("lab/matrix/{case}")
}

/// Boots a case's system and does the experiment.
fn matrix(case: &Case, shared: &Shared<'_>) -> Result<()> {
    let profile = case.profile(&shared.base);
    let mut session = boot(shared, &profile)?;
    let folder = session.folder().to_owned();
    let result = (|| {
        session.wait_dom0()?;
        let outcome = experiment(&mut session)?;
        let claims = outcome.claims(profile.directmap);
        for claim in &claims {
            session
                .report
                .verdict(&claim.text, claim.held, &claim.seen)?;
        }
        let broken = claims.iter().find(|claim| !claim.held);
        broken.map_or(Ok(()), |claim| {
            Err(anyhow!("{}: {}", claim.text, claim.seen))
        })
    })();
    let ended = session.finish().map(drop);
    tidy(shared, &folder, result.and(ended))
}

/// Boots a group's system and runs its tests, in order. A test that fails does
/// not stop the others: they say what else is broken.
fn run_group(
    group: &'static Group,
    shared: &Shared<'_>,
    send: impl Fn(String, Instant, Result<()>),
) {
    let start = Instant::now();
    let names = group.names();
    let profile = group.profile(&shared.base);
    let booted = boot(shared, &profile).and_then(|mut session| {
        session.wait_dom0()?;
        Ok(session)
    });
    let mut session = match booted {
        Ok(session) => session,
        Err(error) => {
            let text = format!("{error:#}");
            for name in names {
                send(name, start, Err(Error::msg(text.clone())));
            }
            return;
        }
    };
    let folder = session.folder().to_owned();
    let mut good = true;
    for (name, (_, test)) in names.into_iter().zip(group.tests) {
        let start = Instant::now();
        let result = test(&mut session);
        good &= result.is_ok();
        send(name, start, located(&folder, result));
    }
    let ended = session.finish().map(drop);
    if good && ended.is_ok() && !shared.keep {
        // What is left over costs disk, not truth.
        let _ = remove_dumps(&folder);
    }
}

fn boot(shared: &Shared<'_>, profile: &Profile) -> Result<Session> {
    let lab = shared.site.target().join("lab");
    Session::boot(&shared.images, profile, &lab, false)
}

/// Removes a good run's dumps; says where a bad run's evidence is.
fn tidy(shared: &Shared<'_>, folder: &Path, result: Result<()>) -> Result<()> {
    if result.is_ok() && !shared.keep {
        remove_dumps(folder)?;
    }
    located(folder, result)
}

fn located(folder: &Path, result: Result<()>) -> Result<()> {
    result.map_err(|error| anyhow!("{error:#} (run {})", folder.display()))
}

/// A dump is as large as the machine's memory.
pub fn remove_dumps(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).context("run")? {
        let path = entry.context("run")?.path();
        if path.extension().is_some_and(|extension| extension == "elf") {
            fs::remove_file(&path).with_context(|| format!("{}: cannot remove", path.display()))?;
        }
    }
    Ok(())
}
