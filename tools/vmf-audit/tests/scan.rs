//! The scan of ELF files and machines, and the picture of an address space.

mod common;
#[path = "common/syms.rs"]
mod syms;

use common::*;
use vmf_audit::dump::Dump;
use vmf_audit::instructions::Effect;
use vmf_audit::picture::{self, Side};
use vmf_audit::scan::{self, Scan};
use vmf_audit::space::{Kind, area};
use vmf_audit::symbols::Functions;

fn scan(m: &Machine) -> Scan {
    let dump = Dump::from_bytes(m.elf()).unwrap();
    scan::machine(&dump, &m.registers, &Functions::default()).unwrap()
}

fn seen(scan: &Scan) -> Vec<(&str, u64)> {
    let place = |p: &'_ scan::Place| p.address.0;
    scan.places
        .iter()
        .map(|p| (&p.instruction[..], place(p)))
        .collect()
}

#[test]
fn a_machine_is_scanned_where_it_can_execute() {
    let mut m = Machine::sealed();
    m.write(DATA, 0xd400_0003); // not executable
    let found = scan(&m);
    assert_eq!(
        seen(&found),
        [
            ("MSR VTTBR_EL2", TEXT_VA),
            ("MSR HCR_EL2", TEXT_VA + 8),
            ("ERET", TEXT_VA + 0x10),
            ("MSR TTBR0_EL1", TEXT_VA + 0x14)
        ]
    );
    assert_eq!(found.bytes, 4096);
    assert_eq!(found.counts[0].effect, Effect::Translation);
    // Once it can be executed from, it counts; a second address of one frame does not count again.
    m.el2(DIRECTMAP, DATA, 3, RX);
    m.el2(DIRECTMAP + 0x1000, DATA, 3, RX);
    assert_eq!(seen(&scan(&m)).len(), 5);
    // What is misaligned is no instruction.
    m.write(DATA, 0xd400_0003 << 16);
    assert_eq!(seen(&scan(&m)).len(), 4);
}

#[test]
fn a_machine_with_its_mmu_off_cannot_be_scanned() {
    let mut m = Machine::sealed();
    m.registers.cpus[0].sctlr.0 &= !1;
    let dump = Dump::from_bytes(m.elf()).unwrap();
    let error = scan::machine(&dump, &m.registers, &Functions::default()).unwrap_err();
    assert!(error.to_string().contains("MMU off"));
}

#[test]
fn an_elf_file_without_code_is_refused() {
    let file = syms::write(&syms::Syms {
        symbols: vec![("domain_list", TEXT_VA, 8)],
        sections: vec![(".data", TEXT_VA, 0x1000)],
        tables: vec![],
        debug: false,
    });
    let error = scan::elf(&file).unwrap_err().to_string();
    assert!(error.contains("no executable section"), "{error}");
    for junk in [&b""[..], b"\x7fELF", b"something else"] {
        assert!(scan::elf(junk).is_err());
    }
}

#[test]
fn regions_are_told_apart_by_access_and_owner() {
    let mut m = Machine::locked();
    m.el2(DIRECTMAP + (4 << 20), GUEST, 2, RW);
    let audit = m.audit().unwrap();
    let spaces = audit.spaces();
    let [space] = &spaces[..] else {
        panic!("{spaces:#?}")
    };
    let regions: Vec<_> = space
        .regions
        .iter()
        .map(|r| (r.area, &r.permissions[..], r.bytes >> 12, r.kind))
        .collect();
    assert_eq!(
        regions,
        [
            ("image", "r-x", 1, Kind::Image),
            ("image", "rw-", 1, Kind::Image),
            ("image", "r--", 1, Kind::Image),
            ("directmap", "rw-", GUEST_FRAMES, Kind::Protected),
            ("directmap", "rw-", 512 - GUEST_FRAMES, Kind::Xen),
            ("directmap", "rw-", 512, Kind::Guest),
        ]
    );
    assert_eq!(area(0x9000_0000_0000), "elsewhere");
    let side = |title: &str| Side {
        title: title.into(),
        spaces: &spaces,
    };
    let picture = picture::draw(&[side("before"), side("after <&>")]);
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    assert!(picture.contains("after &lt;&amp;&gt;"), "titles are text");
    assert!(picture.contains("protected domain, writable"));
    assert!(!picture::draw(&[]).is_empty());
}
