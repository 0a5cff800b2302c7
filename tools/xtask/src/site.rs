//! Where things are: the repository, its target directory, the Xen tree in use.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository that this xtask works on, and the Xen source chosen for it.
pub struct Site {
    root: PathBuf,
    xen: Option<PathBuf>,
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
        Ok(Self { root, xen })
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

    /// The user's own Xen tree, if one was named.
    pub fn user_xen(&self) -> Option<&Path> {
        self.xen.as_deref()
    }
}
