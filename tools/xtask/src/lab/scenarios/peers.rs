//! Two domains at a time, before, between and after: event channels between
//! protected domains and to one that is not, and grants of pages that a
//! protected domain shares. What a domain does not share it cannot grant
//! either, once it is protected; each refusal stands beside the same grant
//! working before, or of a page that is shared.

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::shared::CANARY_PAGES;
use super::{ACTION, Group, dom0_goes_on, ends, guests_go_on, state_is, told};
use crate::lab::audit;
use crate::lab::profile::{Cpu, Guest, Profile};
use crate::lab::session::Session;

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "peers",
        system: canaries,
        tests: TESTS,
    },
    Group {
        name: "peers-directmap-no",
        system: |profile| {
            canaries(profile);
            profile.directmap = false;
            profile.cpu = Cpu::CortexA53;
            profile.xen.debug = true;
        },
        tests: TESTS,
    },
];

const TESTS: &[(&str, super::Test)] = &[
    ("channels-between-domains-before", channels_before),
    ("grants-between-domains-before", grants_before),
    ("a-mapping-of-a-page-that-is-shared", mapping),
    ("grants-once-protected", protect),
    ("the-lock-takes-nothing-of-it", lock),
    ("channels-of-before-the-lock", old_channels),
    ("channels-made-after-the-lock", new_channels),
    ("grants-after-the-lock", grants_after),
    ("a-mapping-outlives-the-lock", mapping_after),
    ("no-grant-table-is-mapped-after-the-lock", no_table),
    ("no-grant-is-mapped-after-the-lock", no_mapping),
    ("the-domain-outside-goes-on-as-before", outside),
    ("too-late-for-another-level", too_late),
    ("the-level-holds", audited),
    ("guests-go-on", guests_go_on),
];

/// Protected, and grants pages.
const FIRST: u16 = 1;
/// Protected, and has its grant table mapped when it is protected already.
const SECOND: u16 = 2;
/// Not protected.
const OUTSIDE: u16 = 3;
/// Protected, and asks for its grant table when it is too late.
const LATE: u16 = 4;
/// Protected.
const INSIDE: [u16; 3] = [FIRST, SECOND, LATE];

/// The page that a canary grants, by its index, and the private one behind those
/// that can be shared.
const DATA: u64 = 1;
const PRIVATE: u64 = 4;
/// `GNTST_bad_page`.
const BAD_PAGE: &str = "0 status -9";

fn canaries(profile: &mut Profile) {
    profile.deadline = 900;
    // Xen's default on Arm, silo, keeps domUs apart, blown or not.
    profile.xen_arguments = "xsm=dummy".to_owned();
    profile.domains.retain(|d| d.guest == Guest::Canary);
    let one = profile.domains.clone();
    profile.domains = (1u64..=4)
        .flat_map(|number| {
            one.iter().cloned().map(move |mut canary| {
                canary.arguments = format!("seed={number} size=2M");
                canary
            })
        })
        .collect();
}

/// What a canary says of an action.
fn says(session: &mut Session, domain: u16, action: &str) -> Result<String> {
    Ok(told(session, domain, action, 1)?
        .remove(0)
        .trim()
        .to_owned())
}

/// A canary's action must end with just this.
fn is(session: &mut Session, domain: u16, action: &str, wanted: &str) -> Result<()> {
    let line = says(session, domain, action)?;
    ensure!(line == wanted, "d{domain}: {action}: {line}, not {wanted}");
    Ok(())
}

/// The number behind a word of what a canary says.
fn number(line: &str, word: &str) -> Result<u64> {
    let rest = line.split_once(&format!("{word} ")).map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no number behind \"{word}\" in: {line}"))
}

/// One end of a channel.
#[derive(Clone, Copy)]
struct End {
    domain: u16,
    port: u64,
}

