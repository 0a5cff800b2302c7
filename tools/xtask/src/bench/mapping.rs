//! What mapping a page of the domheap takes, and a page of the xenheap: a Xen
//! with loops of its own in it (`xen-vmf/patches/xen-4.20-bench`) times them
//! while it boots, with interrupts masked. Nothing is blown then.
//!
//! TLB maintenance is counted in the same boot, by a debugger at each such
//! instruction. Three that Xen is known to execute must be among them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::figure::Point;
use crate::lab::images::Images;
use crate::lab::profile::{Bank, Guest, Profile, RAM_BASE};
use crate::lab::scenarios::boot::ALONE;
use crate::lab::session::Session;
use crate::lab::tlbi::Counted;
use crate::site::Site;
use crate::xen::{self, Variant};

/// Points at which Xen measures itself.
pub const POINTS: [Point; 3] = [Point::Stock, Point::DirectmapYes, Point::DirectmapNo];
/// A page of the xenheap, allocated and freed: its name, and what it may take
/// of what it takes on stock Xen.
pub const XENHEAP: (&str, f64) = ("xenheap-page", 1.02);

/// A way to map pages, one after the other.
pub struct Way {
    /// Its name.
    pub id: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// Instructions that a page may take, where there is a target.
    pub target: Option<f64>,
}

/// All of them, in the order in which Xen measures them.
pub const WAYS: [Way; 3] = [
    Way {
        id: "map-same",
        title: "the same page",
        target: Some(30.0),
    },
    Way {
        id: "map-regions",
        title: "64 pages in turn, each in 2 MiB of its own",
        target: Some(50.0),
    },
    Way {
        id: "map-runs",
        title: "2048 pages in turn, each in 64 KiB of its own: more than a window holds",
        target: None,
    },
];

/// What mapping, reading and unmapping one page takes.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Cost {
    /// Instructions.
    pub instructions: f64,
    /// TLBI instructions among so many pages.
    pub tlbis: u64,
    /// How many pages these were.
    pub pages: u64,
}

/// What one Xen has measured.
#[derive(Debug)]
pub struct Measured {
    /// By name of the way.
    pub ways: BTreeMap<&'static str, Cost>,
    /// A page of the xenheap, in instructions.
    pub xenheap: f64,
}

/// Xen's mark before what it does next (`enum cost_phase`).
const MARK: &str = "cost_phase";
/// Marks: a page of the xenheap; three flushes; the last one.
const PHASE_XENHEAP: u64 = 3;
const PHASE_FLUSH: u64 = 5;
const PHASE_DONE: u64 = 6;
/// TLBI instructions that come after that mark.
const FLUSHED: u64 = 3;
/// Boots under `-icount` are slow.
const SLOW: Duration = Duration::from_secs(180);

/// The same images with Xens that measure themselves.
pub fn images(site: &Site, images: &Images) -> Result<Images> {
    let mut images = images.clone();
    for (point, variant) in [
        (Point::Stock, Variant::STOCK),
        (Point::DirectmapNo, Variant::VMF),
    ] {
        images.replace_xen(point.xen(), xen::build_measuring(site, &variant)?);
    }
    Ok(images)
}

/// Boots a Xen of [`images`], and has it measure.
pub fn measure(images: &Images, base: &Profile, lab: &Path, point: Point) -> Result<Measured> {
    ensure!(POINTS.contains(&point), "nothing is blown here");
    let mut profile = base.clone();
    profile.name = format!("mapping-{}", point.name().replace('=', "-"));
    profile.cpus = 1;
    profile.banks = vec![Bank {
        start: RAM_BASE,
        mib: 1024,
    }];
    profile.device_tree = ALONE.to_owned();
    profile.xen_arguments = "conswitch=ax".to_owned();
    profile
        .domains
        .retain(|domain| domain.guest == Guest::Canary);
    point.apply(&mut profile);
    let mut session = Session::load(images, &profile, lab, false)?;
    let counted = session.count_tlbi(MARK, PHASE_DONE)?;
    session.wait_xen("COST: done", SLOW)?;
    let lines = session.xen_lines(0)?;
    let folder = session.folder().to_owned();
    session.finish()?;
    judge(&lines, &counted).with_context(|| format!("run {}", folder.display()))
}

