//! A system after the blow: whatever its domains try, Xen lives, the others
//! run on, and the level still holds at the end.

use anyhow::{Result, ensure};
use serde_json::Value;
use vmf_audit::report::Level;

use super::{ACTION, CANARY, Group, LINUX, canary, canary_gets, canary_line, dom0_goes_on, ends};
use super::{guests_go_on, state_is, undecoded};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "blown",
        system: |profile| profile.deadline = 420,
        tests: &[
            ("the-same-before", before),
            ("blow", blow),
            ("twice", twice),
            ("protect-and-lock-again", again),
            ("domu-sees-its-status", domu_status),
            ("hypercalls-with-pointers-of-a-protected-domu", bad_pointers),
            ("load-from-an-unmapped-address", unmapped),
            ("accesses-without-syndrome", no_syndrome),
            ("set-way-maintenance", set_way),
            ("smc-and-hvc", smc),
            ("event-channels-and-grants", events),
            ("many-traps", spam),
            ("dom0-hypercalls", dom0_hypercalls),
            ("dom0-asks-for-memory", balloon),
            ("debug-keys", debug_keys),
            ("guests-go-on", guests_go_on),
            ("still-locked", still_locked),
        ],
    },
    Group {
        name: "endings",
        system: |profile| profile.deadline = 300,
        tests: &[
            ("blow", blow),
            ("poweroff-of-a-domu", poweroff),
            ("reboot-of-a-domu", reboot),
            ("dom0-hypercalls", dom0_hypercalls),
            ("still-locked", still_locked),
        ],
    },
];

fn blow(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    let ids = experiment::domus(session);
    session.must(&format!("vmfctl check {}", experiment::arguments(&ids)))?;
    experiment::blow(session, &ids)?;
    state_is(session, "locked")
}

fn twice(session: &mut Session) -> Result<()> {
    let command = format!("vmfctl blow --yes {LINUX} {CANARY}");
    ends(session, &command, 0, &["already"])?;
    state_is(session, "locked")
}

fn again(session: &mut Session) -> Result<()> {
    let protect = format!("vmfctl protect --yes {CANARY}");
    ends(session, &protect, 0, &["already"])?;
    ends(session, "vmfctl lock --yes", 0, &["already"])?;
    ends(session, "vmfctl protect --yes 0", 1, &[])?;
    state_is(session, "locked")
}

fn domu_status(session: &mut Session) -> Result<()> {
    canary_gets(session, "status", "1")?;
    canary_gets(session, "protect", "-1 EPERM")?;
    canary_gets(session, "lock", "-1 EPERM")
}

/// What the canary says of an action that prints this many lines must contain
/// these words, line by line.
fn canary_says(session: &mut Session, action: &str, words: &[&str]) -> Result<()> {
    let lines = canary_line(session, action, words.len())?;
    for (line, word) in lines.iter().zip(words) {
        ensure!(
            line.contains(word),
            "canary: {action}: \"{line}\" instead of \"{word}\""
        );
    }
    ensure!(lines.len() == words.len(), "canary: {action}: {lines:?}");
    session.beats(CANARY, 1).map(drop)
}

/// Loads without syndrome: those that write the address back, which Xen decodes,
/// and pairs, which it does not, from the interrupt controller and the UART.
const PAIRS_ABORT: [&str; 4] = [
    "gicd post-indexed read",
    "gicd pair abort",
    "uart post-indexed read",
    "uart pair abort",
];
/// As above, in a domain whose instructions Xen cannot read.
const ALL_ABORT: [&str; 4] = [
    "gicd post-indexed abort",
    "gicd pair abort",
    "uart post-indexed abort",
    "uart pair abort",
];
/// PSCI 1.1, which is Xen's own, by either way.
const PSCI: [&str; 2] = ["smc psci version 0x10001", "hvc psci version 0x10001"];

/// The positive of what follows the blow.
fn before(session: &mut Session) -> Result<()> {
    session.beats(CANARY, 1)?;
    canary_says(
        session,
        "badptr",
        &["xen_version 0 \"", "console_io 0", "sched_op 0"],
    )?;
    canary_says(session, "unmapped", &["abort"])?;
    canary_says(session, "isv0", &PAIRS_ABORT)?;
    canary_says(session, "smc", &PSCI)?;
    canary_says(session, "evtchn", &[" send 0"])?;
    canary_says(session, "grant", &["ref 8 gfn "])?;
    hypercalls_go_on(session)
}

