//! Touching an address from inside Xen, on every CPU: what the hardware really
//! translates, its TLB included, where a walk of the tables in memory would
//! only tell what it should.
//!
//! Each CPU is stopped where it has just taken an interrupt to EL2, is made to
//! execute one load of Xen's own with an address of our choice, and is put back
//! as it was. A fault has then overwritten ELR, SPSR, ESR and FAR of EL2; the
//! interrupt's entry code has saved what is needed of them already.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol};

use super::gdb::{CPSR, Gdb, PC};

/// Where CPUs are stopped, and what they are made to execute.
pub struct Places {
    /// Xen's first C function after an interrupt's entry.
    stop: u64,
    /// A load, `LDR X<t>, [X<n>]`.
    load: u64,
    /// Its encoding, to see that it is still there.
    word: u32,
    /// Called in the lock when all has been decided and nothing been done.
    commit: u64,
    /// Called next, when it is done, while all CPUs still wait.
    done: u64,
}

/// LDR (immediate, unsigned offset 0), 64-bit: all bits but the registers.
const LDR: u32 = 0xf940_0000;
/// Its two register fields.
const REGISTERS: u32 = 0x3ff;

impl Places {
    /// Finds both in `xen-syms`.
    pub fn find(xen_syms: &Path) -> Result<Self> {
        let bytes = std::fs::read(xen_syms)
            .with_context(|| format!("{}: cannot read", xen_syms.display()))?;
        let file = object::File::parse(&*bytes).context("xen-syms")?;
        let symbol = |name: &str| {
            let mut symbols = file.symbols();
            let found = symbols.find(|symbol| symbol.name() == Ok(name));
            let found = found.with_context(|| format!("xen-syms has no {name}"))?;
            Ok::<_, anyhow::Error>(found.address())
        };
        let text = file
            .section_by_name(".text")
            .context("xen-syms has no .text")?;
        // Behind the code that a sealed machine does not map.
        let kept = symbol("__vmf_smc_end")?;
        let skipped = usize::try_from(kept - text.address()).context("xen-syms")?;
        let data = text.data().context("xen-syms")?;
        let data = data.get(skipped..).context("xen-syms: .text is short")?;
        let (index, word) = load(data).context("Xen has no plain load")?;
        Ok(Self {
            stop: symbol("gic_interrupt")?,
            commit: symbol("vmf_c_freeze_done")?,
            done: symbol("vmf_c_now")?,
            load: kept + index,
            word,
        })
    }
}

/// The first plain load between two different general registers.
fn load(text: &[u8]) -> Option<(u64, u32)> {
    text.chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .zip((0u64..).step_by(4))
        .find(|(word, _)| {
            let (n, t) = (word >> 5 & 31, word & 31);
            word & !REGISTERS == LDR && n != t && n < 29 && t < 29
        })
        .map(|(word, at)| (at, word))
}

/// For each CPU, which of `addresses` a load at EL2 can reach. `wake` is called
/// once the machine runs again, to make every CPU take an interrupt.
pub fn touch(
    gdb: &mut Gdb,
    places: &Places,
    cpus: u32,
    addresses: &[u64],
    deadline: Instant,
    wake: impl FnOnce() -> Result<()>,
) -> Result<Vec<Vec<bool>>> {
    let mut reached: Vec<Option<Vec<bool>>> = vec![None; cpus as usize];
    gdb.breakpoint(places.stop, true)?;
    gdb.resume()?;
    wake()?;
    while reached.iter().any(Option::is_none) {
        ensure!(
            Instant::now() < deadline,
            "some CPUs take no interrupt: {:?}",
            reached.iter().map(Option::is_some).collect::<Vec<_>>()
        );
        let cpu = gdb.stopped()?;
        // Off the breakpoint first, or it would be hit again at once.
        gdb.breakpoint(places.stop, false)?;
        let slot = &mut reached[cpu as usize];
        if slot.is_none() {
            let mut each = Vec::new();
            for address in addresses {
                each.push(load_at(gdb, places, cpu, *address)?);
            }
            *slot = Some(each);
        }
        gdb.step(cpu)?;
        gdb.breakpoint(places.stop, true)?;
        gdb.resume()?;
    }
    gdb.interrupt()?;
    gdb.breakpoint(places.stop, false)?;
    Ok(reached.into_iter().flatten().collect())
}

/// A machine that is going to be stopped twice in the lock: when all has been
/// decided and nothing been done, and when all has been done and the CPUs still
/// wait. Later, what a guest does to EL1 registers would have emptied QEMU's
/// TLBs.
pub struct Watch {
    gdb: Gdb,
    cpus: u32,
    places: Places,
}

/// For each CPU, which addresses a load has reached.
pub type Reached = Vec<Vec<bool>>;

impl Watch {
    /// Lets the machine run up to the first place.
    pub fn new(mut gdb: Gdb, cpus: u32, places: Places) -> Result<Self> {
        gdb.breakpoint(places.commit, true)?;
        gdb.resume()?;
        Ok(Self { gdb, cpus, places })
    }

    /// Makes every CPU load from `addresses` at both places. Without these
    /// loads at the first, nothing would be in the TLBs at the second.
    pub fn touch(mut self, addresses: &[u64]) -> Result<(Reached, Reached)> {
        let before = self.stop(self.places.commit, addresses)?;
        self.gdb.breakpoint(self.places.done, true)?;
        self.gdb.resume()?;
        let after = self.stop(self.places.done, addresses)?;
        self.gdb.detach()?;
        Ok((before, after))
    }

    /// Waits until a CPU comes to `at`, and leaves it one instruction later.
    fn stop(&mut self, at: u64, addresses: &[u64]) -> Result<Reached> {
        let stopped = self.gdb.stopped()?;
        self.gdb.breakpoint(at, false)?;
        let mut reached = Vec::new();
        for cpu in 0..self.cpus {
            let mut each = Vec::new();
            for address in addresses {
                each.push(load_at(&mut self.gdb, &self.places, cpu, *address)?);
            }
            reached.push(each);
        }
        self.gdb.step(stopped)?;
        Ok(reached)
    }
}

/// Whether one load on one stopped CPU comes back.
fn load_at(gdb: &mut Gdb, places: &Places, cpu: u32, address: u64) -> Result<bool> {
    let (n, t) = (places.word >> 5 & 31, places.word & 31);
    let mut saved = Vec::new();
    for register in [n, t, PC, CPSR] {
        saved.push((register, gdb.get(cpu, register)?));
    }
    let word = gdb.word(places.load)?;
    ensure!(
        word == places.word,
        "Xen has patched the load at {:#x}: {word:#x}",
        places.load
    );
    gdb.set(cpu, n, address)?;
    gdb.set(cpu, PC, places.load)?;
    gdb.step(cpu)?;
    let pc = gdb.get(cpu, PC)?;
    let vector = gdb.read(cpu, "VBAR_EL2")? + 0x200;
    for (register, value) in saved {
        gdb.set(cpu, register, value)?;
    }
    if pc == places.load + 4 {
        return Ok(true);
    }
    if pc == vector {
        return Ok(false);
    }
    bail!("CPU {cpu} went to {pc:#x} on a load from {address:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_plain_load_is_found() {
        let words: [u32; 4] = [
            0xd503_201f, // nop
            0xf940_0021, // ldr x1, [x1]: destroys its own address
            0xf940_0420, // ldr x0, [x1, #8]
            0xf940_0262, // ldr x2, [x19]
        ];
        let text: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(load(&text), Some((12, 0xf940_0262)));
        assert_eq!(load(&text[..12]), None);
    }
}
