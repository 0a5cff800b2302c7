//! Chooses how Rust code for foreign targets is compiled: the crate and the
//! guests, which run on bare metal, and the programs for arm64 Linux.
//!
//! In this order: a target that rustup has installed; the standard library's
//! source that rustup has installed; Debian's compiler, with its source
//! package for bare metal and the arm64 library package for Linux. The choice
//! is made by a pure function from a description of the machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::fetch;
use crate::process;
use crate::site::Site;

/// Xen and bare-metal guests: no floating point registers, no operating system.
pub const BARE_METAL: &str = "aarch64-unknown-none-softfloat";
/// A bare-metal guest of 32 bits.
pub const NARROW: &str = "armv7a-none-eabi";
/// Programs for dom0 and Linux guests.
pub const LINUX: &str = "aarch64-unknown-linux-gnu";
/// All of them.
pub const TARGETS: [&str; 3] = [BARE_METAL, NARROW, LINUX];
/// The cross linker, which also finds the static C library.
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// First version that compiles the workspace (its `rust-version`).
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// One installed compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rust {
    /// Its cargo.
    pub cargo: PathBuf,
    /// Its rustc.
    pub rustc: PathBuf,
    /// As in "1.96.0".
    pub version: String,
    /// Targets whose standard library is installed.
    pub targets: Vec<String>,
    /// Whether the standard library's source is installed.
    pub has_source: bool,
}

/// What matters of this machine for the choice.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The one that runs this program's own cargo.
    pub default: Rust,
    /// Debian's, in /usr/bin.
    pub debian: Option<Rust>,
}

/// How the standard library gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    Installed,
    Source,
    DebianLibrary,
}

/// A compiler for one target, ready for use.
#[derive(Clone, Debug)]
pub struct Toolchain {
    rust: Rust,
    target: &'static str,
    supply: Supply,
    sysroot: Option<PathBuf>,
}

/// The choice for `target`.
fn choose(machine: &Machine, target: &'static str) -> Result<(Rust, Supply)> {
    let fits = |rust: &&Rust| minor(&rust.version) >= minor(OLDEST);
    let default = Some(&machine.default).filter(fits);
    let debian = machine.debian.as_ref().filter(fits);
    for rust in [default, debian].into_iter().flatten() {
        if rust.targets.iter().any(|installed| installed == target) {
            return Ok((rust.clone(), Supply::Installed));
        }
    }
    if let Some(rust) = default.filter(|rust| rust.has_source && Some(*rust) != debian) {
        return Ok((rust.clone(), Supply::Source));
    }
    match debian {
        Some(rust) if target == LINUX => Ok((rust.clone(), Supply::DebianLibrary)),
        Some(rust) if rust.has_source => Ok((rust.clone(), Supply::Source)),
        _ => bail!(
            "no Rust compiler here, of {OLDEST} or newer, can build for {target}: rustup target add {target}, or apt-get install rustc-web cargo-web rust-web-src"
        ),
    }
}

/// "1.96.0" as (1, 96).
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Machine {
    /// Looks at this machine.
    pub fn look() -> Result<Self> {
        let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        let default = Rust::look(&cargo, &cargo.with_file_name("rustc"))?;
        let debian = Path::new("/usr/bin/rustc");
        let debian = if debian.exists() && Path::new("/usr/bin/cargo").exists() {
            Some(Rust::look(Path::new("/usr/bin/cargo"), debian)?)
        } else {
            None
        };
        Ok(Self { default, debian })
    }

    /// What would be used for `target`, in one line.
    pub fn describe(&self, target: &'static str) -> Result<String> {
        let (rust, supply) = choose(self, target)?;
        Ok(describe(&rust, supply, target))
    }
}

impl Rust {
    fn look(cargo: &Path, rustc: &Path) -> Result<Self> {
        let version = process::output(process::command(rustc).arg("--version"))?;
        let version = version
            .split_whitespace()
            .nth(1)
            .unwrap_or("unknown")
            .to_owned();
        let sysroot = process::output(process::command(rustc).args(["--print", "sysroot"]))?;
        let library = Path::new(&sysroot).join("lib/rustlib");
        let has = |target: &str| library.join(target).join("lib").is_dir();
        Ok(Self {
            cargo: cargo.to_owned(),
            rustc: rustc.to_owned(),
            version,
            targets: TARGETS
                .into_iter()
                .filter(|target| has(target))
                .map(str::to_owned)
                .collect(),
            has_source: library.join("src/rust/library/core/Cargo.toml").exists(),
        })
    }
}

