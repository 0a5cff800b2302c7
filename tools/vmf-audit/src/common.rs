//! Memory that several domains have on purpose: is it what is claimed, and whose business is it?
//!
//! Where all of them are protected it is as protected as any of their memory. Where one is not, Xen reaches it through
//! that domain anyway; then it is only demanded that no other domain does, and that no protected one executes from it.

use crate::audit::{Audit, Stage2};
use crate::dump::FRAME_SIZE;
use crate::hex::Hex;
use crate::registers::Common;

impl Audit {
    /// Takes the claims, as far as they are true.
    pub(crate) fn take_common(&mut self) {
        for (index, claim) in (0..).zip(&self.registers.common) {
            if let Some(why) = doubt(claim, &self.stage2) {
                self.unestablished.push(format!(
                    "{} pages from frame {} are said to be common to domains {:?}, but {why}",
                    claim.pages, claim.mfn, claim.domains
                ));
                continue;
            }
            let is_protected = |id: &u16| {
                let mut domains = self.registers.domains.iter();
                domains.any(|d| d.id == *id && d.protected)
            };
            let open = !claim.domains.iter().all(is_protected);
            let (pa, len) = (claim.mfn.0 * FRAME_SIZE, claim.pages * FRAME_SIZE);
            self.frames.make_common(&self.dump, pa, len, index, open);
        }
    }
}

/// What is not true of a claim.
fn doubt(claim: &Common, stage2: &[Stage2]) -> Option<String> {
    let end = claim.mfn.0.checked_add(claim.pages);
    let Some(end) = end.filter(|end| claim.pages != 0 && *end < 1 << 40) else {
        return Some("these are no frames".to_owned());
    };
    if claim.domains.len() < 2 {
        return Some("that is no two domains".to_owned());
    }
    claim.domains.iter().find_map(|&id| {
        let Some(stage2) = stage2.iter().find(|s| s.id == Some(id)) else {
            return Some(format!("domain {id} has no stage 2"));
        };
        first_unseen(stage2, claim.mfn.0, end)
            .map(|mfn| format!("the stage 2 of domain {id} does not reach {}", Hex(mfn)))
    })
}

/// The first frame of `[start, end)` that no leaf maps.
fn first_unseen(stage2: &Stage2, start: u64, end: u64) -> Option<u64> {
    let mut leaves: Vec<(u64, u64)> = stage2
        .walk
        .leaves
        .iter()
        .map(|leaf| (leaf.pa / FRAME_SIZE, leaf.size() / FRAME_SIZE))
        .collect();
    leaves.sort_unstable();
    let mut next = start;
    for (first, pages) in leaves {
        if first > next {
            break;
        }
        next = next.max(first + pages);
    }
    (next < end).then_some(next)
}
