//! Cost against stock Xen, in instructions: under `-icount` virtual time counts
//! them, so a comparison repeats exactly.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::images::Images;
use crate::lab::profile::{Guest, Profile, Xen};
use crate::lab::scenarios::boot::{ALONE, Own};
use crate::lab::session::Session;

/// Name of the case about loading a kernel.
const KERNEL_LOAD: &str = "lab/cost/kernel-loads-as-fast-as-on-stock-xen";
/// Name of the case about switching between vCPUs.
const SWITCH: &str = "lab/cost/a-switch-between-vcpus-sealed";
/// The cases.
pub const CASES: [(&str, Own); 2] = [(KERNEL_LOAD, kernel_load), (SWITCH, switch)];
/// What is compared.
pub const XENS: [Xen; 2] = [
    Xen {
        fuse: false,
        debug: false,
        its: false,
        attack: false,
    },
    Xen {
        fuse: true,
        debug: false,
        its: false,
        attack: false,
    },
];
/// Xen has loaded dom0's kernel when it says this.
const LOADED: &str = "Loading d0 initrd";
/// It starts to when it says this.
const STARTS: &str = "Loading zImage";
/// Boots under `-icount` are slow.
const SLOW: Duration = Duration::from_secs(150);
/// What may differ, in percent: the two images are not laid out alike.
const TOLERANCE: f64 = 2.0;

/// Loading dom0's kernel takes no more instructions than on stock Xen.
fn kernel_load(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let stock = measure(images, base, lab, XENS[0])?;
    let fuse = measure(images, base, lab, XENS[1])?;
    let more = (fuse / stock - 1.0) * 100.0;
    println!(
        "lab: dom0's kernel loads in {:.1} ms of instructions on stock Xen, {:.1} ms with the fuse ({more:+.1} %)",
        stock * 1e3,
        fuse * 1e3
    );
    ensure!(
        more <= TOLERANCE,
        "loading dom0's kernel takes {more:.1} % more instructions than on stock Xen ({fuse:.6} s, {stock:.6} s)"
    );
    Ok(())
}

/// Seconds of virtual time that one Xen needs to copy dom0's kernel.
fn measure(images: &Images, base: &Profile, lab: &Path, xen: Xen) -> Result<f64> {
    let mut profile = base.clone();
    profile.name = format!("cost-{}", if xen.fuse { "fuse" } else { "stock" });
    profile.cpus = 1;
    profile.xen = xen;
    profile.directmap = false;
    profile.icount = Some(0);
    profile.domains.clear();
    profile.xen_arguments = "console_timestamps=boot".to_owned();
    let mut session = Session::boot(images, &profile, lab, false)?;
    session.wait_xen(LOADED, SLOW)?;
    let lines = session.xen_lines(0)?;
    session.finish()?;
    let time = |what: &str| {
        let line = lines.iter().find(|line| line.contains(what));
        line.and_then(|line| seconds(line))
            .with_context(|| format!("Xen gives no time for \"{what}\""))
    };
    Ok(time(LOADED)? - time(STARTS)?)
}

/// What is on Xen's command line in the states that are compared.
const STATES: [&str; 3] = ["", "vmf=lock", "vmf=seal"];
/// What two switches between vCPUs may cost more than on stock Xen, in percent.
const SWITCH_TOLERANCE: f64 = 1.0;

/// Two vCPUs on one CPU that yield to each other, on a system without dom0.
fn switch(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
    let stock = switches(images, base, lab, XENS[0], "")?;
    for words in STATES {
        let fuse = switches(images, base, lab, XENS[1], words)?;
        let more = (fuse / stock - 1.0) * 100.0;
        let state = words.strip_prefix("vmf=").unwrap_or("open");
        println!(
            "lab: there and back between two vCPUs: {stock:.0} instructions on stock Xen, {fuse:.0} with the fuse, {state} ({more:+.2} %)"
        );
        ensure!(
            more <= SWITCH_TOLERANCE,
            "a switch takes {more:.2} % more instructions than on stock Xen ({state}: {fuse:.0}, {stock:.0})"
        );
    }
    Ok(())
}

/// Instructions from a yield until it returns, with another vCPU that does the
/// same.
fn switches(images: &Images, base: &Profile, lab: &Path, xen: Xen, words: &str) -> Result<f64> {
    let mut profile = base.clone();
    profile.name = format!(
        "switch-{}{}",
        if xen.fuse { "fuse" } else { "stock" },
        words.replace("vmf=", "-")
    );
    profile.cpus = 1;
    profile.xen = xen;
    profile.icount = Some(0);
    profile.device_tree = ALONE.to_owned();
    profile.xen_arguments = format!("{words} conswitch=ax");
    profile
        .domains
        .retain(|domain| domain.guest == Guest::Canary);
    for domain in &mut profile.domains {
        domain.arguments = "size=1M yield@2".to_owned();
    }
    let twice = profile.domains.clone();
    profile.domains.extend(twice);
    let mut session = Session::boot(images, &profile, lab, false)?;
    let mut times = Vec::new();
    for id in [1, 2] {
        let line = session.wait_domain(id, "canary: yield: ", SLOW)?;
        let time = line
            .rsplit(", ")
            .next()
            .and_then(|part| part.split(' ').next());
        let time: f64 = time
            .and_then(|time| time.parse().ok())
            .with_context(|| format!("d{id}: {line}"))?;
        times.push(time);
    }
    session.finish()?;
    // The one with the longer overlap has less of the time alone in it.
    Ok(times.iter().copied().fold(0.0, f64::max))
}

/// The time in front of a line: `[    1.234567] text`.
fn seconds(line: &str) -> Option<f64> {
    let rest = line.trim_start().strip_prefix('[')?;
    rest.split_once(']')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_in_front() {
        assert_eq!(seconds("[    1.234567] Loading"), Some(1.234_567));
        assert_eq!(seconds("Loading [x]"), None);
    }
}
