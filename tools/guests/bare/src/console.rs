//! The console: the PL011 that Xen emulates (vpl011), or Xen's own console
//! through the hypercall where the domain has no UART, as dom0.
#![allow(
    unsafe_code,
    reason = "UART registers at an address from the device tree"
)]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::hypercall;
use crate::mmio::Device;

/// Base of the UART, 0 for Xen's console.
static UART: AtomicU64 = AtomicU64::new(0);
/// It has no input: its flags say nothing.
static MUTE: AtomicBool = AtomicBool::new(false);

const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const FLAG_RX_EMPTY: u32 = 1 << 4;
const FLAG_TX_FULL: u32 = 1 << 5;

/// Sends output to the UART at `base`.
///
/// # Safety
/// `base` is a PL011, mapped as device.
pub unsafe fn use_uart(base: u64) {
    UART.store(base, Relaxed);
}

/// The same for one that takes output only, and never says that it is full: what
/// Xen emulates for dom0 in the place of the UART that it uses itself.
///
/// # Safety
/// As for [`use_uart`].
pub unsafe fn use_output(base: u64) {
    MUTE.store(true, Relaxed);
    UART.store(base, Relaxed);
}

fn uart() -> Option<Device> {
    let base = UART.load(Relaxed);
    // SAFETY: `use_uart` was promised a PL011 here.
    (base != 0).then(|| unsafe { Device::new(base) })
}

/// Next byte of input, if there is one.
pub fn read() -> Option<u8> {
    let uart = uart().filter(|_| !MUTE.load(Relaxed))?;
    (uart.load(FLAGS) & FLAG_RX_EMPTY == 0).then(|| uart.load(DATA) as u8)
}

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(uart) = uart() else {
            hypercall::console_write(text);
            return Ok(());
        };
        for byte in text.bytes() {
            while !MUTE.load(Relaxed) && uart.load(FLAGS) & FLAG_TX_FULL != 0 {}
            uart.store(DATA, u32::from(byte));
        }
        Ok(())
    }
}

/// Prints a line that begins with `who: `.
pub fn line(who: &str, text: fmt::Arguments<'_>) {
    let _ = writeln!(Console, "{who}: {text}");
}

/// `say!(format…)` prints a line that begins with the program's name.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::console::line(env!("CARGO_PKG_NAME"), format_args!($($part)*)) };
}
