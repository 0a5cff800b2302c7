//! V21, V22: the fuse's own state. Races of the blow are made at the blow (see
//! [`crate::blow`]) and judged by whoever runs this program.

use xenctrl_ffi::State;

use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::lab::{Lab, Phase};

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![Box::new(Races), Box::new(Lie), Box::new(Denial)]
}

/// Stands for what is judged elsewhere.
struct Races;

impl Vector for Races {
    fn facts(&self) -> Facts {
        facts(
            "V21",
            "races of the blow, and who may blow it",
            Attacker::Hypercalls,
            Level::Lock,
        )
    }

    fn attempt(&mut self, _: &mut Lab) -> Result<Outcome, Failure> {
        Ok(Outcome::NotAttempted(
            "no attempt of its own here: the blow between the two phases is the race, see \"blow\""
                .into(),
        ))
    }
}

fn state(lab: &Lab) -> Result<State, Failure> {
    let status = lab.machine.status();
    status
        .map(|status| status.state)
        .map_err(|error| Failure(error.to_string()))
}

/// Sets the byte that answers for the state, and says what status says then.
fn forge(lab: &Lab, locked: bool) -> Result<State, String> {
    let at = lab
        .symbols
        .symbol("state_locked")
        .map_err(|failure| failure.0)?;
    let word = lab.read(at).map_err(|stop| stop.to_string())?;
    let forged = word & !0xff | u64::from(locked);
    lab.primitive
        .store(0, at, forged)
        .map_err(|stop| format!("{at:#x}: {stop}"))?;
    let says = state(lab).map_err(|failure| failure.0);
    lab.primitive
        .store(0, at, word)
        .map_err(|stop| format!("{at:#x}: {stop}"))?;
    says
}

/// Status says `locked`, and the secret can be read all the same.
struct Lie;

impl Vector for Lie {
    fn facts(&self) -> Facts {
        facts(
            "V22",
            "status says `locked` while the secret can be read (before: by writing the state)",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let secret = lab.victim().secret;
        let says = match lab.phase {
            Phase::Before => match forge(lab, true) {
                Ok(says) => says,
                Err(why) => return Ok(Outcome::Failed(why)),
            },
            Phase::After => state(lab)?,
        };
        if says != State::Locked {
            return Ok(Outcome::Failed(format!("status says {}", says.name())));
        }
        let read = match lab.phase {
            Phase::Before => {
                let read = lab.read_physical(secret.maddr);
                lab.give_back()?;
                read
            }
            Phase::After => lab.read(lab.directmap_va(secret.maddr)),
        };
        Ok(match read {
            Ok(word) if word == secret.word => {
                Outcome::Success(format!("status says locked, and {word:#018x} is read"))
            }
            Ok(word) => Outcome::Failed(format!("{word:#x} is read")),
            Err(stop) => Outcome::Failed(format!("status says locked, and so it is: {stop}")),
        })
    }
}

/// The other way round: a lie that harms nobody's memory.
struct Denial;

impl Vector for Denial {
    fn facts(&self) -> Facts {
        facts(
            "V22",
            "status says that nothing is locked although it is (by writing the state)",
            Attacker::L2,
            Level::Never,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        // Before: the same in the other direction, to see that the byte counts.
        let (forged, wanted) = match lab.phase {
            Phase::Before => (true, State::Locked),
            Phase::After => (false, State::Locked),
        };
        Ok(match forge(lab, forged) {
            Ok(says) if (says == wanted) == forged => {
                Outcome::Success(format!("status says {}", says.name()))
            }
            Ok(says) => Outcome::Failed(format!("status says {}", says.name())),
            Err(why) => Outcome::Failed(why),
        })
    }
}
