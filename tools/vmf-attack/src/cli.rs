//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::vectors::Level;

/// Attacks the virtual memory fuse from dom0, before and after the blow.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Needs a Xen with CONFIG_VMF_ATTACK=y, in a lab.\n\n\
        Exit codes: 0 every claimed vector is closed, or has nothing to attack here; 1 one is open, or the blow went wrong; \
        2 the attack could not be made, or wrong usage; 3 none is open, but one does not count, as its attack did not succeed before."
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try every vector, blow the fuse, and try them again
    #[command(
        after_help = "Example: vmf-attack run --victim 2 --seed 0x5eed5eed --expendable 3 --blow --protect 1,2,3"
    )]
    Run(Run),
    /// Say whether this Xen has the attack primitives
    Probe,
    /// Change data that a context switch loads, for good: on a locked machine Xen stops over it
    #[command(after_help = "Example: vmf-attack stop --with vttbr --victim 2")]
    Stop(Stop),
}

/// Options of `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The domain whose canary keeps the secret
    #[arg(long, value_name = "ID")]
    pub victim: u16,
    /// Seed of its canary
    #[arg(long, value_name = "N", value_parser = number)]
    pub seed: u64,
    /// A second domain with a canary, which may be broken and destroyed
    #[arg(long, value_name = "ID")]
    pub expendable: u16,
    /// Seed of its canary; by default the victim's
    #[arg(long, value_name = "N", value_parser = number)]
    pub expendable_seed: Option<u64>,
    /// The unprotected domain whose stage 2 is attacked: the one that this runs in
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub accomplice: u16,
    /// Level to blow the fuse to, whose claims are judged
    #[arg(long, value_enum, default_value_t = Claim::Lock)]
    pub levels: Claim,
    /// Blow the fuse between the two phases; without this there is one phase
    #[arg(long)]
    pub blow: bool,
    /// Domains to protect; by default the victim and the expendable one
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub protect: Vec<u16>,
    /// Nobody else blows, creates or destroys at the same time
    #[arg(long)]
    pub no_races: bool,
    /// What is known of Xen
    #[arg(long, default_value = "/xen-symbols")]
    pub symbols: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON to this file
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
}

/// Levels that can be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Claim {
    /// Everything that `lock` closes.
    Lock,
    /// Everything that `seal` closes; the fuse is blown so far.
    Seal,
}

impl Claim {
    /// The level of a vector that it covers.
    pub fn level(self) -> Level {
        match self {
            Self::Lock => Level::Lock,
            Self::Seal => Level::Seal,
        }
    }

    /// As a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Seal => "seal",
        }
    }
}

/// Options of `stop`.
#[derive(Args, Debug)]
pub struct Stop {
    /// What to change
    #[arg(long, value_enum)]
    pub with: StopWith,
    /// The domain whose stage 2 dom0 is to get
    #[arg(long, value_name = "ID")]
    pub victim: u16,
    /// What is known of Xen
    #[arg(long, default_value = "/xen-symbols")]
    pub symbols: PathBuf,
}

/// Data whose change ends the system, as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StopWith {
    /// `VTTBR_EL2` of dom0's vCPUs, as a context switch loads it (V11)
    Vttbr,
    /// `HCR_EL2` of dom0's first vCPU, as a context switch loads it (V12)
    Hcr,
}

fn number(text: &str) -> Result<u64, &'static str> {
    canary_core::script::number(text).ok_or("not a number; decimal, or hexadecimal with 0x")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn options_are_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from([
            "vmf-attack",
            "run",
            "--victim",
            "2",
            "--seed",
            "0x10",
            "--expendable",
            "3",
            "--protect",
            "1,2",
        ]);
        let Command::Run(run) = cli.command else {
            panic!("run was asked for");
        };
        assert_eq!((run.seed, run.protect), (16, vec![1, 2]));
    }
}
