//! Exceptions: those that a test provokes are recorded and skipped, interrupts
//! go to their handler, all others end the guest with a report. Each vCPU has a record of its own.
#![allow(
    unsafe_code,
    reason = "called from the vectors; changes the return address of what it interrupts"
)]

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use aarch64_cpu::registers::{ESR_EL1, FAR_EL1};
use tock_registers::interfaces::Readable;

use crate::boot::{VCPUS, vcpu};
use crate::interrupt;

/// The registers that boot.S has saved.
#[repr(C)]
pub struct Frame {
    general: [u64; 20],
    x29: u64,
    x30: u64,
    elr: u64,
    spsr: u64,
    /// The virtual counter when an interrupt was taken; of no meaning else.
    entered: u64,
}

const _: () = assert!(core::mem::offset_of!(Frame, elr) == 0xb0);
const _: () = assert!(core::mem::offset_of!(Frame, x29) == 0xa0);
const _: () = assert!(core::mem::offset_of!(Frame, entered) == 0xc0);

/// What one vCPU has caught.
struct Record {
    armed: AtomicBool,
    caught: AtomicBool,
    esr: AtomicU64,
    far: AtomicU64,
}

static RECORDS: [Record; VCPUS] = [const {
    Record {
        armed: AtomicBool::new(false),
        caught: AtomicBool::new(false),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
    }
}; VCPUS];

/// An exception that was caught.
#[derive(Clone, Copy)]
pub struct Abort {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "abort esr={:#x} far={:#x}", self.esr, self.far)
    }
}

/// Runs `probe`, in which each instruction that traps is skipped; returns its
/// value, or the first exception.
pub fn catch<T>(probe: impl FnOnce() -> T) -> Result<T, Abort> {
    let record = &RECORDS[vcpu()];
    record.caught.store(false, Relaxed);
    record.armed.store(true, Relaxed);
    let value = probe();
    record.armed.store(false, Relaxed);
    if record.caught.load(Relaxed) {
        Err(Abort {
            esr: record.esr.load(Relaxed),
            far: record.far.load(Relaxed),
        })
    } else {
        Ok(value)
    }
}

/// Vector 4: synchronous, from EL1 with SP_EL1.
const SYNCHRONOUS: u64 = 4;
/// Vector 5: IRQ, from EL1 with SP_EL1.
const IRQ: u64 = 5;
/// Vector 7: SError, from EL1 with SP_EL1.
const SERROR: u64 = 7;

// SAFETY: no other function has this name; boot.S calls it with this
// signature, on a stack of its own frame.
#[unsafe(no_mangle)]
extern "C" fn rust_exception(kind: u64, frame: &mut Frame) {
    if kind == IRQ && interrupt::entered(frame.entered) {
        return;
    }
    let (esr, far) = (ESR_EL1.get(), FAR_EL1.get());
    let record = &RECORDS[vcpu()];
    if record.armed.load(Relaxed) && matches!(kind, SYNCHRONOUS | SERROR) {
        if !record.caught.swap(true, Relaxed) {
            record.esr.store(esr, Relaxed);
            record.far.store(far, Relaxed);
        }
        if kind == SYNCHRONOUS {
            frame.elr += 4;
        }
        return;
    }
    panic!(
        "exception {kind} esr={esr:#x} far={far:#x} elr={:#x} spsr={:#x}",
        frame.elr, frame.spsr
    );
}
