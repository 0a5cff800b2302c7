//! `vmfctl` over recorded answers, for the snapshot tests: it is no option of
//! the program, so the program cannot show what is not so.
//!
//! `VMFCTL_RECORDING` names the recording (xenctrl-ffi, `recorded`), or a way
//! to Xen that is not there: `no-xen`, `no-privcmd`, `not-permitted`.
//! `VMFCTL_NAMES` lists names: `1=guest,2=other`.

use std::env;
use std::process::ExitCode;

use clap::Parser;
use vmfctl::cli::Cli;
use vmfctl::names::Names;
use xenctrl_ffi::recorded::Recorded;
use xenctrl_ffi::{DomId, Error, Machine, OpenError};

fn open() -> Result<Machine, Error> {
    let recording = env::var("VMFCTL_RECORDING").expect("VMFCTL_RECORDING is set");
    match recording.as_str() {
        "no-xen" => Err(OpenError::NoXen.into()),
        "no-privcmd" => Err(OpenError::NoPrivcmd.into()),
        "not-permitted" => Err(OpenError::NotPermitted.into()),
        path => {
            let text = std::fs::read_to_string(path).expect("the recording can be read");
            Machine::with(Box::new(Recorded::parse(&text)))
        }
    }
}

fn names() -> Names {
    let Ok(list) = env::var("VMFCTL_NAMES") else {
        return Names::None;
    };
    let pair = |word: &str| {
        let (id, name) = word.split_once('=')?;
        Some((DomId::new(id.parse().ok()?)?, name.to_owned()))
    };
    Names::Fixed(list.split(',').filter_map(pair).collect())
}

fn main() -> ExitCode {
    vmfctl::run(&Cli::parse(), open, names)
}
