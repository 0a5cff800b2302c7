//! The fuzzer: a bare-metal guest that makes hypercalls, calls of firmware,
//! accesses to system registers and to emulated devices by chance, on several
//! vCPUs at once. The same seed does the same on each vCPU; the grammar, and
//! what it leaves out, is `canary_core::fuzz`.
//!
//! It runs as a dom0less domain, or in the place of dom0. All of its vCPUs but
//! the last, at most four, perform events; the last one is started and stopped
//! by them. With one vCPU only, that one performs.
//!
//! # Bootargs
//!
//! | word | meaning |
//! |---|---|
//! | `seed=N` | 1 unless given |
//! | `events=N` | how many each vCPU performs, 10000 unless given |
//! | `blow=wait` | after half of them, goes on as before the blow until it finds itself protected; with `share`, until no page can be shared any more, which is after the lock |
//! | `blow=told` | the same, until something comes on its console |
//! | `blow=self` | after half of them vCPU 0 protects domain 1 and locks |
//! | `blow=past` | the fuse is blown already (the default) |
//! | `from=N` | vCPU 0 begins with event N, alone |
//! | `outside` | it is not to be protected: before the blow, too, it maps grants, other domains' frames and its vCPU's areas |
//! | `share` | shares with Xen (`XENVMF_share`) vCPU 0's page of structures, at the second 2 MiB of RAM, and the first 16 pages of the arena, the third |
//! | `go` | waits for a line on its console before the first event |
//! | `known` | does what stock Xen does not survive, too; `known=NAME`: of that only this |
//! | `trace=N` | prints each event from number N on before it is performed |
//!
//! # Output
//!
//! ```text
//! fuzz: seed 0x1 events 10000 on 2 vcpus
//! fuzz: shares 0 0
//! fuzz: waits
//! fuzz: heartbeat 1 events 813
//! fuzz: ready
//! fuzz: protect 0 lock 0
//! fuzz: blown after 5120 events
//! fuzz: slow: 812 ms, vcpu 1 event 77: 0xd41d4222 [...] 0xc
//! fuzz: results hypercalls: 812 without an error ...
//! fuzz: done 20031 events state -1 protected -
//! ```
//!
//! `ready`: half is done, the blow may come. The last line comes again each
//! second: by it the guest shows that it lives. `state` is the machine's and `protected` a
//! list of domains, as Xen tells the control domain.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "the entry point is called by assembly, and hands out memory by address"
)]

mod perform;
mod tally;

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0};
use bare::boot::{self, Start};
use bare::clock::Clock;
use bare::hypercall::{self, DOMID_INVALID, DOMID_SELF};
use bare::machine::{self, Gic, Machine};
use bare::mmu::{self, Kind};
use bare::{console, say};
use canary_core::fuzz;
use canary_core::fuzz::place::{ARENA, Crash, Known, NOTHING, Phase, Place, Role};
use canary_core::script::number;
use tock_registers::interfaces::Readable;
use xen_vmf_abi::{
    XENVMF_lock, XENVMF_protect, XENVMF_share, XENVMF_status, XENVMF_status_domain_protected,
    XENVMF_status_state,
};

use crate::perform::{PERFORMERS, Performer};
use crate::tally::Tally;

/// The domain that is left in peace, and is protected.
const SENTINEL: u16 = 1;
/// The one that is not.
const PREY: u16 = 2;
/// How often vCPU 0 looks at the clock and at the fuse.
const LOOK: u64 = 32;
/// How often in a second it looks for a line on its console.
const GLANCES: u64 = 10;
/// Milliseconds from which on an event is slow, and how many are told.
const SLOW: u64 = 500;
const SLOW_ONES: u32 = 8;
/// Bytes of the arena that are shared.
const SHARED_BYTES: u64 = 16 * PAGE;
const PAGE: u64 = 4096;
/// No page is shared after the lock (xen/include/public/errno.h).
const EROFS: i64 = 30;
/// Domains of which it is said whether they are protected.
const DOMAINS: u16 = 8;

/// When the fuse is blown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blow {
    Past,
    Wait,
    Told,
    Own,
}

/// What all vCPUs work by. Written before the second one starts.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    events: u64,
    from: u64,
    /// From which event on each is printed.
    trace: u64,
    blow: Blow,
    share: bool,
    go: bool,
    performers: usize,
    place: Place,
    pages: u64,
    image_start: u64,
}

static BLOWN: AtomicBool = AtomicBool::new(false);
static TOTAL: AtomicU64 = AtomicU64::new(0);
static FINISHED: AtomicUsize = AtomicUsize::new(0);
static TALLY: Tally = Tally::new();

