//! The encodings against a reference: the decoder and the register names of `disarm64`, which are made from GNU
//! binutils' tables.

use disarm64::decoder;
use std::collections::BTreeMap;
use vmf_audit::instructions::{Effect, REGISTERS, classify};

/// Mnemonic and first operand, as the reference sees it.
fn reference(word: u32) -> Option<(String, String)> {
    let text = decoder::decode(word)?.to_string();
    let mut parts = text.split(['\t', ',']).filter(|p| !p.is_empty());
    let part = |p: Option<&str>| p.unwrap_or_default().trim().to_ascii_uppercase();
    Some((part(parts.next()), part(parts.next())))
}

/// Every write of a system register, by its encoding; with register 0 as the source.
fn writes(base: u32) -> impl Iterator<Item = u32> {
    (0..1u32 << 15).map(move |register| base | 1 << 20 | 1 << 19 | register << 5)
}

#[test]
fn each_register_is_the_one_that_the_reference_names() {
    let mut seen = BTreeMap::new();
    for word in writes(0xd500_0000) {
        let Some(found) = classify(word) else {
            continue;
        };
        let (mnemonic, register) = reference(word).expect("a write of a register");
        assert_eq!(mnemonic, "MSR", "{word:#x}");
        let ours = found.name.strip_prefix("MSR ").expect("MSR");
        if ours.starts_with("S3_") {
            continue; // named by its encoding: nothing to compare
        }
        assert_eq!(ours, register, "{word:#x}");
        seen.insert(ours.to_owned(), word);
    }
    for (name, ..) in REGISTERS {
        assert!(seen.contains_key(*name), "{name} is in no encoding");
    }
}

/// The other direction: whatever the reference calls a translation register is one here.
#[test]
fn no_register_that_controls_translation_is_missing() {
    let kinds = [
        "TTBR", "SCTLR", "TCR", "MAIR", "HCR_EL2", "HCRX", "VBAR", "PIR", "POR_", "GCSCR",
        "MECID_", "VNCR", "ACTLR", "RCW",
    ];
    // The same letters, in names of other kinds; what is EL0's alone, or read-only.
    let others = [
        "MPIDR", "MPAM", "SPSR", "ICC_", "ICH_", "HPPIR", "TRBTRG", "MDCR", "TRC", "GCSCRE0",
        "RVBAR",
    ];
    let mut found = 0;
    for word in writes(0xd500_0000) {
        let Some((_, register)) = reference(word) else {
            continue;
        };
        let exception_level = register.rsplit('_').next().unwrap_or_default();
        if !["EL1", "EL2", "EL12"].contains(&exception_level)
            || !kinds.iter().any(|k| register.contains(k))
            || others.iter().any(|o| register.contains(o))
        {
            continue;
        }
        found += 1;
        assert!(
            classify(word).is_some_and(|i| i.name == format!("MSR {register}")),
            "{register}, {word:#x}"
        );
    }
    assert!(found > 50, "the reference named only {found}");
}

/// All of the space for exceptions, and system instructions with every register encoding, for both widths and
/// directions.
#[test]
fn other_instructions_are_what_the_reference_takes_them_for() {
    let mut counts = BTreeMap::new();
    let exceptions = (0..8u32).flat_map(|opc| (0..32).map(move |ll| 0xd400_0000 | opc << 21 | ll));
    let with_immediate = exceptions.flat_map(|w| [w, w | 0x1234 << 5, w | 0xffff << 5]);
    let returns = (0..1 << 17).map(|low| 0xd680_0000 | low << 5);
    let system = (0..1u32 << 18).map(|r| 0xd500_0000 | (r & 0xffff) << 5 | (r >> 16) << 21);
    for word in with_immediate.chain(returns).chain(system) {
        let Some((mnemonic, operand)) = reference(word) else {
            continue;
        };
        let ours = classify(word);
        let expected = match mnemonic.as_str() {
            "SMC" | "HVC" | "ERET" | "ERETAA" | "ERETAB" | "DRPS" => Some(mnemonic.clone()),
            "MSR" | "MSRR" => ours.as_ref().map(|_| format!("{mnemonic} {operand}")),
            "TLBI" | "TLBIP" => Some("TLBI".to_owned()),
            _ => None,
        };
        let Some(expected) = expected else {
            // An alias that the reference does not use, or nothing.
            let known = [Effect::Maintenance, Effect::ImplementationDefined];
            assert!(
                ours.as_ref().is_none_or(|i| known.contains(&i.effect)),
                "{word:#x} is {mnemonic} {operand}, not {ours:?}"
            );
            continue;
        };
        let Some(ours) = ours else {
            panic!("{word:#x} is {expected}, and was passed over");
        };
        if !ours.name.contains("S3_") {
            assert_eq!(ours.name, expected, "{word:#x}");
        }
        *counts.entry(mnemonic).or_insert(0) += 1;
    }
    for mnemonic in ["SMC", "HVC", "ERET", "MSR", "MSRR"] {
        assert!(
            counts.get(mnemonic).is_some_and(|&n| n > 0),
            "{mnemonic}: {counts:?}"
        );
    }
}
