//! Copies of Xen's source: the unmodified one, the patched one, and one for
//! each build. A copy is brought up to date by content, so that make sees only
//! what has really changed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::fetch;
use crate::patch;
use crate::process;
use crate::series::Series;
use crate::site::Site;
use crate::stamp::{self, Inputs};

/// An unmodified source tree of Xen, unpacked or copied, and its hash.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Holds `xen/`, `Config.mk` and so on; nothing builds in here.
    pub path: PathBuf,
    /// Hash of its content.
    pub digest: String,
}

/// The unmodified source: fetched, or copied from the user's tree.
pub fn stock(site: &Site) -> Result<Tree> {
    match site.user_xen() {
        Some(path) => copied(site, path),
        None => unpacked(site),
    }
}

fn unpacked(site: &Site) -> Result<Tree> {
    let tarball = fetch::xen_tarball(site)?;
    let digest = stamp::of_file(&tarball)?;
    let path = site.xen_work().join("source");
    let mark = site.xen_work().join("source.stamp");
    if !stamp::is_current(&mark, &digest) {
        site.say("unpack", "Xen's source");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        process::output(
            process::command("tar")
                .arg("-xf")
                .arg(&tarball)
                .arg("--strip-components=1")
                .arg("-C")
                .arg(&path),
        )?;
        require_xen(&path)?;
        stamp::write(&mark, &digest)?;
    }
    Ok(Tree { path, digest })
}

fn copied(site: &Site, user: &Path) -> Result<Tree> {
    require_xen(user)?;
    if patch::is_patched(user) {
        bail!(
            "{} is patched already: cargo xtask patch --xen {} --undo",
            user.display(),
            user.display()
        );
    }
    let path = site.xen_work().join("source");
    let list = site.xen_work().join("source.files");
    let files = source_files(user)?;
    sync(user, &files, &path, &list)?;
    let wanted: BTreeSet<PathBuf> = files.into_iter().collect();
    let mut inputs = Inputs::new();
    for file in &wanted {
        inputs = inputs.add(&file.to_string_lossy(), stamp::read(&path.join(file))?);
    }
    Ok(Tree {
        path,
        digest: inputs.digest(),
    })
}

/// A tree that is not Xen 4.20 gets a clear error instead of a failing patch.
pub fn require_xen(path: &Path) -> Result<()> {
    let makefile = path.join("xen/Makefile");
    let Ok(text) = fs::read_to_string(&makefile) else {
        bail!("{} is no Xen tree: it has no xen/Makefile", path.display());
    };
    match version(&text) {
        Some(version) if version == "4.20" => Ok(()),
        Some(version) => bail!(
            "{} is Xen {version}, and the series is for Xen 4.20",
            path.display()
        ),
        None => bail!("{} names no version of Xen", makefile.display()),
    }
}

/// "4.20" from xen/Makefile.
fn version(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        makefile.lines().find_map(|line| {
            let rest = line.trim_start_matches("export ").strip_prefix(name)?;
            rest.trim_start()
                .strip_prefix('=')
                .map(|value| value.trim().to_owned())
        })
    };
    Some(format!(
        "{}.{}",
        value("XEN_VERSION")?,
        value("XEN_SUBVERSION")?
    ))
}

/// The source files of a tree: what git tracks where it is a git tree, else
/// all that is not a product of a build.
fn source_files(tree: &Path) -> Result<Vec<PathBuf>> {
    if tree.join(".git").exists() {
        let list = process::output(
            process::command("git")
                .arg("-C")
                .arg(tree)
                .args(["ls-files", "-z"]),
        )?;
        let present = |path: &PathBuf| fs::symlink_metadata(tree.join(path)).is_ok();
        return Ok(list
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
            .filter(present)
            .collect());
    }
    stamp::files(tree, &|path| !is_product(path))
}

/// Whether a build in the tree makes this file.
fn is_product(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let generated = [
        "xen/.config",
        "xen/.config.old",
        "xen/include/config",
        "xen/include/generated",
        "xen/include/xen/compile.h",
        "xen/arch/arm/include/asm/asm-offsets.h",
        "xen/tools/fixdep",
        "xen/tools/symbols",
        "xen/tools/kconfig/conf",
        "xen/xen",
        "xen/xen-syms",
        "xen/xen-syms.map",
        "xen/xen.lds",
    ];
    generated.contains(&text.as_ref())
        || name == ".git"
        || name.ends_with(".o")
        || name.ends_with(".d")
        || name.ends_with(".cmd") && name.starts_with('.')
}

/// The source with `series` applied, in the directory `name`; made anew only
/// when source or series changed, and replaced only if every patch applies.
pub fn patched(site: &Site, stock: &Tree, series: &Series, name: &str) -> Result<Tree> {
    let path = site.xen_work().join(name);
    let mark = site.xen_work().join(format!("{name}.stamp"));
    let digest = Inputs::new()
        .add("source", &stock.digest)
        .add("series", series.digest())
        .digest();
    if !stamp::is_current(&mark, &digest) {
        let scratch = site.xen_work().join(format!("{name}.new"));
        let _ = fs::remove_dir_all(&scratch);
        copy(&stock.path, &scratch)?;
        series.apply(&scratch)?;
        let _ = fs::remove_dir_all(&path);
        fs::rename(&scratch, &path)?;
        stamp::write(&mark, &digest)?;
    }
    Ok(Tree { path, digest })
}

