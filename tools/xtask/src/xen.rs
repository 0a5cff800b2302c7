//! Builds Xen: configures and makes one variant of the source, in a tree of
//! its own under `target/xen`, and only if something that it is made of changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::series::Series;
use crate::site::Site;
use crate::stamp::{self, Inputs};
use crate::toolchain::{BARE_METAL, Toolchain};
use crate::tree::{self, Tree};

/// What every build of this project's Xen has: both schedulers, and debug
/// information, from which the lab learns the layout of Xen's structures. The
/// configuration is not in the image, where a line about the fuse would move
/// everything behind it, and be the only difference to stock Xen without it.
const ALWAYS: [&str; 6] = [
    "CONFIG_EXPERT=y",
    "CONFIG_UNSUPPORTED=y",
    "CONFIG_SCHED_CREDIT2=y",
    "CONFIG_SCHED_NULL=y",
    "CONFIG_DEBUG_INFO=y",
    "# CONFIG_HYPFS_CONFIG is not set",
];
/// Where the series expects the crate.
pub const CRATE_LINK: &str = "xen/arch/arm/vmf/crate";

/// Which Xen to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The series is applied.
    pub patched: bool,
    /// CONFIG_VMF=y (only with the series).
    pub vmf: bool,
    /// CONFIG_DEBUG=y.
    pub debug: bool,
    /// CONFIG_VMF_ATTACK=y, with the patch that has it (only with the fuse).
    pub attack: bool,
}

impl Variant {
    /// With the fuse, release build.
    pub const VMF: Self = Self {
        patched: true,
        vmf: true,
        debug: false,
        attack: false,
    };
    /// With the fuse, debug build.
    pub const VMF_DEBUG: Self = Self {
        patched: true,
        vmf: true,
        debug: true,
        attack: false,
    };
    /// With the fuse and the attack primitives of the lab, release build.
    pub const ATTACK: Self = Self {
        patched: true,
        vmf: true,
        debug: false,
        attack: true,
    };
    /// With the series and without the fuse, release build.
    pub const OFF: Self = Self {
        patched: true,
        vmf: false,
        debug: false,
        attack: false,
    };
    /// As upstream made it, release build.
    pub const STOCK: Self = Self {
        patched: false,
        vmf: false,
        debug: false,
        attack: false,
    };

    /// Name of its directory, with these further lines of configuration.
    fn name(&self, further: &[&str]) -> String {
        let mut name = match (self.patched, self.vmf) {
            (false, _) => "stock",
            (true, true) => "vmf",
            (true, false) => "off",
        }
        .to_owned();
        if self.attack {
            name.push_str("-attack");
        }
        if self.debug {
            name.push_str("-debug");
        }
        if !further.is_empty() {
            name.push('-');
            name.push_str(&stamp::of_bytes(further.join("\n"))[..8]);
        }
        name
    }

    /// Names of builds that differ from this one in little, the nearest first.
    fn relatives(&self) -> Vec<String> {
        let nearest = [
            *self,
            Self {
                attack: false,
                ..*self
            },
            Self {
                attack: false,
                vmf: false,
                ..*self
            },
            Self {
                attack: false,
                vmf: false,
                patched: false,
                ..*self
            },
        ];
        nearest.iter().map(|variant| variant.name(&[])).collect()
    }

    /// The lines that are put after Xen's own default configuration.
    fn fragment(&self, further: &[&str]) -> Vec<String> {
        let choice = |symbol: &str, on: bool| {
            if on {
                format!("{symbol}=y")
            } else {
                format!("# {symbol} is not set")
            }
        };
        let mut lines: Vec<String> = ALWAYS.iter().map(|&line| line.to_owned()).collect();
        lines.push(choice("CONFIG_DEBUG", self.debug));
        if self.patched {
            lines.push(choice("CONFIG_VMF", self.vmf));
        }
        if self.attack {
            lines.push(choice("CONFIG_VMF_ATTACK", true));
        }
        lines.extend(further.iter().map(|&line| line.to_owned()));
        lines
    }
}

