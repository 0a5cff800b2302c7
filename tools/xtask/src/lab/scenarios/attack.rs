//! The attackers of the threat model, on a Xen that gives dom0 their
//! primitives (`CONFIG_VMF_ATTACK`): every vector is tried before the blow and
//! after it, and each that level `lock` claims is a case of its own.
//!
//! What `vmf-attack` reports is kept in the run's folder as `attacks.json`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{ACTION, CANARY, Group, LINUX, canary, canary_gets, dom0_goes_on, ends, state_is};
use crate::lab::experiment;
use crate::lab::profile::{Domain, Guest, Profile, Xen};
use crate::lab::session::{BOOT, COMMAND, Output, Session};
use crate::lab::statuses::{self, REPORT};

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "attack",
        system: |profile| system(profile, true),
        tests: &[
            ("banner", banner),
            ("status-warns", warning),
            ("guest-has-no-primitives", guest),
            ("run", run),
            ("V01", |s| closed(s, "V01")),
            ("V02", |s| closed(s, "V02")),
            ("V03", |s| closed(s, "V03")),
            ("V04", |s| closed(s, "V04")),
            ("V05", |s| closed(s, "V05")),
            ("V06", |s| closed(s, "V06")),
            ("V07", |s| closed(s, "V07")),
            ("V08", |s| closed(s, "V08")),
            ("V11", |s| closed(s, "V11")),
            ("V12", |s| closed(s, "V12")),
            ("V15", |s| absent(s, "V15")),
            ("V16", |s| absent(s, "V16")),
            ("V18", |s| closed(s, "V18")),
            ("V20", |s| absent(s, "V20")),
            ("V21-a-blow-that-cannot-be-whole-is-refused", refused),
            ("V21-blows-race-with-each-other-and-with-domains", races),
            ("V22", |s| closed(s, "V22")),
            ("V23", |s| closed(s, "V23")),
            ("V24", |s| closed(s, "V24")),
            ("open-until-seal", open),
            ("statuses-are-those-of-the-documents", documented),
            ("guests-go-on", guests),
            ("V11-other-stage-2-stops-xen", |s| {
                stops(s, "vttbr", "VTTBR_EL2")
            }),
        ],
    },
    Group {
        name: "attack-domu",
        system: hostile_system,
        tests: &[
            ("a-hostile-domu-gets-what-it-was-granted", granted),
            ("a-hostile-domu-does-to-itself-what-it-may", own),
            ("V05-before-during-and-after-the-blow", hostile),
            ("V05-V06-other-hypercalls-before-during-and-after", thief),
        ],
    },
    Group {
        name: "attack-sealed",
        system: |profile| system(profile, true),
        tests: &[
            ("run", run_sealed),
            ("V01", |s| closed(s, "V01")),
            ("V07", |s| closed(s, "V07")),
            ("V08", |s| closed(s, "V08")),
            ("V09", |s| closed(s, "V09")),
            ("V10", |s| closed(s, "V10")),
            ("V11", |s| closed(s, "V11")),
            ("V12", |s| closed(s, "V12")),
            ("V13", |s| closed(s, "V13")),
            ("V14", |s| closed(s, "V14")),
            ("V15", |s| closed(s, "V15")),
            ("V23", |s| closed(s, "V23")),
            ("V24", |s| closed(s, "V24")),
            ("statuses-are-those-of-the-documents", documented),
            ("guests-go-on", guests),
        ],
    },
];

/// Groups that are only run when asked for.
pub const FURTHER: &[Group] = &[Group {
    name: "attack-directmap-no",
    system: |profile| system(profile, false),
    tests: &[
        ("run", run),
        ("V01-is-not-there-to-begin-with", |s| uncounted(s, "V01")),
        ("V02", |s| closed(s, "V02")),
        ("V03", |s| closed(s, "V03")),
        ("V04", |s| closed(s, "V04")),
        ("V07", |s| closed(s, "V07")),
        ("V11", |s| closed(s, "V11")),
        ("V12", |s| closed(s, "V12")),
        ("guests-go-on", guests),
        ("V12-no-stage-2-stops-xen", |s| stops(s, "hcr", "HCR_EL2")),
    ],
}];

