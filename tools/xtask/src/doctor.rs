//! Says what this machine lacks, with the exact command that mends it; and
//! mends it where that needs no question: as root, with apt-get.

use std::path::Path;

use anyhow::{Result, bail};

use crate::apt;
use crate::process;
use crate::site::Site;
use crate::toolchain::{Machine, TARGETS};

/// Something the build or the lab needs, and the Debian package that has it.
struct Need {
    /// Program in PATH, or absolute path of a file.
    probe: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const NEEDS: [Need; 13] = [
    need("make", "make", "builds Xen"),
    need("gcc", "gcc", "builds Xen's configuration tools"),
    need(
        "/usr/include/stdio.h",
        "libc6-dev",
        "builds Xen's configuration tools",
    ),
    need("flex", "flex", "builds Xen's configuration tools"),
    need("bison", "bison", "builds Xen's configuration tools"),
    need("python3", "python3", "runs scripts of Xen's build"),
    need("git", "git", "applies the series"),
    need("xz", "xz-utils", "unpacks Xen's source"),
    need(
        "aarch64-linux-gnu-gcc",
        "gcc-aarch64-linux-gnu",
        "compiles Xen",
    ),
    need(
        "aarch64-linux-gnu-objcopy",
        "binutils-aarch64-linux-gnu",
        "makes guest images",
    ),
    need(
        "/usr/aarch64-linux-gnu/lib/libc.a",
        "libc6-dev-arm64-cross",
        "links programs for arm64 Linux",
    ),
    need("qemu-system-aarch64", "qemu-system-arm", "runs the lab"),
    need("dtc", "device-tree-compiler", "compiles device trees"),
];

const fn need(probe: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need {
        probe,
        package,
        purpose,
    }
}

/// Debian's compiler, for machines where nothing else can build for arm64.
const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// The package that has this program.
pub fn package_of(program: &str) -> Option<&'static str> {
    NEEDS
        .iter()
        .find(|need| need.probe == program)
        .map(|need| need.package)
}

/// Prints the state of the machine; true if nothing is missing.
pub fn report(site: &Site) -> Result<bool> {
    for need in &NEEDS {
        match find(need.probe) {
            Some(path) => println!("ok       {:30} {path}", need.probe),
            None => println!(
                "missing  {:30} {} (package {})",
                need.probe, need.purpose, need.package
            ),
        }
    }
    let machine = Machine::look()?;
    for target in TARGETS {
        match machine.describe(target) {
            Ok(line) => println!("ok       {line}"),
            Err(error) => println!("missing  {error}"),
        }
    }
    let memory = memory_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    match memory {
        Some(mib) if mib < LAB_MIB => println!(
            "note     {mib} MiB of memory are available; the lab's largest system takes {LAB_MIB} MiB"
        ),
        _ => {}
    }
    let missing = missing(&machine);
    if missing.is_empty() {
        println!(
            "nothing is missing; built things go to {}",
            site.target().display()
        );
        return Ok(true);
    }
    println!("to mend it: {}", mend(&missing));
    Ok(false)
}

/// Memory that the lab's default profiles take at most, QEMU included.
const LAB_MIB: u64 = 3072;

/// `MemAvailable` of /proc/meminfo in MiB.
fn memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

/// Makes sure that all is there: installs it as root, else says what to do.
pub fn ensure(site: &Site) -> Result<()> {
    let missing = missing(&Machine::look()?);
    if missing.is_empty() {
        return Ok(());
    }
    if process::output(process::command("id").arg("-u"))? != "0" {
        bail!(
            "this machine lacks {}: {}",
            missing.join(", "),
            mend(&missing)
        );
    }
    apt::install(site, &missing)?;
    let still = self::missing(&Machine::look()?);
    if !still.is_empty() {
        bail!(
            "apt-get installed {}, and it is still not found",
            still.join(", ")
        );
    }
    Ok(())
}

/// Packages to install.
fn missing(machine: &Machine) -> Vec<&'static str> {
    let mut packages: Vec<&str> = NEEDS
        .iter()
        .filter(|need| find(need.probe).is_none())
        .map(|need| need.package)
        .collect();
    if TARGETS
        .iter()
        .any(|target| machine.describe(target).is_err())
    {
        packages.extend(COMPILER);
    }
    packages
}

fn mend(packages: &[&str]) -> String {
    format!(
        "sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Where a program or file is.
fn find(probe: &str) -> Option<String> {
    if probe.starts_with('/') {
        return Path::new(probe).exists().then(|| probe.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(probe))
        .find(|file| file.is_file())
        .map(|file| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_has_one_package_and_is_found_by_name() {
        assert_eq!(package_of("dtc"), Some("device-tree-compiler"));
        assert_eq!(
            package_of("aarch64-linux-gnu-gcc"),
            Some("gcc-aarch64-linux-gnu")
        );
        assert_eq!(package_of("no-such-tool"), None);
    }

    #[test]
    fn find_looks_in_path_and_at_absolute_paths() {
        assert!(find("sh").is_some_and(|path| path.ends_with("/sh")));
        assert_eq!(find("/nowhere/libc.a"), None);
        assert_eq!(find("no-such-tool-at-all"), None);
    }

    #[test]
    fn memory_is_read_in_mebibytes() {
        let text = "MemTotal: 16384 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(memory_mib(text), Some(8));
        assert_eq!(memory_mib("MemTotal: 1 kB\n"), None);
    }
}