impl Toolchain {
    /// Chooses, prints the choice, and prepares what it needs.
    pub fn prepare(site: &Site, target: &'static str) -> Result<Self> {
        let (rust, supply) = choose(&Machine::look()?, target)?;
        site.say("rust", &describe(&rust, supply, target));
        let sysroot = match supply {
            Supply::DebianLibrary => Some(sysroot(site, &rust)?),
            Supply::Installed | Supply::Source => None,
        };
        Ok(Self {
            rust,
            target,
            supply,
            sysroot,
        })
    }

    /// What it compiles for.
    pub fn target(&self) -> &'static str {
        self.target
    }

    /// The cargo to call; see [`Self::environment`] for what it needs.
    pub fn cargo(&self) -> &Path {
        &self.rust.cargo
    }

    /// A cargo command with the environment set.
    pub fn command(&self) -> Command {
        let mut command = process::command(self.cargo());
        command.envs(self.environment());
        command
    }

    /// Flags for `cargo build`, the target aside.
    pub fn flags(&self) -> &'static [&'static str] {
        match (self.supply, self.target) {
            (Supply::Source, BARE_METAL | NARROW) => &["-Zbuild-std=core"],
            (Supply::Source, _) => &["-Zbuild-std=std,panic_unwind"],
            (Supply::Installed | Supply::DebianLibrary, _) => &[],
        }
    }

    /// Environment for cargo.
    pub fn environment(&self) -> Vec<(String, String)> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut variables = vec![("RUSTC".to_owned(), path(&self.rust.rustc))];
        if self.supply == Supply::Source {
            // A stable compiler builds its own library with this, as its distributors do.
            variables.push(("RUSTC_BOOTSTRAP".to_owned(), "1".to_owned()));
        }
        if self.target == LINUX {
            let prefix = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU";
            let mut flags = "-Ctarget-feature=+crt-static".to_owned();
            if let Some(sysroot) = &self.sysroot {
                flags = format!("{flags} --sysroot={}", path(sysroot));
            }
            variables.push((format!("{prefix}_LINKER"), LINKER.to_owned()));
            variables.push((format!("{prefix}_RUSTFLAGS"), flags));
        }
        variables
    }

    /// Says which compiler this is, for stamps.
    pub fn identity(&self) -> String {
        describe(&self.rust, self.supply, self.target)
    }
}

fn describe(rust: &Rust, supply: Supply, target: &str) -> String {
    let how = match supply {
        Supply::Installed => "installed target",
        Supply::Source => "standard library from source",
        Supply::DebianLibrary => "Debian's arm64 library",
    };
    format!(
        "{target}: rustc {} ({}), {how}",
        rust.version,
        rust.rustc.display()
    )
}

/// A sysroot that has Debian's arm64 library beside the host's own, which build
/// scripts and procedural macros need.
fn sysroot(site: &Site, rust: &Rust) -> Result<PathBuf> {
    let owner = process::output(process::command("dpkg").arg("-S").arg(&rust.rustc))?;
    let compiler = owner.split(':').next().unwrap_or_default().to_owned();
    let package = library_package(&compiler);
    let installed = process::output(process::command("dpkg-query").args([
        "-W",
        "-f",
        "${Version}",
        &compiler,
    ]))?;
    let unpacked = fetch::package(site, &package, Some(&installed)).with_context(|| {
        format!("{package} {installed} for arm64, which {compiler} needs, is not to be had; if the archive has moved on: apt-get install {compiler}")
    })?;
    check_versions(&compiler, &installed, &package, &unpacked.version)?;

    let root = site.cache().join("sysroot");
    let library = root.join("lib/rustlib");
    // Made anew each time: it is two links.
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&library).with_context(|| format!("cannot create {}", library.display()))?;
    let host = PathBuf::from(process::output(
        process::command(&rust.rustc).args(["--print", "sysroot"]),
    )?)
    .join("lib/rustlib");
    for entry in fs::read_dir(&host)? {
        let entry = entry?;
        symlink(entry.path(), library.join(entry.file_name()))?;
    }
    let arm64 = unpacked.root.join("usr/lib/rustlib").join(LINUX);
    if !arm64.join("lib").is_dir() {
        bail!(
            "{package} {} holds no library for {LINUX}",
            unpacked.version
        );
    }
    symlink(&arm64, library.join(LINUX))?;
    Ok(root)
}

