//! Pages that a protected domain shares with Xen on purpose: its hypercalls with
//! pointers into them go on, at every level, and nothing else of it does.
//! Each refusal is shown together with the same hypercall succeeding before.

use anyhow::{Context, Result, bail, ensure};
use vmf_audit::registers::Share;
use vmf_audit::report::{Level, Verdict};

use super::{CANARY, Group, ends, guests_go_on, state_is, told};
use crate::lab::profile::{Cpu, Guest, Profile};
use crate::lab::session::Session;
use crate::lab::{audit, pattern};

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "shared",
        system: two_canaries,
        tests: TESTS,
    },
    Group {
        name: "shared-directmap",
        system: |profile| {
            two_canaries(profile);
            profile.directmap = true;
            profile.cpu = Cpu::CortexA53;
            profile.xen.debug = true;
        },
        tests: TESTS,
    },
];

const TESTS: &[(&str, super::Test)] = &[
    ("hypercalls-with-pointers-before", before),
    ("what-cannot-be-shared", refused),
    ("a-domain-shares-pages-and-gives-areas", share_some),
    ("cache-of-own-pages-before", |session| {
        caches(session, "0", "-22 EINVAL")
    }),
    ("protect-leaves-what-is-shared", protect),
    ("lock-leaves-what-is-shared", lock),
    ("cache-of-shared-pages-only", |session| {
        caches(session, "-1 EPERM", "-1 EPERM")
    }),
    ("no-page-is-shared-after-the-lock", late),
    ("the-verifier-finds-what-was-meant-and-no-more", audited),
    ("guests-go-on", guests_go_on),
];

/// A second bare-metal canary, which shares nothing.
const OTHER: u16 = 3;

fn two_canaries(profile: &mut Profile) {
    let canary = profile.domains.iter().find(|d| d.guest == Guest::Canary);
    if let Some(mut other) = canary.cloned() {
        other.arguments = "seed=0x07e4".to_owned();
        profile.domains.push(other);
    }
}

/// What a canary's hypercalls through its pages have to say.
struct Expected {
    /// Results through the pages.
    inside: bool,
    /// Results of those that reach a private page.
    private: bool,
    /// The domain has a FIFO event queue, and its arrays are shared.
    queue: bool,
}

/// Lines that the action `bounce` prints.
pub const LINES: usize = 11;

/// Where a canary's pages for hypercalls are, address and bytes: behind its
/// image, which comes first in memory and takes up less than 2 MiB.
pub const CANARY_PAGES: [u64; 2] = [0x4020_0000, 0x4000];

/// The claim that a domain with a canary shares the first of them.
pub fn share(domain: u16, pages: u64) -> Share {
    audit::share(domain, [CANARY_PAGES[0], pages << 12])
}

/// The hypercalls that a canary has made on its own after the lock.
pub fn judge_protected(session: &Session, domain: u16, shares: bool) -> Result<()> {
    let lines = session.domain_lines(domain)?;
    let about = lines
        .iter()
        .filter_map(|line| line.split_once("canary: bounce: "));
    let about: Vec<String> = about.map(|(_, rest)| rest.to_owned()).collect();
    let expected = Expected {
        inside: shares,
        private: false,
        queue: shares,
    };
    judge(domain, &about, &expected)
}

/// All hypercalls of the action `bounce`.
fn bounce(session: &mut Session, domain: u16, expected: &Expected) -> Result<()> {
    let lines = told(session, domain, "bounce", LINES)?;
    judge(domain, &lines, expected)
}

