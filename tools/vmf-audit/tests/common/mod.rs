//! Builds machines for the tests: memory, tables and registers by the Arm ARM's bit positions, written down once more
//! here so that nothing is shared with the walkers under test.
#![allow(dead_code)] // each test binary uses its part of it

use vmf_audit::dump::Dump;
use vmf_audit::hex::Hex;
use vmf_audit::registers::{self, Cpu, Registers};
use vmf_audit::report::{Level, Report};
use vmf_audit::symbols::Region;
use vmf_audit::xen::{Domain, Found, Placed};
use vmf_audit::{Audit, Error};

pub const RAM: u64 = 0x4000_0000;
pub const RAM_SIZE: u64 = 16 << 20;

// Stage 1, lower attributes and upper attributes of a leaf.
pub const AF: u64 = 1 << 10;
pub const RO: u64 = 1 << 7;
pub const XN: u64 = 1 << 54;
pub const CONTIGUOUS: u64 = 1 << 52;
pub const DBM: u64 = 1 << 51;
// Stage 1, table descriptors.
pub const APTABLE_RO: u64 = 1 << 62;
pub const XNTABLE: u64 = 1 << 60;

pub const RW: u64 = AF | XN;
pub const RX: u64 = AF | RO;
pub const R: u64 = AF | RO | XN;
pub const RWX: u64 = AF;

/// Stage 2: access flag, read and write, normal memory, and Xen's type 1 (RAM) in the software bits.
pub const S2_RAM: u64 = AF | 3 << 6 | 0xf << 2 | 1 << 55;

/// TCR_EL2 and VTCR_EL2 as Xen sets them on a Cortex-A53 (40-bit physical addresses).
pub const TCR: u64 = 0x8082_3510;
pub const VTCR_40: u64 = 0x8002_3558;
/// 44-bit: a level-0 root, as on a Cortex-A57.
pub const VTCR_44: u64 = 0x8004_3594;
/// SCTLR_EL2 as Xen sets it: MMU, caches, WXN.
pub const SCTLR: u64 = 0x30cd_183d;
pub const WXN: u64 = 1 << 19;

pub const TEXT_VA: u64 = 0x0a00_0020_0000;
pub const TEXT: u64 = RAM;
pub const DATA: u64 = RAM + 0x1000;
pub const GUEST: u64 = RAM + (4 << 20);
pub const GUEST_FRAMES: u64 = 16;
pub const DOM0: u64 = RAM + (8 << 20);
pub const DIRECTMAP: u64 = 0x8000_0000_0000;

/// A machine to be dumped.
#[derive(Clone)]
pub struct Machine {
    pub memory: Vec<u8>,
    next_table: u64,
    pub registers: Registers,
    pub cpu_notes: usize,
    pub found: Option<Found>,
}

impl Machine {
    /// One CPU, an empty EL2 root, no domains.
    pub fn empty() -> Machine {
        let mut machine = Machine {
            memory: vec![0; RAM_SIZE as usize],
            next_table: RAM + RAM_SIZE,
            registers: Registers {
                cpus: Vec::new(),
                domains: Vec::new(),
            },
            cpu_notes: 1,
            found: None,
        };
        let root = machine.frames(1);
        machine.registers.cpus.push(Cpu {
            ttbr0: Hex(root),
            tcr: Hex(TCR),
            sctlr: Hex(SCTLR),
            mair: Hex(0xff00_0004_eeaa_4400),
            vttbr: Hex(0),
            vtcr: Hex(VTCR_40),
            hcr: Hex(0x807c_663f),
            vbar: Hex(TEXT_VA),
        });
        machine
    }

    /// A machine on which everything holds: Xen's text and data are mapped, dom0's memory too; d1's is not, and no
    /// table is.
    pub fn locked() -> Machine {
        let mut machine = Machine::empty();
        machine.el2(TEXT_VA, TEXT, 3, RX);
        machine.el2(TEXT_VA + 0x1000, DATA, 3, RW);
        machine.el2(DIRECTMAP + (DOM0 - RAM), DOM0, 2, RW);
        machine.domain(0, false);
        machine.s2(0, DOM0, DOM0, 2, S2_RAM);
        machine.domain(1, true);
        for i in 0..GUEST_FRAMES {
            machine.s2(1, 0x4000_0000 + i * 4096, GUEST + i * 4096, 3, S2_RAM);
        }
        machine.registers.cpus[0].vttbr = machine.registers.domains[0].vttbr;
        let section = |name: &str, va, pa| Placed {
            region: Region {
                name: name.into(),
                va,
                size: 0x1000,
            },
            pa,
        };
        machine.found = Some(Found {
            sections: vec![
                section(".text", TEXT_VA, TEXT),
                section(".data", TEXT_VA + 0x1000, DATA),
            ],
            domains: machine
                .registers
                .domains
                .iter()
                .map(|d| xen_domain(d.id, d.vttbr.0))
                .collect(),
            ..Found::default()
        });
        machine
    }

