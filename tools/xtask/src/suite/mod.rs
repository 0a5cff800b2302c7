//! What `cargo xtask test` checks before the lab: the code on this host, the
//! generated headers, and the series as patches of Xen.

mod host;
mod object;
mod series;

use anyhow::Result;

use crate::cases::Cases;
use crate::headers;
use crate::site::Site;
use crate::tree;

/// Runs all cases that need no virtual machine: what cargo does and what make
/// does side by side, as each of them has times in which it needs one CPU only.
pub fn run(site: &Site, cases: &mut Cases) -> Result<()> {
    let stock = tree::stock(site)?;
    let mut beside = cases.beside();
    std::thread::scope(|scope| {
        let host = scope.spawn(|| host::run(site, &stock, &mut beside));
        cases.case("headers are what Rust says", || headers::run(site, true));
        let series = series::run(site, &stock, cases);
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
        series
    })?;
    cases.absorb(beside);
    Ok(())
}
