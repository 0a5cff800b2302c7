//! How long it takes until a handler runs: that of the timer, of an interrupt
//! from another vCPU, of an event from another domain.
//!
//! The last two are answered by the handler that gets them, which wakes the
//! one that has sent: half the time of there and back is that of one way, the
//! switch to a vCPU that slept included where both run on one CPU.
#![allow(unsafe_code, reason = "starts a vCPU, and touches its devices")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bare::boot::{self, Start};
use bare::clock::Clock;
use bare::interrupt::{self, EVENT, PRIVATE, SENT};
use bare::machine::Gic;
use bare::mmio::Device;
use bare::say;

use crate::actions::Surroundings;
use crate::sharing::Bell;

/// Ways there and back in a batch, and batches.
pub const ROUNDS: u64 = 32;
const BATCHES: u64 = 24;
/// Instructions of the longest tick whose fraction is told.
const DELAYS: usize = 16;
/// How far ahead the timer is set, in ticks.
const AHEAD: u64 = 4000;
/// The partner vCPU.
const OTHER: usize = 1;
/// Ports of another domain among which is the one to bind.
const PORTS: u32 = 8;
/// Seconds that a partner is waited for.
const PATIENCE: u64 = 6;
/// A partner that is silent for this part of a second is done.
const QUIET: u64 = 3;

/// Bytes of the other vCPU's stack.
const STACK: usize = 0x4000;

/// The other vCPU's stack, and what it starts with.
#[repr(C, align(16))]
struct Partner {
    stack: UnsafeCell<[u8; STACK]>,
    start: UnsafeCell<Option<Start>>,
}

// SAFETY: the stack is touched by the other vCPU alone; the rest is written
// before it starts, and not since.
unsafe impl Sync for Partner {}

static PARTNER: Partner = Partner {
    stack: UnsafeCell::new([0; STACK]),
    start: UnsafeCell::new(None),
};

/// Interrupts that a vCPU still counts, and answers but for the last one.
static LEFT: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// Where events come in.
static BELL: Bell = Bell::new();
/// When the timer's vector was entered, 0 if not yet.
static FIRED: AtomicU64 = AtomicU64::new(0);
/// The other vCPU listens.
static READY: AtomicBool = AtomicBool::new(false);

/// The handler of all vCPUs.
fn handle(entered: u64) {
    let Some(interrupt) = interrupt::take() else {
        return;
    };
    let vcpu = boot::vcpu() % 2;
    match interrupt {
        SENT => {}
        EVENT => BELL.hear(),
        _ => {
            Clock::stop();
            FIRED.store(entered, Relaxed);
        }
    }
    interrupt::end(interrupt);
    if interrupt == SENT || interrupt == EVENT {
        let left = LEFT[vcpu].load(Relaxed).saturating_sub(1);
        LEFT[vcpu].store(left, Relaxed);
        match (left, interrupt) {
            (0, _) => {}
            (_, SENT) => interrupt::send(1 - vcpu),
            _ => BELL.ring(),
        }
    }
}

/// The timer's interrupt, from its deadline on; in ticks for [`DELAYS`] rounds.
pub fn timer(clock: &Clock) -> u64 {
    interrupt::handle(handle);
    let mut best = u64::MAX;
    for _ in 0..BATCHES {
        let mut late = 0;
        for delay in 0..DELAYS {
            interrupt::delay(delay);
            FIRED.store(0, Relaxed);
            let deadline = clock.now() + AHEAD;
            clock.arm(deadline);
            interrupt::spin_until(|| FIRED.load(Relaxed) != 0);
            late += FIRED.load(Relaxed) - deadline;
        }
        best = best.min(late);
    }
    interrupt::delay(0);
    best
}

/// Rounds of what [`timer`] returns.
pub const TIMER_ROUNDS: u64 = DELAYS as u64;

/// An interrupt to the other vCPU and back, in ticks for [`ROUNDS`]; none where
/// there is no such vCPU.
pub fn between_vcpus(around: &Surroundings<'_>) -> Option<u64> {
    interrupt::handle(handle);
    start_other(around)?;
    LEFT[OTHER].store(u64::MAX, Relaxed);
    let best = shortest(around.clock, || interrupt::send(OTHER));
    LEFT[OTHER].store(0, Relaxed);
    best
}

/// The other vCPU is on, and stays so.
pub fn keep_a_vcpu() -> bool {
    READY.load(Relaxed)
}

