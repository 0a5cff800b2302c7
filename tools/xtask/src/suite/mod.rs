//! What `cargo xtask test` checks before the lab: the code on this host, the
//! generated headers, and the series as patches of Xen.

mod host;
mod object;
mod series;

use anyhow::Result;

use crate::cases::Cases;
use crate::headers;
use crate::site::Site;

/// Runs all cases that need no virtual machine.
pub fn run(site: &Site, cases: &mut Cases) -> Result<()> {
    host::run(site, cases)?;
    cases.case("headers are what Rust says", || headers::run(site, true));
    series::run(site, cases)
}
