//! `cargo xtask patch`: puts the series into a Xen tree of the user's own, and
//! takes it out again to the byte.
//!
//! All patches are applied to a scratch copy of the files that they touch
//! first. The tree is written only when that has worked, and a record below
//! `.xen-vmf/` in it says what was there before; without it nothing is written.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::series::Series;
use crate::site::Site;
use crate::stamp;
use crate::tree;
use crate::xen::CRATE_LINK;

/// Where the record and the original files are kept in a patched tree.
const RECORD: &str = ".xen-vmf";

/// What was done to a tree.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Hash of the series that was applied.
    series: String,
    /// Names of its patches, for people.
    patches: Vec<String>,
    /// Every file that it touched.
    files: Vec<Change>,
    /// Directories that were created, outermost first.
    directories: Vec<PathBuf>,
    /// The link to the crate.
    link: PathBuf,
}

/// One file, before and after.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    path: PathBuf,
    /// Hash before, if the file was there; its content is kept below [`RECORD`].
    before: Option<String>,
    /// Hash after, if the file is there now.
    after: Option<String>,
}

/// Whether a tree carries a record of this tool.
pub fn is_patched(tree: &Path) -> bool {
    tree.join(RECORD).join("record.json").exists()
}

/// Applies the series to `tree`.
pub fn apply(site: &Site, tree: &Path) -> Result<()> {
    let series = Series::read(site)?;
    let scratch = site.cache().join("patch");
    apply_series(&series, tree, &site.root().join("xen-vmf"), &scratch)?;
    println!(
        "next: make -C {}/xen XEN_TARGET_ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- menuconfig, and set CONFIG_VMF",
        tree.display()
    );
    Ok(())
}

fn apply_series(series: &Series, tree: &Path, vmf: &Path, scratch: &Path) -> Result<()> {
    tree::require_xen(tree)?;
    if series.0.is_empty() {
        bail!("the series is empty: there is nothing to apply");
    }
    if is_patched(tree) {
        let record = read_record(tree)?;
        if record.series == series.digest() {
            println!(
                "{} is patched already, with this series: nothing to do",
                tree.display()
            );
            return Ok(());
        }
        bail!(
            "{} carries another version of the series: undo it first, with cargo xtask patch --xen {} --undo",
            tree.display(),
            tree.display()
        );
    }

    let _ = fs::remove_dir_all(scratch);
    let (old, new) = (scratch.join("old"), scratch.join("new"));
    for file in series.files() {
        let from = tree.join(&file);
        if fs::symlink_metadata(&from).is_ok() {
            copy(&from, &old.join(&file))?;
            copy(&from, &new.join(&file))?;
        }
    }
    fs::create_dir_all(&new)?;
    series
        .apply(&new)
        .with_context(|| format!("{} was not touched", tree.display()))?;

    let record = plan(series, tree, &old, &new)?;
    for change in record.files.iter().filter(|change| change.before.is_some()) {
        copy(
            &old.join(&change.path),
            &tree.join(RECORD).join("original").join(&change.path),
        )?;
    }
    let text = serde_json::to_string_pretty(&record)?;
    fs::write(tree.join(RECORD).join("record.json"), text + "\n")
        .with_context(|| format!("cannot write to {}", tree.display()))?;

    if let Err(error) = carry_out(&record, tree, &new, vmf) {
        restore(&record, tree)?;
        return Err(error.context(format!("{} is as it was before", tree.display())));
    }
    fs::remove_dir_all(scratch)?;
    println!(
        "{}: {} patches applied, {} files changed",
        tree.display(),
        record.patches.len(),
        record.files.len()
    );
    Ok(())
}

/// What is going to be done.
fn plan(series: &Series, tree: &Path, old: &Path, new: &Path) -> Result<Record> {
    let hash = |path: PathBuf| -> Result<Option<String>> {
        if fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        Ok(Some(stamp::of_bytes(stamp::read(&path)?)))
    };
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = Vec::new();
    let link = PathBuf::from(CRATE_LINK);
    for file in series.files() {
        let path = PathBuf::from(&file);
        let (before, after) = (hash(old.join(&path))?, hash(new.join(&path))?);
        if before != after {
            files.push(Change {
                path,
                before,
                after,
            });
        }
    }
    for path in files.iter().map(|change| &change.path).chain([&link]) {
        let created: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty() && !tree.join(parent).exists())
            .collect();
        for parent in created.into_iter().rev() {
            if !directories.iter().any(|known| known == parent) {
                directories.push(parent.to_owned());
            }
        }
    }
    let patches = series.0.iter().map(|patch| patch.name.clone()).collect();
    Ok(Record {
        series: series.digest(),
        patches,
        files,
        directories,
        link,
    })
}

