//! Static shared memory whose members are destroyed, and whose pages dom0 has
//! mapped besides: nobody's mapping is overlooked, and none is left over.

use anyhow::{Result, ensure};
use vmf_audit::registers::Common;
use vmf_audit::report::Level;

use super::boot::reported;
use super::common::claim_of;
use super::holders::{MAPPED, hold, release};
use super::xl::{self, listed, says};
use super::{Group, dom0_goes_on, ends, state_is, told};
use crate::lab::audit;
use crate::lab::profile::{Guest, Profile};
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "regions",
        system: |profile| system(profile, ""),
        tests: &[
            ("the-tools-start", start),
            ("a-member-keeps-its-mapping", keeps),
            ("a-borrower-is-destroyed", borrower),
            ("an-owner-is-destroyed", owner),
            ("a-foreign-mapping-is-in-the-way", foreign),
            ("protected-with-what-is-left", protected),
            ("lock", lock),
            ("an-owner-is-destroyed-after", owner_after),
        ],
    },
    Group {
        name: "boot-regions",
        system: |profile| system(profile, "vmf=unmap"),
        tests: &[
            ("the-tools-start", start),
            ("with-two-outside", outside),
            ("no-lock-while-dom0-has-a-page", no_lock),
            ("what-is-left-goes-with-the-lock", leftover),
        ],
    },
    Group {
        name: "boot-regions-directmap-no",
        system: |profile| {
            system(profile, "vmf=unmap");
            profile.directmap = false;
        },
        tests: &[
            ("the-tools-start", start),
            ("a-page-that-became-private", became_private),
        ],
    },
];

/// Protected, and goes on to the end of what comes before the lock.
const STAYS: u16 = 1;
/// Destroyed; it borrows, and owns nothing.
const BORROWS: u16 = 2;
/// Destroyed; it owns.
const OWNS: u16 = 3;
/// Protected, and goes on to the end.
const PEER: u16 = 4;

/// Memory that two domains have in common, at the same address for the host and
/// for both.
struct Region {
    place: u64,
    bytes: u64,
    /// Whose it is; the first that borrows it has it otherwise.
    owner: Option<u16>,
    members: [u16; 2],
}

/// Nobody's.
const FREE: Region = Region {
    place: 0x7000_0000,
    bytes: 2 << 20,
    owner: None,
    members: [STAYS, BORROWS],
};
/// Of the one that is destroyed.
const LOST: Region = Region {
    place: 0x7020_0000,
    bytes: 2 << 20,
    owner: Some(OWNS),
    members: [STAYS, OWNS],
};
/// Both of whose members are destroyed.
const DEAD: Region = Region {
    place: 0x7040_0000,
    bytes: 64 << 10,
    owner: Some(OWNS),
    members: [BORROWS, OWNS],
};
/// Of the one that stays.
const KEPT: Region = Region {
    place: 0x7060_0000,
    bytes: 64 << 10,
    owner: Some(STAYS),
    members: [STAYS, BORROWS],
};
/// Of two that are protected.
const THEIRS: Region = Region {
    place: 0x7080_0000,
    bytes: 2 << 20,
    owner: Some(STAYS),
    members: [STAYS, PEER],
};
const ALL: [&Region; 5] = [&FREE, &LOST, &DEAD, &KEPT, &THEIRS];

impl Region {
    /// What the node of member `id` has.
    fn node(&self, id: u16) -> String {
        let role = match self.owner {
            None => "",
            Some(owner) if owner == id => "role = \"owner\";",
            Some(_) => "role = \"borrower\";",
        };
        format!(
            "common-{place:x} {{
                compatible = \"xen,domain-shared-memory-v1\";
                xen,shm-id = \"{place:x}\";
                {role}
                xen,shared-mem = <0x0 {place:#x} 0x0 {place:#x} 0x0 {bytes:#x}>;
            }};\n",
            place = self.place,
            bytes = self.bytes
        )
    }

    /// Its first frame, for the host and for its members.
    fn frame(&self) -> String {
        format!("{:#x}", self.place >> 12)
    }

    /// The claim that both have it.
    fn claim(&self) -> Common {
        claim_of(self.place, self.bytes, &self.members)
    }

    /// What is written there at first.
    fn word(&self) -> u64 {
        0xc0_0000 + (self.place >> 16)
    }

    /// A domain finds there what was written at first.
    fn read(&self, session: &mut Session, id: u16) -> Result<()> {
        self.says(session, id, &format!("peek:{:#x}", self.place))
    }

    fn says(&self, session: &mut Session, id: u16, action: &str) -> Result<()> {
        let line = told(session, id, action, 1)?.remove(0);
        let wanted = format!("{:#x} {:#x}", self.place, self.word());
        ensure!(
            line.trim() == wanted,
            "d{id}: {action}: {line}, not {wanted}"
        );
        Ok(())
    }
}