/// Makes a channel between two domains.
fn channel(session: &mut Session, from: u16, to: u16) -> Result<[End; 2]> {
    let line = says(session, from, &format!("port:{to}"))?;
    ensure!(line.starts_with("0 port "), "d{from}: port:{to}: {line}");
    let port = number(&line, "port")?;
    let line = says(session, to, &format!("bind:{from}:{port}"))?;
    ensure!(
        line.starts_with("0 port "),
        "d{to}: bind:{from}:{port}: {line}"
    );
    let bound = End {
        domain: to,
        port: number(&line, "port")?,
    };
    // Xen notifies whoever binds: an event may have come before.
    let line = says(session, to, &format!("wait:{}:1", bound.port))?;
    ensure!(
        line.starts_with("0 pending 1 "),
        "d{to} has bound port {}: {line}",
        bound.port
    );
    Ok([End { domain: from, port }, bound])
}

/// The receiver sleeps in Xen until the event comes, and has an interrupt of it.
fn sleeps(
    session: &mut Session,
    to: End,
    send: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    const MARK: &str = "canary: wait: ";
    let about = |session: &Session| -> Result<Vec<String>> {
        let lines = session.domain_lines(to.domain)?;
        let about = lines.iter().filter_map(|line| line.split_once(MARK));
        Ok(about.map(|(_, rest)| rest.trim().to_owned()).collect())
    };
    let before = about(session)?.len();
    session.type_to_domain(to.domain, &format!("wait:{}", to.port))?;
    send(session)?;
    session.wait_lines(to.domain, MARK, before + 1, ACTION)?;
    let line = about(session)?.pop().unwrap_or_default();
    ensure!(
        line.starts_with("0 pending 1 ") && number(&line, "interrupts")? > 0,
        "d{} port {} was notified: {line}",
        to.domain,
        to.port
    );
    Ok(())
}

/// One canary wakes the other.
fn wakes(session: &mut Session, from: End, to: End) -> Result<()> {
    sleeps(session, to, |session| {
        is(session, from.domain, &format!("notify:{}", from.port), "0")
    })
}

/// dom0 wakes a canary.
fn dom0_wakes(session: &mut Session, to: End) -> Result<()> {
    sleeps(session, to, |session| {
        let notify = format!("vmf-probe notify {} {}", to.domain, to.port);
        session.must(&notify).map(drop)
    })
}

/// Both ways.
fn talk(session: &mut Session, [one, other]: [End; 2]) -> Result<()> {
    wakes(session, one, other)?;
    wakes(session, other, one)
}

/// The negative: nobody sends, nothing comes.
fn silence(session: &mut Session, end: End) -> Result<()> {
    let line = says(session, end.domain, &format!("wait:{}:1", end.port))?;
    ensure!(
        line.starts_with("0 pending 0 interrupts 0 "),
        "d{} port {}, notified by nobody: {line}",
        end.domain,
        end.port
    );
    Ok(())
}

/// Ports count from 1 on in each domain, in this order.
const BETWEEN: [End; 2] = [
    End {
        domain: FIRST,
        port: 1,
    },
    End {
        domain: SECOND,
        port: 1,
    },
];
/// To the domain outside.
const ACROSS: [End; 2] = [
    End {
        domain: OUTSIDE,
        port: 1,
    },
    End {
        domain: FIRST,
        port: 2,
    },
];

/// For dom0.
const FOR_DOM0: End = End {
    domain: FIRST,
    port: 3,
};

fn channels_before(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    for domain in INSIDE {
        let first = CANARY_PAGES[0] >> 12;
        is(
            session,
            domain,
            "share",
            &format!("0 gfn {first:#x} pages 4"),
        )?;
    }
    for domain in [FIRST, SECOND, OUTSIDE] {
        is(session, domain, "areas", "vcpu_info 0 control 0 array 0")?;
    }
    for wanted in [BETWEEN, ACROSS] {
        let made = channel(session, wanted[0].domain, wanted[1].domain)?;
        for (made, wanted) in made.iter().zip(&wanted) {
            ensure!(
                made.port == wanted.port,
                "d{} has port {}, not {}",
                wanted.domain,
                made.port,
                wanted.port
            );
        }
        talk(session, made)?;
    }
    is(
        session,
        FIRST,
        "port:0",
        &format!("0 port {}", FOR_DOM0.port),
    )?;
    dom0_wakes(session, FOR_DOM0)?;
    silence(session, BETWEEN[1])
}

