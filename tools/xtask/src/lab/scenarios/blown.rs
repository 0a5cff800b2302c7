//! A system after the blow: whatever its domains try, Xen lives, the others
//! run on, and the level still holds at the end.

use anyhow::{Result, ensure};
use vmf_audit::report::Level;

use super::{ACTION, CANARY, Group, LINUX, canary, canary_gets, canary_line, dom0_goes_on, ends};
use super::{guests_go_on, state_is};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "blown",
        system: |profile| profile.deadline = 420,
        tests: &[
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

fn bad_pointers(session: &mut Session) -> Result<()> {
    let lines = canary_line(session, "badptr", 3)?;
    let version = lines.iter().find(|line| line.starts_with("xen_version"));
    ensure!(
        version.is_some_and(|line| line.contains("-14 EFAULT")),
        "a protected domain's pointer should be refused: {lines:?}"
    );
    session.beats(CANARY, 1).map(drop)
}

fn unmapped(session: &mut Session) -> Result<()> {
    let line = canary(session, "unmapped")?;
    ensure!(line.contains("abort"), "canary: unmapped: {line}");
    session.beats(CANARY, 1).map(drop)
}

fn no_syndrome(session: &mut Session) -> Result<()> {
    let lines = canary_line(session, "isv0", 4)?;
    ensure!(lines.len() == 4, "canary: isv0: {lines:?}");
    session.beats(CANARY, 1).map(drop)
}

fn set_way(session: &mut Session) -> Result<()> {
    canary(session, "setway")?;
    session.beats(CANARY, 1).map(drop)
}

fn smc(session: &mut Session) -> Result<()> {
    canary_line(session, "smc", 2)?;
    session.beats(CANARY, 1).map(drop)
}

fn events(session: &mut Session) -> Result<()> {
    canary(session, "evtchn")?;
    canary(session, "grant")?;
    session.beats(CANARY, 1).map(drop)
}

fn spam(session: &mut Session) -> Result<()> {
    canary(session, "spam")?;
    session.beats(CANARY, 1).map(drop)
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
