//! Where each file lies in RAM when Xen starts: pure arithmetic.
//!
//! QEMU describes its machine in the first MiB of RAM, as it does for firmware.
//! The lab's own device tree and the boot stub follow in the second, then Xen
//! and the modules, each on a 2 MiB boundary (Linux and Xen both ask for that).

use anyhow::{Result, ensure};

use super::profile::{Bank, MIB, RAM_BASE};

/// Where the device tree lies.
pub const DEVICE_TREE: u64 = RAM_BASE + MIB;
/// Largest device tree that fits below the stub.
pub const DEVICE_TREE_MAX: u64 = STUB - DEVICE_TREE;
/// Where the boot stub lies.
pub const STUB: u64 = RAM_BASE + 2 * MIB - 0x1000;
/// Where Xen lies.
pub const XEN: u64 = RAM_BASE + 2 * MIB;
/// Room for Xen's image and what it has behind it (.bss): it stays where it is loaded.
const XEN_ROOM: u64 = 8 * MIB;
/// What modules are aligned to.
const ALIGN: u64 = 2 * MIB;

/// A file placed in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
}

impl Placed {
    /// Address as a device tree's unit address.
    pub fn unit_address(&self) -> String {
        format!("{:x}", self.address)
    }

    /// Address and size as four cells.
    pub fn cells(&self) -> String {
        format!("{} {}", cells(self.address), cells(self.size))
    }
}

/// A 64-bit value as two device tree cells.
pub fn cells(value: u64) -> String {
    format!("{:#x} {:#x}", value >> 32, value & 0xffff_ffff)
}

/// Hands out addresses, upwards from behind Xen.
pub struct Layout {
    next: u64,
    end: u64,
}

impl Layout {
    /// All modules go into the first bank.
    pub fn new(first: &Bank) -> Self {
        Self {
            next: XEN + XEN_ROOM,
            end: first.end(),
        }
    }

    /// Finds a place for a file of `size` bytes.
    pub fn place(&mut self, what: &str, size: u64) -> Result<Placed> {
        let address = self.next;
        let next = (address + size).next_multiple_of(ALIGN);
        ensure!(
            next <= self.end,
            "{what} ({size} bytes) does not fit into the first bank of RAM; make the bank larger"
        );
        self.next = next;
        Ok(Placed { address, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_do_not_overlap() {
        let bank = Bank {
            start: RAM_BASE,
            mib: 64,
        };
        let mut layout = Layout::new(&bank);
        let a = layout.place("a", 1).unwrap();
        let b = layout.place("b", 5 * MIB).unwrap();
        let c = layout.place("c", 0x1000).unwrap();
        assert_eq!(a.address, XEN + XEN_ROOM);
        assert_eq!(b.address, a.address + 2 * MIB);
        assert_eq!(c.address, b.address + 6 * MIB);
        let error = layout.place("d", 64 * MIB).unwrap_err().to_string();
        assert!(error.starts_with("d (67108864 bytes) does not fit"));
    }

    #[test]
    fn cells_are_big_end_first() {
        assert_eq!(cells(0x1_4000_0000), "0x1 0x40000000");
    }
}
