//! Builds what runs inside the domains: bare-metal guests and static Linux programs.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::site::Site;

/// A bare-metal guest of `tools/guests` (say "canary") as a raw image that Xen loads as a kernel.
pub fn bare_metal(_site: &Site, name: &str) -> Result<PathBuf> {
    bail!("{name}: not built")
}

/// A program of the workspace (say "vmfctl") as a static aarch64 Linux binary.
pub fn linux(_site: &Site, name: &str) -> Result<PathBuf> {
    bail!("{name}: not built")
}
