//! The canary as a Linux program: fills locked memory with the pattern of the
//! bare-metal canary, checks it for ever, and prints a line a second in the
//! same words:
//!
//! ```text
//! canary-linux: seed 0x1 memory 64 MiB
//! canary-linux: heartbeat 1 pattern ok
//! canary-linux: FAIL at 0x7f… expected 0x… found 0x…
//! canary-linux: heartbeat 2 pattern BROKEN
//! ```

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use canary_core::line::{Fail, Heartbeat};
use canary_core::pattern::{self, Checker};
use clap::Parser;
use rustix::mm::{MlockAllFlags, mlockall};

/// Fills memory with a pattern, checks it for ever, shouts when a bit differs.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: canary-linux 64 --seed 7\n\nRuns until it is killed, or for --beats heartbeats: exit code 0 if the pattern held."
)]
struct Arguments {
    /// MiB of memory that hold the pattern
    #[arg(default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    mib: u32,
    /// Seed of the pattern
    #[arg(long, default_value_t = 1, value_parser = seed)]
    seed: u64,
    /// End after this many heartbeats
    #[arg(long)]
    beats: Option<u64>,
}

/// A number as the bare-metal canary takes it.
fn seed(text: &str) -> Result<u64, &'static str> {
    canary_core::script::number(text).ok_or("not a number; decimal, or hexadecimal with 0x")
}

const PERIOD: Duration = Duration::from_secs(1);
/// Parts of a pass, so that it does not take a CPU for long at a time.
const SLICES: u32 = 10;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before the memory is there: pages are locked as they come.
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        eprintln!(
            "canary-linux: cannot lock memory: {error}; run it as root, or raise the limit (ulimit -l)"
        );
        return ExitCode::FAILURE;
    }
    let words = (arguments.mib as usize) << 17;
    let memory: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
    pattern::fill(&memory, arguments.seed);
    println!(
        "canary-linux: seed {:#x} memory {} MiB",
        arguments.seed, arguments.mib
    );
    if live(&memory, &arguments) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn live(memory: &[AtomicU64], arguments: &Arguments) -> bool {
    let base = memory.as_ptr().addr() as u64;
    let share = memory.len().div_ceil(SLICES as usize);
    let mut checker = Checker::new(memory, arguments.seed);
    let mut beat = Heartbeat {
        number: 0,
        ok: true,
    };
    while arguments.beats.is_none_or(|beats| beat.number < beats) {
        let end = Instant::now() + PERIOD;
        while !checker.complete() {
            if let Err(mismatch) = checker.advance(share) {
                if beat.ok {
                    println!("canary-linux: {}", Fail { base, mismatch });
                }
                beat.ok = false;
            }
            thread::sleep(PERIOD / (2 * SLICES));
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
        beat.number += 1;
        println!("canary-linux: {beat}");
        checker.restart();
    }
    beat.ok
}
