//! What a boot costs: from reset to dom0, and the loading of kernels, by the
//! time stamps of Xen's own log.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::figure::Point;
use crate::lab::demux::Source;
use crate::lab::images::Images;
use crate::lab::profile::{Bank, Guest, Profile, RAM_BASE};
use crate::lab::session::Session;

/// Points that differ while Xen boots.
pub const POINTS: [Point; 3] = [Point::Stock, Point::DirectmapYes, Point::DirectmapNo];
/// Sizes of RAM in MiB, with what entry to dom0 may be of stock Xen's.
pub const SIZES: [(u64, f64); 2] = [(2048, 1.05), (16384, 1.00)];
/// What loading a kernel may be of stock Xen's.
pub const LOADING: f64 = 1.00;

/// Xen says this last before it enters dom0.
const ENTERS: &str = "Freed ";
/// It begins to copy a kernel, dom0's first.
const STARTS: &str = "Loading zImage";
/// It has copied dom0's kernel, the domU's.
const LOADED: [&str; 2] = ["Loading d0 initrd", "Loading d1 initrd"];
/// QEMU's counter has a tick each 16 ns, which are instructions here.
const TICK: f64 = 16.0;
/// Boots under `-icount` are slow.
const SLOW: Duration = Duration::from_secs(180);

/// What one boot took, in instructions.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// From reset until Xen enters dom0.
    pub entry: f64,
    /// Loading dom0's kernel, and the domU's.
    pub kernels: [f64; 2],
}

/// Boots with `mib` of RAM until dom0 is entered.
pub fn measure(
    images: &Images,
    base: &Profile,
    lab: &Path,
    point: Point,
    mib: u64,
) -> Result<Boot> {
    ensure!(POINTS.contains(&point), "nothing is blown here");
    let mut profile = base.clone();
    profile.name = format!("entry-{mib}-{}", point.name().replace('=', "-"));
    profile.cpus = 1;
    profile.banks = vec![Bank {
        start: RAM_BASE,
        mib,
    }];
    profile
        .domains
        .retain(|domain| domain.guest == Guest::Linux);
    profile.xen_arguments = "console_timestamps=raw".to_owned();
    point.apply(&mut profile);
    let mut session = Session::boot(images, &profile, lab, false)?;
    session.wait_xen(ENTERS, SLOW)?;
    let lines: Vec<String> = session.look(|seen| {
        let lines = seen.streams.lines.iter();
        let xen = lines.filter(|line| line.source == Source::Xen);
        xen.map(|line| line.text.clone()).collect()
    })?;
    session.finish()?;
    let times = |what: &str| -> Vec<f64> {
        let lines = lines.iter().filter(|line| line.contains(what));
        lines.filter_map(|line| instructions(line)).collect()
    };
    let time = |what: &str, index: usize| {
        let found = times(what).get(index).copied();
        found.with_context(|| format!("Xen gives no time for \"{what}\" ({index})"))
    };
    Ok(Boot {
        entry: time(ENTERS, 0)?,
        kernels: [
            time(LOADED[0], 0)? - time(STARTS, 0)?,
            time(LOADED[1], 0)? - time(STARTS, 1)?,
        ],
    })
}

/// Boots at every point, by name of what was measured.
pub fn all(
    mib: u64,
    mut boot: impl FnMut(Point) -> Result<Boot>,
) -> Result<BTreeMap<String, BTreeMap<Point, f64>>> {
    let mut values: BTreeMap<String, BTreeMap<Point, f64>> = BTreeMap::new();
    for point in POINTS {
        let seen = boot(point)?;
        for (id, value) in [
            ("entry", seen.entry),
            ("dom0-kernel", seen.kernels[0]),
            ("domu-kernel", seen.kernels[1]),
        ] {
            let id = format!("{id}-{}g", mib / 1024);
            values.entry(id).or_default().insert(point, value);
        }
    }
    Ok(values)
}

/// The counter in front of a line, `[00000000000abcde] text`, in instructions
/// since reset.
fn instructions(line: &str) -> Option<f64> {
    let (digits, _) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    Some(u64::from_str_radix(digits, 16).ok()? as f64 * TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_stands_in_front() {
        assert_eq!(instructions("[0000000000000010] Freed 1kB"), Some(256.0));
        assert_eq!(instructions("Freed 1kB"), None);
    }
}
