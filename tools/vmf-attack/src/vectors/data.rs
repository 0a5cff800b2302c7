//! V23, V24: code and frozen data through a second mapping of their frames,
//! and data that a context switch, an exception or a CPU bring-up loads.

use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::lab::Lab;
use crate::primitive::Stop;
use crate::tables;

/// `ldr x0, [x1]`
const LDR_X0_X1: u64 = 0xf940_0020;
/// The last word of the frozen page, which nothing uses.
const UNUSED: u64 = 4088;

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![
        Box::new(Text),
        Box::new(Word::new("V23", Target::FrozenAlias)),
        Box::new(Word::new("V23", Target::Frozen)),
        Box::new(Word::new("V24", Target::Locked)),
        Box::new(Word::new("V24", Target::Vttbr)),
        Box::new(Word::new("V24", Target::InitTtbr)),
    ]
}

/// Changes one instruction of Xen's text, runs it, and changes it back.
struct Text;

impl Vector for Text {
    fn facts(&self) -> Facts {
        facts(
            "V23",
            "change an instruction of Xen's text through the directmap, and read the secret with it",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let function = lab.symbols.symbol("vmf_attack_load")?;
        let alias = lab.directmap_va(function.wrapping_add(lab.image_offset));
        let secret = lab.victim().secret;
        let va = lab.directmap_va(secret.maddr);
        let old = lab.read(function)?;
        let new = old & !0xffff_ffff | LDR_X0_X1;
        if let Err(stop) = lab.primitive.store(0, alias, new) {
            return Ok(Outcome::Failed(format!("the text at {alias:#x}: {stop}")));
        }
        // x0 is 0, where nothing is mapped: only the new code can succeed.
        let read = lab.primitive.call(0, function, &[0, va]);
        lab.primitive.store(0, alias, old)?;
        Ok(match read {
            Ok(word) if word == secret.word => {
                Outcome::Success(format!("the changed code reads the secret {word:#018x}"))
            }
            Ok(word) => Outcome::Failed(format!("the changed code reads {word:#x}")),
            Err(stop) => Outcome::Failed(format!("the changed code: {stop}")),
        })
    }
}

#[derive(Clone, Copy)]
enum Target {
    Frozen,
    FrozenAlias,
    Locked,
    Vttbr,
    InitTtbr,
}

/// A word that decides, written and restored.
struct Word {
    id: &'static str,
    target: Target,
}

impl Word {
    fn new(id: &'static str, target: Target) -> Self {
        Self { id, target }
    }

    /// Its address, and what to write there: before the lock the same value
    /// where another one would take effect at once.
    fn place(&self, lab: &Lab) -> Result<(u64, Option<u64>), Failure> {
        let frozen = lab.symbols.symbol("vmf_frozen")?;
        let alias = |va: u64| lab.directmap_va(va.wrapping_add(lab.image_offset));
        Ok(match self.target {
            Target::Frozen => (frozen + UNUSED, Some(1)),
            Target::FrozenAlias => (alias(frozen + UNUSED), Some(1)),
            Target::Locked => (frozen + lab.symbols.member("vmf_frozen", "locked")?, None),
            Target::Vttbr => {
                let vmid = lab.victim().domain.vttbr >> 48;
                let vttbr = lab.symbols.member("vmf_frozen", "vttbr")?;
                (frozen + vttbr + 8 * vmid, None)
            }
            Target::InitTtbr => (
                alias(lab.symbols.symbol("init_ttbr")?),
                Some(tables::table(lab.all_ram.address) & !3),
            ),
        })
    }

    fn write(lab: &Lab, at: u64, value: Option<u64>) -> Result<bool, Stop> {
        let old = lab.read(at)?;
        let new = value.unwrap_or(old);
        lab.primitive.store(0, at, new)?;
        let seen = lab.read(at)?;
        lab.primitive.store(0, at, old)?;
        Ok(seen == new)
    }
}

impl Vector for Word {
    fn facts(&self) -> Facts {
        let title = match self.target {
            Target::Frozen => {
                "write the page that is read-only from the lock on, at its own address (counts when it is written)"
            }
            Target::FrozenAlias => {
                "write that page through the directmap (counts when it is written)"
            }
            Target::Locked => {
                "write the word by which Xen knows that it is locked (counts when it is written)"
            }
            Target::Vttbr => {
                "write the VTTBR_EL2 that the victim's has to agree with (counts when it is written)"
            }
            Target::InitTtbr => {
                "write the TTBR0_EL2 that a CPU coming up loads, through the directmap (counts when it is written)"
            }
        };
        facts(self.id, title, Attacker::L2, Level::Lock)
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let (at, value) = self.place(lab)?;
        Ok(match Self::write(lab, at, value) {
            Ok(true) => Outcome::Success(format!("{at:#x} was written")),
            Ok(false) => Outcome::Failed(format!("{at:#x} does not hold what was written")),
            Err(stop) => Outcome::Failed(format!("{at:#x}: {stop}")),
        })
    }
}
