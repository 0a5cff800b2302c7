//! For every frame of RAM: whose it is, and what of that a judgement asks for. Computed from the walks and from Xen's
//! data, never from what the fuse says about itself.

use crate::dump::Dump;
use crate::frametable::Noted;
use serde::Serialize;
use std::fmt;

/// Whose a frame is. Where several apply, the first of this list is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Owner {
    /// Holds a table of EL2's stage 1, at this level.
    El2Table(u8),
    /// Holds a table of this domain's stage 2.
    Stage2Table(u16),
    /// Holds a table of a stage 2 that belongs to no known domain.
    StrayTable,
    /// Kept for this domain's tables to come.
    TablePool(u16),
    /// Xen's empty stage-2 root.
    EmptyRoot,
    /// Holds a table of a CPU's on-demand window.
    WindowTable,
    /// A static table in Xen's image: index into [`crate::xen::Found::tables`].
    ImageTable(u16),
    /// Xen's own, and seen by this domain (shared info, grant table).
    SeenBy(u16),
    /// Memory of this domain, which is protected, and shares it on purpose.
    Shared(u16),
    /// Memory of this domain.
    Guest(u16),
    /// Xen's image: index into [`crate::xen::Found::sections`].
    Image(u16),
    /// The frame table.
    FrameTable,
    /// Xen's heap.
    Xenheap,
    /// In the tables of this domain, which is not protected, at an address that it cannot reach.
    Beyond(u16),
    /// This domain's by the frame table alone: not in its stage 2.
    Owned(u16),
    /// In use and nobody's, by the frame table: Xen's own, or left by the boot.
    InUse,
    /// Free, by the frame table.
    Free,
    /// Xen's image, given back after boot.
    Init,
    /// Nothing of the above: free, or a kind of memory that this verifier does not know.
    Unknown,
}

impl Owner {
    /// Whether the frame holds, or may come to hold, translation tables.
    pub fn is_table(self) -> bool {
        matches!(
            self,
            Owner::El2Table(_)
                | Owner::Stage2Table(_)
                | Owner::StrayTable
                | Owner::TablePool(_)
                | Owner::EmptyRoot
                | Owner::WindowTable
                | Owner::ImageTable(_)
        )
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::El2Table(level) => write!(f, "EL2 table, level {level}"),
            Owner::Stage2Table(id) => write!(f, "stage-2 table of d{id}"),
            Owner::StrayTable => f.write_str("stage-2 table of no known domain"),
            Owner::TablePool(id) => write!(f, "table pool of d{id}"),
            Owner::EmptyRoot => f.write_str("empty stage-2 root"),
            Owner::WindowTable => f.write_str("window table"),
            Owner::ImageTable(_) => f.write_str("static table"),
            Owner::SeenBy(id) => write!(f, "Xen's own, seen by d{id}"),
            Owner::Shared(id) => write!(f, "d{id}, shared on purpose"),
            Owner::Guest(id) => write!(f, "d{id}"),
            Owner::Image(_) => f.write_str("Xen's image"),
            Owner::Init => f.write_str("Xen's image, freed after boot"),
            Owner::FrameTable => f.write_str("frame table"),
            Owner::Xenheap => f.write_str("xenheap"),
            Owner::Beyond(id) => write!(f, "d{id}, beyond its addresses"),
            Owner::Owned(id) => write!(f, "d{id}, not in its stage 2"),
            Owner::InUse => f.write_str("Xen's, from the domheap or left by the boot"),
            Owner::Free => f.write_str("free"),
            Owner::Unknown => f.write_str("unknown"),
        }
    }
}

/// A run of frames of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First frame.
    pub mfn: u64,
    /// Number of frames.
    pub count: u64,
    /// Whose they are.
    pub owner: Owner,
}

/// The owner of every frame of RAM, and which of them are protected.
pub struct Frames {
    owner: Vec<Owner>,
    /// Protected domain that reaches the frame.
    protected: Vec<Option<u16>>,
    /// Claim of several domains on the frame: index into `common` of the registers file.
    common: Vec<Option<u16>>,
    /// Xen's image, whoever else has it.
    image: Vec<bool>,
    /// Xen's image, heap or frame table, whoever else has it.
    private: Vec<bool>,
}

impl Frames {
    /// Nobody's frames.
    pub fn new(dump: &Dump) -> Frames {
        let frames = dump.frames();
        Frames {
            owner: vec![Owner::Unknown; frames],
            protected: vec![None; frames],
            common: vec![None; frames],
            image: vec![false; frames],
            private: vec![false; frames],
        }
    }

