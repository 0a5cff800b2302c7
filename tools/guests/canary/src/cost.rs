//! What a trap costs: time from just before it until just after it, by the
//! virtual counter, less the time of a loop that does nothing.
//!
//! The shortest of many batches counts: what else the hypervisor does
//! meanwhile (its timer, other guests) only ever makes a batch longer. Where
//! virtual time counts instructions (QEMU's `-icount shift=0`), a nanosecond
//! is one.
#![allow(unsafe_code, reason = "device registers at addresses")]

use core::fmt;
use core::hint::black_box;

use crate::actions::Surroundings;
use crate::handlers;
use bare::clock::Clock;
use bare::hypercall::{self, GrantCopy, MulticallEntry, Return};
use bare::machine::Gic;
use bare::mmio::Device;
use bare::say;

/// Rounds in a batch, and batches, of what is short.
const SHORT: Amount = Amount {
    rounds: 256,
    batches: 40,
};
/// Of what handles kilobytes.
const LONG: Amount = Amount {
    rounds: 32,
    batches: 24,
};
/// Of what waits each time.
const TIMED: Amount = Amount {
    rounds: 16,
    batches: 32,
};
/// GICD_TYPER: reads without a lock, the same everywhere.
const GICD_TYPER: u64 = 0x4;
/// UARTFR of a PL011.
const UART_FLAGS: u64 = 0x18;
/// How far ahead the timer is set, in ticks.
const AHEAD: u64 = 4000;
/// Interrupts that are looked for in vain before one is called missing.
const PATIENCE: u64 = 100_000;

/// How often something is done.
#[derive(Clone, Copy)]
struct Amount {
    rounds: u64,
    batches: u64,
}

/// Measures everything, a line each: `<what> <T.TT> ns`, `<what> <result>` if
/// it is refused, or `<what> none` where there is no such device.
pub fn run(name: &str, around: &Surroundings<'_>) {
    let clock = around.clock;
    let idle = shortest(clock, SHORT, &mut nothing) * 1000 / SHORT.rounds;
    let print = |what: &str, amount: Amount, ticks: u64| {
        // Thousandths of a tick for each round.
        let each = (ticks * 1000 / amount.rounds).saturating_sub(idle);
        say!(
            "{name}: {what} {}",
            Time(each * 100_000_000 / clock.frequency())
        );
    };
    let registers = |what: &str, mut call: &mut dyn FnMut()| {
        print(what, SHORT, shortest(clock, SHORT, &mut call));
    };
    let pointer = |what: &str, amount, wanted, call: &mut dyn FnMut() -> Return| {
        let result = call();
        if result != wanted {
            say!("{name}: {what} {result}");
            return;
        }
        let ticks = shortest(clock, amount, &mut || {
            black_box(call());
        });
        print(what, amount, ticks);
    };

    registers("version", &mut || {
        black_box(hypercall::version());
    });
    let machine = around.machine;
    let devices = [
        ("gicd", machine.gic.map(|gic| gic.distributor()), GICD_TYPER),
        ("uart", machine.uart, UART_FLAGS),
    ];
    for (what, base, offset) in devices {
        let Some(base) = base else {
            say!("{name}: {what} none");
            continue;
        };
        // SAFETY: the device tree says where it is, and it was mapped at the
        // start; these registers read without effect.
        let device = unsafe { Device::new(base) };
        registers(what, &mut || {
            black_box(device.load(offset));
        });
    }
    interrupts(name, clock, &print);
    handled(name, around);

    const ESRCH: Return = Return(-3);
    const DONE: Return = Return(0);
    pointer("copy-16", SHORT, ESRCH, &mut hypercall::remove_from_nobody);
    let mut text = InOnePage([0; 64]);
    pointer("copy-64", SHORT, DONE, &mut || {
        hypercall::changeset(&mut text.0)
    });
    let mut text = InOnePage([0; 1024]);
    pointer("copy-1k", LONG, DONE, &mut || {
        hypercall::command_line(&mut text.0)
    });
    let mut entries = InOnePage([MulticallEntry::version(); 64]);
    pointer("multicall-4k", LONG, DONE, &mut || {
        hypercall::multicall(&mut entries.0)
    });
    let frame = around.spare_page >> 12;
    let mut copy = InOnePage(GrantCopy::page(frame + 1, frame));
    pointer("grant-copy-4k", LONG, DONE, &mut || {
        hypercall::grant_copy(&mut copy.0)
    });
    match hypercall::alloc_unbound(hypercall::DOMID_SELF) {
        Ok(port) => pointer("event-send", SHORT, DONE, &mut || hypercall::send(port)),
        Err(result) => say!("{name}: event-send {result}"),
    }
}

