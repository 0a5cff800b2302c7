//! Entering the gates: one CPU, stopped at EL2, is made to branch to every
//! instruction of the two routines that write VTTBR_EL2 and HCR_EL2, with
//! registers of somebody who wants another value there, and is put back.
//!
//! The CPU executes one instruction after the other, with interrupts held back
//! by the debugger; that an interrupt comes right behind the write is played
//! as well, by sending the CPU to its vector.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSymbol};

use super::gdb::{CPSR, Gdb, PC};

/// X30.
const LR: u32 = 30;
/// The stack pointer's number in `aarch64-core.xml`.
const SP: u32 = 31;
/// No way through the gates has more instructions.
const STEPS: usize = 400;
/// Offset of the vector for an IRQ from the current EL, with SP_ELx.
const IRQ_VECTOR: u64 = 0x280;
/// MSR VTTBR_EL2, X0 and MSR HCR_EL2, X0.
const WRITES: [u32; 2] = [0xd51c_2100, 0xd51c_1100];

/// Where things are, from `xen-syms`.
pub struct Gates {
    /// Start of `vmf_gate_vttbr`, of `vmf_gate_hcr`.
    entries: [u64; 2],
    /// First instruction, and the one after the last, of gates and check.
    code: (u64, u64),
    /// Where a refused value ends.
    refused: u64,
    /// Where CPUs are stopped; the gates are made to return there as well.
    stop: u64,
    /// Xen's own C code for exceptions from EL2, which comes after the check.
    handlers: [u64; 2],
}

/// How a visit to the gates ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// They returned to the caller.
    Returned,
    /// An exception reached Xen's handler.
    Handled,
    /// They ended in `vmf_gate_refused`.
    Refused,
    /// Neither: the CPU runs in circles.
    Stuck,
}

/// What was tried, and how often it ended how.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Visits by end.
    pub ends: BTreeMap<End, usize>,
    /// Visits after which VTTBR_EL2 or HCR_EL2 held what is not allowed.
    pub forged: Vec<String>,
}

/// Bits of HCR_EL2 that may differ between vCPUs: VF, VI, VSE, TWI, TWE, TVM, RW.
const VARIES: u64 = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 13 | 1 << 14 | 1 << 26 | 1 << 31;

impl Gates {
    /// Finds them.
    pub fn find(xen_syms: &Path) -> Result<Self> {
        let bytes = std::fs::read(xen_syms)
            .with_context(|| format!("{}: cannot read", xen_syms.display()))?;
        let file = object::File::parse(&*bytes).context("xen-syms")?;
        let symbol = |name: &str| {
            file.symbols()
                .find(|symbol| symbol.name() == Ok(name))
                .with_context(|| format!("xen-syms has no {name}"))
        };
        let check = symbol("vmf_check_loaded")?;
        let entries = [
            symbol("vmf_gate_vttbr")?.address(),
            symbol("vmf_gate_hcr")?.address(),
        ];
        ensure!(check.size() != 0, "vmf_check_loaded has no size");
        Ok(Self {
            entries,
            code: (entries[0], check.address() + check.size()),
            refused: symbol("vmf_gate_refused")?.address(),
            stop: symbol("gic_interrupt")?.address(),
            handlers: [
                symbol("do_trap_irq")?.address(),
                symbol("do_trap_hyp_sync")?.address(),
            ],
        })
    }
}

/// A CPU that stands still at EL2, and what it was doing.
pub struct Stopped<'a> {
    gdb: &'a mut Gdb,
    gates: &'a Gates,
    cpu: u32,
    registers: Vec<(u32, u64)>,
    values: [u64; 2],
}

impl<'a> Stopped<'a> {
    /// Stops the first CPU that takes an interrupt at EL2; `wake` makes one do so.
    pub fn stop(
        gdb: &'a mut Gdb,
        gates: &'a Gates,
        wake: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        gdb.breakpoint(gates.stop, true)?;
        gdb.resume()?;
        wake()?;
        let cpu = gdb.stopped()?;
        gdb.breakpoint(gates.stop, false)?;
        let mut registers = Vec::new();
        for register in (0..=SP).chain([PC, CPSR]) {
            registers.push((register, gdb.get(cpu, register)?));
        }
        let values = [gdb.read(cpu, "VTTBR_EL2")?, gdb.read(cpu, "HCR_EL2")?];
        Ok(Self {
            gdb,
            gates,
            cpu,
            registers,
            values,
        })
    }

