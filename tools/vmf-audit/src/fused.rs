//! What the fuse itself left in Xen's memory: the frozen page, the snapshot of stage 2, the tables of the on-demand
//! windows. Read here so that it can be compared with the real tables, never so that it is believed.
//!
//! The frozen page is C's (`struct vmf_frozen`, asm/vmf.h: DWARF has its members). Snapshot and windows are Rust's, and
//! the crate has no DWARF: their `repr(C)` layouts are written down here once more, from xen-vmf/src/stage2.rs
//! (`GuestExtent`) and xen-vmf/src/window.rs (`Window`).

use crate::dump::{FRAME_SHIFT, FRAME_SIZE};
use crate::error::{Error, Result};
use crate::symbols::Region;
use crate::xen::{Placed, Xen};
use std::fmt;

/// Bytes of a `GuestExtent`: guest frame, machine frame, number, type.
const EXTENT: u64 = 32;
/// `VMF_WINDOW_TABLES`, asm/vmf_rust.h.
const WINDOW_TABLES: u64 = 5;
/// Where a `Window` says its base, after a word for each of 128 regions.
const WINDOW_BASE: u64 = 128 * 8;
/// Where the table frames lie, after the base and a counter.
const WINDOW_FRAMES: u64 = WINDOW_BASE + 16;

/// The per-CPU windows: `DOMHEAP_VIRT_START` and its size, xen/arch/arm/include/asm/mmu/layout.h.
pub const WINDOWS_VA: std::ops::Range<u64> = 0x0a00_8000_0000..0x0a08_0000_0000;

/// A word in the place of VMID 0 that no value of VTTBR_EL2 with that VMID agrees with.
pub const NO_VTTBR: u64 = u64::MAX;

/// Guest frames that map adjacent machine frames alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First guest frame.
    pub gfn: u64,
    /// The machine frame behind it.
    pub mfn: u64,
    /// Number of frames.
    pub pages: u64,
    /// Xen's type of the mapping.
    pub kind: u8,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "gfn {:#x}+{:#x} to mfn {:#x}, type {}",
            self.gfn, self.pages, self.mfn, self.kind
        )
    }
}

/// What the frozen page says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    /// That the machine is locked.
    pub locked: bool,
    /// Bits of HCR_EL2 that a switch between vCPUs must not change.
    pub hcr_mask: u64,
    /// What they have to be.
    pub hcr_value: u64,
    /// Further values of VTTBR_EL2 that it allows, by name; 0 for none. A Xen that can be sealed has some.
    pub further: Vec<(&'static str, u64)>,
    /// VTTBR_EL2 by VMID, 0 where there is none. That of VMID 0, which no domain has, allows the root that maps
    /// nothing, or is [`NO_VTTBR`].
    pub vttbr: Vec<u64>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fused {
    /// Pages of the image that are read-only from the fuse on.
    pub pages: Vec<Placed>,
    /// What the first of them says.
    pub frozen: Frozen,
    /// Stage 2 of all domains, one after the other, of a protected one what it shares; empty before the lock. Or why
    /// it cannot be read.
    pub snapshot: std::result::Result<Vec<Extent>, String>,
    /// Frames of the windows' tables, of all CPUs that ever had one. Or why they cannot be read.
    pub windows: std::result::Result<Vec<u64>, String>,
}

/// What Xen notes about a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainNote {
    /// That it is protected.
    pub protected: bool,
    /// First extent of its part of the snapshot.
    pub first: u64,
    /// Extents of its part.
    pub len: u64,
}

/// Whether a symbol is a page that is read-only from the fuse on.
fn is_frozen(name: &str) -> bool {
    name.starts_with("vmf_frozen")
}

