//! What breaks a locked machine: registers, what the fuse notes, and the rest of the address space. Rules L4, L6, L9 to
//! L17.

use crate::Fault;
use crate::common::*;
use vmf_audit::frametable::Noted;
use vmf_audit::fused::Extent;
use vmf_audit::hex::Hex;
use vmf_audit::xen::{IDLE, OwnPage};

const WINDOWS: u64 = 0x0a00_8000_0000;

/// Takes the snapshot into the test's own hands; what d0 has is its only extent.
fn keep_snapshot(m: &mut Machine, change: impl Fn(&mut [Extent])) {
    m.keep_snapshot = true;
    let mut extents = vec![Extent {
        gfn: DOM0 >> 12,
        mfn: DOM0 >> 12,
        pages: 512,
        kind: 1,
    }];
    change(&mut extents);
    m.fused().snapshot = Ok(extents);
    m.xen().domains[0].note.as_mut().unwrap().len = 1;
}

/// The same, for the rules from L9 on, and for memory that is Xen's alone.
pub const FURTHER: &[(&str, Fault, &[&str])] = &[
    (
        "the xenheap in a guest's stage 2",
        |m| {
            m.s2(0, 0, SPARE, 3, S2_RAM);
        },
        &["L4"],
    ),
    (
        "a shared page that a protected guest can execute from",
        |m| {
            m.s2(1, 0, SPARE, 3, S2_RAM);
            let (mfn, what) = (SPARE >> 12, "shared info");
            m.xen().domains[1].own_pages = vec![OwnPage { mfn, what }];
        },
        &["L17"],
    ),
    (
        "the same, at EL1 only",
        |m| {
            m.s2(1, 0, SPARE, 3, S2_RAM | 3 << 53);
            let (mfn, what) = (SPARE >> 12, "shared info");
            m.xen().domains[1].own_pages = vec![OwnPage { mfn, what }];
        },
        &["L17"],
    ),
    (
        "the xenheap in a guest's stage 2, and named for another",
        |m| {
            m.s2(0, 0, SPARE, 3, S2_RAM);
            let (mfn, what) = (SPARE >> 12, "shared info");
            m.xen().domains[1].own_pages = vec![OwnPage { mfn, what }];
        },
        &["L4"],
    ),
    (
        "a root with another VMID",
        |m| m.registers.cpus[0].vttbr.0 += 1 << 48,
        &["L6"],
    ),
    (
        "another domain's stage 2 under a guest",
        |m| m.registers.cpus[0].vttbr = m.registers.domains[1].vttbr,
        &["L6"],
    ),
    (
        "no stage 2 under a guest",
        |m| m.registers.cpus[0].vttbr = Hex(0),
        &["L6"],
    ),
    (
        "a guest on a CPU that Xen takes to be idle",
        |m| m.xen().running = vec![Some(IDLE)],
        &["L6"],
    ),
    (
        "the empty root under a guest",
        |m| {
            let page = m.frames(2);
            m.xen().empty_root = Some(page >> 12);
            m.registers.cpus[0].vttbr = Hex(page);
        },
        &["L6"],
    ),
    (
        "a CPU without WXN, alone",
        |m| m.registers.cpus[0].sctlr = Hex(SCTLR & !WXN),
        &["L9"],
    ),
    ("stage 2 off", |m| m.registers.cpus[0].hcr.0 &= !1, &["L9"]),
    (
        "the guest's MMU off by HCR_EL2.DC",
        |m| m.registers.cpus[0].hcr.0 |= 1 << 12,
        &["L9"],
    ),
    (
        "hardware that writes to tables",
        |m| m.registers.cpus[0].tcr.0 |= 1 << 21,
        &["L9"],
    ),
    (
        "vectors in Xen's data",
        |m| m.registers.cpus[0].vbar = Hex(TEXT_VA + 0x1000),
        &["L9"],
    ),
    (
        "vectors where nothing is mapped",
        |m| m.registers.cpus[0].vbar = Hex(DIRECTMAP + (9 << 30)),
        &["L9"],
    ),
    (
        "the frozen page writable where it is linked",
        |m| {
            m.el2(TEXT_VA + 0x2000, FROZEN, 3, RW);
        },
        &["L10"],
    ),
    (
        "the frozen page with a writable alias",
        |m| {
            m.el2(DIRECTMAP, FROZEN, 3, RW);
        },
        &["L8", "L10"],
    ),
    (
        "a machine that Xen does not take to be locked",
        |m| m.fused().frozen.locked = false,
        &["L11"],
    ),
    (
        "a frozen VTTBR that is another's",
        |m| m.fused().frozen.vttbr[2] = m.registers.domains[0].vttbr.0,
        &["L11"],
    ),
    (
        "VMID 0 with an entry that lets VTTBR 0 through",
        |m| m.fused().frozen.vttbr[0] = 0,
        &["L11"],
    ),
    (
        "VMID 0 with a stage 2",
        |m| m.fused().frozen.vttbr[0] = m.registers.domains[0].vttbr.0 & 0xffff_ffff_f000,
        &["L11"],
    ),
    (
        "a frozen VTTBR that is nobody's",
        |m| m.fused().frozen.further = vec![("safe", SPARE)],
        &["L11"],
    ),
    (
        "bits of HCR_EL2 that are not frozen",
        |m| m.fused().frozen.hcr_mask &= !(1 << 27),
        &["L11"],
    ),
    (
        "a domain that Xen does not take to be protected",
        |m| m.xen().domains[1].note.as_mut().unwrap().protected = false,
        &["L11", "L12"],
    ),
    (
        "a snapshot with another machine frame",
        |m| keep_snapshot(m, |s| s[0].mfn += 1),
        &["L12"],
    ),
    (
        "a snapshot with another type",
        |m| keep_snapshot(m, |s| s[0].kind = 2),
        &["L12"],
    ),
    (
        "a snapshot that is shorter",
        |m| keep_snapshot(m, |s| s[0].pages -= 1),
        &["L12"],
    ),
    (
        "a snapshot of nothing",
        |m| {
            m.keep_snapshot = true;
            m.fused().snapshot = Ok(Vec::new());
        },
        &["L12"],
    ),
    (
        "a snapshot of a protected domain",
        |m| {
            keep_snapshot(m, |_| ());
            let note = m.xen().domains[1].note.as_mut().unwrap();
            (note.first, note.len) = (0, 1);
        },
        &["L12"],
    ),
    (
        "an identity map of the text",
        |m| {
            m.el2(TEXT, TEXT, 3, RX);
        },
        &["L13"],
    ),
    (
        "something where the identity map was",
        |m| {
            m.el2(0x1000, SPARE, 3, R);
        },
        &["L13"],
    ),
    (
        "a window that maps a page",
        |m| {
            m.el2(WINDOWS, SPARE, 3, RW);
        },
        &["L14"],
    ),
    (
        "a window's table that is reachable and used",
        |m| {
            let entry = m.el2(DIRECTMAP, SPARE, 3, RW);
            m.fused().windows = Ok(vec![entry >> 12]);
        },
        &["L14"],
    ),
    (
        "a window's table mapped",
        |m| {
            let table = m.frames(1);
            m.fused().windows = Ok(vec![table >> 12]);
            m.el2(DIRECTMAP, table, 3, R);
        },
        &["L1"],
    ),
    (
        "memory in the fixmap",
        |m| {
            m.el2(TEXT_VA + (8 << 20), SPARE, 3, RW);
        },
        &["L14"],
    ),
    (
        "an access flag that is clear",
        |m| {
            m.el2(DIRECTMAP, SPARE, 3, RW & !AF);
        },
        &["L15"],
    ),
    (
        "the dirty-bit modifier",
        |m| {
            m.el2(DIRECTMAP, SPARE, 3, RW | DBM);
        },
        &["L15"],
    ),
    (
        "memory that is mapped as a device",
        |m| {
            m.el2(DIRECTMAP, SPARE, 3, RW & !NORMAL);
        },
        &["L15"],
    ),
    (
        "memory that is not shareable",
        |m| {
            m.el2(DIRECTMAP, SPARE, 3, RW & !(3 << 8));
        },
        &["L15"],
    ),
    (
        "one frame with two memory types",
        |m| {
            m.el2(DIRECTMAP, SPARE, 3, RW);
            m.el2(DIRECTMAP + 0x1000, SPARE, 3, RW & !NORMAL | 1 << 2 | 2 << 8);
        },
        &["L15"],
    ),
    (
        "free memory mapped",
        |m| {
            m.xen().noted[((GUEST - RAM) >> 12) as usize - 1] = Noted::Free;
            m.el2(DIRECTMAP, GUEST - 0x1000, 3, RW);
        },
        &["L16"],
    ),
    (
        "Xen's own memory from the domheap, outside vmap",
        |m| {
            m.el2(DIRECTMAP, GUEST - 0x1000, 3, RW);
        },
        &["L16"],
    ),
    (
        "memory that a protected domain owns and does not see",
        |m| {
            m.xen().noted[((GUEST - RAM) >> 12) as usize - 1] = Noted::Domain(1);
            m.el2(DIRECTMAP, GUEST - 0x1000, 3, RW);
        },
        &["U1"],
    ),
];
