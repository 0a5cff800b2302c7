//! Seeded faults as data: one change of the crate's or of Xen's source each.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::{Cpu, SeededSystem};

/// What can catch a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Oracle {
    /// Xen's own build, which looks for instructions that could undo a seal.
    Build,
    /// The crate's tests on this host.
    Host,
    /// The fuse itself: it refuses, or Xen stops with its message.
    SelfCheck,
    /// `vmf-audit`, from the memory of the machine.
    Audit,
    /// Loads at EL2 on every CPU right after the blow, TLB included.
    Touch,
    /// A CPU that enters the gates at every instruction.
    Gates,
    /// Domains, hypercalls and refusals afterwards.
    Survival,
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Build => "build",
            Self::Host => "host",
            Self::SelfCheck => "self-check",
            Self::Audit => "audit",
            Self::Touch => "touch",
            Self::Gates => "gates",
            Self::Survival => "survival",
        })
    }
}

/// One deliberate fault.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Its name.
    pub name: String,
    /// What it would mean.
    pub why: String,
    /// `crate/...` below `xen-vmf/`, or `xen/...` in the patched tree.
    pub file: PathBuf,
    /// Text that is there exactly once.
    pub find: String,
    /// What it becomes.
    pub replace: String,
    /// Oracles that must catch it; others may as well.
    pub caught_by: BTreeSet<Oracle>,
    /// On which machine it shows.
    #[serde(default)]
    pub cpu: Option<Cpu>,
    /// `directmap=`; yes if not said.
    #[serde(default = "yes")]
    pub directmap: bool,
    /// The fuse is blown as far as `seal`.
    #[serde(default)]
    pub seal: bool,
    /// Whether the short form tries it.
    #[serde(default)]
    pub short: bool,
}

fn yes() -> bool {
    true
}

/// All faults of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    fault: Vec<Fault>,
}

impl Fault {
    /// Every fault of `tools/xtask/mutants/`, by name.
    pub fn all(root: &Path) -> Result<Vec<Self>> {
        let folder = root.join("tools/xtask/mutants");
        let mut faults: Vec<Self> = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{}: cannot read", path.display()))?;
            let file: File =
                toml::from_str(&text).with_context(|| format!("{}: no faults", path.display()))?;
            faults.extend(file.fault);
        }
        faults.sort_by(|one, other| one.name.cmp(&other.name));
        for fault in &faults {
            ensure!(
                !fault.caught_by.is_empty(),
                "{}: nothing is said to catch it",
                fault.name
            );
        }
        if let Some(pair) = faults.windows(2).find(|pair| pair[0].name == pair[1].name) {
            bail!("two faults are named {}", pair[0].name);
        }
        Ok(faults)
    }

    /// Whether it is a fault of the crate; else of Xen.
    pub fn in_crate(&self) -> bool {
        self.file.starts_with("crate")
    }

    /// Where its file is below `tree`, which holds the crate or Xen's source.
    fn path(&self, tree: &Path) -> PathBuf {
        tree.join(self.file.strip_prefix("crate").unwrap_or(&self.file))
    }

    /// The file with the fault in it; an error if the text is not there once.
    pub fn changed(&self, tree: &Path) -> Result<String> {
        let path = self.path(tree);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{}: {}: cannot read", self.name, path.display()))?;
        let found = text.matches(&self.find).count();
        ensure!(
            found == 1,
            "{}: the text to change is {found} times in {}: the fault has to be written anew",
            self.name,
            self.file.display()
        );
        Ok(text.replacen(&self.find, &self.replace, 1))
    }

    /// Changes the file.
    pub fn apply(&self, tree: &Path) -> Result<()> {
        let path = self.path(tree);
        fs::write(&path, self.changed(tree)?)
            .with_context(|| format!("{}: cannot write", path.display()))
    }

    /// The system on which it is tried.
    pub fn system(&self) -> SeededSystem {
        SeededSystem {
            cpu: self.cpu,
            directmap: self.directmap,
            seal: self.seal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_applies_to_the_crate_as_it_is() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let faults = Fault::all(&root).unwrap();
        assert!(faults.len() >= 20);
        for fault in faults.iter().filter(|fault| fault.in_crate()) {
            let file = fault.file.strip_prefix("crate").unwrap();
            let text = fs::read_to_string(root.join("xen-vmf").join(file)).unwrap();
            assert_eq!(text.matches(&fault.find).count(), 1, "{}", fault.name);
            assert_ne!(fault.find, fault.replace, "{}", fault.name);
        }
    }
}
