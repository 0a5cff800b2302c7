//! The reader of dumps: banks, clear errors for what is no dump, and no panic on anything.

mod common;
use common::*;
use proptest::prelude::*;
use vmf_audit::dump::Dump;

fn error(bytes: Vec<u8>) -> String {
    match Dump::from_bytes(bytes) {
        Ok(_) => panic!("it was taken for a dump"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn two_banks() {
    let (low, high) = (vec![1; 8192], vec![2; 4096]);
    let dump = Dump::from_bytes(elf(&[(0x8_0000_0000, &high), (0x4000_0000, &low)], 4)).unwrap();
    assert_eq!((dump.cpus(), dump.frames()), (4, 3));
    assert_eq!(
        dump.banks().collect::<Vec<_>>(),
        [(0x4000_0000, 8192), (0x8_0000_0000, 4096)]
    );
    assert_eq!(dump.word(0x4000_1ff8), Some(0x0101_0101_0101_0101));
    assert_eq!(dump.word(0x8_0000_0000), Some(0x0202_0202_0202_0202));
    for outside in [
        0,
        0x3fff_f000,
        0x4000_1ff9,
        0x4000_2000,
        0x8_0000_1000,
        u64::MAX,
    ] {
        assert_eq!(dump.word(outside), None, "{outside:#x}");
    }
    let index = |mfn| dump.frame_index(mfn);
    assert_eq!(
        [
            index(0x3ffff),
            index(0x40000),
            index(0x40001),
            index(0x40002)
        ],
        [None, Some(0), Some(1), None]
    );
    assert_eq!(
        [index(0x80_0000), index(0x80_0001), index(u64::MAX)],
        [Some(2), None, None]
    );
    assert_eq!(
        dump.ram_within(0, u64::MAX).collect::<Vec<_>>(),
        [(0x40000, 0, 2), (0x80_0000, 2, 1)]
    );
    assert_eq!(
        dump.ram_within(0x4000_1000, 0x1000).collect::<Vec<_>>(),
        [(0x40001, 1, 1)]
    );
    assert_eq!(dump.ram_within(0x5000_0000, 0x1000).count(), 0);
}

#[test]
fn what_is_no_dump_is_refused_in_words() {
    let memory = vec![0; 4096];
    let good = elf(&[(RAM, &memory)], 1);
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let load = 64 + 56;
    let text = |bytes| error(bytes).to_owned();
    assert!(text(vec![]).contains("no ELF file"));
    assert!(text(b"MZ is something else".to_vec()).contains("no ELF file"));
    assert!(text(good[..40].to_vec()).contains("no 64-bit ELF file"));
    assert!(text(good[..100].to_vec()).contains("cut off"));
    assert!(text(good[..good.len() - 1].to_vec()).contains("truncated: bank 0x40000000"));
    assert!(text(with(4, &[1])).contains("no 64-bit ELF file"));
    assert!(text(with(18, &[62])).contains("another architecture (ELF machine 62)"));
    assert!(text(with(16, &[2])).contains("no core dump"));
    assert!(text(with(load, &[6])).contains("holds no memory"));
    assert!(text(with(load + 24, &[8])).contains("whole frames"));
    assert!(text(with(load + 40, &[0, 0x20])).contains("filtered"));
    assert!(text(with(load + 8, &[0xff; 8])).contains("truncated"));
    assert!(error(elf(&[(RAM, &memory), (RAM, &memory)], 1)).contains("overlap"));
}

proptest! {
    /// A dump with some bytes of its headers changed is read or refused.
    #[test]
    fn changed_headers_never_panic(changes in prop::collection::vec((0usize..900, any::<u8>()), 1..8), cut in 0usize..6000) {
        let mut bytes = elf(&[(RAM, &vec![0; 4096])], 2);
        for (at, byte) in changes {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(3000)));
        if let Ok(dump) = Dump::from_bytes(bytes) {
            for (start, len) in dump.banks().collect::<Vec<_>>() {
                prop_assert!(dump.word(start).is_some() && dump.word(start + len - 8).is_some());
            }
        }
    }

    /// Arbitrary bytes after the magic number.
    #[test]
    fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend(tail);
        let _ = Dump::from_bytes(bytes);
    }
}
