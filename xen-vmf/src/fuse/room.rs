//! Room for a plan: for its edits, and the tables that it may link.
//!
//! It is there before the machine stops. How much a plan takes is known when it
//! has been made; so there is first what usually suffices, and as much as a
//! dry run has counted only for a plan that did not fit.

use crate::addr::Mfn;
use crate::buffer::Buffer;
use crate::error::Error;
use crate::machine::Machine;
use crate::plan::{Count, Edit};

/// Edits that usually suffice: for 2 GiB in blocks of 2 MiB, and 128 GICv3
/// redistributors page by page.
const EDITS: usize = 3072;
/// Tables that usually suffice: where memory begins or ends within a few blocks.
const TABLES: usize = 8;

/// The room. It has to be given back with [`Room::free`].
#[derive(Debug, Default)]
#[must_use]
pub struct Room {
    edits: Buffer<Edit>,
    tables: Buffer<Mfn>,
    /// How many of `tables`, from the front, are still unused.
    unused: usize,
    /// How many after them the plan has linked.
    linked: usize,
}

impl Room {
    /// As much as usually suffices.
    pub fn usual<M: Machine>(machine: &M) -> Result<Self, Error> {
        Self::new(machine, EDITS, TABLES)
    }

    /// As much as a dry run took, and a little more.
    pub fn counted<M: Machine>(machine: &M, count: &Count) -> Result<Self, Error> {
        Self::new(
            machine,
            count.edits + count.edits / 8 + 64,
            count.tables + count.tables / 8 + 4,
        )
    }

    fn new<M: Machine>(machine: &M, edits: usize, tables: usize) -> Result<Self, Error> {
        let mut room = Self::default();
        match room.allocate(machine, edits, tables) {
            Ok(()) => Ok(room),
            Err(e) => {
                room.free(machine);
                Err(e)
            }
        }
    }

    fn allocate<M: Machine>(
        &mut self,
        machine: &M,
        edits: usize,
        tables: usize,
    ) -> Result<(), Error> {
        self.edits = Buffer::new(machine, edits)?;
        // Tables allocated here are tables too, but nothing maps them at
        // first: they are judged when they are linked.
        self.tables = Buffer::new(machine, tables)?;
        for slot in self.tables.items() {
            *slot = machine.alloc_table().ok_or(Error::NoMemory)?;
            self.unused += 1;
        }
        Ok(())
    }

    /// Where the edits go, and the tables that are unused.
    pub fn parts(&mut self) -> (&mut [Edit], &[Mfn]) {
        let Self {
            edits,
            tables,
            unused,
            ..
        } = self;
        (edits.items(), &tables.items()[..*unused])
    }

    /// The first `used` of the unused tables have been linked.
    pub fn link(&mut self, used: usize) {
        self.tables.items()[..self.unused].rotate_left(used);
        self.unused -= used;
        self.linked = used;
    }

    /// The tables that the plan has linked.
    pub fn linked(&mut self) -> &[Mfn] {
        &self.tables.items()[self.unused..][..self.linked]
    }

    /// Gives everything back but the tables that are linked.
    pub fn free<M: Machine>(mut self, machine: &M) {
        for &table in &self.tables.items()[..self.unused] {
            machine.free_table(table);
        }
        self.edits.free(machine);
        self.tables.free(machine);
    }
}
