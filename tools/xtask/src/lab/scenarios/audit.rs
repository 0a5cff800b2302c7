//! The verifier on a real machine: an open house before the blow, a locked one
//! after it, and copies of the locked one's dump that are damaged in one place.
//! A verifier that does not see the damage would prove nothing.

use std::fs;

use anyhow::{Context, Result, ensure};
use vmf_audit::Audit;
use vmf_audit::descriptor::Step;
use vmf_audit::dump::Dump;
use vmf_audit::registers::Registers;
use vmf_audit::report::{Level, Report, Verdict};
use vmf_audit::stage1;

use super::{Group, unchanged};
use crate::lab::audit;
use crate::lab::experiment::{self, domus};
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "audit",
    system: unchanged,
    tests: &[
        ("an-open-house-before", open_house),
        ("a-lock-is-no-seal", lock_is_no_seal),
        ("damage-to-a-dump-is-seen", damage),
        ("before-and-after-are-drawn", picture),
    ],
}];

/// The rules that a report finds violated.
fn violated(report: &Report) -> Vec<&'static str> {
    let rules = report.rules.iter().filter(|rule| rule.violations > 0);
    rules.map(|rule| rule.rule).collect()
}

fn open_house(session: &mut Session) -> Result<()> {
    let ids = domus(session);
    let moment = session.moment("before", &ids)?;
    let report = audit::check(&moment, Level::Seal)?;
    let violated = violated(&report);
    for rule in ["L1", "L10", "L11", "L12", "L14", "S1", "S2", "S3", "S4"] {
        ensure!(violated.contains(&rule), "{rule} is not among {violated:?}");
    }
    ensure!(
        report.unestablished.is_empty(),
        "not established: {:?}",
        report.unestablished
    );
    Ok(())
}

fn lock_is_no_seal(session: &mut Session) -> Result<()> {
    let ids = domus(session);
    experiment::blow(session, &ids)?;
    let moment = session.moment("after", &ids)?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)?;
    let violated = violated(&audit::check(&moment, Level::Seal)?);
    ensure!(
        !violated.is_empty() && violated.iter().all(|rule| rule.starts_with('S')),
        "at the level seal: {violated:?}"
    );
    Ok(())
}

/// The bits of a page's entry that let Xen write it: AP[2] clear, XN set.
const READ_ONLY: u64 = 1 << 7;
const EXECUTE_NEVER: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Audits a copy of the dump with one word changed; the rule must say so.
fn damaged(whole: &[u8], audit: &Audit, at: u64, word: u64, rule: &str) -> Result<()> {
    let offset = audit.dump.file_offset(at);
    let offset = offset.with_context(|| format!("{at:#x} is not in the dump"))?;
    let mut bytes = whole.to_vec();
    bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
    let dump = Dump::from_bytes(bytes)?;
    let found = audit.found.clone();
    let report = Audit::new(dump, audit.registers.clone(), found)?.check(Level::Lock);
    ensure!(
        report.verdict == Verdict::Violated && violated(&report).contains(&rule),
        "{word:#x} at {at:#x}: {rule} should be violated: {}",
        audit::sentence(&report)
    );
    Ok(())
}

/// Where the last entry of a walk lies.
fn entry(walk: &[Step]) -> Result<(u64, u64)> {
    let last = walk.last().context("an address that leads nowhere")?;
    ensure!(last.level == 3, "no page, but level {}", last.level);
    let at = last.table.0 + 8 * u64::from(last.index);
    Ok((at, last.descriptor.0))
}

fn damage(session: &mut Session) -> Result<()> {
    let folder = session.folder().to_owned();
    let moment = audit::recorded(&folder, "after");
    let audit = Audit::open(&moment.memory, &moment.registers, Some(&moment.syms))?;
    let whole = fs::read(&moment.memory).context("the dump")?;
    let root = audit.roots.first().context("no EL2 root")?;
    let found = audit.found.as_ref().context("no xen-syms")?;
    let fused = found.fused.as_ref().context("no fuse")?;
    let page = |va| entry(&stage1::trace(&audit.dump, &root.regime, va));

    // A page of Xen's data, re-pointed: at a guest's page, and at a table.
    let frozen = fused.pages.first().context("no frozen page")?;
    let data = root.walk.leaves.iter().find(|leaf| {
        leaf.level == 3
            && leaf.writable
            && leaf.va > frozen.region.va
            && !root.regime.executes(leaf)
    });
    let (at, descriptor) = page(data.context("no page of data")?.va)?;
    let protected = audit.stage2.iter().find(|stage2| stage2.protected);
    let guest = protected.and_then(|s| s.walk.leaves.first());
    let guest = guest.context("no protected page")?.pa;
    damaged(&whole, &audit, at, descriptor & !ADDRESS | guest, "U1")?;
    let table = root.regime.root;
    damaged(&whole, &audit, at, descriptor & !ADDRESS | table, "L1")?;
    // The frozen page made writable.
    let (at, descriptor) = page(frozen.region.va)?;
    damaged(&whole, &audit, at, descriptor & !READ_ONLY, "L10")?;
    // The first page of Xen's text, mapped to be written.
    let text = found.sections.iter().find(|s| s.region.executable);
    let text = text.context("no text")?;
    let (_, code) = page(text.region.va)?;
    let alias = code & !READ_ONLY | EXECUTE_NEVER;
    let (at, _) = page(data.context("no page of data")?.va)?;
    damaged(&whole, &audit, at, alias, "L3")?;
    // Another machine's registers.
    let mut registers = Registers::open(&moment.registers)?;
    let cpu = registers.cpus.last_mut().context("no CPU")?;
    cpu.sctlr.0 &= !(1 << 19);
    let report = Audit::new(Dump::open(&moment.memory)?, registers, audit.found.clone())?;
    let violated = violated(&report.check(Level::Lock));
    ensure!(violated.contains(&"L9"), "WXN off: {violated:?}");
    Ok(())
}

fn picture(session: &mut Session) -> Result<()> {
    let folder = session.folder().to_owned();
    let path = audit::picture(&folder, ["before", "after"])?;
    let text = fs::read_to_string(&path).context("the picture")?;
    ensure!(
        text.contains("translation tables, writable"),
        "{}: no table is drawn",
        path.display()
    );
    Ok(())
}
