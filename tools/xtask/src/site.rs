//! Where things are: the repository, its target directory, the Xen tree in use.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};

use crate::stamp;
use crate::toolchain::Toolchain;

/// The repository that this xtask works on, and the Xen source chosen for it.
pub struct Site {
    root: PathBuf,
    xen: Option<PathBuf>,
    toolchains: Mutex<Vec<Toolchain>>,
}

impl Site {
    /// The repository that this program was built from. `xen` is an unmodified
    /// tree to use instead of the fetched source.
    pub fn find(xen: Option<PathBuf>) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root
            .canonicalize()
            .context("the repository that xtask was built from is gone; build it again")?;
        let xen = match xen {
            Some(path) => Some(
                path.canonicalize()
                    .with_context(|| format!("--xen {}: no such directory", path.display()))?,
            ),
            None => None,
        };
        Ok(Self {
            root,
            xen,
            toolchains: Mutex::default(),
        })
    }

    /// Keeps others out of `target/` for as long as the answer lives: two at
    /// once would build in the same trees. Waits for whoever is at work there.
    pub fn lock(&self) -> Result<File> {
        let path = self.target().join("xtask.lock");
        fs::create_dir_all(self.target())?;
        let failed = || format!("cannot lock {}", path.display());
        let file = File::create(&path).with_context(failed)?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
        }
        self.say("wait", "another cargo xtask is at work in this target/");
        file.lock().with_context(failed)?;
        Ok(file)
    }

    /// Root of the repository.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `target/`: all that is built or downloaded.
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// `target/cache/`: downloads and stamps; survives a change of the source.
    pub fn cache(&self) -> PathBuf {
        self.target().join("cache")
    }

    /// Target directory of what runs on bare metal: one for all, so that the
    /// core library is compiled once.
    pub fn bare_metal(&self) -> PathBuf {
        self.target().join("bare-metal")
    }

    /// Where the trees and builds of the chosen Xen are.
    pub fn xen_work(&self) -> PathBuf {
        let work = self.target().join("xen");
        match &self.xen {
            None => work,
            Some(path) => {
                let key = stamp::of_bytes(path.as_os_str().as_encoded_bytes());
                work.join(format!("user-{}", &key[..8]))
            }
        }
    }

    /// The user's own Xen tree, if one was named.
    pub fn user_xen(&self) -> Option<&Path> {
        self.xen.as_deref()
    }

    /// The compiler for `target`; chosen, printed and prepared at the first call.
    pub fn toolchain(&self, target: &'static str) -> Result<Toolchain> {
        let mut known = match self.toolchains.lock() {
            Ok(known) => known,
            // Another thread's panic leaves a list that is still right.
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(toolchain) = known.iter().find(|known| known.target() == target) {
            return Ok(toolchain.clone());
        }
        let toolchain = Toolchain::prepare(self, target)?;
        known.push(toolchain.clone());
        Ok(toolchain)
    }

    /// Prints one line of progress.
    pub fn say(&self, verb: &str, what: &str) {
        eprintln!("{verb:>10}  {what}");
    }
}
