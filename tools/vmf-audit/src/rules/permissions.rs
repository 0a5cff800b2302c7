//! Who may write what can be executed or must not change: L2, L3, L8, L10.

use super::reach::{each_mapped, translated_reach};
use crate::audit::Audit;
use crate::dump::FRAME_SIZE;
use crate::frames::Owner;
use crate::judge::Findings;

pub(super) fn writable_and_executable(audit: &Audit, found: &mut Findings) {
    for root in &audit.roots {
        for leaf in root
            .walk
            .leaves
            .iter()
            .filter(|l| l.writable && root.regime.executes(l))
        {
            let what = "it is writable and executable, and WXN is off";
            found.leaf(audit, root, leaf, what.into());
        }
    }
}

pub(super) fn executable_with_writable_alias(audit: &Audit, found: &mut Findings) {
    let reach = translated_reach(audit);
    for root in &audit.roots {
        for leaf in root.walk.leaves.iter().filter(|l| root.regime.executes(l)) {
            let inside: usize = audit
                .dump
                .ram_within(leaf.pa, leaf.size())
                .map(|(_, _, count)| count)
                .sum();
            if (inside as u64) * FRAME_SIZE != leaf.size() {
                let what = "it can be executed from, but is not all in the dump";
                found.leaf(audit, root, leaf, what.into());
            }
            // The guest writes it, whatever EL2's mappings allow.
            for run in audit
                .frames
                .runs(&audit.dump, leaf.pa, leaf.size(), |f, i| {
                    matches!(f.owner(i), Owner::Shared(_))
                })
            {
                let what = "memory that a domain shares can be executed from";
                found.el2(audit, root, leaf, &run, what.into());
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

pub(super) fn read_only_with_writable_alias(audit: &Audit, found: &mut Findings) {
    let Some(sections) = audit.found.as_ref().map(|f| &f.sections) else {
        return;
    };
    let Some((first, last)) = sections.first().zip(sections.last()) else {
        found.doubt("xen-syms has no sections: where the image is mapped is not known");
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

/// Pages that the fuse declares to be read-only from then on: in no alias writable.
pub(super) fn frozen_with_writable_alias(audit: &Audit, found: &mut Findings) {
    let Some(of_xen) = &audit.found else { return };
    let Some(fused) = &of_xen.fused else {
        found.doubt("this Xen has no page that is read-only from a fuse on (symbol vmf_frozen)");
        return;
    };
    let mut frozen = vec![false; audit.dump.frames()];
    for page in &fused.pages {
        let start = page.pa & !(FRAME_SIZE - 1);
        let len = page.pa - start + page.region.size;
        let mut inside = 0;
        for (_, index, count) in audit.dump.ram_within(start, len) {
            frozen[index..index + count].fill(true);
            inside += count as u64;
        }
        if inside != len.div_ceil(FRAME_SIZE) {
            found.doubt(format!("{} is not in the dump", page.region.name));
        }
    }
    each_mapped(
        audit,
        |_, i| frozen[i],
        |root, leaf, run| {
            if leaf.writable {
                let what = "a page that is read-only from the fuse on is writable here".into();
                found.el2(audit, root, leaf, run, what);
            }
        },
    );
}
