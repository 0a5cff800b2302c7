//! `vmfctl protect`, `lock`, `seal` and `blow`: check, preview, confirmation, the
//! deed, and a second look before success is reported.
//!
//! Everything that can be checked is checked before the first step that cannot
//! be undone.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};

use serde_json::{Value, json};
use xen_vmf_abi::{
    XENVMF_counter_lock_ns, XENVMF_counter_lock_stopped_ns, XENVMF_counter_protect_ns,
};
use xenctrl_ffi::{DomId, MachineStatus, State};

use crate::Context;
use crate::check::{Aim, Goal, Report};
use crate::failure::{Failure, list};
use crate::select;
use crate::share;
use crate::status::{domain_json, firmware, meaning};

/// What stops working for a protected domain.
const PROTECTED: [&str; 4] = [
    "its hypercalls that pass a pointer fail: event channels, grants, PV drivers, console_io",
    "its loads and stores to emulated devices that write the address back fault: Xen would have to decode them",
    "its cache maintenance by set and way is refused",
    "no tool can look into its memory: debuggers, core dumps, save, migration",
];
/// What stops working on a locked machine.
const LOCKED: [&str; 5] = [
    "no domain can be created, or get memory: xl create, populate, ballooning",
    "no grant and no foreign mapping can be made or ended, by any domain",
    "a domain that is destroyed or reboots leaves its memory unusable until the next boot",
    "no CPU can go online or offline, and the machine cannot suspend; no livepatch",
    "no further domain can be protected",
];

/// What stops working when nothing is left that could undo the lock.
const SEALED: [&str; 1] = ["boot-time code is gone for good: nothing more than after a lock"];
/// What stops working without firmware.
const NO_FIRMWARE: [&str; 1] =
    ["guests' calls of firmware (TEE, SCMI, platform) are answered with NOT_SUPPORTED"];

/// `vmfctl protect`.
///
/// # Errors
/// What stands in the way, or Xen's.
pub fn protect(context: &Context, words: &[String]) -> Result<(), Failure> {
    carry_out(context, words, Aim::Protect)
}

/// `vmfctl lock`.
///
/// # Errors
/// What stands in the way, or Xen's.
pub fn lock(context: &Context) -> Result<(), Failure> {
    carry_out(context, &[], Aim::Lock(Goal::Lock))
}

/// `vmfctl seal`.
///
/// # Errors
/// What stands in the way, or Xen's.
pub fn seal(context: &Context, keep_firmware_calls: bool) -> Result<(), Failure> {
    let goal = if keep_firmware_calls {
        Goal::SealKeepingFirmware
    } else {
        Goal::Seal
    };
    carry_out(context, &[], Aim::Lock(goal))
}

/// `vmfctl blow`.
///
/// # Errors
/// What stands in the way, or Xen's.
pub fn blow(context: &Context, words: &[String], goal: Goal) -> Result<(), Failure> {
    carry_out(context, words, Aim::Blow(goal))
}

fn carry_out(context: &Context, words: &[String], aim: Aim) -> Result<(), Failure> {
    let report = Report::new(context, select::select(context, words)?, aim)?;
    let protect: Vec<DomId> = report.unprotected().map(select::Domain::id).collect();
    let lock = aim.goal().filter(|_| !report.locked);
    if let Some(goal) = aim.goal().filter(|_| report.locked) {
        not_too_late(&context.machine.status()?, goal)?;
    }

    if protect.is_empty() && lock.is_none() && report.clear() {
        return finish(context, &report, aim, &Times::default(), true);
    }
    if report.locked && !protect.is_empty() {
        return Err(Failure::LockedWithoutThese(protect));
    }
    if !report.clear() {
        if context.json {
            println!("{:#}", report.json());
        } else {
            report.print();
        }
        return Err(Failure::Obstacles);
    }
    if !context.yes {
        confirm(aim, &report, &protect, lock)?;
    }

    let before = Times::read(context)?;
    let mut done = Vec::new();
    for &id in &protect {
        say(context, &format!("protecting domain {id}"));
        context
            .machine
            .protect(id)
            .map_err(|error| half_way(error, &done))?;
        done.push(id);
    }
    if let Some(goal) = lock {
        say(
            context,
            if goal == Goal::Lock {
                "locking"
            } else {
                "sealing"
            },
        );
        match goal {
            Goal::Lock => context.machine.lock(),
            Goal::SealKeepingFirmware => context.machine.seal(true),
            Goal::Seal => context.machine.seal(false),
        }
        .map_err(|error| half_way(error, &done))?;
    }
    let times = Times::read(context)?.since(&before);
    finish(context, &report, aim, &times, false)
}

/// On a locked machine: whether it has reached `goal` already.
fn not_too_late(status: &MachineStatus, goal: Goal) -> Result<(), Failure> {
    let reached = match goal {
        Goal::Lock => true,
        Goal::SealKeepingFirmware => status.state == State::Sealed,
        Goal::Seal => status.state == State::Sealed && !status.firmware_calls,
    };
    match (reached, status.state) {
        (true, _) => Ok(()),
        (false, State::Sealed) => Err(Failure::TooLateToSeal("sealed with firmware calls")),
        (false, _) => Err(Failure::TooLateToSeal("locked")),
    }
}

fn half_way(error: xenctrl_ffi::Error, done: &[DomId]) -> Failure {
    if done.is_empty() {
        return error.into();
    }
    Failure::HalfWay {
        error,
        done: format!("domain {} protected", list(done)),
    }
}

fn say(context: &Context, text: &str) {
    if !context.json {
        println!("{text}");
    }
}

