//! How the fuse's work grows: the counts of `xen-vmf/tests/scale`, the crate's
//! own code on simulated machines of up to a terabyte. They are exact, and
//! the same on every host.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use crate::process;
use crate::site::Site;

/// What one machine did, by name.
pub type Counts = BTreeMap<String, u64>;

/// What the test prints in front of its counts.
const MARK: &str = "scale: ";
/// The tests that print them.
const TESTS: [&str; 2] = [
    "work_grows_no_faster_than_the_machine",
    "the_largest_machine_locks",
];
/// Columns of the table, with the counts whose sum they are.
const COLUMNS: [(&str, &[&str]); 9] = [
    ("protect: tables read", &["protects.tables"]),
    ("pages listed", &["protects.listed"]),
    ("addresses tried", &["protects.tried"]),
    ("lock: tables read", &["lock.tables"]),
    ("entries written", &["lock.written"]),
    ("pages listed", &["lock.listed"]),
    ("addresses tried", &["lock.tried"]),
    ("new tables", &["protects.taken", "lock.taken"]),
    ("extents of the snapshot", &["snapshot"]),
];

/// Runs the test.
pub fn measure(site: &Site) -> Result<Vec<Counts>> {
    let mut cargo = process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(site.root())
        .env("CARGO_TARGET_DIR", site.target())
        .args(["test", "--quiet", "--package", "xen-vmf", "--test", "scale"])
        .args(["--", "--nocapture", "--test-threads=1", "--exact"])
        .args(TESTS);
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
        cargo.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    let said = process::output(&mut cargo)?;
    // The name of a test may stand in front.
    let lines = said.lines().filter_map(|line| line.split_once(MARK));
    let mut machines = lines
        .map(|(_, line)| counts(line))
        .collect::<Result<Vec<_>>>()?;
    ensure!(!machines.is_empty(), "xen-vmf/tests/scale prints no counts");
    let order = ["directmap", "scattered", "gib", "domains", "cpus"];
    machines.sort_by_key(|counts| order.map(|name| counts.get(name).copied()));
    machines.dedup();
    Ok(machines)
}

/// One line of `name=number` words.
fn counts(line: &str) -> Result<Counts> {
    let words = line.split_whitespace().map(|word| {
        let (name, number) = word.split_once('=')?;
        Some((name.to_owned(), number.parse().ok()?))
    });
    let counts: Option<Counts> = words.collect();
    counts.with_context(|| format!("not a line of counts: {line}"))
}

/// A line for each machine.
pub fn table(machines: &[Counts]) -> Result<String> {
    if machines.is_empty() {
        return Ok(String::new());
    }
    let mut out = "| directmap | RAM | domains | CPUs | their memory |".to_owned();
    for (title, _) in COLUMNS {
        let _ = write!(out, " {title} |");
    }
    out += " most bytes of lists |\n|---|---:|---:|---:|---|";
    out += &"---:|".repeat(COLUMNS.len() + 1);
    out.push('\n');
    for counts in machines {
        let get = |name: &str| {
            let found = counts.get(name).copied();
            found.with_context(|| format!("no count {name}"))
        };
        let _ = write!(
            out,
            "| {} | {} GiB | {} | {} | {} |",
            if get("directmap")? != 0 { "yes" } else { "no" },
            get("gib")?,
            get("domains")?,
            get("cpus")?,
            if get("scattered")? != 0 {
                "scattered"
            } else {
                "whole"
            }
        );
        for (_, names) in COLUMNS {
            let sum = names.iter().map(|name| get(name)).sum::<Result<u64>>()?;
            let _ = write!(out, " {} |", rounded(sum));
        }
        let lists = get("protect.lists")?.max(get("lock.lists")?);
        let _ = writeln!(out, " {} |", rounded(lists));
    }
    Ok(out)
}

/// A count with three digits, where it has more than six.
fn rounded(count: u64) -> String {
    match count {
        0..1_000_000 => count.to_string(),
        1_000_000..100_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.0} M", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_machine() {
        let seen = counts("gib=16 lock.tables=7").unwrap();
        assert_eq!((seen["gib"], seen["lock.tables"]), (16, 7));
        assert!(counts("gib=16 lock.tables").is_err());
        assert!(table(&[seen]).is_err());
        assert_eq!(table(&[]).unwrap(), "");
    }

    #[test]
    fn counts_are_short() {
        assert_eq!(rounded(999_999), "999999");
        assert_eq!(rounded(5_055_709), "5.1 M");
        assert_eq!(rounded(792_330_240), "792 M");
    }
}
