//! Whose every frame is, and which are protected: what the walks reached and what Xen's data says, put together.

use crate::audit::{Audit, Stage2};
use crate::dump::FRAME_SIZE;
use crate::frames::Owner;
use crate::frametable;
use crate::hex::Hex;
use crate::registers::GuestRange;
use crate::report::Excluded;

impl Audit {
    pub(crate) fn claim_frames(&mut self) {
        let (dump, frames) = (&self.dump, &mut self.frames);
        for root in &self.roots {
            for (&mfn, &level) in &root.walk.tables {
                frames.claim(dump, mfn * FRAME_SIZE, FRAME_SIZE, Owner::El2Table(level));
            }
            let table =
                frametable::FRAMETABLE_VA..frametable::FRAMETABLE_VA + frametable::FRAMETABLE_SIZE;
            for leaf in root.walk.leaves.iter().filter(|l| table.contains(&l.va)) {
                frames.claim(dump, leaf.pa, leaf.size(), Owner::FrameTable);
            }
        }
        for stage2 in &self.stage2 {
            let owner = stage2.id.map_or(Owner::StrayTable, Owner::Stage2Table);
            for &mfn in stage2.walk.tables.keys() {
                frames.claim(dump, mfn * FRAME_SIZE, FRAME_SIZE, owner);
            }
            for leaf in &stage2.walk.leaves {
                frames.claim(
                    dump,
                    leaf.pa,
                    leaf.size(),
                    stage2.id.map_or(Owner::Unknown, Owner::Guest),
                );
            }
        }
        for (id, walk) in &self.beyond {
            for leaf in &walk.leaves {
                frames.claim(dump, leaf.pa, leaf.size(), Owner::Beyond(*id));
            }
        }
        let Some(found) = &self.found else { return };
        let mut claim =
            |mfn: u64, owner| frames.claim(dump, mfn.saturating_mul(FRAME_SIZE), FRAME_SIZE, owner);
        for domain in &found.domains {
            domain
                .tables
                .iter()
                .for_each(|&mfn| claim(mfn, Owner::Stage2Table(domain.id)));
            domain
                .pool
                .iter()
                .for_each(|&mfn| claim(mfn, Owner::TablePool(domain.id)));
            domain
                .own_pages
                .iter()
                .for_each(|p| claim(p.mfn, Owner::SeenBy(domain.id)));
        }
        let windows = found.fused.iter().filter_map(|f| f.windows.as_ref().ok());
        windows
            .flatten()
            .for_each(|&mfn| claim(mfn, Owner::WindowTable));
        // As many tables as any root (`p2m_allocate_root`, xen/arch/arm/mmu/p2m.c).
        let roots = self.stage2_regime.map_or(1, |r| r.roots as u64);
        let empty = found.empty_root.iter();
        empty
            .flat_map(|&mfn| mfn..mfn.saturating_add(roots))
            .for_each(|mfn| claim(mfn, Owner::EmptyRoot));
        for (i, table) in found.tables.iter().enumerate() {
            if !found
                .init
                .is_some_and(|(from, to)| (from..to).contains(&table.region.va))
            {
                frames.claim(
                    dump,
                    table.pa,
                    table.region.size,
                    Owner::ImageTable(i as u16),
                );
            }
        }
        for (i, section) in found.sections.iter().enumerate() {
            let init = found
                .init
                .is_some_and(|(from, to)| (from..to).contains(&section.region.va));
            let owner = if init {
                Owner::Init
            } else {
                Owner::Image(i as u16)
            };
            let start = section.pa & !(FRAME_SIZE - 1);
            frames.claim(dump, start, section.pa - start + section.region.size, owner);
        }
        if let Some((start, end)) = found.xenheap {
            frames.claim(
                dump,
                start * FRAME_SIZE,
                (end - start) * FRAME_SIZE,
                Owner::Xenheap,
            );
        }
        frames.note(&found.noted);
    }

