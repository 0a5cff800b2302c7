//! The blow, and who else is at work meanwhile (V21): two vCPUs of dom0 blow
//! at the same time, while domains are created and destroyed.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use xenctrl_ffi::{Machine, State};

use crate::Failure;
use crate::cli::Claim;
use crate::lab::Lab;
use crate::pin;

/// How often one thread tries again after it was refused.
const ROUNDS: u32 = 200;
/// How long it may take until a domain has come, or was refused.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one thread was answered.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Side {
    /// Domains that it protected itself.
    pub protected: Vec<u16>,
    /// It was the one that locked.
    pub locked: bool,
    /// What it was refused, in order, each message once.
    pub refusals: Vec<String>,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
pub struct Blow {
    /// Threads that blew at the same time.
    pub sides: Vec<Side>,
    /// Domains created while it lasted, before Xen refused to.
    pub created: u32,
    /// Creations that Xen refused.
    pub creations_refused: u32,
    /// What Xen says to a blow while mappings of the attacker's are left, if it
    /// refuses; nothing has changed then.
    pub refused_first: Option<String>,
    /// Milliseconds from the first command to the last answer.
    pub milliseconds: u64,
    /// State of the machine afterwards.
    pub state: &'static str,
    /// Every domain was protected once and the machine locked once.
    pub whole: bool,
}

impl Side {
    fn refused(&mut self, error: &xenctrl_ffi::Error) {
        let text = error.to_string();
        if !self.refusals.contains(&text) {
            self.refusals.push(text);
        }
    }
}

fn side(number: usize, ids: &[u16], level: Claim, start: &Barrier) -> Result<Side, Failure> {
    pin::to_cpu(number)?;
    let machine = Machine::open().map_err(|error| Failure(error.to_string()))?;
    let mut side = Side::default();
    start.wait();
    let failed = |error: xenctrl_ffi::Error| Failure(error.to_string());
    for &id in ids {
        // Refused where the other side has done it, or is about to: nobody
        // locks before every domain is protected.
        for _ in 0..ROUNDS {
            match machine.protect(Lab::dom_id(id)?) {
                Ok(()) => side.protected.push(id),
                Err(error) => side.refused(&error),
            }
            if machine.domain(Lab::dom_id(id)?).map_err(failed)?.protected {
                break;
            }
        }
    }
    for _ in 0..ROUNDS {
        let locked = match level {
            Claim::Lock => machine.lock(),
            Claim::Seal => machine.seal(false),
        };
        match locked {
            Ok(()) => side.locked = true,
            Err(error) => side.refused(&error),
        }
        if machine.status().map_err(failed)?.state >= State::Locked {
            break;
        }
    }
    Ok(side)
}

fn come_and_go(stop: &AtomicBool, created: &AtomicU32, refused: &AtomicU32) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((code, text)) = Lab::run("vmf-probe", &["create", "--pages", "4"]) else {
            break;
        };
        let id = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix("domain="));
        match (code, id) {
            (0, Some(id)) => {
                created.fetch_add(1, Ordering::Relaxed);
                let _ = Lab::run("vmf-probe", &["destroy", id]);
            }
            _ => {
                refused.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Until it is counted once; whoever reads the counts sees it if it never was.
fn wait_for(count: &AtomicU32) {
    let end = Instant::now() + PATIENCE;
    while count.load(Ordering::Relaxed) == 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a domain is protected.
pub fn is_protected(lab: &Lab, id: u16) -> Result<bool, Failure> {
    let domain = lab.machine.domain(Lab::dom_id(id)?);
    Ok(domain
        .map_err(|error| Failure(error.to_string()))?
        .protected)
}

/// Protects a domain of which the attacker has left mappings. `Some` if Xen
/// refuses, and then nothing may have changed.
pub fn refusal(lab: &Lab, id: u16) -> Result<Option<String>, Failure> {
    let id = Lab::dom_id(id)?;
    let Err(error) = lab.machine.protect(id) else {
        return Ok(None);
    };
    let failed = |error: xenctrl_ffi::Error| Failure(error.to_string());
    let state = lab.machine.status().map_err(failed)?.state;
    let protected = lab.machine.domain(id).map_err(failed)?.protected;
    if state != State::Open || protected {
        return Err(Failure(format!(
            "{error}, but the state is {}",
            state.name()
        )));
    }
    Ok(Some(error.to_string()))
}

/// Blows the fuse on `ids`; with `races`, twice at once and with domains that
/// come and go.
pub fn blow(
    lab: &Lab,
    ids: &[u16],
    level: Claim,
    races: bool,
    refused_first: Option<String>,
) -> Result<Blow, Failure> {
    let sides = if races { 2 } else { 1 };
    let (stop, created, refused) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let barrier = Barrier::new(sides + 1);
    let (results, milliseconds) = thread::scope(|scope| {
        let churn = races.then(|| scope.spawn(|| come_and_go(&stop, &created, &refused)));
        if races {
            wait_for(&created);
        }
        let threads: Vec<_> = (0..sides)
            .map(|number| {
                let barrier = &barrier;
                scope.spawn(move || side(number, ids, level, barrier))
            })
            .collect();
        barrier.wait();
        let begin = Instant::now();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        let milliseconds = begin.elapsed().as_millis() as u64;
        if let Some(churn) = churn {
            wait_for(&refused);
            stop.store(true, Ordering::Relaxed);
            let _ = churn.join();
        }
        (results, milliseconds)
    });
    let sides = results
        .into_iter()
        .map(|result| result.unwrap_or_else(|_| Err(Failure("a thread has panicked".into()))))
        .collect::<Result<Vec<Side>, Failure>>()?;
    let state = lab
        .machine
        .status()
        .map_err(|error| Failure(error.to_string()))?
        .state;
    // Once by one of the two; by none where it was done before.
    let times = |id: u16| {
        let by = |side: &&Side| side.protected.contains(&id);
        sides.iter().filter(by).count()
    };
    let protected = ids
        .iter()
        .map(|&id| Ok(is_protected(lab, id)? && times(id) <= 1));
    let protected = protected.collect::<Result<Vec<bool>, Failure>>()?;
    let wanted = match level {
        Claim::Lock => State::Locked,
        Claim::Seal => State::Sealed,
    };
    let whole = state == wanted
        && protected.iter().all(|once| *once)
        && sides.iter().filter(|side| side.locked).count() == 1;
    Ok(Blow {
        sides,
        created: created.into_inner(),
        creations_refused: refused.into_inner(),
        refused_first,
        milliseconds,
        state: state.name(),
        whole,
    })
}
