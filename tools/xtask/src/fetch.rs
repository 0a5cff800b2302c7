//! Gets what is not in the repository, and keeps it under `target/cache`: the
//! source of Xen, checked by hash; the kernel and the shell of Linux domains.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::process;
use crate::site::Site;
use crate::stamp;

/// Upstream's tarball in Debian's source package of Xen 4.20.
const XEN_TARBALL: &str = "xen_4.20.3+127-gc42374a105.orig.tar.xz";
/// Where it is in Debian's archive.
const XEN_POOL: &str = "pool/main/x/xen";
/// SHA-256 of [`XEN_TARBALL`].
const XEN_SHA256: &str = "df0831854a55a8f31cb3cb85036f2edc928e2ef098d77f815f5714bfafac68f3";
/// What a real toolstack in dom0 is made of: Xen's tools and every library
/// that they name (the lab reads their names from the programs, so a package
/// too few is an error).
const TOOLSTACK: [&str; 19] = [
    "xen-utils-4.20",
    "xen-utils-common",
    "xenstore-utils",
    "libxenmisc4.20",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libc6",
    "libfdt1",
    "libgcc-s1",
    "libuuid1",
    "libyajl2",
    "zlib1g",
];
/// Depends on the newest kernel; versions move, this name stays.
const KERNEL_META: &str = "linux-image-cloud-arm64";

/// An arm64 Linux kernel with its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The Image that Xen loads.
    pub image: PathBuf,
    /// `lib/modules/<version>/` of that kernel.
    pub modules: PathBuf,
}

/// An arm64 package that was unpacked, not installed.
#[derive(Clone, Debug)]
pub struct Package {
    /// Holds `usr`, `boot` and so on.
    pub root: PathBuf,
    /// Debian's version.
    pub version: String,
}

/// The tarball of Xen's source, checked.
pub fn xen_tarball(site: &Site) -> Result<PathBuf> {
    let file = site.cache().join(XEN_TARBALL);
    if file.exists() {
        let found = stamp::of_file(&file)?;
        if found == XEN_SHA256 {
            return Ok(file);
        }
        // Cut short by an interruption, say. If it comes again, it is an error.
        fs::remove_file(&file)?;
    }
    site.say("fetch", XEN_TARBALL);
    let apt = Apt::open(site)?;
    let directory = site.cache().join("download");
    let from_index = apt.source_tarball("xen", &directory);
    let fetched = directory.join(XEN_TARBALL);
    if !fetched.exists() {
        // The index may have moved on to a newer version while the pool still has this one.
        apt.pool_file(&format!("{XEN_POOL}/{XEN_TARBALL}"), XEN_SHA256, &fetched)
            .with_context(|| match from_index {
                Ok(()) => "Debian's source package of Xen is a newer one".to_owned(),
                Err(error) => format!("{error:#}"),
            })?;
    }
    let found = stamp::of_file(&fetched)?;
    if found != XEN_SHA256 {
        fs::remove_file(&fetched)?;
        bail!(
            "{XEN_TARBALL} has SHA-256 {found}, expected {XEN_SHA256}: the download was changed or cut, nothing was used of it"
        );
    }
    fs::rename(&fetched, &file)?;
    Ok(file)
}

/// The kernel for dom0 and Linux guests.
pub fn kernel(site: &Site) -> Result<Kernel> {
    let note = site.cache().join("kernel-package");
    let name = match fs::read_to_string(&note) {
        Ok(name) => name.trim().to_owned(),
        Err(_) => {
            let depends = Apt::open(site)?.depends(KERNEL_META)?;
            let name = kernel_package(&depends)?;
            fs::write(&note, format!("{name}\n"))?;
            name
        }
    };
    let unpacked = match package(site, &name, None) {
        Ok(unpacked) => unpacked,
        Err(error) => {
            // The archive may have moved on since the note was taken.
            let _ = fs::remove_file(&note);
            return Err(error);
        }
    };
    let version = name.trim_start_matches("linux-image-").to_owned();
    let image = unpacked
        .root
        .join("boot")
        .join(format!("vmlinuz-{version}"));
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|directory| unpacked.root.join(directory).join(&version))
        .into_iter()
        .find(|directory| directory.is_dir())
        .with_context(|| format!("{name} has no modules"))?;
    if !image.exists() {
        bail!("{name} has no boot/vmlinuz-{version}");
    }
    Ok(Kernel { image, modules })
}

/// The package that the meta package's `Depends` line names.
fn kernel_package(depends: &str) -> Result<String> {
    depends
        .split([',', '|'])
        .filter_map(|item| item.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("{KERNEL_META} depends on no kernel: {depends}"))
}

/// A static arm64 busybox.
pub fn busybox(site: &Site) -> Result<PathBuf> {
    let unpacked = package(site, "busybox-static", None)?;
    ["bin/busybox", "usr/bin/busybox"]
        .map(|path| unpacked.root.join(path))
        .into_iter()
        .find(|path| path.exists())
        .context("busybox-static has no bin/busybox")
}

/// Xen's tools for dom0 and their libraries, from Debian 13: the roots of the
/// packages, unpacked.
pub fn toolstack(site: &Site) -> Result<Vec<PathBuf>> {
    TOOLSTACK
        .iter()
        .map(|name| {
            let directory = site.cache().join("packages-xen").join(name);
            package_from(site, Apt::open_xen, name, None, directory).map(|unpacked| unpacked.root)
        })
        .collect()
}

/// An arm64 package of the machine's own release, unpacked below
/// `target/cache/packages`; the newest, or `version`.
pub fn package(site: &Site, name: &str, version: Option<&str>) -> Result<Package> {
    let directory = site.cache().join("packages").join(name);
    package_from(site, Apt::open, name, version, directory)
}

/// A package from the archives that `open` knows, unpacked in `directory`.
fn package_from(
    site: &Site,
    open: impl FnOnce(&Site) -> Result<Apt>,
    name: &str,
    version: Option<&str>,
    directory: PathBuf,
) -> Result<Package> {
    let root = directory.join("root");
    let note = directory.join("version");
    if let Ok(have) = fs::read_to_string(&note) {
        let have = have.trim().to_owned();
        if version.is_none_or(|version| version == have) {
            return Ok(Package {
                root,
                version: have,
            });
        }
    }
    site.say("fetch", &format!("{name} for arm64"));
    let _ = fs::remove_dir_all(&directory);
    let file = open(site)?.download(site, name, version, &directory)?;
    let found = unpack(&file, &root)?;
    stamp::write(&note, &found)?;
    fs::remove_file(&file)?;
    Ok(Package {
        root,
        version: found,
    })
}

/// Unpacks a package and returns its version.
fn unpack(file: &Path, root: &Path) -> Result<String> {
    process::output(process::command("dpkg-deb").arg("-x").arg(file).arg(root))?;
    process::output(
        process::command("dpkg-deb")
            .arg("-f")
            .arg(file)
            .arg("Version"),
    )
}

/// Everything at once.
pub fn all(site: &Site) -> Result<()> {
    println!("Xen's source: {}", xen_tarball(site)?.display());
    println!("kernel:       {}", kernel(site)?.image.display());
    println!("busybox:      {}", busybox(site)?.display());
    println!("Xen's tools:  {} packages", toolstack(site)?.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_package_is_the_one_the_meta_package_names() {
        let depends = "linux-base, linux-image-6.1.0-56-cloud-arm64 (= 6.1.192-2)";
        assert_eq!(
            kernel_package(depends).unwrap(),
            "linux-image-6.1.0-56-cloud-arm64"
        );
        assert!(kernel_package("libc6 (>= 2)").is_err());
    }
}