    /// What the two registers hold, untouched.
    pub fn values(&self) -> [u64; 2] {
        self.values
    }

    /// Branches to every instruction with `value` in every register that does
    /// not hold a return address, and right behind each write to the IRQ
    /// vector. Values of VTTBR_EL2 other than `stage2` are not allowed, nor
    /// bits of HCR_EL2 that differ from what it holds now.
    pub fn visit_all(&mut self, value: u64, stage2: &[u64], deadline: Instant) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for at in (self.gates.code.0..self.gates.code.1).step_by(4) {
            let ways: &[bool] = if self.writes(at)? {
                &[false, true]
            } else {
                &[false]
            };
            for &interrupted in ways {
                ensure!(Instant::now() < deadline, "the visits take too long");
                let end = self.visit(at, value, interrupted)?;
                *outcome.ends.entry(end).or_default() += 1;
                let [vttbr, hcr] = self.read()?;
                if !stage2.contains(&vttbr) || (hcr ^ self.values[1]) & !VARIES != 0 {
                    let how = if interrupted { ", interrupted" } else { "" };
                    outcome.forged.push(format!(
                        "entered at {at:#x}{how}: {end:?} with VTTBR_EL2 {vttbr:#x}, HCR_EL2 {hcr:#x}"
                    ));
                }
                self.restore()?;
            }
        }
        Ok(outcome)
    }

    /// Whether the instruction is one of the two writes.
    fn writes(&mut self, at: u64) -> Result<bool> {
        let word = self.gdb.word(at)?;
        Ok(WRITES.contains(&word))
    }

    fn visit(&mut self, at: u64, value: u64, interrupted: bool) -> Result<End> {
        for register in 0..LR {
            self.gdb.set(self.cpu, register, value)?;
        }
        self.gdb.set(self.cpu, LR, self.gates.stop)?;
        self.gdb.set(self.cpu, PC, at)?;
        if interrupted {
            self.gdb.step(self.cpu)?;
            let vectors = self.gdb.read(self.cpu, "VBAR_EL2")?;
            self.gdb.set(self.cpu, PC, vectors + IRQ_VECTOR)?;
        }
        self.run()
    }

    fn read(&mut self) -> Result<[u64; 2]> {
        Ok([
            self.gdb.read(self.cpu, "VTTBR_EL2")?,
            self.gdb.read(self.cpu, "HCR_EL2")?,
        ])
    }

    /// Runs until the gates are left.
    fn run(&mut self) -> Result<End> {
        for _ in 0..STEPS {
            let pc = self.gdb.get(self.cpu, PC)?;
            if pc == self.gates.stop {
                return Ok(End::Returned);
            }
            if self.gates.handlers.contains(&pc) {
                return Ok(End::Handled);
            }
            if pc == self.gates.refused {
                return Ok(End::Refused);
            }
            self.gdb.step(self.cpu)?;
        }
        Ok(End::Stuck)
    }

    /// Puts everything back, the two registers through their gates.
    pub fn restore(&mut self) -> Result<()> {
        for (gate, value) in self.gates.entries.into_iter().zip(self.values).rev() {
            for &(register, value) in &self.registers {
                self.gdb.set(self.cpu, register, value)?;
            }
            self.gdb.set(self.cpu, 0, value)?;
            self.gdb.set(self.cpu, LR, self.gates.stop)?;
            self.gdb.set(self.cpu, PC, gate)?;
            let end = self.run()?;
            ensure!(
                end == End::Returned,
                "putting {value:#x} back through the gate at {gate:#x} ended {end:?}"
            );
        }
        let now = self.read()?;
        if now != self.values {
            bail!(
                "VTTBR_EL2 and HCR_EL2 are {now:#x?}, and were {:#x?}",
                self.values
            );
        }
        for &(register, value) in &self.registers {
            self.gdb.set(self.cpu, register, value)?;
        }
        Ok(())
    }

    /// Lets the machine run on from where it was.
    pub fn go(self) -> Result<()> {
        self.gdb.step(self.cpu)
    }
}
