//! V04 to V06: Xen's own ways to a guest's memory, and real hypercalls of dom0
//! that map a page, copy from it, or have it handed out again.

use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::hypercalls;
use crate::lab::{Lab, Phase};
use crate::memory::PAGE;

/// The canary's grant reference (its action `grant`).
const REFERENCE: &str = "8";
/// What stands in the page that it grants.
const GRANTED: &str = "word=0x63616e6172790000";
/// First frame of a guest's memory.
const RAM_GFN: u64 = 0x4_0000;
/// Where a domain that was created gets further memory.
const NEW_GFN: u64 = RAM_GFN + 0x1000;
/// Pages of a domain that is to get what another one gave up.
const PAGES: u64 = 16;
/// Marks a page that is given up.
const MARK: u64 = 0x7661_6e64_616c_0006;

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![
        Box::new(CopyGuest),
        Box::new(Probe(Call::Foreign)),
        Box::new(Probe(Call::RawForeign)),
        Box::new(Probe(Call::Grant)),
        Box::new(Probe(Call::RawGrant)),
        Box::new(Probe(Call::Copy)),
        Box::new(Exchange),
        Box::new(Altp2m),
        Box::new(Decrease::default()),
        Box::new(Destroy),
    ]
}

/// `access_guest_memory_by_gpa()`, which all emulation of devices and all
/// guest pointers go through in the end (`copy_guest()`).
struct CopyGuest;

