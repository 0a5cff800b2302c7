//! What a protected domain shares on purpose: as claimed, as its stage 2 has it, as Xen takes it to be. L18, and what
//! L12 compares with.

use crate::audit::{Audit, Stage2};
use crate::frames::Owner;
use crate::fused::Extent;
use crate::judge::Findings;

/// A domain's leaves as extents.
pub(super) fn of_leaves(stage2: &Stage2) -> impl Iterator<Item = Extent> + '_ {
    stage2.walk.leaves.iter().map(|leaf| Extent {
        gfn: leaf.ipa >> 12,
        mfn: leaf.pa >> 12,
        pages: leaf.size() >> 12,
        kind: leaf.type_number(),
    })
}

/// Extents merged where one goes on; their order stays as it is.
pub(super) fn merged(all: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for next in all {
        match extents.last_mut() {
            Some(last)
                if last.kind == next.kind
                    && last.gfn.checked_add(last.pages) == Some(next.gfn)
                    && last.mfn.checked_add(last.pages) == Some(next.mfn) =>
            {
                last.pages = last.pages.saturating_add(next.pages);
            }
            _ => extents.push(next),
        }
    }
    extents
}

/// Where a domain's own tables map the frames that it is claimed to share.
pub(super) fn extents(audit: &Audit, stage2: &Stage2) -> Vec<Extent> {
    let shared = |owner| matches!(owner, Owner::Shared(id) if Some(id) == stage2.id);
    merged(of_leaves(stage2).flat_map(|leaf| {
        let pa = leaf.mfn << 12;
        let runs = audit
            .frames
            .runs(&audit.dump, pa, leaf.pages << 12, |f, i| shared(f.owner(i)));
        runs.into_iter().map(move |run| Extent {
            gfn: leaf.gfn + run.mfn - leaf.mfn,
            mfn: run.mfn,
            pages: run.count,
            ..leaf
        })
    }))
}

/// Nothing else slipped in, and nothing is missing.
pub(super) fn same_as_claimed(audit: &Audit, found: &mut Findings) {
    for domain in audit.found.iter().flat_map(|f| &f.domains) {
        let stage2 = audit.stage2.iter().find(|s| s.id == Some(domain.id));
        let Some(stage2) = stage2.filter(|s| s.protected) else {
            continue;
        };
        let of_xen = match &domain.shares {
            // A Xen without a list shares nothing.
            None => Vec::new(),
            Some(Ok(list)) => {
                let mut list = list.clone();
                list.sort_by_key(|e| e.gfn);
                merged(list)
            }
            Some(Err(why)) => {
                let id = domain.id;
                found.doubt(format!("what Xen takes d{id} to share is not known: {why}"));
                continue;
            }
        };
        let claimed = extents(audit, stage2);
        if of_xen != claimed {
            let words = |list: &[Extent]| match list {
                [] => "nothing".to_owned(),
                list => list
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
            };
            let what = format!(
                "Xen takes d{} to share {}, claimed is {}",
                domain.id,
                words(&of_xen),
                words(&claimed)
            );
            found.plain(what, Vec::new(), None, Vec::new());
        }
    }
}