/// `rustc-web` has its library in `libstd-rust-web-dev`, `rustc` in `libstd-rust-dev`.
fn library_package(compiler: &str) -> String {
    format!("{}-dev", compiler.replacen("rustc", "libstd-rust", 1))
}

/// A library serves the compiler that built it, and no other.
fn check_versions(compiler: &str, installed: &str, package: &str, unpacked: &str) -> Result<()> {
    if installed == unpacked {
        return Ok(());
    }
    bail!(
        "{package} {unpacked} does not fit {compiler} {installed}: apt-get update && apt-get install {compiler}, or remove target/cache/packages"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(place: &str, version: &str, targets: &[&str], has_source: bool) -> Rust {
        Rust {
            cargo: Path::new(place).join("cargo"),
            rustc: Path::new(place).join("rustc"),
            version: version.to_owned(),
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            has_source,
        }
    }

    fn machine(default: Rust, debian: Option<Rust>) -> Machine {
        Machine { default, debian }
    }

    #[test]
    fn an_installed_target_comes_first() {
        let machine = machine(
            rust("/rustup", "1.95.0", &[BARE_METAL], true),
            Some(rust("/usr/bin", "1.96.0", &[], true)),
        );
        let (chosen, supply) = choose(&machine, BARE_METAL).unwrap();
        assert_eq!(
            (chosen.cargo, supply),
            ("/rustup/cargo".into(), Supply::Installed)
        );
        let (chosen, supply) = choose(&machine, LINUX).unwrap();
        assert_eq!(
            (chosen.cargo, supply),
            ("/rustup/cargo".into(), Supply::Source)
        );
    }

    #[test]
    fn without_target_and_source_it_is_debians() {
        let machine = machine(
            rust("/rustup", "1.95.0", &[], false),
            Some(rust("/usr/bin", "1.96.0", &[], true)),
        );
        let (chosen, supply) = choose(&machine, BARE_METAL).unwrap();
        assert_eq!(
            (chosen.cargo, supply),
            ("/usr/bin/cargo".into(), Supply::Source)
        );
        let (chosen, supply) = choose(&machine, LINUX).unwrap();
        assert_eq!(
            (chosen.cargo, supply),
            ("/usr/bin/cargo".into(), Supply::DebianLibrary)
        );
    }

    #[test]
    fn debians_as_the_only_one_uses_its_library_for_linux() {
        let only = rust("/usr/bin", "1.96.0", &[], true);
        let machine = machine(only.clone(), Some(only));
        assert_eq!(choose(&machine, LINUX).unwrap().1, Supply::DebianLibrary);
        assert_eq!(choose(&machine, BARE_METAL).unwrap().1, Supply::Source);
    }

    #[test]
    fn a_compiler_that_is_too_old_does_not_count() {
        let machine = machine(
            rust("/rustup", "1.95.0", &[], false),
            Some(rust("/usr/bin", "1.88.0", &[BARE_METAL], true)),
        );
        let error = choose(&machine, BARE_METAL).unwrap_err().to_string();
        assert!(error.contains("rustup target add"), "{error}");
        assert!(error.contains("apt-get install rustc-web"), "{error}");
    }

    #[test]
    fn library_of_another_version_is_an_error() {
        assert_eq!(library_package("rustc-web"), "libstd-rust-web-dev");
        assert_eq!(library_package("rustc"), "libstd-rust-dev");
        assert!(check_versions("rustc-web", "1.96-1", "libstd-rust-web-dev", "1.96-1").is_ok());
        let error =
            check_versions("rustc-web", "1.96-1", "libstd-rust-web-dev", "1.97-1").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("libstd-rust-web-dev 1.97-1 does not fit rustc-web 1.96-1")
        );
    }
}
