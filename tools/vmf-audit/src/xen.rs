//! What Xen's own data in the dump says, read with xen-syms: the domains and their stage-2 roots, pages kept for
//! tables, static tables, the image's sections, and the pages of Xen's own that a domain may see.
//!
//! A domain's root table is taken from `arch.p2m.root`, which is where Xen's table code starts; the VTTBR that Xen
//! keeps beside it is compared where it is there. Pages that Xen shares with a domain (shared info, grant table) are in
//! that domain's stage 2 with the type of ordinary RAM, so the entry does not tell them apart; what does is that Xen's
//! struct domain names the very frame. Only those are recognised, and only inside the xenheap where its bounds are
//! known.

use crate::descriptor::frame_of;
use crate::dump::{Dump, FRAME_SIZE};
use crate::error::{Error, Result};
use crate::frametable::Noted;
use crate::fused::{self, DomainNote, Extent, Fused};
use crate::hex::Hex;
use crate::registers::{self, Registers};
use crate::stage1::{self, Regime};
use crate::symbols::{Functions, Region, Symbols};
use std::collections::HashMap;
use std::path::Path;

/// Members that [`Xen`] reads.
pub const MEMBERS: &[(&str, &str)] = &[
    ("domain", "domain_id"),
    ("domain", "next_in_list"),
    ("domain", "shared_info"),
    ("domain", "grant_table"),
    ("domain", "arch.p2m.root"),
    ("domain", "arch.p2m.vmid"),
    ("domain", "arch.p2m.vttbr"),
    ("domain", "arch.p2m.pages"),
    ("domain", "arch.paging.p2m_freelist"),
    ("grant_table", "nr_grant_frames"),
    ("grant_table", "nr_status_frames"),
    ("grant_table", "shared_raw"),
    ("grant_table", "status"),
    ("page_info", "list"),
    ("page_info", "count_info"),
    ("page_info", "v.inuse.domain"),
    ("vcpu", "domain"),
    ("domain", "arch.vmf.protected"),
    ("domain", "arch.vmf.snapshot_first"),
    ("domain", "arch.vmf.snapshot_len"),
    ("domain", "arch.vmf.nr_shares"),
    ("domain", "arch.vmf.shares"),
    ("vmf_guest_extent", "gfn"),
    ("vmf_guest_extent", "mfn"),
    ("vmf_guest_extent", "pages"),
    ("vmf_guest_extent", "type"),
    ("vmf_frozen", "locked"),
    ("vmf_frozen", "hcr_mask"),
    ("vmf_frozen", "hcr_value"),
    ("vmf_frozen", "safe"),
    ("vmf_frozen", "empty"),
    ("vmf_frozen", "vttbr"),
    ("vmf_frozen", "unused"),
];

/// More extents than this are in no list of what a domain shares.
const SHARES: u64 = 4096;

/// `DOMID_IDLE`, xen/include/public/xen.h.
pub const IDLE: u16 = 0x7fff;

/// A page of Xen's own that a domain may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPage {
    /// Machine frame number.
    pub mfn: u64,
    /// What it is for.
    pub what: &'static str,
}

/// One domain, as Xen knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Domain id.
    pub id: u16,
    /// Root table and VMID, as VTTBR_EL2 takes them.
    pub vttbr: u64,
    /// Frames on the p2m's list of tables.
    pub tables: Vec<u64>,
    /// Frames kept for tables to come.
    pub pool: Vec<u64>,
    /// Pages of Xen's own that the domain may see.
    pub own_pages: Vec<OwnPage>,
    /// What a Xen with the fuse notes about it.
    pub note: Option<DomainNote>,
    /// What such a Xen takes it to share, in its order; or why that cannot be read. None if it keeps no such list.
    pub shares: Option<std::result::Result<Vec<Extent>, String>>,
}

/// A named piece of the image and where it is in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The piece, by virtual address.
    pub region: Region,
    /// Its first physical address.
    pub pa: u64,
}