/// Before and after, under emulation on a busy host.
const RUN: Duration = Duration::from_secs(200);
/// A second canary, whose memory is given away and which is destroyed.
const EXPENDABLE: u16 = 3;
/// It also traps as fast as it can, from before the blow on.
const EXPENDABLE_WORDS: &str = "seed=0x0ddba11 spam@15+";
/// The Linux domU, where it tries to get at pages of the others all the time.
const HOSTILE: u16 = LINUX;
/// A bare-metal domU that asks for a page of the canary's in all other ways.
const THIEF: u16 = 3;
/// A frame of the canary's pattern.
const STOLEN: &str = "0x40100";
/// What it is told when it asks for its own.
const OWN: [&str; 2] = ["replace 0, remove 0", "decrease 1, populate 1"];
/// What the hostile domain has a right to: the page that it was granted.
const RIGHTS: [&str; 2] = ["gnttab-copy:2", "grant-map:2"];
/// The banner of the build option.
const BANNER: &str = "ATTACK PRIMITIVES BUILT IN";

pub fn system(profile: &mut Profile, directmap: bool) {
    profile.xen = Xen {
        fuse: true,
        debug: false,
        its: false,
        shm: false,
        attack: true,
    };
    profile.directmap = directmap;
    profile.hidden_cpus = 1;
    profile.dom0.vcpus = 2;
    profile.deadline = 420;
    let canaries = |domain: &&Domain| domain.guest == Guest::Canary;
    let Some(canary) = profile.domains.iter().find(canaries).cloned() else {
        return;
    };
    profile.domains.push(Domain {
        arguments: EXPENDABLE_WORDS.to_owned(),
        ..canary
    });
}

/// The Linux domU is hostile, and has been granted a page by the canary.
fn hostile_system(profile: &mut Profile) {
    // Xen's default on Arm (silo) lets no domU share with another.
    profile.xen_arguments = "xsm=dummy".to_owned();
    for domain in &mut profile.domains {
        if domain.guest == Guest::Linux {
            domain.guest = Guest::Hostile;
            domain.enhanced = true;
            domain.arguments = format!("granter={CANARY}");
        } else {
            domain.arguments += &format!(" grant:{HOSTILE}@1");
        }
    }
    let canaries = |domain: &&Domain| domain.guest == Guest::Canary;
    if let Some(canary) = profile.domains.iter().find(canaries).cloned() {
        profile.domains.push(Domain {
            arguments: format!("seed=0x7e1f steal:{CANARY}:{STOLEN}@2+"),
            ..canary
        });
    }
}

fn banner(session: &mut Session) -> Result<()> {
    session.wait_xen(BANNER, COMMAND).map(drop)
}

fn warning(session: &mut Session) -> Result<()> {
    ends(session, "vmfctl status", 0, &["attack primitives"])?;
    let status = super::status(session)?;
    ensure!(
        status["attack_primitives"] == true,
        "vmfctl status --json does not say that the primitives are there: {status}"
    );
    Ok(())
}

/// Only the control domain has them.
fn guest(session: &mut Session) -> Result<()> {
    ends(session, "vmf-attack probe", 0, &[])?;
    session.beats(CANARY, 1)?;
    canary_gets(session, "protect", "-1 EPERM")?;
    canary_gets(session, "lock", "-1 EPERM")
}

/// The seed of a canary, as the profile gives it.
fn seed(session: &Session, id: u16) -> Result<String> {
    let domains = &session.report.profile.domains;
    let domain = domains.get(usize::from(id) - 1);
    let words = domain.map_or("", |domain| domain.arguments.as_str());
    let seed = words
        .split_whitespace()
        .find_map(|word| word.strip_prefix("seed="));
    seed.map(str::to_owned)
        .with_context(|| format!("domain {id} has no seed"))
}

/// Attacks a victim, with another canary that may be broken, and keeps the report
/// in the run's folder under this name.
pub fn attack(
    session: &mut Session,
    [victim, other]: [u16; 2],
    options: &str,
    name: &str,
) -> Result<(Value, Output)> {
    let command = format!(
        "vmf-attack run --victim {victim} --seed {} --expendable {other} --expendable-seed {} {options} \
         --json 2>/tmp/progress >/tmp/{name}; code=$?; tail -n 1 /tmp/progress; (exit $code)",
        seed(session, victim)?,
        seed(session, other)?
    );
    let output = session.run_within(&command, RUN)?;
    let json = session.must(&format!("cat /tmp/{name}"))?;
    let report: Value = serde_json::from_str(&json).with_context(|| {
        format!(
            "vmf-attack gives no report, exit code {}: {}",
            output.code,
            output.line()
        )
    })?;
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(session.folder().join(name), text).with_context(|| name.to_owned())?;
    Ok((report, output))
}

