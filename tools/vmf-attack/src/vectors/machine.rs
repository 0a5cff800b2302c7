//! V13 to V16: firmware, exception vectors, boot code, and the subsystems of
//! Xen that build mappings or load code.

use std::thread;
use std::time::{Duration, Instant};

use super::{Attacker, Facts, Level, Outcome, Vector, facts};
use crate::Failure;
use crate::hypercalls;
use crate::lab::{Lab, Phase};
use crate::memory::Page;
use crate::primitive::SP;

/// PSCI CPU_ON, 64 bits (Arm DEN0022, 5.1.4).
const CPU_ON: u64 = 0xc400_0003;
const ALREADY_ON: u64 = (-4i64) as u64;
/// How long a CPU may take from CPU_ON to its first store.
const START: Duration = Duration::from_secs(2);
/// Words of the page of code that hold where to read, and what was read.
const WHERE: usize = 64;
const READ: usize = 65;

pub fn all() -> Vec<Box<dyn Vector>> {
    vec![
        Box::new(CpuOn::default()),
        Box::new(Vectors),
        Box::new(Identity),
        Box::new(BootCode),
        Box::new(Subsystem("livepatch")),
        Box::new(Subsystem("CPU hotplug")),
        Box::new(Subsystem("kexec")),
    ]
}

/// A CPU that Xen does not use starts with the MMU off where it is told to.
#[derive(Default)]
struct CpuOn(Option<Page>);

impl CpuOn {
    /// Reads, writes down what was read, and switches its CPU off again.
    const CODE: [u32; 8] = [
        0xf941_0001, // ldr x1, [x0, #8 * WHERE]
        0xf940_0022, // ldr x2, [x1]
        0xf901_0402, // str x2, [x0, #8 * READ]
        0xd503_3f9f, // dsb sy
        0x52b0_8000, // mov w0, #0x84000000
        0x7280_0040, // movk w0, #2: PSCI CPU_OFF
        0xd400_0003, // smc #0
        0x1400_0000, // b .
    ];
}

