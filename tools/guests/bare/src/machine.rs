//! What the device tree says: console, interrupt controller, memory, bootargs.

use core::ops::Range;

use fdt::Fdt;

/// Which interrupt controller, and where.
#[derive(Clone, Copy)]
pub enum Gic {
    /// GICv2: distributor and CPU interface.
    V2 {
        /// GICD.
        distributor: u64,
        /// GICC.
        cpu: u64,
    },
    /// GICv3: distributor and the first redistributor.
    V3 {
        /// GICD.
        distributor: u64,
        /// GICR of the first vCPU.
        redistributor: u64,
    },
}

impl Gic {
    /// Where the distributor is.
    pub fn distributor(self) -> u64 {
        match self {
            Self::V2 { distributor, .. } | Self::V3 { distributor, .. } => distributor,
        }
    }
}

/// The machine this guest finds itself on.
pub struct Machine<'a> {
    /// Words of `/chosen/bootargs`.
    pub bootargs: &'a str,
    /// Base of the (emulated) PL011; none where the domain has Xen's console.
    pub uart: Option<u64>,
    /// None where it is of a kind that the canary does not know.
    pub gic: Option<Gic>,
    /// Interrupt of the virtual timer.
    pub timer_interrupt: u32,
    /// The hypervisor's own node has an address for the grant table.
    pub grant_table: Option<u64>,
    /// Banks of RAM, empty ones at the end.
    pub memory: [Range<u64>; 8],
}

impl<'a> Machine<'a> {
    /// Reads `tree`.
    pub fn new(tree: &'a Fdt<'a>) -> Self {
        let mut memory = [const { 0..0 }; 8];
        let banks = tree
            .all_nodes()
            .filter(|n| n.property("device_type").and_then(|p| p.as_str()) == Some("memory"))
            .filter_map(|n| n.reg())
            .flatten();
        for (slot, bank) in memory.iter_mut().zip(banks) {
            let start = bank.starting_address.addr() as u64;
            *slot = start..start + bank.size.unwrap_or(0) as u64;
        }
        Self {
            bootargs: tree.chosen().bootargs().unwrap_or(""),
            uart: address(tree, &["arm,sbsa-uart", "arm,pl011"], 0),
            gic: gic(tree),
            timer_interrupt: timer(tree).unwrap_or(27),
            grant_table: address(tree, &["xen,xen"], 0),
            memory,
        }
    }
}

fn address(tree: &Fdt<'_>, compatible: &[&str], index: usize) -> Option<u64> {
    let region = tree.find_compatible(compatible)?.reg()?.nth(index)?;
    Some(region.starting_address.addr() as u64)
}

fn gic(tree: &Fdt<'_>) -> Option<Gic> {
    let v2 = ["arm,cortex-a15-gic", "arm,gic-400", "arm,cortex-a7-gic"];
    if let Some(distributor) = address(tree, &["arm,gic-v3"], 0) {
        Some(Gic::V3 {
            distributor,
            redistributor: address(tree, &["arm,gic-v3"], 1)?,
        })
    } else {
        Some(Gic::V2 {
            distributor: address(tree, &v2, 0)?,
            cpu: address(tree, &v2, 1)?,
        })
    }
}

/// The third interrupt of the timer's node is the virtual timer's: a PPI, in
/// three cells (Linux bindings, timer/arm,arch_timer.yaml).
fn timer(tree: &Fdt<'_>) -> Option<u32> {
    let node = tree.find_compatible(&["arm,armv8-timer", "arm,armv7-timer"])?;
    let cells = node.property("interrupts")?.value;
    let ppi: [u8; 4] = cells.get(28..32)?.try_into().ok()?;
    Some(16 + u32::from_be_bytes(ppi))
}

/// The largest piece of `memory`, in whole pages, that none of `used` touches.
pub fn largest_free(memory: &[Range<u64>], used: &[Range<u64>]) -> Range<u64> {
    let mut best = 0..0;
    // A piece begins at the start of a bank or after something used.
    for bank in memory {
        for start in core::iter::once(bank.start).chain(used.iter().map(|u| u.end)) {
            let start = start.next_multiple_of(4096);
            if !(bank.start..bank.end).contains(&start) || used.iter().any(|u| u.contains(&start)) {
                continue;
            }
            let end = used
                .iter()
                .map(|u| u.start)
                .filter(|&s| s > start)
                .fold(bank.end, u64::min)
                & !4095;
            if end > start && end - start > best.end - best.start {
                best = start..end;
            }
        }
    }
    best
}
