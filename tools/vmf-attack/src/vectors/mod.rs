//! The vectors of the threat model, each as a real attempt, one file a family.
//!
//! An attempt ends in the victim's secret or in a change of its memory; where
//! a vector is about something else its title says what counts. The same
//! attempt is made before the blow and after it, with what was learned before.
//!
//! - [`mappings`]: mappings of the victim's pages (V01 to V03)
//! - [`paths`]: Xen's own paths to guest memory, real hypercalls (V04 to V06)
//! - [`stage1`], [`stage2`]: writing translation tables (V07, V08)
//! - [`registers`]: loading other tables, other vCPU registers (V09 to V12)
//! - [`machine`]: firmware, vectors, boot code, subsystems (V13 to V16)
//! - [`devices`]: what accesses memory by itself (V17 to V20)
//! - [`state`]: the fuse's own state (V21, V22)
//! - [`data`]: code and data behind a second mapping, data-only (V23, V24)

mod data;
mod devices;
mod machine;
mod mappings;
mod paths;
mod registers;
mod stage1;
mod stage2;
mod state;

use serde::Serialize;

use crate::Failure;
use crate::lab::Lab;

/// What the attacker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Attacker {
    /// Hypercalls of a domain.
    #[serde(rename = "hypercalls")]
    Hypercalls,
    /// Reads at EL2.
    L1,
    /// Reads and writes at EL2.
    L2,
    /// The program counter and all registers at EL2.
    L3,
}

/// Levels of the fuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No mapping of the victim's pages.
    Unmap,
    /// No mapping of a translation table.
    Lock,
    /// No instruction that could load another one.
    Seal,
    /// No level of the fuse promises it.
    Never,
}

/// What a row of the table is about.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// V01 to V24.
    pub id: &'static str,
    /// What is tried.
    pub title: &'static str,
    /// By whom.
    pub attacker: Attacker,
    /// The lowest level that claims to close it.
    pub closed_by: Level,
}

/// How an attempt went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "seen", rename_all = "kebab-case")]
pub enum Outcome {
    /// The attacker has what it wanted.
    Success(String),
    /// It has not.
    Failed(String),
    /// There is nothing to attack on this machine, found out just now.
    NotApplicable(String),
    /// Nothing was tried, and why.
    NotAttempted(String),
}

impl Outcome {
    /// Of attempts at the same thing, the one that succeeds, else the first.
    pub fn any(outcomes: Vec<Self>) -> Self {
        let best = outcomes.iter().find(|one| matches!(one, Self::Success(_)));
        let best = best.or_else(|| outcomes.first());
        best.cloned()
            .unwrap_or_else(|| Self::NotAttempted("nothing to try".into()))
    }

    /// Of attempts that must all be seen to fail, and that all work before:
    /// the first that differs from what the phase calls for decides.
    pub fn every(lab: &Lab, outcomes: Vec<Self>) -> Self {
        let wanted = lab.phase == crate::lab::Phase::Before;
        let odd = outcomes
            .iter()
            .find(|one| matches!(one, Self::Success(_)) != wanted);
        match odd.or_else(|| outcomes.last()) {
            Some(one) => one.clone(),
            None => Self::NotAttempted("nothing to try".into()),
        }
    }
}

/// A vector, or one way of it.
pub trait Vector {
    /// Its row.
    fn facts(&self) -> Facts;

    /// Tries it.
    ///
    /// # Errors
    /// The laboratory is not what it has to be; what Xen does is an outcome.
    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure>;

    /// Right before the blow: brings translations into TLBs.
    ///
    /// # Errors
    /// As for [`Vector::attempt`].
    fn touch(&mut self, _: &mut Lab) -> Result<(), Failure> {
        Ok(())
    }

    /// Takes away what it has left for the time after the blow, where the blow
    /// is refused because of it.
    ///
    /// # Errors
    /// As for [`Vector::attempt`].
    fn tidy(&mut self, _: &mut Lab) -> Result<(), Failure> {
        Ok(())
    }
}

/// Every vector, in the order of the threat model. Those after the blow run in
/// the same order.
pub fn all() -> Vec<Box<dyn Vector>> {
    let mut all: Vec<Box<dyn Vector>> = Vec::new();
    for family in [
        mappings::all(),
        paths::all(),
        stage1::all(),
        stage2::all(),
        registers::all(),
        machine::all(),
        devices::all(),
        state::all(),
        data::all(),
    ] {
        all.extend(family);
    }
    all.sort_by_key(|vector| vector.facts().id);
    all
}

/// Short for the table of facts in each family.
const fn facts(
    id: &'static str,
    title: &'static str,
    attacker: Attacker,
    closed_by: Level,
) -> Facts {
    Facts {
        id,
        title,
        attacker,
        closed_by,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_vector_of_the_threat_model_has_a_row() {
        let rows: BTreeSet<&str> = all().iter().map(|vector| vector.facts().id).collect();
        let wanted: BTreeSet<String> = (1..=24).map(|n| format!("V{n:02}")).collect();
        assert!(rows.iter().copied().eq(wanted.iter().map(String::as_str)));
    }

    #[test]
    fn titles_are_unique() {
        let all = all();
        let titles: BTreeSet<_> = all
            .iter()
            .map(|one| (one.facts().id, one.facts().title))
            .collect();
        assert_eq!(titles.len(), all.len());
    }
}
