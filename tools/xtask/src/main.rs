//! `cargo xtask`: everything that is done with this repository, from any
//! Linux host with cargo.
//!
//! `fetch` gets what is not in the repository ([`fetch`], through [`apt`]),
//! `build` makes Xen ([`series`], [`tree`], [`xen`]) and what runs in its
//! domains ([`guests`]) with the compilers that [`toolchain`] finds. `run`
//! boots one profile under QEMU, `demo` blows the fuse and shows what changed
//! (both [`lab`]), `test` judges all of it ([`suite`]), `mutants` judges the
//! tests ([`mutants`]), `bench` measures ([`bench`]). [`doctor`] says what
//! this machine lacks. [`patch`] puts the series into a Xen tree of one's own,
//! [`headers`] keeps the C headers in step with Rust, [`imagebuilder`] writes
//! what a system whose U-Boot script ImageBuilder makes wants for the fuse.

mod apt;
mod bench;
mod cases;
mod doctor;
mod fetch;
mod guests;
mod headers;
mod imagebuilder;
mod lab;
mod mutants;
mod patch;
mod process;
mod series;
mod site;
mod stamp;
mod suite;
mod toolchain;
mod tree;
mod xen;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::cases::Cases;
use crate::site::Site;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    version,
    about = "Builds, boots and tests the virtual memory fuse for Xen"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, boot a dom0less system, blow the fuse, show before and after
    Demo {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        options: lab::DemoOptions,
    },
    /// Run every test: host, series, headers, lab
    Test {
        #[command(flatten)]
        source: Source,
        /// Run only the cases whose name contains this text
        #[arg(long)]
        filter: Option<String>,
        #[command(flatten)]
        options: lab::SuiteOptions,
    },
    /// Build the patched Xen, the guests and the tools
    Build {
        #[command(flatten)]
        source: Source,
        /// With Xen's own checks (CONFIG_DEBUG=y)
        #[arg(long)]
        debug: bool,
    },
    /// Boot one profile of tools/xtask/profiles under QEMU
    Run {
        /// Name of the profile
        profile: String,
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        options: lab::RunOptions,
    },
    /// Build Xen with one deliberate fault at a time, and show what catches it
    Mutants {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        options: mutants::Options,
    },
    /// Measure what the fuse costs against stock Xen, in instructions
    Bench {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        options: bench::Options,
    },
    /// Have hostile guests do what they may by chance, from a seed
    Fuzz {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        options: lab::FuzzOptions,
    },
    /// Write the statuses in docs/threat-model.md from the last attacks (`test --filter lab/attack`)
    Statuses,
    /// Get Xen's source, the guests' kernel and all else that is not in the repository
    Fetch,
    /// Say what is missing on this machine, and the command that mends it
    Doctor,
    /// Apply the series to a Xen 4.20 tree of your own, or take it out again
    #[command(after_help = "Example: cargo xtask patch --xen ~/src/xen")]
    Patch {
        /// The tree; it need not be a git tree
        #[arg(long, value_name = "PATH")]
        xen: PathBuf,
        /// Bring the tree back to what it was
        #[arg(long)]
        undo: bool,
    },
    /// Print what a system made by ImageBuilder wants for the fuse: XEN_CMD, and lines of U-Boot's script
    #[command(
        after_help = "Keys for it in the config file, besides ImageBuilder's own:\n  \
        VMF=\"lock\"  the value of vmf= on Xen's command line\n  \
        DOMU_VMF_UNPROTECTED[n]=1  the domU stays outside\n  \
        DOMU_VMF_SHARE[n]=\"0xADDRESS,0xSIZE;...\"  guest-physical ranges that it shares with Xen"
    )]
    Imagebuilder {
        /// ImageBuilder's config file
        config: PathBuf,
    },
    /// Generate the C headers from Rust
    Headers {
        /// Change nothing; fail if a header is not what would be generated
        #[arg(long)]
        check: bool,
    },
}

/// Where Xen's source comes from.
#[derive(Args)]
struct Source {
    /// An unmodified Xen 4.20 tree to use instead of the fetched one (it is copied, never changed)
    #[arg(long, value_name = "PATH")]
    xen: Option<PathBuf>,
}

impl Source {
    /// The site, on a machine that has all that is needed, and the right to
    /// build there.
    fn site(self) -> anyhow::Result<(Site, File)> {
        let site = Site::find(self.xen)?;
        let lock = site.lock()?;
        doctor::ensure(&site)?;
        Ok((site, lock))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Carries one command out; `false` means that it ran and the answer is no.
fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Demo { source, options } => {
            let (site, _lock) = source.site()?;
            lab::demo(&site, &options)
        }
        Command::Test {
            source,
            filter,
            options,
        } => {
            let (site, _lock) = source.site()?;
            let mut cases = Cases::new(filter);
            suite::run(&site, &mut cases)?;
            lab::suite(&site, &options, &mut cases)?;
            mutants::suite(&site, &mut cases)?;
            Ok(cases.finish())
        }
        Command::Build { source, debug } => {
            let (site, _lock) = source.site()?;
            build(&site, debug).map(|()| true)
        }
        Command::Run {
            profile,
            source,
            options,
        } => {
            let (site, _lock) = source.site()?;
            lab::run(&site, &profile, &options)
        }
        Command::Mutants { source, options } => {
            let (site, _lock) = source.site()?;
            mutants::run(&site, &options)
        }
        Command::Bench { source, options } => {
            let (site, _lock) = source.site()?;
            bench::run(&site, &options).map(|()| true)
        }
        Command::Fuzz { source, options } => {
            let (site, _lock) = source.site()?;
            lab::fuzz(&site, &options)
        }
        Command::Statuses => {
            let (site, _lock) = Source { xen: None }.site()?;
            lab::write_statuses(&site).map(|()| true)
        }
        Command::Fetch => {
            let (site, _lock) = Source { xen: None }.site()?;
            fetch::all(&site).map(|()| true)
        }
        Command::Doctor => doctor::report(&Site::find(None)?),
        Command::Patch { xen, undo: true } => patch::undo(&xen).map(|()| true),
        Command::Patch { xen, undo: false } => {
            let site = Site::find(None)?;
            patch::apply(&site, &xen).map(|()| true)
        }
        Command::Imagebuilder { config } => imagebuilder::run(&config).map(|()| true),
        Command::Headers { check } => headers::run(&Site::find(None)?, check).map(|()| true),
    }
}

/// Everything that goes into a system, without booting one.
fn build(site: &Site, debug: bool) -> anyhow::Result<()> {
    let variant = if debug {
        xen::Variant::VMF_DEBUG
    } else {
        xen::Variant::VMF
    };
    let built = xen::build(site, &variant)?;
    println!("Xen:     {}", built.image.display());
    println!("symbols: {}", built.syms.display());
    println!("vmfctl:  {}", guests::linux(site, "vmfctl")?.display());
    println!("canary:  {}", guests::bare_metal(site, "canary")?.display());
    Ok(())
}
