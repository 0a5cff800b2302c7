//! Hypercalls with pointers from all vCPUs at once. The further ones are on for
//! just that time.
#![allow(unsafe_code, reason = "stacks of further vCPUs")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use bare::boot::{self, Start, VCPUS};
use bare::clock::Clock;
use bare::hypercall::{self, Return};
use bare::psci::{self, Conduit};
use bare::say;

use crate::handlers;

const STACK: usize = 0x2000;
/// How many times as long a vCPU is waited for that has not called yet.
const MORE: u64 = 8;

#[repr(align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);
// SAFETY: Rust itself never looks into one: it is the stack of one vCPU.
unsafe impl Sync for Stack {}

static STACKS: [Stack; VCPUS - 1] = [const { Stack(UnsafeCell::new([0; STACK])) }; VCPUS - 1];

/// What each further vCPU starts with.
struct Starts(UnsafeCell<[Option<Start>; VCPUS]>);
// SAFETY: written by vCPU 0 before it starts the vCPU that reads it.
unsafe impl Sync for Starts {}
static STARTS: Starts = Starts(UnsafeCell::new([const { None }; VCPUS]));

/// PSCI CPU_OFF, and what CPU_ON says of a vCPU that is on.
const CPU_OFF: u64 = 0x8400_0002;
const ALREADY_ON: i32 = -4;

/// Further vCPUs that are on.
static ON: AtomicU64 = AtomicU64::new(0);
/// They call while this is true.
static GO: AtomicBool = AtomicBool::new(false);

/// What the hypercalls of one vCPU have brought.
struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
}

static TALLIES: [Tally; VCPUS] = [const {
    Tally {
        answered: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    }
}; VCPUS];

impl Tally {
    fn is_empty(&self) -> bool {
        self.answered.load(SeqCst) + self.refused.load(SeqCst) == 0
    }

    /// One call, with a pointer to the own stack.
    fn call(&self) {
        let mut text = [0; 16];
        let result = hypercall::extra_version(&mut text);
        let answered = result == Return(0) && text[0] != 0;
        let count = if answered {
            &self.answered
        } else {
            &self.refused
        };
        count.fetch_add(1, SeqCst);
    }
}

/// Calls for that long, or until each vCPU has called, and says what came back on each vCPU that there is.
pub fn run(name: &str, clock: &Clock, image_start: u64, millis: u64) {
    if handlers::keep_a_vcpu() {
        say!("{name}: cost keeps a vCPU");
        return;
    }
    for tally in &TALLIES {
        tally.answered.store(0, SeqCst);
        tally.refused.store(0, SeqCst);
    }
    GO.store(true, SeqCst);
    let started = start_others(image_start);
    let time = clock.frequency() * millis / 1000;
    let begin = clock.now();
    let passed = || clock.now() - begin;
    let silent = || TALLIES[..=started].iter().any(Tally::is_empty);
    // Where CPUs are short of time, the last one has yet to begin.
    while passed() < time || silent() && passed() < MORE * time {
        TALLIES[0].call();
    }
    GO.store(false, SeqCst);
    while ON.load(SeqCst) > 0 {
        hypercall::yield_cpu();
    }
    for (vcpu, tally) in TALLIES.iter().enumerate() {
        let (answered, refused) = (tally.answered.load(SeqCst), tally.refused.load(SeqCst));
        if answered + refused > 0 {
            say!("{name}: vcpu {vcpu} answered {answered} refused {refused}");
        }
    }
    say!("{name}: done");
}

/// Starts as many as there are; returns how many that is.
fn start_others(image_start: u64) -> usize {
    for (vcpu, stack) in (1..).zip(&STACKS) {
        // SAFETY: that vCPU is off, and nobody else looks.
        let slot = unsafe { &mut (*STARTS.0.get())[vcpu] };
        let start = slot.get_or_insert(Start {
            stack_top: (stack.0.get().addr() + STACK) as u64,
            enter: further,
            argument: vcpu as u64,
        });
        ON.fetch_add(1, SeqCst);
        let mut result;
        loop {
            // SAFETY: each stack belongs to one vCPU.
            result = unsafe { boot::start_vcpu(vcpu as u64, start, image_start) };
            // It says that it is off a little before it is.
            if result != ALREADY_ON {
                break;
            }
        }
        if result != 0 {
            ON.fetch_sub(1, SeqCst);
            return vcpu - 1;
        }
    }
    VCPUS - 1
}

extern "C" fn further(start: &'static Start) -> ! {
    let tally = &TALLIES[start.argument as usize % VCPUS];
    while GO.load(SeqCst) {
        tally.call();
    }
    ON.fetch_sub(1, SeqCst);
    loop {
        // SAFETY: touches no memory, and does not come back.
        unsafe { psci::call(Conduit::Hvc, CPU_OFF, [0; 3]) };
    }
}
