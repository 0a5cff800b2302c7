//! `cargo xtask`: everything that is done with this repository, from any
//! Linux host with cargo.
//!
//! `fetch` gets what is not in the repository, `build` makes Xen and the
//! guests, `run` boots one profile under QEMU, `demo` blows the fuse and shows
//! what changed, `test` judges all of it. `doctor` says what this machine
//! lacks. `patch` puts the series into a Xen tree of one's own.

mod cases;
mod fetch;
mod guests;
mod lab;
mod site;
mod xen;

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
    /// Run every test: host, series, header, lab
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
    /// Get Xen's source, the guests' kernel and all else that is not in the repository
    Fetch,
    /// Say what is missing on this machine, and the command that mends it
    Doctor,
}

/// Where Xen's source comes from.
#[derive(Args)]
struct Source {
    /// An unmodified Xen 4.20 tree to use instead of the fetched one (it is copied, never changed)
    #[arg(long, value_name = "PATH")]
    xen: Option<PathBuf>,
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
        Command::Demo { source, options } => lab::demo(&Site::find(source.xen)?, &options),
        Command::Test {
            source,
            filter,
            options,
        } => {
            let site = Site::find(source.xen)?;
            let mut cases = Cases::new(filter);
            lab::suite(&site, &options, &mut cases)?;
            Ok(cases.finish())
        }
        Command::Build { source } => {
            let site = Site::find(source.xen)?;
            let built = xen::build(&site, &xen::Variant::VMF)?;
            println!("xen: {}", built.image.display());
            Ok(true)
        }
        Command::Run {
            profile,
            source,
            options,
        } => lab::run(&Site::find(source.xen)?, &profile, &options),
        Command::Fetch => fetch::all(&Site::find(None)?).map(|()| true),
        Command::Doctor => Ok(true),
    }
}
