//! Cost against stock Xen, in instructions: under `-icount` virtual time counts
//! them, so a comparison repeats exactly.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::demux::Source;
use crate::lab::images::Images;
use crate::lab::profile::{Profile, Xen};
use crate::lab::session::Session;

/// Name of the case.
pub const KERNEL_LOAD: &str = "lab/cost/kernel-loads-as-fast-as-on-stock-xen";
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
pub fn kernel_load(images: &Images, base: &Profile, lab: &Path) -> Result<()> {
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
    let lines: Vec<String> = session.look(|seen| {
        let lines = seen.streams.lines.iter();
        let xen = lines.filter(|line| line.source == Source::Xen);
        xen.map(|line| line.text.clone()).collect()
    })?;
    session.finish()?;
    let time = |what: &str| {
        let line = lines.iter().find(|line| line.contains(what));
        line.and_then(|line| seconds(line))
            .with_context(|| format!("Xen gives no time for \"{what}\""))
    };
    Ok(time(LOADED)? - time(STARTS)?)
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
