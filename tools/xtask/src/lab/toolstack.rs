//! Xen's own tools for dom0: which programs, and the libraries that they need.
//!
//! Programs stay where Debian has them, because they look for each other
//! there. Libraries are found by name, over and over, until none is missing:
//! a machine that boots without one would say so much later, and worse.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::read::elf::{Dyn, ElfFile64, FileHeader};
use object::{Endianness, elf};

use super::initramfs::Extra;

/// Where Debian keeps the tools of this version; they have the path built in.
const PROGRAMS: &str = "usr/lib/xen-4.20/bin";
/// What dom0 gets from there.
const NAMES: [&str; 12] = [
    "init-dom0less",
    "libxl-save-helper",
    "oxenstored",
    "xen-init-dom0",
    "xenconsole",
    "xenconsoled",
    "xenctx",
    "xenpm",
    "xenstored",
    "xentrace",
    "xenwatchdogd",
    "xl",
];
/// What dom0 gets from elsewhere.
const OTHERS: [&str; 8] = [
    "etc/xen/oxenstored.conf",
    "etc/xen/xl.conf",
    "usr/bin/xenstore-ls",
    "usr/bin/xenstore-read",
    "usr/bin/xenstore-rm",
    "usr/bin/xenstore-write",
    "usr/lib/xen-4.20/ocaml/xsd_glue/xenctrl_plugin/domain_getinfo_v1.cmxs",
    "usr/sbin/xenhypfs",
];
/// What no program names: the C library loads it when a thread is cancelled.
const UNNAMED: &str = "libgcc_s.so.1";
/// Where libraries are in a package.
const LIBRARIES: &str = "usr/lib/aarch64-linux-gnu";
/// What the kernel starts a program with, by the name that programs have built in.
const INTERPRETER: &str = "lib/ld-linux-aarch64.so.1";

/// Everything that goes into dom0's ramdisk, out of these unpacked packages.
pub fn files(packages: &[PathBuf]) -> Result<Vec<Extra>> {
    let programs = NAMES.map(|name| format!("{PROGRAMS}/{name}"));
    let programs = programs.into_iter().chain(OTHERS.map(str::to_owned));
    let mut files = Vec::new();
    for name in programs {
        let path = find(packages, &name).with_context(|| format!("no package has {name}"))?;
        files.push(Extra { name, path });
    }
    let libraries = closure(&files, |library| {
        find(packages, &format!("{LIBRARIES}/{library}"))
    })?;
    for (library, path) in libraries {
        let name = match INTERPRETER.strip_suffix(&library) {
            Some("lib/") => INTERPRETER.to_owned(),
            _ => format!("{LIBRARIES}/{library}"),
        };
        files.push(Extra { name, path });
    }
    Ok(files)
}

fn find(packages: &[PathBuf], name: &str) -> Option<PathBuf> {
    let paths = packages.iter().map(|root| root.join(name));
    paths.into_iter().find(|path| path.exists())
}

/// The libraries that `programs` need, and those that these need.
fn closure(
    programs: &[Extra],
    find: impl Fn(&str) -> Option<PathBuf>,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut open = vec![("the C library".to_owned(), UNNAMED.to_owned())];
    for program in programs {
        let needed = needed(&program.path)?;
        open.extend(
            needed
                .into_iter()
                .map(|library| (program.name.clone(), library)),
        );
    }
    while let Some((by, library)) = open.pop() {
        if found.contains_key(&library) {
            continue;
        }
        let Some(path) = find(&library) else {
            bail!("{by} needs {library}, which no package of the toolstack has");
        };
        let needed = needed(&path)?;
        open.extend(needed.into_iter().map(|further| (library.clone(), further)));
        found.insert(library, path);
    }
    Ok(found)
}

/// The libraries that a program or a library names (`DT_NEEDED`).
fn needed(path: &Path) -> Result<BTreeSet<String>> {
    let bytes = fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
    if !bytes.starts_with(&elf::ELFMAG) {
        // A configuration file.
        return Ok(BTreeSet::new());
    }
    names(&bytes).with_context(|| format!("{}: not a program for arm64", path.display()))
}

fn names(bytes: &[u8]) -> Result<BTreeSet<String>> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let endian = file.endian();
    let header = file.elf_header();
    if header.e_machine(endian) != elf::EM_AARCH64 {
        bail!("it is for another machine");
    }
    let sections = file.elf_section_table();
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else {
        return Ok(BTreeSet::new());
    };
    let strings = sections.strings(endian, bytes, link)?;
    entries
        .iter()
        .filter(|entry| entry.tag32(endian) == Some(elf::DT_NEEDED))
        .map(|entry| {
            let name = entry.string(endian, strings)?;
            Ok(String::from_utf8_lossy(name).into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_is_named_with_who_needs_it() {
        let error = closure(&[], |_| None).unwrap_err().to_string();
        assert!(error.starts_with("the C library needs libgcc_s.so.1,"));

        let error = files(&[]).unwrap_err().to_string();
        assert!(error.starts_with("no package has usr/lib/xen-4.20/bin/"));
    }

    #[test]
    fn what_is_no_program_for_arm64_is_said() {
        let own = std::env::current_exe().unwrap();
        if cfg!(target_arch = "aarch64") {
            assert!(needed(&own).unwrap().contains("libc.so.6"));
        } else {
            let error = format!("{:#}", needed(&own).unwrap_err());
            assert!(error.ends_with("it is for another machine"), "{error}");
        }
        // A configuration file needs nothing.
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(needed(&manifest).unwrap().is_empty());
    }
}