/// Copies a whole tree, with the times of its files.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    process::output(process::command("cp").arg("-a").arg(from).arg(to))?;
    Ok(())
}

/// Brings `to` up to date with a tree; what a build has made there stays.
pub fn update(from: &Tree, to: &Path, list: &Path) -> Result<()> {
    sync(&from.path, &stamp::files(&from.path, &|_| true)?, to, list)
}

/// The same for some of its files.
pub fn update_some(from: &Tree, files: &[PathBuf], to: &Path, list: &Path) -> Result<()> {
    sync(&from.path, files, to, list)
}

/// Copies those of `files` whose content differs, and removes from `to` what an
/// earlier call copied, to its end or not, and is no longer in `files`. `list`
/// remembers them.
fn sync(from: &Path, files: &[PathBuf], to: &Path, list: &Path) -> Result<()> {
    let wanted: BTreeSet<&Path> = files.iter().map(PathBuf::as_path).collect();
    let before = fs::read_to_string(list).unwrap_or_default();
    for gone in before
        .lines()
        .map(Path::new)
        .filter(|path| !wanted.contains(path))
    {
        let _ = fs::remove_file(to.join(gone));
    }
    let remember = |names: BTreeSet<&Path>| {
        let names: Vec<_> = names.iter().map(|path| path.to_string_lossy()).collect();
        fs::write(list, names.join("\n"))
            .with_context(|| format!("cannot write {}", list.display()))
    };
    // Should this be the last that is done, what has been copied is known.
    remember(
        before
            .lines()
            .map(Path::new)
            .chain(wanted.clone())
            .collect(),
    )?;
    for file in &wanted {
        copy_if_different(&from.join(file), &to.join(file))?;
    }
    remember(wanted)
}

fn copy_if_different(from: &Path, to: &Path) -> Result<()> {
    let meta =
        fs::symlink_metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
    let new = stamp::read(from)?;
    let same_kind = fs::symlink_metadata(to).is_ok_and(|old| {
        old.is_symlink() == meta.is_symlink()
            && (meta.is_symlink() || old.permissions().mode() == meta.permissions().mode())
    });
    if same_kind && stamp::read(to)? == new {
        return Ok(());
    }
    let failed = || format!("cannot write {}", to.display());
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(failed)?;
    }
    let _ = fs::remove_file(to);
    if meta.is_symlink() {
        return symlink(fs::read_link(from)?, to).with_context(failed);
    }
    fs::write(to, new).with_context(failed)?;
    fs::set_permissions(to, meta.permissions()).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("vmf-tree-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn what_was_copied_before_an_end_is_known() {
        let root = scratch("end");
        let (from, to, list) = (root.join("from"), root.join("to"), root.join("list"));
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("a"), "1").unwrap();
        fs::write(from.join("b"), "1").unwrap();
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        sync(&from, &files(&["a", "missing"]), &to, &list).unwrap_err();
        assert!(to.join("a").exists());
        sync(&from, &files(&["b"]), &to, &list).unwrap();
        assert!(!to.join("a").exists() && to.join("b").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn sync_touches_only_what_differs() {
        let root = scratch("sync");
        let (from, to, list) = (root.join("from"), root.join("to"), root.join("list"));
        fs::create_dir_all(from.join("d")).unwrap();
        for (file, text) in [("same", "1"), ("d/changed", "1"), ("gone", "1")] {
            fs::write(from.join(file), text).unwrap();
        }
        let all = |path: &Path| stamp::files(path, &|_| true).unwrap();
        sync(&from, &all(&from), &to, &list).unwrap();
        fs::write(to.join("product.o"), "built").unwrap();
        let old = fs::metadata(to.join("same")).unwrap().modified().unwrap();

        fs::remove_file(from.join("gone")).unwrap();
        fs::write(from.join("d/changed"), "2").unwrap();
        sync(&from, &all(&from), &to, &list).unwrap();
        let names: Vec<_> = all(&to)
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(names, ["d/changed", "product.o", "same"]);
        assert_eq!(fs::read_to_string(to.join("d/changed")).unwrap(), "2");
        assert_eq!(
            fs::metadata(to.join("same")).unwrap().modified().unwrap(),
            old
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn version_and_its_errors() {
        let makefile = "export XEN_VERSION       = 4\nexport XEN_SUBVERSION    = 20\nexport XEN_EXTRAVERSION ?= .3\n";
        assert_eq!(version(makefile).as_deref(), Some("4.20"));
        let root = scratch("version");
        assert!(
            require_xen(&root)
                .unwrap_err()
                .to_string()
                .contains("is no Xen tree")
        );
        fs::create_dir_all(root.join("xen")).unwrap();
        fs::write(root.join("xen/Makefile"), makefile.replace("20", "21")).unwrap();
        assert!(
            require_xen(&root)
                .unwrap_err()
                .to_string()
                .contains("is Xen 4.21")
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn products_of_a_build_are_no_source() {
        for product in [
            "xen/arch/arm/mm.o",
            "xen/arch/arm/.mm.o.cmd",
            "xen/.config",
            "xen/include/generated",
            "xen/common/.sched.o.d",
        ] {
            assert!(is_product(Path::new(product)), "{product}");
        }
        for source in [
            "xen/arch/arm/mm.c",
            "xen/tools/kconfig/conf.c",
            "config/arm64.mk",
            "xen/include/xen/config.h",
        ] {
            assert!(!is_product(Path::new(source)), "{source}");
        }
    }
}
