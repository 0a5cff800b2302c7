//! What is printed: a line for the config file, and commands of U-Boot.

use std::fmt::Write as _;

use super::plan::Plan;
use crate::lab::layout::cells;

/// Room in the device tree for one property beside its value, in bytes: header,
/// name and padding.
const HEADER: usize = 64;
/// Bytes of an address and a size, of two cells each.
const RANGE: usize = 16;
/// What U-Boot makes a device tree larger by, in steps.
const STEP: usize = 0x1000;

/// The whole output. ImageBuilder gives `/chosen` two cells for an address and
/// two for a size, and calls its domUs `domU0`, `domU1`, and so on.
///
/// All cells are one argument: U-Boot takes few of them, on some boards 16.
/// `fdt resize` reads its number as hexadecimal.
pub fn write(plan: &Plan) -> String {
    let mut out = String::new();
    match &plan.xen_command {
        Some(command) => {
            out += "# In the config file, in place of XEN_CMD:\n";
            let _ = writeln!(out, "XEN_CMD=\"{command}\"");
        }
        None => out += "# XEN_CMD stays as it is: the fuse is not blown at boot.\n",
    }
    if plan.domains.is_empty() {
        out += "# Nothing is to be added to the boot script.\n";
        return out;
    }
    out += "# In the boot script (UBOOT_SOURCE), before its last line, the one that boots:\n";
    let room = plan.domains.iter();
    let room: usize = room.map(|d| HEADER + d.share.len() * RANGE).sum();
    let _ = writeln!(out, "fdt resize {:x}", room.next_multiple_of(STEP));
    for domain in &plan.domains {
        let node = format!("/chosen/domU{}", domain.index);
        if domain.unprotected {
            let _ = writeln!(out, "fdt set {node} vmf-unprotected");
        }
        if !domain.share.is_empty() {
            let ranges = domain.share.iter();
            let list: Vec<String> = ranges
                .map(|range| format!("{} {}", cells(range.start), cells(range.end - range.start)))
                .collect();
            let _ = writeln!(out, "fdt set {node} vmf-share \"<{}>\"", list.join(" "));
        }
    }
    out
}