/// Grants a page; returns the reference.
fn permit(session: &mut Session, domain: u16, to: u16, page: u64) -> Result<u64> {
    let line = says(session, domain, &format!("permit:{to}:{page}"))?;
    ensure!(
        line.ends_with(&format!(" to {to}")),
        "d{domain}: permit:{to}:{page}: {line}"
    );
    number(&line, "ref")
}

/// Copies a word from and to the page that `owner` grants by `reference`.
fn copies(session: &mut Session, by: u16, owner: u16, reference: u64, word: u64) -> Result<()> {
    write_word(session, owner, word)?;
    is(
        session,
        by,
        &format!("fetch:{owner}:{reference}"),
        &format!("0 status 0 word {word:#x}"),
    )?;
    let answer = word + 1;
    is(
        session,
        by,
        &format!("put:{owner}:{reference}:{answer:#x}"),
        "0 status 0",
    )?;
    is(session, owner, "word", &format!("{answer:#x}"))
}

/// Writes the word that the owner grants.
fn write_word(session: &mut Session, owner: u16, word: u64) -> Result<()> {
    says(session, owner, &format!("word:{word:#x}")).map(drop)
}

/// Neither copy is done, and the reason is the page.
fn refused(session: &mut Session, by: u16, owner: u16, reference: u64) -> Result<()> {
    is(
        session,
        by,
        &format!("fetch:{owner}:{reference}"),
        &format!("{BAD_PAGE} word 0x0"),
    )?;
    is(
        session,
        by,
        &format!("put:{owner}:{reference}:0x77"),
        BAD_PAGE,
    )
}

/// References of [`FIRST`], in the order in which it gives them.
const TO_SECOND: u64 = 16;
const TO_OUTSIDE: u64 = 17;
const PRIVATE_TO_SECOND: u64 = 18;
const PRIVATE_TO_OUTSIDE: u64 = 19;
const TO_DOM0: u64 = 20;
const PRIVATE_TO_DOM0: u64 = 21;
/// References of [`OUTSIDE`].
const FROM_OUTSIDE: u64 = 16;
const PRIVATE_FROM_OUTSIDE: u64 = 17;

fn grants_before(session: &mut Session) -> Result<()> {
    is(session, FIRST, "table", "0")?;
    is(session, OUTSIDE, "table", "0")?;
    for (owner, to, page, wanted) in [
        (FIRST, SECOND, DATA, TO_SECOND),
        (FIRST, OUTSIDE, DATA, TO_OUTSIDE),
        (FIRST, SECOND, PRIVATE, PRIVATE_TO_SECOND),
        (FIRST, OUTSIDE, PRIVATE, PRIVATE_TO_OUTSIDE),
        (FIRST, 0, DATA, TO_DOM0),
        (FIRST, 0, PRIVATE, PRIVATE_TO_DOM0),
        (OUTSIDE, FIRST, DATA, FROM_OUTSIDE),
        (OUTSIDE, FIRST, PRIVATE, PRIVATE_FROM_OUTSIDE),
    ] {
        let reference = permit(session, owner, to, page)?;
        ensure!(
            reference == wanted,
            "d{owner} has given reference {reference}, not {wanted}"
        );
    }
    copies(session, SECOND, FIRST, TO_SECOND, 0x100)?;
    copies(session, OUTSIDE, FIRST, TO_OUTSIDE, 0x110)?;
    copies(session, FIRST, OUTSIDE, FROM_OUTSIDE, 0x120)?;
    // The positive of what is refused later.
    for (by, reference) in [(SECOND, PRIVATE_TO_SECOND), (OUTSIDE, PRIVATE_TO_OUTSIDE)] {
        let fetch = format!("fetch:{FIRST}:{reference}");
        let line = says(session, by, &fetch)?;
        ensure!(line.starts_with("0 status 0 "), "d{by}: {fetch}: {line}");
        let put = format!("put:{FIRST}:{reference}:0x42");
        is(session, by, &put, "0 status 0")?;
        is(session, by, &fetch, "0 status 0 word 0x42")?;
    }
    for reference in [TO_DOM0, PRIVATE_TO_DOM0] {
        session.must(&format!("vmf-probe gnttab-copy {FIRST} {reference}"))?;
    }
    // Somebody whom nothing is granted gets nothing.
    let line = says(session, OUTSIDE, &format!("fetch:{FIRST}:{TO_SECOND}"))?;
    ensure!(
        line.starts_with("0 status -") && line.ends_with("word 0x0"),
        "d{OUTSIDE}: fetches what is granted to d{SECOND}: {line}"
    );
    Ok(())
}