/// Four canaries and their regions.
fn system(profile: &mut Profile, words: &str) {
    xl::with_tools(profile);
    profile.xen.shm = true;
    profile.xen_arguments = words.to_owned();
    profile.domains.retain(|d| d.guest == Guest::Canary);
    let one = profile.domains.clone();
    profile.domains = [STAYS, BORROWS, OWNS, PEER]
        .into_iter()
        .flat_map(|id| {
            one.iter().cloned().map(move |mut canary| {
                canary.arguments = xl::arguments(0xe610 + u64::from(id));
                canary.unprotected = id == BORROWS || id == OWNS;
                canary
            })
        })
        .collect();
    let nodes = [STAYS, BORROWS, OWNS, PEER].map(|id| {
        let of_domain = ALL.iter().filter(|region| region.members.contains(&id));
        let regions: String = of_domain.map(|region| region.node(id)).collect();
        format!("domU{id} {{\n{regions}}};\n")
    });
    profile.overlay = format!("/ {{ chosen {{\n{}}}; }};\n", nodes.concat());
}

/// The positive: what one member writes, the other reads.
fn start(session: &mut Session) -> Result<()> {
    xl::start(session)?;
    for region in ALL {
        let [from, to] = region.members;
        let poke = format!("poke:{:#x}:{:#x}", region.place, region.word());
        region.says(session, from, &poke)?;
        region.read(session, to)?;
    }
    Ok(())
}

/// Xen counts on each member's mapping, so nobody takes one away; of other pages
/// they can be.
fn keeps(session: &mut Session) -> Result<()> {
    for id in THEIRS.members {
        let remove = format!("vmf-probe remove {id} {}", THEIRS.frame());
        ends(session, &remove, 1, &["error=EPERM"])?;
        THEIRS.read(session, id)?;
    }
    // A page behind the pattern.
    session.must(&format!("vmf-probe remove {PEER} 0x41f00"))?;
    session.beats(PEER, 1).map(drop)
}

/// dom0 maps the first page of a region by way of its owner, and keeps it.
fn mapped(session: &mut Session, region: &Region) -> Result<()> {
    let Some(owner) = region.owner else {
        return Ok(());
    };
    hold(session, &format!("foreign-map {owner} {}", region.frame()))
}

/// A mapping of dom0's stands in the way of protecting `id`, and nothing else.
fn in_the_way(session: &mut Session, id: u16) -> Result<()> {
    let refused = ends(session, &format!("vmfctl check {id}"), 1, &[MAPPED]);
    release(session, id)?;
    refused.map(drop)
}

/// With a member outside, dom0 has it through that one; with that one gone, it
/// is the others'.
fn borrower(session: &mut Session) -> Result<()> {
    mapped(session, &KEPT)?;
    session.must(&format!("vmfctl check {STAYS}"))?;
    says(session, &format!("xl destroy {BORROWS}"), 0, "")?;
    ensure!(
        listed(session, BORROWS)?.is_none(),
        "domain {BORROWS} does not go"
    );
    in_the_way(session, STAYS)?;
    for region in [&FREE, &KEPT] {
        region.read(session, STAYS)?;
    }
    dom0_goes_on(session)
}

/// Its pages have users: it stays, dying, and is no member any more.
fn owner_goes(session: &mut Session) -> Result<()> {
    mapped(session, &LOST)?;
    says(session, &format!("xl destroy {OWNS}"), 0, "")?;
    let state = listed(session, OWNS)?.map(|(_, state)| state);
    ensure!(
        state.as_ref().is_some_and(|state| state.ends_with('d')),
        "domain {OWNS} is {state:?} in xl list"
    );
    LOST.read(session, STAYS)
}

fn owner(session: &mut Session) -> Result<()> {
    owner_goes(session)?;
    in_the_way(session, STAYS)?;
    LOST.read(session, STAYS)?;
    dom0_goes_on(session)
}

/// A page of a region goes with the last of its members, and not while dom0 has it.
fn foreign(session: &mut Session) -> Result<()> {
    mapped(session, &THEIRS)?;
    let protect = |id| format!("vmfctl protect --yes {id}");
    session.must(&protect(STAYS))?;
    let refused = ends(session, &protect(PEER), 1, &[MAPPED]);
    release(session, PEER)?;
    refused?;
    session.must(&protect(PEER))?;
    state_is(session, "unmapped")
}

