//! Single tests, grouped by the system that they share.
//!
//! A group is one boot. Its tests run in the order in which they stand, so
//! later ones may rely on what earlier ones did (the fuse cannot be unblown);
//! each records its own result.
//!
//! - [`audit`]: what the verifier says of a real machine, and of damaged copies
//!   of its dump
//! - [`absent`]: what this configuration lacks, against stock Xen; introspection
//! - [`attack`]: the attackers of the threat model, before and after; with
//!   `directmap=no` only on request; [`attack_boot`]: on a machine that was
//!   blown at boot
//! - [`open`]: a system whose fuse is not blown: who may do what, what stands
//!   in the way, and that a refusal leaves everything as it was
//! - [`boot`]: the fuse blown at boot; [`nodes`]: what device trees can get wrong;
//!   [`first`]: the machine as the first guest finds it; [`common`]: memory and
//!   event channels that the device tree gives to several domains; [`dom0`]: a
//!   dom0 that is protected itself; [`examples`]: those of `dts/`
//! - [`blown`]: a system after the blow: what its domains may still try
//! - [`calls`]: dom0's hypercalls, one by one, before and after
//! - [`narrow`]: a domain of 32 bits
//! - [`partial`]: blows that are early, partial, or on an odd system
//! - [`endings`]: domains that crash, are suspended, or neglect their watchdog
//! - [`holders`]: pages that somebody else has mapped
//! - [`memory`]: sizes and shapes of RAM
//! - [`peers`]: what takes two domains: event channels and grants
//! - [`regions`]: static shared memory whose members are destroyed, or that dom0
//!   has mapped besides
//! - [`sealed`]: a system whose fuse is blown as far as it goes
//! - [`shared`]: pages that a protected domain shares on purpose
//! - [`stale`]: what the TLBs still know right after the lock
//! - [`unmapped`]: what the control domain may still do to a domain that is
//!   protected, before the lock
//! - [`vcpus`]: a dom0 and domUs with several vCPUs
//! - [`xl`]: Xen's own tools in dom0, before and after; [`freed`]: what becomes
//!   of a protected domain's memory when they destroy it
//! - [`fault`]: a fault inside Xen after the lock
//! - [`cost`]: instructions against stock Xen; two boots, so not a group

mod absent;
mod attack;
mod attack_boot;
mod audit;
mod blown;
pub mod boot;
mod calls;
mod common;
pub mod cost;
mod dom0;
mod endings;
mod examples;
mod fault;
mod first;
mod freed;
mod holders;
mod memory;
mod narrow;
mod nodes;
mod open;
mod partial;
mod peers;
mod regions;
pub mod sealed;
pub mod shared;
pub mod stale;
mod unmapped;
mod vcpus;
mod xl;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::profile::Profile;
use super::session::{Output, Session};

/// A test on a booted system.
pub type Test = fn(&mut Session) -> Result<()>;

/// One boot and what is tested on it.
pub struct Group {
    /// Its name, part of each test's name.
    pub name: &'static str,
    /// How its system differs from the `test` profile.
    pub system: fn(&mut Profile),
    /// Its tests, in order.
    pub tests: &'static [(&'static str, Test)],
}

/// Cases that boot machines of their own.
pub const OWN: &[&[boot::Own]] = &[
    boot::OWN,
    nodes::OWN,
    first::OWN,
    common::OWN,
    dom0::OWN,
    examples::OWN,
    absent::OWN,
];

/// Further systems with the attack primitives, for `--full` and `--attacks`.
pub const ATTACKS: &[Group] = attack::FURTHER;

/// All others, the long ones first, so that they do not come last alone.
pub const GROUPS: &[&[Group]] = &[
    attack::GROUPS,
    attack_boot::GROUPS,
    xl::GROUPS,
    endings::GROUPS,
    peers::GROUPS,
    vcpus::GROUPS,
    blown::GROUPS,
    boot::GROUPS,
    calls::GROUPS,
    memory::GROUPS,
    holders::GROUPS,
    freed::GROUPS,
    regions::GROUPS,
    narrow::GROUPS,
    open::GROUPS,
    audit::GROUPS,
    partial::GROUPS,
    sealed::GROUPS,
    shared::GROUPS,
    stale::GROUPS,
    unmapped::GROUPS,
    fault::GROUPS,
];

/// The Linux domU of the `test` profile.
const LINUX: u16 = 1;
/// The bare-metal canary of the `test` profile.
const CANARY: u16 = 2;
/// How long a guest may take to do what it was told.
const ACTION: Duration = Duration::from_secs(120);