/// Mapping a private page of a domain that is not protected, and a page that is
/// shared of one that is about to be.
fn mapping(session: &mut Session) -> Result<()> {
    let private = format!("map:{FIRST}:{PRIVATE_TO_OUTSIDE}");
    is(session, OUTSIDE, &private, "0 status 0")?;
    ends(
        session,
        &format!("vmfctl check {FIRST}"),
        1,
        &["another domain has mapped"],
    )?;
    is(session, OUTSIDE, "unmap", "0 status 0")?;
    ends(session, &format!("vmfctl check {FIRST}"), 0, &[])?;
    session.must(&format!("vmf-probe grant-table {SECOND}"))?;
    // dom0's foreign mapping can end, and stays when it is made again.
    let map = format!("vmf-probe raw-foreign-map {OUTSIDE} {GFN} {AT}");
    session.must(&map)?;
    session.must(&format!("{map} --stay")).map(drop)
}

/// What holds from `unmap` on.
fn copies_and_refusals(session: &mut Session, word: u64) -> Result<()> {
    copies(session, SECOND, FIRST, TO_SECOND, word)?;
    copies(session, OUTSIDE, FIRST, TO_OUTSIDE, word + 0x10)?;
    copies(session, FIRST, OUTSIDE, FROM_OUTSIDE, word + 0x20)?;
    refused(session, SECOND, FIRST, PRIVATE_TO_SECOND)?;
    refused(session, OUTSIDE, FIRST, PRIVATE_TO_OUTSIDE)?;
    // The same by Linux in dom0.
    write_word(session, FIRST, word + 0x30)?;
    let copy = |reference: u64| format!("vmf-probe gnttab-copy {FIRST} {reference}");
    let copied = format!("word={:#018x}", word + 0x30);
    ends(session, &copy(TO_DOM0), 0, &[&copied])?;
    ends(session, &copy(PRIVATE_TO_DOM0), 1, &["GNTST -9"])?;
    // Of a domain that is not protected, any page can be had.
    let fetch = format!("fetch:{OUTSIDE}:{PRIVATE_FROM_OUTSIDE}");
    let line = says(session, FIRST, &fetch)?;
    ensure!(line.starts_with("0 status 0 "), "d{FIRST}: {fetch}: {line}");
    Ok(())
}

fn protect(session: &mut Session) -> Result<()> {
    session.must(&format!("vmfctl protect --yes {FIRST} {SECOND} {LATE}"))?;
    state_is(session, "unmapped")?;
    copies_and_refusals(session, 0x200)?;
    // A protected domain still gets its grant table, before the lock. Nobody
    // else does.
    ends(session, &format!("vmf-probe grant-table {SECOND}"), 1, &[])?;
    is(session, SECOND, "table", "0")?;
    let reference = permit(session, SECOND, FIRST, DATA)?;
    copies(session, FIRST, SECOND, reference, 0x240)?;
    // Pages that are shared can be mapped, private ones not.
    let private = format!("map:{FIRST}:{PRIVATE_TO_OUTSIDE}");
    is(session, OUTSIDE, &private, BAD_PAGE)?;
    for (by, reference) in [(SECOND, TO_SECOND), (OUTSIDE, TO_OUTSIDE)] {
        let map = format!("map:{FIRST}:{reference}");
        is(session, by, &map, "0 status 0")?;
    }
    mapped(session, 0x250)
}

/// The page that both have mapped is one and the same.
fn mapped(session: &mut Session, word: u64) -> Result<()> {
    for (by, word) in [(SECOND, word), (OUTSIDE, word + 2)] {
        write_word(session, FIRST, word)?;
        let answer = word + 1;
        is(
            session,
            by,
            &format!("mapped:{answer:#x}"),
            &format!("{word:#x}"),
        )?;
        is(session, FIRST, "word", &format!("{answer:#x}"))?;
    }
    Ok(())
}

fn lock(session: &mut Session) -> Result<()> {
    session.must("vmfctl lock --yes")?;
    state_is(session, "locked")
}

