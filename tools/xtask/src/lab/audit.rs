//! What a moment's memory says: `vmf-audit` as a library, and the claims that
//! the demonstration and the tests make from its counts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use vmf_audit::Audit;
use vmf_audit::dump::Dump;
use vmf_audit::hex::Hex;
use vmf_audit::picture::{self, Side};
use vmf_audit::registers::{Domain, GuestRange, Registers, Share};
use vmf_audit::report::{Level, Report, Summary, Verdict};
use vmf_audit::xen;

use super::session::Moment;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Xen's domains as the dump has them; those in `protected` are claimed to be so, and to share what `shared` says.
pub fn domains(moment: &Moment, protected: &[u16], shared: &[Share]) -> Result<Vec<Domain>> {
    let dump = Dump::open(&moment.memory)?;
    let registers = Registers::open(&moment.registers)?;
    let mut domains = xen::domains(&dump, &registers, &moment.syms)
        .context("Xen's domains cannot be read from the dump")?;
    for id in protected {
        ensure!(
            domains.iter().any(|domain| domain.id == *id),
            "domain {id} is to be protected, but Xen's list in the dump does not have it"
        );
    }
    for Share { domain, .. } in shared {
        ensure!(
            domains.iter().any(|d| d.id == *domain),
            "domain {domain} is to share pages, but Xen's list in the dump does not have it"
        );
    }
    for domain in &mut domains {
        domain.protected = protected.contains(&domain.id);
        let of_domain = shared.iter().filter(|share| share.domain == domain.id);
        domain.shared = of_domain.map(|share| share.range).collect();
    }
    Ok(domains)
}

/// Claims for a moment that was recorded that these pages are shared, and no others.
pub fn claim(moment: &Moment, shared: &[Share]) -> Result<()> {
    let mut registers = Registers::open(&moment.registers)?;
    for domain in &mut registers.domains {
        let of_domain = shared.iter().filter(|share| share.domain == domain.id);
        domain.shared = of_domain.map(|share| share.range).collect();
    }
    let text = serde_json::to_string_pretty(&registers).context("registers")?;
    fs::write(&moment.registers, text)
        .with_context(|| format!("{}: cannot write", moment.registers.display()))
}

/// Audits a moment at this level, and keeps the answer beside it.
pub fn check(moment: &Moment, level: Level) -> Result<Report> {
    let audit = Audit::open(&moment.memory, &moment.registers, Some(&moment.syms))?;
    let report = audit.check(level);
    let path = moment
        .registers
        .with_file_name(format!("audit-{}-{level}.json", moment.name));
    let text = serde_json::to_string_pretty(&report).context("audit")?;
    fs::write(&path, text).with_context(|| format!("{}: cannot write", path.display()))?;
    Ok(report)
}

/// The claim that a domain shares a range of its memory, guest-physical address
/// and bytes.
pub fn share(domain: u16, [start, bytes]: [u64; 2]) -> Share {
    Share {
        domain,
        range: GuestRange {
            gfn: Hex(start / PAGE),
            pages: bytes / PAGE,
        },
    }
}

/// What would be said of it if these domains were claimed to be protected.
pub fn check_claiming(moment: &Moment, protected: &[u16], level: Level) -> Result<Report> {
    let mut registers = Registers::open(&moment.registers)?;
    registers.protect(protected)?;
    let dump = Dump::open(&moment.memory)?;
    Ok(Audit::with_syms(dump, registers, Some(&moment.syms))?.check(level))
}

/// The files of a moment that was recorded into `folder`.
pub fn recorded(folder: &Path, name: &str) -> Moment {
    Moment {
        name: name.to_owned(),
        memory: folder.join(format!("memory-{name}.elf")),
        registers: folder.join(format!("registers-{name}.json")),
        syms: folder.join("xen-syms"),
    }
}

/// Draws EL2's address space at two moments of a run side by side, beside their
/// dumps, and returns where the picture is.
pub fn picture(folder: &Path, moments: [&str; 2]) -> Result<PathBuf> {
    let spaces = moments.map(|name| -> Result<_> {
        let moment = recorded(folder, name);
        let audit = Audit::open(&moment.memory, &moment.registers, Some(&moment.syms))?;
        Ok(audit.spaces())
    });
    let [first, second] = spaces;
    let (first, second) = (first?, second?);
    let side = |title: &str, spaces| Side {
        title: format!("EL2, {title}"),
        spaces,
    };
    let drawn = picture::draw(&[side(moments[0], &first), side(moments[1], &second)]);
    let path = folder.join(format!("map-{}-{}.svg", moments[0], moments[1]));
    fs::write(&path, drawn).with_context(|| format!("{}: cannot write", path.display()))?;
    Ok(path)
}

/// A report in one line.
pub fn sentence(report: &Report) -> String {
    let summary = &report.summary;
    let first = report
        .violations
        .iter()
        .map(|violation| violation.what.clone())
        .chain(report.unestablished.iter().cloned())
        .next()
        .map_or_else(String::new, |what| format!("; first: {what}"));
    format!(
        "{} {}: {} of {} protected and {} of {} table frames mapped, {} violations{first}",
        report.level,
        match report.verdict {
            Verdict::Holds => "holds",
            Verdict::Violated => "violated",
            Verdict::CannotJudge => "cannot be judged",
        },
        summary.protected_frames_mapped,
        summary.protected_frames,
        summary.table_frames_mapped,
        summary.table_frames,
        report.violations.len(),
    )
}

/// Before the fuse: the audit must find what the fuse is to remove. An audit
/// that finds nothing here would prove nothing afterwards.
pub fn must_be_open(summary: &Summary, directmap: bool) -> Result<()> {
    ensure!(
        summary.protected_frames > 0,
        "before: the guests have no memory"
    );
    ensure!(
        summary.table_frames_mapped > 0,
        "before: no table is mapped at EL2, so the audit is blind"
    );
    if directmap {
        ensure!(
            summary.protected_frames_mapped == summary.protected_frames,
            "before: with directmap=yes all {} frames of the guests should be mapped, {} are",
            summary.protected_frames,
            summary.protected_frames_mapped
        );
    }
    Ok(())
}

/// After the fuse: the level holds.
pub fn must_hold(report: &Report) -> Result<()> {
    ensure!(report.verdict == Verdict::Holds, "{}", sentence(report));
    ensure!(
        report.summary.protected_frames > 0,
        "after: the guests have no memory, so nothing was judged"
    );
    Ok(())
}

/// Before the fuse: the level does not hold.
pub fn must_not_hold(report: &Report) -> Result<()> {
    ensure!(
        report.verdict == Verdict::Violated,
        "before the fuse: {}",
        sentence(report)
    );
    Ok(())
}
