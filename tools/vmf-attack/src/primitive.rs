//! The attacker's primitives, which a Xen with `CONFIG_VMF_ATTACK` gives to
//! dom0: L1 loads, L2 stores, L3 calls with chosen registers, on a chosen CPU.
//!
//! Numbers are those of `asm/vmf_attack.h` in the patch.
#![allow(unsafe_code, reason = "an ioctl with a pointer")]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// `__HYPERVISOR_vmf_attack`.
const HYPERCALL: u64 = 44;
/// The interface that this program knows.
const INTERFACE: i64 = 1;
const VERSION: u64 = 0;
const STAGE: u64 = 1;
const LOAD: u64 = 2;
const STORE: u64 = 3;
const CALL: u64 = 4;
const RESULT: u64 = 5;
const RETURNED: i64 = 0;
const TRAPPED: i64 = 1;
const STOPPED: i64 = 2;
const ESR: u64 = 32;
const FAR: u64 = 33;
const ELR: u64 = 34;
const TEXT: u64 = 64;
const TEXT_WORDS: u64 = 16;
/// Index that stages the stack pointer.
pub const SP: usize = 31;

/// `IOCTL_PRIVCMD_HYPERCALL`, see Linux, include/uapi/xen/privcmd.h.
const IOCTL: u32 = 0x0030_5000;

#[repr(C)]
struct Hypercall {
    op: u64,
    arguments: [u64; 5],
}

/// How an attempt ended, when it did not return.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// An exception was taken to EL2.
    #[error("{} (ESR_EL2 {esr:#x}, FAR_EL2 {far:#x}, at {elr:#x})", kind(*esr))]
    Trapped {
        /// Syndrome.
        esr: u64,
        /// Fault address.
        far: u64,
        /// The instruction.
        elr: u64,
    },
    /// Xen would have stopped with this message.
    #[error("Xen stops: \"{0}\"")]
    Panicked(String),
    /// The primitive was refused.
    #[error("the attack primitive answers errno {0}")]
    Refused(i64),
}

/// The exception in words (Arm ARM D24.2.40 ESR_EL2).
fn kind(esr: u64) -> String {
    let class = match esr >> 26 {
        0x00 => "undefined instruction".to_owned(),
        0x21 => "instruction abort".to_owned(),
        0x22 => "PC alignment fault".to_owned(),
        0x25 => "data abort".to_owned(),
        0x26 => "SP alignment fault".to_owned(),
        0x3c => "BRK: Xen's own check".to_owned(),
        other => format!("exception class {other:#x}"),
    };
    let status = match esr & 0x3f {
        _ if !matches!(esr >> 26, 0x21 | 0x25) => "",
        0x00..=0x03 => ", address size fault",
        0x04..=0x07 => ", nothing is mapped there",
        0x08..=0x0b => ", access flag fault",
        0x0c..=0x0f => ", permission fault",
        0x10 => ", external abort",
        0x21 => ", alignment fault",
        _ => ", other fault",
    };
    class + status
}

/// What a call left in x0 to x28.
#[derive(Clone, Debug)]
pub struct Registers(Vec<u64>);

impl Registers {
    /// x0.
    pub fn x0(&self) -> u64 {
        self.0[0]
    }

    /// x0 to x28.
    pub fn get(&self, index: usize) -> Option<u64> {
        self.0.get(index).copied()
    }
}

/// The way to Xen.
pub struct Primitive(File);

impl fmt::Debug for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Primitive")
    }
}

