//! `vmf-probe`: what a control domain does to a hypervisor, one real hypercall
//! at a time, for the tests of the fuse. It runs in a test's dom0.
//!
//! Each command prints one line of `key=value` on the standard output and ends
//! with 0, or `error=NAME errno=N what="…"` and ends with 1; wrong usage ends
//! with 2. `--hold S` keeps a mapping for S seconds after the line is printed.
//!
//! * [`public`]: numbers and layouts of Xen 4.20's public headers;
//! * [`xen`]: buffers that Xen can reach, and the hypercalls;
//! * [`map`]: foreign and grant mappings, by the drivers of Linux;
//! * [`raw`]: the same, asked of Xen itself;
//! * [`domains`]: domctl, sysctl, memory_op;
//! * [`absent`]: what this Xen lacks, and introspection;
//! * [`balloon`]: Linux's own balloon.

mod absent;
mod balloon;
mod domains;
mod map;
mod public;
mod raw;
mod xen;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::xen::{Failure, Xen};

/// Makes one hypercall, and says what came back.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 Xen did it, 1 it did not, 2 wrong usage.\nExample: vmf-probe foreign-map 1 0x40000 --hold 30"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Xen's version, in part by pointer
    Version,
    /// CPUs and memory of the machine (sysctl physinfo)
    Sysinfo,
    /// Every domain: id:state:pages (sysctl getdomaininfolist)
    Domains,
    /// Map a page of a domain, and read its first word
    ForeignMap {
        domain: u16,
        /// Guest frame number, decimal or 0x
        #[arg(value_parser = number)]
        gfn: u64,
        /// Write this word first
        #[arg(long, value_parser = number)]
        write: Option<u64>,
        /// Seconds to keep the mapping
        #[arg(long, default_value_t = 0)]
        hold: u64,
    },
    /// Map a page that a domain grants, and read its first word
    GrantMap {
        domain: u16,
        reference: u32,
        /// Seconds to keep the mapping
        #[arg(long, default_value_t = 0)]
        hold: u64,
    },
    /// Copy from a page that a domain grants (GNTTABOP_copy)
    GnttabCopy { domain: u16, reference: u32 },
    /// Map a page of a domain at a free frame of dom0 or of another domain, past
    /// Linux's drivers
    RawForeignMap {
        domain: u16,
        #[arg(value_parser = number)]
        gfn: u64,
        /// Frame that holds nothing
        #[arg(default_value = "0x3c0000", value_parser = number)]
        at: u64,
        /// Domain that gets it, dom0 unless given
        #[arg(long, default_value = "self", value_parser = domain)]
        into: u16,
        /// Leave it there
        #[arg(long)]
        stay: bool,
    },
    /// Take a page out of a domain's physmap (remove_from_physmap)
    Remove {
        domain: u16,
        #[arg(value_parser = number)]
        gfn: u64,
    },
    /// Read the registers of a domain's first vCPU
    Registers {
        domain: u16,
        /// Write them back, with the domain paused
        #[arg(long)]
        set: bool,
        /// Reset the vCPU, and nothing else
        #[arg(long)]
        reset: bool,
    },
    /// Map the frame of a domain's grant table (acquire_resource)
    GrantTable {
        domain: u16,
        /// Seconds to keep the mapping
        #[arg(long, default_value_t = 0)]
        hold: u64,
    },
    /// Map a frame of MMIO into a domain, and take it away again
    MmioMap {
        domain: u16,
        #[arg(value_parser = number)]
        gfn: u64,
        #[arg(value_parser = number)]
        mfn: u64,
    },
    /// Map a granted page at a free frame of dom0, past Linux's drivers
    RawGrantMap {
        domain: u16,
        reference: u32,
        /// Frame of dom0 that holds nothing
        #[arg(default_value = "0x3c0000", value_parser = number)]
        at: u64,
    },
    /// Give a domain new pages at a guest frame
    Populate {
        #[arg(value_parser = domain)]
        domain: u16,
        #[arg(value_parser = number)]
        gfn: u64,
        #[arg(default_value_t = 1)]
        count: usize,
    },
    /// Take pages at a guest frame from a domain
    Decrease {
        #[arg(value_parser = domain)]
        domain: u16,
        #[arg(value_parser = number)]
        gfn: u64,
        #[arg(default_value_t = 1)]
        count: usize,
    },
    /// Shrink dom0 by so many pages with Linux's balloon, then grow it again
    Balloon { pages: u64 },
    /// Create a domain with some memory; prints its id
    Create {
        /// Pages to populate
        #[arg(long, default_value_t = 64)]
        pages: usize,
    },
    /// Destroy a domain
    Destroy { domain: u16 },
    /// Resume a domain that is suspended
    Resume { domain: u16 },
    /// Give a domain access to frames of MMIO, or take it back
    Iomem {
        domain: u16,
        #[arg(value_parser = number)]
        mfn: u64,
        #[arg(long)]
        deny: bool,
    },
    /// Pause a domain
    Pause { domain: u16 },
    /// Unpause a domain
    Unpause { domain: u16 },
    /// Press a debug key of Xen
    DebugKey { key: String },
    /// Print Xen's console ring, then the line
    XenConsole,
    /// vmf_op with these arguments; DOMAIN may be `self` or `machine`
    Vmf {
        #[arg(value_parser = number)]
        cmd: u64,
        #[arg(value_parser = domain)]
        domain: u16,
        #[arg(default_value = "0", value_parser = number)]
        arg0: u64,
        #[arg(default_value = "0", value_parser = number)]
        arg1: u64,
        /// As an entry of a multicall
        #[arg(long)]
        listed: bool,
    },
    /// Clean the cache of a frame of a domain
    CacheFlush {
        #[arg(value_parser = domain)]
        domain: u16,
        #[arg(value_parser = number)]
        gfn: u64,
    },
    /// Allocate an event channel, send on it, close it
    Evtchn,
    /// Bind the port that a domain has for dom0, send on it, close it
    Notify { domain: u16, port: u32 },
    /// Ask for what this Xen is built without, of a domain where it takes one
    Absent { domain: u16 },
    /// Have Xen tell of a domain's SMCs, with registers, through a page of it
    Introspect {
        domain: u16,
        #[arg(value_parser = number)]
        gfn: u64,
        /// Leave the ring in place
        #[arg(long)]
        stay: bool,
    },
    /// Take that ring away
    IntrospectEnd { domain: u16 },
    /// Have Xen watch a domain's SMCs, with no ring to tell of them
    Watch { domain: u16 },
}