fn old_channels(session: &mut Session) -> Result<()> {
    talk(session, BETWEEN)?;
    talk(session, ACROSS)?;
    dom0_wakes(session, FOR_DOM0)?;
    silence(session, BETWEEN[0])
}

fn new_channels(session: &mut Session) -> Result<()> {
    for (from, to) in [(SECOND, FIRST), (FIRST, OUTSIDE)] {
        let made = channel(session, from, to)?;
        talk(session, made)?;
    }
    let line = says(session, FIRST, "port:0")?;
    let port = number(&line, "0 port")?;
    dom0_wakes(
        session,
        End {
            domain: FIRST,
            port,
        },
    )
}

fn grants_after(session: &mut Session) -> Result<()> {
    copies_and_refusals(session, 0x300)?;
    // A new grant takes no hypercall.
    let reference = permit(session, FIRST, SECOND, DATA)?;
    copies(session, SECOND, FIRST, reference, 0x340)?;
    let private = permit(session, FIRST, SECOND, PRIVATE)?;
    refused(session, SECOND, FIRST, private)
}

fn mapping_after(session: &mut Session) -> Result<()> {
    mapped(session, 0x350)
}

fn no_table(session: &mut Session) -> Result<()> {
    is(session, LATE, "table", "-1 EPERM")?;
    let line = says(session, LATE, &format!("permit:{FIRST}:{DATA}"))?;
    ensure!(
        line.contains("abort"),
        "d{LATE}: permit without a table: {line}"
    );
    Ok(())
}

fn no_mapping(session: &mut Session) -> Result<()> {
    // GNTST_general_error: neither ends a mapping, nor is there a new one.
    is(session, OUTSIDE, "unmap", "0 status -1")?;
    let map = format!("map:{SECOND}:16");
    is(session, FIRST, &map, "0 status -1")?;
    mapped(session, 0x360)
}

/// A frame in the middle of a canary's memory.
const GFN: &str = "0x41000";
/// A frame of dom0 that holds nothing.
const AT: &str = "0x3c0001";

/// What Xen does for a domain by looking at its memory or its stage 2, it still
/// does for one that is not protected; and not for the other.
fn outside(session: &mut Session) -> Result<()> {
    let line = says(session, OUTSIDE, "setway")?;
    ensure!(
        line.contains(" operations in "),
        "d{OUTSIDE}: setway: {line}"
    );
    let line = says(session, FIRST, "setway")?;
    ensure!(
        line.starts_with("refused after 0 operations: abort"),
        "d{FIRST}: setway: {line}"
    );
    for (domain, wanted) in [
        (OUTSIDE, "post-indexed read"),
        (FIRST, "post-indexed abort"),
    ] {
        let lines = told(session, domain, "isv0", 4)?;
        ensure!(
            lines.iter().filter(|line| line.contains(wanted)).count() == 2,
            "d{domain}: isv0: {lines:?}, and not \"{wanted}\" twice"
        );
    }
    let lines = told(session, OUTSIDE, "badptr", 3)?;
    ensure!(
        lines.iter().all(|line| !line.contains("EFAULT")),
        "d{OUTSIDE}: badptr: {lines:?}"
    );
    // Its table is mapped, and stays where it is. No page of it is mapped by dom0.
    is(session, OUTSIDE, "table", "-16 EBUSY")?;
    let map = format!("vmf-probe raw-foreign-map {OUTSIDE} {GFN}");
    ends(session, &map, 1, &["error=EPERM"])?;
    // Nor does one end that is there.
    let remove = format!("vmf-probe remove 0 {AT}");
    ends(session, &remove, 1, &["error=EPERM"]).map(drop)
}

fn too_late(session: &mut Session) -> Result<()> {
    ends(
        session,
        "vmfctl seal --yes",
        1,
        &["locked already", "Nothing was done"],
    )?;
    state_is(session, "locked")
}

fn audited(session: &mut Session) -> Result<()> {
    session.shared = INSIDE
        .map(|domain| audit::share(domain, CANARY_PAGES))
        .to_vec();
    let moment = session.moment("end", &INSIDE)?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)?;
    dom0_goes_on(session)
}
