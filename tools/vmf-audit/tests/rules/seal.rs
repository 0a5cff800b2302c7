//! What breaks a sealed machine. Rules S1 to S6.

use crate::Fault;
use crate::common::*;

/// What breaks a sealed machine.
pub const FAULTS: &[(&str, Fault, &[&str])] = &[
    ("MSR TTBR0_EL2", |m| m.code(0x40, 0xd51c_2000), &["S1"]),
    ("MSR SCTLR_EL2", |m| m.code(0xffc, 0xd51c_1000), &["S1"]),
    ("MSRR VTTBR_EL2", |m| m.code(0x40, 0xd55c_2100), &["S1"]),
    ("MSR VBAR_EL2", |m| m.code(0x40, 0xd51c_c00a), &["S1"]),
    ("MSR TPIDR_EL2", |m| m.code(0x40, 0xd51c_d040), &["S1"]),
    ("SMC #0", |m| m.code(0x40, 0xd400_0003), &["S2"]),
    ("SMC #7", |m| m.code(0x40, 0xd400_00e3), &["S2"]),
    (
        "a second gate for VTTBR_EL2",
        |m| m.code(0x40, 0xd51c_2105),
        &["S3"],
    ),
    (
        "a second gate for HCR_EL2",
        |m| m.code(0x40, 0xd51c_1105),
        &["S4"],
    ),
    (
        "a register that only the CPU's maker knows",
        |m| m.code(0x40, 0xd518_f200),
        &["S5"],
    ),
    (
        "data that can be executed",
        |m| {
            m.el2(TEXT_VA + 0x1000, DATA, 3, RX);
        },
        &["S6"],
    ),
    (
        "text that can be executed at a second address",
        |m| {
            m.el2(DIRECTMAP, TEXT, 3, RX);
        },
        &["S6"],
    ),
    (
        "an SMC in data that can be executed",
        |m| {
            m.el2(DIRECTMAP, SPARE, 3, RX);
            m.write(SPARE + 0x10, 0xd400_0003 << 32);
        },
        &["S2", "S6"],
    ),
];
