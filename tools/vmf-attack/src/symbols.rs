//! What the attacker knows of the Xen at hand: addresses, offsets, and where
//! useful instructions are. The lab writes it from xen-syms, one fact a line.

use std::collections::HashMap;
use std::path::Path;

use crate::Failure;

/// An instruction of Xen's text, and what is executed behind it.
#[derive(Clone, Debug)]
pub struct Code {
    /// Its address.
    pub address: u64,
    /// It and the instructions behind it.
    words: Vec<u32>,
}

impl Code {
    /// The register that the instruction reads or writes.
    pub fn register(&self) -> usize {
        (self.words[0] & 0x1f) as usize
    }

    /// The register into which the code behind it puts SCTLR_EL2, if it does.
    pub fn reads_sctlr(&self) -> Option<usize> {
        let mrs = self
            .words
            .iter()
            .find(|word| *word & !0x1f == MRS_SCTLR_EL2)?;
        Some((mrs & 0x1f) as usize)
    }

    /// Instructions up to a `ret`, if nothing on the way branches or touches
    /// memory but for barriers, TLB maintenance and moves between registers.
    fn length(&self) -> Option<usize> {
        let end = self.words.iter().position(|word| *word == RET)?;
        let harmless = |word: &u32| {
            // Barriers, hints, MSR, MRS, SYS (Arm ARM C4.1.94), and data
            // processing with registers and immediates (C4.1.92, C4.1.95).
            word >> 22 == 0x354 || word >> 26 & 7 == 4 || word >> 25 & 7 == 5
        };
        self.words[1..end].iter().all(harmless).then_some(end)
    }
}

/// `mrs x0, sctlr_el2`.
const MRS_SCTLR_EL2: u32 = 0xd53c_1000;
/// `ret`.
const RET: u32 = 0xd65f_03c0;

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Symbols {
    symbols: HashMap<String, u64>,
    members: HashMap<(String, String), u64>,
    code: Vec<(String, Code)>,
}

impl Symbols {
    /// Reads the lab's file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure(format!("{}: {error}", path.display())))?;
        Self::parse(&text)
            .ok_or_else(|| Failure(format!("{}: not a list of symbols", path.display())))
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
        let mut symbols = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["symbol", name, value] => {
                    symbols.symbols.insert(name.to_owned(), number(value)?);
                }
                ["member", of, path, value] => {
                    let key = (of.to_owned(), path.to_owned());
                    symbols.members.insert(key, number(value)?);
                }
                ["code", kind, address, ref words @ ..] if !words.is_empty() => {
                    let words = words
                        .iter()
                        .map(|word| number(word).map(|word| word as u32))
                        .collect::<Option<_>>()?;
                    let address = number(address)?;
                    symbols
                        .code
                        .push((kind.to_owned(), Code { address, words }));
                }
                _ => return None,
            }
        }
        Some(symbols)
    }

    /// The address of a symbol that this build of Xen may lack.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &str) -> Result<u64, Failure> {
        self.find(name)
            .ok_or_else(|| Failure(format!("the symbols do not say where {name} is")))
    }

    /// The offset of a member of a struct.
    pub fn member(&self, of: &str, path: &str) -> Result<u64, Failure> {
        let key = (of.to_owned(), path.to_owned());
        let offset = self.members.get(&key).copied();
        offset.ok_or_else(|| Failure(format!("the symbols do not say where {of}.{path} is")))
    }

    /// Instructions of this kind, those first that are followed by the fewest
    /// others before a return.
    pub fn code(&self, kind: &str) -> Vec<Code> {
        let of_kind = self.code.iter().filter(|(name, _)| name == kind);
        let mut found: Vec<Code> = of_kind.map(|(_, code)| code.clone()).collect();
        found.sort_by_key(|code| code.length().unwrap_or(usize::MAX));
        found
    }

    /// The best instruction of this kind that returns soon.
    pub fn clean(&self, kind: &str) -> Option<Code> {
        let first = self.code(kind).into_iter().next()?;
        first.length().is_some().then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "symbol a 0x10\nmember s p.q 0x8\n\
        code msr-vttbr_el2 0x100 0xd51c2100 0x94000001 0xd65f03c0\n\
        code msr-vttbr_el2 0x200 0xd51c2103 0xd5033fdf 0xd65f03c0\n";

    #[test]
    fn what_is_written_is_read() {
        let symbols = Symbols::parse(TEXT).unwrap();
        assert_eq!(symbols.symbol("a").unwrap(), 0x10);
        assert!(symbols.symbol("b").is_err());
        assert_eq!(symbols.member("s", "p.q").unwrap(), 8);
        assert!(Symbols::parse("nonsense").is_none());
    }

    #[test]
    fn code_that_branches_is_not_clean() {
        let symbols = Symbols::parse(TEXT).unwrap();
        let best = symbols.clean("msr-vttbr_el2").unwrap();
        assert_eq!((best.address, best.register()), (0x200, 3));
        assert!(symbols.clean("smc").is_none());
    }
}
