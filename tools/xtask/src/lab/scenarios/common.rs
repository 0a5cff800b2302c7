//! Static shared memory and static event channels: what the device tree gives to
//! several domains, before the fuse and after.

use std::path::Path;

use anyhow::{Result, ensure};
use vmf_audit::hex::Hex;
use vmf_audit::registers::Common;
use vmf_audit::report::Level;

use super::boot::{ALONE, Own, finish, nobody_runs, protected, reported};
use super::{guests_go_on, shared, told};
use crate::lab::audit;
use crate::lab::images::Images;
use crate::lab::profile::{Guest, Profile, Xen};
use crate::lab::session::{BOOT, Moment, Session};

/// The cases of this file.
pub const OWN: &[Own] = &[
    Own {
        name: "lab/boot-common/between-protected-domains",
        run: between_protected,
        xens: with_shm,
    },
    Own {
        name: "lab/boot-common/with-one-outside",
        run: one_outside,
        xens: with_shm,
    },
    Own {
        name: "lab/boot-common/is-not-shared-with-xen",
        run: in_vmf_share,
        xens: with_shm,
    },
];

/// The two domains.
const BOTH: [u16; 2] = [1, 2];
/// Where the memory is, for the host and for both guests.
const PLACE: u64 = 0x7000_0000;
/// Its size.
const BYTES: u64 = 2 << 20;
/// Ends of the event channel, of the first domain and of the second.
const PORTS: [u16; 2] = [10, 11];

/// A Xen that has static shared memory.
pub fn with_shm(xen: Xen) -> Vec<Xen> {
    vec![Xen { shm: true, ..xen }]
}

/// Whose the memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Nobody's: both borrow it.
    Nobody,
    /// The first domain's.
    First,
    /// The second domain's, which Xen builds after the one that borrows it.
    Second,
    /// Nobody's, wherever Xen finds it.
    Anywhere,
}

impl Owner {
    /// What the node of domain `index` says.
    fn words(self, index: usize) -> String {
        let role = match (self, index) {
            (Self::Nobody | Self::Anywhere, _) => "",
            (Self::First, 0) | (Self::Second, 1) => "role = \"owner\";",
            (Self::First | Self::Second, _) => "role = \"borrower\";",
        };
        let host = match self {
            Self::Anywhere => String::new(),
            _ => format!("0x0 {PLACE:#x} "),
        };
        format!("{role} xen,shared-mem = <{host}0x0 {PLACE:#x} 0x0 {BYTES:#x}>;")
    }
}

/// Two bare-metal domains with memory in common, and an event channel.
fn system(base: &Profile, name: &str, words: &str, owner: Owner) -> Profile {
    let mut profile = base.clone();
    profile.name = format!("boot-common-{name}");
    profile.device_tree = ALONE.to_owned();
    profile.xen.shm = true;
    profile.xen_arguments = format!("{words} conswitch=ax");
    profile.domains.retain(|d| d.guest == Guest::Canary);
    // Its hypercalls for events have arguments in shared pages.
    profile.domains[0].share = vec![shared::CANARY_PAGES];
    let mut second = profile.domains[0].clone();
    second.arguments = "seed=0x5ec0".to_owned();
    profile.domains.push(second);
    let nodes: String = (0..2)
        .map(|index| {
            format!(
                "domU{} {{
                    end{index}: channel {{
                        compatible = \"xen,evtchn-v1\";
                        xen,evtchn = <{} &end{}>;
                    }};
                    common {{
                        compatible = \"xen,domain-shared-memory-v1\";
                        xen,shm-id = \"common\";
                        {}
                    }};
                }};\n",
                index + 1,
                PORTS[index],
                1 - index,
                owner.words(index)
            )
        })
        .collect();
    profile.overlay = format!("/ {{ chosen {{\n{nodes}}}; }};\n");
    profile
}

/// Each writes what the other reads, and is sent an event by it.
pub fn exchange(session: &mut Session, round: u64) -> Result<()> {
    for [from, to] in [[0, 1], [1, 0]] {
        let place = PLACE + 0x1_0000 * from as u64 + 8 * round;
        let value = 0xcafe_0000 + 0x100 * from as u64 + round;
        let wanted = format!("{place:#x} {value:#x}");
        for (id, action) in [
            (BOTH[from], format!("poke:{place:#x}:{value:#x}")),
            (BOTH[to], format!("peek:{place:#x}")),
        ] {
            says(session, id, &action, &wanted)?;
        }
        let take = format!("take:{}", PORTS[to]);
        let pending = |number| format!("port {} pending {number}", PORTS[to]);
        says(session, BOTH[to], &take, &pending(0))?;
        says(session, BOTH[from], &format!("notify:{}", PORTS[from]), "0")?;
        says(session, BOTH[to], &take, &pending(1))?;
    }
    Ok(())
}

/// The canary's one line about an action.
fn says(session: &mut Session, id: u16, action: &str, wanted: &str) -> Result<()> {
    let line = told(session, id, action, 1)?.remove(0);
    ensure!(
        line.trim() == wanted,
        "d{id}: {action}: {line}, not {wanted}"
    );
    Ok(())
}