/// A Xen that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The bootable image (`xen`, a Linux-style Image).
    pub image: PathBuf,
    /// The ELF file with symbols and DWARF (`xen-syms`).
    pub syms: PathBuf,
}

/// Builds this variant, or finds it built.
pub fn build(site: &Site, variant: &Variant) -> Result<Built> {
    build_with(site, variant, &[])
}

/// Builds this variant from a tree that has only a part of the series, in the
/// place of its own build.
pub fn build_patched(site: &Site, source: &Tree, variant: &Variant) -> Result<Built> {
    build_tree(site, source, variant, &[], &variant.name(&[]))
}

/// The same with further lines of configuration, such as `CONFIG_HAS_ITS=y`.
pub fn build_with(site: &Site, variant: &Variant, further: &[&str]) -> Result<Built> {
    let source = source(site, variant)?;
    build_tree(site, &source, variant, further, &variant.name(further))
}

/// A variant that measures itself at boot, for the benchmark.
pub fn build_measuring(site: &Site, variant: &Variant) -> Result<Built> {
    let name = format!("{}-bench", variant.name(&[]));
    let series = Series::with_measurements(site, variant.patched)?;
    let source = tree::patched(
        site,
        &tree::stock(site)?,
        &series,
        &format!("{name}-source"),
    )?;
    build_tree(site, &source, variant, &[], &name)
}

/// The source of a variant.
fn source(site: &Site, variant: &Variant) -> Result<Tree> {
    let stock = tree::stock(site)?;
    match (variant.patched, variant.attack) {
        (false, _) => Ok(stock),
        (true, false) => tree::patched(site, &stock, &Series::read(site)?, "patched"),
        (true, true) => tree::patched(site, &stock, &Series::with_attack(site)?, "attack"),
    }
}

/// Whether Xen's configuration accepts `lines` after its own defaults for a
/// variant's source; builds nothing.
pub fn accepts(site: &Site, variant: &Variant, lines: &[&str]) -> Result<bool> {
    let directory = site.xen_work().join("configuration");
    tree::update(
        &source(site, variant)?,
        &directory,
        &site.xen_work().join("configuration.files"),
    )?;
    let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
    Ok(configured(site, &directory, &lines)?.is_empty())
}

/// Builds `variant` from `source` in the directory `name`.
pub fn build_tree(
    site: &Site,
    source: &Tree,
    variant: &Variant,
    further: &[&str],
    name: &str,
) -> Result<Built> {
    let own = site.root().join("xen-vmf");
    build_with_crate(site, source, variant, further, &own, name)
}

/// The same with the crate in another place.
pub fn build_with_crate(
    site: &Site,
    source: &Tree,
    variant: &Variant,
    further: &[&str],
    crate_path: &Path,
    name: &str,
) -> Result<Built> {
    let fragment = variant.fragment(further);
    let directory = site.xen_work().join(name);
    let xen = directory.join("xen");
    let built = Built {
        image: xen.join("xen"),
        syms: xen.join("xen-syms"),
    };
    let has_crate = variant.vmf && has_crate(source);
    let toolchain = if has_crate {
        Some(site.toolchain(BARE_METAL)?)
    } else {
        None
    };

    let mut inputs = Inputs::new()
        .add("source", &source.digest)
        .add("config", fragment.join("\n"));
    if let Some(toolchain) = &toolchain {
        inputs = inputs
            .add("crate", digest_of_crate(site, crate_path)?)
            .add("rust", toolchain.identity());
    }
    let digest = inputs.digest();
    let mark = site.xen_work().join(format!("{name}.stamp"));
    if stamp::is_current(&mark, &digest) && built.image.exists() && built.syms.exists() {
        return Ok(built);
    }

    site.say("make", &format!("Xen ({name})"));
    let _ = fs::remove_file(&mark);
    if !directory.exists() {
        begin_with_relative(site, variant, name)?;
    }
    tree::update(
        source,
        &directory,
        &site.xen_work().join(format!("{name}.files")),
    )?;
    if has_crate {
        link_crate(crate_path, &directory)?;
    }
    configure(site, &directory, &fragment)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    process::logged(
        make(site, &directory, toolchain.as_ref()).arg(format!("-j{jobs}")),
        &format!("make of Xen ({name})"),
        &directory.join("make.log"),
    )?;
    for product in [&built.image, &built.syms] {
        if !product.exists() {
            bail!("make of Xen ({name}) left no {}", product.display());
        }
    }
    stamp::write(&mark, &digest)?;
    Ok(built)
}

