//! The table: what each attempt was before and after, and what follows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::blow::Blow;
use crate::vectors::{Attacker, Facts, Level, Outcome};

/// What follows from the two attempts at one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It succeeded before and fails now.
    Closed,
    /// It succeeds.
    Open,
    /// There is nothing to attack on this machine.
    NotApplicable,
    /// It did not succeed before, so its failure proves nothing.
    NotCounted,
}

impl Verdict {
    /// As a word of the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "OPEN",
            Self::NotApplicable => "not applicable",
            Self::NotCounted => "not counted",
        }
    }
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// V01 to V24.
    pub id: &'static str,
    /// What is tried.
    pub title: &'static str,
    /// By whom.
    pub attacker: Attacker,
    /// The lowest level that claims to close it.
    pub closed_by: Level,
    /// The level that was blown claims it.
    pub claimed: bool,
    /// Before the blow.
    pub before: Outcome,
    /// After it; none where nothing was blown.
    pub after: Option<Outcome>,
    /// What follows; none where nothing was blown.
    pub verdict: Option<Verdict>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The level whose claims are judged.
    pub level: &'static str,
    /// Xen mapped all RAM before.
    pub directmap: bool,
    /// Online CPUs.
    pub cpus: u32,
    /// The blow and its races.
    pub blow: Option<Blow>,
    /// One entry for each claimed vector.
    pub claims: BTreeMap<&'static str, Verdict>,
    /// One entry for each attempt.
    pub rows: Vec<Row>,
}

/// What follows from one attempt before and one after.
pub fn verdict(before: &Outcome, after: &Outcome) -> Verdict {
    match (before, after) {
        (_, Outcome::Success(_)) => Verdict::Open,
        (Outcome::Success(_), Outcome::Failed(_)) => Verdict::Closed,
        (Outcome::NotApplicable(_), Outcome::NotApplicable(_)) => Verdict::NotApplicable,
        _ => Verdict::NotCounted,
    }
}

impl Row {
    /// A row.
    pub fn new(facts: Facts, level: Level, before: Outcome, after: Option<Outcome>) -> Self {
        Self {
            id: facts.id,
            title: facts.title,
            attacker: facts.attacker,
            closed_by: facts.closed_by,
            claimed: facts.closed_by <= level,
            verdict: after.as_ref().map(|after| verdict(&before, after)),
            before,
            after,
        }
    }
}

/// A vector is open when one way is, closed when one way was closed and none
/// is open.
pub fn claims(rows: &[Row]) -> BTreeMap<&'static str, Verdict> {
    let mut claims = BTreeMap::new();
    for row in rows.iter().filter(|row| row.claimed) {
        let Some(new) = row.verdict else { continue };
        let strength = |verdict: &Verdict| match verdict {
            Verdict::Open => 3,
            Verdict::Closed => 2,
            Verdict::NotCounted => 1,
            Verdict::NotApplicable => 0,
        };
        let known = claims.entry(row.id).or_insert(new);
        if strength(&new) > strength(known) {
            *known = new;
        }
    }
    claims
}

impl Report {
    /// The exit code.
    pub fn code(&self) -> u8 {
        let blown = self.blow.as_ref().is_none_or(|blow| blow.whole);
        // V21 is the blow itself.
        let mut others = self.claims.iter().filter(|(id, _)| **id != "V21");
        if !blown
            || self
                .claims
                .values()
                .any(|verdict| *verdict == Verdict::Open)
        {
            1
        } else if others.any(|(_, verdict)| *verdict == Verdict::NotCounted) {
            3
        } else {
            0
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let word = |outcome: &Outcome| match outcome {
            Outcome::Success(_) => "succeeds",
            Outcome::Failed(_) => "fails",
            Outcome::NotApplicable(_) => "nothing there",
            Outcome::NotAttempted(_) => "not attempted",
        };
        let seen = |outcome: &Outcome| match outcome {
            Outcome::Success(seen)
            | Outcome::Failed(seen)
            | Outcome::NotApplicable(seen)
            | Outcome::NotAttempted(seen) => seen.clone(),
        };
        for row in &self.rows {
            let after = row.after.as_ref();
            let verdict = row.verdict.map_or("", Verdict::word);
            let claim = if row.claimed { "" } else { " (not claimed)" };
            let _ = writeln!(
                text,
                "{} {:14} before: {:13} after: {:13} {}{claim}",
                row.id,
                verdict,
                word(&row.before),
                after.map_or("", word),
                row.title,
            );
            let _ = writeln!(text, "      before: {}", seen(&row.before));
            if let Some(after) = after {
                let _ = writeln!(text, "      after:  {}", seen(after));
            }
        }
        if let Some(blow) = &self.blow {
            let _ = writeln!(
                text,
                "blow: {} sides, {} ms, {} domains created meanwhile, {} refused, state {}, {}",
                blow.sides.len(),
                blow.milliseconds,
                blow.created,
                blow.creations_refused,
                blow.state,
                if blow.whole { "whole" } else { "NOT WHOLE" },
            );
            if let Some(why) = &blow.refused_first {
                let _ = writeln!(text, "      refused while mappings were left: {why}");
            }
            for side in &blow.sides {
                let _ = writeln!(
                    text,
                    "      protected {:?}, {}, refused: {}",
                    side.protected,
                    if side.locked {
                        "locked"
                    } else {
                        "did not lock"
                    },
                    side.refusals.join("; ")
                );
            }
        }
        for (id, verdict) in &self.claims {
            let _ = writeln!(text, "{id}: {}", verdict.word());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success() -> Outcome {
        Outcome::Success(String::new())
    }

    fn failed() -> Outcome {
        Outcome::Failed(String::new())
    }

    fn absent() -> Outcome {
        Outcome::NotApplicable(String::new())
    }

    #[test]
    fn what_did_not_succeed_before_does_not_count() {
        assert_eq!(verdict(&success(), &failed()), Verdict::Closed);
        assert_eq!(verdict(&success(), &success()), Verdict::Open);
        assert_eq!(verdict(&failed(), &failed()), Verdict::NotCounted);
        assert_eq!(verdict(&failed(), &success()), Verdict::Open);
        assert_eq!(verdict(&absent(), &absent()), Verdict::NotApplicable);
        assert_eq!(verdict(&success(), &absent()), Verdict::NotCounted);
        assert_eq!(verdict(&absent(), &success()), Verdict::Open);
    }

    fn row(id: &'static str, closed_by: Level, before: Outcome, after: Outcome) -> Row {
        let facts = Facts {
            id,
            title: "",
            attacker: Attacker::L1,
            closed_by,
        };
        Row::new(facts, Level::Lock, before, Some(after))
    }

    fn code(rows: Vec<Row>) -> u8 {
        Report {
            level: "lock",
            directmap: true,
            cpus: 1,
            blow: None,
            claims: claims(&rows),
            rows,
        }
        .code()
    }

    #[test]
    fn one_open_way_makes_a_vector_open() {
        let closed = || row("V01", Level::Unmap, success(), failed());
        let open = row("V01", Level::Lock, success(), success());
        let unclaimed = row("V09", Level::Seal, success(), success());
        assert_eq!(code(vec![closed(), unclaimed]), 0);
        assert_eq!(code(vec![closed(), open]), 1);
        let uncounted = row("V02", Level::Lock, failed(), failed());
        assert_eq!(code(vec![closed(), uncounted]), 3);
        let absent = row("V18", Level::Lock, absent(), absent());
        assert_eq!(code(vec![closed(), absent]), 0);
    }
}