/// Puts what Xen says and what was counted together.
fn judge(lines: &[String], counted: &[Counted]) -> Result<Measured> {
    let after = |mark: u64| {
        let found = counted.iter().find(|counted| counted.mark == mark);
        let found = found.with_context(|| format!("Xen has not passed mark {mark}"))?;
        Ok::<_, anyhow::Error>(found.tlbis)
    };
    ensure!(
        after(PHASE_FLUSH)? == FLUSHED,
        "{} TLBI instructions were seen where there are {FLUSHED}",
        after(PHASE_FLUSH)?
    );
    ensure!(
        after(PHASE_XENHEAP)? == 0,
        "a page of the xenheap needs TLB maintenance"
    );
    let mut ways = BTreeMap::new();
    for (way, mark) in WAYS.iter().zip(0..) {
        let times = Times::find(lines, way.id)?;
        let cost = Cost {
            instructions: times.instructions(times.ticks.saturating_sub(times.empty)),
            tlbis: after(mark)?,
            pages: times.counted,
        };
        ways.insert(way.id, cost);
    }
    // An empty loop here would be another one than Xen has timed.
    let times = Times::find(lines, XENHEAP.0)?;
    Ok(Measured {
        ways,
        xenheap: times.instructions(times.ticks),
    })
}

/// One of Xen's lines: `COST: <what> rounds <n> ticks <t> empty <e> frequency
/// <f> counted <c>`.
struct Times {
    rounds: u64,
    ticks: u64,
    empty: u64,
    frequency: u64,
    counted: u64,
}

impl Times {
    fn find(lines: &[String], what: &str) -> Result<Self> {
        let mark = format!("COST: {what} ");
        let rest = lines.iter().find_map(|line| line.split_once(&mark));
        let (_, rest) = rest.with_context(|| format!("Xen says nothing of {what}"))?;
        let mut words = rest.split_whitespace();
        let mut number = |name: &str| {
            ensure!(words.next() == Some(name), "no {name}: {rest}");
            let value = words.next().and_then(|word| word.parse().ok());
            value.with_context(|| format!("{name} is no number: {rest}"))
        };
        Ok(Self {
            rounds: number("rounds")?,
            ticks: number("ticks")?,
            empty: number("empty")?,
            frequency: number("frequency")?,
            counted: number("counted")?,
        })
    }

    /// Ticks of all rounds in instructions of one: each takes a nanosecond.
    fn instructions(&self, ticks: u64) -> f64 {
        ticks as f64 * 1e9 / self.frequency as f64 / self.rounds as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<String> {
        let line = |what: &str, ticks: u64| {
            format!(
                "(XEN) COST: {what} rounds 1000 ticks {ticks} empty 500 frequency 62500000 counted 10"
            )
        };
        let mut lines: Vec<String> = WAYS.iter().map(|way| line(way.id, 1500)).collect();
        lines.push(line(XENHEAP.0, 2000));
        lines
    }

    fn counted(flushed: u64) -> Vec<Counted> {
        let seen = [(0, 0), (1, 0), (2, 160), (3, 0), (5, flushed), (6, 0)];
        seen.map(|(mark, tlbis)| Counted { mark, tlbis }).to_vec()
    }

    #[test]
    fn ticks_become_instructions() {
        let measured = judge(&lines(), &counted(3)).unwrap();
        assert_eq!(measured.xenheap, 32.0);
        assert_eq!(measured.ways["map-same"].instructions, 16.0);
        assert_eq!(measured.ways["map-same"].tlbis, 0);
        assert_eq!(measured.ways["map-runs"].tlbis, 160);
    }

    #[test]
    fn a_counter_that_sees_nothing_is_noticed() {
        assert!(judge(&lines(), &counted(0)).is_err());
        assert!(judge(&lines(), &counted(3)[1..]).is_err());
        assert!(judge(&lines()[1..], &counted(3)).is_err());
    }
}
