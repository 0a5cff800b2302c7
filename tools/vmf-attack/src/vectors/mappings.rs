//! V01 to V03: mappings of the victim's pages that are there, that are left
//! over, or that Xen makes when it is asked to.

use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::lab::{Lab, Phase};
use crate::memory::PAGE;

/// A word that no pattern has.
const MARK: u64 = 0x7661_6e64_616c_0001;
/// A slot of the fixmap that nobody uses after the boot (asm/fixmap.h: the
/// first ones are the console's and the PMAP's).
const FIXMAP_SLOT: u64 = 2;
/// `PAGE_HYPERVISOR_RW` (asm/page.h): normal memory, never executable, present.
const RW: u64 = 7 | 1 << 3 | 1 << 5;
/// Where the fixmap begins, behind the 8 MiB of the image.
const FIXMAP_OFFSET: u64 = 8 << 20;

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![
        Box::new(Read),
        Box::new(Write),
        Box::new(Window(Vec::new())),
        Box::new(Make::new("vmf_map_slowly")),
        Box::new(Make::new("map_domain_page_global")),
        Box::new(Make::new("vmap")),
        Box::new(Fixmap),
        Box::new(Pmap),
    ]
}

/// Reads through the directmap, on every CPU.
struct Read;

impl Vector for Read {
    fn facts(&self) -> Facts {
        facts(
            "V01",
            "read the secret through the directmap",
            Attacker::L1,
            Level::Unmap,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let va = lab.directmap_va(lab.victim().secret.maddr);
        let each = (0..lab.cpus).map(|cpu| lab.secret_on(cpu, va, "directmap"));
        Ok(Outcome::every(lab, each.collect()))
    }

    fn touch(&mut self, lab: &mut Lab) -> Result<(), Failure> {
        self.attempt(lab).map(drop)
    }
}

/// Changes a page that the canary does not check.
struct Write;

impl Vector for Write {
    fn facts(&self) -> Facts {
        facts(
            "V01",
            "change the victim's memory through the directmap",
            Attacker::L2,
            Level::Unmap,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let va = lab.directmap_va(lab.victim().spare.maddr);
        Ok(match change(lab, va) {
            Ok(()) => Outcome::Success(format!("a word at {va:#x} was changed and restored")),
            Err(why) => Outcome::Failed(why),
        })
    }
}

fn change(lab: &Lab, va: u64) -> Result<(), String> {
    let say = |stop: crate::primitive::Stop| stop.to_string();
    lab.primitive.store(0, va, MARK).map_err(say)?;
    let seen = lab.read(va).map_err(say)?;
    lab.primitive
        .store(0, va, lab.victim().spare.word)
        .map_err(say)?;
    if seen == MARK {
        Ok(())
    } else {
        Err(format!("{va:#x} holds {seen:#x} after the write"))
    }
}

/// A live slot of each CPU's on-demand window, left behind at the blow and in
/// every CPU's TLB.
struct Window(Vec<u64>);

impl Window {
    /// Past map_domain_page(), which would say that it is mapped already. The
    /// user gives the slot back at once; what is in it stays.
    fn fill(&mut self, lab: &Lab) -> Result<(), Failure> {
        let map = lab.symbols.symbol("vmf_window_map")?;
        let unmap = lab.symbols.symbol("vmf_window_unmap")?;
        let windows = lab.symbols.symbol("vmf_windows")?;
        self.0.clear();
        for cpu in 0..lab.cpus {
            let window = lab.read(windows + 8 * u64::from(cpu))?;
            let mfn = lab.victim().secret.mfn();
            let va = lab.primitive.call(cpu, map, &[window, mfn])?;
            lab.primitive.call(cpu, unmap, &[window, va])?;
            self.0.push(va);
        }
        Ok(())
    }