fn carry_out(record: &Record, tree: &Path, new: &Path, vmf: &Path) -> Result<()> {
    for change in &record.files {
        match change.after {
            Some(_) => copy(&new.join(&change.path), &tree.join(&change.path))?,
            None => fs::remove_file(tree.join(&change.path))?,
        }
    }
    let link = tree.join(&record.link);
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    symlink(vmf, &link).with_context(|| format!("cannot create {}", link.display()))
}

/// Takes the series out of `tree` again.
pub fn undo(tree: &Path) -> Result<()> {
    if !is_patched(tree) {
        bail!(
            "{} carries no record of this tool: nothing to undo",
            tree.display()
        );
    }
    let record = read_record(tree)?;
    let changed: Vec<String> = record
        .files
        .iter()
        .filter(|change| {
            let path = tree.join(&change.path);
            let now = stamp::read(&path).ok().map(stamp::of_bytes);
            now != change.after
        })
        .map(|change| change.path.display().to_string())
        .collect();
    if !changed.is_empty() {
        bail!(
            "changed since the series was applied, so nothing was undone: {}",
            changed.join(", ")
        );
    }
    restore(&record, tree)?;
    println!(
        "{}: {} patches undone",
        tree.display(),
        record.patches.len()
    );
    Ok(())
}

/// Brings back every file of the record, and removes the record.
fn restore(record: &Record, tree: &Path) -> Result<()> {
    for change in &record.files {
        let path = tree.join(&change.path);
        match change.before {
            Some(_) => copy(
                &tree.join(RECORD).join("original").join(&change.path),
                &path,
            )?,
            None if fs::symlink_metadata(&path).is_ok() => fs::remove_file(&path)?,
            None => {}
        }
    }
    let link = tree.join(&record.link);
    if fs::symlink_metadata(&link).is_ok_and(|meta| meta.is_symlink()) {
        fs::remove_file(&link)?;
    }
    for directory in record.directories.iter().rev() {
        // One that holds something else by now (objects, say) stays.
        let _ = fs::remove_dir(tree.join(directory));
    }
    fs::remove_dir_all(tree.join(RECORD))?;
    Ok(())
}

fn read_record(tree: &Path) -> Result<Record> {
    let path = tree.join(RECORD).join("record.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no record of this tool", path.display()))
}

/// Copies content, permissions and time; replaces what is there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", to.display());
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(failed)?;
    }
    let meta =
        fs::symlink_metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
    let content = stamp::read(from)?;
    let _ = fs::remove_file(to);
    if meta.is_symlink() {
        return symlink(fs::read_link(from)?, to).with_context(failed);
    }
    fs::write(to, content).with_context(failed)?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.permissions().mode()))
        .with_context(failed)?;
    let file = fs::File::options()
        .write(true)
        .open(to)
        .with_context(failed)?;
    file.set_modified(meta.modified()?).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Patch;

    const MAKEFILE: &str = "export XEN_VERSION       = 4\nexport XEN_SUBVERSION    = 20\n";

    const GOOD: &str = "\
diff --git a/xen/a.c b/xen/a.c
--- a/xen/a.c
+++ b/xen/a.c
@@ -1,3 +1,3 @@
 one
-two
+zwei
 three