fn bad_pointers(session: &mut Session) -> Result<()> {
    let refused = [
        "xen_version -14 EFAULT",
        "console_io -14 EFAULT",
        "sched_op -14 EFAULT",
    ];
    canary_says(session, "badptr", &refused)
}

fn unmapped(session: &mut Session) -> Result<()> {
    canary_says(session, "unmapped", &["abort"])
}

fn no_syndrome(session: &mut Session) -> Result<()> {
    let none = undecoded(session, CANARY)?;
    ensure!(none == (0, Value::Null), "counted before: {none:?}");
    canary_says(session, "isv0", &ALL_ABORT)?;
    // Two loads of each of two devices; the canary's image is at 0x7f_c000_0000.
    let (count, pc) = undecoded(session, CANARY)?;
    ensure!(
        count == 4 && pc.as_str().is_some_and(|pc| pc.starts_with("0x7fc000")),
        "{count} counted, the last at {pc}"
    );
    // Nobody else has done any.
    let other = undecoded(session, LINUX)?;
    ensure!(other == (0, Value::Null), "counted for d{LINUX}: {other:?}");
    Ok(())
}

/// Before: `lab/set-way-before`.
fn set_way(session: &mut Session) -> Result<()> {
    canary_says(session, "setway", &["refused after 0 operations: abort"])
}

fn smc(session: &mut Session) -> Result<()> {
    canary_says(session, "smc", &PSCI)
}

fn events(session: &mut Session) -> Result<()> {
    canary_says(session, "evtchn", &["alloc_unbound -14 EFAULT"])?;
    canary_says(session, "grant", &["add_to_physmap -14 EFAULT"])
}

fn spam(session: &mut Session) -> Result<()> {
    hypercalls_go_on(session)?;
    session.beats(CANARY, 1).map(drop)
}

/// Hypercalls with registers only, for a second: many come back.
fn hypercalls_go_on(session: &mut Session) -> Result<()> {
    let line = canary(session, "spam")?;
    let count = line
        .split_whitespace()
        .next()
        .and_then(|word| word.parse::<u64>().ok());
    ensure!(
        count.is_some_and(|count| count >= 1000),
        "canary: spam: {line}"
    );
    Ok(())
}

fn dom0_hypercalls(session: &mut Session) -> Result<()> {
    dom0_goes_on(session)
}

/// dom0's balloon driver gives memory back, then asks for it: an error at
/// worst, and dom0 lives.
fn balloon(session: &mut Session) -> Result<()> {
    let target = "/sys/devices/system/xen_memory/xen_memory0/target_kb";
    session.must(&format!(
        "k=$(cat {target}); echo $((k - 8192)) > {target}; sleep 2; echo $k > {target}; sleep 2; cat {target}"
    ))?;
    dom0_goes_on(session)
}

fn debug_keys(session: &mut Session) -> Result<()> {
    for key in ['d', 'q', '0', 'm', 'e', 'r', '*'] {
        let lines = session.debug_key(key)?;
        ensure!(!lines.is_empty(), "debug key {key}: Xen says nothing");
    }
    dom0_goes_on(session)
}

fn still_locked(session: &mut Session) -> Result<()> {
    state_is(session, "locked")?;
    let ids = experiment::domus(session);
    let moment = session.moment("end", &ids)?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)
}

fn poweroff(session: &mut Session) -> Result<()> {
    session.type_to_domain(LINUX, "poweroff")?;
    session.wait_domain(LINUX, "Power down", ACTION)?;
    session.beats(CANARY, 2)?;
    dom0_goes_on(session)
}

fn reboot(session: &mut Session) -> Result<()> {
    session.type_to_domain(CANARY, "reboot")?;
    session.wait_domain(CANARY, "canary: reboot: now", ACTION)?;
    dom0_goes_on(session)?;
    state_is(session, "locked")
}
