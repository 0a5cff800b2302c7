//! Reading and re-validating a stage 2 against a model of random leaves, with
//! level-0 and with concatenated level-1 roots.

mod model;

use model::machine::{S2_RAM, Sim};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use xen_vmf::addr::{Mfn, level_pages};
use xen_vmf::extents::Extent;
use xen_vmf::machine::DomainFlags;
use xen_vmf::stage2::{self, Error, Item, Root};

/// A domain with leaves at the given places: chunk of 1 GiB, level, index,
/// type, valid. What does not fit is left out.
fn guest(level: u32, order: u32, leaves: &[(u64, u8, u64, u8, bool)]) -> (Sim, Root, Leaves) {
    let sim = Sim::default();
    sim.memory.add(0);
    sim.memory.next.set(100);
    sim.add_domain(7, DomainFlags::empty(), level, order);
    let root = sim.doms.borrow()[&7].domain.root;
    let mut model = Leaves::new();
    let mut used = BTreeSet::new();
    for &(chunk, at, index, kind, valid) in leaves {
        // One level for each chunk, so that no block is in the way.
        let at = if used.contains(&chunk) { 0 } else { at };
        if at == 0 {
            continue;
        }
        used.insert(chunk);
        let gfn = chunk * level_pages(1);
        for i in [0, index] {
            let gfn = gfn + if at == 1 { 0 } else { i * level_pages(at) };
            let page = if at == 3 { 2 } else { 0 };
            let mfn = 0x10_0000 + gfn;
            let bits = u64::from(kind) << 55 | mfn << 12 | page | u64::from(valid);
            sim.map_guest(&root, gfn, at, bits);
            model.insert(gfn, (mfn, level_pages(at), kind, valid));
        }
    }
    (sim, root, model)
}

type Leaves = BTreeMap<u64, (u64, u64, u8, bool)>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_leaf_and_table_is_seen_whatever_its_valid_bit(
        shape in prop_oneof![Just((0, 0)), Just((1, 0)), Just((1, 1)), Just((1, 3))],
        leaves in prop::collection::vec(
            (0..512u64, 1..4u8, 1..512u64, 1..12u8, any::<bool>()), 0..12),
        clear_tables in any::<bool>(),
    ) {
        let (level, order) = shape;
        // Chunks all over the concatenated tables.
        let spread: Vec<_> = leaves.iter()
            .map(|&(c, l, i, k, v)| (c * (1 << order) + c % (1 << order), l, i, k, v))
            .collect();
        let (sim, root, model) = guest(level, order, &spread);
        let (tables, _) = sim.guest(7);
        let mut pending = model.values().filter(|l| !l.3).count() as u64;
        if clear_tables {
            // As p2m_domain_creation_finished() leaves the root.
            for i in 0..1u64 << order {
                for index in 0..512 {
                    let bits = sim.memory.entry(root.frame.get() + i, index);
                    pending += bits & 1;
                    sim.memory.put(root.frame.get() + i, index, bits & !1);
                }
            }
        }
        for _ in 0..2 {
            let (mut seen, mut found, mut last) = (BTreeSet::new(), Leaves::new(), None);
            stage2::visit(&sim.memory, &root, &mut |item| {
                match item {
                    Item::Table(frame) => assert!(seen.insert(frame.get()), "twice"),
                    Item::Leaf(l) => {
                        assert!(last < Some(l.gfn), "order");
                        last = Some(l.gfn);
                        found.insert(l.gfn.get(), (l.mfn.get(), l.pages, l.p2m_type as u8, false));
                    }
                }
                Ok::<(), Infallible>(())
            }).expect("no error");
            prop_assert_eq!(&seen, &tables);
            let mut expected = model.clone();
            expected.values_mut().for_each(|l| l.3 = false);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(stage2::settle(&sim.memory, &root, &|_| false), pending);
            pending = 0;
            prop_assert!(sim.guest(7).1.iter().all(|l| l.bits & 1 == 1));
        }
    }
}

#[test]
fn an_unknown_type_is_an_error() {
    for kind in 12..16 {
        let (sim, root, _) = guest(1, 1, &[(700, 3, 4, kind, true)]);
        let result = stage2::visit(&sim.memory, &root, &mut |_| Ok::<(), ()>(()));
        assert_eq!(result, Err(Error::UnknownType(kind)));
    }
}

#[test]
fn an_error_of_the_visitor_ends_the_walk() {
    let (sim, root, _) = guest(0, 0, &[(3, 3, 4, 1, true)]);
    let mut calls = 0;
    let result = stage2::visit(&sim.memory, &root, &mut |_| {
        calls += 1;
        Err("enough")
    });
    assert_eq!((result, calls), (Err(Error::Visitor("enough")), 1));
}

#[test]
fn a_table_becomes_valid_after_what_hangs_on_it() {
    let (sim, root, _) = guest(0, 0, &[]);
    sim.map_guest(&root, 5, 3, S2_RAM & !1 | 0x5000);
    let (tables, _) = sim.guest(7);
    for &table in &tables {
        let bits = sim.memory.entry(table, 0);
        sim.memory.put(table, 0, bits & !1);
    }
    assert_eq!(stage2::settle(&sim.memory, &root, &|_| false), 4);
    let written: Vec<u64> = sim
        .ops()
        .iter()
        .map(|op| match op {
            model::Op::Write { frame, .. } => *frame,
            other => panic!("{other:?}"),
        })
        .collect();
    // Tables were allocated from the root down.
    let down: Vec<u64> = tables.into_iter().rev().collect();
    assert_eq!(written, down);
}

#[test]
fn what_is_forbidden_is_executed_no_more() {
    let (sim, root, _) = guest(0, 0, &[]);
    for (gfn, mfn) in [(5, 0x5000), (6, 0x6000), (7, 0x7000)] {
        sim.map_guest(&root, gfn, 3, S2_RAM | mfn);
    }
    // As Xen leaves it without FEAT_XNX, and with.
    sim.map_guest(&root, 8, 3, S2_RAM | 0x6000 | 1 << 53);
    let before: Vec<u64> = sim.guest(7).1.iter().map(|l| l.bits).collect();
    let forbidden = Extent::new(Mfn::new(6), 1);
    assert_eq!(
        stage2::settle(&sim.memory, &root, &|frames| {
            forbidden.overlap(frames) != 0
        }),
        2
    );
    for (leaf, old) in sim.guest(7).1.iter().zip(before) {
        let wanted = match leaf.bits >> 12 & 0xf {
            6 => old & !(1 << 53) | 1 << 54,
            _ => old,
        };
        assert_eq!(leaf.bits, wanted);
    }
    assert_eq!(
        stage2::settle(&sim.memory, &root, &|frames| {
            forbidden.overlap(frames) != 0
        }),
        0
    );
}
