//! The two walkers against tables of every shape, and against a model over random mappings.

mod common;
use common::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use vmf_audit::descriptor::size;
use vmf_audit::dump::Dump;
use vmf_audit::hex::Hex;
use vmf_audit::{stage1, stage2};

fn dump(machine: &Machine) -> Dump {
    Dump::from_bytes(machine.elf()).unwrap()
}

fn el2(machine: &Machine) -> (stage1::Regime, stage1::Walk) {
    let regime = stage1::Regime::of(&machine.registers.cpus[0]).unwrap();
    (regime, stage1::walk(&dump(machine), &regime).unwrap())
}

#[test]
fn roots_by_t0sz() {
    // T0SZ, level of the root, bytes of the root
    for (t0sz, level, bytes) in [
        (16, 0, 4096),
        (20, 0, 256),
        (24, 0, 16),
        (25, 1, 4096),
        (33, 1, 16),
        (34, 2, 4096),
        (39, 2, 128),
    ] {
        let mut cpu = Machine::empty().registers.cpus[0];
        cpu.tcr = Hex(TCR & !0x3f | t0sz);
        cpu.ttbr0 = Hex(0x4000_0fff | 1 << 48);
        let regime = stage1::Regime::of(&cpu).unwrap();
        assert_eq!(
            (regime.start_level, regime.input_bits),
            (level, 64 - t0sz as u32),
            "T0SZ {t0sz}"
        );
        assert_eq!(
            regime.root,
            0x4000_0fff & !(u64::max(bytes, 64) - 1),
            "T0SZ {t0sz}"
        );
    }
}

#[test]
fn a_level_1_root_of_a_few_entries() {
    let mut machine = Machine::empty();
    let table = machine.frames(1);
    let root = table + 0x40; // 32 bytes suffice for 4 entries; aligned to 64
    machine.write(root + 8, RAM | RW | 1);
    machine.write(root + 32, RAM | RW | 1); // beyond the root: not an entry
    machine.registers.cpus[0].tcr = Hex(TCR & !0x3f | 32);
    machine.registers.cpus[0].ttbr0 = Hex(root);
    let (regime, walk) = el2(&machine);
    assert_eq!(walk.leaves.len(), 1);
    assert_eq!(
        (walk.leaves[0].va, walk.leaves[0].pa, walk.leaves[0].size()),
        (1 << 30, RAM, 1 << 30)
    );
    assert_eq!(
        stage1::translate(&dump(&machine), &regime, (1 << 30) + 0x1234),
        Some(RAM + 0x1234)
    );
    assert_eq!(stage1::translate(&dump(&machine), &regime, 1 << 32), None);
}

#[test]
fn sizes_permissions_and_types() {
    let mut machine = Machine::empty();
    machine.el2(0x1000, RAM, 3, RX & !NORMAL);
    machine.el2(0x20_0000, RAM + 0x20_0000, 2, RW);
    machine.el2(0x4000_0000, RAM, 1, R & !NORMAL | 3 << 2);
    let (regime, walk) = el2(&machine);
    let seen: Vec<_> = walk
        .leaves
        .iter()
        .map(|l| (l.va, l.size(), l.writable, l.executable))
        .collect();
    assert_eq!(
        seen,
        [
            (0x1000, 4 << 10, false, true),
            (0x20_0000, 2 << 20, true, false),
            (0x4000_0000, 1 << 30, false, false)
        ]
    );
    let mair = machine.registers.cpus[0].mair.0;
    let types: Vec<_> = walk
        .leaves
        .iter()
        .map(|l| stage1::memory_type(mair, l))
        .collect();
    assert_eq!(
        types,
        [
            "Device-nGnRnE",
            "Normal write-back",
            "Normal write-back, read allocate"
        ]
    );
    assert!(regime.wxn && regime.executes(&walk.leaves[0]));
    assert_eq!(walk.tables.len(), 4);
}

