//! The test matrix: which combinations of values are booted.
//!
//! The default run boots a small set in which every pair of values that can
//! exist together occurs at least once; the nightly one boots every
//! combination. Both are computed here, by pure code.

use std::collections::BTreeSet;
use std::fmt;

use super::profile::{Cpu, Guest, Profile, Scheduler};

/// One case of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// CPU model.
    pub cpu: Cpu,
    /// Number of CPUs.
    pub cpus: u32,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Debug build of Xen.
    pub debug: bool,
    /// All RAM mapped at boot.
    pub directmap: bool,
}

/// Numbers of CPUs that the matrix covers.
pub const CPUS: [u32; 3] = [1, 2, 4];

/// What does not exist, with the reason, for people.
pub const EXCLUDED: &str = "not in the matrix: the null scheduler on 1 CPU, which gives each vCPU \
     a CPU of its own and so leaves none for a domain beside dom0; on 2 CPUs it runs dom0 and the \
     bare-metal domU only";

/// A factor's number and the number of its value.
type Value = (usize, usize);
/// Two values that occur together.
type Pair = (Value, Value);

impl Case {
    /// Whether such a system exists.
    pub fn exists(&self) -> bool {
        self.scheduler != Scheduler::Null || self.cpus > 1
    }

    fn values(&self) -> [Value; 5] {
        let position = |found: Option<usize>| found.unwrap_or(usize::MAX);
        [
            (
                0,
                position(Cpu::ALL.iter().position(|cpu| *cpu == self.cpu)),
            ),
            (1, position(CPUS.iter().position(|cpus| *cpus == self.cpus))),
            (2, usize::from(self.scheduler == Scheduler::Null)),
            (3, usize::from(self.debug)),
            (4, usize::from(self.directmap)),
        ]
    }

    fn pairs(&self) -> BTreeSet<Pair> {
        let values = self.values();
        let mut pairs = BTreeSet::new();
        for (index, first) in values.iter().enumerate() {
            for second in &values[index + 1..] {
                pairs.insert((*first, *second));
            }
        }
        pairs
    }

    /// The profile that this case boots, made from `base`.
    pub fn profile(&self, base: &Profile) -> Profile {
        let mut profile = base.clone();
        profile.name = format!("matrix-{self}").replace(' ', "-");
        profile.description = format!("test matrix: {self}");
        profile.cpu = self.cpu;
        profile.cpus = self.cpus;
        profile.scheduler = self.scheduler;
        profile.xen.debug = self.debug;
        profile.directmap = self.directmap;
        if self.scheduler == Scheduler::Null && profile.vcpus() > self.cpus {
            profile
                .domains
                .retain(|domain| domain.guest == Guest::Canary);
        }
        profile
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}cpu {} {} directmap={}",
            self.cpu,
            self.cpus,
            self.scheduler,
            if self.debug { "debug" } else { "release" },
            if self.directmap { "yes" } else { "no" }
        )
    }
}

/// Every combination that exists.
pub fn every() -> Vec<Case> {
    let mut cases = Vec::new();
    for cpu in Cpu::ALL {
        for cpus in CPUS {
            for scheduler in [Scheduler::Credit2, Scheduler::Null] {
                for debug in [false, true] {
                    for directmap in [true, false] {
                        cases.push(Case {
                            cpu,
                            cpus,
                            scheduler,
                            debug,
                            directmap,
                        });
                    }
                }
            }
        }
    }
    cases.retain(Case::exists);
    cases
}

/// Few cases that cover every pair: each time the one that adds most.
pub fn cover() -> Vec<Case> {
    let every = every();
    let mut left: BTreeSet<Pair> = every.iter().flat_map(Case::pairs).collect();
    let mut cases = Vec::new();
    while !left.is_empty() {
        let gain = |case: &Case| case.pairs().intersection(&left).count();
        // The last of equals: max_by_key would do, but the order of `every`
        // decides, so the choice never changes from run to run.
        let Some(best) = every.iter().copied().max_by_key(gain) else {
            break;
        };
        for pair in best.pairs() {
            left.remove(&pair);
        }
        cases.push(best);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_pair_that_exists_is_covered() {
        let covered: BTreeSet<Pair> = cover().iter().flat_map(Case::pairs).collect();
        // Counted by hand: pairs of factors with 3, 3, 2, 2, 2 values, without
        // (1 CPU, null).
        let all = 3 * 3 + 3 * (3 * 2) + 3 * (3 * 2) + 3 * (2 * 2) - 1;
        assert_eq!(covered.len(), all);
        for case in every() {
            assert!(case.pairs().is_subset(&covered), "{case}");
        }
    }

    #[test]
    fn the_cover_is_small_and_has_no_impossible_case() {
        let cases = cover();
        assert!(cases.len() <= 12, "{} cases", cases.len());
        assert!(cases.iter().all(Case::exists));
        assert_eq!(every().len(), 3 * 3 * 2 * 2 * 2 - 3 * 2 * 2);
    }

    #[test]
    fn every_case_has_a_cpu_for_each_vcpu_that_needs_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let base = Profile::read(&root, "test").unwrap();
        for case in every() {
            let profile = case.profile(&base);
            profile.validate().unwrap();
            assert!(!profile.domains.is_empty(), "{case}");
        }
    }
}
