//! Counts what EL2 and the domains reach, without judging.

use crate::audit::{Audit, Root, Stage2, ram_frames};
use crate::frames::Owner;
use crate::hex::Hex;
use crate::report::{DomainSummary, Leaves, RootSummary, Summary};

/// What EL2 can do with each frame of RAM, by index; over one root or several.
#[derive(Clone)]
pub struct Reach {
    /// Mapped at all.
    pub mapped: Vec<bool>,
    /// Through a mapping that can be written to.
    pub writable: Vec<bool>,
    /// Through a mapping that can be executed from.
    pub executable: Vec<bool>,
}

impl Reach {
    /// What the CPUs of these roots can do together.
    pub fn of<'a>(audit: &Audit, roots: impl IntoIterator<Item = &'a Root>) -> Reach {
        let none = vec![false; audit.dump.frames()];
        let mut reach = Reach {
            mapped: none.clone(),
            writable: none.clone(),
            executable: none,
        };
        for root in roots {
            if !root.regime.mmu {
                let all = vec![true; audit.dump.frames()];
                return Reach {
                    mapped: all.clone(),
                    writable: all.clone(),
                    executable: all,
                };
            }
            for leaf in &root.walk.leaves {
                let executes = root.regime.executes(leaf);
                for (_, index, count) in audit.dump.ram_within(leaf.pa, leaf.size()) {
                    reach.mapped[index..index + count].fill(true);
                    if leaf.writable {
                        reach.writable[index..index + count].fill(true);
                    }
                    if executes {
                        reach.executable[index..index + count].fill(true);
                    }
                }
            }
        }
        reach
    }
}

impl Audit {
    /// The counts.
    pub fn summary(&self) -> Summary {
        let reach = Reach::of(self, &self.roots);
        let roots: Vec<_> = self.roots.iter().map(|r| self.root_summary(r)).collect();
        let mut leaves = Leaves::default();
        self.roots
            .iter()
            .flat_map(|r| &r.walk.leaves)
            .for_each(|l| leaves.add(l.level));
        Summary {
            cpus: self.registers.cpus.len(),
            ram_frames: self.dump.frames(),
            ram_frames_mapped: self.frames.count(|_, i| reach.mapped[i]),
            protected_frames: self.frames.count(|f, i| f.protected(i).is_some()),
            protected_frames_mapped: self
                .frames
                .count(|f, i| f.protected(i).is_some() && reach.mapped[i]),
            table_frames: self.frames.count(|f, i| f.owner(i).is_table()),
            table_frames_mapped: self
                .frames
                .count(|f, i| f.owner(i).is_table() && reach.mapped[i]),
            executable_frames_writable: self
                .frames
                .count(|_, i| reach.executable[i] && reach.writable[i]),
            leaves,
            wx_leaves: roots.iter().map(|r| r.wx_leaves).sum(),
            wx_leaves_effective: roots.iter().map(|r| r.wx_leaves_effective).sum(),
            excluded_frames: self.excluded.len(),
            shared_frames: self
                .frames
                .count(|f, i| matches!(f.owner(i), Owner::Shared(_))),
            shared_frames_mapped: self
                .frames
                .count(|f, i| matches!(f.owner(i), Owner::Shared(_)) && reach.mapped[i]),
            roots,
            domains: self.stage2.iter().map(|s| self.domain_summary(s)).collect(),
        }
    }

    fn root_summary(&self, root: &Root) -> RootSummary {
        let reach = Reach::of(self, [root]);
        let mut leaves = Leaves::default();
        root.walk.leaves.iter().for_each(|l| leaves.add(l.level));
        let wx = |l: &&crate::stage1::Leaf| l.writable && l.executable;
        RootSummary {
            root: root.regime.mmu.then_some(Hex(root.regime.root)),
            cpus: root.cpus.clone(),
            wxn: root.regime.wxn,
            leaves,
            ram_frames_mapped: self.frames.count(|_, i| reach.mapped[i]),
            wx_leaves: root.walk.leaves.iter().filter(wx).count(),
            wx_leaves_effective: root
                .walk
                .leaves
                .iter()
                .filter(wx)
                .filter(|l| root.regime.executes(l))
                .count(),
            executable_leaves: root
                .walk
                .leaves
                .iter()
                .filter(|l| root.regime.executes(l))
                .count(),
            tables: root.walk.tables.len(),
            protected_frames_mapped: self
                .frames
                .count(|f, i| f.protected(i).is_some() && reach.mapped[i]),
            table_frames_mapped: self
                .frames
                .count(|f, i| f.owner(i).is_table() && reach.mapped[i]),
        }
    }

    fn domain_summary(&self, stage2: &Stage2) -> DomainSummary {
        let mut leaves = Leaves::default();
        stage2.walk.leaves.iter().for_each(|l| leaves.add(l.level));
        DomainSummary {
            id: stage2.id,
            vttbr: Hex(stage2.vttbr),
            protected: stage2.protected,
            leaves,
            ram_frames: stage2
                .walk
                .leaves
                .iter()
                .map(|l| ram_frames(&self.dump, l.pa, l.level))
                .sum(),
            tables: stage2.walk.tables.len(),
            shared_frames: self
                .frames
                .count(|f, i| matches!(f.owner(i), Owner::Shared(id) if Some(id) == stage2.id)),
            pending_entries: stage2.walk.pending,
        }
    }
}
