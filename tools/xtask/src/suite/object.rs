//! Compares the code of two builds of Xen. Only `.text` counts: build ids,
//! dates, paths and debug information lie elsewhere and may differ.

use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol};

/// Fails unless `.text` of both files is the same, byte for byte, at the same address.
pub fn same_text(one: &Path, other: &Path) -> Result<()> {
    let (first, second) = (std::fs::read(one)?, std::fs::read(other)?);
    let (first, second) = (parse(&first, one)?, parse(&second, other)?);
    let (start, a) = text(&first, one)?;
    let (other_start, b) = text(&second, other)?;
    if start != other_start {
        bail!(".text starts at {start:#x} in one and at {other_start:#x} in the other");
    }
    match difference(a, b) {
        None => Ok(()),
        Some(offset) => {
            let address = start + offset as u64;
            bail!(
                ".text differs at {address:#x}, in {} (of {} and {} bytes)",
                function(&first, address).unwrap_or("no function"),
                a.len(),
                b.len()
            )
        }
    }
}

fn parse<'a>(data: &'a [u8], path: &Path) -> Result<object::File<'a>> {
    object::File::parse(data).with_context(|| format!("{} is no object file", path.display()))
}

fn text<'a>(file: &object::File<'a>, path: &Path) -> Result<(u64, &'a [u8])> {
    let section = file
        .section_by_name(".text")
        .with_context(|| format!("{} has no .text", path.display()))?;
    let data = section.data()?;
    if data.is_empty() {
        bail!("{} has an empty .text", path.display());
    }
    Ok((section.address(), data))
}

/// Offset of the first byte that differs, or where the shorter one ends.
fn difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    let same = one.iter().zip(other).position(|(one, other)| one != other);
    Some(same.unwrap_or_else(|| one.len().min(other.len())))
}

/// The function that `address` lies in.
fn function<'a>(file: &object::File<'a>, address: u64) -> Option<&'a str> {
    file.symbols()
        .filter(|symbol| symbol.kind() == object::SymbolKind::Text && symbol.address() <= address)
        .max_by_key(|symbol| symbol.address())
        .and_then(|symbol| symbol.name().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_is_found_in_the_middle_and_at_the_end() {
        assert_eq!(difference(&[1, 2, 3], &[1, 2, 3]), None);
        assert_eq!(difference(&[1, 2, 3], &[1, 9, 3]), Some(1));
        assert_eq!(difference(&[1, 2, 3], &[1, 2]), Some(2));
    }
}
