//! Tables for people.

use crate::picture::size;
use crate::report::{Leaves, Report, Summary, Verdict, Violation};
use crate::rules::RULES;
use crate::scan::Scan;
use crate::space::Space;
use comfy_table::{Table, presets};
use std::collections::BTreeMap;
use std::fmt::Write;

/// More violations of a rule than this are not listed one by one; `--json` has them all.
const LISTED: usize = 4;

fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    table
}

fn leaves(leaves: &Leaves) -> String {
    format!(
        "{} x 1G, {} x 2M, {} x 4K",
        leaves.blocks_1g, leaves.blocks_2m, leaves.pages
    )
}

fn list(cpus: &[usize]) -> String {
    cpus.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn lines(table: &Table) -> String {
    table
        .lines()
        .map(|l| format!("{}\n", l.trim_end()))
        .collect()
}

/// The counts.
pub fn summary(s: &Summary) -> String {
    let mut out = String::new();
    let mut t = table(["What", "Count"]);
    for (what, count) in [
        ("frames of RAM", s.ram_frames),
        ("  mapped at EL2", s.ram_frames_mapped),
        ("frames of protected domains", s.protected_frames),
        ("  mapped at EL2", s.protected_frames_mapped),
        ("  not counted: Xen's own, or shared", s.excluded_frames),
        ("    shared on purpose", s.shared_frames),
        ("      mapped at EL2", s.shared_frames_mapped),
        ("frames with translation tables", s.table_frames),
        ("  mapped at EL2", s.table_frames_mapped),
        (
            "frames both executable and writable",
            s.executable_frames_writable,
        ),
        ("writable and executable leaves", s.wx_leaves),
        ("  not saved by WXN", s.wx_leaves_effective),
    ] {
        t.add_row([what.to_owned(), count.to_string()]);
    }
    out.push_str(&lines(&t));

    let mut t = table([
        "EL2 root",
        "CPUs",
        "Leaves",
        "RAM frames",
        "Executable leaves",
        "Tables",
        "WXN",
    ]);
    for r in &s.roots {
        t.add_row([
            r.root.map_or("MMU off".to_owned(), |r| r.to_string()),
            list(&r.cpus),
            leaves(&r.leaves),
            r.ram_frames_mapped.to_string(),
            r.executable_leaves.to_string(),
            r.tables.to_string(),
            if r.wxn { "on" } else { "off" }.to_owned(),
        ]);
    }
    let _ = write!(out, "\n{}", lines(&t));

    if !s.domains.is_empty() {
        let mut t = table([
            "Stage 2",
            "VTTBR_EL2",
            "Protected",
            "Leaves",
            "RAM frames",
            "Shared",
            "Tables",
            "Valid bit clear",
        ]);
        for d in &s.domains {
            t.add_row([
                d.id.map_or("unknown".to_owned(), |id| format!("d{id}")),
                d.vttbr.to_string(),
                if d.protected { "yes" } else { "no" }.to_owned(),
                leaves(&d.leaves),
                d.ram_frames.to_string(),
                d.shared_frames.to_string(),
                d.tables.to_string(),
                d.pending_entries.to_string(),
            ]);
        }
        let _ = write!(out, "\n{}", lines(&t));
    }
    out
}

/// The outcome of a check.
pub fn report(r: &Report) -> String {
    let mut out = String::new();
    let mut t = table([
        "Rule",
        "Demands",
        "Vectors",
        "Holds",
        "Violations",
        "Frames",
    ]);
    for rule in &r.rules {
        t.add_row([
            rule.rule.to_owned(),
            rule.demands.to_owned(),
            rule.vectors.join(" "),
            match (rule.holds, rule.violations) {
                (true, _) => "yes",
                (false, 0) => "not established",
                _ => "no",
            }
            .to_owned(),
            rule.violations.to_string(),
            rule.frames.to_string(),
        ]);
    }
    out.push_str(&lines(&t));
    if !r.violations.is_empty() {
        out.push_str("\nViolations:\n");
        for of_rule in r.violations.chunk_by(|a, b| a.rule == b.rule) {
            for v in of_rule.iter().take(LISTED) {
                violation(&mut out, v);
            }
            if of_rule.len() > LISTED {
                let more = of_rule.len() - LISTED;
                let _ = writeln!(
                    out,
                    "  {} ... and {more} more; --json lists all",
                    of_rule[0].rule
                );
            }
        }
    }
    if !r.unestablished.is_empty() {
        out.push_str("\nCannot be established:\n");
        for what in &r.unestablished {
            let _ = writeln!(out, "  {what}");
        }
    }
    if !r.excluded.is_empty() {
        let _ = writeln!(
            out,
            "\nIn a protected domain's stage 2, but not held to be protected ({}):",
            r.excluded.len()
        );
        for e in &r.excluded {
            let at = e
                .gfn
                .map_or(String::new(), |gfn| format!(", guest frame {gfn}"));
            let _ = writeln!(out, "  d{} frame {}{at}: {}", e.domain, e.mfn, e.why);
        }
    }
    let verdict = match r.verdict {
        Verdict::Holds => "holds",
        Verdict::Violated => "does not hold",
        Verdict::CannotJudge => "cannot be judged",
    };
    let _ = writeln!(out, "\n{}: {verdict}", r.level);
    out
}

/// Every rule.
pub fn rules() -> String {
    let mut t = table(["Rule", "From level", "Vectors", "Needs xen-syms", "Demands"]);
    for rule in RULES {
        t.add_row([
            rule.id.to_owned(),
            rule.level.to_string(),
            rule.vectors.join(" "),
            if rule.needs_xen { "yes" } else { "no" }.to_owned(),
            rule.demands.to_owned(),
        ]);
    }
    lines(&t)
}

/// The instructions that were found.
pub fn scan(s: &Scan) -> String {
    let mut out = format!("{} ({})\n\n", s.scanned, size(s.bytes));
    let mut t = table(["Instruction", "Count", "Effect"]);
    for c in &s.counts {
        t.add_row([
            c.instruction.clone(),
            c.count.to_string(),
            c.effect.to_string(),
        ]);
    }
    out.push_str(&lines(&t));
    let mut t = table(["Address", "Instruction", "Where"]);
    for p in &s.places {
        let at = p.at.clone().unwrap_or_default();
        t.add_row([p.address.to_string(), p.instruction.clone(), at]);
    }
    let _ = write!(out, "\n{}", lines(&t));
    out
}

/// What sets rows of a map apart: area, permissions, memory type, owner.
type Row<'a> = (usize, &'a str, &'a str, &'a str, &'a str);

/// Rows of a root's space: first address, bytes and pieces.
fn rows(spaces: &[Space]) -> BTreeMap<Row<'_>, (u64, u64, usize)> {
    let mut rows = BTreeMap::new();
    for r in spaces.iter().flat_map(|s| &s.regions) {
        let order = crate::space::AREAS
            .iter()
            .position(|(name, _)| *name == r.area)
            .unwrap_or(usize::MAX);
        let row = (
            order,
            r.area,
            r.permissions.as_str(),
            r.memory,
            r.owner.as_str(),
        );
        let seen = rows.entry(row).or_insert((r.address.0, 0, 0));
        seen.1 += r.bytes;
        seen.2 += 1;
    }
    rows
}

