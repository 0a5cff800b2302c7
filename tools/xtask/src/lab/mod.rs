//! The lab: assembles a system from a profile, runs it under QEMU, judges it.
//!
//! A run, in the order in which it happens:
//! - [`profile`]: which machine, Xen and domains; [`images`]: their files, with
//!   the ramdisks of [`initramfs`] (and Xen's own tools, [`toolstack`]), placed
//!   into RAM by [`layout`]
//! - [`device_tree`]: templates of `dts/` over QEMU's own tree; [`stub`] hands
//!   it to Xen; [`example`]: those of `dts/` that are booted as they stand
//! - [`machine`]: the QEMU process with its serial line ([`console`], taken
//!   apart by [`demux`]), control ([`qmp`]) and registers ([`gdb`]);
//!   [`touch`] makes every CPU try an address, [`gates`] branch into the gates,
//!   [`tlbi`] counts TLB maintenance;
//!   [`first`] stops it at the first instruction of any guest
//! - [`session`]: what is asked of a booted system; [`audit`]: what its memory
//!   says; [`report`]: what is kept
//! - [`experiment`]: look, blow, look again; [`demo`] shows it, [`suite`] runs it
//!   over the matrix of [`pairwise`] and adds single [`scenarios`]; [`seeded`]
//!   asks every oracle about a Xen with a fault in it; [`fuzz`] has hostile
//!   guests do what they may

mod attack_symbols;
mod audit;
mod console;
mod demo;
pub mod demux;
mod device_tree;
mod example;
mod experiment;
mod first;
mod fuzz;
mod gates;
mod gdb;
pub mod images;
mod initramfs;
pub mod layout;
mod machine;
mod pairwise;
mod pattern;
pub mod profile;
mod qmp;
mod queue;
mod report;
pub mod scenarios;
mod seeded;
pub mod session;
mod statuses;
mod stub;
pub mod suite;
pub mod tlbi;
mod toolstack;
mod touch;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use vmf_audit::registers::Share;

pub use self::demo::demo;
pub use self::fuzz::{Options as FuzzOptions, fuzz};
use self::images::Images;
pub use self::profile::Cpu;
use self::profile::Profile;
pub use self::seeded::{Seeded, SeededSystem};
use self::session::Session;
pub use self::statuses::write as write_statuses;
pub use self::suite::suite;
use crate::site::Site;

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub struct DemoOptions {
    /// The profile to demonstrate
    #[arg(long, default_value = DEMO)]
    profile: String,
}

/// The profile that is demonstrated unless told otherwise.
const DEMO: &str = "demo";

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            profile: DEMO.to_owned(),
        }
    }
}

/// Options of `cargo xtask run`.
#[derive(Args)]
pub struct RunOptions {
    /// What to do once dom0 is up, in order: a shell command in dom0, `moment:NAME`, `key:K` (a
    /// debug key of Xen), `touch:ADDRESS` (a load at EL2 on every CPU), `d1:TEXT` (type a line to domain 1), or `beats` (await heartbeats)
    #[arg(long = "do", value_name = "ACTION")]
    actions: Vec<String>,
    /// Domains that moments claim to be protected
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    protected: Vec<u16>,
    /// Guest frames that moments claim a protected domain shares on purpose;
    /// may be given several times
    #[arg(long, value_name = "DOM:GFN:PAGES")]
    shared: Vec<Share>,
}

/// Options of `cargo xtask test` that concern the lab.
#[derive(Args)]
pub struct SuiteOptions {
    /// Boot every combination of the matrix, not only every pair of values
    #[arg(long)]
    full: bool,
    /// Boot the attacks' system with directmap=no as well (`--full` does)
    #[arg(long)]
    attacks: bool,
    /// How many machines run side by side; one that needs the whole host runs alone
    #[arg(long, default_value_t = side_by_side())]
    jobs: usize,
    /// Keep the memory dumps of runs that passed
    #[arg(long)]
    keep: bool,
}

/// As many machines as the host has CPUs; each takes up to 3 GiB of memory.
///
/// A machine has four CPUs, each a thread of the host's. Xen's ticket locks are
/// taken in turn, and with four machines on two CPUs the one whose turn it is
/// waits for its share of the host so often that no guest gets anywhere: dom0,
/// up in 8 s where two machines run and in 12 s where three do, was not after
/// 200 s.
fn side_by_side() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8)
}

/// Boots one profile and does what it is told; true if all of it succeeded.
pub fn run(site: &Site, profile: &str, options: &RunOptions) -> Result<bool> {
    let profile = Profile::read(site.root(), profile)?;
    let mut images = Images::gather(site, [profile.xen])?;
    images.add_extras(site, &profile)?;
    println!("{}: {}", profile.name, profile.description);
    let lab = site.target().join("lab");
    let mut session = Session::boot(&images, &profile, &lab, true)?;
    println!("  in {}", session.folder().display());
    session.shared.clone_from(&options.shared);
    session.wait_dom0()?;
    let mut good = true;
    for action in &options.actions {
        good &= act(&mut session, action, &options.protected)?;
    }
    let report = session.finish()?;
    println!("evidence: {}", report.folder().display());
    Ok(good)
}

/// One action of `cargo xtask run --do`.
fn act(session: &mut Session, action: &str, protected: &[u16]) -> Result<bool> {
    let (word, rest) = action.split_once(':').unwrap_or((action, ""));
    let domain = word.strip_prefix('d').and_then(|id| id.parse().ok());
    match (word, domain) {
        ("moment", _) => drop(session.moment(rest, protected)?),
        ("key", _) => {
            let mut keys = rest.chars();
            let (Some(key), None) = (keys.next(), keys.next()) else {
                bail!("{action}: one key is needed");
            };
            for line in session.debug_key(key)? {
                println!("    {line}");
            }
        }
        ("touch", _) => {
            let digits = rest.trim_start_matches("0x");
            let address = u64::from_str_radix(digits, 16)
                .with_context(|| format!("{action}: an address is needed"))?;
            println!("    reached, by CPU: {:?}", session.touch(&[address])?);
        }
        ("beats", _) => {
            for id in 1..=session.report.profile.domains.len() {
                session.beats(u16::try_from(id)?, 2)?;
            }
        }
        (_, Some(id)) => {
            ensure!(!rest.is_empty(), "{action}: nothing to type");
            session.type_to_domain(id, rest)?;
        }
        _ => {
            let output = session.run(action)?;
            for line in output.text.lines() {
                println!("    {line}");
            }
            if output.code != 0 {
                println!("    exit code {}", output.code);
            }
            return Ok(output.code == 0);
        }
    }
    Ok(true)
}
