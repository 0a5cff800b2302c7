//! The results as tables: Markdown, which a terminal shows as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::blow::{self, Blow};
use super::boot;
use super::demo;
use super::figure::{GUEST, Point, Ratios, above, ratio};
use super::image;
use super::mapping;
use super::report::Report;
use super::scale;

/// One figure of the table.
pub struct Row<'a> {
    /// Its name.
    pub id: String,
    /// What it is.
    pub title: String,
    /// What was measured.
    pub values: &'a BTreeMap<Point, f64>,
    /// What it is to be at most.
    pub target: Ratios,
}

impl Row<'_> {
    /// Points at which the target is missed.
    pub fn missed(&self) -> Vec<(Point, f64)> {
        above(self.values, &self.target)
    }
}

/// All figures that were measured, in the order of the table.
pub fn rows(report: &Report) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let mut row = |id: String, title: String, target: Ratios| {
        if let Some(values) = report.figures.get(&id) {
            rows.push(Row {
                id,
                title,
                values,
                target,
            });
        }
    };
    for figure in &GUEST {
        row(figure.id.to_owned(), figure.title.to_owned(), figure.target);
    }
    row(
        mapping::XENHEAP.0.to_owned(),
        "a page of the xenheap, allocated and freed by Xen".to_owned(),
        [mapping::XENHEAP.1; 4],
    );
    for (mib, limit) in boot::SIZES {
        let gib = mib / 1024;
        row(
            format!("entry-{gib}g"),
            format!("from reset until Xen enters dom0, {gib} GiB of RAM"),
            [limit; 4],
        );
    }
    for (mib, _) in boot::SIZES {
        let gib = mib / 1024;
        for (who, name) in [("dom0", "dom0's"), ("domu", "a domU's")] {
            row(
                format!("{who}-kernel-{gib}g"),
                format!("loading {name} kernel, {gib} GiB of RAM"),
                [boot::LOADING; 4],
            );
        }
    }
    rows
}

/// Everything, for a terminal and for the document.
pub fn text(report: &Report) -> Result<String> {
    let mut out = figures(report);
    for part in [
        mappings(report),
        blows(report),
        times(report),
        scale::table(&report.scale)?,
        sizes(report),
        demonstration(report),
        verifier(report),
    ] {
        if !part.is_empty() {
            out.push('\n');
            out += &part;
        }
    }
    Ok(out)
}

/// The figures that have one on stock Xen.
pub fn figures(report: &Report) -> String {
    let mut out = "| figure |".to_owned();
    for point in Point::ALL {
        let _ = write!(out, " {} |", point.name());
    }
    out += " target | reached |\n|---|---:|---:|---:|---:|---:|---|---|\n";
    for row in rows(report) {
        let _ = write!(out, "| {} |", row.title);
        for point in Point::ALL {
            let cell = match (row.values.get(&point), ratio(row.values, point)) {
                (Some(value), _) if point == Point::Stock => number(*value),
                (Some(value), Some(ratio)) => format!("{} ({ratio:.3})", number(*value)),
                _ => "-".to_owned(),
            };
            let _ = write!(out, " {cell} |");
        }
        let missed = row.missed();
        let points: Vec<&str> = missed.iter().map(|(point, _)| point.name()).collect();
        let reached = if points.is_empty() {
            "yes".to_owned()
        } else {
            format!("**no**: {}", points.join(", "))
        };
        let _ = writeln!(out, " {} | {reached} |", limits(&row.target));
    }
    out
}

/// A target in words: one number, or one for each state.
fn limits(target: &Ratios) -> String {
    let [yes, no, locked, sealed] = target.map(|limit| format!("{limit:.2}"));
    if yes == no && no == locked && locked == sealed {
        format!("≤ {yes}")
    } else if locked == sealed {
        format!("≤ {no} open, {locked} blown")
    } else {
        format!("≤ {no} open, {locked} locked, {sealed} sealed")
    }
}

/// Pages mapped by Xen, a line for each way.
pub fn mappings(report: &Report) -> String {
    if report.mapping.is_empty() {
        return String::new();
    }
    let mut out = "| map, read and unmap |".to_owned();
    for point in mapping::POINTS {
        let _ = write!(out, " {} |", point.name());
    }
    out += " target | reached |\n|---|---:|---:|---:|---|---|\n";
    for way in &mapping::WAYS {
        let Some(costs) = report.mapping.get(way.id) else {
            continue;
        };
        let _ = write!(out, "| {} |", way.title);
        for point in mapping::POINTS {
            let cell = costs.get(&point).map_or("-".to_owned(), |cost| {
                let each = cost.tlbis as f64 / cost.pages as f64;
                format!("{:.1} ({each:.2})", cost.instructions)
            });
            let _ = write!(out, " {cell} |");
        }
        let missed: Vec<&str> = costs
            .iter()
            .filter(|(point, _)| **point != Point::Stock)
            .filter(|(_, cost)| way.target.is_some_and(|most| cost.instructions > most))
            .map(|(point, _)| point.name())
            .collect();
        let _ = match (way.target, missed.is_empty()) {
            (None, _) => writeln!(out, " none | - |"),
            (Some(most), true) => writeln!(out, " ≤ {most} | yes |"),
            (Some(most), false) => writeln!(out, " ≤ {most} | **no**: {} |", missed.join(", ")),
        };
    }
    out
}