fn root(space: &Space) -> String {
    let root = space
        .root
        .map_or("with the MMU off: all memory".to_owned(), |r| r.to_string());
    format!("EL2 root {root}, CPUs {}\n", list(&space.cpus))
}

/// One machine's address space.
pub fn map(spaces: &[Space]) -> String {
    let mut out = String::new();
    for space in spaces {
        let _ = writeln!(out, "{}", root(space));
        let mut t = table([
            "Area", "From", "Size", "Pieces", "Access", "Memory", "Owner",
        ]);
        let of_one = std::slice::from_ref(space);
        for ((_, area, access, memory, owner), (from, bytes, pieces)) in rows(of_one) {
            t.add_row([
                area.to_owned(),
                format!("{from:#x}"),
                size(bytes),
                pieces.to_string(),
                access.to_owned(),
                memory.to_owned(),
                owner.to_owned(),
            ]);
        }
        let _ = writeln!(out, "{}", lines(&t));
    }
    out
}

/// Two machines' address spaces, side by side; `=` where nothing differs.
pub fn map_difference(before: &[Space], after: &[Space]) -> String {
    let mut out = String::new();
    for (when, spaces) in [("before", before), ("after", after)] {
        for space in spaces {
            let _ = write!(out, "{when}: {}", root(space));
        }
    }
    let (before, after) = (rows(before), rows(after));
    let mut t = table(["Area", "Access", "Memory", "Owner", "Before", "After"]);
    let all: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for row in all {
        let of = |rows: &BTreeMap<Row<'_>, (u64, u64, usize)>| rows.get(row).copied();
        let words = |seen: Option<(u64, u64, usize)>| {
            seen.map_or("-".to_owned(), |(_, bytes, pieces)| {
                format!("{} in {pieces}", size(bytes))
            })
        };
        let (_, area, access, memory, owner) = *row;
        let (first, second) = (words(of(&before)), words(of(&after)));
        let second = if of(&before) == of(&after) {
            "=".to_owned()
        } else {
            second
        };
        t.add_row([area, access, memory, owner, &first, &second]);
    }
    let _ = write!(out, "\n{}", lines(&t));
    out
}

fn violation(out: &mut String, v: &Violation) {
    let _ = write!(out, "  {} [{}] {}", v.rule, v.vectors.join(" "), v.what);
    if let Some(mfn) = v.mfn {
        let _ = write!(out, "; {} frame(s) from {mfn}", v.frames);
    }
    if let Some(owner) = &v.owner {
        let _ = write!(out, ", {owner}");
    }
    if let Some(address) = v.address {
        let _ = write!(out, ", at {address}");
    }
    if !v.cpus.is_empty() {
        let _ = write!(out, ", CPUs {}", list(&v.cpus));
    }
    out.push('\n');
    if !v.walk.is_empty() {
        let steps: Vec<_> = v
            .walk
            .iter()
            .map(|s| format!("L{} {}[{}]={}", s.level, s.table, s.index, s.descriptor))
            .collect();
        let _ = writeln!(out, "     {}", steps.join(" -> "));
    }
}