/// Judges them one by one.
fn judge(domain: u16, lines: &[String], expected: &Expected) -> Result<()> {
    let line = |what: &str| {
        let found = lines.iter().find(|line| line.starts_with(what));
        found
            .map(|line| line.trim().to_owned())
            .with_context(|| format!("d{domain}: bounce: no line {what}: {lines:?}"))
    };
    let is = |what: &str, wanted: &str| -> Result<()> {
        let line = line(what)?;
        ensure!(line == wanted, "d{domain}: bounce: {line}, not {wanted}");
        Ok(())
    };
    let pages = line("memory_op")?;
    if expected.inside {
        is("xen_version", "xen_version 0 \".4-pre\"")?;
        is("console_io", "console_io 0")?;
        is("sched_op", "sched_op 0")?;
        let (priority, pending) = match expected.queue {
            true => ("0", "1"),
            false => ("-38 ENOSYS", "0"),
        };
        is(
            "event_channel alloc",
            &format!(
                "event_channel alloc 0 bind 0 priority {priority} unmask 0 send 0 status 0 is 2 pending 0 {pending}"
            ),
        )?;
        is("event_channel close", "event_channel close 0 0")?;
        let count: u64 = pages
            .strip_prefix("memory_op ")
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        ensure!(count > 0x1000, "d{domain}: {pages}");
        is("multicall", "multicall 0 results 262164 0 byte 46")?;
        is("runstate", "runstate 0 written true")?;
        is("copy shared", "copy shared 0 status 0 arrived true")?;
    } else {
        for what in ["xen_version", "console_io", "sched_op", "multicall"] {
            let line = line(what)?;
            ensure!(
                line.starts_with(&format!("{what} -14 EFAULT")),
                "d{domain}: {line}"
            );
        }
        let events = line("event_channel alloc")?;
        ensure!(
            events.starts_with("event_channel alloc -14 EFAULT bind -14 EFAULT"),
            "d{domain}: {events}"
        );
        ensure!(
            pages.starts_with("memory_op -14 EFAULT"),
            "d{domain}: {pages}"
        );
        let copy = line("copy shared")?;
        ensure!(copy.starts_with("copy shared -14"), "d{domain}: {copy}");
    }
    let across = if expected.private { "0" } else { "-14 EFAULT" };
    is("across", &format!("across {across}"))?;
    let copy = line("copy private")?;
    let arrived = copy == "copy private 0 status 0 arrived true";
    let refused = copy.ends_with("arrived false") && !copy.contains("status 0 ");
    ensure!(
        if expected.private {
            arrived
        } else {
            refused || !expected.inside
        },
        "d{domain}: {copy}"
    );
    Ok(())
}

const OPEN: Expected = Expected {
    inside: true,
    private: true,
    queue: false,
};

fn before(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    bounce(session, CANARY, &OPEN)?;
    bounce(session, OTHER, &OPEN)
}

/// `vmf_op(share)` of a canary must end with this.
fn shares(session: &mut Session, caller: u16, call: &str, wanted: &str) -> Result<()> {
    let lines = told(session, caller, &format!("vmf:8:{call}"), 1)?;
    ensure!(
        lines[0].trim() == wanted,
        "d{caller}: share {call}: {}, not {wanted}",
        lines[0]
    );
    Ok(())
}

fn refused(session: &mut Session) -> Result<()> {
    for (call, wanted) in [
        // Nothing there; the distributor of the interrupt controller.
        ("0x7ff0:0x70000:1", "-14 EFAULT"),
        ("0x7ff0:0x3001:1", "-14 EFAULT"),
        ("0x7ff0:0x40000:0", "-22 EINVAL"),
        ("0x7ff0:0x40000:65", "-22 EINVAL"),
        ("0x7ff4:0x40000:1", "-1 EPERM"),
        // Another domain's.
        ("2:0x40000:1", "-1 EPERM"),
        ("0:0x40000:1", "-1 EPERM"),
    ] {
        shares(session, OTHER, call, wanted)?;
    }
    state_is(session, "open")
}

/// First of the pages that a canary shares.
const FIRST: u64 = CANARY_PAGES[0] >> 12;
/// Of two more that it shares when it is protected already.
const MORE: u64 = FIRST + 0x100;

fn share_some(session: &mut Session) -> Result<()> {
    // Until then the control domain and the domain itself take pages away, and
    // put others there.
    let decrease = |gfn: u64| format!("vmf-probe decrease {CANARY} {gfn:#x}");
    session.must(&decrease(FIRST + 1))?;
    session.must(&format!("vmf-probe populate {CANARY} {:#x}", FIRST + 1))?;
    let own = |session: &mut Session, wanted: &str| -> Result<()> {
        let lines = told(session, CANARY, &format!("steal:0x7ff0:{FIRST:#x}"), 2)?;
        ensure!(lines[1].contains(wanted), "steal: {lines:?}, not {wanted}");
        Ok(())
    };
    own(session, "decrease 1, populate 1")?;
    let line = told(session, CANARY, "share", 1)?.remove(0);
    let wanted = format!("0 gfn {FIRST:#x} pages 4");
    ensure!(line.trim() == wanted, "share: {line}, not {wanted}");
    shares(
        session,
        CANARY,
        &format!("0x7ff0:{FIRST:#x}:1"),
        "-17 EEXIST",
    )?;
    // Not any more: others rely on it.
    ends(session, &decrease(FIRST + 1), 1, &[])?;
    own(session, "decrease 0, populate 0")?;
    let areas = told(session, CANARY, "areas", 1)?.remove(0);
    ensure!(
        areas.trim() == "vcpu_info 0 control 0 array 0",
        "areas: {areas}"
    );
    bounce(
        session,
        CANARY,
        &Expected {
            queue: true,
            ..OPEN
        },
    )?;
    // Areas that Xen has mapped are no obstacle if they are shared.
    ends(session, &format!("vmfctl check {CANARY} {OTHER}"), 0, &[]).map(drop)
}