/// Everything that was found out.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Every domain, dom0 first.
    pub domains: Vec<Domain>,
    /// Xen's empty stage-2 root, if it has one (a work-around for speculative AT).
    pub empty_root: Option<u64>,
    /// Sections of the image.
    pub sections: Vec<Placed>,
    /// Code and data that boot gives back to the heap: virtual addresses.
    pub init: Option<(u64, u64)>,
    /// Static translation tables in the image, in use or left from boot.
    pub tables: Vec<Placed>,
    /// First and past-the-last frame of a xenheap of its own, if this Xen has one.
    pub xenheap: Option<(u64, u64)>,
    /// What the fuse left, if this Xen has one.
    pub fused: Option<Fused>,
    /// The domain of the vCPU that each CPU runs, [`IDLE`] for none; by CPU, where it could be read.
    pub running: Vec<Option<u16>>,
    /// What the frame table says, by the dump's frame index; empty if it could not be read.
    pub noted: Vec<Noted>,
    /// Functions of the image.
    pub functions: Functions,
}

/// Xen's memory, by virtual address.
pub(crate) struct Xen<'a> {
    pub(crate) dump: &'a Dump,
    pub(crate) regime: Regime,
    pub(crate) symbols: &'a Symbols,
}

/// Every domain of a running Xen as the registers file wants it, `protected` unset. For whoever writes that file: the
/// registers given need not list any domain.
pub fn domains(
    dump: &Dump,
    registers: &Registers,
    xen_syms: &Path,
) -> Result<Vec<registers::Domain>> {
    let symbols = Symbols::open(xen_syms, MEMBERS)?;
    let found = find(dump, registers, &symbols)?;
    let listed = |d: Domain| registers::Domain {
        id: d.id,
        vttbr: Hex(d.vttbr),
        protected: false,
        shared_pages: Vec::new(),
        shared: Vec::new(),
    };
    Ok(found.domains.into_iter().map(listed).collect())
}

/// Reads all of [`Found`], with the tables of the first CPU that has its MMU on.
pub fn find(dump: &Dump, registers: &Registers, symbols: &Symbols) -> Result<Found> {
    let regimes: Vec<Regime> = registers
        .cpus
        .iter()
        .map(Regime::of)
        .collect::<Result<_>>()?;
    let Some(&regime) = regimes.iter().find(|r| r.mmu) else {
        return Err(Error::CannotJudge(
            "no CPU has its EL2 MMU on: Xen's data cannot be found".into(),
        ));
    };
    let xen = Xen {
        dump,
        regime,
        symbols,
    };
    // The image is one piece of memory. Its own mapping is not asked for each page: some are meant to have none.
    let anchor = xen.global("domain_list")?;
    let offset = xen.physical(anchor, "domain_list")?.wrapping_sub(anchor);
    let place = |region: &Region| Placed {
        region: region.clone(),
        pa: region.va.wrapping_add(offset),
    };
    for section in &symbols.sections {
        if let Some(pa) = stage1::translate(dump, &regime, section.va)
            && pa.wrapping_sub(section.va) != offset
        {
            let name = &section.name;
            return Err(Error::CannotJudge(format!(
                "Xen's image is not in one piece (section {name})"
            )));
        }
    }
    let empty_root = match symbols.address("empty_root_mfn") {
        Some(va) => Some(xen.word(va, "empty_root_mfn")?).filter(|&mfn| mfn != 0),
        None => None,
    };
    let (domains, pointers) = xen.domains()?;
    Ok(Found {
        fused: fused::find(&xen, offset)?,
        running: (0..registers.cpus.len())
            .map(|cpu| xen.running(cpu as u64).ok())
            .collect(),
        noted: xen.noted(&pointers).unwrap_or_default(),
        functions: symbols.functions.clone(),
        domains,
        empty_root,
        sections: symbols.sections.iter().map(place).collect(),
        init: symbols
            .address("__init_begin")
            .zip(symbols.address("__init_end")),
        tables: symbols.tables.iter().map(place).collect(),
        xenheap: xen.xenheap()?,
    })
}

