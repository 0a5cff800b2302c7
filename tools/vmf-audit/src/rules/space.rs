//! What the lock leaves of the address space: L13 to L16.

use super::reach::each_mapped;
use crate::audit::Audit;
use crate::descriptor;
use crate::frames::{Frames, Owner};
use crate::fused::WINDOWS_VA;
use crate::judge::Findings;
use crate::space::{FIXMAP, IDENTITY, VMAP};
use crate::stage1::{self, Leaf};

pub(super) fn identity_map(audit: &Audit, found: &mut Findings) {
    for root in &audit.roots {
        for leaf in &root.walk.leaves {
            let what = if leaf.va == leaf.pa {
                "an address is mapped to itself"
            } else if IDENTITY.contains(&leaf.va) {
                "something is mapped where Xen has its identity map at boot"
            } else {
                continue;
            };
            found.leaf(audit, root, leaf, what.into());
        }
    }
}

/// Windows map nothing, the fixmap no memory. Tables that the walk does not come by are unreachable.
pub(super) fn windows_and_fixmap(audit: &Audit, found: &mut Findings) {
    for root in &audit.roots {
        for leaf in root
            .walk
            .leaves
            .iter()
            .filter(|l| WINDOWS_VA.contains(&l.va))
        {
            found.leaf(audit, root, leaf, "a window maps something".into());
        }
    }
    each_mapped(
        audit,
        |_, _| true,
        |root, leaf, run| {
            if FIXMAP.contains(&leaf.va) {
                found.el2(audit, root, leaf, run, "the fixmap maps memory".into());
            }
        },
    );
    match audit
        .found
        .as_ref()
        .and_then(|f| f.fused.as_ref())
        .map(|f| &f.windows)
    {
        // Stock Xen for arm64 has no windows.
        None => {}
        Some(Err(why)) => found.doubt(format!("the windows' tables are not known: {why}")),
        Some(Ok(tables)) => {
            for root in &audit.roots {
                for &mfn in tables
                    .iter()
                    .filter(|mfn| root.walk.tables.contains_key(mfn))
                {
                    let table = audit.dump.bytes_at(mfn * 4096, 4096).unwrap_or_default();
                    let used = table
                        .as_chunks()
                        .0
                        .iter()
                        .filter(|w| u64::from_le_bytes(**w) & 1 != 0);
                    let used = used.count();
                    if used != 0 {
                        let what = format!(
                            "the window table in frame {mfn:#x} is reachable and has {used} valid entries"
                        );
                        found.plain(what, root.cpus.clone(), None, Vec::new());
                    }
                }
            }
        }
    }
}

/// What is wrong with a leaf's attributes by themselves.
fn odd(mair: u64, leaf: &Leaf) -> Option<&'static str> {
    let kind = stage1::memory_type(mair, leaf);
    if !descriptor::accessed(leaf.descriptor) {
        Some("it has no access flag")
    } else if descriptor::dirty_modifier(leaf.descriptor) {
        Some("it has the dirty-bit modifier")
    } else if kind == stage1::OTHER_MEMORY {
        Some("MAIR_EL2 has no memory type that Xen uses for it")
    } else if kind.starts_with("Normal write") && leaf.shareability() != 3 {
        Some("it is cacheable, but not inner shareable")
    } else if leaf.shareability() == 1 {
        Some("its shareability is reserved")
    } else {
        None
    }
}

pub(super) fn attributes(audit: &Audit, found: &mut Findings) {
    let mut types: Vec<Option<&'static str>> = vec![None; audit.dump.frames()];
    for root in &audit.roots {
        let Some(cpu) = root.cpus.first() else {
            continue;
        };
        let mair = audit.registers.cpus[*cpu].mair.0;
        for leaf in &root.walk.leaves {
            let kind = stage1::memory_type(mair, leaf);
            let mut what = odd(mair, leaf).map(str::to_owned);
            for (_, index, count) in audit.dump.ram_within(leaf.pa, leaf.size()) {
                if kind.starts_with("Device") {
                    what.get_or_insert_with(|| "it maps memory as a device".into());
                }
                for seen in &mut types[index..index + count] {
                    let first = *seen.get_or_insert(kind);
                    if first != kind {
                        what.get_or_insert_with(|| {
                            format!("it maps memory as {kind}, and another as {first}")
                        });
                    }
                }
            }
            if let Some(what) = what {
                let what = format!(
                    "entry {:#x} at level {}: {what}",
                    leaf.descriptor, leaf.level
                );
                found.leaf(audit, root, leaf, what);
            }
        }
    }
}

/// Forbidden is the default. Tables and protected frames are L1's and U1's.
pub(super) fn retained(audit: &Audit, found: &mut Findings) {
    let Some(of_xen) = &audit.found else { return };
    if of_xen.noted.is_empty() {
        found.doubt("the frame table could not be read: who owns what is not known");
    }
    let outside = |id: u16| {
        let mut domains = audit.registers.domains.iter();
        domains.any(|d| d.id == id && !d.protected)
    };
    let forbidden = |f: &Frames, i: usize| {
        let retained = match f.owner(i) {
            Owner::Image(_) | Owner::SeenBy(_) | Owner::FrameTable | Owner::Xenheap => true,
            // Of a protected domain only what it shares.
            Owner::Guest(_) | Owner::Shared(_) => true,
            // A domain that is not protected.
            Owner::Beyond(_) => true,
            owner => owner.is_table(),
        };
        !retained && f.protected(i).is_none()
    };
    each_mapped(audit, forbidden, |root, leaf, run| {
        let xens_or_given_up = match run.owner {
            Owner::InUse => true,
            Owner::Owned(id) => outside(id),
            _ => false,
        };
        if !(xens_or_given_up && VMAP.contains(&leaf.va)) {
            found.el2(
                audit,
                root,
                leaf,
                run,
                "memory is mapped that the lock does not retain".into(),
            );
        }
    });
}
