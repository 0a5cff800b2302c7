//! Builds Xen: unpacks, applies the series, configures, makes.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::site::Site;

/// Which Xen to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The series is applied.
    pub patched: bool,
    /// CONFIG_VMF=y (only with the series).
    pub vmf: bool,
    /// CONFIG_DEBUG=y.
    pub debug: bool,
}

impl Variant {
    /// With the fuse, release build.
    pub const VMF: Self = Self {
        patched: true,
        vmf: true,
        debug: false,
    };
    /// With the fuse, debug build.
    pub const VMF_DEBUG: Self = Self {
        patched: true,
        vmf: true,
        debug: true,
    };
    /// As upstream made it, release build.
    pub const STOCK: Self = Self {
        patched: false,
        vmf: false,
        debug: false,
    };
}

/// A Xen that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The bootable image (`xen`, a Linux-style Image).
    pub image: PathBuf,
    /// The ELF file with symbols and DWARF (`xen-syms`).
    pub syms: PathBuf,
    /// The configuration used (`.config`).
    pub config: PathBuf,
}

/// Builds this variant, or finds it built.
pub fn build(_site: &Site, variant: &Variant) -> Result<Built> {
    bail!("{variant:?}: not built")
}
