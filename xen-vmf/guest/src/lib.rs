//! Hypercalls with pointers, from a guest whose memory Xen cannot read.
//!
//! Once the fuse has taken a domain's memory out of Xen's reach, a hypercall
//! gets `EFAULT` for every pointer into it, but for pages that the domain has
//! shared. [`Bounce`] copies arguments into such pages, and results back. A
//! guest changes one line for each hypercall:
//!
//! ```
//! # fn hypercall(op: u64, sub: u64, pointer: u64) -> i64 { 0 }
//! # fn send(bounce: &mut xen_vmf_guest::Bounce) -> Result<i64, xen_vmf_guest::Full> {
//! # let mut port = 1u32;
//! // before: hypercall(32, 4, &raw mut port as u64)
//! let result = bounce.with(&mut port, |_, pointer| hypercall(32, 4, pointer))?;
//! # Ok(result) }
//! ```
//!
//! Structures with pointers in them nest: the closure gets the rest of the
//! buffer.
//!
//! What is in shared pages, Xen and whoever has taken it over read and write at
//! any time. So results are no more than an allegation, and nothing secret
//! belongs there; of a structure, everything is copied, padding too.
//!
//! No allocation, no locks: one `Bounce` for each vCPU, or a lock around it.
#![no_std]
#![allow(
    unsafe_code,
    reason = "memory that the hypervisor reads and writes by address"
)]

use core::ptr::{self, NonNull};
use core::sync::atomic::{Ordering, compiler_fence};

pub use xen_vmf_abi as abi;

/// Bytes of a page, the unit of sharing.
pub const PAGE_SIZE: usize = 4096;
/// Arguments begin at multiples of this: more than any of Xen's needs.
const ALIGNMENT: usize = 16;

/// The shared pages have no room for the argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The arguments of the `vmf_op` that shares `pages` guest frames from `gfn`
/// on, for a guest's own stub: number, then four arguments. 0 is success; the
/// errors are in `public/vmf.h`.
pub const fn share_arguments(gfn: u64, pages: u64) -> (u64, [u64; 4]) {
    const DOMID_SELF: u64 = 0x7ff0;
    (
        abi::__HYPERVISOR_vmf_op as u64,
        [abi::XENVMF_share as u64, DOMID_SELF, gfn, pages],
    )
}

/// Shared memory for the arguments of hypercalls.
#[derive(Debug)]
pub struct Bounce {
    start: NonNull<u8>,
    bytes: usize,
    used: usize,
}

// SAFETY: it is the only user of its memory on the guest's side.
unsafe impl Send for Bounce {}

impl Bounce {
    /// Arguments go to the `bytes` bytes from `start` on.
    ///
    /// # Safety
    /// They are mapped, normal cacheable memory at this address for as long as
    /// the `Bounce` lives, their pages have been shared, and nobody else in the
    /// guest uses them.
    #[must_use]
    pub const unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        Self {
            start,
            bytes,
            used: 0,
        }
    }

    /// Calls `call` with the address of a copy of `value`, and takes the copy
    /// back afterwards. `T` is a structure of a hypercall: every pattern of
    /// bits is one.
    pub fn with<T: Copy, R>(
        &mut self,
        value: &mut T,
        call: impl FnOnce(&mut Self, u64) -> R,
    ) -> Result<R, Full> {
        let bytes = size_of::<T>();
        // SAFETY: `value` is `bytes` long, and stays while the call lasts.
        unsafe { self.around(ptr::from_mut(value).cast(), bytes, call) }
    }

    /// The same with a buffer of bytes: text, a list, what Xen fills.
    pub fn with_bytes<R>(
        &mut self,
        buffer: &mut [u8],
        call: impl FnOnce(&mut Self, u64) -> R,
    ) -> Result<R, Full> {
        // SAFETY: the slice is as long as it says.
        unsafe { self.around(buffer.as_mut_ptr(), buffer.len(), call) }
    }

    /// # Safety
    /// `own` points to `bytes` bytes of the guest's, outside the shared memory.
    unsafe fn around<R>(
        &mut self,
        own: *mut u8,
        bytes: usize,
        call: impl FnOnce(&mut Self, u64) -> R,
    ) -> Result<R, Full> {
        let before = self.used;
        let from = before.next_multiple_of(ALIGNMENT);
        let end = from.checked_add(bytes).ok_or(Full)?;
        if end > self.bytes {
            return Err(Full);
        }
        // SAFETY: in the shared memory, by the check above.
        let shared = unsafe { self.start.add(from) };
        self.used = end;
        // SAFETY: both are `bytes` long and do not overlap.
        unsafe { ptr::copy_nonoverlapping(own, shared.as_ptr(), bytes) };
        // The hypercall's stub need not say that it reads this.
        compiler_fence(Ordering::SeqCst);
        let result = call(self, shared.as_ptr().expose_provenance() as u64);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(shared.as_ptr(), own, bytes) };
        self.used = before;
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn bounce(memory: &mut [u64]) -> Bounce {
        let start = NonNull::new(memory.as_mut_ptr().cast()).unwrap();
        // SAFETY: the slice outlives the test's use of it.
        unsafe { Bounce::new(start, size_of_val(memory)) }
    }

    /// What Xen would do: reads and writes at an address.
    fn xen(address: u64, bytes: usize) -> &'static mut [u8] {
        let at = ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: the address is one that the bounce gave out, for as long.
        unsafe { core::slice::from_raw_parts_mut(at, bytes) }
    }

    #[test]
    fn arguments_go_there_and_results_come_back() {
        let mut memory = vec![0; 8];
        let range = memory.as_ptr_range();
        let mut bounce = bounce(&mut memory);
        let mut value = 0x1122_3344u32;
        let result = bounce.with(&mut value, |_, at| {
            assert!((range.start as u64..range.end as u64).contains(&at));
            let seen = xen(at, 4);
            assert_eq!(seen, 0x1122_3344u32.to_ne_bytes());
            seen.copy_from_slice(&7u32.to_ne_bytes());
            -5
        });
        assert_eq!((result, value), (Ok(-5), 7));
    }

    #[test]
    fn pointers_nest_and_room_comes_back() {
        let mut memory = vec![0; 6];
        let mut bounce = bounce(&mut memory);
        for _ in 0..3 {
            let mut text = *b"hello";
            let mut outer = (5u64, 0u64);
            let seen = bounce.with_bytes(&mut text, |bounce, at| {
                outer.1 = at;
                bounce.with(&mut outer, |_, at| {
                    let words: Vec<u64> = xen(at, 16)
                        .chunks(8)
                        .map(|w| u64::from_ne_bytes(w.try_into().unwrap()))
                        .collect();
                    xen(words[1], words[0] as usize).to_vec()
                })
            });
            assert_eq!(seen, Ok(Ok(b"hello".to_vec())));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_nothing_is_called() {
        let mut memory = vec![0; 4];
        let mut bounce = bounce(&mut memory);
        let mut large = [1u8; 33];
        let refused = bounce.with_bytes(&mut large, |_, _| panic!("called"));
        assert_eq!(refused, Err(Full));
        let mut whole = [1u8; 32];
        let nested = bounce.with_bytes(&mut whole, |bounce, _| bounce.with(&mut 1u8, |_, _| ()));
        assert_eq!(nested, Ok(Err(Full)));
        assert_eq!(share_arguments(3, 2), (43, [8, 0x7ff0, 3, 2]));
    }
}