fn number(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|error| error.to_string())
}

fn domain(text: &str) -> Result<u16, String> {
    match text {
        "self" => Ok(public::DOMID_SELF),
        "machine" => Ok(public::DOMID_INVALID),
        _ => u16::try_from(number(text)?).map_err(|error| error.to_string()),
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<String, Failure> {
    if let Command::Balloon { pages } = command {
        return balloon::there_and_back(*pages);
    }
    // By drivers of their own: privcmd does not open in every domain.
    match *command {
        Command::GrantMap {
            domain,
            reference,
            hold,
        } => return map::grant(domain, reference, hold),
        Command::GnttabCopy { domain, reference } => return map::copy(domain, reference),
        _ => {}
    }
    let xen = Xen::open()?;
    match *command {
        Command::Version => domains::version(&xen),
        Command::Sysinfo => domains::sysinfo(&xen),
        Command::Domains => domains::list(&xen),
        Command::ForeignMap {
            domain,
            gfn,
            write,
            hold,
        } => map::foreign(&xen, domain, gfn, write, hold),
        Command::RawForeignMap {
            domain,
            gfn,
            at,
            into,
            stay,
        } => raw::foreign(&xen, domain, gfn, into, at, stay),
        Command::Remove { domain, gfn } => raw::remove(&xen, domain, gfn),
        Command::Registers { domain, set, reset } => domains::registers(&xen, domain, set, reset),
        Command::GrantTable { domain, hold } => map::grant_table(&xen, domain, hold),
        Command::MmioMap { domain, gfn, mfn } => domains::mmio(&xen, domain, gfn, mfn),
        Command::RawGrantMap {
            domain,
            reference,
            at,
        } => raw::grant(&xen, domain, reference, at),
        Command::Populate { domain, gfn, count } => domains::populate(&xen, domain, gfn, count),
        Command::Decrease { domain, gfn, count } => domains::decrease(&xen, domain, gfn, count),
        Command::Create { pages } => domains::create(&xen, pages),
        Command::Destroy { domain } => domains::simple(&xen, domain, public::DOMCTL_DESTROYDOMAIN),
        Command::Resume { domain } => domains::simple(&xen, domain, public::DOMCTL_RESUMEDOMAIN),
        Command::Iomem { domain, mfn, deny } => domains::iomem(&xen, domain, mfn, !deny),
        Command::Pause { domain } => domains::simple(&xen, domain, public::DOMCTL_PAUSEDOMAIN),
        Command::Unpause { domain } => domains::simple(&xen, domain, public::DOMCTL_UNPAUSEDOMAIN),
        Command::DebugKey { ref key } => domains::debug_keys(&xen, key),
        Command::XenConsole => domains::console(&xen),
        Command::CacheFlush { domain, gfn } => raw::flush(&xen, domain, gfn),
        Command::Vmf {
            cmd,
            domain,
            arg0,
            arg1,
            listed: true,
        } => raw::listed(&xen, [cmd, domain.into(), arg0, arg1]),
        Command::Vmf {
            cmd,
            domain,
            arg0,
            arg1,
            listed: false,
        } => xen
            .registers(
                "vmf_op",
                xen_vmf_abi::__HYPERVISOR_vmf_op,
                [cmd, domain.into(), arg0, arg1, 0],
            )
            .map(|result| format!("result={result}")),
        Command::Evtchn => domains::event_channel(&xen),
        Command::Notify { domain, port } => domains::notify(&xen, domain, port),
        Command::Absent { domain } => absent::all(&xen, domain),
        Command::Introspect { domain, gfn, stay } => absent::introspect(&xen, domain, gfn, stay),
        Command::IntrospectEnd { domain } => absent::ring(&xen, domain, false),
        Command::Watch { domain } => absent::watch(&xen, domain),
        Command::Balloon { .. } | Command::GrantMap { .. } | Command::GnttabCopy { .. } => {
            unreachable!("handled above")
        }
    }
}
