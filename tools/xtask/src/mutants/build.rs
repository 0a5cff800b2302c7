//! Builds what has a fault in it, in trees of its own under `target/mutants`
//! and `target/xen/mutant`, which the next fault goes on with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::fault::Fault;
use crate::process;
use crate::series::Series;
use crate::site::Site;
use crate::stamp::{self, Inputs};
use crate::tree::{self, Tree};
use crate::xen::{self, Built, Variant};

/// Name of Xen's build.
const NAME: &str = "mutant";
/// What the scan in Xen's build says when it fails.
const SCAN: &str = "VMF: move it into";

/// Where the copy of the crate's workspace is.
fn workspace(site: &Site) -> PathBuf {
    site.target().join("mutants/workspace")
}

/// A copy of the crate, with the fault if it is there.
fn copy_crate(site: &Site, fault: Option<&Fault>) -> Result<PathBuf> {
    let to = workspace(site);
    let from = site.root().join("xen-vmf");
    let manifest = fs::read_to_string(site.root().join("Cargo.toml")).context("Cargo.toml")?;
    let members = manifest
        .lines()
        .map(|line| match line.split_once('=') {
            Some((key, _)) if key.trim() == "members" => r#"members = ["xen-vmf", "xen-vmf/abi"]"#,
            Some((key, _)) if key.trim() == "exclude" => "",
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    fs::create_dir_all(&to).with_context(|| format!("{}: cannot create", to.display()))?;
    write_if_different(&to.join("Cargo.toml"), members.as_bytes())?;
    if !to.join("Cargo.lock").exists() {
        fs::copy(site.root().join("Cargo.lock"), to.join("Cargo.lock")).context("Cargo.lock")?;
    }
    let wanted = |path: &Path| !path.starts_with("patches") && !path.starts_with("target");
    let source = Tree {
        path: from,
        digest: String::new(),
    };
    let copy = to.join("xen-vmf");
    tree::update_some(
        &source,
        &stamp::files(&source.path, &wanted)?,
        &copy,
        &to.join("xen-vmf.files"),
    )?;
    if let Some(fault) = fault.filter(|fault| fault.in_crate()) {
        fault.apply(&copy)?;
    }
    Ok(copy)
}

/// Runs the crate's tests on the copy; an error if one fails.
pub fn host(site: &Site, fault: Option<&Fault>) -> Result<()> {
    let crate_copy = copy_crate(site, fault)?;
    let source = tree::stock(site)?.path;
    let mut cargo = process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(&crate_copy)
        .env("CARGO_TARGET_DIR", site.target())
        .env("VMF_XEN_SOURCE", source)
        .args(["test", "--quiet"]);
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
        cargo.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    let log = site.target().join("mutants/host.log");
    process::logged(&mut cargo, "cargo test of the crate", &log)
}

/// Xen's source with the series.
pub fn patched(site: &Site) -> Result<PathBuf> {
    let stock = tree::stock(site)?;
    Ok(tree::patched(site, &stock, &Series::read(site)?, "patched")?.path)
}

/// Builds Xen with the fault.
pub fn xen(site: &Site, fault: Option<&Fault>) -> Result<Built> {
    let crate_copy = copy_crate(site, fault)?;
    let stock = tree::stock(site)?;
    let patched = tree::patched(site, &stock, &Series::read(site)?, "patched")?;
    let path = site.target().join("mutants/xen-source");
    tree::update(
        &patched,
        &path,
        &site.target().join("mutants/xen-source.files"),
    )?;
    let mut inputs = Inputs::new().add("patched", &patched.digest);
    if let Some(fault) = fault.filter(|fault| !fault.in_crate()) {
        fault.apply(&path)?;
        inputs = inputs.add("fault", format!("{fault:?}"));
    }
    let source = Tree {
        path,
        digest: inputs.digest(),
    };
    xen::build_with_crate(site, &source, &Variant::VMF, &[], &crate_copy, NAME)
}

/// Whether the last build of [`xen`] ended because its scan found something.
pub fn refused_by_scan(site: &Site) -> bool {
    let log = site.xen_work().join(NAME).join("make.log");
    fs::read_to_string(log).is_ok_and(|text| text.contains(SCAN))
}

fn write_if_different(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("{}: cannot write", path.display()))
}