/// Reads it; none if this Xen has no fuse.
pub(crate) fn find(xen: &Xen<'_>, offset: u64) -> Result<Option<Fused>> {
    let Some(page) = xen.symbols.address("vmf_frozen") else {
        return Ok(None);
    };
    let pages = xen
        .symbols
        .named(is_frozen)
        .into_iter()
        .map(|(va, size)| Placed {
            region: Region {
                name: "vmf_frozen".into(),
                va,
                size: size.max(FRAME_SIZE),
                executable: false,
            },
            pa: va.wrapping_add(offset),
        });
    // By its place in the image, not through Xen's tables: it may be mapped nowhere.
    let member = |path| -> Result<u64> {
        let m = xen.symbols.member("vmf_frozen", path)?;
        let bytes = xen
            .dump
            .bytes_at(page.wrapping_add(offset + m.offset), m.size.min(8) as usize);
        let bytes = bytes
            .ok_or_else(|| Error::CannotJudge("Xen's vmf_frozen is not in the dump".into()))?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    let list = xen.symbols.member("vmf_frozen", "vttbr")?.offset;
    // Up to what follows, if anything does.
    let members = ["locked", "hcr_mask", "unused"];
    let after = members.map(|path| xen.symbols.member("vmf_frozen", path));
    let after = after.into_iter().flatten().map(|m| m.offset);
    let end = match after.filter(|&offset| offset > list).min() {
        Some(offset) => offset,
        None => xen.symbols.size_of("vmf_frozen")?,
    };
    let vttbr = (list..end.min(FRAME_SIZE))
        .step_by(8)
        .map_while(|at| xen.dump.word(page.wrapping_add(offset + at)));
    let frozen = Frozen {
        locked: member("locked")? != 0,
        hcr_mask: member("hcr_mask")?,
        hcr_value: member("hcr_value")?,
        further: ["safe", "empty"]
            .into_iter()
            .filter_map(|name| Some((name, member(name).ok()?)))
            .collect(),
        vttbr: vttbr.collect(),
    };
    Ok(Some(Fused {
        pages: pages.collect(),
        frozen,
        snapshot: snapshot(xen).map_err(|e| e.to_string()),
        windows: windows(xen).map_err(|e| e.to_string()),
    }))
}

/// The crate's statics, by the tail of their mangled names, whatever the mangling.
fn rust_static(xen: &Xen<'_>, tail: &str) -> Result<u64> {
    let found = xen.symbols.named(|name| {
        name.find(tail).is_some_and(|at| {
            !name[at + tail.len()..].starts_with(|c: char| c == '_' || c.is_ascii_uppercase())
        })
    });
    match found[..] {
        [(va, _)] => Ok(va),
        _ => Err(Error::Symbols(format!(
            "{} symbols end in {tail}, not one",
            found.len()
        ))),
    }
}

fn snapshot(xen: &Xen<'_>) -> Result<Vec<Extent>> {
    let start = xen.word(rust_static(xen, "5c_abi8SNAPSHOT")?, "SNAPSHOT")?;
    let len = xen.word(rust_static(xen, "5c_abi12SNAPSHOT_LEN")?, "SNAPSHOT_LEN")?;
    if start == 0 {
        return Ok(Vec::new());
    }
    // One extent a frame is the worst that a stage 2 can look like, over all domains.
    if len > 4 * xen.dump.frames() as u64 + (1 << 20) {
        return Err(Error::CannotJudge(format!(
            "the snapshot claims {len} extents"
        )));
    }
    (0..len)
        .map(|i| {
            let at = start.wrapping_add(i * EXTENT);
            Ok(Extent {
                gfn: xen.word(at, "snapshot")?,
                mfn: xen.word(at.wrapping_add(8), "snapshot")?,
                pages: xen.word(at.wrapping_add(16), "snapshot")?,
                kind: xen.bytes(at.wrapping_add(24), 1, "snapshot")? as u8,
            })
        })
        .collect()
}

fn windows(xen: &Xen<'_>) -> Result<Vec<u64>> {
    let [(list, size)] = xen.symbols.named(|name| name == "vmf_windows")[..] else {
        return Err(Error::Symbols("it has no symbol vmf_windows".into()));
    };
    let mut frames = Vec::new();
    for cpu in 0..(size / 8).max(1) {
        let window = xen.word(list.wrapping_add(8 * cpu), "vmf_windows")?;
        if window == 0 {
            continue;
        }
        let base = xen.word(window.wrapping_add(WINDOW_BASE), "window")?;
        if !WINDOWS_VA.contains(&base) || base % FRAME_SIZE != 0 {
            return Err(Error::CannotJudge(format!(
                "the window of CPU {cpu} claims to be at {base:#x}"
            )));
        }
        for i in 0..WINDOW_TABLES {
            let mfn = xen.word(window.wrapping_add(WINDOW_FRAMES + 8 * i), "window")?;
            if mfn >> (52 - FRAME_SHIFT) != 0 || xen.dump.frame_index(mfn).is_none() {
                return Err(Error::CannotJudge(format!(
                    "a table of CPU {cpu}'s window is said to be in frame {mfn:#x}, which is no RAM"
                )));
            }
            frames.push(mfn);
        }
    }
    Ok(frames)
}
