//! Gets what is not in the repository.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::site::Site;

/// An arm64 Linux kernel with its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The Image that Xen loads.
    pub image: PathBuf,
    /// `lib/modules/<version>/` of that kernel.
    pub modules: PathBuf,
    /// Its version, as `uname -r` has it.
    pub version: String,
}

/// The kernel for dom0 and Linux guests.
pub fn kernel(_site: &Site) -> Result<Kernel> {
    bail!("no kernel")
}

/// A static arm64 busybox.
pub fn busybox(_site: &Site) -> Result<PathBuf> {
    bail!("no busybox")
}

/// Everything at once.
pub fn all(site: &Site) -> Result<()> {
    kernel(site)?;
    busybox(site)?;
    Ok(())
}
