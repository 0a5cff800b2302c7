//! Builds what runs inside the domains: bare-metal guests of `tools/guests`,
//! as raw images, and programs of the workspace for arm64 Linux, static.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::site::Site;
use crate::toolchain::{BARE_METAL, LINUX, NARROW};

/// A bare-metal guest of `tools/guests` (say "canary") as a raw image that Xen loads as a kernel.
pub fn bare_metal(site: &Site, name: &str) -> Result<PathBuf> {
    image(site, name, BARE_METAL)
}

/// The same of the guest of 32 bits.
pub fn narrow(site: &Site) -> Result<PathBuf> {
    image(site, "narrow", NARROW)
}

fn image(site: &Site, name: &str, target: &'static str) -> Result<PathBuf> {
    let toolchain = site.toolchain(target)?;
    let guests = site.root().join("tools/guests");
    site.say("cargo", &format!("guest {name}"));
    let mut cargo = toolchain.command();
    // In that directory, so that cargo finds the workspace's own configuration.
    cargo
        .current_dir(&guests)
        .args([
            "build",
            "--profile",
            "xen",
            "--target",
            target,
            "--bin",
            name,
        ])
        .arg("--target-dir")
        .arg(site.bare_metal())
        .args(toolchain.flags());
    process::logged(
        &mut cargo,
        &format!("build of guest {name}"),
        &site.bare_metal().join(format!("{name}.log")),
    )?;
    let elf = site.bare_metal().join(target).join("xen").join(name);
    if !elf.exists() {
        bail!("build of guest {name} left no {}", elf.display());
    }
    let image = elf.with_extension("bin");
    process::output(
        process::command("aarch64-linux-gnu-objcopy")
            .args(["-O", "binary"])
            .arg(&elf)
            .arg(&image),
    )?;
    Ok(image)
}

/// A program of the workspace (say "vmfctl") as a static aarch64 Linux binary.
pub fn linux(site: &Site, name: &str) -> Result<PathBuf> {
    let toolchain = site.toolchain(LINUX)?;
    let target = site.target().join("arm64-linux");
    site.say("cargo", &format!("{name} for arm64 Linux"));
    let mut cargo = toolchain.command();
    cargo
        .current_dir(site.root())
        .args(["build", "--release", "--target", LINUX, "--package", name])
        .arg("--target-dir")
        .arg(&target)
        .args(toolchain.flags());
    process::logged(
        &mut cargo,
        &format!("build of {name} for arm64 Linux"),
        &target.join(format!("{name}.log")),
    )?;
    let program = target.join(LINUX).join("release").join(name);
    let content = std::fs::read(&program)
        .with_context(|| format!("build of {name} left no {}", program.display()))?;
    require_static(&content).with_context(|| format!("{}", program.display()))?;
    Ok(program)
}

/// dom0 may have no shared libraries at all.
fn require_static(elf: &[u8]) -> Result<()> {
    use object::Object;
    let file = object::File::parse(elf).context("not an ELF file")?;
    if file.architecture() != object::Architecture::Aarch64 {
        bail!("not a program for arm64");
    }
    if file.section_by_name(".interp").is_some() {
        bail!("needs shared libraries, and is to be static");
    }
    Ok(())
}