/// The plan, at an address that further vCPUs get.
struct Shared(core::cell::UnsafeCell<Option<(Plan, [Option<Start>; PERFORMERS])>>);
// SAFETY: written by vCPU 0 before any other one runs, and read from then on.
unsafe impl Sync for Shared {}
static SHARED: Shared = Shared(core::cell::UnsafeCell::new(None));

#[repr(align(16))]
struct Stack(core::cell::UnsafeCell<[u8; STACK]>);
// SAFETY: Rust itself never looks into one: it is the stack of one vCPU.
unsafe impl Sync for Stack {}
const STACK: usize = 0x8000;
static STACKS: [Stack; PERFORMERS - 1] =
    [const { Stack(core::cell::UnsafeCell::new([0; STACK])) }; PERFORMERS - 1];

// SAFETY: no other function has this name; boot.S calls it once.
#[unsafe(no_mangle)]
extern "C" fn rust_main(tree_address: u64, image_start: u64) -> ! {
    // SAFETY: boot.S has mapped the tree, and nothing writes to it before the
    // first event, nor is it read from then on.
    let tree = match unsafe { boot::device_tree(tree_address as usize) } {
        Ok(tree) => tree,
        Err(error) => panic!("the device tree at {tree_address:#x} is bad: {error:?}"),
    };
    let machine = Machine::new(&tree);
    if let Some(base) = machine.uart
        && mmu::map(base, 4096, Kind::Device)
    {
        // SAFETY: the device tree says it is one; mapped just now.
        unsafe { console::use_uart(base) };
    }
    let used = [
        boot::image(image_start),
        tree_address..tree_address + tree.total_size() as u64,
    ];
    let vcpus = tree.cpus().count();
    let plan = plan(&machine, &used, vcpus, image_start);
    let clock = start_clock(&machine);
    say!(
        "seed {:#x} events {} on {} vcpus",
        plan.seed,
        plan.events,
        plan.performers
    );
    if plan.share {
        // Where the device tree has done it already, they are refused.
        say!(
            "shares {} {}",
            share(plan.pages, PAGE),
            share(plan.place.arena, SHARED_BYTES)
        );
    }
    if plan.go {
        say!("waits");
        while console::read() != Some(b'\n') {
            clock.sleep_until(clock.now() + clock.frequency() / GLANCES);
        }
    }
    start_others(plan);
    live(&plan, &clock)
}

/// Reads the bootargs and divides the memory.
fn plan(machine: &Machine<'_>, used: &[Range<u64>], vcpus: usize, image_start: u64) -> Plan {
    let free = machine::largest_free(&machine.memory, used);
    // At addresses that the device tree can name as well (vmf-share); behind
    // the arena is nothing that the guest needs.
    let pages = free.start.next_multiple_of(ARENA);
    let arena = pages + ARENA;
    if free.end < arena + ARENA {
        panic!("not enough is free in {free:#x?}");
    }
    let reached = mmu::map(free.start, free.end - free.start, Kind::Normal)
        && mmu::map(image_start, 4096, Kind::Normal)
        && mmu::map(NOTHING, 1 << 24, Kind::Device);
    if !reached {
        panic!("memory at {free:#x?} is beyond the guest's own map");
    }
    let (distributor, redistributor) = match machine.gic {
        Some(Gic::V2 { distributor, .. }) => (distributor, 0),
        Some(Gic::V3 {
            distributor,
            redistributor,
        }) => (distributor, redistributor),
        None => (0, 0),
    };
    let spare = vcpus.max(2) - 1;
    let mut plan = Plan {
        seed: 1,
        events: 10_000,
        from: 0,
        trace: u64::MAX,
        blow: Blow::Past,
        share: false,
        go: false,
        performers: spare.min(PERFORMERS),
        place: Place {
            role: if machine.uart.is_some() {
                Role::Guest
            } else {
                Role::Control
            },
            phase: Phase::Before,
            vcpu: 0,
            spare: spare as u64,
            spare_entry: perform::spare_entry(image_start),
            arena,
            page: pages,
            image: (&raw const SHARED).addr() as u64 & !0x1f_ffff,
            distributor,
            redistributor,
            uart: machine.uart.unwrap_or(0),
            sentinel: SENTINEL,
            prey: PREY,
            known: Known::None,
            outside: false,
        },
        pages,
        image_start,
    };
    for word in machine.bootargs.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("seed", value)) => plan.seed = number(value).unwrap_or(1),
            Some(("events", value)) => plan.events = number(value).unwrap_or(10_000),
            Some(("from", value)) => {
                plan.from = number(value).unwrap_or(0);
                plan.performers = 1;
            }
            Some(("trace", value)) => plan.trace = number(value).unwrap_or(0),
            Some(("blow", "wait")) => plan.blow = Blow::Wait,
            Some(("blow", "told")) => plan.blow = Blow::Told,
            Some(("blow", "self")) => plan.blow = Blow::Own,
            Some(("blow", "past")) => plan.blow = Blow::Past,
            None if word == "share" => plan.share = true,
            None if word == "go" => plan.go = true,
            None if word == "known" => plan.place.known = Known::All,
            Some(("known", name)) => match Crash::named(name) {
                Some(crash) => plan.place.known = Known::One(crash),
                None => say!("bootargs: \"{name}\" is no known crash"),
            },
            None if word == "outside" => plan.place.outside = true,
            _ => say!("bootargs: \"{word}\" is not known"),
        }
    }
    plan
}

