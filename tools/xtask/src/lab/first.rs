//! The first instruction of any guest: the machine is stopped right before it.
//!
//! A64 has one instruction by which Xen goes to a guest, ERET. A breakpoint is on
//! each one of Xen's, from before Xen's own first instruction on. A CPU that comes
//! to one makes that one step: back into Xen it was of no interest, else the CPU
//! is in a guest now that has not run an instruction yet, while the others still
//! stand in Xen.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

use super::gdb::{CPSR, Gdb, PC};

/// ERET.
const ERET: u32 = 0xd69f_03e0;
/// CPSR.M[3:2]: the exception level.
const LEVEL: u64 = 0b1100;
/// That of EL2.
const EL2: u64 = 0b1000;

/// Every ERET of Xen's.
pub struct Exits {
    addresses: Vec<u64>,
}

/// Where the first guest stands.
#[derive(Clone, Debug)]
pub struct First {
    /// The CPU.
    pub cpu: u32,
    /// Address of the instruction, as the guest has it.
    pub pc: u64,
    /// How often a CPU had gone back to Xen by one of the exits before.
    pub before: usize,
    /// A line that a domain had written by then; there must be none.
    pub heard: Option<String>,
}

impl Exits {
    /// Finds them in `xen-syms`, in every section that is executable.
    pub fn find(xen_syms: &Path) -> Result<Self> {
        let bytes = std::fs::read(xen_syms)
            .with_context(|| format!("{}: cannot read", xen_syms.display()))?;
        let file = object::File::parse(&*bytes).context("xen-syms")?;
        let mut addresses = Vec::new();
        for section in file.sections() {
            if section.kind() == object::SectionKind::Text {
                let data = section.data().context("xen-syms")?;
                addresses.extend(erets(data).map(|offset| section.address() + offset));
            }
        }
        ensure!(!addresses.is_empty(), "xen-syms has no ERET");
        Ok(Self { addresses })
    }
}

/// Offsets of ERET in code.
fn erets(code: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let words = code.chunks_exact(4).zip((0u64..).step_by(4));
    words
        .filter(|(word, _)| *word == ERET.to_le_bytes())
        .map(|(_, at)| at)
}

/// Lets a machine that has not run yet run up to the first instruction of any
/// guest. It stands still when this returns.
pub fn stop(gdb: &mut Gdb, exits: &Exits, cpus: u32, deadline: Instant) -> Result<First> {
    for &address in &exits.addresses {
        gdb.breakpoint(address, true)?;
    }
    let mut before = 0;
    let (cpu, pc) = loop {
        ensure!(Instant::now() < deadline, "no guest is started");
        gdb.resume()?;
        let cpu = gdb.stopped()?;
        let exit = gdb.get(cpu, PC)?;
        ensure!(
            exits.addresses.contains(&exit),
            "CPU {cpu} has stopped at {exit:#x}, which is no exit"
        );
        // Off the breakpoint first, or it would be hit again at once.
        gdb.breakpoint(exit, false)?;
        gdb.step(cpu)?;
        gdb.breakpoint(exit, true)?;
        if in_guest(gdb, cpu)? {
            break (cpu, gdb.get(cpu, PC)?);
        }
        before += 1;
    };
    for &address in &exits.addresses {
        gdb.breakpoint(address, false)?;
    }
    for other in (0..cpus).filter(|&other| other != cpu) {
        ensure!(
            !in_guest(gdb, other)?,
            "CPU {other} was in a guest before CPU {cpu}"
        );
    }
    Ok(First {
        cpu,
        pc,
        before,
        heard: None,
    })
}

/// Whether the CPU is below EL2. One that is off reads as EL2 or EL3.
fn in_guest(gdb: &mut Gdb, cpu: u32) -> Result<bool> {
    Ok(gdb.get(cpu, CPSR)? & LEVEL < EL2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_is_found() {
        let words: [u32; 4] = [0xd503_201f, ERET, 0xd503_3fdf, ERET];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(erets(&code).collect::<Vec<_>>(), [4, 12]);
        assert_eq!(erets(&code[..4]).count(), 0);
    }
}
