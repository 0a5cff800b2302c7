//! The virtual timer, and sleeping until it fires.
//!
//! Interrupts stay masked in PSTATE: WFI wakes for a pending one all the same,
//! and it is acknowledged here. What a GICv3 needs is in [`interrupt`]. Without
//! a known interrupt controller the canary counts instead of sleeping.
#![allow(unsafe_code, reason = "interrupt controller registers")]

use core::arch::asm;
use core::cell::Cell;

use aarch64_cpu::asm::wfi;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0};
use tock_registers::interfaces::{Readable, Writeable};

use crate::boot;
use crate::interrupt::{self, PRIVATE, SENT, SPECIAL};
use crate::machine::Gic;
use crate::mmio::Device;

/// Time, in ticks of the virtual counter.
pub struct Clock {
    interface: Option<Interface>,
    /// The interrupt that is counted, and how often it came.
    listens: Cell<u32>,
    events: Cell<u64>,
}

/// The CPU interface, where interrupts are acknowledged.
enum Interface {
    /// GICv2: registers in memory, and where private interrupts are enabled.
    Memory(Device, Device),
    /// GICv3: system registers, and the same.
    System(Device),
}

/// The physical counter, which runs since the machine was reset; a guest's own
/// counter begins when the guest is built.
pub fn physical() -> u64 {
    let ticks;
    // SAFETY: reads a counter, which Xen lets guests do.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) ticks, options(nostack)) };
    ticks
}

impl Clock {
    /// Enables the timer's interrupt (a PPI).
    ///
    /// # Safety
    /// The addresses in `gic` are the controller's, mapped as device.
    pub unsafe fn new(gic: Option<Gic>, timer: u32) -> Self {
        // SAFETY: the caller's promise.
        let device = |base| unsafe { Device::new(base) };
        let interface = gic.map(|gic| match gic {
            Gic::V2 { distributor, cpu } => {
                let (distributor, cpu) = (device(distributor), device(cpu));
                interrupt::enable_private(distributor, timer);
                distributor.store(0, 1);
                cpu.store(0x4, 0xff);
                cpu.store(0, 1);
                Interface::Memory(cpu, distributor)
            }
            Gic::V3 {
                distributor,
                redistributor,
            } => {
                // Affinity routing, group 1.
                device(distributor).store(0, (1 << 4) | (1 << 1));
                let redistributor = device(redistributor);
                // SAFETY: the caller's promise; interrupts are masked.
                unsafe { interrupt::enable(redistributor, &[timer, SENT]) };
                Interface::System(redistributor.at(PRIVATE))
            }
        });
        Self {
            interface,
            listens: Cell::new(SPECIAL),
            events: Cell::new(0),
        }
    }

    /// Enables a further private interrupt, and counts how often it comes.
    pub fn listen(&self, interrupt: u32) {
        match self.interface {
            None => return,
            Some(Interface::Memory(_, private) | Interface::System(private)) => {
                interrupt::enable_private(private, interrupt);
            }
        }
        self.listens.set(interrupt);
    }

    /// How often the interrupt that it listens to was acknowledged.
    pub fn events(&self) -> u64 {
        self.events.get()
    }

    /// Ticks per second.
    pub fn frequency(&self) -> u64 {
        CNTFRQ_EL0.get().max(1)
    }

    /// Now.
    pub fn now(&self) -> u64 {
        aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
        CNTVCT_EL0.get()
    }

    /// Sleeps until `deadline`.
    pub fn sleep_until(&self, deadline: u64) {
        while self.now() < deadline {
            if self.interface.is_some() {
                self.arm(deadline);
                wfi();
                self.disarm();
                while self.acknowledge() {}
            }
        }
    }

    /// Has the timer fire at `deadline`.
    pub fn arm(&self, deadline: u64) {
        CNTV_CVAL_EL0.set(deadline);
        // Xen masks the timer when it fires: unmask it each time.
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET + CNTV_CTL_EL0::IMASK::CLEAR);
        aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    }

    /// Stops the timer.
    pub fn disarm(&self) {
        Self::stop();
    }

    /// The same for a handler, which has no clock.
    pub fn stop() {
        CNTV_CTL_EL0.set(0);
    }

    /// Sends the own vCPU an interrupt; false where the controller is not a
    /// GICv3, of which alone the canary knows how.
    pub fn send_to_self(&self) -> bool {
        let known = matches!(self.interface, Some(Interface::System(_)));
        if known {
            interrupt::send(boot::vcpu());
        }
        known
    }

    /// Acknowledges and ends an interrupt; false if none is pending.
    pub fn acknowledge(&self) -> bool {
        let taken = self.take();
        if let Some(interrupt) = taken {
            if interrupt & 0x3ff == self.listens.get() {
                self.events.set(self.events.get() + 1);
            }
            match self.interface {
                None => {}
                Some(Interface::Memory(cpu, _)) => cpu.store(0x10, interrupt),
                Some(Interface::System(_)) => interrupt::end(interrupt),
            }
        }
        taken.is_some()
    }

    /// Takes an interrupt, if one is pending.
    fn take(&self) -> Option<u32> {
        let interrupt = match self.interface {
            None => SPECIAL,
            Some(Interface::Memory(cpu, _)) => cpu.load(0xc),
            Some(Interface::System(_)) => return interrupt::take(),
        };
        (interrupt & 0x3ff < SPECIAL).then_some(interrupt)
    }
}
