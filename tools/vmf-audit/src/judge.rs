//! The rules, one function each, and the verdict. A rule looks at machine frames, never at where something is expected
//! to be mapped; what it cannot know makes the verdict "cannot judge".
//!
//! Pages of Xen's own that a protected domain sees (shared info, grant table) are in its stage 2 and stay mapped by
//! design. They are not held to be protected if, and only if, Xen's struct domain of that very domain names the frame
//! (and it lies in the xenheap, where its bounds are known); each is listed in the report. Without xen-syms none is.

use crate::audit::{Audit, Root, name};
use crate::descriptor::Step;
use crate::frames::{Frames, Run};
use crate::hex::Hex;
use crate::registers::Cpu;
use crate::report::{Level, Report, RuleResult, Verdict, Violation};
use crate::summary::Reach;
use crate::{stage1, stage2};

/// What a level demands.
pub struct Rule {
    /// Its id, stable.
    pub id: &'static str,
    /// From which level on it applies.
    pub level: Level,
    /// The threat model's vectors that it checks.
    pub vectors: &'static [&'static str],
    /// In words.
    pub demands: &'static str,
    find: fn(&Audit, &mut Findings),
}

/// Every rule, by id.
pub const RULES: &[Rule] = &[
    Rule {
        id: "U1",
        level: Level::Unmap,
        vectors: &["V01", "V02", "V03"],
        demands: "no frame of a protected domain is mapped at EL2",
        find: protected_mapped,
    },
    Rule {
        id: "U2",
        level: Level::Unmap,
        vectors: &["V05", "V06"],
        demands: "no other domain's stage 2 reaches a frame of a protected domain",
        find: protected_in_other_stage2,
    },
    Rule {
        id: "U3",
        level: Level::Unmap,
        vectors: &["V10", "V13"],
        demands: "no CPU has its EL2 MMU off",
        find: mmu_off,
    },
    Rule {
        id: "L1",
        level: Level::Lock,
        vectors: &["V07", "V08"],
        demands: "no frame with a translation table of any regime, in use, static or pooled, is mapped at EL2",
        find: table_mapped,
    },
    Rule {
        id: "L2",
        level: Level::Lock,
        vectors: &["V23"],
        demands: "no EL2 mapping is both writable and executable",
        find: writable_and_executable,
    },
    Rule {
        id: "L3",
        level: Level::Lock,
        vectors: &["V23"],
        demands: "no frame that can be executed from has a writable EL2 mapping, and each is in the dump",
        find: executable_with_writable_alias,
    },
    Rule {
        id: "L4",
        level: Level::Lock,
        vectors: &["V07", "V08"],
        demands: "no domain's stage 2 reaches a translation table or Xen's image",
        find: private_in_stage2,
    },
    Rule {
        id: "L5",
        level: Level::Lock,
        vectors: &["V09", "V10"],
        demands: "all CPUs translate at EL2 in the same way",
        find: cpus_disagree,
    },
    Rule {
        id: "L6",
        level: Level::Lock,
        vectors: &["V11", "V24"],
        demands: "no CPU has a stage 2 loaded that belongs to no domain",
        find: stray_stage2,
    },
    Rule {
        id: "L7",
        level: Level::Lock,
        vectors: &["V07"],
        demands: "no entry contradicts the architecture",
        find: malformed,
    },
    Rule {
        id: "L8",
        level: Level::Lock,
        vectors: &["V23", "V24"],
        demands: "what Xen's image maps read-only is writable nowhere else",
        find: read_only_with_writable_alias,
    },
];

/// What a rule found so far.
#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
}

impl Findings {
    /// Adds frames that an EL2 leaf maps, and joins them with what was added before where all goes on.
    fn el2(&mut self, audit: &Audit, root: &Root, leaf: &stage1::Leaf, run: &Run, what: String) {
        let va = leaf.va + run.mfn * crate::dump::FRAME_SIZE - leaf.pa;
        let walk = || stage1::trace(&audit.dump, &root.regime, va);
        self.frames(audit, va, run, &root.cpus, what, walk);
    }