/// Nanoseconds, from Xen's counters.
#[derive(Default)]
struct Times {
    protect: u64,
    lock: u64,
    lock_stopped: u64,
}

impl Times {
    fn read(context: &Context) -> Result<Self, Failure> {
        let counters = context.machine.counters()?;
        Ok(Self {
            protect: counters.get(XENVMF_counter_protect_ns),
            lock: counters.get(XENVMF_counter_lock_ns),
            lock_stopped: counters.get(XENVMF_counter_lock_stopped_ns),
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            protect: self.protect.saturating_sub(before.protect),
            lock: self.lock.saturating_sub(before.lock),
            lock_stopped: self.lock_stopped.saturating_sub(before.lock_stopped),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "took {}", millis(self.protect + self.lock))?;
        if self.protect != 0 {
            write!(f, ", protect {}", millis(self.protect))?;
        }
        if self.lock != 0 {
            write!(
                f,
                ", lock {}, of which all CPUs stood still for {}",
                millis(self.lock),
                millis(self.lock_stopped)
            )?;
        }
        Ok(())
    }
}

/// Shows what will stop working, and asks for the word.
fn confirm(
    aim: Aim,
    report: &Report,
    protect: &[DomId],
    lock: Option<Goal>,
) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    let word = match aim {
        Aim::Protect => "protect",
        Aim::Lock(Goal::Lock) => "lock",
        Aim::Lock(_) => "seal",
        Aim::Blow(_) => "blow",
    };
    preview(report, protect, lock);
    ask(word, &mut io::stdin().lock())
}

pub(crate) fn ask(word: &str, answers: &mut impl BufRead) -> Result<(), Failure> {
    eprint!("This cannot be undone until the next boot. Type {word} to go on: ");
    io::stderr().flush().ok();
    let mut answer = String::new();
    answers.read_line(&mut answer).ok();
    if answer.trim() == word {
        Ok(())
    } else {
        Err(Failure::NotConfirmed)
    }
}

/// On the standard error, where the question goes.
fn preview(report: &Report, protect: &[DomId], lock: Option<Goal>) {
    for (domain, _) in report
        .domains
        .iter()
        .filter(|(d, _)| protect.contains(&d.id()))
    {
        eprintln!("{} will be protected:", domain.title());
        for line in PROTECTED {
            eprintln!("  - {line}");
        }
        for range in domain.shared.iter().flatten() {
            eprintln!(
                "  stays exposed: {}, shared on purpose",
                share::words(range)
            );
        }
    }
    let Some(goal) = lock else { return };
    let (word, more): (&str, &[&[&str]]) = match goal {
        Goal::Lock => ("locked", &[]),
        Goal::SealKeepingFirmware => ("sealed, but for calls of firmware", &[&SEALED]),
        Goal::Seal => ("sealed", &[&SEALED, &NO_FIRMWARE]),
    };
    eprintln!("the machine will be {word}:");
    for line in LOCKED.iter().chain(more.iter().copied().flatten()) {
        eprintln!("  - {line}");
    }
    for one in &report.exposed {
        eprintln!("  stays exposed: {}", one.what());
    }
}

/// Reads the state again: only what Xen then says is reported.
fn finish(
    context: &Context,
    report: &Report,
    aim: Aim,
    times: &Times,
    before: bool,
) -> Result<(), Failure> {
    let status = context.machine.status()?;
    let wanted = match aim.goal() {
        None => State::Unmapped,
        Some(Goal::Lock) => State::Locked,
        Some(Goal::Seal | Goal::SealKeepingFirmware) => State::Sealed,
    };
    if aim.goal() == Some(Goal::Seal) && status.firmware_calls {
        return Err(Failure::NotTrue("it can still call firmware".to_owned()));
    }
    if status.state < wanted {
        return Err(Failure::NotTrue(format!(
            "its state is {}",
            status.state.name()
        )));
    }
    let mut domains = Vec::new();
    for (domain, _) in &report.domains {
        let now = select::Domain::read(context, domain.id())?;
        if !now.status.protected || now.status.state < wanted {
            return Err(Failure::NotTrue(format!(
                "{} is {}",
                now.title(),
                now.status.state.name()
            )));
        }
        domains.push(now);
    }

    if context.json {
        println!(
            "{:#}",
            json!({
                "ok": true,
                "already": before,
                "state": status.state.name(),
                "level": status.state.level(),
                "firmware_calls": status.firmware_calls,
                "protected_domains": status.protected_domains,
                "domains": domains.iter().map(domain_json).collect::<Vec<Value>>(),
                "blow_ns": times.protect + times.lock,
                "protect_ns": times.protect,
                "lock_ns": times.lock,
                "lock_stopped_ns": times.lock_stopped,
            })
        );
        return Ok(());
    }
    if before {
        println!("done already, nothing was changed");
    }
    for domain in &domains {
        println!("{} is protected", domain.title());
    }
    share::print(&domains);
    println!("fuse {}: {}", status.state.name(), meaning(status.state));
    if let Some(text) = share::exception(&domains) {
        println!("{text}");
    }
    if let Some(text) = firmware(&status) {
        println!("{text}");
    }
    if !before {
        println!("{times}");
    }
    Ok(())
}

fn millis(ns: u64) -> String {
    format!("{}.{:03} ms", ns / 1_000_000, ns / 1000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_itself_confirms() {
        assert!(ask("blow", &mut "blow\n".as_bytes()).is_ok());
        for answer in ["", "\n", "y\n", "yes\n", "lock\n", "blow all\n"] {
            assert!(matches!(
                ask("blow", &mut answer.as_bytes()),
                Err(Failure::NotConfirmed)
            ));
        }
    }
}