impl Group {
    /// Names of the tests, as they are recorded.
    pub fn names(&self) -> Vec<String> {
        let name = |(test, _): &(&str, Test)| format!("lab/{}/{test}", self.name);
        self.tests.iter().map(name).collect()
    }

    /// The profile that this group boots.
    pub fn profile(&self, base: &Profile) -> Profile {
        let mut profile = base.clone();
        profile.name = format!("scenario-{}", self.name);
        profile.description = format!("test system: {}", self.name);
        (self.system)(&mut profile);
        profile
    }
}

/// The system of the `test` profile, unchanged.
fn unchanged(_: &mut Profile) {}

/// What dom0's tool says about the machine, as JSON.
fn status(session: &mut Session) -> Result<Value> {
    let text = session.must("vmfctl status --json")?;
    serde_json::from_str(&text).with_context(|| format!("vmfctl status should print JSON: {text}"))
}

/// The machine is in this state (`open`, `unmapped`, `locked`).
fn state_is(session: &mut Session, wanted: &str) -> Result<()> {
    let status = status(session)?;
    ensure!(
        status["state"] == wanted,
        "the machine should be {wanted}: {status}"
    );
    Ok(())
}

/// A command in dom0 must end with this exit code and say all these words.
fn ends(session: &mut Session, command: &str, code: i32, words: &[&str]) -> Result<Output> {
    let output = session.run(command)?;
    let text = output.line();
    ensure!(
        output.code == code,
        "{command}: exit code {} instead of {code}: {text}",
        output.code
    );
    for word in words {
        ensure!(text.contains(word), "{command}: no \"{word}\" in: {text}");
    }
    Ok(output)
}

/// Types an action to the bare-metal canary and returns its next line about it.
pub fn canary(session: &mut Session, action: &str) -> Result<String> {
    canary_line(session, action, 1).map(|mut lines| lines.remove(0))
}

/// The same for an action that prints `count` lines.
fn canary_line(session: &mut Session, action: &str, count: usize) -> Result<Vec<String>> {
    told(session, CANARY, action, count)
}

/// The same for any domain with a bare-metal canary.
fn told(session: &mut Session, domain: u16, action: &str, count: usize) -> Result<Vec<String>> {
    let name = action.split(':').next().unwrap_or(action);
    let mark = format!("canary: {name}: ");
    let about = |session: &Session| -> Result<Vec<String>> {
        let lines = session.domain_lines(domain)?;
        let about = lines.iter().filter_map(|line| line.split_once(&mark));
        Ok(about.map(|(_, rest)| rest.to_owned()).collect())
    };
    let before = about(session)?.len();
    session.type_to_domain(domain, action)?;
    session.wait_lines(domain, &mark, before + count, ACTION)?;
    Ok(about(session)?.split_off(before))
}

/// The canary's action must end with this result (`-1 EPERM`).
fn canary_gets(session: &mut Session, action: &str, wanted: &str) -> Result<()> {
    let line = canary(session, action)?;
    ensure!(
        line.trim() == wanted,
        "canary: {action}: {line}, not {wanted}"
    );
    Ok(())
}

/// Every domU's canary goes on, its pattern intact.
pub fn guests_go_on(session: &mut Session) -> Result<()> {
    let ids = super::experiment::domus(session);
    session.beats_of(&ids, 2).map(drop)
}

/// dom0's hypercalls with pointers are answered.
pub fn dom0_goes_on(session: &mut Session) -> Result<()> {
    super::experiment::hypercalls(session).and_then(|count| {
        ensure!(count > 0, "none of dom0's hypercalls was answered");
        Ok(())
    })
}

/// How many accesses of a domain Xen could not decode, and where the last one was,
/// as `vmfctl` tells it.
fn undecoded(session: &mut Session, domain: u16) -> Result<(u64, Value)> {
    let text = session.must(&format!("vmfctl counters --json {domain}"))?;
    let answer: Value = serde_json::from_str(&text).context("vmfctl counters --json")?;
    let of_domain = answer["domains"].as_array().and_then(|all| all.first());
    let of_domain = of_domain.filter(|found| found["id"] == domain);
    let of_domain = of_domain.with_context(|| format!("no d{domain}: {answer}"))?;
    let count = of_domain["undecoded"].as_u64();
    let count = count.with_context(|| format!("no number: {of_domain}"))?;
    Ok((count, of_domain["undecoded_pc"].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_group_is_a_system_and_every_name_unique() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let base = Profile::read(&root, "test").unwrap();
        let mut names = BTreeSet::new();
        for group in GROUPS.iter().copied().flatten().chain(ATTACKS) {
            group.profile(&base).validate().unwrap();
            assert!(!group.tests.is_empty());
            for name in group.names() {
                assert!(names.insert(name.clone()), "{name} twice");
            }
        }
    }
}