fn run(session: &mut Session) -> Result<()> {
    run_to(session, "lock", "locked")
}

fn run_sealed(session: &mut Session) -> Result<()> {
    run_to(session, "seal", "sealed")
}

fn run_to(session: &mut Session, level: &str, state: &str) -> Result<()> {
    session.beats_of(&[LINUX, CANARY, EXPENDABLE], 2)?;
    // What grant mappings and copies are tried on.
    let line = canary(session, "grant")?;
    ensure!(line.starts_with("ref 8 "), "canary: grant: {line}");
    let options = format!("--protect {LINUX},{CANARY},{EXPENDABLE} --levels {level} --blow");
    let (report, output) = attack(session, [CANARY, EXPENDABLE], &options, REPORT)?;
    ensure!(
        report["blow"]["whole"] == true,
        "the blow: {}",
        report["blow"]
    );
    ensure!(
        matches!(output.code, 0 | 1 | 3),
        "vmf-attack: exit code {}: {}",
        output.code,
        output.line()
    );
    state_is(session, state)
}

/// What the hostile domain got in each of its rounds, in order.
fn rounds(session: &Session) -> Result<Vec<Vec<String>>> {
    let lines = session.domain_lines(HOSTILE)?;
    let rounds = lines.iter().filter_map(|line| {
        let got = line.split_once("hostile: round ")?.1.split_once(" got")?.1;
        let got = got
            .strip_suffix(" end")
            .or(got.trim_end().strip_suffix("end"))?;
        Some(got.split_whitespace().map(str::to_owned).collect())
    });
    Ok(rounds.collect())
}

/// The positive of what it must not get afterwards.
fn granted(session: &mut Session) -> Result<()> {
    let all = format!(" got {} end", RIGHTS.join(" "));
    session.wait_domain(HOSTILE, &all, BOOT).map(drop)
}

/// It goes on while the fuse is blown: nothing but what it had a right to ever,
/// and nothing at all in whole rounds after the blow.
fn hostile(session: &mut Session) -> Result<()> {
    // A mapping of its own stands in the way while it is there.
    let mut tries = 0;
    while experiment::blow(session, &[CANARY]).is_err() {
        tries += 1;
        ensure!(tries < 20, "the blow is refused every time");
    }
    state_is(session, "locked")?;
    let done = rounds(session)?.len();
    session.wait_lines(HOSTILE, "hostile: round ", done + 3, ACTION)?;
    let rounds = rounds(session)?;
    for got in rounds.iter().flatten() {
        ensure!(RIGHTS.contains(&got.as_str()), "the hostile domU got {got}");
    }
    let after = &rounds[done + 1..];
    ensure!(
        !after.is_empty() && after.iter().all(Vec::is_empty),
        "after the blow the hostile domU gets {after:?}"
    );
    session.beats(CANARY, 2).map(drop)
}

/// The hypercalls are what they should be: on itself they succeed.
fn own(session: &mut Session) -> Result<()> {
    session.beats(THIEF, 3)?;
    ensure!(
        !tries(session)?.is_empty(),
        "the thief has not tried another's page"
    );
    session.type_to_domain(THIEF, "steal:0x7ff0:0")?;
    for done in OWN {
        session.wait_domain(THIEF, done, ACTION)?;
    }
    Ok(())
}

/// What the thief was told, each time.
fn tries(session: &Session) -> Result<Vec<String>> {
    let lines = session.domain_lines(THIEF)?;
    let tries = lines
        .iter()
        .filter_map(|line| line.split_once("canary: steal: "));
    Ok(tries.map(|(_, what)| what.to_owned()).collect())
}

/// It has gone on while the fuse was blown, and got nothing, ever.
fn thief(session: &mut Session) -> Result<()> {
    state_is(session, "locked")?;
    let before = tries(session)?.len();
    session.beats(THIEF, 3)?;
    let tries = tries(session)?;
    ensure!(tries.len() > before, "the thief has given up");
    for (number, what) in tries.iter().enumerate() {
        if OWN.iter().any(|done| what.contains(done)) {
            continue;
        }
        for part in what.trim().split(", ") {
            let (call, result) = part.split_once(' ').unwrap_or((part, ""));
            // How many pages, or an errno.
            let refused = match call {
                "decrease" | "populate" => result == "0" || result.starts_with('-'),
                _ => result.starts_with('-'),
            };
            ensure!(refused, "try {number}: {call} returns {result}: {what}");
        }
    }
    session.beats(CANARY, 2).map(drop)
}