    /// Gives a run of physical memory to `owner`, where no one with a better claim has it.
    pub fn claim(&mut self, dump: &Dump, pa: u64, len: u64, owner: Owner) {
        for (_, index, count) in dump.ram_within(pa, len) {
            for o in &mut self.owner[index..index + count] {
                *o = owner.min(*o);
            }
            if let Owner::Image(_) = owner {
                self.image[index..index + count].fill(true);
            }
            if let Owner::Image(_) | Owner::FrameTable | Owner::Xenheap = owner {
                self.private[index..index + count].fill(true);
            }
        }
    }

    /// Takes what the frame table notes of each frame, where nothing better is known.
    pub fn note(&mut self, noted: &[Noted]) {
        for (owner, noted) in self.owner.iter_mut().zip(noted) {
            let noted = match *noted {
                Noted::Domain(id) => Owner::Owned(id),
                Noted::Xen => Owner::InUse,
                Noted::Free => Owner::Free,
                Noted::Nothing => Owner::Unknown,
            };
            *owner = match (*owner, noted) {
                // Another's page, that it may not even have.
                (Owner::Beyond(by), Owner::Owned(id)) if by != id => noted,
                (owner, noted) => owner.min(noted),
            };
        }
    }

    /// Marks a run of physical memory as protected memory of domain `id`.
    pub fn protect(&mut self, dump: &Dump, pa: u64, len: u64, id: u16) {
        for (_, index, count) in dump.ram_within(pa, len) {
            self.protected[index..index + count].fill(Some(id));
        }
    }

    /// Notes that a run of physical memory is claimed to be several domains', by the claim's index; with `open` it is
    /// nobody's to protect.
    pub fn make_common(&mut self, dump: &Dump, pa: u64, len: u64, claim: u16, open: bool) {
        for (_, index, count) in dump.ram_within(pa, len) {
            self.common[index..index + count].fill(Some(claim));
            if open {
                self.protected[index..index + count].fill(None);
            }
        }
    }

    /// Which claim of several domains a frame of RAM belongs to, by index.
    pub fn common(&self, index: usize) -> Option<usize> {
        self.common[index].map(usize::from)
    }

    /// Takes a frame of Xen's own out of protection. Whether it was protected by `id`.
    pub fn release(&mut self, dump: &Dump, mfn: u64, id: u16) -> bool {
        match dump.frame_index(mfn).map(|i| &mut self.protected[i]) {
            Some(p) if *p == Some(id) => {
                *p = None;
                true
            }
            _ => false,
        }
    }

    /// Makes memory of domain `id` a frame that it shares on purpose, and takes it out of protection. Whether that
    /// could be done: a table, Xen's own or another's is not the domain's to share.
    pub fn share(&mut self, dump: &Dump, mfn: u64, id: u16) -> bool {
        let Some(i) = dump.frame_index(mfn) else {
            return false;
        };
        // Others may reach it as well, and then be named as the owner.
        let guest = matches!(self.owner[i], Owner::Guest(_));
        let may = guest && self.protected[i] == Some(id) && !self.private[i];
        if may {
            self.owner[i] = Owner::Shared(id);
            self.protected[i] = None;
        }
        may
    }

    /// Owner of a frame of RAM, by index.
    pub fn owner(&self, index: usize) -> Owner {
        self.owner[index]
    }

    /// Protected domain that reaches a frame of RAM, by index.
    pub fn protected(&self, index: usize) -> Option<u16> {
        self.protected[index]
    }

    /// Whether a frame of RAM is part of Xen's image as it runs, by index.
    pub fn image(&self, index: usize) -> bool {
        self.image[index]
    }

    /// Whether a frame of RAM is Xen's alone: its image, heap or frame table, whoever else has it. By index.
    pub fn private(&self, index: usize) -> bool {
        self.private[index]
    }

    /// How many frames satisfy `wanted`, by index.
    pub fn count(&self, wanted: impl Fn(&Frames, usize) -> bool) -> usize {
        (0..self.owner.len()).filter(|&i| wanted(self, i)).count()
    }

    /// The frames of `[pa, pa + len)` that satisfy `wanted`, as runs of one owner.
    pub fn runs(
        &self,
        dump: &Dump,
        pa: u64,
        len: u64,
        wanted: impl Fn(&Frames, usize) -> bool,
    ) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (first, index, count) in dump.ram_within(pa, len) {
            for i in (0..count).filter(|i| wanted(self, index + i)) {
                let (mfn, owner) = (first + i as u64, self.owner[index + i]);
                match runs.last_mut() {
                    Some(run) if run.owner == owner && run.mfn + run.count == mfn => run.count += 1,
                    _ => runs.push(Run {
                        mfn,
                        count: 1,
                        owner,
                    }),
                }
            }
        }
        runs
    }
}
