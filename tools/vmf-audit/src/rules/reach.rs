//! What more than one rule asks: which leaves map which frames, of either stage.

use crate::audit::{Audit, Root, Stage2, name};
use crate::dump::FRAME_SIZE;
use crate::frames::{Frames, Run};
use crate::judge::Findings;
use crate::summary::Reach;
use crate::{stage1, stage2};

/// Every leaf of every root that maps frames which satisfy `wanted`.
pub(super) fn each_mapped(
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

pub(super) fn permissions(root: &Root, leaf: &stage1::Leaf) -> &'static str {
    match (leaf.writable, root.regime.executes(leaf)) {
        (false, false) => "readable",
        (true, false) => "writable",
        (false, true) => "executable",
        (true, true) => "writable and executable",
    }
}

pub(super) fn each_in_stage2(
    audit: &Audit,
    stage2: &Stage2,
    wanted: impl Fn(&Frames, usize) -> bool,
    what: &str,
    found: &mut Findings,
) {
    each_leaf_in_stage2(audit, stage2, |_| true, wanted, what, found);
}

/// The same for some of its leaves.
pub(super) fn each_leaf_in_stage2(
    audit: &Audit,
    stage2: &Stage2,
    these: impl Fn(&stage2::Leaf) -> bool,
    wanted: impl Fn(&Frames, usize) -> bool,
    what: &str,
    found: &mut Findings,
) {
    let Some(regime) = audit.stage2_regime else {
        return;
    };
    for leaf in stage2.walk.leaves.iter().filter(|leaf| these(leaf)) {
        for run in audit
            .frames
            .runs(&audit.dump, leaf.pa, leaf.size(), &wanted)
        {
            let ipa = leaf.ipa + run.mfn * FRAME_SIZE - leaf.pa;
            let what = format!("{} ({}) reaches {what}", name(stage2), leaf.kind());
            let walk = || stage2::trace(&audit.dump, &regime, stage2.vttbr, ipa);
            found.frames(audit, ipa, &run, &stage2.cpus, what, walk);
        }
    }
}

/// What the CPUs with an MMU reach: one without reaches everything, and is U3's.
pub(super) fn translated_reach(audit: &Audit) -> Reach {
    Reach::of(audit, audit.roots.iter().filter(|r| r.regime.mmu))
}