/// The interrupt controller is set up, so that there is something to break.
fn start_clock(machine: &Machine<'_>) -> Clock {
    let gic = machine.gic.filter(|gic| {
        let (first, second) = match *gic {
            Gic::V2 { distributor, cpu } => (distributor, cpu),
            Gic::V3 {
                distributor,
                redistributor,
            } => (distributor, redistributor),
        };
        mmu::map(first, 0x1_0000, Kind::Device) && mmu::map(second, 0x2_0000, Kind::Device)
    });
    // SAFETY: the device tree says where they are; mapped just now.
    unsafe { Clock::new(gic, machine.timer_interrupt) }
}

fn start_others(plan: Plan) {
    let starts = core::array::from_fn(|index| {
        let stack = STACKS.get(index.checked_sub(1)?)?;
        Some(Start {
            stack_top: (stack.0.get().addr() + STACK) as u64,
            enter: further,
            argument: index as u64,
        })
    });
    // SAFETY: no other vCPU runs yet.
    let (plan, starts) = unsafe { (*SHARED.0.get()).insert((plan, starts)) };
    for (number, start) in starts.iter().enumerate().take(plan.performers) {
        if let Some(start) = start {
            // SAFETY: each stack belongs to one vCPU.
            let result = unsafe { boot::start_vcpu(number as u64, start, plan.image_start) };
            if result != 0 {
                panic!("vcpu {number} does not start: {result}");
            }
        }
    }
}

/// A further vCPU.
extern "C" fn further(start: &'static Start) -> ! {
    // SAFETY: written before this vCPU was started, and not since.
    let Some((plan, _)) = (unsafe { &*SHARED.0.get() }) else {
        panic!("a vCPU without a plan");
    };
    let mut worker = Worker::new(plan, start.argument as usize);
    worker.work(|_, _| ());
    FINISHED.fetch_add(1, Relaxed);
    loop {
        aarch64_cpu::asm::wfi();
    }
}

/// vCPU 0.
fn live(plan: &Plan, clock: &Clock) -> ! {
    let mut beats = Beats::new(clock);
    let mut worker = Worker::new(plan, 0);
    worker.work(|index, place| {
        if index % LOOK != 0 {
            return;
        }
        beats.tick();
        if place.phase == Phase::Before && index >= plan.events / 2 {
            blow(plan, index);
        }
    });
    FINISHED.fetch_add(1, Relaxed);
    while FINISHED.load(Relaxed) < plan.performers {
        beats.pause();
        beats.tick();
    }
    say!("results {TALLY}");
    loop {
        let done = TOTAL.load(Relaxed);
        let state = status(DOMID_INVALID, XENVMF_status_state);
        say!("done {done} events state {state} protected {}", Protected);
        beats.pause();
    }
}

/// Blows the fuse, or sees whether it is.
fn blow(plan: &Plan, index: u64) {
    match plan.blow {
        Blow::Past => {}
        Blow::Own => {
            let protect = hypercall::vmf_op(XENVMF_protect.into(), SENTINEL.into(), 0, 0);
            let lock = hypercall::vmf_op(XENVMF_lock.into(), DOMID_INVALID.into(), 0, 0);
            say!("protect {protect} lock {lock}");
            BLOWN.store(true, Relaxed);
        }
        Blow::Wait | Blow::Told => {
            if index < plan.events / 2 + LOOK {
                say!("ready");
            }
            let blown = if plan.blow == Blow::Told {
                console::read().is_some()
            } else if plan.share {
                // Between protect and lock an event of chance could share more.
                share(plan.pages, PAGE).0 == -EROFS
            } else {
                status(DOMID_SELF, XENVMF_status_domain_protected) > 0
            };
            if blown {
                BLOWN.store(true, Relaxed);
            }
        }
    }
    if BLOWN.load(Relaxed) {
        say!("blown after {} events", TOTAL.load(Relaxed));
    }
}

