//! Xen's address space at EL2, by areas (xen/arch/arm/include/asm/mmu/layout.h of Xen 4.20 for arm64: macros, so neither
//! symbols nor DWARF have them), and what is mapped there as regions of one permission and one owner.

use crate::audit::{Audit, Root};
use crate::dump::FRAME_SIZE;
use crate::frames::Owner;
use crate::frametable::{FRAMETABLE_SIZE, FRAMETABLE_VA};
use crate::fused::WINDOWS_VA;
use crate::hex::Hex;
use crate::stage1::{self, Leaf};
use serde::Serialize;
use std::ops::Range;

/// Where Xen maps itself to itself while it boots: everything below `XEN_VM_MAPPING`.
pub const IDENTITY: Range<u64> = 0..0x0a00_0000_0000;
/// The image: `XEN_VIRT_START`.
pub const IMAGE: Range<u64> = 0x0a00_0020_0000..0x0a00_00a0_0000;
/// The fixmap.
pub const FIXMAP: Range<u64> = 0x0a00_00a0_0000..0x0a00_00c0_0000;
/// `VMAP_VIRT_START`.
pub const VMAP: Range<u64> = 0x0a00_4000_0000..0x0a00_8000_0000;
/// `DIRECTMAP_VIRT_START`.
pub const DIRECTMAP: Range<u64> = 0x8000_0000_0000..0x8500_0000_0000;

/// The areas that have a name, by address.
pub const AREAS: &[(&str, Range<u64>)] = &[
    ("identity map", IDENTITY),
    ("image", IMAGE),
    ("fixmap", FIXMAP),
    ("device tree, livepatch", 0x0a00_00c0_0000..0x0a00_4000_0000),
    ("vmap", VMAP),
    ("windows", WINDOWS_VA),
    (
        "frame table",
        FRAMETABLE_VA..FRAMETABLE_VA + FRAMETABLE_SIZE,
    ),
    ("directmap", DIRECTMAP),
];

/// What an address outside all areas is in.
pub const ELSEWHERE: &str = "elsewhere";

/// The area of an address.
pub fn area(va: u64) -> &'static str {
    let area = AREAS.iter().find(|(_, range)| range.contains(&va));
    area.map_or(ELSEWHERE, |(name, _)| name)
}

/// Kinds of owners, as a picture tells them apart; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Of a protected domain.
    Protected,
    /// Holds translation tables.
    Table,
    /// Of a domain that is not protected.
    Guest,
    /// Free, or of nobody known.
    Free,
    /// Xen's heap, and what else it has in use.
    Xen,
    /// The frame table.
    FrameTable,
    /// Xen's image.
    Image,
    /// No memory.
    Device,
}

impl Kind {
    /// Every kind, and what it is called.
    pub const ALL: &[(Kind, &str)] = &[
        (Kind::Protected, "protected domain"),
        (Kind::Table, "translation tables"),
        (Kind::Guest, "other domain"),
        (Kind::Free, "free or unknown"),
        (Kind::Xen, "Xen's heap"),
        (Kind::FrameTable, "frame table"),
        (Kind::Image, "Xen's image"),
        (Kind::Device, "device"),
    ];
}

/// A run of addresses with one permission, memory type and owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// The area that it is in.
    pub area: &'static str,
    /// First virtual address.
    pub address: Hex,
    /// Bytes.
    pub bytes: u64,
    /// `r`, `w`, `x`, or `-` in their places.
    pub permissions: String,
    /// What MAIR_EL2 says.
    pub memory: &'static str,
    /// Whose memory it is.
    pub owner: String,
    /// The same, more coarsely.
    pub kind: Kind,
}

/// The address space of one EL2 root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Space {
    /// The root table; none with the MMU off.
    pub root: Option<Hex>,
    /// CPUs that use it.
    pub cpus: Vec<usize>,
    /// What is mapped, by address.
    pub regions: Vec<Region>,
}

impl Audit {
    /// Every root's address space.
    pub fn spaces(&self) -> Vec<Space> {
        self.roots.iter().map(|root| self.space(root)).collect()
    }

    fn space(&self, root: &Root) -> Space {
        let mut regions: Vec<Region> = Vec::new();
        let cpu = root.cpus.first().and_then(|&i| self.registers.cpus.get(i));
        let mair = cpu.map_or(0, |c| c.mair.0);
        for leaf in &root.walk.leaves {
            let memory = stage1::memory_type(mair, leaf);
            let flag = |on: bool, letter| if on { letter } else { '-' };
            let permissions: String = [
                'r',
                flag(leaf.writable, 'w'),
                flag(root.regime.executes(leaf), 'x'),
            ]
            .iter()
            .collect();
            for (start, bytes, owner, kind) in self.pieces(leaf) {
                let address = leaf.va + (start - leaf.pa);
                let area = area(address);
                match regions.last_mut() {
                    Some(last)
                        if last.address.0 + last.bytes == address
                            && last.area == area
                            && last.permissions == permissions
                            && last.memory == memory
                            && last.owner == owner =>
                    {
                        last.bytes += bytes;
                    }
                    _ => regions.push(Region {
                        area,
                        address: Hex(address),
                        bytes,
                        permissions: permissions.clone(),
                        memory,
                        owner,
                        kind,
                    }),
                }
            }
        }
        Space {
            root: root.regime.mmu.then_some(Hex(root.regime.root)),
            cpus: root.cpus.clone(),
            regions,
        }
    }

    /// A leaf in runs of one owner: physical address, bytes, owner, kind.
    fn pieces(&self, leaf: &Leaf) -> Vec<(u64, u64, String, Kind)> {
        let mut pieces = Vec::new();
        let mut at = leaf.pa;
        let device = |from: u64, to: u64, pieces: &mut Vec<_>| {
            if from < to {
                pieces.push((from, to - from, "device".to_owned(), Kind::Device));
            }
        };
        // One owner's frames may be protected or not: shared pages are not.
        let protected = |yes: bool| {
            self.frames
                .runs(&self.dump, leaf.pa, leaf.size(), move |f, i| {
                    f.protected(i).is_some() == yes
                })
        };
        let mut runs: Vec<_> = protected(true).into_iter().map(|r| (r, true)).collect();
        runs.extend(protected(false).into_iter().map(|r| (r, false)));
        runs.sort_by_key(|(r, _)| r.mfn);
        for (run, protected) in runs {
            let start = run.mfn * FRAME_SIZE;
            device(at, start, &mut pieces);
            let kind = if protected {
                Kind::Protected
            } else {
                kind(run.owner)
            };
            let bytes = run.count * FRAME_SIZE;
            pieces.push((start, bytes, self.owner_group(run.owner), kind));
            at = start + bytes;
        }
        device(at, leaf.pa + leaf.size(), &mut pieces);
        pieces
    }

    /// An owner in words, without what only sets two tables of a kind apart.
    fn owner_group(&self, owner: Owner) -> String {
        match owner {
            Owner::El2Table(_) => "EL2 tables".into(),
            Owner::ImageTable(_) => "static tables".into(),
            owner => self.owner_name(owner),
        }
    }
}

fn kind(owner: Owner) -> Kind {
    match owner {
        owner if owner.is_table() => Kind::Table,
        Owner::Guest(_) | Owner::Shared(_) | Owner::Owned(_) => Kind::Guest,
        Owner::Image(_) => Kind::Image,
        Owner::FrameTable => Kind::FrameTable,
        Owner::Xenheap | Owner::InUse | Owner::SeenBy(_) => Kind::Xen,
        _ => Kind::Free,
    }
}
