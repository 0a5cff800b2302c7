//! Counting TLB maintenance: a debugger stops at every TLBI instruction that
//! Xen's image has, between calls of one of Xen's functions that mark what is
//! done next. What Xen executes is counted, not what it says of itself.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags};

use super::gdb::{Gdb, PC};

/// What is done next is the first argument of a mark.
const ARGUMENT: u32 = 0;
/// TLBI is SYS with CRn 8 (Arm ARM C5.5): the bits that say so, and what they
/// are.
const TLBI_MASK: u32 = 0xfff8_f000;
const TLBI: u32 = 0xd508_8000;
/// A section that is executable (ELF, SHF_EXECINSTR).
const EXECUTABLE: u64 = 4;

/// Where the machine is stopped.
pub struct Marks {
    mark: u64,
    last: u64,
    tlbis: Vec<u64>,
}

/// What was counted from one mark to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Argument of the mark.
    pub mark: u64,
    /// TLBI instructions that were executed.
    pub tlbis: u64,
}

impl Marks {
    /// Finds the function `mark` in `xen-syms`, and all TLBI instructions;
    /// counting ends with the mark `last`.
    pub fn find(xen_syms: &Path, mark: &str, last: u64) -> Result<Self> {
        let bytes = std::fs::read(xen_syms)
            .with_context(|| format!("{}: cannot read", xen_syms.display()))?;
        let file = object::File::parse(&*bytes).context("xen-syms")?;
        let mut symbols = file.symbols();
        let symbol = symbols.find(|symbol| symbol.name() == Ok(mark));
        let mut tlbis = Vec::new();
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else {
                continue;
            };
            if sh_flags & EXECUTABLE != 0 {
                let data = section.data().context("xen-syms")?;
                tlbis.extend(found(data).map(|at| section.address() + at));
            }
        }
        ensure!(!tlbis.is_empty(), "xen-syms has no TLBI instruction");
        Ok(Self {
            mark: symbol
                .with_context(|| format!("xen-syms has no {mark}"))?
                .address(),
            last,
            tlbis,
        })
    }
}

/// Offsets of the TLBI instructions in a section.
fn found(text: &[u8]) -> impl Iterator<Item = u64> {
    text.chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .zip((0u64..).step_by(4))
        .filter(|(word, _)| word & TLBI_MASK == TLBI)
        .map(|(_, at)| at)
}

/// Lets the machine run until the last mark, and counts between the marks.
pub fn count(gdb: &mut Gdb, marks: &Marks) -> Result<Vec<Counted>> {
    let mut counted: Vec<Counted> = Vec::new();
    gdb.breakpoint(marks.mark, true)?;
    loop {
        gdb.resume()?;
        let cpu = gdb.stopped()?;
        let at = gdb.get(cpu, PC)?;
        if at == marks.mark {
            let mark = gdb.get(cpu, ARGUMENT)?;
            if counted.is_empty() {
                // Not from the start: boot is full of them.
                for tlbi in &marks.tlbis {
                    gdb.breakpoint(*tlbi, true)?;
                }
            }
            counted.push(Counted { mark, tlbis: 0 });
            if mark == marks.last {
                break;
            }
        } else {
            ensure!(
                marks.tlbis.contains(&at),
                "the machine stops at {at:#x}, where nothing is"
            );
            let now = counted.last_mut().context("no mark yet")?;
            now.tlbis += 1;
        }
        // Off the breakpoint, or it is hit again at once.
        gdb.breakpoint(at, false)?;
        gdb.step(cpu)?;
        gdb.breakpoint(at, true)?;
    }
    for at in marks.tlbis.iter().chain([&marks.mark]) {
        gdb.breakpoint(*at, false)?;
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tlbi_is_found_and_nothing_else() {
        let words: [u32; 5] = [
            0xd503_201f, // nop
            0xd50c_871f, // tlbi alle2
            0xd50c_8322, // tlbi vae2is, x2
            0xd50b_7a20, // dc cvac, x0
            0xd508_871f, // tlbi vmalle1
        ];
        let text: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(found(&text).collect::<Vec<_>>(), [4, 8, 16]);
    }
}
