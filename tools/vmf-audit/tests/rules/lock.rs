//! What breaks a locked machine: what is mapped, where, and how. Rules U1 to L8.

use crate::Fault;
use crate::common::*;
use vmf_audit::hex::Hex;
use vmf_audit::symbols::Region;
use vmf_audit::xen::Placed;

/// What breaks a locked machine, and which rules must say so: all of them, and no other.
pub const FAULTS: &[(&str, Fault, &[&str])] = &[
    (
        "a protected page in the directmap",
        |m| {
            m.el2(DIRECTMAP, GUEST + 0x3000, 3, RW);
        },
        &["U1"],
    ),
    (
        "a protected page, read-only",
        |m| {
            m.el2(DIRECTMAP, GUEST, 3, R);
        },
        &["U1"],
    ),
    (
        "a protected page, access flag clear",
        |m| {
            m.el2(DIRECTMAP, GUEST, 3, RW & !AF);
        },
        &["U1", "L15"],
    ),
    (
        "protected pages inside a 2 MiB block",
        |m| {
            m.el2(DIRECTMAP, GUEST, 2, RW);
        },
        &["U1", "L16"],
    ),
    (
        "all memory in a 1 GiB block",
        |m| {
            m.el2(DIRECTMAP + (1 << 30), RAM, 1, RW);
        },
        &["U1", "L1", "L3", "L8", "L10", "L16"],
    ),
    (
        "a protected page, only on another CPU's root",
        |m| {
            let root = m.other_root();
            m.map(root, 0, DIRECTMAP, GUEST, 3, R);
            m.cpu().ttbr0 = Hex(root);
        },
        &["U1", "L5"],
    ),
    (
        "a protected page that the guest has invalidated",
        |m| {
            let entry = m.s2(1, 0x4000_0000, GUEST, 3, S2_RAM);
            m.write(entry, m.read(entry) & !1);
            m.el2(DIRECTMAP, GUEST, 3, RW);
        },
        &["U1"],
    ),
    (
        "a protected page below an invalidated table entry",
        |m| {
            let root = m.registers.domains[1].vttbr.0 & 0xffff_ffff_f000;
            m.write(root + 8, m.read(root + 8) & !1);
            m.el2(DIRECTMAP, GUEST, 3, RW);
        },
        &["U1"],
    ),
    (
        "a protected page in dom0's stage 2",
        |m| {
            m.s2(0, 0, GUEST, 3, S2_RAM);
        },
        &["U2"],
    ),
    (
        "a protected page in dom0's stage 2, invalidated",
        |m| {
            let entry = m.s2(0, 0, GUEST, 3, S2_RAM);
            m.write(entry, m.read(entry) & !1);
        },
        &["U2"],
    ),
    (
        "a protected page in another protected domain's stage 2",
        |m| {
            m.domain(2, true);
            m.s2(2, 0, RAM + (6 << 20), 3, S2_RAM);
            m.s2(2, 0x1000, GUEST, 3, S2_RAM);
        },
        &["U2"],
    ),
    (
        "a CPU with its MMU off",
        |m| m.cpu().sctlr = Hex(SCTLR & !1),
        &["U3", "L5", "L9"],
    ),
    (
        "the EL2 root mapped",
        |m| {
            m.el2(DIRECTMAP, m.registers.cpus[0].ttbr0.0, 3, RW);
        },
        &["L1"],
    ),
    (
        "an EL2 level-3 table mapped by itself",
        |m| {
            let entry = m.el2(DIRECTMAP, DOM0, 3, R);
            m.el2(DIRECTMAP + 0x1000, entry & !0xfff, 3, R);
        },
        &["L1"],
    ),
    (
        "the second half of a stage-2 root mapped",
        |m| {
            m.el2(
                DIRECTMAP,
                (m.registers.domains[1].vttbr.0 & 0xffff_ffff_f000) + 0x1000,
                3,
                R,
            );
        },
        &["L1"],
    ),
    (
        "dom0's stage-2 level-3 table mapped",
        |m| {
            let entry = m.s2(0, 0, RAM + (6 << 20), 3, S2_RAM);
            m.el2(DIRECTMAP, entry & !0xfff, 3, R);
        },
        &["L1"],
    ),
    (
        "a writable and executable page without WXN",
        |m| {
            m.registers.cpus[0].sctlr = Hex(SCTLR & !WXN);
            m.el2(DIRECTMAP, SPARE, 3, RWX);
        },
        &["L2", "L9"],
    ),
    (
        "text with a writable alias",
        |m| {
            m.el2(DIRECTMAP, TEXT, 3, RW);
        },
        &["L3"],
    ),
    (
        "text with a writable alias in a block",
        |m| {
            m.el2(DIRECTMAP, RAM, 2, RW);
        },
        &["L3", "L8", "L10", "L16"],
    ),
    (
        "an executable device",
        |m| {
            m.el2(DIRECTMAP, 0x900_0000, 3, RX);
        },
        &["L3"],
    ),
    (
        "text writable on another CPU's root",
        |m| {
            let root = m.frames(1);
            m.map(root, 0, TEXT_VA, TEXT, 3, RW);
            m.cpu().ttbr0 = Hex(root);
        },
        &["L3", "L5", "L9"],
    ),
    (
        "the EL2 root in dom0's stage 2",
        |m| {
            m.s2(0, 0, m.registers.cpus[0].ttbr0.0, 3, S2_RAM);
        },
        &["L4"],
    ),
    (
        "d1's stage-2 root in its own stage 2",
        |m| {
            m.s2(
                1,
                0,
                m.registers.domains[1].vttbr.0 & 0xffff_ffff_f000,
                3,
                S2_RAM,
            );
        },
        &["L4"],
    ),
    (
        "a CPU with other attributes",
        |m| m.cpu().mair = Hex(0),
        &["L5"],
    ),
    (
        "a CPU on an older stage 2",
        |m| {
            let root = m.frames(2);
            m.cpu().vttbr = Hex(root | 7 << 48);
        },
        &["L6"],
    ),
    (
        "a CPU on an older stage 2 that reaches protected memory",
        |m| {
            let root = m.frames(2);
            m.map(root, 1, 0, GUEST, 3, S2_RAM);
            m.cpu().vttbr = Hex(root | 7 << 48);
        },
        &["U2", "L6"],
    ),
    (
        "a page of a domain's table pool mapped",
        |m| {
            let page = m.frames(1);
            m.xen().domains[1].pool = vec![page >> 12];
            m.el2(DIRECTMAP, page, 3, R);
        },
        &["L1"],
    ),
    (
        "a table that the walk does not reach, but Xen lists",
        |m| {
            let page = m.frames(1);
            m.xen().domains[0].tables = vec![page >> 12];
            m.el2(DIRECTMAP, page, 3, R);
        },
        &["L1"],
    ),
    (
        "the empty stage-2 root mapped",
        |m| {
            let page = m.frames(1);
            m.xen().empty_root = Some(page >> 12);
            m.el2(DIRECTMAP, page, 3, R);
        },
        &["L1"],
    ),
    (
        "a static table left from boot",
        |m| {
            let region = Region {
                name: "boot_first".into(),
                va: TEXT_VA + 0x3000,
                size: 0x1000,
                executable: false,
            };
            m.xen().tables.push(Placed { region, pa: SPARE });
            m.el2(TEXT_VA + 0x3000, SPARE, 3, RW);
        },
        &["L1"],
    ),
    (
        "Xen's data in a guest's stage 2",
        |m| {
            m.s2(0, 0, DATA, 3, S2_RAM);
        },
        &["L4"],
    ),
    (
        "read-only data with a writable alias",
        |m| {
            m.el2(TEXT_VA + 0x1000, DATA, 3, R);
            m.el2(DIRECTMAP, DATA, 3, RW);
        },
        &["L8"],
    ),
    (
        "a contiguous page alone",
        |m| {
            m.el2(DIRECTMAP, SPARE, 3, RW | CONTIGUOUS);
        },
        &["L7"],
    ),
    (
        "a reserved encoding",
        |m| {
            let entry = m.el2(DIRECTMAP, SPARE, 3, RW);
            m.write(entry, m.read(entry) & !2);
        },
        &["L7"],
    ),
];
