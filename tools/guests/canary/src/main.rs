//! The canary: a bare-metal guest that fills memory with a pattern, checks it
//! for ever, and shouts when one bit differs.
//!
//! It is a Linux arm64 Image, so Xen loads it where it loads a kernel: as a
//! dom0less domain (`multiboot,kernel`, with `vpl011`), by `xl`, or as dom0,
//! where it prints to Xen's console for want of a UART. It needs one vCPU and
//! leaves further ones off, but for one that `cost` starts if it is there and
//! those of `crowd`, 2 MiB for itself and the memory of the pattern.
//! It runs with its own tables, caches on, and sleeps between checks.
//!
//! # Bootargs
//!
//! | word | meaning |
//! |---|---|
//! | `seed=N` | seed of the pattern, 1 unless given |
//! | `size=N`, `size=NM`, `size=all` | memory that holds the pattern: bytes, or K, M, G; 8M unless given |
//! | `insist` | stop before anything else is done, if the fuse does not protect this domain |
//! | `uart=N` | output to a PL011 at this address, which the device tree does not name: what Xen emulates for dom0 |
//! | `words=N` | the same in words of 8 bytes |
//! | `ACTION[:ARG...]@N` | run the action after heartbeat N; `@N+` after each later one too |
//!
//! A line `ACTION[:ARG...]` on the console runs the action as well (`Ctrl-A`
//! three times switches Xen's console to the guest), after half a second: what
//! a guest that has the console prints, Xen mixes with all else, so there is
//! time to switch back.
//!
//! # Output
//!
//! Each line begins with `canary: `. A heartbeat comes about once a second, and
//! never before all of the memory was compared since the last one.
//!
//! ```text
//! canary: seed 0x1 memory 0x40200000..0x40a00000 gicv3 vpl011
//! canary: heartbeat 1 pattern ok
//! canary: FAIL at 0x40200018 expected 0x… found 0x…
//! canary: heartbeat 2 pattern BROKEN
//! canary: PANIC …
//! canary: insist: 1
//! canary: insist: 0: not protected, so nothing is done here
//! ```
//!
//! # Actions
//!
//! A result of a hypercall is printed as a number, and its name if it is an
//! errno: `canary: protect: -1 EPERM`.
//!
//! | action | what it does | lines `canary: <action>: …` |
//! |---|---|---|
//! | `protect[:DOM]`, `lock`, `status[:DOM]` | `vmf_op` on itself or on DOM; `status` reads `domain_protected` | the result |
//! | `vmf:CMD:DOM:A0:A1` | `vmf_op` with these arguments | the result |
//! | `badptr` | hypercalls with pointers to its own memory | `xen_version R "…"`, `console_io R`, `sched_op R` |
//! | `unmapped[:ADDRESS]` | loads from an address that nothing answers | `ADDRESS abort esr=… far=…`, or `ADDRESS read V` |
//! | `isv0` | loads without syndrome from GICD and UART | `gicd\|uart post-indexed\|pair read V` or `… abort esr=… far=…` |
//! | `setway` | DC CISW over all sets and ways | `N operations in T us`, or `refused after N operations: abort esr=… far=…` |
//! | `smc[:FUNCTION]` | PSCI_VERSION, or another function without arguments, by SMC and HVC | `smc psci version V` or `smc result V` (or `abort`), the same of `hvc` |
//! | `reboot`, `poweroff` | PSCI SYSTEM_RESET, SYSTEM_OFF | `now`; `refused R` if it comes back |
//! | `grant[:DOM]` | grants a page to DOM (0) | `ref R gfn G to domain D`; the page begins with 0x63616e6172790000 |
//! | `evtchn[:DOM]` | allocates a port for DOM (0), sends | `port P send R` |
//! | `steal:DOM:GFN` | asks Xen for that page of DOM in all ways that a domain has (0x7ff0 is itself: then GFN 0 is the page that can be granted, and comes back) | `foreign R, exchange R, …` |
//! | `share` | shares the first four pages of the 2 MiB after its image with Xen (`vmf_op`) | `R gfn G pages N` |
//! | `areas` | gives Xen places in these pages, for good: vcpu_info, FIFO event queue | `vcpu_info R control R array R` |
//! | `bounce` | hypercalls with pointers into these pages, see sharing.rs | one for each kind |
//! | `spam` | traps as fast as it can for a second | `N hypercalls in 1 s` |
//! | `yield[:MS]` | yields the CPU for so many milliseconds, 1000 unless told (SCHEDOP_yield) | `N batches of 64, T ns each` |
//! | `cost` | times hypercalls, emulated registers and interrupts | `WHAT T.TT ns`, `WHAT R` if refused, `WHAT none` |
//! | `answer:DOM` | takes events (in the pages of `areas`, which it gives Xen) from DOM through a new port, and sends each back, until none comes for a third of a second | `N events`, `none` if it cannot |
//! | `ring:DOM` | sends DOM events through the port that `answer` has there, and gets them back | `T.TT ns` for one way, `none` |
//! | `shutdown[:REASON]` | SCHEDOP_shutdown from these pages: 0 power-off, 1 reboot, 2 suspend, 3 crash | the result, if it comes back |
//! | `watchdog[:SECONDS]` | SCHEDOP_watchdog from these pages, once, never fed | the result |
//! | `suspend` | PSCI SYSTEM_SUSPEND | the result, if it comes back |
//! | `poke:ADDRESS:VALUE`, `peek:ADDRESS` | writes or reads a word of memory, in particular one that others have as well | `ADDRESS VALUE`, or `ADDRESS abort …` |
//! | `clean:FRAME` | cleans the data cache for this frame of the machine (GNTTABOP_cache_flush) | `R` |
//! | `take:PORT` | takes an event of a port from the queue of `areas` | `port P pending 0\|1` |
//! | `entered` | the machine's counter when the canary began to run | `at N ticks` |
//! | `crowd[:MS]` | xen_version with a pointer to the stack, on all vCPUs at once, until each has called | `vcpu N answered A refused R` for each, `done`; `cost keeps a vCPU` where `cost` has started one |
//!
//! With another domain, all arguments in the pages that `share` shares, see
//! peers.rs; events need `areas` first, grants `table`:
//!
//! | action | what it does | lines `canary: <action>: …` |
//! |---|---|---|
//! | `port:DOM` | allocates a port that DOM may bind | `R port P` |
//! | `bind:DOM:PORT` | binds that port of DOM | `R port P` |
//! | `notify:PORT` | sends an event | `R` |
//! | `wait:PORT[:SECONDS]` | blocks until an event comes (SCHEDOP_poll), 20 seconds at most, and takes it | `R pending 0\|1 interrupts N after T ms` |
//! | `table` | has Xen map its grant table | `R` |
//! | `permit:DOM:PAGE` | grants page 0 to 3 of them, or 4, the private one behind, to DOM | `ref R gfn G to DOM` |
//! | `word[:VALUE]` | says the first word of page 1, then writes VALUE there | `V` |
//! | `fetch:DOM:REF` | copies the first word of what DOM grants (GNTTABOP_copy) | `R status S word V` |
//! | `put:DOM:REF:VALUE` | copies VALUE there | `R status S` |
//! | `map:DOM:REF`, `unmap` | maps what DOM grants, ends that | `R status S` |
//! | `mapped[:VALUE]` | says the first word of what is mapped, then writes VALUE there | `V`, or `abort …` |
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "the entry point is called by assembly, and hands out memory by address"
)]

