//! Right after the lock, on every CPU: no address that led to a protected page
//! or to a table still does, through the TLB neither.

use anyhow::{Context, Result, ensure};
use vmf_audit::report::{Level, Report};

use super::{CANARY, Group, LINUX, guests_go_on, unchanged};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "stale",
    system: unchanged,
    tests: &[("no-stale-translation-on-any-cpu", stale)],
}];

/// How many addresses of each kind are tried.
const EACH: usize = 3;

/// Addresses that lead to protected pages and tables before the blow, some of
/// each kind, by what the audit of that moment has found.
pub fn addresses(report: &Report) -> Result<Vec<u64>> {
    let of = |rule: &str, owner: &str| -> Vec<u64> {
        let found = report.violations.iter().filter(|violation| {
            violation.rule == rule
                && (violation.owner.as_deref()).is_some_and(|name| name.starts_with(owner))
        });
        let addresses = found.filter_map(|violation| violation.address.map(|hex| hex.0));
        addresses.take(EACH).collect()
    };
    let mut addresses = Vec::new();
    for (rule, owner) in [
        ("U1", "d1"),
        ("U1", "d2"),
        ("L1", "EL2 table"),
        ("L1", "static table"),
        ("L1", "stage-2 table of d"),
    ] {
        let some = of(rule, owner);
        some.first()
            .with_context(|| format!("before: no {owner} is mapped (rule {rule})"))?;
        addresses.extend(some);
    }
    Ok(addresses)
}

fn stale(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    let ids = [LINUX, CANARY];
    let moment = session.moment("before", &ids)?;
    let addresses = addresses(&audit::check(&moment, Level::Lock)?)?;
    // The positive, once before anything is done.
    let before = session.touch(&addresses)?;
    ensure!(
        before.iter().flatten().all(|reached| *reached),
        "before: not every CPU reaches {addresses:#x?}: {before:?}"
    );
    session.must(&format!(
        "vmfctl protect --yes {}",
        experiment::arguments(&ids)
    ))?;
    // And for what is left, the tables, in the lock itself: right before its
    // first write they come into every CPU's TLB.
    let (output, within, done) =
        session.run_touched("vmfctl lock --yes", experiment::BLOW, &addresses)?;
    ensure!(output.code == 0, "vmfctl lock: {}", output.line());
    for (cpu, each) in within.iter().enumerate() {
        let reached = each.iter().filter(|reached| **reached).count();
        ensure!(
            reached >= EACH,
            "CPU {cpu} reaches {reached} of {addresses:#x?} right before the lock writes"
        );
    }
    for (cpu, each) in done.iter().enumerate() {
        for (address, reached) in addresses.iter().zip(each) {
            ensure!(
                !reached,
                "CPU {cpu} reaches {address:#x} right after the lock"
            );
        }
    }
    for (cpu, each) in session.touch(&addresses)?.iter().enumerate() {
        for (address, reached) in addresses.iter().zip(each) {
            ensure!(!reached, "CPU {cpu} still reaches {address:#x}");
        }
    }
    guests_go_on(session)
}