impl Vector for CpuOn {
    fn facts(&self) -> Facts {
        facts(
            "V13",
            "jump to an SMC of Xen's: PSCI CPU_ON of an unused CPU, which runs code in dom0's memory with the MMU off",
            Attacker::L3,
            Level::Seal,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let secret = lab.victim().secret;
        // The SMC of the calling convention's function.
        let smc = lab.symbols.symbol("vmf_smc_1_0")?;
        let page = match self.0.take() {
            Some(page) => page,
            None => Page::new()?,
        };
        for (index, pair) in Self::CODE.chunks(2).enumerate() {
            page.put(index, u64::from(pair[0]) | u64::from(pair[1]) << 32);
        }
        page.put(WHERE, secret.maddr);
        page.put(READ, 0);
        page.publish();
        // Behind the call lies a pointer on the stack; 0 is none.
        lab.primitive.store(0, lab.scratch, 0)?;
        let cpu = u64::from(lab.cpus);
        let registers = [
            (0, CPU_ON),
            (1, cpu),
            (2, page.address),
            (3, page.address),
            (SP, lab.scratch),
        ];
        let outcome = match lab.primitive.jump(0, smc, &registers) {
            Err(stop) => Outcome::Failed(stop.to_string()),
            Ok(left) if left.x0() == 0 => {
                let end = Instant::now() + START;
                while page.get(READ) == 0 && Instant::now() < end {
                    thread::sleep(Duration::from_millis(5));
                }
                match page.get(READ) {
                    word if word == secret.word => Outcome::Success(format!(
                        "CPU {cpu}, which Xen does not know, reads the secret {word:#018x} with the MMU off"
                    )),
                    word => Outcome::Failed(format!("CPU {cpu} reads {word:#x}")),
                }
            }
            Ok(left) if left.x0() == ALREADY_ON => {
                Outcome::NotApplicable(format!("CPU {cpu} is on already"))
            }
            Ok(left) => Outcome::NotApplicable(format!(
                "firmware knows no CPU {cpu}: CPU_ON says {}",
                left.x0() as i64
            )),
        };
        self.0 = Some(page);
        Ok(outcome)
    }
}

/// VBAR_EL2: with the value that it has, so that the machine lives on.
struct Vectors;

impl Vector for Vectors {
    fn facts(&self) -> Facts {
        facts(
            "V14",
            "call init_traps(), which loads VBAR_EL2 (with Xen's own vectors; counts when it returns)",
            Attacker::L3,
            Level::Seal,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let code = lab.symbols.symbol("init_traps")?;
        Ok(match lab.primitive.call_boot_code(lab.cpus - 1, code) {
            Ok(()) => Outcome::Success(format!("VBAR_EL2 of a CPU was written by {code:#x}")),
            Err(stop) => Outcome::Failed(stop.to_string()),
        })
    }
}

/// Xen's text at its machine address.
struct Identity;

impl Vector for Identity {
    fn facts(&self) -> Facts {
        facts(
            "V15",
            "run Xen's text at its machine address (an identity map that was left; counts when it runs)",
            Attacker::L3,
            Level::Lock,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let at = lab.symbols.symbol("vmf_attack_load")?;
        let at = at.wrapping_add(lab.image_offset);
        let text = lab.symbols.symbol("_start")?;
        Ok(match lab.primitive.call(0, at, &[text]) {
            Ok(_) => Outcome::Success(format!("the code at {at:#x} runs")),
            Err(stop) if lab.phase == Phase::Before => {
                Outcome::NotApplicable(format!("Xen leaves no identity map: {stop}"))
            }
            Err(stop) => Outcome::NotApplicable(format!("no identity map: {stop}")),
        })
    }
}

/// The instruction that V09 uses is one of the boot.
struct BootCode;

impl Vector for BootCode {
    fn facts(&self) -> Facts {
        facts(
            "V15",
            "run the boot's own code that loads TTBR0_EL2 (with Xen's own root; counts when it runs)",
            Attacker::L3,
            Level::Seal,
        )
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let Some(msr) = lab.symbols.clean("msr-ttbr0_el2") else {
            return Ok(Outcome::NotApplicable(
                "no such instruction before a return".into(),
            ));
        };
        let registers = [(msr.register(), lab.root)];
        Ok(
            match lab.primitive.jump(lab.cpus - 1, msr.address, &registers) {
                Ok(_) => Outcome::Success(format!("the code at {:#x} runs", msr.address)),
                Err(stop) => Outcome::Failed(stop.to_string()),
            },
        )
    }
}

/// A subsystem that builds mappings or loads code, asked by hypercall whether
/// it is there.
struct Subsystem(&'static str);

impl Vector for Subsystem {
    fn facts(&self) -> Facts {
        let title = match self.0 {
            "livepatch" => "dom0 asks for livepatch (sysctl)",
            "CPU hotplug" => "dom0 asks for CPU hotplug (sysctl)",
            _ => "dom0 asks for kexec (hypercall)",
        };
        facts("V16", title, Attacker::Hypercalls, Level::Lock)
    }

    fn attempt(&mut self, lab: &mut Lab) -> Result<Outcome, Failure> {
        let answer = match self.0 {
            "livepatch" => hypercalls::sysctl(&lab.primitive, hypercalls::LIVEPATCH)?,
            "CPU hotplug" => hypercalls::sysctl(&lab.primitive, hypercalls::CPU_HOTPLUG)?,
            _ => hypercalls::kexec(&lab.primitive)?,
        };
        let absent = [libc::ENOSYS, libc::EOPNOTSUPP].map(|errno| -i64::from(errno));
        Ok(if absent.contains(&answer) {
            Outcome::NotApplicable(format!("this Xen has no {}: errno {}", self.0, -answer))
        } else if answer >= 0 {
            Outcome::Success(format!("Xen answers {answer}"))
        } else {
            Outcome::Failed(format!("Xen answers errno {}", -answer))
        })
    }
}