impl Primitive {
    /// Opens the driver and asks Xen whether it has the primitives.
    pub fn open() -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/xen/privcmd")?;
        let primitive = Self(file);
        match primitive.raw([VERSION, 0, 0, 0]) {
            INTERFACE => Ok(primitive),
            other => Err(io::Error::other(format!(
                "Xen has no attack primitives of version {INTERFACE} (it answers {other}): boot one with CONFIG_VMF_ATTACK=y, in a lab"
            ))),
        }
    }

    /// Any hypercall: its result, errors as negative numbers.
    ///
    /// # Safety
    /// Whatever memory the hypercall reads or writes by its arguments is valid
    /// for that.
    pub unsafe fn hypercall(&self, op: u64, arguments: [u64; 5]) -> i64 {
        let call = Hypercall { op, arguments };
        // SAFETY: the ioctl reads `call`; the caller answers for the rest.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL as _, &raw const call) };
        if result >= 0 {
            return result.into();
        }
        -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(1))
    }

    fn raw(&self, [cmd, a, b, c]: [u64; 4]) -> i64 {
        // SAFETY: registers only. What happens at EL2 is what this program is
        // for, and no memory of this process.
        unsafe { self.hypercall(HYPERCALL, [cmd, a, b, c, 0]) }
    }

    /// Linux hands out 32 bits of a hypercall's result, so values come in
    /// three pieces.
    fn result(&self, item: u64) -> u64 {
        let piece = |word| (self.raw([RESULT, item, word, 0]) as u64 & 0x7fff_ffff) << (31 * word);
        piece(0) | piece(1) | piece(2)
    }

    fn end(&self, status: i64) -> Result<(), Stop> {
        match status {
            RETURNED => Ok(()),
            TRAPPED => Err(Stop::Trapped {
                esr: self.result(ESR),
                far: self.result(FAR),
                elr: self.result(ELR),
            }),
            STOPPED => {
                let bytes: Vec<u8> = (0..TEXT_WORDS)
                    .flat_map(|word| self.result(TEXT + word).to_le_bytes())
                    .take_while(|byte| *byte != 0)
                    .collect();
                let text = String::from_utf8_lossy(&bytes);
                Err(Stop::Panicked(text.trim().to_owned()))
            }
            errno => Err(Stop::Refused(-errno)),
        }
    }

    /// L1: reads 8 bytes at an EL2 address, on a CPU.
    pub fn load(&self, cpu: u32, va: u64) -> Result<u64, Stop> {
        self.end(self.raw([LOAD, cpu.into(), va, 0]))?;
        Ok(self.result(0))
    }

    /// L2: writes 8 bytes at an EL2 address, on a CPU.
    pub fn store(&self, cpu: u32, va: u64, value: u64) -> Result<(), Stop> {
        self.end(self.raw([STORE, cpu.into(), va, value]))
    }

    /// L3: jumps to an EL2 address with these registers (the others are 0,
    /// x30 the way back), on a CPU.
    pub fn jump(&self, cpu: u32, pc: u64, registers: &[(usize, u64)]) -> Result<Registers, Stop> {
        for &(index, value) in registers {
            match self.raw([STAGE, index as u64, value, 0]) {
                0 => {}
                errno => return Err(Stop::Refused(-errno)),
            }
        }
        self.end(self.raw([CALL, cpu.into(), pc, 0]))?;
        Ok(Registers((0..29).map(|item| self.result(item)).collect()))
    }

    /// L3: calls a function with these arguments, on a CPU; returns its result.
    pub fn call(&self, cpu: u32, function: u64, arguments: &[u64]) -> Result<u64, Stop> {
        for (index, &value) in arguments.iter().enumerate() {
            match self.raw([STAGE, index as u64, value, 0]) {
                0 => {}
                errno => return Err(Stop::Refused(-errno)),
            }
        }
        self.end(self.raw([CALL, cpu.into(), function, 0]))?;
        Ok(self.result(0))
    }

    /// L3: calls a function of the boot without arguments, on a CPU, and puts
    /// HCR_EL2 back, which such code writes for no vCPU.
    pub fn call_boot_code(&self, cpu: u32, function: u64) -> Result<(), Stop> {
        self.end(self.raw([CALL, cpu.into(), function, 1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of the patch that implements them.
    #[test]
    fn numbers_are_those_of_the_patch() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../xen-vmf/patches/xen-4.20-attack"
        );
        let patch: String = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        let number = |name: &str| -> i64 {
            let line = patch.lines().find_map(|line| {
                let mut words = line.strip_prefix("+#define ")?.split_whitespace();
                (words.next()? == name).then(|| words.next()?.parse().ok())?
            });
            line.unwrap_or_else(|| panic!("the patch does not define {name}"))
        };
        for (name, value) in [
            ("VMF_ATTACK_INTERFACE", INTERFACE),
            ("VMF_ATTACK_VERSION", VERSION as i64),
            ("VMF_ATTACK_STAGE", STAGE as i64),
            ("VMF_ATTACK_LOAD", LOAD as i64),
            ("VMF_ATTACK_STORE", STORE as i64),
            ("VMF_ATTACK_CALL", CALL as i64),
            ("VMF_ATTACK_RESULT", RESULT as i64),
            ("VMF_ATTACK_RETURNED", RETURNED),
            ("VMF_ATTACK_TRAPPED", TRAPPED),
            ("VMF_ATTACK_STOPPED", STOPPED),
            ("VMF_ATTACK_ESR", ESR as i64),
            ("VMF_ATTACK_FAR", FAR as i64),
            ("VMF_ATTACK_ELR", ELR as i64),
            ("VMF_ATTACK_TEXT", TEXT as i64),
            ("VMF_ATTACK_TEXT_BYTES", TEXT_WORDS as i64 * 8),
            ("VMF_ATTACK_REG_NR", SP as i64),
            ("__HYPERVISOR_vmf_attack", HYPERCALL as i64),
        ] {
            assert_eq!(number(name), value, "{name}");
        }
    }

    #[test]
    fn exceptions_have_words() {
        let stop = |esr| {
            Stop::Trapped {
                esr,
                far: 0,
                elr: 0,
            }
            .to_string()
        };
        assert!(stop(0x9600_0007).starts_with("data abort, nothing is mapped"));
        assert!(stop(0x9600_004f).starts_with("data abort, permission fault"));
        assert!(stop(0x8600_0006).starts_with("instruction abort, nothing"));
        assert!(stop(0x0200_0000).starts_with("undefined instruction ("));
    }
}