impl Vector for CopyGuest {
    fn facts(&self) -> Facts {
        facts(
            "V04",
            "call access_guest_memory_by_gpa() for the victim, from another domain's context",
            Attacker::L3,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let victim = lab.victim();
        let copy = lab.symbols.symbol("access_guest_memory_by_gpa")?;
        lab.primitive.store(0, lab.scratch, 0)?;
        let arguments = [
            victim.domain.structure,
            victim.secret.gpa,
            lab.scratch,
            8,
            0,
        ];
        Ok(match lab.primitive.call(0, copy, &arguments) {
            Ok(result) => match lab.secret_on(0, lab.scratch, "copied") {
                Outcome::Failed(why) => {
                    Outcome::Failed(format!("it returns {}; {why}", result as i32))
                }
                other => other,
            },
            Err(stop) => Outcome::Failed(stop.to_string()),
        })
    }
}

/// Hypercalls by `vmf-probe`, which has Linux's drivers and Xen itself do them.
enum Call {
    Foreign,
    RawForeign,
    Grant,
    RawGrant,
    Copy,
}

struct Probe(Call);

impl Vector for Probe {
    fn facts(&self) -> Facts {
        let title = match self.0 {
            Call::Foreign => "dom0 maps the secret as a foreign page (privcmd), and reads it",
            Call::RawForeign => {
                "dom0 has Xen add the secret to its physmap (XENMAPSPACE_gmfn_foreign; counts when Xen does it)"
            }
            Call::Grant => "dom0 maps the page that the victim grants (gntdev), and reads it",
            Call::RawGrant => {
                "dom0 has Xen map the page that the victim grants (counts when Xen does it)"
            }
            Call::Copy => "dom0 copies from the page that the victim grants (GNTTABOP_copy)",
        };
        facts("V05", title, Attacker::Hypercalls, Level::Lock)
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let victim = lab.victim();
        let id = victim.domain.id.to_string();
        let gfn = format!("{:#x}", victim.secret.gfn());
        let secret = format!("word={:#018x}", victim.secret.word);
        let (arguments, wanted) = match self.0 {
            Call::Foreign => (["foreign-map", &id, &gfn], secret.as_str()),
            Call::RawForeign => (["raw-foreign-map", &id, &gfn], "gfn="),
            Call::Grant => (["grant-map", &id, REFERENCE], GRANTED),
            Call::RawGrant => (["raw-grant-map", &id, REFERENCE], "ref="),
            Call::Copy => (["gnttab-copy", &id, REFERENCE], GRANTED),
        };
        let (code, text) = Lab::run("vmf-probe", &arguments)?;
        Ok(if code == 0 && text.contains(wanted) {
            Outcome::Success(text)
        } else {
            Outcome::Failed(text)
        })
    }
}

/// `XENMEM_exchange`: takes a page of the domain, and gives it another.
struct Exchange;

impl Vector for Exchange {
    fn facts(&self) -> Facts {
        facts(
            "V05",
            "dom0 exchanges the victim's page for another (XENMEM_exchange)",
            Attacker::Hypercalls,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let victim = lab.expendable();
        Ok(
            match hypercalls::exchange(&lab.primitive, victim.domain.id, victim.spare.gfn())? {
                0 => Outcome::Success("Xen has exchanged the page".into()),
                errno => Outcome::NotApplicable(format!(
                    "Xen on Arm takes no page from a domain this way (steal_page()): errno {}",
                    -errno
                )),
            },
        )
    }
}

/// altp2m is x86's.
struct Altp2m;

impl Vector for Altp2m {
    fn facts(&self) -> Facts {
        facts(
            "V05",
            "dom0 gives a domain a second physmap (HVMOP_altp2m)",
            Attacker::Hypercalls,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        Ok(
            match hypercalls::altp2m(&lab.primitive, lab.victim().domain.id)? {
                0 => Outcome::Success("Xen has switched altp2m on".into()),
                errno => {
                    Outcome::NotApplicable(format!("Xen on Arm has no altp2m: errno {}", -errno))
                }
            },
        )
    }
}

/// The id in what `vmf-probe create` prints.
fn created(text: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    words.find_map(|word| word.strip_prefix("domain=").map(str::to_owned))
}

fn create() -> Result<Result<String, String>, Failure> {
    let pages = (2 * PAGES).to_string();
    let (code, text) = Lab::run("vmf-probe", &["create", "--pages", &pages])?;
    Ok(match (code, created(&text)) {
        (0, Some(id)) => Ok(id),
        _ => Err(format!("no domain is created: {text}")),
    })
}

/// Gives a domain pages at a frame, and looks for `mark` in them.
fn given_to(id: &str, at: u64, mark: u64) -> Result<Outcome, Failure> {
    let (frame, pages) = (format!("{at:#x}"), PAGES.to_string());
    let (code, text) = Lab::run("vmf-probe", &["populate", id, &frame, &pages])?;
    if code != 0 {
        return Ok(Outcome::Failed(format!("d{id} gets no memory: {text}")));
    }
    let wanted = format!("word={mark:#018x}");
    for page in 0..PAGES {
        let gfn = format!("{:#x}", at + page);
        let (_, text) = Lab::run("vmf-probe", &["foreign-map", id, &gfn])?;
        if text.contains(&wanted) {
            return Ok(Outcome::Success(format!(
                "in a page that d{id} gets: {text}"
            )));
        }
    }
    Ok(Outcome::Failed(format!(
        "none of d{id}'s {PAGES} new pages has the mark"
    )))
}

/// A page that is taken from a running domain is not scrubbed before another
/// domain gets it. That one is there before the page is taken: its tables and
/// structures want pages too.
#[derive(Default)]
struct Decrease(Option<String>);

impl Vector for Decrease {
    fn facts(&self) -> Facts {
        facts(
            "V06",
            "dom0 takes a page from a domain (XENMEM_decrease_reservation), and another gets it with what is in it",
            Attacker::Hypercalls,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let other = lab.expendable();
        let id = other.domain.id.to_string();
        // Before: the page that the canary does not check, with a mark in it.
        // After: the page of its secret, as nothing can write a mark any more.
        let (page, mark) = match lab.phase {
            Phase::Before => (other.spare, MARK),
            Phase::After => (other.secret, other.secret.word),
        };
        let gfn = format!("{:#x}", page.gfn());
        if lab.phase == Phase::Before {
            self.0 = match create()? {
                Ok(id) => Some(id),
                Err(why) => return Ok(Outcome::Failed(why)),
            };
            let word = format!("{mark:#x}");
            let (code, text) =
                Lab::run("vmf-probe", &["foreign-map", &id, &gfn, "--write", &word])?;
            if code != 0 {
                return Ok(Outcome::Failed(text));
            }
        }
        let Some(another) = &self.0 else {
            return Ok(Outcome::NotAttempted("there is no other domain".into()));
        };
        let (code, text) = Lab::run("vmf-probe", &["decrease", &id, &gfn])?;
        if code != 0 {
            return Ok(Outcome::Failed(text));
        }
        let at = match lab.phase {
            Phase::Before => NEW_GFN,
            Phase::After => NEW_GFN + PAGES,
        };
        Ok(match given_to(another, at, mark)? {
            Outcome::Failed(why) => Outcome::Failed(format!("Xen says {text}; {why}")),
            other => other,
        })
    }
}

/// Memory of a domain that is destroyed.
struct Destroy;

impl Vector for Destroy {
    fn facts(&self) -> Facts {
        facts(
            "V06",
            "dom0 destroys a domain, and a new domain gets its memory with what is in it",
            Attacker::Hypercalls,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let (id, mark) = match lab.phase {
            Phase::Before => {
                let id = match create()? {
                    Ok(id) => id,
                    Err(why) => return Ok(Outcome::Failed(why)),
                };
                for page in 0..PAGES {
                    let gfn = format!("{:#x}", RAM_GFN + page);
                    let word = format!("{MARK:#x}");
                    Lab::run("vmf-probe", &["foreign-map", &id, &gfn, "--write", &word])?;
                }
                (id, MARK)
            }
            Phase::After => {
                let other = lab.expendable();
                (other.domain.id.to_string(), other.secret.word)
            }
        };
        let (_, text) = Lab::run("vmf-probe", &["destroy", &id])?;
        let another = match create()? {
            Ok(another) => another,
            Err(why) => return Ok(Outcome::Failed(format!("Xen says {text}; {why}"))),
        };
        let outcome = given_to(&another, NEW_GFN, mark)?;
        Lab::run("vmf-probe", &["destroy", &another])?;
        Ok(match outcome {
            Outcome::Failed(why) => Outcome::Failed(format!("Xen says {text}; {why}")),
            other => other,
        })
    }
}

const _: () = assert!(RAM_GFN * PAGE == 0x4000_0000);