    /// Adds a CPU like the first.
    pub fn cpu(&mut self) -> &mut Cpu {
        let first = self.registers.cpus[0];
        self.registers.cpus.push(first);
        self.cpu_notes += 1;
        self.registers.cpus.last_mut().unwrap()
    }

    /// Adds a domain with a root of two concatenated tables.
    pub fn domain(&mut self, id: u16, protected: bool) {
        let root = self.frames(2);
        let vttbr = Hex(root | (u64::from(id) + 1) << 48);
        if let Some(found) = &mut self.found {
            found.domains.push(xen_domain(id, vttbr.0));
        }
        self.registers.domains.push(registers::Domain {
            id,
            vttbr,
            protected,
            shared_pages: Vec::new(),
        });
    }

    /// What Xen's data says.
    pub fn xen(&mut self) -> &mut Found {
        self.found.get_or_insert_default()
    }

    /// Takes frames from the top of memory, aligned to their number.
    pub fn frames(&mut self, count: u64) -> u64 {
        self.next_table = (self.next_table - count * 4096) & !(count * 4096 - 1);
        self.next_table
    }

    pub fn read(&self, pa: u64) -> u64 {
        let at = (pa - RAM) as usize;
        u64::from_le_bytes(self.memory[at..at + 8].try_into().unwrap())
    }

    pub fn write(&mut self, pa: u64, value: u64) {
        let at = (pa - RAM) as usize;
        self.memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Maps one block or page at EL2, below a root at level 0; gives the address of its entry.
    pub fn el2(&mut self, va: u64, pa: u64, level: u32, attributes: u64) -> u64 {
        let root = self.registers.cpus[0].ttbr0.0;
        self.map(root, 0, va, pa, level, attributes)
    }

    /// Maps one block or page in a domain's stage 2, below two concatenated tables at level 1.
    pub fn s2(&mut self, domain: usize, ipa: u64, pa: u64, level: u32, attributes: u64) -> u64 {
        let root = self.registers.domains[domain].vttbr.0 & 0xffff_ffff_f000;
        self.map(root + (ipa >> 39) * 4096, 1, ipa, pa, level, attributes)
    }

    /// Maps below any root.
    pub fn map(
        &mut self,
        root: u64,
        root_level: u32,
        va: u64,
        pa: u64,
        level: u32,
        attributes: u64,
    ) -> u64 {
        let mut table = root;
        for l in root_level..level {
            let entry = table + (va >> (39 - 9 * l) & 511) * 8;
            if self.read(entry) == 0 {
                let new = self.frames(1);
                self.write(entry, new | 0b11);
            }
            table = self.read(entry) & 0xffff_ffff_f000;
        }
        let entry = table + (va >> (39 - 9 * level) & 511) * 8;
        self.write(
            entry,
            pa | attributes | if level == 3 { 0b11 } else { 0b01 },
        );
        entry
    }

    /// The ELF file that QEMU would write.
    pub fn elf(&self) -> Vec<u8> {
        elf(&[(RAM, &self.memory)], self.cpu_notes)
    }

    pub fn audit(&self) -> Result<Audit, Error> {
        Audit::new(
            Dump::from_bytes(self.elf())?,
            self.registers.clone(),
            self.found.clone(),
        )
    }

    pub fn check(&self, level: Level) -> Report {
        self.audit()
            .expect("the machine can be audited")
            .check(level)
    }
}

/// What Xen would know of a domain that has no pages of Xen's own.
pub fn xen_domain(id: u16, vttbr: u64) -> Domain {
    Domain {
        id,
        vttbr,
        tables: Vec::new(),
        pool: Vec::new(),
        own_pages: Vec::new(),
    }
}

/// An AArch64 core file with these banks and one NT_PRSTATUS note a CPU.
pub fn elf(banks: &[(u64, &[u8])], cpus: usize) -> Vec<u8> {
    let mut note = Vec::new();
    for _ in 0..cpus {
        for word in [5u32, 392, 1] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"CORE\0\0\0\0");
        note.extend([0; 392]);
    }
    let headers = 1 + banks.len();
    let mut offset = 64 + 56 * headers as u64;
    let mut out = Vec::new();
    out.extend(b"\x7fELF\x02\x01\x01");
    out.resize(16, 0);
    for half in [4u16, 183] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes());
    for word in [0u64, 64, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, headers as u16, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    let mut header = |kind: u32, pa: u64, len: u64, align: u64| {
        out.extend(kind.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        for word in [offset, 0, pa, len, len, align] {
            out.extend(word.to_le_bytes());
        }
        offset += len;
    };
    header(4, 0, note.len() as u64, 4);
    banks
        .iter()
        .for_each(|(pa, bytes)| header(1, *pa, bytes.len() as u64, 0));
    out.extend(note);
    banks.iter().for_each(|(_, bytes)| out.extend(*bytes));
    out
}

/// The ids of the rules that a report finds violated.
pub fn violated(report: &Report) -> Vec<&'static str> {
    report
        .rules
        .iter()
        .filter(|r| r.violations > 0)
        .map(|r| r.rule)
        .collect()
}
