//! Several vCPUs at once: a dom0 with one on each of four CPUs, and domUs, one
//! of them not protected and not mapped one to one. Hypercalls with pointers from
//! all vCPUs, before and after a blow that the last one asks for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::{ACTION, Group, dom0_goes_on, guests_go_on, state_is, told};
use crate::lab::audit;
use crate::lab::experiment::BLOW;
use crate::lab::profile::{Guest, Profile};
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "four-vcpus",
    system,
    tests: &[
        ("all-of-dom0-before", |s| {
            // One that emulates several CPUs boots for minutes on all of them.
            switch(s, true)?;
            dom0_calls(s)
        }),
        ("all-of-domus-before", |s| {
            crowd(s, OUTSIDE, true)?;
            crowd(s, PROTECTED, true)
        }),
        ("silo-keeps-domus-apart", silo),
        ("dom0-vcpus-go-and-come-before", hotplug),
        ("blow-from-the-last-one", blow),
        ("all-of-dom0-after", dom0_calls),
        ("all-of-domus-after", |s| {
            crowd(s, OUTSIDE, true)?;
            crowd(s, PROTECTED, false)
        }),
        ("dom0-vcpus-go-and-come-after", hotplug),
        ("the-level-holds", holds),
    ],
}];

/// vCPUs of dom0, and of each domU; the CPUs of the machine.
const VCPUS: u32 = 4;
/// A bare-metal domU that is protected.
const PROTECTED: u16 = 1;
/// One that is not.
const OUTSIDE: u16 = 2;
/// How often each vCPU of dom0 asks.
const ROUNDS: u32 = 3;

fn system(profile: &mut Profile) {
    profile.deadline = 600;
    profile.cpus = VCPUS;
    profile.dom0.vcpus = VCPUS;
    profile.dom0.arguments += " maxcpus=1";
    profile.domains.retain(|d| d.guest == Guest::Canary);
    let mut outside = profile.domains.clone();
    for domain in &mut outside {
        domain.arguments = "seed=0x07e4".to_owned();
    }
    profile.domains.append(&mut outside);
    for domain in &mut profile.domains {
        domain.vcpus = VCPUS;
        domain.arguments += " size=2M";
    }
}

/// Every vCPU of dom0 asks Xen by pointers, all at the same time.
fn dom0_calls(session: &mut Session) -> Result<()> {
    let last = VCPUS - 1;
    let text = session.run_within(
        &format!(
            "for c in $(seq 0 {last}); do ( n=0; for i in $(seq {ROUNDS}); do \
             for what in version domains evtchn; do \
             taskset -c $c vmf-probe $what >/dev/null && n=$((n+1)); done; done; \
             echo vcpu$c=$n. ) & done; wait"
        ),
        Duration::from_secs(150),
    )?;
    for vcpu in 0..VCPUS {
        let wanted = format!("vcpu{vcpu}={}.", ROUNDS * 3);
        ensure!(
            text.text.contains(&wanted),
            "not {wanted} in: {}",
            text.line()
        );
    }
    dom0_goes_on(session)
}

/// Every vCPU of a bare-metal domU asks by a pointer to its stack.
fn crowd(session: &mut Session, domain: u16, answered: bool) -> Result<()> {
    const MARK: &str = "canary: crowd: ";
    let about = |session: &Session| -> Result<Vec<String>> {
        let lines = session.domain_lines(domain)?;
        let about = lines.iter().filter_map(|line| line.split_once(MARK));
        Ok(about.map(|(_, rest)| rest.trim().to_owned()).collect())
    };
    let done = |lines: &[String]| lines.iter().filter(|line| *line == "done").count();
    let before = about(session)?;
    session.type_to_domain(domain, "crowd:2000")?;
    session.wait_lines(domain, "canary: crowd: done", done(&before) + 1, ACTION)?;
    let lines = about(session)?.split_off(before.len());
    for vcpu in 0..VCPUS {
        let line = lines
            .iter()
            .find(|line| line.starts_with(&format!("vcpu {vcpu} ")))
            .with_context(|| format!("d{domain}: nothing of vcpu {vcpu}: {lines:?}"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let count = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let (yes, no) = (count(3).context("answered")?, count(5).context("refused")?);
        let (wanted, unwanted) = if answered { (yes, no) } else { (no, yes) };
        ensure!(
            wanted > 0 && unwanted == 0,
            "d{domain}: {line}, and all should be {}",
            if answered { "answered" } else { "refused" }
        );
    }
    session.beats(domain, 1).map(drop)
}

/// Xen's default policy on Arm: no channel from a domU to another, one to dom0.
fn silo(session: &mut Session) -> Result<()> {
    for (action, wanted) in [("port:2", "-1 EPERM port 0"), ("port:0", "0 port 1")] {
        let line = told(session, PROTECTED, action, 1)?.remove(0);
        ensure!(
            line.trim() == wanted,
            "d{PROTECTED}: {action}: {line}, not {wanted}"
        );
    }
    Ok(())
}

/// dom0 takes vCPUs off and on: PSCI of its own, which the fuse leaves alone.
fn hotplug(session: &mut Session) -> Result<()> {
    switch(session, false)?;
    switch(session, true)?;
    let text = session.must("grep -c ^processor /proc/cpuinfo")?;
    ensure!(text.trim() == VCPUS.to_string(), "dom0 has {text} CPUs");
    guests_go_on(session)
}

/// Takes all vCPUs of dom0 but the first off, or on.
fn switch(session: &mut Session, on: bool) -> Result<()> {
    let state = u8::from(on);
    for vcpu in 1..VCPUS {
        let online = format!("/sys/devices/system/cpu/cpu{vcpu}/online");
        session.must(&format!(
            "[ $(cat {online}) != {state} ] && echo {state} >{online} && [ $(cat {online}) = {state} ]"
        ))?;
    }
    Ok(())
}

fn blow(session: &mut Session) -> Result<()> {
    let command = format!("taskset -c {} vmfctl blow --yes {PROTECTED}", VCPUS - 1);
    let output = session.run_within(&command, BLOW)?;
    ensure!(
        output.code == 0,
        "{command}: exit code {}: {}",
        output.code,
        output.line()
    );
    state_is(session, "locked")
}

fn holds(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    dom0_goes_on(session)?;
    let moment = session.moment("end", &[PROTECTED])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)
}