mod actions;
mod cost;
mod crowd;
mod handlers;
mod hostile;
mod peers;
mod sharing;

use core::sync::atomic::AtomicU64;

use canary_core::line::{Fail, Heartbeat};
use canary_core::pattern::{self, Checker};
use canary_core::script::{Action, Amount, Input, Settings};
use xen_vmf_abi::{XENVMF_status, XENVMF_status_domain_protected};

use bare::clock::{self, Clock};
use bare::hypercall::{DOMID_SELF, vmf_op};
use bare::machine::{self, Gic, Machine};
use bare::mmu::{self, Kind};
use bare::{boot, console, say};

use crate::actions::Surroundings;
use crate::peers::Peers;
use crate::sharing::Shared;

/// Slices of a second: how often console input is looked at.
const SLICES: u64 = 10;
/// Slices without input after which an action that was typed runs.
const SETTLED: u64 = 5;

// SAFETY: no other function has this name; boot.S calls it once.
#[unsafe(no_mangle)]
extern "C" fn rust_main(tree_address: u64, image_start: u64) -> ! {
    let entered = clock::physical();
    // SAFETY: boot.S has mapped the tree, and nothing writes to it.
    let tree = match unsafe { boot::device_tree(tree_address as usize) } {
        Ok(tree) => tree,
        Err(error) => panic!("the device tree at {tree_address:#x} is bad: {error:?}"),
    };
    let machine = Machine::new(&tree);
    let clock = start_devices(&machine);
    let settings = Settings::parse(machine.bootargs, |word| {
        say!("bootargs: \"{word}\" is not known, or does not fit");
    });
    if let Some(base) = settings.uart
        && mmu::map(base, 4096, Kind::Device)
    {
        // SAFETY: whoever wrote the bootargs says that it is one; mapped just now.
        unsafe { console::use_output(base) };
    }
    if settings.insist {
        insist();
    }

    let used = [
        boot::image(image_start),
        tree_address..tree_address + tree.total_size() as u64,
    ];
    let free = machine::largest_free(&machine.memory, &used);
    // The first pages can be shared, the one behind them can be granted. In a
    // place that a device tree can name, whatever the size of the image.
    let shared = free.start.next_multiple_of(sharing::ALIGNMENT);
    let spare_page = shared + sharing::PAGES * 4096;
    let start = spare_page + 4096;
    let room = free.end.saturating_sub(start);
    let bytes = match settings.amount {
        Amount::All => room,
        Amount::Bytes(bytes) => bytes & !4095,
    };
    if bytes == 0 || bytes > room {
        panic!("{bytes:#x} bytes of pattern do not fit into the {room:#x} that are free");
    }
    if !mmu::map(shared, start - shared + bytes, Kind::Normal) {
        panic!("memory at {shared:#x} is beyond the canary's own map");
    }
    say!(
        "seed {:#x} memory {start:#x}..{:#x} {} {}",
        settings.seed,
        start + bytes,
        match machine.gic {
            Some(Gic::V2 { .. }) => "gicv2",
            Some(Gic::V3 { .. }) => "gicv3",
            None => "no-gic",
        },
        if machine.uart.is_some() {
            "vpl011"
        } else {
            "xen-console"
        },
    );
    // SAFETY: RAM by the device tree, mapped, used by nothing else.
    let memory = unsafe {
        core::slice::from_raw_parts(
            core::ptr::with_exposed_provenance::<AtomicU64>(start as usize),
            bytes as usize / 8,
        )
    };
    pattern::fill(memory, settings.seed);
    let around = Surroundings {
        machine: &machine,
        clock: &clock,
        spare_page,
        // SAFETY: RAM by the device tree, mapped, used by nothing else.
        shared: unsafe { Shared::new(shared) },
        peers: Peers::default(),
        image_start,
        entered,
    };
    peers::listen(&clock);
    live(memory, start, &settings, &around)
}

