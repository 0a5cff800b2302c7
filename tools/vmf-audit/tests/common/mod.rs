//! Builds machines for the tests: memory, tables and registers by the Arm ARM's bit positions, written down once more
//! here so that nothing is shared with the walkers under test.
#![allow(dead_code)] // each test binary uses its part of it

use vmf_audit::dump::Dump;
use vmf_audit::frametable::Noted;
use vmf_audit::fused::{DomainNote, Extent, Frozen, Fused, NO_VTTBR};
use vmf_audit::hex::Hex;
use vmf_audit::registers::{self, Cpu, GuestRange, Registers};
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

/// Normal write-back memory by MAIR, inner shareable: as Xen maps everything that is no device.
pub const NORMAL: u64 = 7 << 2 | 3 << 8;
pub const RW: u64 = NORMAL | AF | XN;
pub const RX: u64 = NORMAL | AF | RO;
pub const R: u64 = NORMAL | AF | RO | XN;
pub const RWX: u64 = NORMAL | AF;

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
/// The page that is read-only from the fuse on, part of the data.
pub const FROZEN: u64 = RAM + 0x2000;
/// A frame of the xenheap that nobody has.
pub const SPARE: u64 = RAM + (1 << 20);
pub const XENHEAP: (u64, u64) = ((RAM + (1 << 20)) >> 12, (RAM + (3 << 20)) >> 12);
pub const GUEST: u64 = RAM + (4 << 20);
pub const GUEST_IPA: u64 = 0x4000_0000;
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
    /// PSTATE of the first CPUs; the others are in EL0.
    pub pstate: Vec<u64>,
    pub found: Option<Found>,
    /// What is in each domain's stage 2: domain, guest frame, machine frame, frames, type.
    guests: Vec<(usize, u64, u64, u64, u8)>,
    /// Whether the snapshot is left as it is, right or wrong.
    pub keep_snapshot: bool,
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
                common: Vec::new(),
            },
            cpu_notes: 1,
            pstate: Vec::new(),
            found: None,
            guests: Vec::new(),
            keep_snapshot: false,
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
        machine.el2(TEXT_VA + 0x2000, FROZEN, 3, R);
        machine.el2(DIRECTMAP + (DOM0 - RAM), DOM0, 2, RW);
        machine.domain(0, false);
        machine.s2(0, DOM0, DOM0, 2, S2_RAM);
        machine.domain(1, true);
        for i in 0..GUEST_FRAMES {
            machine.s2(1, GUEST_IPA + i * 4096, GUEST + i * 4096, 3, S2_RAM);
        }
        machine.registers.cpus[0].vttbr = machine.registers.domains[0].vttbr;
        let section = |name: &str, va, pa, size| Placed {
            region: Region {
                name: name.into(),
                va,
                size,
                executable: name == ".text",
            },
            pa,
        };
        let vttbr = |vmid| {
            if vmid == 0 {
                return NO_VTTBR;
            }
            let mut domains = machine.registers.domains.iter();
            domains
                .find(|d| d.vttbr.0 >> 48 == vmid)
                .map_or(0, |d| d.vttbr.0)
        };
        let fused = Fused {
            pages: vec![section("vmf_frozen", TEXT_VA + 0x2000, FROZEN, 0x1000)],
            frozen: Frozen {
                locked: true,
                hcr_mask: 1 << 34 | 1 << 27 | 1 << 12 | 1 << 2 | 1,
                hcr_value: 1 << 2 | 1,
                further: Vec::new(),
                vttbr: (0..16).map(vttbr).collect(),
            },
            snapshot: Ok(Vec::new()),
            windows: Ok(Vec::new()),
        };
        machine.found = Some(Found {
            sections: vec![
                section(".text", TEXT_VA, TEXT, 0x1000),
                section(".data", TEXT_VA + 0x1000, DATA, 0x2000),
            ],
            domains: machine
                .registers
                .domains
                .iter()
                .map(|d| xen_domain(d.id, d.vttbr.0, d.protected))
                .collect(),
            xenheap: Some(XENHEAP),
            fused: Some(fused),
            running: vec![Some(0)],
            noted: vec![Noted::Xen; (RAM_SIZE >> 12) as usize],
            ..Found::default()
        });
        machine
    }

    /// A locked machine whose text has the two gates, and nothing else that the level seal forbids.
    pub fn sealed() -> Machine {
        let mut machine = Machine::locked();
        machine.code(0, 0xd51c_2100); // msr vttbr_el2, x0
        machine.code(8, 0xd51c_1101); // msr hcr_el2, x1
        machine.code(0x10, 0xd69f_03e0); // eret
        machine.code(0x14, 0xd518_2000); // msr ttbr0_el1, x0: the guest's
        machine
    }

    /// Writes an instruction into the text.
    pub fn code(&mut self, offset: u64, word: u32) {
        let at = (TEXT - RAM + offset) as usize;
        self.memory[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    /// What the fuse left.
    pub fn fused(&mut self) -> &mut Fused {
        self.xen().fused.as_mut().unwrap()
    }

    /// A root like the first CPU's, with nothing but Xen's text.
    pub fn other_root(&mut self) -> u64 {
        let root = self.frames(1);
        self.map(root, 0, TEXT_VA, TEXT, 3, RX);
        root
    }

    /// Fills in the snapshot, as the lock would have.
    fn snapshot(&self) -> Option<Found> {
        let mut found = self.found.clone()?;
        let Some(fused) = found
            .fused
            .as_mut()
            .filter(|f| !self.keep_snapshot && f.snapshot.is_ok())
        else {
            return Some(found);
        };
        let mut all: Vec<Extent> = Vec::new();
        for (i, domain) in self.registers.domains.iter().enumerate() {
            let first = all.len();
            if domain.protected {
                // As Xen does: what it takes the domain to share, sorted and merged.
                let of_xen = found.domains.iter().find(|d| d.id == domain.id);
                let shares = of_xen.and_then(|d| d.shares.as_ref()?.as_ref().ok());
                let mut shares: Vec<Extent> = shares.into_iter().flatten().copied().collect();
                shares.sort_by_key(|e| e.gfn);
                for next in shares {
                    match all[first..].last_mut() {
                        Some(last)
                            if (last.gfn + last.pages, last.mfn + last.pages)
                                == (next.gfn, next.mfn) =>
                        {
                            last.pages += next.pages;
                        }
                        _ => all.push(next),
                    }
                }
            }
            let mut of_domain: Vec<_> = self.guests.iter().filter(|g| g.0 == i).collect();
            of_domain.sort_by_key(|g| g.1);
            for &&(_, gfn, mfn, pages, kind) in &of_domain {
                let merged = all[first..].last().is_some_and(|e: &Extent| {
                    (e.gfn + e.pages, e.mfn + e.pages, e.kind) == (gfn, mfn, kind)
                });
                if domain.protected {
                    continue;
                }
                match all.last_mut() {
                    Some(last) if merged => last.pages += pages,
                    _ => all.push(Extent {
                        gfn,
                        mfn,
                        pages,
                        kind,
                    }),
                }
            }
            if let Some(d) = found.domains.iter_mut().find(|d| d.id == domain.id)
                && let Some(note) = &mut d.note
            {
                (note.first, note.len) = (first as u64, (all.len() - first) as u64);
            }
        }
        fused.snapshot = Ok(all);
        Some(found)
    }

    /// Adds a CPU like the first.
    pub fn cpu(&mut self) -> &mut Cpu {
        let first = self.registers.cpus[0];
        self.registers.cpus.push(first);
        self.cpu_notes += 1;
        if let Some(found) = &mut self.found {
            found.running.push(Some(0));
        }
        self.registers.cpus.last_mut().unwrap()
    }

    /// Adds a domain with a root of two concatenated tables.
    pub fn domain(&mut self, id: u16, protected: bool) {
        let root = self.frames(2);
        let vttbr = Hex(root | (u64::from(id) + 1) << 48);
        if let Some(found) = &mut self.found {
            found.domains.push(xen_domain(id, vttbr.0, protected));
            if let Some(fused) = &mut found.fused {
                fused.frozen.vttbr[usize::from(id) + 1] = vttbr.0;
            }
        }
        self.registers.domains.push(registers::Domain {
            id,
            vttbr,
            protected,
            shared_pages: Vec::new(),
            shared: Vec::new(),
        });
    }

    /// Has d1 share pages of its memory: claimed, mapped at EL2, not executable, in Xen's list and in the snapshot.
    pub fn share(&mut self, first: u64, pages: u64) {
        for i in first..first + pages {
            let attributes = S2_RAM | 2 << 53;
            self.s2(1, GUEST_IPA + i * 4096, GUEST + i * 4096, 3, attributes);
            self.el2(
                DIRECTMAP + (GUEST - RAM) + i * 4096,
                GUEST + i * 4096,
                3,
                RW,
            );
        }
        self.registers.domains[1].shared.push(GuestRange {
            gfn: Hex((GUEST_IPA >> 12) + first),
            pages,
        });
        self.shares().push(Extent {
            gfn: (GUEST_IPA >> 12) + first,
            mfn: (GUEST >> 12) + first,
            pages,
            kind: 1,
        });
    }

    /// What Xen takes d1 to share.
    pub fn shares(&mut self) -> &mut Vec<Extent> {
        let shares = &mut self.xen().domains[1].shares;
        shares
            .get_or_insert_with(|| Ok(Vec::new()))
            .as_mut()
            .unwrap()
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
        let pages = 1 << (9 * (3 - level));
        let kind = (attributes >> 55 & 15) as u8;
        self.guests.retain(|g| (g.0, g.1) != (domain, ipa >> 12));
        self.guests.push((domain, ipa >> 12, pa >> 12, pages, kind));
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
        let mut pstate = self.pstate.clone();
        pstate.resize(self.cpu_notes, 0);
        elf_at(&[(RAM, &self.memory)], &pstate)
    }

    pub fn audit(&self) -> Result<Audit, Error> {
        Audit::new(
            Dump::from_bytes(self.elf())?,
            self.registers.clone(),
            self.snapshot(),
        )
    }

    pub fn check(&self, level: Level) -> Report {
        self.audit()
            .expect("the machine can be audited")
            .check(level)
    }
}

/// What Xen would know of a domain that has no pages of Xen's own.
pub fn xen_domain(id: u16, vttbr: u64, protected: bool) -> Domain {
    Domain {
        id,
        vttbr,
        tables: Vec::new(),
        pool: Vec::new(),
        own_pages: Vec::new(),
        note: Some(DomainNote {
            protected,
            ..DomainNote::default()
        }),
        shares: None,
    }
}

/// An AArch64 core file with these banks and one NT_PRSTATUS note a CPU.
pub fn elf(banks: &[(u64, &[u8])], cpus: usize) -> Vec<u8> {
    elf_at(banks, &vec![0; cpus])
}

/// The same, with each CPU's PSTATE.
pub fn elf_at(banks: &[(u64, &[u8])], pstate: &[u64]) -> Vec<u8> {
    let mut note = Vec::new();
    for pstate in pstate {
        for word in [5u32, 392, 1] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"CORE\0\0\0\0");
        let mut status = [0; 392];
        status[112 + 33 * 8..][..8].copy_from_slice(&pstate.to_le_bytes());
        note.extend(status);
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
