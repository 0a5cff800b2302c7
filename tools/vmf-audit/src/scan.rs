//! Scans executable memory for the instructions of [`crate::instructions`]: of a machine, every frame that EL2 can
//! execute from; of an ELF file such as xen-syms, its executable sections. Nothing is skipped: A64 instructions are
//! aligned words, so data between functions counts as well.

use crate::audit::{Audit, Root};
use crate::dump::{Dump, FRAME_SIZE};
use crate::error::{Error, Result};
use crate::hex::Hex;
use crate::instructions::{self, Effect, Instruction};
use crate::registers::Registers;
use crate::stage1::Regime;
use crate::symbols::{Functions, executable};
use crate::{stage1, xen};
use object::{Object, ObjectSection};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One instruction that matters, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Mnemonic and register.
    pub instruction: String,
    /// What it can do.
    pub effect: Effect,
    /// Virtual address.
    pub address: Hex,
    /// Machine frame; none in an ELF file.
    pub mfn: Option<Hex>,
    /// The word.
    pub word: Hex,
    /// Function and offset, or the section.
    pub at: Option<String>,
}

/// How often an instruction occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Mnemonic and register.
    pub instruction: String,
    /// What it can do.
    pub effect: Effect,
    /// How often.
    pub count: usize,
}

/// The answer of `scan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scan {
    /// What was scanned, in words.
    pub scanned: String,
    /// Bytes scanned.
    pub bytes: u64,
    /// Each instruction that was found, and how often; by effect.
    pub counts: Vec<Count>,
    /// Every place, by address.
    pub places: Vec<Place>,
}

impl Scan {
    fn new(scanned: String, bytes: u64, mut places: Vec<Place>) -> Scan {
        places.sort_by_key(|p| p.address);
        let mut counts = BTreeMap::new();
        for place in &places {
            *counts
                .entry((place.effect, place.instruction.clone()))
                .or_insert(0) += 1;
        }
        let counts = counts
            .into_iter()
            .map(|((effect, instruction), count)| Count {
                instruction,
                effect,
                count,
            });
        Scan {
            scanned,
            bytes,
            counts: counts.collect(),
            places,
        }
    }
}

/// Calls `found` for every instruction in `code` that matters, with its offset.
fn words(code: &[u8], mut found: impl FnMut(u64, u32, Instruction)) {
    for (i, word) in code.as_chunks().0.iter().enumerate() {
        let word = u32::from_le_bytes(*word);
        if let Some(instruction) = instructions::classify(word) {
            found(4 * i as u64, word, instruction);
        }
    }
}

/// Scans what the given roots can execute from; each frame once, at the first address where it is executable. What of
/// it is not in the dump cannot be scanned: its bytes are the second answer.
pub fn executable_places<'r>(
    dump: &Dump,
    roots: impl IntoIterator<Item = (&'r Regime, &'r stage1::Walk)>,
    name: impl Fn(u64) -> Option<String>,
) -> (Vec<Place>, u64, u64) {
    let (mut places, mut seen, mut bytes, mut missing) = (Vec::new(), BTreeSet::new(), 0, 0);
    for (regime, walk) in roots {
        for leaf in walk.leaves.iter().filter(|l| regime.executes(l)) {
            for offset in (0..leaf.size()).step_by(FRAME_SIZE as usize) {
                let (va, pa) = (leaf.va + offset, leaf.pa + offset);
                if !seen.insert(pa) {
                    continue;
                }
                let Some(code) = dump.bytes_at(pa, FRAME_SIZE as usize) else {
                    // A block outside RAM is missing as a whole: no need to look at each of its frames.
                    missing += FRAME_SIZE;
                    continue;
                };
                bytes += FRAME_SIZE;
                words(code, |at, word, instruction| {
                    places.push(Place {
                        instruction: instruction.name,
                        effect: instruction.effect,
                        address: Hex(va + at),
                        mfn: Some(Hex(pa / FRAME_SIZE)),
                        word: Hex(u64::from(word)),
                        at: name(va + at),
                    });
                });
            }
        }
    }
    (places, bytes, missing)
}

impl Audit {
    /// Every instruction that matters in what any CPU can execute from at EL2, and the bytes that were looked at and
    /// that could not be.
    pub fn executable_places(&self) -> (Vec<Place>, u64, u64) {
        let name = |va| self.found.as_ref()?.functions.name(va);
        let on = |root: &&Root| root.regime.mmu;
        let roots = self.roots.iter().filter(on).map(|r| (&r.regime, &r.walk));
        executable_places(&self.dump, roots, name)
    }
}

/// Scans a machine's executable memory.
pub fn machine(dump: &Dump, registers: &Registers, functions: &Functions) -> Result<Scan> {
    registers.check()?;
    let mut walks = Vec::new();
    for (i, cpu) in registers.cpus.iter().enumerate() {
        let at = |e: Error| Error::CannotJudge(format!("CPU {i}: {e}"));
        let regime = Regime::of(cpu).map_err(at)?;
        if !regime.mmu {
            return Err(Error::CannotJudge(format!(
                "CPU {i} has its EL2 MMU off: it can execute from all memory"
            )));
        }
        if walks.iter().all(|(r, _)| *r != regime) {
            walks.push((regime, stage1::walk(dump, &regime).map_err(at)?));
        }
    }
    let roots = walks.iter().map(|(r, w)| (r, w));
    let (places, bytes, missing) = executable_places(dump, roots, |va| functions.name(va));
    let mut scanned = "executable memory of EL2".to_owned();
    if missing != 0 {
        scanned += &format!("; {missing:#x} bytes of it are not in the dump");
    }
    Ok(Scan::new(scanned, bytes, places))
}

/// Scans the executable sections of an ELF file.
pub fn elf(data: &[u8]) -> Result<Scan> {
    let bad = |e: object::Error| Error::Symbols(format!("not a usable ELF file: {e}"));
    let file = object::read::elf::ElfFile64::<object::LittleEndian>::parse(data).map_err(bad)?;
    if file.architecture() != object::Architecture::Aarch64 {
        return Err(Error::Symbols("it is not an AArch64 ELF file".into()));
    }
    let functions = Functions::of(&file);
    let (mut names, mut places, mut bytes) = (Vec::new(), Vec::new(), 0);
    for section in file.sections().filter(executable) {
        let name = section.name().map_err(bad)?.to_owned();
        let code = section.data().map_err(bad)?;
        words(code, |at, word, instruction| {
            let va = section.address() + at;
            places.push(Place {
                instruction: instruction.name,
                effect: instruction.effect,
                address: Hex(va),
                mfn: None,
                word: Hex(u64::from(word)),
                at: functions.name(va).map(|f| format!("{f} ({name})")),
            });
        });
        bytes += code.len() as u64;
        names.push(name);
    }
    if names.is_empty() {
        return Err(Error::Symbols("it has no executable section".into()));
    }
    Ok(Scan::new(names.join(", "), bytes, places))
}

/// Functions of a xen-syms, for names only.
pub fn functions(path: &Path) -> Result<Functions> {
    Ok(crate::symbols::Symbols::open(path, xen::MEMBERS)?.functions)
}