/// Goes on only if this domain is protected. Asks with registers only, since
/// whoever is not protected has no page that nobody else sees.
fn insist() {
    let item = XENVMF_status_domain_protected.into();
    let status = vmf_op(XENVMF_status.into(), DOMID_SELF.into(), item, 0);
    if status.0 == 1 {
        say!("insist: {status}");
        return;
    }
    say!("insist: {status}: not protected, so nothing is done here");
    loop {
        aarch64_cpu::asm::wfi();
    }
}

/// Console and timer, as the device tree has them.
fn start_devices(machine: &Machine<'_>) -> Clock {
    if let Some(base) = machine.uart
        && mmu::map(base, 4096, Kind::Device)
    {
        // SAFETY: the device tree says it is one; mapped just now.
        unsafe { console::use_uart(base) };
    }
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

fn live(memory: &[AtomicU64], base: u64, settings: &Settings, around: &Surroundings<'_>) -> ! {
    let clock = around.clock;
    let mut checker = Checker::new(memory, settings.seed);
    let mut input = Input::default();
    let mut typed = None;
    let mut quiet = 0;
    let mut beat = Heartbeat {
        number: 0,
        ok: true,
    };
    // A little more than a second's share, so that a pass never waits for the
    // last slice.
    let share = memory.len().div_ceil(SLICES as usize - 1);
    let mut next_slice = clock.now();
    let mut next_beat = next_slice + clock.frequency();
    loop {
        if let Err(mismatch) = checker.advance(share) {
            // One report is enough: what follows may be thousands.
            if beat.ok {
                say!("{}", Fail { base, mismatch });
            }
            beat.ok = false;
        }
        if checker.complete() && clock.now() >= next_beat {
            beat.number += 1;
            say!("{beat}");
            for action in settings.due(beat.number) {
                actions::run(action, around);
            }
            checker.restart();
            next_beat = (next_beat + clock.frequency()).max(clock.now());
        }
        quiet += 1;
        while let Some(byte) = console::read() {
            quiet = 0;
            input.take(byte, |line| match Action::parse(line) {
                Some(action) => {
                    // A second line in one go does not overtake the first.
                    if let Some(earlier) = typed.replace(action) {
                        actions::run(earlier, around);
                    }
                }
                None => say!("\"{line}\" is not an action"),
            });
        }
        if quiet >= SETTLED
            && let Some(action) = typed.take()
        {
            actions::run(action, around);
        }
        next_slice += clock.frequency() / SLICES;
        if next_slice < clock.now() {
            next_slice = clock.now();
        }
        around.shared.let_sleep();
        clock.sleep_until(next_slice);
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
