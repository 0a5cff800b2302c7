//! The `vmf-audit` command: arguments in, tables or JSON out, and an exit status.

use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vmf_audit::picture::{self, Side};
use vmf_audit::report::Level;
use vmf_audit::rules::RULES;
use vmf_audit::scan::{self, Scan};
use vmf_audit::{Audit, Error, dump::Dump, registers::Registers, registers::Share, show, xen};

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
  vmf-audit check --level lock memory-after.elf registers-after.json --syms xen-syms
  vmf-audit map memory-before.elf registers-before.json --diff memory-after.elf registers-after.json --svg map.svg
  vmf-audit scan xen-syms"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Judge whether a level of the fuse holds
    ///
    /// Lists every violation with its rule, the threat model's vectors, frame, owner, address and walk; `vmf-audit rules`
    /// lists the rules. A rule for which a needed fact cannot be established does not hold. Without xen-syms, pages of
    /// Xen's own that a protected domain sees count as violations, and from the level lock on nothing can be said to
    /// hold: static tables and tables kept for later are not known.
    Check {
        /// The level that is claimed
        #[arg(long)]
        level: Level,
        #[command(flatten)]
        input: Input,
    },
    /// List every rule: its level, the threat model's vectors, what it demands
    Rules {
        /// JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Show EL2's address space: what is mapped where, with which access, and whose it is
    Map {
        #[command(flatten)]
        input: Input,
        /// Draw a picture into this file as well
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// A second machine, or the same one later, to be put beside the first
        #[arg(long, num_args = 2, value_names = ["DUMP", "REGISTERS"])]
        diff: Option<Vec<PathBuf>>,
    },
    /// Find the instructions that change translation or enter firmware
    ///
    /// In an ELF file such as xen-syms: its executable sections. In a dump: everything that EL2 can execute from, with
    /// names from xen-syms. Instructions that a guest's registers, traps, TLBs and returns need are listed for
    /// information.
    Scan {
        /// An ELF file, or a dump
        file: PathBuf,
        /// The registers file that belongs to a dump
        registers: Option<PathBuf>,
        /// xen-syms of the Xen that ran [default: xen-syms beside the dump, if it is there]
        #[arg(long, value_name = "XEN_SYMS")]
        syms: Option<PathBuf>,
        /// JSON instead of tables
        #[arg(long)]
        json: bool,
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
    /// Claim that these domains are protected, and no others, whatever the registers file says
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    protected: Option<Vec<u16>>,
    /// Claim that a protected domain shares these guest frames on purpose, besides what the registers file says. May be
    /// given several times
    #[arg(long, value_name = "DOM:GFN:PAGES")]
    shared: Vec<Share>,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// The xen-syms that is named, or else the one beside the dump.
fn xen_syms(named: Option<&PathBuf>, dump: &Path) -> Option<PathBuf> {
    let beside = dump.with_file_name("xen-syms");
    named
        .cloned()
        .or_else(|| beside.is_file().then_some(beside))
}

impl Input {
    fn audit(&self) -> Result<Audit, Error> {
        self.audit_of(&self.dump, &self.registers)
    }

    fn audit_of(&self, dump: &Path, registers: &Path) -> Result<Audit, Error> {
        let syms = xen_syms(self.syms.as_ref(), dump);
        let dump = Dump::open(dump)?;
        let mut registers = Registers::open(registers)?;
        if let Some(ids) = &self.protected {
            registers.protect(ids)?;
        }
        registers.share(&self.shared)?;
        Audit::with_syms(dump, registers, syms.as_deref())
    }
}

/// A map's picture and words.
fn map(input: &Input, svg: Option<&PathBuf>, diff: Option<&[PathBuf]>) -> Result<String, Error> {
    let before = input.audit()?.spaces();
    let after = match diff {
        Some([dump, registers]) => Some(input.audit_of(dump, registers)?.spaces()),
        _ => None,
    };
    let title = |path: &Path| path.display().to_string();
    let mut sides = vec![Side {
        title: title(&input.dump),
        spaces: &before,
    }];
    if let (Some(spaces), Some([dump, _])) = (&after, diff) {
        let title = title(dump);
        sides.push(Side { title, spaces });
    }
    if let Some(path) = svg {
        std::fs::write(path, picture::draw(&sides)).map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })?;
    }
    Ok(match (&after, input.json) {
        (None, true) => json(&before),
        (Some(after), true) => json(&serde_json::json!({ "before": before, "after": after })),
        (None, false) => show::map(&before),
        (Some(after), false) => show::map_difference(&before, after),
    })
}

/// What is scanned depends on what the file is.
fn scan(file: &Path, registers: Option<&PathBuf>, syms: Option<&PathBuf>) -> Result<Scan, Error> {
    let read = |source| Error::Read {
        path: file.to_owned(),
        source,
    };
    let Some(registers) = registers else {
        if Dump::is_core(file)? {
            return Err(Error::Registers(
                "a dump is scanned with its registers file: scan DUMP REGISTERS".into(),
            ));
        }
        return scan::elf(&std::fs::read(file).map_err(read)?);
    };
    let functions = match xen_syms(syms, file) {
        Some(path) => scan::functions(&path)?,
        None => Default::default(),
    };
    scan::machine(&Dump::open(file)?, &Registers::open(registers)?, &functions)
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
        Command::Rules { json: true } => (json(&RULES), 0),
        Command::Rules { json: false } => (show::rules(), 0),
        Command::Map { input, svg, diff } => (map(input, svg.as_ref(), diff.as_deref())?, 0),
        Command::Scan {
            file,
            registers,
            syms,
            json: as_json,
        } => {
            let found = scan(file, registers.as_ref(), syms.as_ref())?;
            let text = if *as_json {
                json(&found)
            } else {
                show::scan(&found)
            };
            (text, 0)
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
