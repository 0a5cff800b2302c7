//! The statuses in `docs/threat-model.md`: what became of each vector when it
//! was tried. They are written from the reports of `vmf-attack`, never by
//! hand, and a test fails when a run differs from what is written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::site::Site;

/// The document, below the repository.
const DOCUMENT: &str = "docs/threat-model.md";
/// What `vmf-attack` leaves in a run's folder.
pub const REPORT: &str = "attacks.json";
/// Levels, and the group of scenarios whose report says how they hold.
const RUNS: [(&str, &str); 2] = [("lock", "attack"), ("seal", "attack-sealed")];

/// Writes the column of each level from the newest report.
pub fn write(site: &Site) -> Result<()> {
    let path = site.root().join(DOCUMENT);
    let mut text =
        fs::read_to_string(&path).with_context(|| format!("{}: cannot read", path.display()))?;
    for (level, group) in RUNS {
        let report = newest(site, group)?;
        text = rewrite(&text, level, &cells(&report)?)?;
    }
    fs::write(&path, text).with_context(|| format!("{}: cannot write", path.display()))
}

/// Fails if the document does not say what this report says.
pub fn compare(document: &str, report: &Value) -> Result<()> {
    let level = report["level"]
        .as_str()
        .context("the report has no level")?;
    let written = column(document, level)?;
    let found = cells(report)?;
    for (id, cell) in &found {
        let written = written.get(id).map_or("nothing", String::as_str);
        ensure!(
            written == cell,
            "{DOCUMENT} says of {id} at {level}: {written}; this run: {cell}. If that is right: cargo xtask statuses"
        );
    }
    if let Some(id) = written.keys().find(|id| !found.contains_key(*id)) {
        bail!("{DOCUMENT} has {id}, which was not tried");
    }
    Ok(())
}

/// The document, for [`compare`].
pub fn document(root: &Path) -> Result<String> {
    fs::read_to_string(root.join(DOCUMENT)).context(DOCUMENT)
}

fn newest(site: &Site, group: &str) -> Result<Value> {
    let folder = site.target().join(format!("lab/scenario-{group}"));
    let path: PathBuf = folder.join("latest").join(REPORT);
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "{}: no report: cargo xtask test --filter lab/{group}",
            path.display()
        )
    })?;
    serde_json::from_str(&text).with_context(|| format!("{}: no report", path.display()))
}

/// One row's outcome as a word, the more telling ones last.
const WORDS: [&str; 5] = [
    "not tried",
    "nothing there",
    "not counted",
    "closed",
    "open",
];

fn word(row: &Value) -> Result<&'static str> {
    let not_tried = row["after"]["outcome"] == "not-attempted";
    Ok(match row["verdict"].as_str() {
        Some("open") => "open",
        Some("closed") => "closed",
        Some("not-applicable") => "nothing there",
        Some("not-counted") if not_tried => "not tried",
        Some("not-counted") => "not counted",
        other => bail!("a row of {} has the verdict {other:?}", row["id"]),
    })
}

/// What became of each vector: one word for all attackers, or one for each.
fn cells(report: &Value) -> Result<BTreeMap<String, String>> {
    type Words = BTreeMap<(String, bool), usize>;
    let mut vectors: BTreeMap<String, Words> = BTreeMap::new();
    let rows = report["rows"]
        .as_array()
        .context("the report has no rows")?;
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let promised = row["closed_by"] != "never";
        let word = word(row)?;
        let strength = WORDS.iter().position(|other| *other == word).unwrap_or(0);
        let words = vectors.entry(text("id")).or_default();
        let known = words.entry((text("attacker"), promised)).or_default();
        *known = strength.max(*known);
    }
    if report["blow"]["whole"] == true {
        // Its races are the blow itself.
        vectors.insert(
            "V21".to_owned(),
            BTreeMap::from([((String::new(), true), 3)]),
        );
    }
    let cell = |words: &Words| {
        let promised: Vec<_> = words
            .iter()
            .filter(|((_, promised), _)| *promised)
            .collect();
        let same = promised.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let mut parts: Vec<String> = match promised.first() {
            Some((_, strength)) if same => vec![WORDS[**strength].to_owned()],
            _ => promised
                .iter()
                .map(|((attacker, _), strength)| format!("{attacker} {}", WORDS[**strength]))
                .collect(),
        };
        let never = words.iter().filter(|((_, promised), _)| !*promised);
        parts.extend(never.map(|(_, strength)| format!("{}, not promised", WORDS[*strength])));
        parts.join("; ")
    };
    Ok(vectors
        .iter()
        .map(|(id, words)| (id.clone(), cell(words)))
        .collect())
}

/// The rows of the table, as their cells.
fn rows(document: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    let lines = document.lines().enumerate();
    lines.filter_map(|(number, line)| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.split(" | ").collect();
        let is_vector = cells[0].len() == 3
            && cells[0].starts_with('V')
            && cells[0][1..].bytes().all(|byte| byte.is_ascii_digit());
        is_vector.then_some((number, cells))
    })
}

