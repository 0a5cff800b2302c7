//! The virtual timer, and sleeping until it fires.
//!
//! Interrupts stay masked in PSTATE: WFI wakes for a pending one all the same,
//! and it is acknowledged here. Without a known interrupt controller the
//! canary counts instead of sleeping.
#![allow(unsafe_code, reason = "interrupt controller registers")]

use core::arch::asm;

use aarch64_cpu::asm::wfi;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0};
use tock_registers::interfaces::{Readable, Writeable};

use crate::machine::Gic;
use crate::mmio::Device;

/// Time, in ticks of the virtual counter.
pub struct Clock {
    interface: Option<Interface>,
}

/// The CPU interface, where interrupts are acknowledged.
enum Interface {
    /// GICv2: registers in memory.
    Memory(Device),
    /// GICv3: system registers.
    System,
}

/// Interrupt ids from here on are special: nothing is pending.
const SPECIAL: u32 = 1020;
/// The interrupt that a vCPU sends itself (an SGI).
const SENT: u32 = 1;
/// GICR_WAKER.
const WAKER: u64 = 0x14;

impl Clock {
    /// Enables the timer's interrupt (a PPI).
    ///
    /// # Safety
    /// The addresses in `gic` are the controller's, mapped as device.
    pub unsafe fn new(gic: Option<Gic>, interrupt: u32) -> Self {
        // SAFETY: the caller's promise.
        let device = |base| unsafe { Device::new(base) };
        let interface = gic.map(|gic| match gic {
            Gic::V2 { distributor, cpu } => {
                let (distributor, cpu) = (device(distributor), device(cpu));
                enable_private(distributor, interrupt);
                distributor.store(0, 1);
                cpu.store(0x4, 0xff);
                cpu.store(0, 1);
                Interface::Memory(cpu)
            }
            Gic::V3 {
                distributor,
                redistributor,
            } => {
                // Affinity routing, group 1.
                device(distributor).store(0, (1 << 4) | (1 << 1));
                let redistributor = device(redistributor);
                redistributor.store(WAKER, redistributor.load(WAKER) & !(1 << 1));
                while redistributor.load(WAKER) & (1 << 2) != 0 {}
                let private = redistributor.at(0x1_0000);
                private.store(0x80, u32::MAX);
                enable_private(private, interrupt);
                enable_private(private, SENT);
                // SAFETY: enables the CPU interface; interrupts are masked.
                unsafe {
                    asm!(
                        "msr s3_0_c12_c12_5, {one}", // ICC_SRE_EL1
                        "isb",
                        "msr s3_0_c4_c6_0, {all}",   // ICC_PMR_EL1
                        "msr s3_0_c12_c12_3, xzr",   // ICC_BPR1_EL1
                        "msr s3_0_c12_c12_7, {one}", // ICC_IGRPEN1_EL1
                        "isb",
                        one = in(reg) 1u64,
                        all = in(reg) 0xffu64,
                        options(nostack)
                    );
                }
                Interface::System
            }
        });
        Self { interface }
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
        CNTV_CTL_EL0.set(0);
    }

    /// Sends the own vCPU an interrupt; false where the controller is not a
    /// GICv3, of which alone the canary knows how.
    pub fn send_to_self(&self) -> bool {
        let known = matches!(self.interface, Some(Interface::System));
        if known {
            // SAFETY: writes ICC_SGI1R_EL1; the canary runs on the vCPU with
            // affinity 0, and interrupts are masked.
            unsafe {
                asm!("msr s3_0_c12_c11_5, {}", "isb",
                    in(reg) (u64::from(SENT) << 24) | 1, options(nostack));
            }
        }
        known
    }

    /// Acknowledges and ends an interrupt; false if none is pending.
    pub fn acknowledge(&self) -> bool {
        let taken = self.take();
        if let Some(interrupt) = taken {
            match self.interface {
                None => {}
                Some(Interface::Memory(cpu)) => cpu.store(0x10, interrupt),
                Some(Interface::System) => {
                    // SAFETY: writes ICC_EOIR1_EL1 for what was acknowledged.
                    unsafe {
                        asm!("msr s3_0_c12_c12_1, {}", "isb", in(reg) u64::from(interrupt),
                            options(nostack));
                    }
                }
            }
        }
        taken.is_some()
    }

    /// Takes an interrupt, if one is pending.
    fn take(&self) -> Option<u32> {
        let interrupt = match self.interface {
            None => SPECIAL,
            Some(Interface::Memory(cpu)) => cpu.load(0xc),
            Some(Interface::System) => {
                let interrupt: u64;
                // SAFETY: reads ICC_IAR1_EL1, which acknowledges.
                unsafe {
                    asm!("mrs {}, s3_0_c12_c12_0", "dsb sy", out(reg) interrupt, options(nostack));
                }
                interrupt as u32
            }
        };
        (interrupt & 0x3ff < SPECIAL).then_some(interrupt)
    }
}

/// `frame` is a GICv2 distributor or the private frame of a redistributor:
/// the registers of private interrupts have the same offsets in both.
fn enable_private(frame: Device, interrupt: u32) {
    let priority = 0x400 + u64::from(interrupt & !3);
    let shift = (interrupt & 3) * 8;
    let others = frame.load(priority) & !(0xff << shift);
    frame.store(priority, others | (0x80 << shift));
    frame.store(0x100, 1 << interrupt);
}