fn report(session: &Session) -> Result<Value> {
    let path = session.folder().join(REPORT);
    let text = fs::read_to_string(&path).context("vmf-attack has left no report")?;
    serde_json::from_str(&text).context(REPORT)
}

/// The rows of a vector, claimed by level `lock` or not.
pub fn rows(report: &Value, id: &str, claimed: bool) -> Vec<Value> {
    let rows = report["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let these = rows
        .iter()
        .filter(|row| row["id"] == id && row["claimed"] == claimed);
    these.cloned().collect()
}

fn is(session: &Session, id: &str, wanted: &str) -> Result<()> {
    let report = report(session)?;
    let verdict = &report["claims"][id];
    if verdict == wanted {
        return Ok(());
    }
    let rows = rows(&report, id, true);
    let odd = rows.iter().find(|row| row["verdict"] == *verdict);
    bail!(
        "{id} is {verdict}, and not {wanted}: {}",
        odd.unwrap_or(&Value::Null)
    )
}

/// `docs/threat-model.md` says what this run has found.
fn documented(session: &mut Session) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    statuses::compare(&statuses::document(&root)?, &report(session)?)
}

/// It succeeded before, and does not now.
fn closed(session: &mut Session, id: &str) -> Result<()> {
    is(session, id, "closed")
}

/// The machine has nothing to attack, and the report says why.
fn absent(session: &mut Session, id: &str) -> Result<()> {
    is(session, id, "not-applicable")?;
    for row in rows(&report(session)?, id, true) {
        let why = row["after"]["seen"].as_str().unwrap_or_default();
        ensure!(!why.is_empty(), "{id} says not why: {row}");
    }
    Ok(())
}

/// It did not succeed before, so nothing is claimed for it.
fn uncounted(session: &mut Session, id: &str) -> Result<()> {
    is(session, id, "not-counted")
}

/// With mappings of the attacker's left over, Xen refuses, and nothing changes.
fn refused(session: &mut Session) -> Result<()> {
    let report = report(session)?;
    let why = &report["blow"]["refused_first"];
    ensure!(
        why.as_str()
            .is_some_and(|why| why.contains("nothing was changed")),
        "the blow was not refused: {why}"
    );
    Ok(())
}

/// Two blew at once: each domain was protected once, the machine locked once,
/// and each was told what the other had done. Domains came until the lock, and
/// none after it.
fn races(session: &mut Session) -> Result<()> {
    let report = report(session)?;
    let blow = &report["blow"];
    let sides = blow["sides"].as_array().map_or(0, Vec::len);
    let refused = blow["sides"].to_string().contains("done already");
    ensure!(
        blow["whole"] == true && sides == 2 && refused,
        "the blow was no race: {blow}"
    );
    for (what, least) in [("created", 1), ("creations_refused", 1)] {
        ensure!(
            blow[what].as_u64() >= Some(least),
            "{what}: no domain came or was refused: {blow}"
        );
    }
    Ok(())
}

/// What level `lock` does not close shows as open, and not as something else.
fn open(session: &mut Session) -> Result<()> {
    let report = report(session)?;
    // V11 and V12 would end the machine sooner or later.
    for id in ["V09", "V10", "V13", "V14", "V15"] {
        let rows = rows(&report, id, false);
        ensure!(!rows.is_empty(), "{id} has no attempt with L3");
        for row in rows {
            ensure!(row["verdict"] == "open", "{id} is not open: {row}");
        }
    }
    Ok(())
}

fn guests(session: &mut Session) -> Result<()> {
    session.beats_of(&[LINUX, CANARY], 2)?;
    dom0_goes_on(session)
}

/// Data that a context switch loads is changed for good: Xen stops before it
/// loads it. The last thing that this machine does.
fn stops(session: &mut Session, what: &str, register: &str) -> Result<()> {
    session.expect_crash();
    let start = session.look(|seen| seen.streams.lines.len())?;
    let command = format!("vmf-attack stop --with {what} --victim {CANARY}");
    // dom0 does not come back from this.
    let _ = session.run_within(&command, Duration::from_secs(10));
    session.wait_xen("Manual reset required", COMMAND)?;
    let lines = session.xen_lines(start)?;
    let said = |word: &str| lines.iter().any(|line| line.contains(word));
    ensure!(
        said("VMF: ") && said(register),
        "Xen did not stop over {register}: {lines:?}"
    );
    Ok(())
}