/// Which cell of a row belongs to `level`, by the table's head.
fn index(document: &str, level: &str) -> Result<usize> {
    let head = document.lines().find(|line| line.starts_with("| id | "));
    let head = head.with_context(|| format!("{DOCUMENT} has no table of vectors"))?;
    let wanted = format!("tried at {level}");
    let mut cells = head.trim_start_matches("| ").split(" | ");
    cells
        .position(|cell| cell == wanted)
        .with_context(|| format!("{DOCUMENT}: the table has no column \"{wanted}\""))
}

fn column(document: &str, level: &str) -> Result<BTreeMap<String, String>> {
    let index = index(document, level)?;
    rows(document)
        .map(|(_, cells)| {
            let cell = cells.get(index).context("a short row")?;
            Ok((cells[0].to_owned(), (*cell).to_owned()))
        })
        .collect()
}

fn rewrite(document: &str, level: &str, new: &BTreeMap<String, String>) -> Result<String> {
    let index = index(document, level)?;
    let mut lines: Vec<String> = document.lines().map(str::to_owned).collect();
    for (number, mut cells) in rows(document) {
        let cell = new
            .get(cells[0])
            .with_context(|| format!("the report has no {}", cells[0]))?;
        *cells.get_mut(index).context("a short row")? = cell;
        lines[number] = format!("| {}", cells.join(" | "));
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TABLE: &str = "\
# Title

| id | vector | tried at lock | tried at seal | more |
|---|---|---|---|---|
| V01 | one | closed | closed | x |
| V11 | two | L2 closed; L3 not tried | closed | y |
";

    fn row(id: &str, attacker: &str, closed_by: &str, verdict: &str, after: &str) -> Value {
        json!({"id": id, "attacker": attacker, "closed_by": closed_by, "verdict": verdict,
            "after": {"outcome": after}})
    }

    fn report(rows: Vec<Value>) -> Value {
        json!({"level": "lock", "rows": rows})
    }

    fn good() -> Vec<Value> {
        vec![
            row("V01", "L1", "unmap", "closed", "failed"),
            row("V01", "L2", "unmap", "not-applicable", "not-applicable"),
            row("V01", "L2", "lock", "closed", "failed"),
            row("V11", "L2", "lock", "closed", "failed"),
            row("V11", "L3", "seal", "not-counted", "not-attempted"),
        ]
    }

    #[test]
    fn a_run_that_agrees_passes() {
        compare(TABLE, &report(good())).unwrap();
    }

    #[test]
    fn a_run_that_differs_is_named() {
        let mut rows = good();
        rows.push(row("V01", "L2", "unmap", "open", "success"));
        let error = compare(TABLE, &report(rows)).unwrap_err().to_string();
        assert!(
            error.contains("V01 at lock: closed; this run: L1 closed; L2 open"),
            "{error}"
        );
        let error = compare(TABLE, &report(good()[..3].to_vec())).unwrap_err();
        assert!(
            error.to_string().contains("V11, which was not tried"),
            "{error}"
        );
        let mut rows = good();
        rows.push(row("V17", "hypercalls", "never", "open", "success"));
        let error = compare(TABLE, &report(rows)).unwrap_err().to_string();
        assert!(
            error.contains("V17 at lock: nothing; this run: open, not promised"),
            "{error}"
        );
    }

    #[test]
    fn the_columns_are_rewritten_and_nothing_else() {
        let mut rows = good();
        rows.push(row("V11", "L3", "seal", "open", "success"));
        let new = rewrite(TABLE, "lock", &cells(&report(rows)).unwrap()).unwrap();
        assert_eq!(new, TABLE.replace("L3 not tried", "L3 open"));
        let same = rewrite(TABLE, "lock", &cells(&report(good())).unwrap()).unwrap();
        assert_eq!(same, TABLE);
    }

    #[test]
    fn a_table_without_the_column_is_an_error() {
        assert!(column(&TABLE.replace("tried at seal", "z"), "seal").is_err());
    }

    /// What is promised at a level is not written as open there.
    #[test]
    fn no_promise_is_written_as_open() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let document = document(&root).unwrap();
        let order = ["unmap", "lock", "seal"];
        let mut seen = 0;
        for (at, level) in [(1, "lock"), (2, "seal")] {
            let index = index(&document, level).unwrap();
            for (_, cells) in rows(&document) {
                let first = cells[2].split(',').next().unwrap_or_default();
                let promised = order.iter().position(|one| *one == first);
                let cell = cells[index]
                    .split(", not promised")
                    .next()
                    .unwrap_or_default();
                let open = cell.split("; ").any(|part| part == "open");
                if promised.is_some_and(|promised| promised <= at) {
                    seen += 1;
                    assert!(!open, "{} at {level}: {}", cells[0], cells[index]);
                }
            }
        }
        assert!(seen > 30, "{seen} promises found");
    }
}
