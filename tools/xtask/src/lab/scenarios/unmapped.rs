//! Level `unmap`: what the control domain may still do to a protected domain
//! before the machine is locked. Each refusal is shown together with the same
//! request succeeding, on the same domain before and on another one after.

use anyhow::{Context, Result, ensure};

use super::holders::{hold, release};
use super::{CANARY, Group, LINUX, dom0_goes_on, ends, guests_go_on, state_is};
use crate::lab::experiment;
use crate::lab::profile::Guest;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "unmapped",
    system: |profile| {
        let canary = profile.domains.iter().find(|d| d.guest == Guest::Canary);
        let Some(mut other) = canary.cloned() else {
            return;
        };
        other.arguments = "seed=0x07e4".to_owned();
        profile.domains.push(other);
    },
    tests: &[
        ("taken-pages-are-handed-on-before", before),
        ("a-mapped-grant-table-is-in-the-way", grant_table),
        ("protect", protect),
        ("no-register-is-set-or-read", registers),
        ("no-page-is-taken", decrease),
        ("no-page-is-put-in-or-removed", change),
        ("no-page-is-mapped", map),
        ("a-lock-still-succeeds", lock),
    ],
}];

/// A second bare-metal canary, which stays unprotected until the lock.
const OTHER: u16 = 3;
/// In pages that are taken away.
const MARKS: [&str; 3] = [
    "0x7661_6e64_616c_0001",
    "0x7661_6e64_616c_0002",
    "0x7661_6e64_616c_0003",
];
/// Frame of a canary at which there is nothing.
const NOTHING: &str = "0x50000";
/// The machine's clock (PL031), which no domU has.
const CLOCK: &str = "0x9010";

fn mark(index: usize) -> String {
    MARKS[index].replace('_', "")
}

/// The page of a canary that holds nothing: the one before its pattern.
fn spare(session: &Session, domain: u16) -> Result<String> {
    let lines = session.domain_lines(domain)?;
    let start = lines.iter().find_map(|line| {
        let range = line.split_once(" memory 0x")?.1;
        u64::from_str_radix(range.split_once("..")?.0, 16).ok()
    });
    let start = start.with_context(|| format!("d{domain} has not said where its pattern is"))?;
    Ok(format!("{:#x}", (start >> 12) - 1))
}

fn write(session: &mut Session, domain: u16, gfn: &str, mark: &str) -> Result<()> {
    session
        .must(&format!(
            "vmf-probe foreign-map {domain} {gfn} --write {mark}"
        ))
        .map(drop)
}

/// Whether a new domain gets a page with `mark`, if a page of `domain` is taken
/// away after it was created. `what` is the taking's exit code.
fn handed_on(session: &mut Session, domain: u16, gfn: &str, mark: &str, what: i32) -> Result<bool> {
    let text = session.must("vmf-probe create --pages 32")?;
    let new = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("domain="))
        .with_context(|| format!("no domain was created: {text}"))?
        .to_owned();
    ends(
        session,
        &format!("vmf-probe decrease {domain} {gfn}"),
        what,
        &[],
    )?;
    session.must(&format!("vmf-probe populate {new} 0x41000 16"))?;
    let words = session.must(&format!(
        "for p in 0 1 2 3 4 5 6 7 8 9 a b c d e f; do vmf-probe foreign-map {new} 0x4100$p; done"
    ))?;
    session.must(&format!("vmf-probe destroy {new}"))?;
    let pages = words.matches("word=").count();
    ensure!(pages == 16, "{pages} of 16 new pages were read: {words}");
    Ok(words.contains(&format!("word={mark}")))
}

fn before(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    let page = spare(session, CANARY)?;
    write(session, CANARY, &page, &mark(0))?;
    ensure!(
        handed_on(session, CANARY, &page, &mark(0), 0)?,
        "an unprotected domain's page was not handed on with what was in it"
    );
    session.must(&format!("vmf-probe populate {CANARY} {page}"))?;
    write(session, CANARY, &page, &mark(1))?;
    let others = spare(session, OTHER)?;
    write(session, OTHER, &others, &mark(2))?;
    session.must(&format!("vmf-probe registers --set {CANARY}"))?;
    session.must(&mmio(CANARY)).map(drop)
}

/// Its own grant table, which a guest could run code in.
fn grant_table(session: &mut Session) -> Result<()> {
    session.must(&format!("vmfctl check {CANARY}"))?;
    hold(session, &format!("grant-table {CANARY}"))?;
    let refused = ends(
        session,
        &format!("vmfctl protect --yes {CANARY}"),
        1,
        &["mapped"],
    )
    .and_then(|_| state_is(session, "open"));
    release(session, CANARY)?;
    refused
}

/// Whoever sets a guest's registers has it read its memory for them.
fn registers(session: &mut Session) -> Result<()> {
    for how in ["", " --set", " --reset"] {
        let request = format!("vmf-probe registers{how} {CANARY}");
        ends(session, &request, 1, &["EPERM"])?;
    }
    for how in ["", " --set"] {
        session.must(&format!("vmf-probe registers{how} {OTHER}"))?;
    }
    guests_go_on(session)
}

fn protect(session: &mut Session) -> Result<()> {
    session.must(&format!("vmfctl protect --yes {LINUX} {CANARY}"))?;
    state_is(session, "unmapped")
}

fn decrease(session: &mut Session) -> Result<()> {
    let page = spare(session, CANARY)?;
    ensure!(
        !handed_on(session, CANARY, &page, &mark(1), 1)?,
        "a protected domain's page was handed on"
    );
    let others = spare(session, OTHER)?;
    ensure!(
        handed_on(session, OTHER, &others, &mark(2), 0)?,
        "what an unprotected domain loses is not handed on, so nothing is shown"
    );
    guests_go_on(session)
}

/// Gives a domain access to a device's frame, has it mapped and unmapped.
fn mmio(domain: u16) -> String {
    format!(
        "vmf-probe iomem {domain} {CLOCK} && vmf-probe mmio-map {domain} {NOTHING} {CLOCK}; \
         code=$?; vmf-probe iomem --deny {domain} {CLOCK}; (exit $code)"
    )
}

fn change(session: &mut Session) -> Result<()> {
    let page = spare(session, CANARY)?;
    let refused = [
        mmio(CANARY),
        format!("vmf-probe remove {CANARY} {page}"),
        format!("vmf-probe populate {CANARY} {NOTHING}"),
    ];
    for request in refused {
        ends(session, &request, 1, &["error="])?;
    }
    session.must(&mmio(OTHER))?;
    session.must(&format!("vmf-probe populate {OTHER} {NOTHING}"))?;
    session.must(&format!("vmf-probe remove {OTHER} {NOTHING}"))?;
    guests_go_on(session)
}

fn map(session: &mut Session) -> Result<()> {
    let page = spare(session, CANARY)?;
    let ways = |domain: u16| {
        [
            format!("vmf-probe foreign-map {domain} {page}"),
            format!("vmf-probe raw-foreign-map {domain} {page}"),
        ]
    };
    for way in ways(CANARY) {
        ends(session, &way, 1, &["error="])?;
    }
    // Its first frame: the spare page is gone.
    session.must(&format!("vmf-probe foreign-map {OTHER} 0x40000"))?;
    session.must(&format!("vmf-probe raw-foreign-map {OTHER} 0x40000"))?;
    dom0_goes_on(session)
}

/// What was refused has left nothing that stands in the way.
fn lock(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[LINUX, CANARY])?;
    guests_go_on(session)?;
    dom0_goes_on(session)
}