diff --git a/xen/arch/arm/vmf/new.h b/xen/arch/arm/vmf/new.h
new file mode 100644
--- /dev/null
+++ b/xen/arch/arm/vmf/new.h
@@ -0,0 +1 @@
+new
";

    const BAD: &str = "\
diff --git a/xen/b.c b/xen/b.c
--- a/xen/b.c
+++ b/xen/b.c
@@ -1 +1 @@
-never there
+x
";

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("vmf-patch-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("tree/xen")).unwrap();
            let scratch = Self(path);
            for (file, text) in [
                ("xen/Makefile", MAKEFILE),
                ("xen/a.c", "one\ntwo\nthree\n"),
                ("xen/b.c", "b\n"),
            ] {
                fs::write(scratch.tree().join(file), text).unwrap();
            }
            fs::set_permissions(
                scratch.tree().join("xen/a.c"),
                fs::Permissions::from_mode(0o755),
            )
            .unwrap();
            scratch
        }

        fn tree(&self) -> PathBuf {
            self.0.join("tree")
        }

        fn series(&self, texts: &[&str]) -> Series {
            let patch = |(number, text): (usize, &&str)| {
                let name = format!("{:04}-test.patch", number + 1);
                let path = self.0.join(&name);
                fs::write(&path, text).unwrap();
                Patch {
                    name,
                    path,
                    text: (*text).to_owned(),
                }
            };
            Series(texts.iter().enumerate().map(patch).collect())
        }

        fn apply(&self, series: &Series) -> Result<()> {
            apply_series(
                series,
                &self.tree(),
                Path::new("/vmf"),
                &self.0.join("scratch"),
            )
        }

        /// Every file with mode, time and content.
        fn state(&self) -> Vec<(PathBuf, u32, std::time::SystemTime, Vec<u8>)> {
            let describe = |path: PathBuf| {
                let full = self.tree().join(&path);
                let meta = fs::symlink_metadata(&full).unwrap();
                (
                    path,
                    meta.permissions().mode(),
                    meta.modified().unwrap(),
                    stamp::read(&full).unwrap(),
                )
            };
            stamp::files(&self.tree(), &|_| true)
                .unwrap()
                .into_iter()
                .map(describe)
                .collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn applied_and_undone_to_the_byte() {
        let scratch = Scratch::new("undo");
        let before = scratch.state();
        scratch.apply(&scratch.series(&[GOOD])).unwrap();
        let tree = scratch.tree();
        assert_eq!(
            fs::read_to_string(tree.join("xen/a.c")).unwrap(),
            "one\nzwei\nthree\n"
        );
        assert_eq!(
            fs::read_to_string(tree.join("xen/arch/arm/vmf/new.h")).unwrap(),
            "new\n"
        );
        assert_eq!(
            fs::read_link(tree.join(CRATE_LINK)).unwrap(),
            Path::new("/vmf")
        );
        undo(&tree).unwrap();
        assert_eq!(scratch.state(), before);
        assert!(!tree.join("xen/arch").exists());
        assert!(
            undo(&tree)
                .unwrap_err()
                .to_string()
                .contains("nothing to undo")
        );
    }

    #[test]
    fn a_patch_that_does_not_apply_leaves_the_tree_alone() {
        let scratch = Scratch::new("bad");
        let before = scratch.state();
        let error = format!(
            "{:#}",
            scratch.apply(&scratch.series(&[GOOD, BAD])).unwrap_err()
        );
        assert!(
            error.contains("was not touched: 0002-test.patch does not apply: xen/b.c:1"),
            "{error}"
        );
        assert_eq!(scratch.state(), before);
    }

    #[test]
    fn a_second_time_says_so_and_another_series_is_refused() {
        let scratch = Scratch::new("twice");
        scratch.apply(&scratch.series(&[GOOD])).unwrap();
        let once = scratch.state();
        scratch.apply(&scratch.series(&[GOOD])).unwrap();
        assert_eq!(scratch.state(), once);
        let other = GOOD.replace("zwei", "deux");
        let error = scratch.apply(&scratch.series(&[&other])).unwrap_err();
        assert!(
            error.to_string().contains("another version of the series"),
            "{error}"
        );
        assert_eq!(scratch.state(), once);
    }

    #[test]
    fn work_done_since_is_not_lost() {
        let scratch = Scratch::new("work");
        scratch.apply(&scratch.series(&[GOOD])).unwrap();
        fs::write(scratch.tree().join("xen/a.c"), "mine\n").unwrap();
        let error = undo(&scratch.tree()).unwrap_err().to_string();
        assert!(error.ends_with("nothing was undone: xen/a.c"), "{error}");
        assert_eq!(
            fs::read_to_string(scratch.tree().join("xen/a.c")).unwrap(),
            "mine\n"
        );
    }
}
