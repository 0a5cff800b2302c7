//! Linux's own balloon, by sysfs: takes pages from dom0 and gives them back.
//! A hypercall of our own would pull pages from under the kernel.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::xen::Failure;

const ROOT: &str = "/sys/devices/system/xen_memory/xen_memory0";
/// How long the driver may take; it works from a thread of its own.
const DEADLINE: Duration = Duration::from_secs(5);

fn read(file: &str) -> Result<u64, Failure> {
    let path = format!("{ROOT}/{file}");
    let text = fs::read_to_string(&path).map_err(|error| Failure::io(&path, &error))?;
    text.trim()
        .parse()
        .map_err(|_| Failure::new(path, libc::EINVAL))
}

/// Sets the target; returns what is reached, in KiB.
fn set(kib: u64) -> Result<u64, Failure> {
    let path = format!("{ROOT}/target_kb");
    fs::write(&path, kib.to_string()).map_err(|error| Failure::io(&path, &error))?;
    let end = Instant::now() + DEADLINE;
    loop {
        let current = read("info/current_kb")?;
        if current == kib || Instant::now() > end {
            return Ok(current);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Shrinks dom0 by `pages`, then grows it again.
pub fn there_and_back(pages: u64) -> Result<String, Failure> {
    let before = read("info/current_kb")?;
    let wanted = before.saturating_sub(pages * 4);
    let shrunk = set(wanted)?;
    let after = set(before)?;
    let line = format!("before_kib={before} shrunk_kib={shrunk} after_kib={after}");
    if shrunk == wanted && after == before {
        Ok(line)
    } else {
        Err(Failure::new(format!("balloon: {line}"), libc::EPERM))
    }
}