    pub(crate) fn protect_frames(&mut self) {
        // What it has of others, by a grant for example, stays theirs if they are protected as well.
        for stage2 in self.stage2.iter().filter(|s| s.protected) {
            let Some(id) = stage2.id else { continue };
            for leaf in stage2.walk.leaves.iter().filter(|l| !l.is_ram()) {
                self.frames.protect(&self.dump, leaf.pa, leaf.size(), id);
            }
        }
        for stage2 in self.stage2.iter().filter(|s| s.protected) {
            let Some(id) = stage2.id else { continue };
            for leaf in stage2.walk.leaves.iter().filter(|l| l.is_ram()) {
                self.frames.protect(&self.dump, leaf.pa, leaf.size(), id);
            }
            // What it owns and its guest does not reach (given up, not yet freed) is its memory as well.
            let xenheap = self.found.as_ref().and_then(|f| f.xenheap);
            for (start, len) in self.dump.banks() {
                let all = self.frames.runs(&self.dump, start, len, |f, i| {
                    f.owner(i) == Owner::Owned(id)
                });
                for run in all {
                    let own = xenheap.is_some_and(|(from, to)| (from..to).contains(&run.mfn));
                    if !own {
                        let (pa, len) = (run.mfn * FRAME_SIZE, run.count * FRAME_SIZE);
                        self.frames.protect(&self.dump, pa, len, id);
                    }
                }
            }
            let frames = self.frames.count(|f, i| f.protected(i) == Some(id));
            if frames == 0 {
                self.unestablished.push(format!(
                    "domain {id} is claimed to be protected, but its stage 2 reaches no memory"
                ));
            }
        }
        self.take_common();
        self.take_out_shared();
        let Some(found) = &self.found else { return };
        for domain in &found.domains {
            for page in &domain.own_pages {
                let inside = found
                    .xenheap
                    .is_none_or(|(start, end)| (start..end).contains(&page.mfn));
                if inside && self.frames.release(&self.dump, page.mfn, domain.id) {
                    self.excluded.push(Excluded {
                        domain: domain.id,
                        mfn: Hex(page.mfn),
                        gfn: None,
                        why: page.what,
                    });
                }
            }
        }
    }

    /// Pages that protected domains are claimed to share.
    fn take_out_shared(&mut self) {
        for domain in self.registers.domains.iter().filter(|d| d.protected) {
            let id = domain.id;
            let Some(stage2) = self.stage2.iter().find(|s| s.id == Some(id)) else {
                continue;
            };
            let mut wanted: Vec<(Option<Hex>, Hex)> = Vec::new();
            for &range in &domain.shared {
                match frames_behind(stage2, range) {
                    Ok(found) => wanted.extend(found.into_iter().map(|(gfn, mfn)| (Some(gfn), mfn))),
                    Err(gfn) => self.unestablished.push(format!(
                        "guest frame {gfn} is said to be shared by domain {id}, but its stage 2 has no RAM of the \
                         domain there"
                    )),
                }
            }
            wanted.extend(domain.shared_pages.iter().map(|&mfn| (None, mfn)));
            for (gfn, mfn) in wanted {
                if self.frames.share(&self.dump, mfn.0, id) {
                    self.excluded.push(Excluded {
                        domain: id,
                        mfn,
                        gfn,
                        why: "shared on purpose",
                    });
                    continue;
                }
                let is = match self.dump.frame_index(mfn.0).map(|i| self.frames.owner(i)) {
                    Some(Owner::Guest(_)) => "Xen's or another's as well".to_owned(),
                    Some(Owner::Shared(owner)) if owner == id => continue, // claimed twice
                    Some(owner) => self.owner_name(owner),
                    None => "no memory".to_owned(),
                };
                self.unestablished.push(format!(
                    "frame {mfn} is said to be shared by domain {id}, but is not memory of its own in its stage 2: {is}"
                ));
            }
        }
    }
}

/// Guest and machine frames of a range, by the domain's own tables; or the first guest frame that is not RAM of it.
fn frames_behind(stage2: &Stage2, range: GuestRange) -> Result<Vec<(Hex, Hex)>, Hex> {
    let mut found = Vec::new();
    let mut next = range.gfn.0;
    let end = next.saturating_add(range.pages);
    let mut leaves: Vec<_> = stage2.walk.leaves.iter().filter(|l| l.is_ram()).collect();
    leaves.sort_by_key(|l| l.ipa);
    for leaf in leaves {
        let (first, pages) = (leaf.ipa / FRAME_SIZE, leaf.size() / FRAME_SIZE);
        while next < end && (first..first + pages).contains(&next) {
            found.push((Hex(next), Hex(leaf.pa / FRAME_SIZE + next - first)));
            next += 1;
        }
    }
    if next == end && range.pages != 0 {
        Ok(found)
    } else {
        Err(Hex(next))
    }
}