/// Begins a build with a copy of one that differs in little, where there is
/// one: make compiles only what differs.
fn begin_with_relative(site: &Site, variant: &Variant, name: &str) -> Result<()> {
    let work = site.xen_work();
    let file = |name: &str, what: &str| work.join(format!("{name}.{what}"));
    for relative in variant.relatives() {
        let (from, list) = (work.join(&relative), file(&relative, "files"));
        if relative == name || !list.exists() || !file(&relative, "stamp").exists() {
            continue;
        }
        // What a copy that was interrupted has left is no build.
        let scratch = file(name, "new");
        let _ = fs::remove_dir_all(&scratch);
        tree::copy(&from, &scratch)?;
        fs::copy(&list, file(name, "files"))
            .with_context(|| format!("cannot copy {}", list.display()))?;
        fs::rename(&scratch, work.join(name))
            .with_context(|| format!("cannot rename {}", scratch.display()))?;
        break;
    }
    Ok(())
}

/// Everything that the object of the crate is made of.
pub fn crate_digest(site: &Site) -> Result<String> {
    digest_of_crate(site, &site.root().join("xen-vmf"))
}

fn digest_of_crate(site: &Site, crate_path: &Path) -> Result<String> {
    let inputs = Inputs::new()
        .add("workspace", stamp::read(&site.root().join("Cargo.toml"))?)
        .add("lock", stamp::read(&site.root().join("Cargo.lock"))?);
    let wanted = |path: &Path| !path.starts_with("patches") && !path.starts_with("target");
    Ok(inputs.add_tree(crate_path, wanted)?.digest())
}

/// Whether the crate is linked into Xen where a tree has CONFIG_VMF=y: the first
/// patches of the series do without.
pub fn has_crate(source: &Tree) -> bool {
    source.path.join("xen/arch/arm/vmf").is_dir()
}

/// Puts the crate where the series' Kbuild looks for it.
fn link_crate(target: &Path, directory: &Path) -> Result<()> {
    let link = directory.join(CRATE_LINK);
    if fs::read_link(&link).is_ok_and(|there| there == target) {
        return Ok(());
    }
    let _ = fs::remove_file(&link);
    symlink(target, &link).with_context(|| format!("cannot create {}", link.display()))
}

/// Writes `.config`, if it is to be another than the last one.
fn configure(site: &Site, directory: &Path, fragment: &[String]) -> Result<()> {
    let lost = configured(site, directory, fragment)?;
    if !lost.is_empty() {
        bail!(
            "Xen's configuration does not accept {}: a symbol is unknown to this tree, or depends on another",
            lost.join(", ")
        );
    }
    Ok(())
}

/// The same; returns the lines that Xen's configuration does not accept.
fn configured<'a>(site: &Site, directory: &Path, fragment: &'a [String]) -> Result<Vec<&'a str>> {
    let xen = directory.join("xen");
    let default = xen.join("arch/arm/configs/arm64_defconfig");
    let default = fs::read_to_string(&default)
        .with_context(|| format!("cannot read {}", default.display()))?;
    let wanted = format!("{default}{}\n", fragment.join("\n"));
    let asked = directory.join("config.asked");
    let config = xen.join(".config");
    if !(config.exists() && fs::read_to_string(&asked).is_ok_and(|old| old == wanted)) {
        // Until it is accepted, nothing is known of what is there.
        let _ = fs::remove_file(&asked);
        fs::write(&config, &wanted)
            .with_context(|| format!("cannot write {}", config.display()))?;
    }
    process::logged(
        make(site, directory, None).arg("olddefconfig"),
        "configuration of Xen",
        &directory.join("config.log"),
    )?;
    let result =
        fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    let lost = lost(fragment, &result);
    if lost.is_empty() {
        fs::write(&asked, wanted)?;
    }
    Ok(lost)
}