/// An argument that does not go on in a second page, which Xen would have to
/// look up as well, wherever the compiler puts it.
#[repr(align(4096))]
struct InOnePage<T>(T);

/// An interrupt sent to the own vCPU, and the timer's: until the interrupt can
/// be acknowledged. Interrupts stay masked in PSTATE, so no vector is entered.
fn interrupts(name: &str, clock: &Clock, print: &impl Fn(&str, Amount, u64)) {
    let mut missing = false;
    let sgi = shortest(clock, SHORT, &mut || {
        missing |= !clock.send_to_self() || !acknowledged(clock);
    });
    if missing {
        say!("{name}: sgi none");
    } else {
        print("sgi", SHORT, sgi);
    }
    let mut timer = u64::MAX;
    for _ in 0..TIMED.batches {
        let mut late = 0;
        for _ in 0..TIMED.rounds {
            let deadline = clock.now() + AHEAD;
            clock.arm(deadline);
            while clock.now() < deadline {}
            let taken = acknowledged(clock);
            late += clock.now() - deadline;
            clock.disarm();
            if !taken {
                say!("{name}: timer none");
                return;
            }
        }
        timer = timer.min(late);
    }
    print("timer", TIMED, timer);
}

/// Interrupts until their handler runs: the timer's, and one from another vCPU.
fn handled(name: &str, around: &Surroundings<'_>) {
    let Some(Gic::V3 { .. }) = around.machine.gic else {
        say!("{name}: timer-handled none");
        say!("{name}: ipi none");
        return;
    };
    let timer = handlers::timer(around.clock);
    let timer = Time::each(around.clock, timer, handlers::TIMER_ROUNDS);
    say!("{name}: timer-handled {timer}");
    match handlers::between_vcpus(around) {
        Some(ticks) => say!("{name}: ipi {}", one_way(around.clock, ticks)),
        None => say!("{name}: ipi none"),
    }
}

/// Events to another domain, which answers them.
pub fn ring(name: &str, domain: u16, around: &Surroundings<'_>) {
    match handlers::ring(around, domain) {
        Some(ticks) => say!("{name}: {}", one_way(around.clock, ticks)),
        None => say!("{name}: none"),
    }
}

/// Half of there and back, of which `ticks` are [`handlers::ROUNDS`].
fn one_way(clock: &Clock, ticks: u64) -> Time {
    Time::each(clock, ticks, 2 * handlers::ROUNDS)
}

/// Hundredths of a nanosecond.
struct Time(u64);

impl Time {
    /// Of one of `rounds`.
    fn each(clock: &Clock, ticks: u64, rounds: u64) -> Self {
        Self(ticks * 100_000_000_000 / clock.frequency() / rounds)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} ns", self.0 / 100, self.0 % 100)
    }
}

/// Waits until an interrupt was acknowledged; false if none comes.
fn acknowledged(clock: &Clock) -> bool {
    (0..PATIENCE).any(|_| clock.acknowledge())
}

/// Ticks of the shortest batch.
fn shortest(clock: &Clock, amount: Amount, call: &mut dyn FnMut()) -> u64 {
    let mut best = u64::MAX;
    for _ in 0..amount.batches {
        let start = clock.now();
        for _ in 0..amount.rounds {
            call();
        }
        best = best.min(clock.now() - start);
    }
    best
}

#[inline(never)]
fn nothing() {
    black_box(());
}
