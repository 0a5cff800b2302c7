//! Right after the lock, on every CPU: no address that led to a protected page
//! or to a table still does, through the TLB neither.

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

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

fn stale(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    let ids = [LINUX, CANARY];
    let moment = session.moment("before", &ids)?;
    let report = audit::check(&moment, Level::Lock)?;
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
    // The positive, which also brings all of them into every CPU's TLB.
    let before = session.touch(&addresses)?;
    ensure!(
        before.iter().flatten().all(|reached| *reached),
        "before: not every CPU reaches {addresses:#x?}: {before:?}"
    );
    experiment::blow(session, &ids)?;
    for (cpu, each) in session.touch(&addresses)?.iter().enumerate() {
        for (address, reached) in addresses.iter().zip(each) {
            ensure!(!reached, "CPU {cpu} still reaches {address:#x}");
        }
    }
    guests_go_on(session)
}
