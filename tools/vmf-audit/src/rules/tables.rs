//! Protected frames and tables, in EL2 and in any stage 2: U1, U2, L1, L4, L7, L17.

use super::reach::{each_in_stage2, each_leaf_in_stage2, each_mapped, permissions};
use crate::audit::{Audit, name};
use crate::frames::{Frames, Owner};
use crate::judge::Findings;
use crate::{stage1, stage2};

pub(super) fn protected_mapped(audit: &Audit, found: &mut Findings) {
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

pub(super) fn protected_in_other_stage2(audit: &Audit, found: &mut Findings) {
    for stage2 in &audit.stage2 {
        let of_claim = |index: usize| {
            let domains = &audit.registers.common[index].domains;
            stage2.id.is_some_and(|id| domains.contains(&id))
        };
        let others = |f: &Frames, i: usize| {
            f.common(i).is_none() && f.protected(i).is_some_and(|p| Some(p) != stage2.id)
        };
        let outside = |f: &Frames, i: usize| f.common(i).is_some_and(|index| !of_claim(index));
        each_in_stage2(audit, stage2, others, "protected memory", found);
        each_in_stage2(audit, stage2, outside, "what others have in common", found);
    }
}

pub(super) fn table_mapped(audit: &Audit, found: &mut Findings) {
    if let Some(Err(why)) = audit
        .found
        .iter()
        .flat_map(|f| &f.fused)
        .map(|f| &f.windows)
        .next()
    {
        found.doubt(format!("the windows' tables are not known: {why}"));
    }
    each_mapped(
        audit,
        |f, i| f.owner(i).is_table(),
        |root, leaf, run| {
            let what = format!("a translation table is {}", permissions(root, leaf));
            found.el2(audit, root, leaf, run, what);
        },
    );
}

/// Xen's private memory. A page of Xen's own may be seen by the domain that Xen names it for, and as a foreign page
/// (`XENMEM_acquire_resource`) by another, if neither is protected: it is between the two and Xen, as without the fuse.
pub(super) fn private_in_stage2(audit: &Audit, found: &mut Findings) {
    if audit.found.as_ref().is_some_and(|f| f.xenheap.is_none()) {
        found.doubt(
            "this Xen has no xenheap of its own: which of its memory is private is not known",
        );
    }
    for stage2 in &audit.stage2 {
        let own =
            |f: &Frames, i: usize| matches!(f.owner(i), Owner::SeenBy(id) if Some(id) == stage2.id);
        let table = |f: &Frames, i: usize| f.owner(i).is_table();
        let image = |f: &Frames, i: usize| f.image(i) && !table(f, i);
        let lent = |f: &Frames, i: usize| {
            let protected = |id| audit.stage2.iter().any(|s| s.id == Some(id) && s.protected);
            matches!(f.owner(i), Owner::SeenBy(id) if !stage2.protected && !protected(id))
        };
        let private =
            |f: &Frames, i: usize| f.private(i) && !f.image(i) && !table(f, i) && !own(f, i);
        let neither = |f: &Frames, i: usize| private(f, i) && !lent(f, i);
        let foreign = |leaf: &stage2::Leaf| leaf.is_foreign();
        let others = |leaf: &stage2::Leaf| !leaf.is_foreign();
        each_in_stage2(audit, stage2, table, "a translation table", found);
        each_in_stage2(audit, stage2, image, "Xen's image", found);
        let what = "Xen's private memory";
        each_leaf_in_stage2(audit, stage2, others, private, what, found);
        each_leaf_in_stage2(audit, stage2, foreign, neither, what, found);
    }
}

/// What is Xen's own or shared with it, Xen may write, whether or not it is mapped at this moment.
pub(super) fn executable_for_guest(audit: &Audit, found: &mut Findings) {
    for stage2 in audit.stage2.iter().filter(|s| s.protected) {
        let private = |f: &Frames, i: usize| f.private(i);
        let shared = |f: &Frames, i: usize| {
            matches!(f.owner(i), Owner::Shared(_))
                || f.common(i).is_some() && f.protected(i).is_none()
        };
        let executable = |leaf: &stage2::Leaf| leaf.executable();
        let what = "memory of Xen's, executable";
        each_leaf_in_stage2(audit, stage2, executable, private, what, found);
        let what = "memory that is shared on purpose, executable";
        each_leaf_in_stage2(audit, stage2, executable, shared, what, found);
    }
}

pub(super) fn malformed(audit: &Audit, found: &mut Findings) {
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
