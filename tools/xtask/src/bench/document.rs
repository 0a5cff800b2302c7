//! `docs/performance.md`: the prose is written by hand, the tables between
//! markers from the results, the plots beside it.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::plot;
use super::report::Report;
use super::scale;
use super::table;
use crate::site::Site;

/// The page, below the repository.
const PAGE: &str = "docs/performance.md";
/// Plots, below the repository.
const COUNTED: &str = "docs/performance-blow.svg";
const TIMED: &str = "docs/performance-blow-cpus.svg";

/// Writes tables and plots from a complete report.
pub fn write(site: &Site, report: &Report) -> Result<()> {
    let parts = [
        ("figures", table::figures(report)),
        ("mapping", table::mappings(report)),
        ("blow", table::blows(report)),
        ("time", table::times(report)),
        ("scale", scale::table(&report.scale)?),
        ("size", table::sizes(report)),
        ("demo", table::demonstration(report)),
        ("verifier", table::verifier(report)),
    ];
    let path = site.root().join(PAGE);
    let mut page =
        fs::read_to_string(&path).with_context(|| format!("{}: cannot read", path.display()))?;
    for (name, text) in parts {
        ensure!(
            text.lines().count()
                > if ["demo", "verifier"].contains(&name) {
                    0
                } else {
                    2
                },
            "{name}: nothing was measured; run cargo xtask bench without --only"
        );
        page = replace(&page, name, &text)?;
    }
    fs::write(&path, page).with_context(|| format!("{}: cannot write", path.display()))?;
    println!("written: {PAGE}");
    let pictures = [
        (COUNTED, plot::counted(&report.blows)),
        (TIMED, plot::timed(&report.blows)),
    ];
    for (name, picture) in pictures {
        let picture = picture.with_context(|| format!("{name}: too few blows were measured"))?;
        let path = site.root().join(name);
        fs::write(&path, picture).with_context(|| format!("{}: cannot write", path.display()))?;
        println!("written: {name}");
    }
    Ok(())
}

/// Puts `text` between the markers of `name`.
fn replace(page: &str, name: &str, text: &str) -> Result<String> {
    let begin = format!("<!-- bench: {name} -->\n");
    let end = "<!-- bench: end -->";
    let (before, rest) = page
        .split_once(&begin)
        .with_context(|| format!("{PAGE} has no marker {}", begin.trim()))?;
    let (_, after) = rest
        .split_once(end)
        .with_context(|| format!("{PAGE}: {} has no end", begin.trim()))?;
    Ok(format!(
        "{before}{begin}\n{}\n\n{end}{after}",
        text.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = "a\n<!-- bench: x -->\nold\n<!-- bench: end -->\nb\n<!-- bench: y -->\nc\n<!-- bench: end -->\n";
        let once = replace(page, "x", "new\n").unwrap();
        assert_eq!(
            once,
            "a\n<!-- bench: x -->\n\nnew\n\n<!-- bench: end -->\nb\n<!-- bench: y -->\nc\n<!-- bench: end -->\n"
        );
        assert_eq!(replace(&once, "x", "new\n").unwrap(), once);
        assert!(replace(page, "z", "").is_err());
    }
}
