//! What the fuse notes, against what the tables are: L11, L12.

use super::shared::{self, merged, of_leaves};
use crate::audit::Audit;
use crate::dump::FRAME_SIZE;
use crate::fused::{Extent, Fused, NO_VTTBR};
use crate::judge::Findings;
use crate::xen::Domain;

/// HCR_EL2: VM, PTW, DC, TGE, E2H.
const HCR_MASK: u64 = 1 | 1 << 2 | 1 << 12 | 1 << 27 | 1 << 34;
/// VM and PTW.
const HCR_VALUE: u64 = 1 | 1 << 2;

fn fused<'a>(audit: &'a Audit, found: &mut Findings) -> Option<(&'a Fused, &'a [Domain])> {
    let of_xen = audit.found.as_ref()?;
    let Some(fused) = &of_xen.fused else {
        found.doubt("this Xen has no fuse (symbol vmf_frozen)");
        return None;
    };
    Some((fused, &of_xen.domains))
}

/// The frozen page: what each switch between vCPUs loads.
pub(super) fn frozen_page(audit: &Audit, found: &mut Findings) {
    let Some((fused, domains)) = fused(audit, found) else {
        return;
    };
    let mut wrong = |what: String| found.plain(what, Vec::new(), None, Vec::new());
    let frozen = &fused.frozen;
    if !frozen.locked {
        wrong("Xen itself does not take the machine to be locked".into());
        return;
    }
    if frozen.hcr_mask & HCR_MASK != HCR_MASK || frozen.hcr_value & HCR_MASK != HCR_VALUE {
        wrong(format!(
            "the frozen bits of HCR_EL2 are {:#x} in {:#x}, not {HCR_VALUE:#x} in {HCR_MASK:#x}",
            frozen.hcr_value, frozen.hcr_mask
        ));
    }
    for domain in domains {
        let vmid = (domain.vttbr >> 48) as usize;
        let kept = frozen.vttbr.get(vmid).copied().unwrap_or(0);
        if kept != domain.vttbr {
            let id = domain.id;
            wrong(format!(
                "the frozen VTTBR of d{id} is {kept:#x}, its tables make {:#x}",
                domain.vttbr
            ));
        }
    }
    // Nothing else may be let through than what a domain has, and the root that maps nothing.
    let of_xen = audit.found.as_ref();
    let empty = of_xen
        .and_then(|f| f.empty_root)
        .map(|mfn| mfn * FRAME_SIZE);
    for (vmid, &vttbr) in frozen.vttbr.iter().enumerate() {
        let nothing = match vmid {
            // A zero would let a zero through.
            0 => vttbr == NO_VTTBR || Some(vttbr) == empty,
            _ => vttbr == 0,
        };
        if !nothing && (vmid == 0 || vttbr >> 48 != vmid as u64) {
            wrong(format!("the frozen VTTBR of VMID {vmid} is {vttbr:#x}"));
        }
    }
    for &(name, vttbr) in frozen.further.iter().filter(|(_, v)| *v != 0) {
        if !frozen.vttbr.contains(&vttbr) && Some(vttbr) != empty {
            wrong(format!(
                "the frozen page allows VTTBR {vttbr:#x} ({name}), which is no domain's"
            ));
        }
    }
    // A protected domain is one for Xen as well.
    for domain in domains {
        let claimed = audit.registers.domains.iter().find(|d| d.id == domain.id);
        if let (Some(note), Some(claimed)) = (domain.note, claimed)
            && note.protected != claimed.protected
        {
            let is = |protected| {
                if protected {
                    "protected"
                } else {
                    "not protected"
                }
            };
            wrong(format!(
                "d{} is {} for Xen, and claimed to be {}",
                domain.id,
                is(note.protected),
                is(claimed.protected)
            ));
        }
    }
}

/// The snapshot: what Xen answers from instead of the tables.
pub(super) fn snapshot(audit: &Audit, found: &mut Findings) {
    let Some((fused, domains)) = fused(audit, found) else {
        return;
    };
    let snapshot = match &fused.snapshot {
        Ok(snapshot) => snapshot,
        Err(why) => {
            found.doubt(format!("the snapshot cannot be read: {why}"));
            return;
        }
    };
    for domain in domains {
        let Some(note) = domain.note else {
            found.doubt(format!("the snapshot of d{} is not known", domain.id));
            continue;
        };
        let Some(stage2) = audit.stage2.iter().find(|s| s.id == Some(domain.id)) else {
            continue; // in the dump and not claimed: said elsewhere
        };
        let range = usize::try_from(note.first)
            .ok()
            .zip(usize::try_from(note.len).ok());
        let part = range.and_then(|(first, len)| snapshot.get(first..first.checked_add(len)?));
        let Some(part) = part else {
            let what = format!(
                "the snapshot of d{} is to be {} extents from {}, of {}",
                domain.id,
                note.len,
                note.first,
                snapshot.len()
            );
            found.plain(what, Vec::new(), None, Vec::new());
            continue;
        };
        let real = if note.protected {
            shared::extents(audit, stage2)
        } else {
            merged(of_leaves(stage2))
        };
        if let Some(what) = difference(part, &real) {
            let what = format!("d{}: {what}", domain.id);
            found.plain(what, Vec::new(), None, Vec::new());
        }
    }
}

fn difference(part: &[Extent], real: &[Extent]) -> Option<String> {
    let words = |e: Option<&Extent>| e.map_or("nothing".to_owned(), ToString::to_string);
    let at = (0..part.len().max(real.len())).find(|&i| part.get(i) != real.get(i))?;
    Some(format!(
        "extent {at} of the snapshot is {}, stage 2 has {}",
        words(part.get(at)),
        words(real.get(at))
    ))
}
