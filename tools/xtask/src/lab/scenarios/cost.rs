//! Cost against stock Xen, in instructions: under `-icount` virtual time counts
//! them, so a comparison repeats exactly. The gates; all figures are
//! [`crate::bench`]'s.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench;
use crate::bench::figure::{Figure, GUEST, Point, Values, above, ratio};
use crate::lab::images::Images;
use crate::lab::profile::{Guest, Profile, Xen};
use crate::lab::scenarios::boot::ALONE;
use crate::lab::session::Session;

/// Names of the cases that boot their own machines.
const BOOT: &str = "lab/cost/boots-as-fast-as-stock-xen";
const AT_BOOT: &str = "lab/cost/blow-at-boot";
const BLOW: &str = "lab/cost/blow-of-1-gib";
/// A case that boots its own machines.
pub type Run = fn(&Images, &Profile, &Path) -> Result<()>;

/// Those cases.
pub const CASES: [(&str, Run); 3] = [(BOOT, boot), (AT_BOOT, at_boot), (BLOW, blow)];
/// What is compared.
pub const XENS: [Xen; 2] = [
    Xen {
        fuse: false,
        debug: false,
        its: false,
        shm: false,
        attack: false,
    },
    Xen {
        fuse: true,
        debug: false,
        its: false,
        shm: false,
        attack: false,
    },
];
/// Boots under `-icount` are slow.
const SLOW: Duration = Duration::from_secs(150);
/// The counter has a tick each 16 ns, which are instructions here.
const TICK: f64 = 16.0;
/// Instructions that the blow at boot may take, for a guest of 32 MiB.
const AT_BOOT_LIMIT: f64 = 1.5e6;

/// From reset to dom0, and loading kernels, takes no more than the targets.
fn boot(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let (mib, entry) = bench::boot::SIZES[0];
    let values = bench::boot::all(mib, |point| {
        bench::boot::measure(images, base, lab, point, mib)
    })?;
    let loading = bench::boot::LOADING;
    let mut missed = Vec::new();
    for (what, limit) in [
        ("entry", entry),
        ("dom0-kernel", loading),
        ("domu-kernel", loading),
    ] {
        let values = &values[&format!("{what}-{}g", mib / 1024)];
        let mut line = format!(
            "boot: {what}: {:.2} million instructions on stock Xen",
            values[&Point::Stock] / 1e6
        );
        for point in &bench::boot::POINTS[1..] {
            let ratio = ratio(values, *point).context("stock Xen took no time")?;
            let _ = write!(line, ", {} {ratio:.3} (gate {limit:.2})", point.name());
            if ratio > limit {
                missed.push(format!("{what}, {}", point.name()));
            }
        }
        println!("lab: {line}");
    }
    ensure!(
        missed.is_empty(),
        "more instructions than the gates let through: {}",
        missed.join("; ")
    );
    Ok(())
}

/// Protecting 1 GiB and locking takes no more than the targets.
fn blow(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for directmap in [false, true] {
        let system = bench::blow::System {
            counted: true,
            directmap,
            mib: 1024,
            cpus: 1,
        };
        let blow = bench::blow::measure(images, base, lab, system)?;
        println!(
            "lab: blow of 1 GiB, directmap={}: {:.2} million instructions, {} new tables (gates {:.2}, {})",
            if directmap { "yes" } else { "no" },
            blow.total() as f64 / 1e6,
            blow.tables,
            bench::blow::TARGET as f64 / 1e6,
            bench::blow::TARGET_TABLES
        );
        ensure!(
            blow.total() <= bench::blow::TARGET && blow.tables <= bench::blow::TARGET_TABLES,
            "{} instructions and {} new tables",
            blow.total(),
            blow.tables
        );
    }
    Ok(())
}

