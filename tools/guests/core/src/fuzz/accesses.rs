//! Loads and stores of every width and form, to emulated devices and to
//! nothing (Arm ARM, A64 loads and stores). The address is in x2, data in x1
//! and x3, a status in x4.

use super::event::{Event, Kind, Memory};
use super::place::{ARENA, NOTHING, Place};
use super::random::Random;
use super::values;

/// The form of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One register, unsigned offset 0.
    Single,
    /// One register, and the address moves on.
    PostIndexed,
    /// One register, and the address moves before.
    PreIndexed,
    /// Two registers.
    Pair,
    /// Two registers, and the address moves on.
    PairPostIndexed,
    /// A register of SIMD and floating point.
    Simd,
    /// Two of them.
    SimdPair,
    /// With acquire or release.
    Ordered,
    /// Exclusive.
    Exclusive,
    /// An atomic operation in memory (Armv8.1).
    Atomic,
    /// DC ZVA: a block of zeros.
    Zero,
    /// A prefetch.
    Prefetch,
}

const FORMS: [Form; 16] = [
    Form::Single,
    Form::Single,
    Form::Single,
    Form::Single,
    Form::PostIndexed,
    Form::PostIndexed,
    Form::PreIndexed,
    Form::Pair,
    Form::PairPostIndexed,
    Form::Simd,
    Form::SimdPair,
    Form::Ordered,
    Form::Exclusive,
    Form::Atomic,
    Form::Zero,
    Form::Prefetch,
];

/// Rn is x2, Rt x1.
const REGISTERS: u32 = 2 << 5 | 1;

fn word(form: Form, random: &mut Random) -> u32 {
    let size = random.below(4) as u32;
    let store = random.one_in(2);
    // Loads: zero-extended, or signed to 64 or 32 bits where that exists.
    let opc = if store {
        0
    } else {
        match size {
            3 => 1,
            2 => random.pick(&[1, 2]),
            _ => random.pick(&[1, 2, 3]),
        }
    };
    let load = u32::from(!store);
    let step = random.pick(&[1, 4, 8, 0x1f8, 0x1ff]);
    let base = match form {
        Form::Single => 0x3900_0000 | size << 30 | opc << 22,
        Form::PostIndexed => 0x3800_0400 | size << 30 | opc << 22 | step << 12,
        Form::PreIndexed => 0x3800_0c00 | size << 30 | opc << 22 | step << 12,
        Form::Pair => 0x2900_0000 | (size & 2) << 30 | load << 22 | 3 << 10,
        Form::PairPostIndexed => 0x2880_0000 | (size & 2) << 30 | load << 22 | 1 << 15 | 3 << 10,
        // opc<1> with size 0 is 128 bits.
        Form::Simd => 0x3d00_0000 | size << 30 | load << 22 | (u32::from(size == 0) << 23),
        Form::SimdPair => 0x2d00_0000 | (size % 3) << 30 | load << 22 | 3 << 10,
        Form::Ordered => 0x089f_fc00 | size << 30 | load << 22,
        Form::Exclusive => {
            0x0800_7c00 | size << 30 | load << 22 | if store { 4 << 16 } else { 31 << 16 }
        }
        Form::Atomic => 0x3820_0000 | size << 30 | 3 << 16 | (random.below(9) as u32) << 12,
        Form::Zero => return 0xd50b_7420 | 2,
        Form::Prefetch => return 0xf980_0000 | 2 << 5 | random.below(32) as u32,
    };
    base | REGISTERS
}

/// An access.
pub fn access(place: &Place, random: &mut Random) -> Event {
    let form = random.pick(&FORMS);
    let mut x = [0; 9];
    x[1] = values::odd_number(random);
    x[2] = address(place, random);
    x[3] = values::odd_number(random);
    Event {
        kind: Kind::Access,
        word: word(form, random),
        x,
        number: 0,
        memory: Memory::new(),
    }
}

/// Devices that Xen emulates, nothing, and the arena.
fn address(place: &Place, random: &mut Random) -> u64 {
    let base = match random.below(10) {
        0..4 if place.distributor != 0 => place.distributor + random.below(0x1_0000),
        // The frames of this vCPU and the next ones: 128 KiB each.
        4..7 if place.redistributor != 0 => {
            let frame = random.pick(&[0, 0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000, 0x9_0000]);
            place.redistributor
                + frame
                + random.pick(&[random.clone().below(0x100), random.clone().below(0x1_0000)])
        }
        7 if place.uart != 0 => place.uart + random.below(0x1000),
        8 => NOTHING + random.below(1 << 24),
        _ => place.arena + 0x1000 + random.below(ARENA - 0x2000),
    };
    match random.below(8) {
        0 => base,
        1 => base | 0xffc,
        _ => base & !random.pick(&[3, 7]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_made() {
        let place = super::super::tests::place();
        let words: std::collections::BTreeSet<u32> = (0..20_000)
            .map(|index| access(&place, &mut Random::of(1, 0, 0, index)).word)
            .collect();
        // ldrb w1, [x2]; ldr x1, [x2], #8; ldp x1, x0, [x2] has Rt2 x0: of 32
        // and 64 bits; str q1, [x2]; ldar x1, [x2]; stxr w4, x1, [x2]; dc zva, x2.
        for wanted in [
            0x3940_0041,
            0xf840_8441,
            0x2940_0c41,
            0xa940_0c41,
            0x3d80_0041,
            0xc8df_fc41,
            0xc804_7c41,
            0xd50b_7422,
        ] {
            assert!(words.contains(&wanted), "{wanted:#x}");
        }
        assert!(words.len() > 100);
    }
}
