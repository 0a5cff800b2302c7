//! The state of the fuse and its counters.
//!
//! Counters are for people: they say what the fuse did, and nothing depends
//! on them. What *enforces* the lock is not here but in the translation
//! tables, and in the frozen page of the image (`struct vmf_frozen`).

use crate::policy::Seal;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use xen_vmf_abi as abi;

/// 0: not locked; else 1 and the seal that the lock came with.
static LOCKED: AtomicU8 = AtomicU8::new(0);
static COUNTERS: [AtomicU64; abi::XENVMF_counter_end as usize] =
    [const { AtomicU64::new(0) }; abi::XENVMF_counter_end as usize];

/// Whether the machine is locked.
pub fn locked() -> bool {
    LOCKED.load(Ordering::Acquire) != 0
}

/// What went with the lock besides.
pub fn seal() -> Seal {
    match LOCKED.load(Ordering::Acquire) {
        3 => Seal::Full,
        2 => Seal::KeepFirmwareCalls,
        _ => Seal::None,
    }
}

/// The machine is locked from now on, and sealed so far.
pub fn set_locked(seal: Seal) {
    let value = match seal {
        Seal::None => 1,
        Seal::KeepFirmwareCalls => 2,
        Seal::Full => 3,
    };
    LOCKED.store(value, Ordering::Release);
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