/// What the blow adds to a boot, up to the first guest.
fn at_boot(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    for directmap in [false, true] {
        let plain = entered(images, base, lab, directmap, "")?;
        let blown = entered(images, base, lab, directmap, "vmf=lock")?;
        let more = (blown / plain - 1.0) * 100.0;
        println!(
            "lab: boot until the first guest, directmap={}: {:.2} million instructions, with vmf=lock {:.2} ({more:+.1} %)",
            if directmap { "yes" } else { "no" },
            plain / 1e6,
            blown / 1e6
        );
        ensure!(
            blown > plain && blown - plain <= AT_BOOT_LIMIT,
            "vmf=lock takes {:.0} instructions of the boot",
            blown - plain
        );
    }
    Ok(())
}

/// Instructions from reset until a guest's first ones.
fn entered(
    images: &Images,
    base: &Profile,
    lab: &Path,
    directmap: bool,
    words: &str,
) -> Result<f64> {
    let mut profile = base.clone();
    profile.name = "cost-at-boot".to_owned();
    profile.cpus = 1;
    profile.directmap = directmap;
    profile.icount = Some(0);
    profile.device_tree = ALONE.to_owned();
    profile.xen_arguments = format!("{words} conswitch=ax");
    profile.domains.retain(|d| d.guest == Guest::Canary);
    profile.domains[0].arguments = "size=64K entered@1".to_owned();
    let mut session = Session::boot(images, &profile, lab, false)?;
    let line = session.wait_domain(1, "canary: entered: at ", SLOW)?;
    session.finish()?;
    let ticks = line.split_whitespace().rev().nth(1).map(str::parse::<f64>);
    let ticks = ticks.with_context(|| format!("no number: {line}"))?;
    Ok(ticks.with_context(|| line.clone())? * TICK)
}

/// What guests see at every point of [`bench::figure`], judged case by case.
pub fn guests(images: &Images, base: &Profile, lab: &Path) -> Result<Vec<(String, Result<()>)>> {
    let mut values = Values::new();
    for point in Point::ALL {
        for (id, value) in bench::guest::measure(images, base, lab, point)? {
            let points = values.entry(id.to_owned()).or_default();
            points.insert(point, value);
        }
    }
    for figure in &GUEST {
        println!("lab: {}", line(figure, &values[figure.id]));
    }
    let cases = bench::figure::CASES.iter();
    Ok(cases
        .map(|case| ((*case).to_owned(), judge(case, &values)))
        .collect())
}

/// Fails with every figure of a case that is above its gate somewhere.
fn judge(case: &str, values: &Values) -> Result<()> {
    let figures = GUEST.iter().filter(|figure| figure.case == case);
    let missed: Vec<String> = figures
        .filter(|figure| !above(&values[figure.id], &figure.gate).is_empty())
        .map(|figure| line(figure, &values[figure.id]))
        .collect();
    ensure!(
        missed.is_empty(),
        "more instructions than the gates let through: {}",
        missed.join("; ")
    );
    Ok(())
}

/// One figure in words: stock Xen's value, and the others' as ratios.
fn line(figure: &Figure, values: &BTreeMap<Point, f64>) -> String {
    let mut out = format!("{}: {:.1} on stock Xen", figure.id, values[&Point::Stock]);
    for (point, gate) in Point::ALL.into_iter().skip(1).zip(figure.gate) {
        if let Some(ratio) = ratio(values, point) {
            let _ = write!(out, ", {} {ratio:.3} (gate {gate:.3})", point.name());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_above_its_gate_fails_its_case_and_no_other() {
        let stock = || Point::ALL.map(|point| (point, 1000.0)).into();
        let mut values: Values = GUEST
            .iter()
            .map(|figure| (figure.id.to_owned(), stock()))
            .collect();
        let failed = |values: &Values| -> Vec<&str> {
            let cases = bench::figure::CASES.into_iter();
            cases.filter(|case| judge(case, values).is_err()).collect()
        };
        assert!(failed(&values).is_empty());
        let sealed = values.get_mut("yield").unwrap();
        sealed.insert(Point::Sealed, 1010.0);
        assert!(failed(&values).is_empty());
        values
            .get_mut("yield")
            .unwrap()
            .insert(Point::Sealed, 1011.0);
        assert_eq!(failed(&values), ["lab/cost/a-switch-between-vcpus"]);
    }
}
