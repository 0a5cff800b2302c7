//! Calls of firmware by HVC and SMC: PSCI, the SMC calling convention, and
//! every immediate.

use super::event::{Event, Kind, Memory};
use super::place::Place;
use super::random::Random;
use super::values;

/// `hvc #0`.
pub const HVC: u32 = 0xd400_0002;
/// `smc #0`.
pub const SMC: u32 = 0xd400_0003;

/// A call.
pub fn call(place: &Place, random: &mut Random) -> Event {
    let instruction = random.pick(&[HVC, SMC]);
    let immediate = if random.one_in(8) {
        let any = random.below(0x1_0000) as u32;
        // That one is a hypercall.
        if any == 0xea1 { 0 } else { any }
    } else {
        0
    };
    let mut x = [0; 9];
    for slot in &mut x {
        *slot = values::odd_number(random);
    }
    x[0] = function(random);
    match random.below(4) {
        // CPU_ON of the spare vCPU, which switches itself off again.
        0 => {
            x[0] = random.pick(&[0xc400_0003, 0x8400_0003, 2]);
            x[1] = place.spare;
            x[2] = place.spare_entry;
        }
        1 => x[1] = values::vcpu(place, random),
        2 => x[1] = function(random),
        _ => {}
    }
    Event {
        kind: Kind::Call,
        word: instruction | immediate << 5,
        x,
        number: values::odd_number(random),
        memory: Memory::new(),
    }
}

/// A function's id: fast or not, 32 or 64 bits, each owner.
fn function(random: &mut Random) -> u64 {
    let owner = random.pick(&[0, 1, 2, 3, 4, 4, 4, 5, 6, 30, 48, 50, 63]) << 24;
    let kind = random.pick(&[0, 1 << 30, 1 << 31, 3 << 30, 3 << 30]);
    let number = match random.below(6) {
        0..3 => random.below(0x20),
        // FF-A, and what each owner says of itself.
        3 => 0x60 + random.below(0x30),
        4 => random.pick(&[0xff00, 0xff01, 0xff03, 0x8000, 0x7fff, 0x3fff]),
        _ => random.below(0x1_0000),
    };
    match random.below(16) {
        0 => values::odd_number(random),
        1 => random.below(0x1_0000),
        _ => kind | owner | number,
    }
}
