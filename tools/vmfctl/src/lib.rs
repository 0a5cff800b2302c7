//! `vmfctl`, the dom0 command of the virtual memory fuse, in the order of use:
//!
//! * [`cli`]: arguments, help, exit codes;
//! * [`names`]: names of domains, from xenstore where there is one;
//! * [`select`]: which domains are meant, all or none;
//! * [`check`]: what stands in the way, and how to remove it;
//! * [`status`]: how far the fuse has gone;
//! * [`counters`]: what Xen has counted;
//! * [`share`]: what a domain keeps in Xen's reach on purpose;
//! * [`blow`]: `protect`, `lock`, `seal` and `blow`, which cannot be undone;
//! * [`failure`]: what went wrong, with its exit code.
//!
//! Everything talks to a `xenctrl_ffi::Machine` that [`run`] is given, so the
//! snapshot tests run it all over recorded answers (`examples/replay.rs`).

pub mod blow;
pub mod check;
pub mod cli;
pub mod counters;
pub mod failure;
pub mod names;
pub mod select;
pub mod share;
pub mod status;

use std::process::ExitCode;

use xenctrl_ffi::{Error, Machine};

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::names::Names;

/// What a command works with.
pub struct Context {
    /// Xen.
    pub machine: Machine,
    /// Names of domains.
    pub names: Names,
    /// Print JSON instead of text.
    pub json: bool,
    /// Do not ask.
    pub yes: bool,
}

/// Runs a command; `open` finds Xen, `names` the source of domain names.
pub fn run(
    cli: &Cli,
    open: impl FnOnce() -> Result<Machine, Error>,
    names: impl FnOnce() -> Names,
) -> ExitCode {
    let options = cli.command.options();
    let outcome = open().map_err(Failure::from).and_then(|machine| {
        let context = Context {
            machine,
            names: names(),
            json: options.json,
            yes: cli.command.yes(),
        };
        match &cli.command {
            Command::Status { domains, .. } => status::run(&context, domains),
            Command::Check { domains, depth, .. } => check::run(&context, domains, (*depth).into()),
            Command::Counters { domains, .. } => counters::run(&context, domains),
            Command::Share { domain, range, .. } => share::run(&context, domain, *range),
            Command::Protect { domains, .. } => blow::protect(&context, domains),
            Command::Lock { .. } => blow::lock(&context),
            Command::Seal {
                keep_firmware_calls,
                ..
            } => blow::seal(&context, *keep_firmware_calls),
            Command::Blow { domains, depth, .. } => blow::blow(&context, domains, (*depth).into()),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if options.json && !failure.printed() {
                println!("{:#}", failure.json());
            }
            if !(options.json && failure.printed()) {
                eprintln!("vmfctl: {failure}");
            }
            ExitCode::from(failure.exit())
        }
    }
}
