//! A fault inside Xen after the lock: Xen prints its report and ends, although
//! the tables that its report would show cannot be read any more.
//!
//! The fault is made from outside: one CPU that is in EL2 gets a program
//! counter where nothing is mapped.

use anyhow::{Result, ensure};

use super::{CANARY, Group, LINUX, unchanged};
use crate::lab::experiment;
use crate::lab::session::{COMMAND, Session};

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "fault-before",
        system: unchanged,
        tests: &[("xen-reports-and-ends", report)],
    },
    Group {
        name: "fault-after",
        system: unchanged,
        tests: &[("xen-reports-and-ends-after-the-lock", report_after)],
    },
];

/// Not in Xen's address space on arm64 (its directmap ends far below).
const NOWHERE: u64 = 0x0000_f000_0000_0000;
/// A report has some hundred lines; one that goes on for ever has more.
const LINES: usize = 1000;

fn report(session: &mut Session) -> Result<()> {
    session.expect_crash();
    let start = session.look(|seen| seen.streams.lines.len())?;
    session.derail(NOWHERE)?;
    session.wait_xen("Manual reset required", COMMAND)?;
    let lines = session.xen_lines(start)?;
    for part in ["Instruction Abort Trap", "Xen call trace", "Panic on CPU"] {
        ensure!(
            lines.iter().any(|line| line.contains(part)),
            "Xen's report has no \"{part}\""
        );
    }
    let faults = lines
        .iter()
        .filter(|line| line.contains("Abort Trap"))
        .count();
    ensure!(faults == 1, "Xen faulted {faults} times in its report");
    ensure!(
        lines.len() < LINES,
        "Xen's report has {} lines",
        lines.len()
    );
    Ok(())
}

fn report_after(session: &mut Session) -> Result<()> {
    session.beats(CANARY, 1)?;
    experiment::blow(session, &[LINUX, CANARY])?;
    report(session)
}
