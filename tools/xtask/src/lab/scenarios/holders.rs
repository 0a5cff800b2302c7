//! Pages of a domU that somebody else has mapped: they stand in the way, are
//! named, and nothing changes.

use anyhow::{Result, ensure};

use super::{CANARY, Group, LINUX, dom0_goes_on, ends, guests_go_on, state_is};
use crate::lab::experiment;
use crate::lab::profile::Guest;
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "pv-pages",
    system: |profile| {
        // Linux with Xen's PV interfaces registers vcpu_info, which Xen keeps mapped.
        for domain in &mut profile.domains {
            domain.enhanced = domain.guest == Guest::Linux;
        }
    },
    tests: &[
        ("pages-mapped-by-xen-are-named", named),
        ("another-domain-can-be-blown", another),
    ],
}];

fn named(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    let check = format!("vmfctl check {LINUX}");
    ends(session, &check, 1, &["PV interface"])?;
    let blow = format!("vmfctl blow --yes {LINUX} {CANARY}");
    let output = ends(session, &blow, 1, &["PV interface", "nothing was done"])?;
    ensure!(
        output.text.contains("xen,enhanced"),
        "vmfctl does not say what to do: {}",
        output.line()
    );
    state_is(session, "open")
}

/// The positive: the obstacle is that domain's alone.
fn another(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[CANARY])?;
    guests_go_on(session)?;
    dom0_goes_on(session)
}
