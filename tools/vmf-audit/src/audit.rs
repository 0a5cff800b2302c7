//! One machine at one moment, with everything walked: what [`crate::judge`] and [`crate::summary`] look at.

use crate::descriptor;
use crate::dump::{Dump, FRAME_SIZE};
use crate::error::{Error, Result};
use crate::frames::{Frames, Owner};
use crate::fused::NO_VTTBR;
use crate::registers::Registers;
use crate::report::Excluded;
use crate::symbols::Symbols;
use crate::{stage1, stage2, xen};
use std::path::Path;

/// A way in which one or more CPUs translate at EL2.
pub struct Root {
    /// How.
    pub regime: stage1::Regime,
    /// Which CPUs.
    pub cpus: Vec<usize>,
    /// All that they reach. Empty with the MMU off, when they reach everything.
    pub walk: stage1::Walk,
}

/// A stage 2.
pub struct Stage2 {
    /// Its domain; none if a CPU has it loaded but no domain is known to own it.
    pub id: Option<u16>,
    /// Root and VMID.
    pub vttbr: u64,
    /// Whether the domain is claimed to be protected.
    pub protected: bool,
    /// All that it reaches.
    pub walk: stage2::Walk,
    /// Whether no domain has it any more, but the frozen page still allows it: of a domain destroyed after the lock.
    pub former: bool,
    /// CPUs that have its root loaded.
    pub cpus: Vec<usize>,
}

/// A machine at one moment.
pub struct Audit {
    /// Its memory.
    pub dump: Dump,
    /// Its registers, and what is claimed.
    pub registers: Registers,
    /// Every way in which a CPU translates at EL2.
    pub roots: Vec<Root>,
    /// How stage 2 is shaped; none without any stage 2.
    pub stage2_regime: Option<stage2::Regime>,
    /// Every domain's stage 2, then stray ones.
    pub stage2: Vec<Stage2>,
    /// What domains that are not protected have at addresses that they cannot reach.
    pub beyond: Vec<(u16, stage2::Walk)>,
    /// What xen-syms helped to find.
    pub found: Option<xen::Found>,
    /// Whose every frame is.
    pub frames: Frames,
    /// Frames that are in a protected domain's stage 2 and yet not held to be protected.
    pub excluded: Vec<Excluded>,
    /// Facts that could not be established.
    pub unestablished: Vec<String>,
}

impl Audit {
    /// Reads the files and walks everything.
    pub fn open(dump: &Path, registers: &Path, xen_syms: Option<&Path>) -> Result<Audit> {
        Audit::with_syms(Dump::open(dump)?, Registers::open(registers)?, xen_syms)
    }

    /// Walks everything, and reads Xen's own data with xen-syms, where it is given.
    pub fn with_syms(dump: Dump, registers: Registers, xen_syms: Option<&Path>) -> Result<Audit> {
        let found = match xen_syms {
            Some(path) => Some(xen::find(
                &dump,
                &registers,
                &Symbols::open(path, xen::MEMBERS)?,
            )?),
            None => None,
        };
        Audit::new(dump, registers, found)
    }

    /// Walks everything. Without `found`, pages of Xen's own, pooled and static tables and the image are not known.
    pub fn new(dump: Dump, registers: Registers, found: Option<xen::Found>) -> Result<Audit> {
        registers.check()?;
        let mut audit = Audit {
            frames: Frames::new(&dump),
            roots: roots(&dump, &registers)?,
            stage2_regime: stage2_regime(&registers)?,
            stage2: Vec::new(),
            beyond: Vec::new(),
            excluded: Vec::new(),
            unestablished: Vec::new(),
            dump,
            registers,
            found,
        };
        audit.walk_stage2()?;
        audit.compare_claims();
        audit.claim_frames();
        audit.protect_frames();
        Ok(audit)
    }

    /// A frame's owner in words, with the names that xen-syms gives.
    pub fn owner_name(&self, owner: Owner) -> String {
        let place =
            |list: &[xen::Placed], i: u16| list.get(usize::from(i)).map(|p| p.region.name.clone());
        let name = self.found.as_ref().and_then(|found| match owner {
            Owner::ImageTable(i) => place(&found.tables, i),
            Owner::Image(i) => place(&found.sections, i),
            _ => None,
        });
        match name {
            Some(name) => format!("{owner} {name}"),
            None => owner.to_string(),
        }
    }

