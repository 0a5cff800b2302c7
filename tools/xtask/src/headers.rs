//! Generates the C headers from the Rust side, which is the one description
//! of both interfaces: the hypercall's public header from `xen-vmf-abi`, and
//! the functions that Xen's C code calls in the crate from its `c_abi`.
//! The results are committed, and the tests fail on a difference.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};

use crate::site::Site;

/// Directory of the generated headers.
pub const DIRECTORY: &str = "xen-vmf/include";
/// Where the series has its copies of them.
pub const IN_XEN: [(&str, &str); 2] = [
    ("vmf.h", "xen/include/public/vmf.h"),
    ("vmf_rust.h", "xen/arch/arm/include/asm/vmf_rust.h"),
];

/// Types of the crate that C holds pointers to and never looks into.
const OPAQUE: [(&str, &str); 1] = [("Window", "vmf_window")];
/// What the names of Xen's accessors begin with.
const ACCESSOR: &str = "vmf_c_";

/// One generated header.
struct Header {
    file: &'static str,
    guard: &'static str,
    licence: &'static str,
    about: &'static str,
    include: Option<&'static str>,
    sources: Vec<PathBuf>,
}

/// Writes the headers, or with `check` fails if one differs.
pub fn run(site: &Site, check: bool) -> Result<()> {
    for header in headers(site)? {
        let path = site.root().join(DIRECTORY).join(header.file);
        let text = generate(&header)?;
        let old = fs::read_to_string(&path).unwrap_or_default();
        if check {
            if let Some(line) = first_difference(&old, &text) {
                bail!(
                    "{DIRECTORY}/{} differs from the Rust side in line {line}: cargo xtask headers",
                    header.file
                );
            }
        } else if old != text {
            fs::create_dir_all(site.root().join(DIRECTORY))?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            println!("wrote {DIRECTORY}/{}", header.file);
        }
    }
    Ok(())
}

fn headers(site: &Site) -> Result<Vec<Header>> {
    let root = site.root().join("xen-vmf");
    Ok(vec![
        Header {
            file: "vmf.h",
            guard: "__XEN_PUBLIC_VMF_H__",
            // As all of Xen's public headers: guests include it.
            licence: "MIT",
            about: "The vmf_op hypercall: numbers, items and errors.",
            include: None,
            sources: vec![root.join("abi/src/lib.rs")],
        },
        Header {
            file: "vmf_rust.h",
            guard: "ASM_ARM_VMF_RUST_H",
            licence: "GPL-2.0-only",
            about: "What Xen's C code calls in the crate xen-vmf.",
            include: Some("xen/types.h"),
            sources: c_abi(&root.join("src"))?,
        },
    ])
}

/// The crate's files that export functions to C: `c_abi.rs`, `c_abi_*.rs`, and all in `c_abi/`.
fn c_abi(source: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in [source.to_owned(), source.join("c_abi")] {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let inside = directory.ends_with("c_abi") || name.starts_with("c_abi");
            if inside && name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn generate(header: &Header) -> Result<String> {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        documentation_style: DocumentationStyle::Doxy,
        include_guard: Some(header.guard.to_owned()),
        header: Some(format!(
            "/* SPDX-License-Identifier: {} */\n/*\n * {}\n *\n * Generated from Rust by cargo xtask headers: change it there.\n */",
            header.licence, header.about
        )),
        no_includes: true,
        usize_is_size_t: true,
        line_length: 80,
        tab_width: 4,
        ..Config::default()
    };
    config
        .sys_includes
        .extend(header.include.map(str::to_owned));
    for source in &header.sources {
        let text = fs::read_to_string(source)
            .with_context(|| format!("cannot read {}", source.display()))?;
        config.export.exclude.extend(imports(&text));
    }
    for (rust, c) in OPAQUE {
        config
            .export
            .rename
            .insert(rust.to_owned(), format!("struct {c}"));
        if header.include.is_some() {
            config.after_includes = Some(format!("\nstruct {c};"));
        }
    }
    let mut builder = Builder::new().with_config(config);
    for source in &header.sources {
        builder = builder.with_src(source);
    }
    let bindings = builder
        .generate()
        .with_context(|| format!("{}: the Rust side does not parse", header.file))?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).with_context(|| format!("{}: not UTF-8", header.file))?;
    Ok(comments_for_c(&text))
}

/// Accessors that the crate takes from Xen: C declares those itself.
fn imports(rust: &str) -> Vec<String> {
    let names = rust
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("fn ")?.split('(').next());
    names
        .filter(|name| name.starts_with(ACCESSOR))
        .map(str::to_owned)
        .collect()
}

/// Rust's documentation as Xen writes comments: no markup for links.
fn comments_for_c(text: &str) -> String {
    let plain = text
        .replace("/**\n", "/*\n")
        .replace("[`", "")
        .replace("`]", "")
        .replace('`', "");
    plain.replace(" * # Safety\n", " * Safety:\n")
}

/// Number of the first line that differs.
fn first_difference(old: &str, new: &str) -> Option<usize> {
    if old == new {
        return None;
    }
    let mut lines = old.lines().zip(new.lines());
    let same = lines.position(|(one, other)| one != other);
    Some(same.unwrap_or_else(|| old.lines().count().min(new.lines().count())) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_difference_counts_lines_from_one() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some(2));
    }

    #[test]
    fn constants_become_defines_and_exports_prototypes() {
        let directory = std::env::temp_dir().join(format!("vmf-headers-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let source = directory.join("c_abi.rs");
        let rust = "/// A bit.\npub const VMF_BIT: u32 = 1 << 3;\n\
            unsafe extern \"C\" {\n    fn vmf_c_given(at: u64);\n}\n\
            /// Does [`it`].\n#[unsafe(no_mangle)]\n\
            pub extern \"C\" fn vmf_do(at: *mut Window, len: usize) -> i64 { 0 }\n";
        fs::write(&source, rust).unwrap();
        let header = Header {
            file: "t.h",
            guard: "T_H",
            licence: "MIT",
            about: "A test.",
            include: Some("xen/types.h"),
            sources: c_abi(&directory).unwrap(),
        };
        let text = generate(&header).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(text.contains("#define VMF_BIT (1 << 3)"), "{text}");
        let prototype = "/*\n * Does it.\n */\nint64_t vmf_do(struct vmf_window *at, size_t len);";
        assert!(text.contains(prototype), "{text}");
        assert!(text.contains("struct vmf_window;"), "{text}");
        assert!(!text.contains("vmf_c_given"), "{text}");
        assert!(text.contains("#include <xen/types.h>"), "{text}");
    }
}
