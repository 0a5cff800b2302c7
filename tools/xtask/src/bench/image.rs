//! How large Xen's image is, of stock Xen and with the fuse.

use std::fs;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol};
use serde::{Deserialize, Serialize};

use crate::xen::Built;

/// What the image may have more than stock Xen's, in bytes.
pub const TARGET: u64 = 96 << 10;
/// Sections that are compared.
const SECTIONS: [&str; 5] = [".text", ".rodata", ".data.ro_after_init", ".data", ".bss"];

/// Sizes in bytes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sizes {
    /// The bootable file.
    pub file: u64,
    /// From `_start` to `_end`: with .bss, which is not in the file.
    pub memory: u64,
    /// Of it, sections.
    pub sections: Vec<(String, u64)>,
}

/// Measures one build.
pub fn measure(built: &Built) -> Result<Sizes> {
    let file = fs::metadata(&built.image)
        .with_context(|| format!("{}: cannot read", built.image.display()))?
        .len();
    let bytes =
        fs::read(&built.syms).with_context(|| format!("{}: cannot read", built.syms.display()))?;
    let syms = object::File::parse(&*bytes).context("xen-syms")?;
    let symbol = |name: &str| {
        let found = syms.symbols().find(|symbol| symbol.name() == Ok(name));
        let found = found.with_context(|| format!("xen-syms has no {name}"))?;
        Ok::<_, anyhow::Error>(found.address())
    };
    let memory = symbol("_end")? - symbol("_start")?;
    let sections = SECTIONS.into_iter().map(|name| {
        let section = syms.section_by_name(name);
        (name.to_owned(), section.map_or(0, |section| section.size()))
    });
    Ok(Sizes {
        file,
        memory,
        sections: sections.collect(),
    })
}