/// Pages of the canary and of the other as dom0 sees them.
fn foreign(session: &mut Session, domain: u16, gfn: u64, code: i32) -> Result<()> {
    ends(
        session,
        &format!("vmf-probe foreign-map {domain} {gfn:#x}"),
        code,
        &[],
    )
    .map(drop)
}

/// GNTTABOP_cache_flush on a page that the canary shares, on a private one of
/// its, which has to end with `private`, and on one that another domain does not
/// grant it.
fn caches(session: &mut Session, private: &str, foreign: &str) -> Result<()> {
    /// Of a word that nobody else makes use of.
    const OFFSET: u64 = 0xff0;
    const MARK: u64 = 0x6d61_7200;
    let pages = [(CANARY, FIRST + 1), (CANARY, FIRST + 4), (OTHER, FIRST + 4)];
    for (index, (domain, page)) in (0..).zip(pages) {
        let address = page << 12 | OFFSET;
        let poke = format!("poke:{address:#x}:{:#x}", MARK | index);
        told(session, domain, &poke, 1)?;
    }
    let moment = session.moment("marked", &[])?;
    let wanted = ["0", private, foreign];
    for ((index, page), wanted) in (0..).zip(pages).zip(wanted) {
        let frames = pattern::with_word(&moment, OFFSET, MARK | index)?;
        let &[frame] = frames.as_slice() else {
            bail!("{page:x?}: one frame should have the mark: {frames:x?}");
        };
        let line = told(session, CANARY, &format!("clean:{frame:#x}"), 1)?.remove(0);
        ensure!(
            line.trim() == wanted,
            "{page:x?}: cache flush: {line}, not {wanted}"
        );
    }
    Ok(())
}

/// What holds for both from `unmap` on.
fn protected(session: &mut Session) -> Result<()> {
    bounce(
        session,
        CANARY,
        &Expected {
            inside: true,
            private: false,
            queue: true,
        },
    )?;
    bounce(
        session,
        OTHER,
        &Expected {
            inside: false,
            private: false,
            queue: false,
        },
    )
}

fn protect(session: &mut Session) -> Result<()> {
    for page in [FIRST, FIRST + 3, FIRST + 4] {
        foreign(session, CANARY, page, 0)?;
    }
    session.must(&format!("vmfctl protect --yes {CANARY} {OTHER}"))?;
    state_is(session, "unmapped")?;
    for page in [FIRST, FIRST + 3] {
        foreign(session, CANARY, page, 0)?;
    }
    for page in [FIRST - 1, FIRST + 4] {
        foreign(session, CANARY, page, 1)?;
    }
    protected(session)?;
    caches(session, "-1 EPERM", "-1 EPERM")?;
    // A domain that shares nothing cannot even ask.
    let line = told(session, OTHER, "clean:0x40000", 1)?.remove(0);
    ensure!(line.trim() == "-14 EFAULT", "d{OTHER}: cache flush: {line}");
    Ok(())
}

fn lock(session: &mut Session) -> Result<()> {
    // Protected, and not locked: the domain itself can share more.
    shares(session, CANARY, &format!("0x7ff0:{MORE:#x}:2"), "0")?;
    session.must("vmfctl lock --yes")?;
    state_is(session, "locked")?;
    protected(session)
}

fn late(session: &mut Session) -> Result<()> {
    for domain in [CANARY, OTHER] {
        shares(session, domain, "0x7ff0:0x40200:1", "-30 EROFS")?;
    }
    Ok(())
}

/// The level holds if exactly the pages are claimed to be shared that were
/// meant to be, and not with one fewer or more.
fn audited(session: &mut Session) -> Result<()> {
    let share = |gfn: u64, pages: u64| audit::share(CANARY, [gfn << 12, pages << 12]);
    let exact = [share(FIRST, 4), share(MORE, 2)];
    session.shared = exact.to_vec();
    let moment = session.moment("locked", &[CANARY, OTHER])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)?;
    for wrong in [
        vec![],
        vec![exact[0]],
        vec![share(FIRST, 3), exact[1]],
        vec![exact[0], share(MORE, 3)],
    ] {
        audit::claim(&moment, &wrong)?;
        let report = audit::check(&moment, Level::Lock)?;
        ensure!(
            report.verdict != Verdict::Holds,
            "with {wrong:?} claimed: {}",
            audit::sentence(&report)
        );
    }
    audit::claim(&moment, &exact)
}