#[test]
fn table_attributes_restrict_what_is_below() {
    let mut machine = Machine::empty();
    machine.el2(0, RAM, 3, RWX);
    let root = machine.registers.cpus[0].ttbr0.0;
    let permissions = |machine: &Machine| {
        let leaf = el2(machine).1.leaves[0];
        (leaf.writable, leaf.executable)
    };
    let entry = machine.read(root);
    assert_eq!(permissions(&machine), (true, true));
    machine.write(root, entry | APTABLE_RO);
    assert_eq!(permissions(&machine), (false, true));
    machine.write(root, entry | APTABLE_RO | XNTABLE);
    assert_eq!(permissions(&machine), (false, false));
    machine.registers.cpus[0].tcr.0 |= 1 << 24; // HPD
    assert_eq!(permissions(&machine), (true, true));
}

#[test]
fn hardware_dirty_state_makes_read_only_writable() {
    let mut machine = Machine::empty();
    machine.el2(0, RAM, 3, R | DBM);
    assert!(!el2(&machine).1.leaves[0].writable);
    machine.registers.cpus[0].tcr.0 |= 1 << 21 | 1 << 22; // HA, HD
    assert!(el2(&machine).1.leaves[0].writable);
}

#[test]
fn a_contiguous_run_is_fine() {
    let mut machine = Machine::empty();
    for i in 0..16 {
        machine.el2(i * 4096, RAM + i * 4096, 3, RW | CONTIGUOUS);
    }
    let (_, walk) = el2(&machine);
    assert_eq!((walk.leaves.len(), walk.malformed.len()), (16, 0));
}

#[test]
fn stage_2_roots_by_vtcr() {
    // T0SZ, SL0, level, tables, entries of a table
    for (t0sz, sl0, level, roots, entries) in [
        (16, 2, 0, 1, 512),
        (20, 2, 0, 1, 32),
        (24, 1, 1, 2, 512),
        (22, 1, 1, 8, 512),
        (21, 1, 1, 16, 512),
        (25, 1, 1, 1, 512),
        (28, 1, 1, 1, 64),
        (30, 0, 2, 16, 512),
        (34, 0, 2, 1, 512),
    ] {
        let regime = stage2::Regime::of(VTCR_40 & !0xff | t0sz | sl0 << 6).unwrap();
        assert_eq!(
            (regime.start_level, regime.roots, regime.root_entries),
            (level, roots, entries),
            "T0SZ {t0sz}"
        );
    }
    for (t0sz, sl0) in [
        (15, 2),
        (20, 1),
        (29, 0),
        (34, 1),
        (43, 0),
        (0, 0),
        (63, 2),
        (16, 3),
    ] {
        assert!(
            stage2::Regime::of(VTCR_40 & !0xff | t0sz | sl0 << 6).is_err(),
            "T0SZ {t0sz}, SL0 {sl0}"
        );
    }
}

#[test]
fn concatenated_roots() {
    let mut machine = Machine::empty();
    machine.domain(1, true);
    machine.s2(0, 0x40_0000_0000, GUEST, 3, S2_RAM);
    machine.s2(0, 0xff_ffff_f000, GUEST + 0x1000, 3, S2_RAM);
    let regime = stage2::Regime::of(VTCR_40).unwrap();
    let vttbr = machine.registers.domains[0].vttbr.0;
    let walk = stage2::walk(&dump(&machine), &regime, vttbr).unwrap();
    let seen: Vec<_> = walk.leaves.iter().map(|l| (l.ipa, l.pa, l.live)).collect();
    assert_eq!(
        seen,
        [
            (0x40_0000_0000, GUEST, true),
            (0xff_ffff_f000, GUEST + 0x1000, true)
        ]
    );
    assert_eq!(walk.tables.len(), 2 + 4);
    let steps = stage2::trace(&dump(&machine), &regime, vttbr, 0xff_ffff_f000);
    assert_eq!(
        steps.iter().map(|s| (s.level, s.index)).collect::<Vec<_>>(),
        [(1, 511), (2, 511), (3, 511)]
    );
    assert_eq!(steps[0].table.0, regime.root(vttbr) + 0x1000);
}

