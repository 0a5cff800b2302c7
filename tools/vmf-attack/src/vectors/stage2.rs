//! V08: writing entries of stage-2 tables, through wherever they are mapped.

use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::lab::{Lab, Phase};
use crate::memory::{PAGE, Page, Window, in_child};
use crate::primitive::Stop;
use crate::tables::{self, GIB};

/// Where nothing of dom0's lies, for a root of level 0 and of level 1.
pub const FREE: [u64; 2] = [1 << 39, 240 << 30];

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![Box::new(Accomplice::default()), Box::new(Own)]
}

/// The address at which dom0 finds the secret once its stage 2 has an entry
/// for it, and that entry of the root with the table behind it.
pub fn foothold(lab: &Lab) -> Result<(u64, usize, u64, Page), Failure> {
    let level = lab.own().root_level as usize;
    let free = *FREE
        .get(level)
        .ok_or_else(|| Failure(format!("stage 2 starts at level {level}")))?;
    let secret = lab.victim().secret.maddr;
    let below = Page::new()?;
    // One GiB at the place, in a table of one's own where the root has level 0.
    below.put(0, tables::stage2_gib(secret));
    below.publish();
    let (index, entry) = match level {
        0 => ((free >> 39) as usize, tables::table(below.address)),
        _ => ((free >> 30) as usize, tables::stage2_gib(secret)),
    };
    Ok((free + secret % GIB, index, entry, below))
}

/// Whether dom0 reads the secret at a physical address of its own, after doing
/// something that may be the end of the process.
pub fn dom0_reads_after(
    lab: &Lab,
    ipa: u64,
    what: &str,
    first: impl FnOnce() -> Result<(), Stop>,
) -> Result<Outcome, Failure> {
    let window = Window::open(ipa)?;
    let secret = lab.victim().secret;
    let word = in_child(|| match first() {
        Ok(()) => window.load((ipa % PAGE / 8) as usize),
        Err(_) => 0,
    })?;
    Ok(match word {
        Some(word) if word == secret.word => Outcome::Success(format!(
            "{what}: dom0 itself reads the secret {word:#018x} at {ipa:#x}"
        )),
        Some(word) => Outcome::Failed(format!("{what}: dom0 reads {word:#x} at {ipa:#x}")),
        None => Outcome::Failed(format!("{what}: dom0's load at {ipa:#x} aborts")),
    })
}

/// Whether dom0 reads the secret at a physical address of its own.
pub fn dom0_reads(lab: &Lab, ipa: u64, what: &str) -> Result<Outcome, Failure> {
    dom0_reads_after(lab, ipa, what, || Ok(()))
}

/// An entry of dom0's own stage 2.
#[derive(Default)]
struct Accomplice {
    made: Option<(u64, u64, u64, Page)>,
}

impl Vector for Accomplice {
    fn facts(&self) -> Facts {
        facts(
            "V08",
            "write an entry of the accomplice's stage 2 that leads to the victim",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        if self.made.is_none() {
            let (ipa, index, entry, below) = foothold(lab)?;
            let at = lab.own().root + 8 * index as u64;
            self.made = Some((ipa, lab.directmap_va(at), entry, below));
        }
        let Some((ipa, at, entry, _)) = &self.made else {
            return Ok(Outcome::NotAttempted("no place".into()));
        };
        // What is left in the TLB of the entry that was there at the blow. Not
        // before: Xen maps what is no RAM into dom0 as soon as it is used.
        if lab.phase == Phase::After
            && let Outcome::Success(seen) = dom0_reads(lab, *ipa, "TLB")?
        {
            return Ok(Outcome::Success(seen));
        }
        if let Err(stop) = lab.primitive.store(0, *at, *entry) {
            return Ok(Outcome::Failed(format!("the table at {at:#x}: {stop}")));
        }
        let outcome = dom0_reads(lab, *ipa, "written entry")?;
        lab.primitive.store(0, *at, 0)?;
        lab.flush_guests()?;
        Ok(outcome)
    }

    fn touch(&mut self, lab: &mut Lab) -> Result<(), Failure> {
        // Leaves the translation in the TLB: the entry goes, and nothing is
        // invalidated.
        if let Some((ipa, at, entry, _)) = &self.made
            && lab.primitive.store(0, *at, *entry).is_ok()
        {
            dom0_reads(lab, *ipa, "touch")?;
            lab.primitive.store(0, *at, 0)?;
            for cpu in 0..lab.cpus {
                let _ = lab.primitive.load(cpu, *at);
            }
        }
        Ok(())
    }
}

/// The entry of the victim's stage 2 that leads to its secret.
struct Own;

impl Vector for Own {
    fn facts(&self) -> Facts {
        facts(
            "V08",
            "write the entry of the victim's own stage 2 that leads to its secret (the same value; counts when it is written)",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let found = lab.victim().entry;
        let at = lab.directmap_va(found.at());
        Ok(match lab.primitive.store(0, at, found.entry) {
            Ok(()) => Outcome::Success(format!(
                "the entry {:#x} of level {} at {at:#x} was written",
                found.entry, found.level
            )),
            Err(stop) => Outcome::Failed(format!("the table at {at:#x}: {stop}")),
        })
    }

    fn touch(&mut self, lab: &mut Lab) -> Result<(), Failure> {
        let at = lab.directmap_va(lab.victim().entry.at());
        for cpu in 0..lab.cpus {
            let _ = lab.primitive.load(cpu, at);
        }
        Ok(())
    }
}