/// Both give Xen a place for their events, and take the one that Xen sends when
/// it binds a channel.
pub fn areas(session: &mut Session) -> Result<()> {
    for (id, port) in BOTH.into_iter().zip(PORTS) {
        says(session, id, "areas", "vcpu_info 0 control 0 array 0")?;
        told(session, id, &format!("take:{port}"), 1)?;
    }
    Ok(())
}

/// The claim that these domains have this memory of the host.
pub fn claim_of(place: u64, bytes: u64, domains: &[u16]) -> Common {
    Common {
        mfn: Hex(place >> 12),
        pages: bytes >> 12,
        domains: domains.to_vec(),
    }
}

/// Claims for moments from now on that both have the memory, and share their
/// pages for hypercalls.
pub fn claim(session: &mut Session) {
    session.common = vec![claim_of(PLACE, BYTES, &BOTH)];
    let ids = protected(&session.report.profile);
    session.shared = ids.into_iter().map(|id| shared::share(id, 4)).collect();
}

/// The level holds with that claim, and without it does not: the verifier has
/// seen that both have the memory.
fn holds(session: &mut Session, name: &str, level: Level) -> Result<Moment> {
    claim(session);
    let ids = protected(&session.report.profile);
    let moment = session.moment(name, &ids)?;
    audit::must_hold(&audit::check(&moment, level)?)?;
    session.common.clear();
    let without = session.moment(&format!("{name}-unclaimed"), &ids)?;
    audit::must_not_hold(&audit::check(&without, level)?)?;
    Ok(moment)
}

/// Memory of two protected domains is out of Xen's reach, whoever owns it, and
/// works as it did before.
fn between_protected(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    // Before: Xen has all of it.
    let profile = system(base, "before", "", Owner::Nobody);
    let mut session = Session::boot(images, &profile, lab, false)?;
    guests_go_on(&mut session)?;
    areas(&mut session)?;
    exchange(&mut session, 0)?;
    claim(&mut session);
    let moment = session.moment("open", &BOTH)?;
    let open = audit::check(&moment, Level::Unmap)?;
    audit::must_not_hold(&open)?;
    audit::must_be_open(&open.summary, profile.directmap)?;
    finish(session)?;

    for (level, owner, directmap) in [
        (Level::Lock, Owner::Nobody, true),
        (Level::Unmap, Owner::First, true),
        (Level::Seal, Owner::Second, false),
        (Level::Lock, Owner::Anywhere, false),
    ] {
        let name = format!("{level}-{owner:?}").to_lowercase();
        let mut profile = system(base, &name, &format!("vmf={level}"), owner);
        profile.directmap = directmap;
        let mut session = Session::boot(images, &profile, lab, false)?;
        guests_go_on(&mut session)?;
        let word = format!("{level}, 4 pages shared");
        reported(&mut session, &[(1, &word), (2, &word)])?;
        areas(&mut session)?;
        exchange(&mut session, 0)?;
        if owner == Owner::Anywhere {
            // Where it is, only Xen knows; that both have it breaks U2.
            let moment = session.moment("booted", &BOTH)?;
            audit::must_not_hold(&audit::check(&moment, level)?)?;
        } else {
            holds(&mut session, "booted", level)?;
        }
        exchange(&mut session, 1)?;
        guests_go_on(&mut session)?;
        finish(session)?;
    }
    Ok(())
}

/// With a partner outside it works as well, and Xen keeps it: it has it through
/// the partner anyway. What else is the protected domain's is not in its reach.
fn one_outside(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for (owner, directmap) in [
        (Owner::Nobody, false),
        (Owner::First, true),
        (Owner::Second, true),
    ] {
        let name = format!("outside-{owner:?}").to_lowercase();
        let mut profile = system(base, &name, "vmf=lock", owner);
        profile.directmap = directmap;
        profile.domains[1].unprotected = true;
        profile.domains[1].share.clear();
        let mut session = Session::boot(images, &profile, lab, false)?;
        guests_go_on(&mut session)?;
        reported(&mut session, &[(1, "lock, 4 pages"), (2, "unprotected")])?;
        areas(&mut session)?;
        exchange(&mut session, 0)?;
        let moment = holds(&mut session, "booted", Level::Lock)?;
        // It is retained: claimed to be protected as well, it is found.
        let both = audit::check_claiming(&moment, &BOTH, Level::Lock)?;
        audit::must_not_hold(&both)?;
        exchange(&mut session, 1)?;
        guests_go_on(&mut session)?;
        finish(session)?;
    }
    Ok(())
}

/// A region is no memory of the domain's to share with Xen, neither its owner's
/// nor its borrower's.
fn in_vmf_share(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let mut profile = system(base, "in-vmf-share", "vmf=lock", Owner::First);
    for domain in &mut profile.domains {
        domain.share = vec![[PLACE, 0x1000]];
    }
    let mut session = Session::boot(images, &profile, lab, false)?;
    for id in BOTH {
        let line = session.wait_xen(&format!("/chosen/domU{id}: vmf-share"), BOOT)?;
        ensure!(
            line.contains("not all of it is memory of the domain"),
            "d{id}: {line}"
        );
    }
    nobody_runs(&mut session, "a region in vmf-share")?;
    finish(session)
}