impl Xen<'_> {
    pub(crate) fn global(&self, name: &str) -> Result<u64> {
        self.symbols
            .address(name)
            .ok_or_else(|| Error::Symbols(format!("it has no symbol {name}")))
    }

    fn physical(&self, va: u64, what: &str) -> Result<u64> {
        stage1::translate(self.dump, &self.regime, va).ok_or_else(|| {
            Error::CannotJudge(format!(
                "Xen's {what} at {va:#x} is not mapped: is this the xen-syms of the Xen that ran?"
            ))
        })
    }

    pub(crate) fn bytes(&self, va: u64, size: u64, what: &str) -> Result<u64> {
        let pa = self.physical(va, what)?;
        let bytes = self.dump.bytes_at(pa, size.min(8) as usize);
        let bytes = bytes.ok_or_else(|| {
            Error::CannotJudge(format!("Xen's {what} at {va:#x} is not in the dump"))
        })?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    pub(crate) fn word(&self, va: u64, what: &str) -> Result<u64> {
        self.bytes(va, 8, what)
    }

    fn member(&self, base: u64, of: &'static str, path: &'static str) -> Result<u64> {
        let member = self.symbols.member(of, path)?;
        self.bytes(base.wrapping_add(member.offset), member.size, path)
    }

    /// Frames of a `page_list_head` (a `struct list_head` on Arm, linked through struct page_info).
    fn page_list(&self, head: u64, what: &str) -> Result<Vec<u64>> {
        let link = self.symbols.member("page_info", "list")?.offset;
        let mut frames = Vec::new();
        let mut next = self.word(head, what)?;
        while next != head {
            frames.push(self.page_to_mfn(next.wrapping_sub(link))?);
            if frames.len() > self.dump.frames() {
                return Err(Error::CannotJudge(format!("the list {what} has no end")));
            }
            next = self.word(next, what)?;
        }
        Ok(frames)
    }

    /// Every domain, and where its struct is.
    fn domains(&self) -> Result<(Vec<Domain>, HashMap<u64, u16>)> {
        let (mut domains, mut pointers) = (Vec::new(), HashMap::new());
        let mut next = self.word(self.global("domain_list")?, "domain_list")?;
        while next != 0 {
            let domain = self.domain(next)?;
            pointers.insert(next, domain.id);
            domains.push(domain);
            if domains.len() > usize::from(u16::MAX) {
                return Err(Error::CannotJudge("domain_list has no end".into()));
            }
            next = self.member(next, "domain", "next_in_list")?;
        }
        Ok((domains, pointers))
    }

    fn note(&self, d: u64) -> Result<Option<DomainNote>> {
        if self.symbols.member("domain", "arch.vmf.protected").is_err() {
            return Ok(None);
        }
        Ok(Some(DomainNote {
            protected: self.member(d, "domain", "arch.vmf.protected")? != 0,
            first: self.member(d, "domain", "arch.vmf.snapshot_first")?,
            len: self.member(d, "domain", "arch.vmf.snapshot_len")?,
        }))
    }

    /// The list of what the domain shares.
    fn shares(&self, d: u64) -> Result<Vec<Extent>> {
        let of = "vmf_guest_extent";
        let count = self.member(d, "domain", "arch.vmf.nr_shares")?;
        if count > SHARES {
            return Err(Error::CannotJudge(format!(
                "Xen takes it to share {count} extents"
            )));
        }
        let list = d.wrapping_add(self.symbols.member("domain", "arch.vmf.shares")?.offset);
        let size = self.symbols.size_of(of)?;
        (0..count)
            .map(|i| {
                let at = list.wrapping_add(i * size);
                Ok(Extent {
                    gfn: self.member(at, of, "gfn")?,
                    mfn: self.member(at, of, "mfn")?,
                    pages: self.member(at, of, "pages")?,
                    kind: self.member(at, of, "type")? as u8,
                })
            })
            .collect()
    }

    /// The domain whose vCPU is `current` on a CPU.
    fn running(&self, cpu: u64) -> Result<u16> {
        let offsets = self.global("__per_cpu_offset")?;
        let offset = self.word(offsets.wrapping_add(8 * cpu), "__per_cpu_offset")?;
        let current = self.global("per_cpu__curr_vcpu")?.wrapping_add(offset);
        let vcpu = self.word(current, "curr_vcpu")?;
        let domain = self.member(vcpu, "vcpu", "domain")?;
        Ok(self.member(domain, "domain", "domain_id")? as u16)
    }

    fn domain(&self, d: u64) -> Result<Domain> {
        let id = self.member(d, "domain", "domain_id")? as u16;
        let root = self.page_to_mfn(self.member(d, "domain", "arch.p2m.root")?)? * FRAME_SIZE;
        let vmid = self.member(d, "domain", "arch.p2m.vmid")?;
        let vttbr = root | vmid << 48;
        // A Xen with the fuse may keep the value elsewhere; where it is here, it has to agree.
        if self.symbols.member("domain", "arch.p2m.vttbr").is_ok() {
            let kept = self.member(d, "domain", "arch.p2m.vttbr")?;
            if kept != 0 && kept != vttbr {
                return Err(Error::CannotJudge(format!(
                    "domain {id}: Xen's root table and VMID make VTTBR {vttbr:#x}, but it keeps {kept:#x}"
                )));
            }
        }
        let list = |path| Ok(d.wrapping_add(self.symbols.member("domain", path)?.offset));
        Ok(Domain {
            id,
            vttbr,
            tables: self.page_list(list("arch.p2m.pages")?, "arch.p2m.pages")?,
            pool: self.page_list(
                list("arch.paging.p2m_freelist")?,
                "arch.paging.p2m_freelist",
            )?,
            own_pages: self.own_pages(d)?,
            note: self.note(d)?,
            shares: self
                .symbols
                .member("domain", "arch.vmf.nr_shares")
                .is_ok()
                .then(|| self.shares(d).map_err(|e| e.to_string())),
        })
    }

    fn own_pages(&self, d: u64) -> Result<Vec<OwnPage>> {
        let mut pages = Vec::new();
        let mut add = |va: u64, what: &'static str| -> Result<()> {
            if va != 0 {
                pages.push(OwnPage {
                    mfn: frame_of(self.physical(va, what)?),
                    what,
                });
            }
            Ok(())
        };
        add(self.member(d, "domain", "shared_info")?, "shared info")?;
        let table = self.member(d, "domain", "grant_table")?;
        if table != 0 {
            for (count, frames, what) in [
                ("nr_grant_frames", "shared_raw", "grant table"),
                ("nr_status_frames", "status", "grant status"),
            ] {
                let array = self.member(table, "grant_table", frames)?;
                for i in 0..self.member(table, "grant_table", count)?.min(1 << 16) {
                    add(self.word(array.wrapping_add(8 * i), frames)?, what)?;
                }
            }
        }
        Ok(pages)
    }

    fn xenheap(&self) -> Result<Option<(u64, u64)>> {
        let bounds = self
            .symbols
            .address("xenheap_mfn_start")
            .zip(self.symbols.address("xenheap_mfn_end"));
        let Some((start, end)) = bounds else {
            return Ok(None);
        };
        let bounds = (
            self.word(start, "xenheap_mfn_start")?,
            self.word(end, "xenheap_mfn_end")?,
        );
        if bounds.0 >= bounds.1
            || self.dump.frame_index(bounds.0).is_none()
            || self.dump.frame_index(bounds.1 - 1).is_none()
        {
            return Err(Error::CannotJudge(format!(
                "the xenheap {:#x}..{:#x} is not RAM",
                bounds.0, bounds.1
            )));
        }
        Ok(Some(bounds))
    }
}
