//! Sets of machine frames as sorted extents.
//!
//! The fuse thinks in extents, so that its cost follows how memory is laid
//! out and not how much there is. A set lives in storage that the caller
//! provides: nothing here allocates, so it can be used while all CPUs are
//! stopped.

use crate::addr::Mfn;

/// A run of machine frames: `start` and the `pages - 1` frames after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Extent {
    /// First frame.
    pub start: Mfn,
    /// Number of frames.
    pub pages: u64,
}

impl Extent {
    /// An extent of `pages` frames from `start` on.
    pub const fn new(start: Mfn, pages: u64) -> Self {
        Self { start, pages }
    }

    /// The frame after the last one.
    pub const fn end(&self) -> u64 {
        self.start.get().saturating_add(self.pages)
    }

    /// Whether `mfn` belongs to it.
    pub const fn contains(&self, mfn: Mfn) -> bool {
        mfn.get() >= self.start.get() && mfn.get() < self.end()
    }

    /// Number of frames that it shares with `other`.
    pub const fn overlap(&self, other: &Extent) -> u64 {
        let start = if self.start.get() > other.start.get() {
            self.start.get()
        } else {
            other.start.get()
        };
        let end = if self.end() < other.end() {
            self.end()
        } else {
            other.end()
        };
        end.saturating_sub(start)
    }

    /// For how many frames from `mfn` on the same is true: that they belong to
    /// it, or that they do not.
    pub const fn alike(&self, mfn: Mfn) -> u64 {
        if mfn.get() < self.start.get() {
            self.start.get() - mfn.get()
        } else if mfn.get() < self.end() {
            self.end() - mfn.get()
        } else {
            u64::MAX
        }
    }
}

/// The storage of a [`FrameSet`] is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A set of frames: sorted, disjoint extents that do not touch.
#[derive(Debug)]
pub struct FrameSet<'a> {
    storage: &'a mut [Extent],
    len: usize,
    sorted: bool,
}

impl<'a> FrameSet<'a> {
    /// An empty set that may use all of `storage`.
    pub fn new(storage: &'a mut [Extent]) -> Self {
        Self {
            storage,
            len: 0,
            sorted: true,
        }
    }

    /// Adds frames in any order; they may overlap what is there.
    /// [`FrameSet::normalise`] must run before the next query.
    ///
    /// Where there is no room at the end, what is there is merged. That has to
    /// free a quarter of the room, or it would be done again and again.
    pub fn push(&mut self, extent: Extent) -> Result<(), Full> {
        if extent.pages == 0 {
            return Ok(());
        }
        if let Some(last) = self.storage[..self.len].last_mut()
            && last.end() == extent.start.get()
        {
            last.pages += extent.pages;
            return Ok(());
        }
        if self.len == self.storage.len() {
            self.normalise();
            if (self.storage.len() - self.len) * 4 < self.storage.len() {
                return Err(Full);
            }
        }
        let slot = self.storage.get_mut(self.len).ok_or(Full)?;
        *slot = extent;
        self.len += 1;
        self.sorted = false;
        Ok(())
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
        self.sorted = true;
    }

    /// Sorts and merges.
    pub fn normalise(&mut self) {
        if self.len == 0 {
            self.sorted = true;
            return;
        }
        let used = &mut self.storage[..self.len];
        used.sort_unstable_by_key(|e| e.start);
        let mut out = 0;
        for i in 1..used.len() {
            let next = used[i];
            let last = &mut used[out];
            if next.start.get() <= last.end() {
                last.pages = last.pages.max(next.end() - last.start.get());
            } else {
                out += 1;
                used[out] = next;
            }
        }
        self.len = out + 1;
        self.sorted = true;
    }

    /// The extents in ascending order.
    pub fn extents(&self) -> &[Extent] {
        debug_assert!(self.sorted, "a set is queried before it is normalised");
        &self.storage[..self.len]
    }

    /// Number of frames in the set.
    pub fn pages(&self) -> u64 {
        self.extents().iter().map(|e| e.pages).sum()
    }

    /// How many frames of `range` are in the set.
    pub fn overlap(&self, range: &Extent) -> u64 {
        let extents = self.extents();
        // Most questions are about frames that are nowhere near.
        let near = |first: &Extent, last: &Extent| {
            range.start.get() < last.end() && first.start.get() < range.end()
        };
        let ends = extents.first().zip(extents.last());
        if !ends.is_some_and(|(first, last)| near(first, last)) {
            return 0;
        }
        let first = extents.partition_point(|e| e.end() <= range.start.get());
        extents[first..]
            .iter()
            .take_while(|e| e.start.get() < range.end())
            .map(|e| e.overlap(range))
            .sum()
    }

    /// For how many frames from `mfn` on the same is true: that they are in the
    /// set, or that they are not.
    pub fn alike(&self, mfn: Mfn) -> u64 {
        let extents = self.extents();
        let next = match extents.first() {
            Some(first) if mfn < first.start => Some(first),
            _ => extents.get(extents.partition_point(|e| e.end() <= mfn.get())),
        };
        next.map_or(u64::MAX, |extent| extent.alike(mfn))
    }

    /// Whether `mfn` is in the set.
    pub fn contains(&self, mfn: Mfn) -> bool {
        self.overlap(&Extent::new(mfn, 1)) == 1
    }
}