/// The blow in instructions, a line for each system.
pub fn blows(report: &Report) -> String {
    let counted: Vec<&Blow> = report.blows.iter().filter(|b| b.system.counted).collect();
    if counted.is_empty() {
        return String::new();
    }
    let mut out = "| guest | directmap | protect | lock | of it stopped | together | leaves removed | blocks split | tables | addresses tried |\n|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n".to_owned();
    for blow in counted {
        let _ = writeln!(
            out,
            "| {} MiB | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            blow.system.mib,
            yes(blow.system.directmap),
            millions(blow.protect),
            millions(blow.lock),
            millions(blow.stopped),
            millions(blow.total()),
            blow.leaves,
            blow.splits,
            blow.tables,
            blow.tried,
        );
    }
    out.push('\n');
    for directmap in [false, true] {
        let find = |mib| {
            let mut blows = report.blows.iter();
            blows.find(|Blow { system, .. }| {
                system.counted && system.mib == mib && system.directmap == directmap
            })
        };
        let (Some(small), Some(large)) = (find(1024), find(8192)) else {
            continue;
        };
        let _ = writeln!(
            out,
            "- directmap={}: 1 GiB takes {} instructions (target: {}) and {} new tables (target: {}); 8 GiB takes {:.2} times as many instructions (target: {}).",
            yes(directmap),
            millions(small.total()),
            millions(blow::TARGET),
            small.tables,
            blow::TARGET_TABLES,
            large.total() as f64 / small.total() as f64,
            blow::TARGET_GROWTH
        );
    }
    out
}

/// The blow in time of the emulator, with several CPUs.
pub fn times(report: &Report) -> String {
    let timed: Vec<&Blow> = report.blows.iter().filter(|b| !b.system.counted).collect();
    if timed.is_empty() {
        return String::new();
    }
    let mut out = "| guest | CPUs | protect | lock | of it stopped | together | addresses tried |\n|---:|---:|---:|---:|---:|---:|---:|\n".to_owned();
    for blow in timed {
        let _ = writeln!(
            out,
            "| {} MiB | {} | {} | {} | {} | {} | {} |",
            blow.system.mib,
            blow.system.cpus,
            milliseconds(blow.protect),
            milliseconds(blow.lock),
            milliseconds(blow.stopped),
            milliseconds(blow.total()),
            blow.tried,
        );
    }
    out
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Size of Xen.
pub fn sizes(report: &Report) -> String {
    let (Some(stock), Some(fuse)) = (
        report.image.get(&Point::Stock),
        report.image.get(&Point::DirectmapNo),
    ) else {
        return String::new();
    };
    let mut out = "| bytes | stock | with the fuse | more |\n|---|---:|---:|---:|\n".to_owned();
    let mut line = |name: &str, stock: u64, fuse: u64| {
        let more = fuse as i64 - stock as i64;
        let _ = writeln!(out, "| {name} | {stock} | {fuse} | {more:+} |");
    };
    line("file `xen/xen`", stock.file, fuse.file);
    line("in memory, `_start` to `_end`", stock.memory, fuse.memory);
    for ((name, old), (_, new)) in stock.sections.iter().zip(&fuse.sections) {
        line(&format!("`{name}`"), *old, *new);
    }
    let more = fuse.memory.saturating_sub(stock.memory);
    let _ = writeln!(
        out,
        "\nTarget: {} bytes more in memory at most. {}",
        image::TARGET,
        if more <= image::TARGET {
            "Reached.".to_owned()
        } else {
            format!("**Missed** by {}.", more - image::TARGET)
        }
    );
    out
}

/// The demonstration.
pub fn demonstration(report: &Report) -> String {
    let Some(demo) = &report.demo else {
        return String::new();
    };
    format!(
        "`cargo xtask demo` where all is built already: {:.0} s, the second of two runs on a host with {} CPUs (target: {:.0} s, no gate). \
         This is time, and differs from host to host.\n",
        demo.seconds,
        demo.cpus,
        demo::TARGET
    )
}

/// The verifier.
pub fn verifier(report: &Report) -> String {
    let Some(audit) = &report.audit else {
        return String::new();
    };
    format!(
        "`vmf-audit check --level lock` on a dump of {} MiB: {:.2} s, the best of {} on a host with {} CPUs (target: 3 s on two CPUs, no gate). \
         This is time, and differs from host to host.\n",
        audit.mib, audit.seconds, audit.runs, audit.cpus
    )
}

/// Instructions, with as many places as mean something.
fn number(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.2} M", value / 1e6)
    } else {
        format!("{value:.1}")
    }
}

fn milliseconds(ns: u64) -> String {
    format!("{:.0} ms", ns as f64 / 1e6)
}

fn millions(value: u64) -> String {
    format!("{:.2} M", value as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_missed_is_named() {
        let mut report = Report::default();
        for (point, value) in Point::ALL
            .into_iter()
            .zip([100.0, 100.5, 100.9, 101.0, 103.0])
        {
            report.put("version", point, value);
        }
        let text = figures(&report);
        assert!(
            text.contains("| 103.0 (1.030) | ≤ 1.01 | **no**: sealed |"),
            "{text}"
        );
        report.put("version", Point::Sealed, 101.0);
        assert!(figures(&report).contains("| yes |"));
    }

    #[test]
    fn what_was_not_measured_is_not_there() {
        let report = Report::default();
        assert!(rows(&report).is_empty());
        assert_eq!(text(&report).unwrap().lines().count(), 2);
    }

    #[test]
    fn targets_in_words() {
        assert_eq!(limits(&[1.01; 4]), "≤ 1.01");
        assert_eq!(limits(&[1.05, 1.05, 1.0, 1.0]), "≤ 1.05 open, 1.00 blown");
        assert_eq!(
            limits(&[1.01, 1.01, 1.02, 1.03]),
            "≤ 1.01 open, 1.02 locked, 1.03 sealed"
        );
    }
}