#[test]
fn a_clear_valid_bit_does_not_hide_anything() {
    let mut machine = Machine::empty();
    machine.domain(1, true);
    let page = machine.s2(0, 0, GUEST, 3, S2_RAM);
    let block = machine.s2(0, 0x20_0000, DOM0, 2, S2_RAM);
    let regime = stage2::Regime::of(VTCR_40).unwrap();
    let vttbr = machine.registers.domains[0].vttbr.0;
    let frames = |machine: &Machine| {
        let walk = stage2::walk(&dump(machine), &regime, vttbr).unwrap();
        let leaves: Vec<_> = walk
            .leaves
            .iter()
            .map(|l| (l.pa, l.level, l.live))
            .collect();
        (leaves, walk.tables.len(), walk.pending)
    };
    assert_eq!(
        frames(&machine),
        (vec![(GUEST, 3, true), (DOM0, 2, true)], 4, 0)
    );
    for entry in [page, block] {
        machine.write(entry, machine.read(entry) & !1);
    }
    assert_eq!(
        frames(&machine),
        (vec![(GUEST, 3, false), (DOM0, 2, false)], 4, 2)
    );
    let root = regime.root(vttbr);
    machine.write(root, machine.read(root) & !1);
    assert_eq!(
        frames(&machine),
        (vec![(GUEST, 3, false), (DOM0, 2, false)], 4, 3)
    );
    machine.write(root, 0);
    assert_eq!(frames(&machine), (vec![], 2, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever pages are mapped, the walk finds exactly those.
    #[test]
    fn finds_what_was_mapped(pages in prop::collection::vec((0u64..1 << 36, 0u64..1024, any::<bool>(), any::<bool>()), 0..40)) {
        let mut machine = Machine::empty();
        let mut model = BTreeMap::new();
        for (page, frame, read_only, no_execute) in pages {
            // Spread over few tables, or memory runs out.
            let va = (page & 0x7_0000_01ff) << 12;
            let pa = RAM + frame * 4096;
            machine.el2(va, pa, 3, AF | if read_only { RO } else { 0 } | if no_execute { XN } else { 0 });
            model.insert(va, (pa, !read_only, !no_execute));
        }
        let (regime, walk) = el2(&machine);
        let found: BTreeMap<_, _> = walk.leaves.iter().map(|l| (l.va, (l.pa, l.writable, l.executable))).collect();
        prop_assert_eq!(found.len(), walk.leaves.len());
        prop_assert_eq!(&found, &model);
        let dump = dump(&machine);
        for (va, (pa, ..)) in model {
            prop_assert_eq!(stage1::translate(&dump, &regime, va + 7), Some(pa + 7));
            prop_assert_eq!(stage1::trace(&dump, &regime, va).len(), 4);
        }
    }

    /// Garbage as tables and as registers: an answer or an error, never a panic.
    #[test]
    fn garbage_never_panics(words in prop::collection::vec(any::<u64>(), 512 * 4), ttbr: u64, tcr: u64, vtcr: u64, near: bool) {
        let mut memory: Vec<u8> = Vec::new();
        for (i, word) in words.iter().enumerate() {
            // Some entries point into the dump, so that there is something to follow.
            let word = if near && i % 32 == 0 { word & 0xfff0_0000_0000_0fff | RAM | (word >> 20 & 3) << 12 } else { *word };
            memory.extend(word.to_le_bytes());
        }
        let dump = Dump::from_bytes(elf(&[(RAM, &memory)], 1)).unwrap();
        let mut cpu = Machine::empty().registers.cpus[0];
        cpu.ttbr0 = Hex(if near { RAM | (ttbr & 0x3fff) } else { ttbr });
        cpu.tcr = Hex(if near { tcr & 0x3f | TCR & !0x3f } else { tcr });
        if let Ok(regime) = stage1::Regime::of(&cpu)
            && let Ok(walk) = stage1::walk(&dump, &regime)
        {
            for leaf in walk.leaves.iter().take(100) {
                prop_assert!(leaf.va >> 48 == 0 && leaf.pa.is_multiple_of(size(leaf.level)));
                let _ = stage1::trace(&dump, &regime, leaf.va);
            }
        }
        if let Ok(regime) = stage2::Regime::of(if near { vtcr & 0xff | VTCR_40 & !0xff } else { vtcr }) {
            let _ = stage2::walk(&dump, &regime, cpu.ttbr0.0);
            let _ = stage2::trace(&dump, &regime, cpu.ttbr0.0, ttbr);
        }
    }
}
