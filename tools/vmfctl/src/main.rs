//! The program: arguments, Xen, xenstore; all else is in the library.

use std::process::ExitCode;

use clap::Parser;
use vmfctl::cli::Cli;
use vmfctl::names::Names;
use xenctrl_ffi::Machine;

fn main() -> ExitCode {
    vmfctl::run(&Cli::parse(), Machine::open, Names::from_xenstore)
}
