//! Machines, files and registers with random damage. Whatever it is, the audit ends, and never panics; and where the
//! damage makes protected memory or a table reachable, by the reckoning of a few lines here, it never says "holds".

mod common;
use common::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use vmf_audit::dump::Dump;
use vmf_audit::registers::Registers;
use vmf_audit::report::{Level, Verdict};

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// What lies below a table: frames of RAM, and frames with tables.
#[derive(Default)]
struct Reached {
    frames: BTreeSet<u64>,
    tables: BTreeSet<u64>,
    visits: usize,
}

impl Reached {
    /// `pending`: entries count although their valid bit is clear. Nothing if there is no end.
    fn below(&mut self, m: &Machine, table: u64, level: u32, pending: bool) -> Option<()> {
        let inside = |pa: u64| (RAM..RAM + RAM_SIZE).contains(&pa);
        self.visits += 1;
        if self.visits > 3000 || !inside(table) {
            return (!inside(table)).then_some(());
        }
        self.tables.insert(table >> 12);
        for i in 0..512 {
            let d = m.read(table + 8 * i);
            if d == 0 || d & 1 == 0 && !pending {
                continue;
            }
            if level < 3 && d & 2 != 0 {
                self.below(m, d & ADDRESS, level + 1, pending)?;
            } else if level > 0 && (level == 3) == (d & 2 != 0) {
                let size = 4096u64 << (9 * (3 - level));
                let start = (d & ADDRESS & !(size - 1)).max(RAM);
                let end = (d & ADDRESS & !(size - 1))
                    .saturating_add(size)
                    .min(RAM + RAM_SIZE);
                self.frames
                    .extend((start..end).step_by(4096).map(|pa| pa >> 12));
            }
        }
        Some(())
    }
}

/// Whether EL2 or dom0 reach what d1 has, or a table; nothing if the tables have no end.
fn broken(m: &Machine) -> Option<bool> {
    let mut el2 = Reached::default();
    el2.below(m, m.registers.cpus[0].ttbr0.0, 0, false)?;
    let mut guests = Vec::new();
    for domain in &m.registers.domains {
        let mut guest = Reached::default();
        for half in [0, 4096] {
            guest.below(m, (domain.vttbr.0 & ADDRESS) + half, 1, true)?;
        }
        guests.push(guest);
    }
    let (dom0, protected) = (&guests[0], &guests[1]);
    let tables = || {
        el2.tables
            .iter()
            .chain(&dom0.tables)
            .chain(&protected.tables)
    };
    let bad = |frame| el2.frames.contains(frame) || dom0.frames.contains(frame);
    Some(protected.frames.iter().any(bad) || tables().any(bad))
}

/// A change to an entry of one of the machine's tables.
#[derive(Clone, Debug)]
enum Change {
    /// Flips a bit.
    Flip(u32),
    /// Maps a frame, by its offset in RAM.
    Map(u64, u64),
    /// Makes it point to a table.
    Table(u64),
}

fn change() -> impl Strategy<Value = Change> {
    let frame = prop_oneof![0u64..8, 1024u64..1040, 4075u64..4096, 0u64..4096];
    let attributes = prop_oneof![
        Just(RW),
        Just(R),
        Just(RX),
        Just(S2_RAM),
        any::<u64>().prop_map(|a| a & !ADDRESS)
    ];
    prop_oneof![
        (0u32..64).prop_map(Change::Flip),
        (frame.clone(), attributes).prop_map(|(f, a)| Change::Map(f, a)),
        frame.prop_map(Change::Table),
    ]
}

/// The entries of the machine's tables that are in use, and one beside each.
fn entries(m: &Machine) -> Vec<u64> {
    let top = (RAM + RAM_SIZE - 24 * 4096..RAM + RAM_SIZE).step_by(8);
    top.filter(|&at| m.read(at) != 0)
        .flat_map(|at| [at, at ^ 8])
        .collect()
}

fn verdict(m: &Machine, level: Level) -> Option<Verdict> {
    Some(m.audit().ok()?.check(level).verdict)
}

#[test]
fn the_reckoning_tells_a_whole_machine_from_a_broken_one() {
    let mut m = Machine::locked();
    assert_eq!(broken(&m), Some(false));
    m.el2(DIRECTMAP, GUEST, 2, R);
    assert_eq!(broken(&m), Some(true));
    let mut m = Machine::locked();
    m.s2(0, 0, m.registers.cpus[0].ttbr0.0, 3, S2_RAM);
    assert_eq!(broken(&m), Some(true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Damaged tables.
    #[test]
    fn damage_that_matters_never_holds(changes in prop::collection::vec((any::<prop::sample::Index>(), change()), 1..5)) {
        let mut m = Machine::locked();
        let entries = entries(&m);
        for (at, change) in changes {
            let at = entries[at.index(entries.len())];
            let value = match change {
                Change::Flip(bit) => m.read(at) ^ 1 << bit,
                Change::Map(frame, attributes) => (RAM + frame * 4096) | attributes | 3,
                Change::Table(frame) => (RAM + frame * 4096) | 3,
            };
            m.write(at, value);
        }
        for level in [Level::Unmap, Level::Lock, Level::Seal] {
            let verdict = verdict(&m, level);
            if level >= Level::Lock && broken(&m) == Some(true) {
                prop_assert_ne!(verdict, Some(Verdict::Holds));
            }
        }
    }

    /// A dump that ends early is never a dump.
    #[test]
    fn a_cut_dump_is_refused(cut in any::<prop::sample::Index>()) {
        let whole = elf(&[(RAM, &vec![0xa5; 64 << 10]), (RAM << 1, &vec![0x5a; 64 << 10])], 2);
        prop_assert!(Dump::from_bytes(whole.clone()).is_ok());
        prop_assert!(Dump::from_bytes(whole[..cut.index(whole.len())].to_vec()).is_err());
    }

    /// Registers with a value that is anything.
    #[test]
    fn strange_registers_never_panic(which in 0usize..8, value in any::<u64>(), mask in any::<u64>(), everywhere in any::<bool>()) {
        let mut m = Machine::sealed();
        if everywhere {
            m.cpu();
        }
        let c = &mut m.registers.cpus[0];
        let register = [
            &mut c.ttbr0, &mut c.tcr, &mut c.sctlr, &mut c.mair, &mut c.vttbr, &mut c.vtcr, &mut c.hcr, &mut c.vbar,
        ];
        let register = register.into_iter().nth(which).unwrap();
        register.0 ^= value & mask & mask.rotate_left(17);
        if let Ok(audit) = m.audit() {
            let _ = audit.check(Level::Seal);
            let _ = audit.spaces();
        }
    }

    /// Text that is nearly a registers file.
    #[test]
    fn damaged_registers_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut text = serde_json::to_vec(&Machine::locked().registers).unwrap();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let _ = Registers::parse(&String::from_utf8_lossy(&text));
    }
}