    fn read_all(&self, lab: &Lab) -> Outcome {
        let mut each = Vec::new();
        for va in &self.0 {
            for cpu in 0..lab.cpus {
                each.push(lab.secret_on(cpu, *va, "window"));
            }
        }
        Outcome::every(lab, each)
    }
}

impl Vector for Window {
    fn facts(&self) -> Facts {
        facts(
            "V02",
            "read through a live on-demand mapping of any CPU, from every CPU, TLB included",
            Attacker::L1,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        if lab.phase == Phase::After {
            return Ok(self.read_all(lab));
        }
        self.fill(lab)?;
        Ok(self.read_all(lab))
    }

    fn touch(&mut self, lab: &mut Lab) -> Result<(), Failure> {
        self.fill(lab)?;
        self.read_all(lab);
        Ok(())
    }
}

/// A function of Xen that maps a page and returns the address. The inline part of
/// map_domain_page() maps nothing: it is where vmf_map_slowly() is not called.
struct Make {
    function: &'static str,
    left: Option<u64>,
}

impl Make {
    fn new(function: &'static str) -> Self {
        Self {
            function,
            left: None,
        }
    }
}

impl Vector for Make {
    fn facts(&self) -> Facts {
        let title = match self.function {
            "vmf_map_slowly" => "call map_domain_page() on the secret's frame",
            "vmap" => "call vmap() on it; and read through the mapping that was left",
            _ => "call map_domain_page_global() on it; and read through the mapping that was left",
        };
        facts("V03", title, Attacker::L3, Level::Lock)
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let mfn = lab.victim().secret.mfn();
        let function = lab.symbols.symbol(self.function)?;
        let mut each = Vec::new();
        if let Some(va) = self.left {
            each.push(lab.secret_at(va, "left over"));
        }
        let made = if self.function == "vmap" {
            // vmap() takes a pointer to the frame's number.
            lab.primitive.store(0, lab.scratch, mfn)?;
            lab.primitive.call(0, function, &[lab.scratch, 1])
        } else {
            lab.primitive.call(0, function, &[mfn])
        };
        let what = format!("{}()", self.function);
        match made {
            Ok(0) => each.push(Outcome::Failed(format!("{what} returns NULL"))),
            Ok(va) => {
                each.push(lab.secret_at(va, &what));
                if lab.phase == Phase::Before {
                    if self.function == "vmf_map_slowly" {
                        lab.unmap(va)?;
                    } else {
                        self.left = Some(va);
                    }
                }
            }
            Err(stop) => each.push(Outcome::Failed(format!("{what}: {stop}"))),
        }
        Ok(Outcome::every(lab, each))
    }

    fn touch(&mut self, lab: &mut Lab) -> Result<(), Failure> {
        if let Some(va) = self.left {
            for cpu in 0..lab.cpus {
                // What it reads does not matter, only that it was there.
                let _ = lab.primitive.load(cpu, va);
            }
        }
        Ok(())
    }

    fn tidy(&mut self, lab: &mut Lab) -> Result<(), Failure> {
        let undo = match self.function {
            "vmap" => "vunmap",
            "map_domain_page_global" => "unmap_domain_page_global",
            _ => return Ok(()),
        };
        if let Some(va) = self.left {
            let undo = lab.symbols.symbol(undo)?;
            lab.primitive.call(0, undo, &[va])?;
        }
        Ok(())
    }
}

/// `set_fixmap()`, whose mapping is left at the blow.
struct Fixmap;

impl Vector for Fixmap {
    fn facts(&self) -> Facts {
        facts(
            "V03",
            "call set_fixmap() on the secret's frame",
            Attacker::L3,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let set = lab.symbols.symbol("set_fixmap")?;
        let va = lab.symbols.symbol("_start")? + FIXMAP_OFFSET + FIXMAP_SLOT * PAGE;
        let left = lab.secret_at(va, "fixmap");
        if lab.phase == Phase::Before && matches!(left, Outcome::Success(_)) {
            return Err(Failure("the fixmap leads to the secret by itself".into()));
        }
        let mfn = lab.victim().secret.mfn();
        if let Err(stop) = lab.primitive.call(0, set, &[FIXMAP_SLOT, mfn, RW]) {
            return Ok(Outcome::any(vec![
                left,
                Outcome::Failed(format!("set_fixmap(): {stop}")),
            ]));
        }
        Ok(lab.secret_at(va, "set_fixmap()"))
    }

    fn tidy(&mut self, lab: &mut Lab) -> Result<(), Failure> {
        let clear = lab.symbols.symbol("clear_fixmap")?;
        lab.primitive.call(0, clear, &[FIXMAP_SLOT])?;
        Ok(())
    }
}

/// `pmap_map()` is code of the boot.
struct Pmap;

impl Vector for Pmap {
    fn facts(&self) -> Facts {
        facts(
            "V03",
            "call pmap_map() on the secret's frame",
            Attacker::L3,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let Some(map) = lab.symbols.find("pmap_map") else {
            return Ok(Outcome::NotApplicable("this Xen has no pmap_map()".into()));
        };
        let mfn = lab.victim().secret.mfn();
        Ok(match lab.primitive.call(0, map, &[mfn]) {
            Ok(va) => lab.secret_at(va, "pmap_map()"),
            Err(stop) => {
                Outcome::NotApplicable(format!("pmap_map() is code of the boot and gone: {stop}"))
            }
        })
    }
}
