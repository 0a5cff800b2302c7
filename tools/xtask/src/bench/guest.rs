//! What guests see: two of them on one CPU, without dom0. One is protected
//! when the fuse is blown, one stays outside; each times what it may do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::figure::{Figure, GUEST, Point};
use crate::lab::images::Images;
use crate::lab::profile::{Guest, Profile};
use crate::lab::scenarios::boot::ALONE;
use crate::lab::scenarios::shared::CANARY_PAGES;
use crate::lab::session::Session;

/// The guest that is protected when the fuse is blown.
const INSIDE: u16 = 1;
/// The one that is not.
const OUTSIDE: u16 = 2;
/// The last thing that each measures: with it, the other has been answered, and
/// asked.
const LAST: [(u16, &str); 2] = [(OUTSIDE, "canary: ring: "), (INSIDE, "canary: answer: ")];
/// What both do first, and when. Then one after the other measures, while the
/// other sleeps, and at last one sends events that the other answers.
const SCRIPT: [&str; 2] = [
    "size=64K yield:150@1 cost@2 answer:2@3",
    "size=64K yield:150@1 cost@3 ring:1@3",
];
/// What is refused to a protected guest.
const REFUSED: &str = "-14 EFAULT";
/// Boots under `-icount` are slow.
const SLOW: Duration = Duration::from_secs(180);

/// Measures all of [`GUEST`] at one point.
pub fn measure(
    images: &Images,
    base: &Profile,
    lab: &Path,
    point: Point,
) -> Result<BTreeMap<&'static str, f64>> {
    let mut session = Session::boot(images, &profile(base, point), lab, false)?;
    let folder = session.folder().to_owned();
    let [inside, outside] =
        listen(&mut session).with_context(|| format!("run {}", folder.display()))?;
    session.finish()?;
    let values = GUEST
        .iter()
        .map(|figure| Ok((figure.id, value(figure, &inside, &outside)?)))
        .collect::<Result<_>>()
        .with_context(|| format!("run {}", folder.display()))?;
    if matches!(point, Point::Locked | Point::Sealed) {
        for figure in GUEST.iter().filter(|figure| figure.pointers) {
            let said = said(&inside, figure.id)?;
            ensure!(
                said == REFUSED,
                "{}: d{INSIDE} is to be protected, and {} says: {said}",
                point.name(),
                figure.id
            );
        }
    }
    Ok(values)
}

/// Waits until both have measured; returns what they have said.
fn listen(session: &mut Session) -> Result<[Vec<String>; 2]> {
    for (id, last) in LAST {
        session.wait_domain(id, last, SLOW)?;
    }
    Ok([
        session.domain_lines(INSIDE)?,
        session.domain_lines(OUTSIDE)?,
    ])
}

/// The system at one point.
fn profile(base: &Profile, point: Point) -> Profile {
    let mut profile = base.clone();
    profile.name = format!("cost-{}", point.name().replace('=', "-"));
    profile.cpus = 1;
    profile.device_tree = ALONE.to_owned();
    // In Xen's default mode (SILO), guests have no event channels to each other.
    profile.xen_arguments = "conswitch=ax xsm=dummy".to_owned();
    point.apply(&mut profile);
    profile
        .domains
        .retain(|domain| domain.guest == Guest::Canary);
    let twice = profile.domains.clone();
    profile.domains.extend(twice);
    for (domain, script) in profile.domains.iter_mut().zip(SCRIPT) {
        domain.arguments = script.to_owned();
    }
    let [inside, outside] = &mut profile.domains[..] else {
        unreachable!("the test profile has one canary");
    };
    // A partner for interrupts, and pages in which it still gets events.
    inside.vcpus = 2;
    inside.share = vec![CANARY_PAGES];
    outside.unprotected = true;
    profile
}

/// What was measured of a figure, by the guest that can.
fn value(figure: &Figure, inside: &[String], outside: &[String]) -> Result<f64> {
    if figure.id == "ring" {
        let said = after(outside, "canary: ring: ", figure.id)?;
        return nanoseconds(&said).with_context(|| format!("{}: {said}", figure.id));
    }
    if figure.id == "yield" {
        // The one with the longer overlap has less of the time alone in it.
        return Ok(yielded(inside)?.max(yielded(outside)?));
    }
    let lines = if figure.pointers { outside } else { inside };
    let said = said(lines, figure.id)?;
    nanoseconds(&said).with_context(|| format!("{}: {said}", figure.id))
}

/// What the canary says of a figure.
fn said(lines: &[String], id: &str) -> Result<String> {
    after(lines, &format!("canary: cost: {id} "), id)
}

/// What stands behind `mark`, where the canary speaks of a figure the last time.
fn after(lines: &[String], mark: &str, id: &str) -> Result<String> {
    let rest = lines.iter().rev().find_map(|line| line.split_once(mark));
    let (_, rest) = rest.with_context(|| format!("the canary says nothing of {id}"))?;
    Ok(rest.trim().to_owned())
}

/// `T.TT ns`, which are instructions here.
fn nanoseconds(text: &str) -> Option<f64> {
    text.strip_suffix(" ns")?.trim().parse().ok()
}

/// `N batches of 64, T ns each`.
fn yielded(lines: &[String]) -> Result<f64> {
    let mut about = lines.iter().filter(|line| line.contains("canary: yield: "));
    let line = about.next().context("the canary did not yield")?;
    let time = line.trim().strip_suffix(" each");
    let time = time.and_then(|line| nanoseconds(line.rsplit(", ").next()?));
    time.with_context(|| format!("no time: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn the_canary_is_understood() {
        let seen = lines(&[
            "canary: heartbeat 1 pattern ok",
            "canary: yield: 12 batches of 64, 5421 ns each",
            "canary: cost: version 734.25 ns",
            "canary: cost: copy-16 -14 EFAULT",
        ]);
        assert_eq!(yielded(&seen).unwrap(), 5421.0);
        assert_eq!(said(&seen, "copy-16").unwrap(), REFUSED);
        assert_eq!(nanoseconds(&said(&seen, "version").unwrap()), Some(734.25));
        assert!(nanoseconds("none").is_none());
        assert!(said(&seen, "uart").is_err() && yielded(&[]).is_err());
    }

    #[test]
    fn what_was_refused_is_no_figure() {
        let seen = lines(&["canary: cost: copy-16 -14 EFAULT"]);
        let figure = GUEST.iter().find(|figure| figure.id == "copy-16").unwrap();
        assert!(value(figure, &seen, &seen).is_err());
    }

    #[test]
    fn the_system_fits_one_cpu() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let base = Profile::read(&root, "test").unwrap();
        for point in Point::ALL {
            let profile = profile(&base, point);
            profile.validate().unwrap();
            let outside: Vec<bool> = profile.domains.iter().map(|d| d.unprotected).collect();
            assert_eq!(outside, [false, true]);
            assert_eq!(profile.cpus, 1);
        }
    }
}
