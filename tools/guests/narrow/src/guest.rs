//! What it does.
#![allow(
    unsafe_code,
    reason = "the entry point is called by assembly; devices and counters by address"
)]

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};

use canary_core::line::Heartbeat;
use canary_core::pattern;

global_asm!(include_str!("start.S"), options(raw));

/// GUEST_PL011_BASE and GUEST_GICV3_GICD_BASE (public/arch-arm.h).
const UART: usize = 0x2200_0000;
const GICD_CTLR: usize = 0x0300_1000;
/// UARTFR, and in it TXFF.
const FLAGS: usize = UART + 0x18;
const FULL: u32 = 1 << 5;
/// `__HYPERVISOR_xen_version`, `XENVER_version`, `XENVER_extraversion`.
const XEN_VERSION: u32 = 17;
const VERSION: u32 = 0;
const EXTRAVERSION: u32 = 1;
/// Words of the pattern, and its seed.
const WORDS: usize = 4096;
const SEED: u64 = 0x32;

unsafe extern "C" {
    static mut aborts: u32;
    fn load_post_indexed(address: usize) -> u32;
    fn narrow_load();
    fn hypercall(a0: u32, a1: usize, a2: usize, a3: usize, number: u32) -> u32;
}

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: registers of the virtual UART.
            unsafe {
                while (FLAGS as *const u32).read_volatile() & FULL != 0 {}
                (UART as *mut u32).write_volatile(byte.into());
            }
        }
        Ok(())
    }
}

macro_rules! say {
    ($($argument:tt)*) => {
        let _ = writeln!(Uart, $($argument)*);
    };
}

/// CNTVCT.
fn ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe {
        asm!("isb", "mrrc p15, 1, {}, {}, c14", out(reg) low, out(reg) high,
            options(nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// CNTFRQ.
fn frequency() -> u64 {
    let hertz: u32;
    // SAFETY: reads a register.
    unsafe { asm!("mrc p15, 0, {}, c14, c0, 0", out(reg) hertz, options(nostack)) };
    hertz.into()
}

// SAFETY: no other function has this name; start.S calls it once.
#[unsafe(no_mangle)]
extern "C" fn rust_main() -> ! {
    // SAFETY: start.S counts there, and nobody else has it.
    let aborted = || unsafe { (&raw const aborts).read_volatile() };
    let mut memory = [0; WORDS];
    for (index, word) in memory.iter_mut().enumerate() {
        *word = pattern::word(SEED, index);
    }
    let mut ok = true;
    for number in 1.. {
        let next = ticks() + frequency();
        let seen = core::hint::black_box(&memory);
        ok &= (0..WORDS).all(|index| seen[index] == pattern::word(SEED, index));
        say!("canary: {}", Heartbeat { number, ok });

        let before = aborted();
        // SAFETY: reads a register of the virtual distributor.
        let value = unsafe { load_post_indexed(GICD_CTLR) };
        let at = narrow_load as *const () as usize;
        if aborted() == before {
            say!("narrow: load at {at:#x} read {value:#x}");
        } else {
            say!("narrow: load at {at:#x} abort");
        }

        // SAFETY: no pointers.
        let version = unsafe { hypercall(VERSION, 0, 0, 0, XEN_VERSION) };
        say!("narrow: xen_version {version}");
        let mut text = [0u8; 16];
        let address = text.as_mut_ptr().expose_provenance();
        // SAFETY: xen_extraversion_t is 16 bytes.
        let result = unsafe { hypercall(EXTRAVERSION, address, 0, 0, XEN_VERSION) };
        let text = core::hint::black_box(&text);
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = core::str::from_utf8(text).unwrap_or("?");
        say!("narrow: extraversion {} \"{text}\"", result as i32);
        while ticks() < next {}
    }
    loop {}
}
