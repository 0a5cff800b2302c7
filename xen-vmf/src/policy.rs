//! Who stays mapped: the two policies of the fuse.
//!
//! *Forbidden is the default; retained is a list.* The lock judges a leaf by
//! the region that its address lies in and by every frame behind it:
//!
//! | region | what stays |
//! |---|---|
//! | image | Xen's own image but for the tables in it, and for what `seal` takes; the frozen page becomes read-only |
//! | fixmap | devices |
//! | frametable | the frametable |
//! | vmap | devices (of redistributors, what controls them becomes read-only) and Xen's own memory; no table, no protected page, no second mapping of the image |
//! | directmap | the xenheap, RAM that unprotected domains can reach, and what protected ones share |
//! | anywhere else | nothing |
//!
//! A frame that holds a table, or belongs to a protected domain that does not
//! share it, stays nowhere, whatever else is true of it.

use crate::addr::{Mfn, PAGE_SHIFT, Vaddr};
use crate::extents::{Extent, FrameSet};
use crate::plan::{Policy, VaRange, Verdict};

/// Xen's address space, as far as the fuse has to know it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Layout {
    /// Xen's image.
    pub image: VaRange,
    /// The fixmap.
    pub fixmap: VaRange,
    /// The windows of all CPUs.
    pub windows: VaRange,
    /// The vmap area.
    pub vmap: VaRange,
    /// The frametable.
    pub frametable: VaRange,
    /// The directmap.
    pub directmap: VaRange,
    /// Where the xenheap lies in the directmap.
    pub xenheap_va: VaRange,
    /// The frames of the image.
    pub image_frames: Extent,
    /// The frames of the image that held boot-time code and data. They were
    /// given to the domheap, and may belong to anybody.
    pub init_frames: Extent,
    /// The frames of the frametable.
    pub frametable_frames: Extent,
    /// The frames of the xenheap.
    pub xenheap: Extent,
    /// The frames of the image with code that only boot needs: the identity
    /// map, and what writes registers that decide how EL2 translates.
    pub boot_text: Extent,
    /// The frames of the image with the instruction `SMC`.
    pub smc_text: Extent,
    /// The page of the image that is read-only from the lock on.
    pub frozen: Mfn,
    /// Redistributors of the interrupt controller; unused ones are empty.
    pub redistributors: [Redistributors; REDISTRIBUTORS],
}

static_assertions::const_assert_eq!(size_of::<Layout>(), (27 + 3 * REDISTRIBUTORS) * 8);

/// Most regions of redistributors that the fuse knows; with more, the glue says
/// that an ITS is in use.
pub const REDISTRIBUTORS: usize = 4;

/// A region of redistributors (GICv3, Arm IHI 0069, 12.10), one behind the
/// other: 64 KiB that control it (RD_base), 64 KiB for SGIs and PPIs, and with
/// GICv4 128 KiB for virtual LPIs.
///
/// A redistributor reads and writes the tables of LPIs in memory, by physical
/// addresses that are written to RD_base, whether or not Xen uses LPIs. So from
/// the lock on, all but the part for SGIs and PPIs is read-only. Xen goes on
/// reading GICR_CTLR there, and writes nothing but when a CPU comes up.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Redistributors {
    /// First frame.
    pub start: u64,
    /// Frames.
    pub pages: u64,
    /// Frames from one redistributor to the next.
    pub stride: u64,
}

impl Redistributors {
    /// Pages of RD_base, and of the part for SGIs and PPIs.
    const PART: u64 = 16;

    /// How many of `frames` control a redistributor.
    fn control(&self, frames: &Extent) -> u64 {
        let end = self.start + self.pages;
        if frames.end() <= self.start || frames.start.get() >= end {
            return 0;
        }
        let first = frames.start.get().clamp(self.start, end) - self.start;
        let last = frames.end().clamp(self.start, end) - self.start;
        last - first - (self.interrupts(last) - self.interrupts(first))
    }

    /// Whether all of it counts as control: the stride that is claimed, a device
    /// tree's, has no room for both parts.
    const fn is_whole(&self) -> bool {
        self.stride < 2 * Self::PART
    }

    /// How many of the first `pages` are of the part for SGIs and PPIs.
    const fn interrupts(&self, pages: u64) -> u64 {
        if self.is_whole() {
            return 0;
        }
        let rest = (pages % self.stride).saturating_sub(Self::PART);
        let begun = if rest < Self::PART { rest } else { Self::PART };
        pages / self.stride * Self::PART + begun
    }

    /// For how many frames from `mfn` on the same is true: that they control a
    /// redistributor, or that they do not.
    fn alike(&self, mfn: Mfn) -> u64 {
        let all = Extent::new(Mfn::new(self.start), self.pages);
        if self.is_whole() || !all.contains(mfn) {
            return all.alike(mfn);
        }
        let at = (mfn.get() - self.start) % self.stride;
        let ends = [Self::PART, 2 * Self::PART, self.stride];
        let end = ends.into_iter().find(|&end| at < end);
        let end = end.unwrap_or(self.stride).min(self.stride);
        (end - at).min(all.alike(mfn))
    }
}

/// What goes besides, so that the lock cannot be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// Nothing: `lock`.
    None,
    /// Boot-time code; firmware can still be called.
    KeepFirmwareCalls,
    /// Boot-time code, and all calls of firmware.
    Full,
}