    fn walk_stage2(&mut self) -> Result<()> {
        let loaded =
            |root: u64, regime: &stage2::Regime, cpus: &[crate::registers::Cpu]| -> Vec<usize> {
                (0..cpus.len())
                    .filter(|&i| regime.root(cpus[i].vttbr.0) == root)
                    .collect()
            };
        let Some(regime) = self.stage2_regime else {
            if !self.registers.domains.is_empty() {
                return Err(Error::CannotJudge(
                    "no CPU has VTCR_EL2 set: stage 2 cannot be read".into(),
                ));
            }
            return Ok(());
        };
        for domain in &self.registers.domains {
            let walk = stage2::walk(&self.dump, &regime, domain.vttbr.0)
                .map_err(|e| Error::CannotJudge(format!("domain {}: {e}", domain.id)))?;
            let cpus = loaded(regime.root(domain.vttbr.0), &regime, &self.registers.cpus);
            let (id, vttbr, protected) = (Some(domain.id), domain.vttbr.0, domain.protected);
            if !protected && regime != regime.beyond() {
                let all = stage2::walk(&self.dump, &regime.beyond(), vttbr)
                    .map_err(|e| Error::CannotJudge(format!("domain {}: {e}", domain.id)))?;
                self.beyond.push((domain.id, all));
            }
            self.stage2.push(Stage2 {
                id,
                vttbr,
                protected,
                walk,
                former: false,
                cpus,
            });
        }
        let empty = self
            .found
            .as_ref()
            .and_then(|f| f.empty_root)
            .map(|mfn| mfn * FRAME_SIZE);
        // Others that a switch between vCPUs would load, and others that a CPU has loaded.
        let fused = self.found.as_ref().and_then(|f| f.fused.as_ref());
        let frozen = fused.filter(|f| f.frozen.locked).map(|f| &f.frozen.vttbr);
        let allowed = frozen.into_iter().flatten();
        let former = allowed
            .filter(|&&vttbr| vttbr != NO_VTTBR)
            .map(|&vttbr| (vttbr, None));
        let cpus = self.registers.cpus.iter().enumerate();
        let others: Vec<(u64, Option<usize>)> = former
            .chain(cpus.map(|(i, cpu)| (cpu.vttbr.0, Some(i))))
            .collect();
        for (vttbr, cpu) in others {
            let root = regime.root(vttbr);
            let known = self.stage2.iter().any(|s| regime.root(s.vttbr) == root);
            if root == 0 || known || Some(root) == empty {
                continue;
            }
            let cpus = loaded(root, &regime, &self.registers.cpus);
            match stage2::walk(&self.dump, &regime, vttbr) {
                Ok(walk) => self.stage2.push(Stage2 {
                    id: None,
                    vttbr,
                    protected: false,
                    walk,
                    former: cpu.is_none(),
                    cpus,
                }),
                Err(e) => self.unestablished.push(match cpu {
                    Some(i) => format!("CPU {i} has a stage 2 of no known domain loaded: {e}"),
                    None => {
                        format!("the frozen page has a VTTBR of no known domain, {vttbr:#x}: {e}")
                    }
                }),
            }
        }
        Ok(())
    }

    /// What the registers file claims has to agree with what the dump says.
    fn compare_claims(&mut self) {
        let mut doubts = Vec::new();
        let (noted, listed) = (self.dump.cpus(), self.registers.cpus.len());
        if noted != listed {
            doubts.push(format!(
                "the dump describes {noted} CPUs, the registers file {listed}: every CPU is needed"
            ));
        }
        for domain in self.found.iter().flat_map(|f| &f.domains) {
            match self.registers.domains.iter().find(|d| d.id == domain.id) {
                None => doubts.push(format!(
                    "domain {} is in the dump, but not in the registers file",
                    domain.id
                )),
                Some(d) if d.vttbr.0 != domain.vttbr => doubts.push(format!(
                    "domain {}: the registers file says VTTBR {}, the dump {:#x}",
                    d.id, d.vttbr, domain.vttbr
                )),
                Some(_) => {}
            }
        }
        if let Some(found) = &self.found {
            for d in self
                .registers
                .domains
                .iter()
                .filter(|d| found.domains.iter().all(|f| f.id != d.id))
            {
                doubts.push(format!(
                    "domain {} is in the registers file, but not in the dump",
                    d.id
                ));
            }
        }
        for (what, m) in (self
            .roots
            .iter()
            .flat_map(|r| &r.walk.malformed)
            .map(|m| ("EL2".to_owned(), m)))
        .chain(
            self.stage2
                .iter()
                .flat_map(|s| s.walk.malformed.iter().map(|m| (name(s), m))),
        )
        .filter(|(_, m)| m.blind)
        {
            doubts.push(format!(
                "{what}: entry {} for {} is a {}",
                m.descriptor, m.address, m.why
            ));
        }
        self.unestablished.extend(doubts);
    }
}

/// A stage 2 in words.
pub fn name(stage2: &Stage2) -> String {
    match stage2.id {
        Some(id) => format!("d{id}'s stage 2"),
        None => format!("stage 2 {:#x} of no known domain", stage2.vttbr),
    }
}

fn roots(dump: &Dump, registers: &Registers) -> Result<Vec<Root>> {
    let mut roots: Vec<Root> = Vec::new();
    for (i, cpu) in registers.cpus.iter().enumerate() {
        let at = |e: Error| Error::CannotJudge(format!("CPU {i}: {e}"));
        let regime = stage1::Regime::of(cpu).map_err(at)?;
        match roots.iter_mut().find(|r| r.regime == regime) {
            Some(root) => root.cpus.push(i),
            None => roots.push(Root {
                regime,
                cpus: vec![i],
                walk: stage1::walk(dump, &regime).map_err(at)?,
            }),
        }
    }
    Ok(roots)
}

/// All CPUs with their MMU on have to agree; one that is off has not been set up, or not yet.
fn stage2_regime(registers: &Registers) -> Result<Option<stage2::Regime>> {
    let mut values: Vec<u64> = registers
        .cpus
        .iter()
        .filter(|c| c.sctlr.0 & 1 != 0 && c.vtcr.0 != 0)
        .map(|c| c.vtcr.0)
        .collect();
    values.sort_unstable();
    values.dedup();
    match values[..] {
        [] => Ok(None),
        [vtcr] => stage2::Regime::of(vtcr).map(Some),
        _ => Err(Error::CannotJudge(format!(
            "the CPUs' VTCR_EL2 differ: {values:#x?}"
        ))),
    }
}

/// The frames of a leaf of either stage, for those who want to count what it maps of RAM.
pub fn ram_frames(dump: &Dump, pa: u64, level: u8) -> usize {
    dump.ram_within(pa, descriptor::size(level))
        .map(|(_, _, count)| count)
        .sum()
}
