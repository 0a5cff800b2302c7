//! Working storage of a fuse command, from the xenheap.
//!
//! Lists are allocated before the machine is stopped and given back after;
//! nothing is allocated in between.
#![allow(
    unsafe_code,
    reason = "turns pages of the xenheap into typed, initialised slices"
)]

use crate::error::Error;
use crate::machine::Machine;
use core::mem::size_of;

/// Types that any bytes are a value of, and that need no drop.
///
/// # Safety
/// All-zero bytes must be a valid value.
pub unsafe trait Zeroable: Copy {}

// SAFETY: plain integers inside; 0 is a value of each field, for the type of
// a guest extent it is `P2mType::Invalid`.
unsafe impl Zeroable for crate::extents::Extent {}
// SAFETY: as above.
unsafe impl Zeroable for crate::plan::Edit {}
// SAFETY: as above.
unsafe impl Zeroable for crate::stage2::GuestExtent {}
// SAFETY: as above.
unsafe impl Zeroable for crate::addr::Mfn {}

/// A list of `T` in the xenheap. It has to be given back with
/// [`Buffer::free`], or handed over for good with [`Buffer::leak`].
#[derive(Debug)]
#[must_use]
pub struct Buffer<T> {
    start: *mut T,
    len: usize,
}

impl<T> Default for Buffer<T> {
    /// No storage.
    fn default() -> Self {
        Self {
            start: core::ptr::NonNull::dangling().as_ptr(),
            len: 0,
        }
    }
}

impl<T: Zeroable> Buffer<T> {
    /// Room for `len` items, all zero.
    pub fn new<M: Machine>(machine: &M, len: usize) -> Result<Self, Error> {
        let len = len.max(1);
        let bytes = len.checked_mul(size_of::<T>()).ok_or(Error::NoMemory)?;
        let start = machine.alloc(bytes).ok_or(Error::NoMemory)?.cast();
        Ok(Self { start, len })
    }

    /// The items.
    pub fn items(&mut self) -> &mut [T] {
        // SAFETY: `start` came from `Machine::alloc` with room for `len`
        // items, page-aligned and zeroed, which is a value of `T`; or it
        // dangles and `len` is 0. `self` is the only owner.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Gives the storage back, if there is any.
    pub fn free<M: Machine>(self, machine: &M) {
        if self.len != 0 {
            machine.free(self.start.cast(), self.len * size_of::<T>());
        }
    }

    /// The items, for as long as Xen runs.
    pub fn leak(self) -> &'static mut [T] {
        // SAFETY: as in `items`; the storage is never given back.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }
}
