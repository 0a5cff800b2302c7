//! Sizes and shapes of RAM: 1 GiB is what all other systems have.

use anyhow::{Result, ensure};

use super::{Group, dom0_goes_on, guests_go_on, state_is};
use crate::lab::experiment;
use crate::lab::profile::{Bank, MIB, RAM_BASE};
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "memory-2g",
        system: |profile| {
            profile.banks = vec![bank(RAM_BASE, 2048)];
            profile.directmap = false;
        },
        tests: &[("experiment", whole)],
    },
    Group {
        name: "memory-8g",
        system: |profile| {
            profile.banks = vec![bank(RAM_BASE, 8192)];
            profile.directmap = false;
        },
        // A dump of 8 GiB would tell nothing that one of 2 GiB does not.
        tests: &[("blow-and-go-on", without_dump)],
    },
    Group {
        name: "memory-two-banks",
        system: |profile| {
            profile.banks = vec![bank(RAM_BASE, 512), bank(RAM_BASE + 768 * MIB, 512)];
            profile.directmap = false;
        },
        tests: &[("experiment", whole)],
    },
    Group {
        name: "memory-two-banks-directmap",
        system: |profile| {
            profile.banks = vec![bank(RAM_BASE, 512), bank(RAM_BASE + 768 * MIB, 512)];
            profile.directmap = true;
        },
        tests: &[("experiment", whole)],
    },
    Group {
        name: "xenheap-megabytes",
        system: |profile| {
            profile.xen_arguments = "xenheap_megabytes=48".to_owned();
            profile.directmap = false;
        },
        tests: &[
            ("size-is-as-told", xenheap_size),
            ("blow-and-go-on", without_dump),
        ],
    },
];

const fn bank(start: u64, mib: u64) -> Bank {
    Bank { start, mib }
}

fn whole(session: &mut Session) -> Result<()> {
    let outcome = experiment::experiment(session)?;
    for claim in outcome.claims(session.report.profile.directmap) {
        ensure!(claim.held, "{}: {}", claim.text, claim.seen);
    }
    Ok(())
}

fn without_dump(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    let ids = experiment::domus(session);
    experiment::blow(session, &ids)?;
    guests_go_on(session)?;
    dom0_goes_on(session)?;
    state_is(session, "locked")
}

fn xenheap_size(session: &mut Session) -> Result<()> {
    let status = super::status(session)?;
    let bytes = status["xenheap"]["bytes"].as_u64();
    ensure!(
        bytes == Some(48 * MIB),
        "xenheap_megabytes=48, but {status}"
    );
    Ok(())
}