    fn frames(
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
                && follows(last.address, address, crate::dump::FRAME_SIZE)
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

    fn plain(&mut self, what: String, cpus: Vec<usize>, address: Option<Hex>, walk: Vec<Step>) {
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
        if level >= Level::Lock && self.found.is_none() {
            unestablished.push(
                "pooled and static tables and Xen's image are not known: xen-syms is needed".into(),
            );
        }
        let (mut rules, mut violations) = (Vec::new(), Vec::new());
        for rule in RULES.iter().filter(|r| r.level <= level) {
            let mut findings = Findings::default();
            (rule.find)(self, &mut findings);
            rules.push(RuleResult {
                rule: rule.id,
                demands: rule.demands,
                vectors: rule.vectors,
                violations: findings.violations.len(),
                frames: findings.violations.iter().map(|v| v.frames).sum(),
            });
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

/// Every leaf of every root that maps frames which satisfy `wanted`.
fn each_mapped(
    audit: &Audit,
    wanted: impl Fn(&Frames, usize) -> bool,
    mut found: impl FnMut(&Root, &stage1::Leaf, &Run),
) {
    for root in &audit.roots {
        for leaf in &root.walk.leaves {
            for run in audit
                .frames
                .runs(&audit.dump, leaf.pa, leaf.size(), &wanted)
            {
                found(root, leaf, &run);
            }
        }
    }
}

fn permissions(root: &Root, leaf: &stage1::Leaf) -> &'static str {
    match (leaf.writable, root.regime.executes(leaf)) {
        (false, false) => "readable",
        (true, false) => "writable",
        (false, true) => "executable",
        (true, true) => "writable and executable",
    }
}

fn protected_mapped(audit: &Audit, found: &mut Findings) {
    each_mapped(
        audit,
        |f, i| f.protected(i).is_some(),
        |root, leaf, run| {
            found.el2(
                audit,
                root,
                leaf,
                run,
                format!("protected memory is {}", permissions(root, leaf)),
            );
        },
    );
}

fn protected_in_other_stage2(audit: &Audit, found: &mut Findings) {
    for stage2 in &audit.stage2 {
        let others = |f: &Frames, i: usize| f.protected(i).is_some_and(|p| Some(p) != stage2.id);
        each_in_stage2(audit, stage2, others, "protected memory", found);
    }
}

fn private_in_stage2(audit: &Audit, found: &mut Findings) {
    for stage2 in &audit.stage2 {
        each_in_stage2(
            audit,
            stage2,
            |f, i| f.owner(i).is_table(),
            "a translation table",
            found,
        );
        each_in_stage2(
            audit,
            stage2,
            |f, i| f.image(i) && !f.owner(i).is_table(),
            "Xen's image",
            found,
        );
    }
}

fn each_in_stage2(
    audit: &Audit,
    stage2: &crate::audit::Stage2,
    wanted: impl Fn(&Frames, usize) -> bool,
    what: &str,
    found: &mut Findings,
) {
    let Some(regime) = audit.stage2_regime else {
        return;
    };
    for leaf in &stage2.walk.leaves {
        for run in audit
            .frames
            .runs(&audit.dump, leaf.pa, leaf.size(), &wanted)
        {
            let ipa = leaf.ipa + run.mfn * crate::dump::FRAME_SIZE - leaf.pa;
            let what = format!("{} ({}) reaches {what}", name(stage2), leaf.kind());
            let walk = || stage2::trace(&audit.dump, &regime, stage2.vttbr, ipa);
            found.frames(audit, ipa, &run, &stage2.cpus, what, walk);
        }
    }
}

fn mmu_off(audit: &Audit, found: &mut Findings) {
    for root in audit.roots.iter().filter(|r| !r.regime.mmu) {
        found.plain(
            "the EL2 MMU is off: all memory is readable, writable, executable".into(),
            root.cpus.clone(),
            None,
            Vec::new(),
        );
    }
}

fn table_mapped(audit: &Audit, found: &mut Findings) {
    each_mapped(
        audit,
        |f, i| f.owner(i).is_table(),
        |root, leaf, run| {
            found.el2(
                audit,
                root,
                leaf,
                run,
                format!("a translation table is {}", permissions(root, leaf)),
            );
        },
    );
}

fn writable_and_executable(audit: &Audit, found: &mut Findings) {
    for root in &audit.roots {
        for leaf in root
            .walk
            .leaves
            .iter()
            .filter(|l| l.writable && root.regime.executes(l))
        {
            let walk = stage1::trace(&audit.dump, &root.regime, leaf.va);
            let what = format!(
                "{:#x} bytes at {:#x} are writable and executable, and WXN is off",
                leaf.size(),
                leaf.pa
            );
            found.plain(what, root.cpus.clone(), Some(Hex(leaf.va)), walk);
        }
    }
}

/// What the CPUs with an MMU reach: one without reaches everything, and is U3's.
fn translated_reach(audit: &Audit) -> Reach {
    Reach::of(audit, audit.roots.iter().filter(|r| r.regime.mmu))
}

fn executable_with_writable_alias(audit: &Audit, found: &mut Findings) {
    let reach = translated_reach(audit);
    for root in &audit.roots {
        for leaf in root.walk.leaves.iter().filter(|l| root.regime.executes(l)) {
            let inside: usize = audit
                .dump
                .ram_within(leaf.pa, leaf.size())
                .map(|(_, _, count)| count)
                .sum();
            if (inside as u64) * crate::dump::FRAME_SIZE != leaf.size() {
                let what = format!(
                    "{:#x} bytes at {:#x} can be executed from, but are not in the dump",
                    leaf.size(),
                    leaf.pa
                );
                let walk = stage1::trace(&audit.dump, &root.regime, leaf.va);
                found.plain(what, root.cpus.clone(), Some(Hex(leaf.va)), walk);
            }
        }
        for leaf in root
            .walk
            .leaves
            .iter()
            .filter(|l| l.writable && !root.regime.executes(l))
        {
            for run in audit
                .frames
                .runs(&audit.dump, leaf.pa, leaf.size(), |_, i| {
                    reach.executable[i]
                })
            {
                found.el2(
                    audit,
                    root,
                    leaf,
                    &run,
                    "executable memory is writable here".into(),
                );
            }
        }
    }
}

fn read_only_with_writable_alias(audit: &Audit, found: &mut Findings) {
    let Some(sections) = audit.found.as_ref().map(|f| &f.sections) else {
        return;
    };
    let Some((first, last)) = sections.first().zip(sections.last()) else {
        return;
    };
    let image = first.region.va..last.region.va + last.region.size;
    let executable = translated_reach(audit).executable;
    let mut read_only = vec![false; audit.dump.frames()];
    for leaf in audit
        .roots
        .iter()
        .flat_map(|r| &r.walk.leaves)
        .filter(|l| image.contains(&l.va) && !l.writable)
    {
        for (_, index, count) in audit.dump.ram_within(leaf.pa, leaf.size()) {
            read_only[index..index + count].fill(true);
        }
    }
    // What can be executed from is L3's.
    each_mapped(
        audit,
        |_, i| read_only[i] && !executable[i],
        |root, leaf, run| {
            if leaf.writable {
                found.el2(
                    audit,
                    root,
                    leaf,
                    run,
                    "memory that Xen's image maps read-only is writable here".into(),
                );
            }
        },
    );
}

fn cpus_disagree(audit: &Audit, found: &mut Findings) {
    type Value = fn(&Cpu) -> u64;
    let cpus = &audit.registers.cpus;
    for (register, value) in [
        ("TTBR0_EL2", (|c| c.ttbr0.0) as Value),
        ("TCR_EL2", |c| c.tcr.0),
        ("SCTLR_EL2", |c| c.sctlr.0),
        ("MAIR_EL2", |c| c.mair.0),
    ] {
        let others: Vec<usize> = (0..cpus.len())
            .filter(|&i| value(&cpus[i]) != value(&cpus[0]))
            .collect();
        if let Some(&other) = others.first() {
            let what = format!(
                "{register} is {:#x} on CPU 0 and {:#x} on CPU {other}",
                value(&cpus[0]),
                value(&cpus[other])
            );
            found.plain(what, others, None, Vec::new());
        }
    }
}

fn stray_stage2(audit: &Audit, found: &mut Findings) {
    for stage2 in audit.stage2.iter().filter(|s| s.id.is_none()) {
        found.plain(
            format!("VTTBR_EL2 is {:#x}: no known domain's", stage2.vttbr),
            stage2.cpus.clone(),
            None,
            Vec::new(),
        );
    }
}

fn malformed(audit: &Audit, found: &mut Findings) {
    for root in &audit.roots {
        for m in &root.walk.malformed {
            let walk = stage1::trace(&audit.dump, &root.regime, m.address.0);
            found.plain(
                format!("EL2 entry {} at level {}: {}", m.descriptor, m.level, m.why),
                root.cpus.clone(),
                Some(m.address),
                walk,
            );
        }
    }
    for stage2 in &audit.stage2 {
        for m in &stage2.walk.malformed {
            let what = format!(
                "{} entry {} at level {}: {}",
                name(stage2),
                m.descriptor,
                m.level,
                m.why
            );
            found.plain(what, stage2.cpus.clone(), Some(m.address), Vec::new());
        }
    }
}
