//! The verdict: every rule of a level applied, what each found, and what could not be established. The rules themselves
//! are in [`crate::rules`].

use crate::audit::{Audit, Root};
use crate::descriptor::Step;
use crate::dump::FRAME_SIZE;
use crate::frames::Run;
use crate::hex::Hex;
use crate::report::{Level, Report, RuleResult, Verdict, Violation};
use crate::rules::RULES;
use crate::{scan, stage1};

/// What a rule found so far.
#[derive(Default)]
pub(crate) struct Findings {
    violations: Vec<Violation>,
    doubts: Vec<String>,
}

impl Findings {
    /// A fact that the rule needs could not be established: it does not hold.
    pub(crate) fn doubt(&mut self, what: impl Into<String>) {
        self.doubts.push(what.into());
    }

    /// An instruction in executable memory.
    pub(crate) fn instruction(&mut self, audit: &Audit, place: &scan::Place, what: String) {
        let Some(root) = audit.roots.iter().find(|r| r.regime.mmu) else {
            return;
        };
        let mfn = place.mfn.map_or(0, |m| m.0);
        let owner = audit.dump.frame_index(mfn).map(|i| audit.frames.owner(i));
        self.violations.push(Violation {
            rule: "",
            vectors: &[],
            what,
            mfn: place.mfn,
            frames: 1,
            owner: owner.map(|o| audit.owner_name(o)),
            address: Some(place.address),
            walk: stage1::trace(&audit.dump, &root.regime, place.address.0),
            cpus: root.cpus.clone(),
        });
    }

    /// Adds frames that an EL2 leaf maps, and joins them with what was added before where all goes on.
    pub(crate) fn el2(
        &mut self,
        audit: &Audit,
        root: &Root,
        leaf: &stage1::Leaf,
        run: &Run,
        what: String,
    ) {
        let va = leaf.va + run.mfn * FRAME_SIZE - leaf.pa;
        let walk = || stage1::trace(&audit.dump, &root.regime, va);
        self.frames(audit, va, run, &root.cpus, what, walk);
    }

    pub(crate) fn frames(
        &mut self,
        audit: &Audit,
        address: u64,
        run: &Run,
        cpus: &[usize],
        what: String,
        walk: impl FnOnce() -> Vec<Step>,
    ) {
        let owner = Some(audit.owner_name(run.owner));
        if let Some(last) = self.violations.last_mut() {
            let follows = |from: Option<Hex>, to: u64, unit: u64| {
                from.is_some_and(|f| f.0 + last.frames * unit == to)
            };
            if last.owner == owner
                && last.cpus == cpus
                && last.what == what
                && follows(last.mfn, run.mfn, 1)
                && follows(last.address, address, FRAME_SIZE)
            {
                last.frames += run.count;
                return;
            }
        }
        self.violations.push(Violation {
            rule: "",
            vectors: &[],
            what,
            mfn: Some(Hex(run.mfn)),
            frames: run.count,
            owner,
            address: Some(Hex(address)),
            walk: walk(),
            cpus: cpus.to_vec(),
        });
    }

    /// A leaf as a whole, whatever it maps.
    pub(crate) fn leaf(&mut self, audit: &Audit, root: &Root, leaf: &stage1::Leaf, what: String) {
        let mfn = leaf.pa / FRAME_SIZE;
        let owner = match audit.dump.frame_index(mfn) {
            Some(index) => audit.owner_name(audit.frames.owner(index)),
            None => "no memory in the dump".to_owned(),
        };
        self.violations.push(Violation {
            rule: "",
            vectors: &[],
            what,
            mfn: Some(Hex(mfn)),
            frames: leaf.size() / FRAME_SIZE,
            owner: Some(owner),
            address: Some(Hex(leaf.va)),
            walk: stage1::trace(&audit.dump, &root.regime, leaf.va),
            cpus: root.cpus.clone(),
        });
    }

    /// What has no frame: a register, an entry, a note of the fuse.
    pub(crate) fn plain(
        &mut self,
        what: String,
        cpus: Vec<usize>,
        address: Option<Hex>,
        walk: Vec<Step>,
    ) {
        let (rule, vectors, mfn, frames, owner) = ("", &[][..], None, 0, None);
        self.violations.push(Violation {
            rule,
            vectors,
            what,
            mfn,
            frames,
            owner,
            address,
            walk,
            cpus,
        });
    }
}

impl Audit {
    /// Judges whether `level` holds.
    pub fn check(&self, level: Level) -> Report {
        let mut unestablished = self.unestablished.clone();
        if !self.stage2.iter().any(|s| s.protected) {
            unestablished
                .push("no domain is claimed to be protected: there is nothing to hold".into());
        }
        let everywhere = unestablished.len();
        if level >= Level::Lock && self.found.is_none() {
            unestablished.push(
                "pooled and static tables and Xen's image are not known: xen-syms is needed".into(),
            );
        }
        let (mut rules, mut violations) = (Vec::new(), Vec::new());
        for rule in RULES.iter().filter(|r| r.level <= level) {
            let mut findings = Findings::default();
            let known = self.found.is_some() || !rule.needs_xen;
            (rule.find)(self, &mut findings);
            rules.push(RuleResult {
                rule: rule.id,
                demands: rule.demands,
                vectors: rule.vectors,
                holds: known
                    && everywhere == 0
                    && findings.doubts.is_empty()
                    && findings.violations.is_empty(),
                violations: findings.violations.len(),
                frames: findings.violations.iter().map(|v| v.frames).sum(),
            });
            let doubts = findings.doubts.into_iter();
            unestablished.extend(doubts.map(|d| format!("{}: {d}", rule.id)));
            let named = |v| Violation {
                rule: rule.id,
                vectors: rule.vectors,
                ..v
            };
            violations.extend(findings.violations.into_iter().map(named));
        }
        let verdict = match (violations.is_empty(), unestablished.is_empty()) {
            (false, _) => Verdict::Violated,
            (true, false) => Verdict::CannotJudge,
            (true, true) => Verdict::Holds,
        };
        let (excluded, summary) = (self.excluded.clone(), self.summary());
        Report {
            level,
            verdict,
            rules,
            violations,
            unestablished,
            excluded,
            summary,
        }
    }
}
