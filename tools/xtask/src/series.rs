//! The series for Xen as a list of patches, and its application to a tree:
//! with `git apply`, which needs no git tree and is as strict as `git am`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::site::Site;
use crate::stamp::Inputs;

/// One patch of the series.
#[derive(Clone, Debug)]
pub struct Patch {
    /// File name, such as `0003-arm-mm-split-heap.patch`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// The patches in order.
#[derive(Clone, Debug)]
pub struct Series(pub Vec<Patch>);

impl Series {
    /// Reads the series for Xen 4.20.
    pub fn read(site: &Site) -> Result<Self> {
        Self::of(&site.root().join("xen-vmf/patches/xen-4.20"))
    }

    /// The series and, behind it, the attack primitives of the lab, which
    /// nobody but the lab ever applies.
    pub fn with_attack(site: &Site) -> Result<Self> {
        Self::read(site)?.and(site, "xen-vmf/patches/xen-4.20-attack")
    }

    /// The series, or with `patched` false nothing, and behind it the
    /// measurements that Xen makes itself, for the benchmark alone.
    pub fn with_measurements(site: &Site, patched: bool) -> Result<Self> {
        let series = if patched {
            Self::read(site)?
        } else {
            Self(Vec::new())
        };
        series.and(site, "xen-vmf/patches/xen-4.20-bench")
    }

    /// These patches, and behind them those of another folder, which is not
    /// empty.
    fn and(mut self, site: &Site, folder: &str) -> Result<Self> {
        let further = Self::of(&site.root().join(folder))?;
        if further.0.is_empty() {
            bail!("{folder} has no patch");
        }
        self.0.extend(further.0);
        Ok(self)
    }

    fn of(directory: &Path) -> Result<Self> {
        let mut patches = Vec::new();
        // No directory is a series without patches.
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "patch")
            {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                patches.push(Patch { name, path, text });
            }
        }
        patches.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self(patches))
    }

    /// The first `count` patches.
    pub fn first(&self, count: usize) -> Self {
        Self(self.0[..count].to_vec())
    }

    /// Hash of the whole series.
    pub fn digest(&self) -> String {
        self.0
            .iter()
            .fold(Inputs::new(), |inputs, patch| {
                inputs.add(&patch.name, &patch.text)
            })
            .digest()
    }

    /// Every file that the series creates, changes or removes.
    pub fn files(&self) -> BTreeSet<String> {
        self.0
            .iter()
            .flat_map(|patch| touched(&patch.text))
            .collect()
    }

    /// Applies all patches in order to `tree`, which is left half patched on an
    /// error: only for scratch copies.
    pub fn apply(&self, tree: &Path) -> Result<()> {
        for patch in &self.0 {
            let mut git = process::command("git");
            // Without this, git would take a repository around the tree for the tree's own.
            git.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree))
                .env_remove("GIT_DIR")
                .env_remove("GIT_WORK_TREE")
                .current_dir(tree)
                .args(["-c", "core.autocrlf=false", "apply", "--whitespace=nowarn"])
                .arg(&patch.path);
            let output = git
                .output()
                .context("cannot start git: apt-get install git")?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr);
                bail!("{} does not apply: {}", patch.name, reason(&text));
            }
        }
        Ok(())
    }
}

/// Of git's messages, the one that names file and line.
fn reason(stderr: &str) -> String {
    let lines = || {
        stderr
            .lines()
            .filter_map(|line| line.strip_prefix("error: "))
    };
    let best = lines()
        .find(|line| line.starts_with("patch failed: "))
        .or_else(|| lines().next());
    best.map_or(stderr.trim(), |line| {
        line.trim_start_matches("patch failed: ")
    })
    .to_owned()
}

/// Files that a patch touches, by its `diff --git` lines.
fn touched(patch: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in patch.lines() {
        let Some(pair) = line.strip_prefix("diff --git a/") else {
            continue;
        };
        if let Some((old, new)) = pair.split_once(" b/") {
            for file in [old, new] {
                if !files.iter().any(|known| known == file) {
                    files.push(file.to_owned());
                }
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_files_of_change_creation_and_rename() {
        let patch = "diff --git a/xen/a.c b/xen/a.c\nindex 1..2\n--- a/xen/a.c\n+++ b/xen/a.c\n@@ -1 +1 @@\n-diff --git a/x b/x\n\
                     diff --git a/xen/old.h b/xen/new.h\nrename from xen/old.h\n";
        assert_eq!(touched(patch), ["xen/a.c", "xen/old.h", "xen/new.h"]);
    }

    #[test]
    fn reason_names_file_and_line() {
        let stderr = "error: patch failed: xen/arch/arm/mm.c:123\nerror: xen/arch/arm/mm.c: patch does not apply\n";
        assert_eq!(reason(stderr), "xen/arch/arm/mm.c:123");
        assert_eq!(
            reason("error: xen/no.c: No such file or directory\n"),
            "xen/no.c: No such file or directory"
        );
    }
}
