//! The lab: assembles a system from a profile, runs it under QEMU, judges it.

use anyhow::{Result, bail};
use clap::Args;

use crate::cases::Cases;
use crate::site::Site;

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub struct DemoOptions {}

/// Options of `cargo xtask run`.
#[derive(Args)]
pub struct RunOptions {}

/// Options of `cargo xtask test` that concern the lab.
#[derive(Args)]
pub struct SuiteOptions {}

/// The demonstration; true if every claim held.
pub fn demo(_site: &Site, _options: &DemoOptions) -> Result<bool> {
    bail!("the lab is empty")
}

/// Boots one profile; true if it ended as the profile says.
pub fn run(_site: &Site, profile: &str, _options: &RunOptions) -> Result<bool> {
    bail!("{profile}: no such profile")
}

/// The lab's test cases.
pub fn suite(_site: &Site, _options: &SuiteOptions, _cases: &mut Cases) -> Result<()> {
    Ok(())
}
