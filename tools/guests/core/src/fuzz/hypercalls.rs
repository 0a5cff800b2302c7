//! The grammar of hypercalls: numbers, sub-commands, structures (Xen's
//! include/public and include/hypercall-defs.c).

use super::event::{Event, Kind, Memory};
use super::place::{Place, Role};
use super::random::Random;
use super::tables::{CONTROL, EVERYBODY, Op, VMF};
use super::values::{self, Field};

/// `hvc #0xea1`.
pub const HVC: u32 = 0xd400_0002 | 0xea1 << 5;
/// `__HYPERVISOR_multicall`.
pub const MULTICALL: u64 = 13;
/// `struct multicall_entry`: op, result, six arguments.
const ENTRY: usize = 64;
/// Bytes between the structures of two calls.
pub const STRUCTURES: usize = 192;
/// From a structure to the lists that it points to.
const LISTS: usize = 96;
/// Numbers in a list.
const LIST: usize = 6;

/// A hypercall whose structures are at `base` of the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// x16.
    pub number: u64,
    /// x0 to x4.
    pub x: [u64; 5],
    /// Where its structures begin in the page.
    pub base: usize,
}

/// A hypercall, or several in one.
pub fn hypercall(place: &Place, random: &mut Random) -> Event {
    let mut memory = Memory::new();
    let call = if random.one_in(24) {
        multicall(place, random, &mut memory)
    } else {
        call(place, random, &mut memory, 0)
    };
    let mut x = [0; 9];
    x[..5].copy_from_slice(&call.x);
    Event {
        kind: Kind::Hypercall,
        word: HVC,
        x,
        number: call.number,
        memory,
    }
}

fn multicall(place: &Place, random: &mut Random, memory: &mut Memory) -> Call {
    let calls = 1 + random.below(3) as usize;
    for index in 0..calls {
        let entry = index * ENTRY;
        let call = call(place, random, memory, STRUCTURES * (index + 1));
        memory.put(entry, 8, call.number);
        for (argument, value) in call.x.into_iter().enumerate() {
            memory.put(entry + 16 + argument * 8, 8, value);
        }
    }
    let mut calls = calls as u64;
    if random.one_in(16) {
        calls = values::odd_number(random);
    }
    Call {
        number: MULTICALL,
        x: [place.page, calls, 0, 0, 0],
        base: 0,
    }
}

/// One call, by the tables or by chance.
fn call(place: &Place, random: &mut Random, memory: &mut Memory, base: usize) -> Call {
    if random.one_in(16) {
        return by_chance(place, random, base);
    }
    let op = if random.one_in(48) {
        random.pick(VMF)
    } else if place.role == Role::Control && random.one_in(2) || random.one_in(24) {
        random.pick(CONTROL)
    } else {
        random.pick(EVERYBODY)
    };
    by_table(&op, place, random, memory, base)
}

/// Every number, with arguments that mean nothing together.
fn by_chance(place: &Place, random: &mut Random, base: usize) -> Call {
    let number = match random.below(8) {
        0 => values::odd_number(random),
        _ => random.below(64),
    };
    let argument = |random: &mut Random| match random.below(4) {
        0 => random.below(48),
        1 => place.page + base as u64,
        2 => values::address(place, random),
        _ => values::odd_number(random),
    };
    let mut x = [0; 5];
    for slot in &mut x {
        *slot = argument(random);
    }
    Call { number, x, base }
}

fn by_table(op: &Op, place: &Place, random: &mut Random, memory: &mut Memory, base: usize) -> Call {
    let count = if op.stride == 0 {
        1
    } else {
        1 + random.below(2)
    };
    let mut maker = Maker {
        place,
        random,
        memory,
        base,
        lists: base + LISTS,
        count,
    };
    for index in 0..count as usize {
        for part in op.structure {
            let value = maker.value(part.2);
            let at = base + index * op.stride + part.0;
            maker.memory.put(at, part.1, value);
        }
    }
    let mut x = [0; 5];
    for (slot, field) in x.iter_mut().zip(op.registers) {
        *slot = maker.value(*field);
    }
    // One field that is wrong, now and then.
    if maker.random.one_in(8) && !op.structure.is_empty() {
        let part = maker.random.pick(op.structure);
        let value = values::odd_number(maker.random);
        maker.memory.put(base + part.0, part.1, value);
    }
    if maker.random.one_in(16) {
        let at = maker.random.below(5) as usize;
        x[at] = match maker.random.below(2) {
            0 => values::odd_number(maker.random),
            _ => values::address(place, maker.random),
        };
    }
    let number = op.number;
    Call { number, x, base }
}

/// Makes the values of one call.
struct Maker<'a> {
    place: &'a Place,
    random: &'a mut Random,
    memory: &'a mut Memory,
    base: usize,
    lists: usize,
    count: u64,
}

impl Maker<'_> {
    fn value(&mut self, field: Field) -> u64 {
        let random = &mut *self.random;
        match field {
            Field::Is(value) => value,
            Field::OneOf(values) => random.pick(values),
            Field::Below(bound) => random.below(bound),
            Field::Bits(bits) => random.bits() & random.bits() & bits,
            Field::Any => values::odd_number(random),
            Field::Domain => values::domain(self.place, random),
            Field::Frame => values::frame(self.place, random),
            Field::Order => random.pick(&[0, 0, 0, 0, 1, 2, 9, 9, 10, 18, 63]),
            Field::Vcpu => values::vcpu(self.place, random),
            Field::Small => random.below(12),
            Field::Structure => match random.below(12) {
                0 => values::address(self.place, random),
                _ => self.place.page + self.base as u64,
            },
            Field::Count => self.count,
            Field::Room => match random.below(3) {
                0 => values::address(self.place, random),
                _ => self.place.arena + random.below(64) * 4096,
            },
            Field::List(of) => {
                let at = self.lists;
                for index in 0..LIST {
                    let value = self.value(*of);
                    self.memory.put(at + index * 8, 8, value);
                }
                // A second list follows the first, a third takes its place.
                self.lists =
                    self.base + LISTS + (at - self.base - LISTS + LIST * 8) % (2 * LIST * 8);
                self.place.page + at as u64
            }
            Field::Text(texts) => {
                let text = random.pick(texts);
                for (index, byte) in text.bytes().chain([0]).take(16).enumerate() {
                    self.memory.put(self.lists + index, 1, byte.into());
                }
                self.place.page + self.lists as u64
            }
            Field::Length => random.below(17),
            Field::Past => 1 + random.below(1_000_000),
        }
    }
}

/// The calls that an event makes: one, or those of a multicall.
pub fn calls(place: &Place, event: &Event, mut each: impl FnMut(&Call)) {
    let mut x = [0; 5];
    x.copy_from_slice(&event.x[..5]);
    each(&Call {
        number: event.number,
        x,
        base: 0,
    });
    if event.number == MULTICALL && x[0] == place.page {
        for index in 0..3 {
            let entry = index * ENTRY;
            let mut x = [0; 5];
            for (argument, slot) in x.iter_mut().enumerate() {
                *slot = event.memory.get(entry + 16 + argument * 8, 8);
            }
            each(&Call {
                number: event.memory.get(entry, 8),
                x,
                base: STRUCTURES * (index + 1),
            });
        }
    }
}
