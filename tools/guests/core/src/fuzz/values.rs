//! Values of fields: numbers that mean something to Xen, and some that do not.

use super::place::{ARENA, NOTHING, Place, Role};
use super::random::Random;

/// What a field of a structure, or an argument register, holds.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// Just this.
    Is(u64),
    /// One of these.
    OneOf(&'static [u64]),
    /// A number below this.
    Below(u64),
    /// Any of these bits.
    Bits(u64),
    /// Anything.
    Any,
    /// A domain.
    Domain,
    /// A frame of the guest, or what is none.
    Frame,
    /// log2 of a number of pages.
    Order,
    /// A vCPU.
    Vcpu,
    /// An event channel, a grant reference, a grant handle: a small number.
    Small,
    /// The address of the structure itself.
    Structure,
    /// The number of structures.
    Count,
    /// An address with room for an answer.
    Room,
    /// The address of a list of up to six, each of 64 bits.
    List(&'static Field),
    /// The address of this text, of up to 15 characters.
    Text(&'static [&'static str]),
    /// The length of a text.
    Length,
    /// A time in nanoseconds that is over.
    Past,
}

/// DOMID_SELF, _IO, _XEN, _COW, _INVALID, _IDLE, and the first that is none
/// (public/xen.h).
const SPECIAL_DOMAINS: [u64; 7] = [0x7ff0, 0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4, 0x7fff, 0x7fef];
/// DOMID_SELF.
pub const SELF: u64 = 0x7ff0;

/// Numbers at which something may overflow.
pub fn odd_number(random: &mut Random) -> u64 {
    let edge = random.pick(&[
        0,
        1,
        7,
        8,
        0x7f,
        0xff,
        0x3ff,
        0xfff,
        0x1000,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 32,
        1 << 40,
        1 << 44,
        (1 << 48) - 1,
        (1 << 52) - 1,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
    ]);
    let number = match random.below(4) {
        0 => edge,
        1 => edge.wrapping_add(random.below(16)),
        2 => edge.wrapping_sub(random.below(16)),
        _ => random.bits() >> random.below(64),
    };
    // Where RAM is, and its frames, only the arena may be hit.
    if (0x4000_0000..0x7fff_f000).contains(&number) || (0x4_0000..0x8_0000).contains(&number) {
        number << 24
    } else {
        number
    }
}

/// A domain's id.
pub fn domain(place: &Place, random: &mut Random) -> u64 {
    match random.below(16) {
        0..7 => SELF,
        7 if place.role == Role::Control => 0,
        8..11 => u64::from(place.prey),
        11 => u64::from(place.sentinel),
        12 => random.pick(&SPECIAL_DOMAINS),
        13 => random.below(8),
        14 => random.below(0x1_0000),
        _ => u64::from(place.prey) + 1,
    }
}

/// A frame that the guest can lose, one that it does not have, one of its
/// devices, or nonsense.
pub fn frame(place: &Place, random: &mut Random) -> u64 {
    match random.below(12) {
        0..6 => (place.arena >> 12) + random.below(ARENA >> 12),
        6 => place.arena >> 12,
        7 => (NOTHING >> 12) + random.below(64),
        8 => place.distributor >> 12,
        // GUEST_GNTTAB_BASE (public/arch-arm.h).
        9 => 0x3_8000 + random.below(16),
        10 => 0x8_0000_0000 + random.below(64),
        _ => odd_number(random),
    }
}

/// An address: in the arena, aligned or not, read-only, of a device, unmapped
/// at stage 2 or stage 1, not canonical.
pub fn address(place: &Place, random: &mut Random) -> u64 {
    let arena = place.arena + random.below(ARENA);
    match random.below(16) {
        0..4 => arena & !7,
        4 => arena,
        // Across the end of a page.
        5 => (arena | 0xfff).wrapping_sub(random.below(24)),
        6 => place.arena + ARENA - random.below(16),
        7 => place.image & !0xfff | random.below(0x1000),
        8 => place.distributor + random.below(0x1000),
        9 => place.uart + random.below(0x1000),
        10 => NOTHING + random.below(0x10_0000),
        11 => 0,
        12 => 0xffff_0000_0000_0000 | arena,
        13 => 0x80_0000_0000 | random.below(1 << 38),
        14 => 0x5a5a_0000_0000_0000 | arena,
        _ => 0xffff_ffff_ffff_ffff - random.below(64),
    }
}

/// Where the spare vCPU and the others may be, and some that are none.
pub fn vcpu(place: &Place, random: &mut Random) -> u64 {
    match random.below(8) {
        0..4 => place.spare,
        4 => 0,
        5 => place.vcpu,
        6 => random.below(16),
        _ => odd_number(random),
    }
}