/// Starts the other vCPU, and waits until it listens.
fn start_other(around: &Surroundings<'_>) -> Option<()> {
    if READY.load(Relaxed) {
        return Some(());
    }
    let Some(Gic::V3 { redistributor, .. }) = around.machine.gic else {
        return None;
    };
    let start = Start {
        stack_top: (PARTNER.stack.get().addr() + STACK) as u64,
        enter: other,
        argument: redistributor + interrupt::STRIDE * OTHER as u64,
    };
    // SAFETY: the other vCPU does not run, or READY would be set; nobody else
    // comes here.
    let start: &'static Start = unsafe { (*PARTNER.start.get()).insert(start) };
    // SAFETY: the stack is its own.
    let result = unsafe { boot::start_vcpu(OTHER as u64, start, around.image_start) };
    if result != 0 {
        return None;
    }
    around
        .clock
        .sleep_until(around.clock.now() + around.clock.frequency() / 100);
    READY.load(Relaxed).then_some(())
}

/// The other vCPU: answers.
extern "C" fn other(start: &'static Start) -> ! {
    // SAFETY: the address is its redistributor's, in the block of device
    // memory that is mapped for the first one.
    unsafe { interrupt::enable(Device::new(start.argument), &[SENT]) };
    READY.store(true, Relaxed);
    interrupt::until(|| false);
    unreachable!("it waits for ever")
}

/// Events from another domain, each of which is answered, until none comes
/// any more. Returns how many came. They go into the pages of
/// [`crate::sharing`] from then on, as in [`ring`].
pub fn answer(around: &Surroundings<'_>, domain: u16) -> Option<u64> {
    around.shared.areas("areas");
    let port = match around.shared.offer(domain) {
        Ok(port) => port,
        Err(result) => {
            say!("answer: alloc_unbound {result}");
            return None;
        }
    };
    listen(around, port)?;
    LEFT[0].store(u64::MAX, Relaxed);
    let came = || u64::MAX - LEFT[0].load(Relaxed);
    let mut last = 0;
    let mut wait = PATIENCE * around.clock.frequency();
    loop {
        sleep(around.clock, wait, || false);
        if came() == last {
            break;
        }
        last = came();
        wait = around.clock.frequency() / QUIET;
    }
    LEFT[0].store(0, Relaxed);
    Some(last)
}

/// Events to another domain, and back, in ticks for [`ROUNDS`]; none if it
/// offers no port, or does not answer.
pub fn ring(around: &Surroundings<'_>, domain: u16) -> Option<u64> {
    around.shared.areas("areas");
    let end = around.clock.now() + PATIENCE * around.clock.frequency();
    let port = loop {
        if let Some(port) = (1..=PORTS).find_map(|port| around.shared.accept(domain, port)) {
            break port;
        }
        if around.clock.now() > end {
            return None;
        }
        let soon = around.clock.now() + around.clock.frequency() / 100;
        around.clock.sleep_until(soon);
    };
    listen(around, port)?;
    // Whoever accepts a port has an event at once.
    sleep(around.clock, around.clock.frequency() / 1000, || false);
    shortest(around.clock, || BELL.ring())
}

/// Has events of a port come to this vCPU.
fn listen(around: &Surroundings<'_>, port: u32) -> Option<()> {
    let Some(Gic::V3 { redistributor, .. }) = around.machine.gic else {
        return None;
    };
    interrupt::handle(handle);
    BELL.hang(&around.shared, port);
    // SAFETY: the private frame of the first vCPU's redistributor, mapped.
    let private = unsafe { Device::new(redistributor) }.at(PRIVATE);
    interrupt::enable_private(private, EVENT);
    Some(())
}

/// Ticks of the shortest batch of [`ROUNDS`] ways there, which `send` begins,
/// and back; none if one does not end.
fn shortest(clock: &Clock, send: impl Fn()) -> Option<u64> {
    let mut best = None;
    for _ in 0..BATCHES {
        LEFT[0].store(ROUNDS, Relaxed);
        let start = clock.now();
        send();
        let done = || LEFT[0].load(Relaxed) == 0;
        sleep(clock, clock.frequency(), done);
        let ticks = clock.now() - start;
        if !done() {
            LEFT[0].store(0, Relaxed);
            return None;
        }
        best = Some(best.map_or(ticks, |best: u64| best.min(ticks)));
    }
    best
}

/// Sleeps until `done`, or for so many ticks; interrupts are handled.
fn sleep(clock: &Clock, ticks: u64, done: impl Fn() -> bool) {
    FIRED.store(0, Relaxed);
    clock.arm(clock.now() + ticks);
    interrupt::until(|| done() || FIRED.load(Relaxed) != 0);
    clock.disarm();
}