impl Seal {
    /// How many of `frames` go.
    pub const fn takes(self, layout: &Layout, frames: &Extent) -> u64 {
        match self {
            Seal::None => 0,
            Seal::KeepFirmwareCalls => frames.overlap(&layout.boot_text),
            Seal::Full => frames.overlap(&layout.boot_text) + frames.overlap(&layout.smc_text),
        }
    }
}

impl Layout {
    /// How many of `frames` are the image's.
    pub const fn in_image(&self, frames: &Extent) -> u64 {
        frames.overlap(&self.image_frames) - frames.overlap(&self.init_frames)
    }
}

/// `unmap`: the pages of protected domains leave the directmap.
#[derive(Debug)]
pub struct Unmap<'a> {
    /// Xen's address space.
    pub layout: &'a Layout,
    /// The frames that go.
    pub leaving: &'a FrameSet<'a>,
}

impl Policy for Unmap<'_> {
    fn verdict(&self, _: Vaddr, frames: Extent) -> Verdict {
        match self.leaving.overlap(&frames) {
            0 => Verdict::Keep,
            n if n == frames.pages => Verdict::Remove,
            _ => Verdict::Mixed,
        }
    }

    fn alike(&self, _: Vaddr, mfn: Mfn) -> u64 {
        self.leaving.alike(mfn)
    }

    fn elsewhere(&self, va: Vaddr, bytes: u64) -> bool {
        // Only the directmap; an entry above it is looked into.
        let end = va.get() + (bytes - 1);
        end < self.layout.directmap.start || va.get() >= self.layout.directmap.end
    }
}

/// `lock`: everything goes that is not retained.
#[derive(Debug)]
pub struct Lock<'a> {
    /// Xen's address space.
    pub layout: &'a Layout,
    /// Frames that hold a table of any regime.
    pub tables: &'a FrameSet<'a>,
    /// Frames of protected domains, but for those that they share.
    pub protected: &'a FrameSet<'a>,
    /// RAM that unprotected domains can reach, or protected ones share.
    pub unprotected: &'a FrameSet<'a>,
    /// All RAM.
    pub ram: &'a FrameSet<'a>,
    /// What goes of the image's text.
    pub seal: Seal,
}

impl Lock<'_> {
    /// How many of `frames` the region at `va` may map, before tables and
    /// protected frames are taken off.
    fn retained(&self, va: Vaddr, frames: &Extent) -> u64 {
        let l = self.layout;
        let at = va.get();
        if l.image.contains(at) {
            l.in_image(frames) - self.seal.takes(l, frames)
        } else if l.fixmap.contains(at) {
            frames.pages - self.ram.overlap(frames)
        } else if l.frametable.contains(at) {
            let here = l.frametable_frames.start.get() + ((at - l.frametable.start) >> PAGE_SHIFT);
            if frames.start.get() == here {
                frames.overlap(&l.frametable_frames)
            } else {
                0
            }
        } else if l.vmap.contains(at) {
            frames.pages - l.in_image(frames)
        } else if l.directmap.contains(at) {
            frames.overlap(&l.xenheap) + self.unprotected.overlap(frames)
        } else {
            0
        }
    }
}

impl Policy for Lock<'_> {
    fn verdict(&self, va: Vaddr, frames: Extent) -> Verdict {
        let taken = self.tables.overlap(&frames) + self.protected.overlap(&frames);
        match self.retained(va, &frames) {
            0 => Verdict::Remove,
            n if n == frames.pages && taken == 0 => {
                let control = self.layout.redistributors.iter();
                let control: u64 = control.map(|each| each.control(&frames)).sum();
                if frames.contains(self.layout.frozen) || control == frames.pages {
                    Verdict::ReadOnly
                } else if control == 0 {
                    Verdict::Keep
                } else {
                    Verdict::Mixed
                }
            }
            _ if taken == frames.pages => Verdict::Remove,
            _ => Verdict::Mixed,
        }
    }

    /// As far as no region and no set that a verdict asks for begins or ends.
    fn alike(&self, va: Vaddr, mfn: Mfn) -> u64 {
        let l = self.layout;
        let regions = [&l.image, &l.fixmap, &l.frametable, &l.vmap, &l.directmap];
        let sets = [self.tables, self.protected, self.unprotected, self.ram];
        let frozen = Extent::new(l.frozen, 1);
        let frames = [
            &l.image_frames,
            &l.init_frames,
            &l.frametable_frames,
            &l.xenheap,
            &l.boot_text,
            &l.smc_text,
            &frozen,
        ];
        let regions = regions.into_iter().map(|r| r.alike(va.get()));
        let sets = sets.into_iter().map(|s| s.alike(mfn));
        let frames = frames.into_iter().map(|f| f.alike(mfn));
        let control = l.redistributors.iter().map(|r| r.alike(mfn));
        let ends = regions.chain(sets).chain(frames).chain(control);
        ends.fold(u64::MAX, u64::min)
    }

    fn elsewhere(&self, va: Vaddr, bytes: u64) -> bool {
        let windows = self.layout.windows;
        bytes <= windows.end - windows.start && windows.contains(va.get())
    }
}