/// The level holds with the claim that these regions are common, and not without.
fn holds(session: &mut Session, name: &str, level: Level, common: &[&Region]) -> Result<()> {
    let both = [STAYS, PEER];
    session.common = common.iter().map(|region| region.claim()).collect();
    let moment = session.moment(name, &both)?;
    audit::must_hold(&audit::check(&moment, level)?)?;
    session.common.clear();
    let without = session.moment(&format!("{name}-unclaimed"), &both)?;
    audit::must_not_hold(&audit::check(&without, level)?)
}

/// They have all that is left, and nobody else does.
fn theirs(session: &mut Session) -> Result<()> {
    for region in [&FREE, &LOST, &KEPT, &THEIRS] {
        region.read(session, STAYS)?;
    }
    THEIRS.read(session, PEER)?;
    session.beats_of(&[STAYS, PEER], 2)?;
    dom0_goes_on(session)
}

fn protected(session: &mut Session) -> Result<()> {
    holds(session, "protected", Level::Unmap, &[&THEIRS])?;
    // What is mapped no more, nobody maps again.
    let map = format!("vmf-probe foreign-map {STAYS} {}", KEPT.frame());
    ends(session, &map, 1, &["error="])?;
    theirs(session)
}

fn lock(session: &mut Session) -> Result<()> {
    session.must("vmfctl lock --yes")?;
    state_is(session, "locked")?;
    holds(session, "locked", Level::Lock, &[&THEIRS])?;
    theirs(session)
}

/// It stays, dying, as long as others use its pages, and so does its stage 2. Xen
/// goes on.
fn owner_after(session: &mut Session) -> Result<()> {
    says(session, &format!("xl destroy {STAYS}"), 0, "")?;
    let state = listed(session, STAYS)?.map(|(_, state)| state);
    ensure!(
        state.as_ref().is_some_and(|state| state.ends_with('d')),
        "domain {STAYS} is {state:?} in xl list"
    );
    THEIRS.read(session, PEER)?;
    session.beats(PEER, 2)?;
    dom0_goes_on(session)?;
    holds(session, "end", Level::Lock, &[&THEIRS])
}

/// As they were when the fuse was blown at boot.
fn outside(session: &mut Session) -> Result<()> {
    reported(
        session,
        &[
            (0, "unprotected"),
            (STAYS, "unmap"),
            (BORROWS, "unprotected"),
            (OWNS, "unprotected"),
            (PEER, "unmap"),
        ],
    )?;
    holds(session, "booted", Level::Unmap, &ALL)
}

/// dom0 has mapped a page by way of an owner outside, who is gone.
fn no_lock(session: &mut Session) -> Result<()> {
    says(session, &format!("xl destroy {BORROWS}"), 0, "")?;
    ensure!(
        listed(session, BORROWS)?.is_none(),
        "domain {BORROWS} does not go"
    );
    owner_goes(session)?;
    let refused = ends(
        session,
        "vmfctl lock --yes",
        1,
        &["stage-2 entries of unprotected domains"],
    );
    session
        .must("killall vmf-probe; while pidof vmf-probe >/dev/null; do sleep 0.1; done; sleep 1")?;
    refused?;
    state_is(session, "unmapped")
}

/// Frames where dom0 has nothing.
const HELD: [u64; 2] = [0x3c_0000, 0x3c_0001];

/// dom0 has pages of a region whose owner outside is gone. They are the others'
/// now: Xen does not touch them for dom0, which can only end its mappings.
fn became_private(session: &mut Session) -> Result<()> {
    // Far from one another: what Xen has mapped before, it may find again.
    for (at, page) in HELD.into_iter().zip([0, 0x100]) {
        let gfn = (LOST.place >> 12) + page;
        let map = format!("vmf-probe raw-foreign-map {OWNS} {gfn:#x} {at:#x} --stay");
        session.must(&map)?;
    }
    let [one, other] = HELD.map(|at| format!("vmf-probe cache-flush 0 {at:#x}"));
    session.must(&one)?;
    owner_goes(session)?;
    session.must(&other)?;
    for at in HELD {
        session.must(&format!("vmf-probe remove 0 {at:#x}"))?;
    }
    LOST.read(session, STAYS)?;
    dom0_goes_on(session)
}

/// Xen's own mappings of what had a member outside stay until the lock.
fn leftover(session: &mut Session) -> Result<()> {
    session.common = vec![THEIRS.claim()];
    let moment = session.moment("destroyed", &[STAYS, PEER])?;
    audit::must_not_hold(&audit::check(&moment, Level::Unmap)?)?;
    session.must("vmfctl lock --yes")?;
    state_is(session, "locked")?;
    holds(session, "locked", Level::Lock, &[&THEIRS])?;
    theirs(session)
}
