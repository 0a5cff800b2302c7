//! The state of the fuse and its counters.
//!
//! Counters are for people: they say what the fuse did, and nothing depends
//! on them. What *enforces* the lock is not here but in the translation
//! tables, and in the frozen page of the image (`struct vmf_frozen`).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use xen_vmf_abi as abi;

static LOCKED: AtomicBool = AtomicBool::new(false);
static COUNTERS: [AtomicU64; abi::XENVMF_counter_end as usize] =
    [const { AtomicU64::new(0) }; abi::XENVMF_counter_end as usize];

/// Whether the machine is locked.
pub fn locked() -> bool {
    LOCKED.load(Ordering::Acquire)
}

/// The machine is locked from now on.
pub fn set_locked() {
    LOCKED.store(true, Ordering::Release);
}

/// The counter with number `counter` (`XENVMF_counter_*`), if there is one.
pub fn counter(counter: u32) -> Option<u64> {
    let counter = COUNTERS.get(usize::try_from(counter).ok()?)?;
    Some(counter.load(Ordering::Relaxed))
}

/// Adds to a counter.
pub fn count(counter: u32, amount: u64) {
    COUNTERS[counter as usize].fetch_add(amount, Ordering::Relaxed);
}