/// Lines of the fragment that did not make it into the configuration. What is
/// to be off may also be absent, where it depends on something that is off.
fn lost<'a>(fragment: &'a [String], config: &str) -> Vec<&'a str> {
    let set = |line: &str| config.lines().any(|other| other == line);
    fragment
        .iter()
        .map(String::as_str)
        .filter(|line| {
            match line
                .strip_prefix("# ")
                .and_then(|line| line.strip_suffix(" is not set"))
            {
                Some(symbol) => config
                    .lines()
                    .any(|other| other.starts_with(&format!("{symbol}="))),
                None => !set(line),
            }
        })
        .collect()
}

/// `make -C xen` for arm64, with a tool chain where the crate is built. Where
/// that is, Kbuild finds by the link in the tree, as it does for a user.
fn make(site: &Site, directory: &Path, rust: Option<&Toolchain>) -> Command {
    let mut make = process::command("make");
    make.arg("-C")
        .arg(directory.join("xen"))
        .args(["XEN_TARGET_ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"]);
    // A date in the banner would make each build another one.
    make.args([
        "XEN_BUILD_DATE=none",
        "XEN_BUILD_TIME=none",
        "XEN_WHOAMI=vmf",
        "XEN_BUILD_HOST=lab",
        "XEN_DOMAIN=lab",
    ]);
    if let Some(toolchain) = rust {
        let path = |name: &str, path: &Path| format!("{name}={}", path.display());
        make.arg(path("VMF_CARGO", toolchain.cargo()))
            .arg(path("VMF_TARGET_DIR", &site.bare_metal()))
            .arg(format!("VMF_CARGO_FLAGS={}", toolchain.flags().join(" ")))
            .envs(toolchain.environment());
    }
    make
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn variants_have_names_of_their_own() {
        let mut names: BTreeSet<String> = [
            Variant::VMF,
            Variant::VMF_DEBUG,
            Variant::ATTACK,
            Variant::STOCK,
            Variant::OFF,
        ]
        .iter()
        .map(|variant| variant.name(&[]))
        .collect();
        names.insert(Variant::VMF.name(&["CONFIG_HAS_ITS=y"]));
        assert_eq!(names.len(), 6);
    }

    #[test]
    fn fragment_sets_the_fuse_only_where_the_series_is() {
        let has = |variant: &Variant, line: &str| {
            variant
                .fragment(&["CONFIG_X=y"])
                .iter()
                .any(|other| other == line)
        };
        assert!(has(&Variant::VMF, "CONFIG_VMF=y"));
        assert!(has(&Variant::VMF, "CONFIG_X=y"));
        assert!(has(&Variant::VMF, "# CONFIG_DEBUG is not set"));
        assert!(has(&Variant::VMF_DEBUG, "CONFIG_DEBUG=y"));
        assert!(has(&Variant::ATTACK, "CONFIG_VMF_ATTACK=y"));
        assert!(!has(&Variant::VMF, "CONFIG_VMF_ATTACK=y"));
        assert!(has(&Variant::OFF, "# CONFIG_VMF is not set"));
        assert!(
            !Variant::STOCK
                .fragment(&[])
                .iter()
                .any(|line| line.contains("VMF"))
        );
    }

    #[test]
    fn a_line_that_olddefconfig_drops_is_noticed() {
        let fragment = [
            "CONFIG_A=y",
            "CONFIG_B=y",
            "# CONFIG_C is not set",
            "# CONFIG_D is not set",
        ]
        .map(str::to_owned);
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\n";
        assert_eq!(
            lost(&fragment, config),
            ["CONFIG_B=y", "# CONFIG_C is not set"]
        );
    }
}
