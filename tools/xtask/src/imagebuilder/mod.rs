//! `cargo xtask imagebuilder`: the fuse for systems whose U-Boot script
//! ImageBuilder generates.
//!
//! Reads ImageBuilder's config file ([`config`]), in which a few further keys
//! say what the fuse is to do ([`plan`]), and prints what ImageBuilder does not
//! know how to write: Xen's command line, and the properties of the domUs'
//! nodes ([`script`]). It changes no file.

mod config;
mod plan;
mod script;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use config::Config;
use plan::Plan;

/// Prints what is to be added to the system that `file` describes.
pub fn run(file: &Path) -> Result<()> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).with_context(|| format!("{name}: cannot read"))?;
    print!("{}", fragment(&name, &text)?);
    Ok(())
}

/// The same, of a config file with this name and text.
fn fragment(name: &str, text: &str) -> Result<String> {
    let config = Config::parse(name, text)?;
    Ok(script::write(&Plan::new(&config)?))
}

#[cfg(test)]
mod tests;
