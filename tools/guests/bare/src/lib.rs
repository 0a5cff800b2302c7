//! What the bare-metal guests share, from the first instruction on.
//!
//! * [`boot`]: entry, vectors and further vCPUs (boot.S), the linker script's
//!   symbols. The program defines `rust_main(device tree, image)`;
//! * [`machine`]: what the device tree says; [`mmu`]: the identity map;
//! * [`interrupt`]: a vCPU's own, and their handler;
//! * [`clock`], [`console`], [`mmio`]: devices;
//! * [`trap`]: exceptions; [`hypercall`], [`psci`]: calls of Xen, by its
//!   [`public`] numbers.
#![no_std]

pub mod boot;
pub mod clock;
pub mod console;
pub mod hypercall;
pub mod interrupt;
pub mod machine;
pub mod mmio;
pub mod mmu;
pub mod psci;
pub mod public;
pub mod trap;
