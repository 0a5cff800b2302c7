//! The `vmf-audit` command: arguments in, tables or JSON out, and an exit status.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use vmf_audit::report::Level;
use vmf_audit::{Audit, Error, dump::Dump, registers::Registers, show, xen};

/// Judges, from a memory dump and registers alone, whether the virtual memory fuse holds.
///
/// DUMP is what QEMU's dump-guest-memory writes without paging. REGISTERS is a JSON file with each CPU's EL2 registers
/// and the domains. Both are in a lab run's folder, as memory-<moment>.elf and registers-<moment>.json.
#[derive(Parser)]
#[command(
    name = "vmf-audit",
    version,
    after_help = "Exit status: 0 the level holds, 1 it is violated, 2 it cannot be judged.

Example:
  vmf-audit check --level lock memory-after.elf registers-after.json --syms xen-syms"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Judge whether a level of the fuse holds
    ///
    /// Lists every violation with its rule, the threat model's vectors, frame, owner, address and walk. Without
    /// xen-syms, pages of Xen's own that a protected domain sees count as violations, and the level lock cannot be
    /// judged: static tables and tables kept for later are not known.
    Check {
        /// The level that is claimed
        #[arg(long)]
        level: Level,
        #[command(flatten)]
        input: Input,
    },
    /// Count what EL2 can reach, without judging
    Summary {
        #[command(flatten)]
        input: Input,
    },
    /// List the domains that the dump holds, as the registers file wants them
    Domains {
        /// The dump
        dump: PathBuf,
        /// The registers file; it need not list domains
        registers: PathBuf,
        /// xen-syms of the Xen that ran, built with CONFIG_DEBUG_INFO=y
        #[arg(long, value_name = "XEN_SYMS")]
        syms: PathBuf,
    },
}

#[derive(Args)]
struct Input {
    /// The dump
    dump: PathBuf,
    /// The registers file
    registers: PathBuf,
    /// xen-syms of the Xen that ran, built with CONFIG_DEBUG_INFO=y [default: xen-syms beside the dump, if it is there]
    #[arg(long, value_name = "XEN_SYMS")]
    syms: Option<PathBuf>,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
}

impl Input {
    fn audit(&self) -> Result<Audit, Error> {
        let beside = self.dump.with_file_name("xen-syms");
        let beside = beside.is_file().then_some(beside);
        Audit::open(
            &self.dump,
            &self.registers,
            self.syms.as_ref().or(beside.as_ref()).map(PathBuf::as_path),
        )
    }
}

fn json(value: &impl serde::Serialize) -> String {
    // Numbers, strings and lists: nothing here that JSON cannot express.
    serde_json::to_string_pretty(value)
        .map_or_else(|e| format!("{{\"error\": \"{e}\"}}\n"), |text| text + "\n")
}

fn run(command: &Command) -> Result<(String, u8), Error> {
    Ok(match command {
        Command::Check { level, input } => {
            let report = input.audit()?.check(*level);
            let text = if input.json {
                json(&report)
            } else {
                show::report(&report)
            };
            (text, report.verdict.exit_code())
        }
        Command::Summary { input } => {
            let summary = input.audit()?.summary();
            (
                if input.json {
                    json(&summary)
                } else {
                    show::summary(&summary)
                },
                0,
            )
        }
        Command::Domains {
            dump,
            registers,
            syms,
        } => {
            let domains = xen::domains(&Dump::open(dump)?, &Registers::open(registers)?, syms)?;
            (json(&domains), 0)
        }
    })
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok((text, code)) => {
            use std::io::Write;
            // Whoever closes the pipe early has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("vmf-audit: {error}");
            ExitCode::from(2)
        }
    }
}
