//! Arguments and help.

use clap::{Args, Parser, Subcommand};
use xen_vmf_abi::XENVMF_share_pages_max;
use xenctrl_ffi::Shared;

/// What `--help` says at the end; `failure.rs` returns these codes.
const EXIT_CODES: &str = "\
Domains are given by id, by name where xenstore knows it, or as `all`: every
domain that is not the control or hardware domain.

Exit codes:
  0  done, or nothing stands in the way
  1  refused: something stands in the way, nothing has changed unless said
  2  wrong usage
  3  no Xen, or no way to it
  4  this Xen has no fuse, or one with another interface
  5  no privilege: not root, or not the control domain
  6  Xen failed, or answered what it should not

Examples:
  vmfctl check all
  vmfctl blow 1 2
  vmfctl blow --seal all
  vmfctl blow all --yes --json
  vmfctl share 1 0x40103:2
  vmfctl status";

/// Blows the virtual memory fuse of Xen: takes the memory of guests out of the
/// hypervisor's reach, until the next boot.
#[derive(Debug, Parser)]
#[command(name = "vmfctl", bin_name = "vmfctl", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// Options of what cannot be undone.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Do not ask; needed where nobody can answer
    #[arg(long)]
    pub yes: bool,
}

/// How far `blow` and `check` go.
#[derive(Clone, Copy, Debug, Args)]
pub struct Depth {
    /// Remove what could undo the lock as well (level seal)
    #[arg(long)]
    pub seal: bool,
    /// Seal, but let Xen go on calling firmware: reset and power-off keep
    /// working, and whoever runs code at EL2 keeps that way out
    #[arg(long, requires = "seal")]
    pub keep_firmware_calls: bool,
}

/// Guest frames, as `GFN[:PAGES]`.
pub fn range(text: &str) -> Result<Shared, String> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let (gfn, pages) = text.split_once(':').unwrap_or((text, "1"));
    let most = u64::from(XENVMF_share_pages_max);
    match (number(gfn), number(pages)) {
        (Some(gfn), Some(pages)) if (1..=most).contains(&pages) => Ok(Shared { gfn, pages }),
        _ => Err(format!(
            "a guest frame is needed, with 0x if it is hexadecimal, and after a colon how many pages, 1 to {most}"
        )),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how far the fuse has gone, for the machine and for domains
    #[command(after_help = EXIT_CODES)]
    Status {
        /// Options of every command.
        #[command(flatten)]
        options: Options,
        /// Domains to show, every one unless given
        #[arg(value_name = "DOMAIN")]
        domains: Vec<String>,
    },
    /// Say what stands in the way of `blow`, and how to remove it; changes
    /// nothing
    #[command(after_help = EXIT_CODES)]
    Check {
        /// Options of every command.
        #[command(flatten)]
        options: Options,
        /// How far the fuse is to be blown.
        #[command(flatten)]
        depth: Depth,
        /// Domains to check, `all` unless given
        #[arg(value_name = "DOMAIN")]
        domains: Vec<String>,
    },
    /// Show all counters of the machine, and for domains the accesses that Xen
    /// could not decode
    #[command(after_help = EXIT_CODES)]
    Counters {
        /// Options of every command.
        #[command(flatten)]
        options: Options,
        /// Domains to show, every one unless given
        #[arg(value_name = "DOMAIN")]
        domains: Vec<String>,
    },
    /// Keep pages of a domain in Xen's reach on purpose, before it is
    /// protected; cannot be undone
    ///
    /// Hypercalls with pointers into them go on working, and so do grants of
    /// them. They can no longer be executed. All else of the domain leaves
    /// Xen's reach when it is protected.
    #[command(after_help = EXIT_CODES)]
    Share {
        /// Options of every command.
        #[command(flatten)]
        options: Options,
        /// Confirmation.
        #[command(flatten)]
        confirm: Confirm,
        /// The domain
        #[arg(value_name = "DOMAIN")]
        domain: String,
        /// First guest frame (a guest physical address divided by 4096), and
        /// how many pages, 1 unless given
        #[arg(value_name = "GFN[:PAGES]", value_parser = range)]
        range: Shared,
    },
    /// Take domains' pages out of Xen's own map (level unmap); cannot be undone
    #[command(after_help = EXIT_CODES)]
    Protect {
        /// Options of every command.
        #[command(flatten)]
        options: Options,
        /// Confirmation.
        #[command(flatten)]
        confirm: Confirm,
        /// Domains to protect
        #[arg(value_name = "DOMAIN", required = true)]
        domains: Vec<String>,
    },
    /// Remove every mapping of a translation table (level lock); cannot be
    /// undone
    #[command(after_help = EXIT_CODES)]
    Lock {
        /// Options of every command.
        #[command(flatten)]
        options: Options,
        /// Confirmation.
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Lock, and remove every executable page with an instruction that could
    /// undo the lock (level seal), in one go; cannot be undone
    #[command(after_help = EXIT_CODES)]
    Seal {
        /// Options of every command.
        #[command(flatten)]
        options: Options,
        /// Confirmation.
        #[command(flatten)]
        confirm: Confirm,
        /// Let Xen go on calling firmware: reset and power-off keep working,
        /// and whoever runs code at EL2 keeps that way out
        #[arg(long)]
        keep_firmware_calls: bool,
    },
    /// Check, protect the domains, lock or seal, and make sure; cannot be
    /// undone
    #[command(after_help = EXIT_CODES)]
    Blow {
        /// Options of every command.
        #[command(flatten)]
        options: Options,
        /// Confirmation.
        #[command(flatten)]
        confirm: Confirm,
        /// How far.
        #[command(flatten)]
        depth: Depth,
        /// Domains to protect
        #[arg(value_name = "DOMAIN", required = true)]
        domains: Vec<String>,
    },
}

impl Command {
    /// Options of every command.
    #[must_use]
    pub fn options(&self) -> &Options {
        match self {
            Self::Status { options, .. }
            | Self::Check { options, .. }
            | Self::Counters { options, .. }
            | Self::Share { options, .. }
            | Self::Protect { options, .. }
            | Self::Lock { options, .. }
            | Self::Seal { options, .. }
            | Self::Blow { options, .. } => options,
        }
    }

    /// True if nobody is to be asked.
    #[must_use]
    pub fn yes(&self) -> bool {
        match self {
            Self::Status { .. } | Self::Check { .. } | Self::Counters { .. } => true,
            Self::Share { confirm, .. }
            | Self::Protect { confirm, .. }
            | Self::Lock { confirm, .. }
            | Self::Seal { confirm, .. }
            | Self::Blow { confirm, .. } => confirm.yes,
        }
    }
}
