//! Counts what events came back with: how deep the fuzzer gets.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bare::trap::Abort;
use canary_core::fuzz::event::Kind;

/// Errnos that are counted by themselves, and what they are called.
const ERRORS: [(i64, &str); 12] = [
    (1, "EPERM"),
    (2, "ENOENT"),
    (3, "ESRCH"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (16, "EBUSY"),
    (17, "EEXIST"),
    (22, "EINVAL"),
    (30, "EROFS"),
    (38, "ENOSYS"),
    (95, "EOPNOTSUPP"),
];

/// The counts of all vCPUs.
pub struct Tally {
    fine: AtomicU64,
    errors: [AtomicU64; ERRORS.len()],
    others: AtomicU64,
    calls: AtomicU64,
    instructions: AtomicU64,
    caught: AtomicU64,
}

impl Tally {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            fine: AtomicU64::new(0),
            errors: [const { AtomicU64::new(0) }; ERRORS.len()],
            others: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            instructions: AtomicU64::new(0),
            caught: AtomicU64::new(0),
        }
    }

    /// Counts one event.
    pub fn count(&self, kind: Kind, result: &Result<u64, Abort>) {
        let counter = match (kind, result) {
            (_, Err(_)) => &self.caught,
            (Kind::Hypercall, Ok(value)) => match *value as i64 {
                0.. => &self.fine,
                error => ERRORS
                    .iter()
                    .position(|&(number, _)| number == -error)
                    .map_or(&self.others, |at| &self.errors[at]),
            },
            (Kind::Call, Ok(_)) => &self.calls,
            (Kind::Register | Kind::Access, Ok(_)) => &self.instructions,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "hypercalls: {} without an error",
            self.fine.load(Relaxed)
        )?;
        for ((_, name), count) in ERRORS.iter().zip(&self.errors) {
            write!(f, ", {} {name}", count.load(Relaxed))?;
        }
        write!(
            f,
            ", {} others; calls: {}; other instructions: {}; exceptions: {}",
            self.others.load(Relaxed),
            self.calls.load(Relaxed),
            self.instructions.load(Relaxed),
            self.caught.load(Relaxed)
        )
    }
}