fn status(domain: u16, item: u32) -> i64 {
    hypercall::vmf_op(XENVMF_status.into(), domain.into(), item.into(), 0).0
}

/// The domains that are protected, as far as this one may ask.
struct Protected;

impl core::fmt::Display for Protected {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut separator = "";
        for domain in 0..DOMAINS {
            if status(domain, XENVMF_status_domain_protected) > 0 {
                write!(f, "{separator}{domain}")?;
                separator = ",";
            }
        }
        if separator.is_empty() {
            f.write_str("-")?;
        }
        Ok(())
    }
}

fn share(start: u64, bytes: u64) -> hypercall::Return {
    let (first, pages) = (start / PAGE, bytes / PAGE);
    hypercall::vmf_op(XENVMF_share.into(), DOMID_SELF.into(), first, pages)
}

/// A vCPU at work.
struct Worker<'a> {
    plan: &'a Plan,
    place: Place,
    performer: Performer,
    slow: u32,
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan, number: usize) -> Self {
        let mut place = plan.place;
        place.vcpu = number as u64;
        place.page = plan.pages + number as u64 * PAGE;
        Self {
            plan,
            place,
            // SAFETY: a page and a number for each vCPU; all RAM is mapped.
            performer: unsafe { Performer::new(number, place.page, plan.image_start) },
            slow: 0,
        }
    }

    /// Performs all events; `each` is called before each one.
    fn work(&mut self, mut each: impl FnMut(u64, &Place)) {
        let half = self.plan.events / 2;
        let mut index = self.plan.from;
        if self.plan.blow != Blow::Past {
            while index < half || !BLOWN.load(Relaxed) {
                each(index, &self.place);
                self.perform(index);
                index += 1;
            }
        }
        self.place.phase = Phase::After;
        if self.plan.blow != Blow::Past {
            index = half;
        }
        while index < self.plan.events {
            each(index, &self.place);
            self.perform(index);
            index += 1;
        }
    }

    fn perform(&mut self, index: u64) {
        let event = fuzz::event(self.plan.seed, index, &self.place);
        if index >= self.plan.trace {
            say!(
                "event {index} {:#x} {:x?} {:#x} {:x?}",
                event.word,
                event.x,
                event.number,
                event.memory.words()
            );
        }
        let start = CNTVCT_EL0.get();
        let result = self.performer.perform(&event);
        let took = (CNTVCT_EL0.get() - start) / (CNTFRQ_EL0.get() / 1000).max(1);
        if took >= SLOW && self.slow < SLOW_ONES {
            self.slow += 1;
            say!(
                "slow: {took} ms, vcpu {} event {index}: {:#x} {:x?} {:#x}",
                self.place.vcpu,
                event.word,
                event.x,
                event.number
            );
        }
        TALLY.count(event.kind, &result);
        TOTAL.fetch_add(1, Relaxed);
    }
}

/// A line each second.
struct Beats<'a> {
    clock: &'a Clock,
    next: u64,
    number: u64,
}

impl<'a> Beats<'a> {
    fn new(clock: &'a Clock) -> Self {
        Self {
            clock,
            next: clock.now(),
            number: 0,
        }
    }

    /// Prints it if it is time.
    fn tick(&mut self) {
        let now = self.clock.now();
        if now >= self.next {
            self.number += 1;
            self.next = now + self.clock.frequency();
            let events = TOTAL.load(Relaxed);
            say!("heartbeat {} events {events}", self.number);
        }
    }

    /// Waits a second.
    ///
    /// Not for an interrupt: after the events none may ever come. Nor with
    /// SCHEDOP_yield: some vCPUs that yield all the time keep the lock of
    /// credit2's runqueue so busy that, with fewer CPUs on the host than are
    /// emulated, who only wakes now and then hardly gets it.
    fn pause(&mut self) {
        let end = self.clock.now() + self.clock.frequency();
        while self.clock.now() < end {
            core::hint::spin_loop();
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("PANIC {}", info.message());
    if let Some(place) = info.location() {
        say!("PANIC at {place}");
    }
    loop {
        aarch64_cpu::asm::wfi();
    }
}
