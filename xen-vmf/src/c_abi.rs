//! What Xen calls: the exports of the crate.
//!
//! `asm/vmf_rust.h` is generated from this file. Each function says in which
//! context Xen calls it; none of them decides anything itself.
#![allow(
    unsafe_code,
    reason = "functions with C linkage that take pointers from Xen"
)]

use crate::addr::{Gfn, Mfn, Vaddr};
use crate::error::Error;
use crate::fuse;
use crate::heap;
use crate::hypercall::{self, Call, Job, Outcome};
use crate::snapshot;
use crate::stage2::GuestExtent;
use crate::state;
use crate::window::{Refusal, TABLES, Window};
use crate::xen::{WindowTables, Xen};
use core::fmt::Write;
use core::ptr::null;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Level-3 tables of a CPU's window.
pub const VMF_WINDOW_TABLES: u32 = 5;
/// Bytes of address space of a CPU's window.
pub const VMF_WINDOW_BYTES: u32 = VMF_WINDOW_TABLES << 21;
/// Bytes of a `struct Window`.
pub const VMF_WINDOW_STATE_BYTES: u32 = 1080;
/// Answer of [`vmf_window_map`] when every region is in use; no address.
pub const VMF_WINDOW_FULL: u64 = 1;

static_assertions::const_assert_eq!(VMF_WINDOW_TABLES as usize, TABLES);
static_assertions::const_assert_eq!(VMF_WINDOW_BYTES as u64, crate::window::WINDOW_BYTES);
static_assertions::const_assert_eq!(VMF_WINDOW_STATE_BYTES as usize, size_of::<Window>());

static SNAPSHOT: AtomicPtr<GuestExtent> = AtomicPtr::new(null::<GuestExtent>().cast_mut());
static SNAPSHOT_LEN: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn vmf_c_set_snapshot(domid: u16, first: u64, len: u64);
    fn vmf_c_panic(text: *const u8, len: usize) -> !;
}

/// Pages of xenheap for a machine with `ram` bytes, when the command line asks
/// for `megabytes` (0: it does not). Early boot.
#[unsafe(no_mangle)]
pub extern "C" fn vmf_xenheap_pages(ram: u64, megabytes: u64) -> u64 {
    heap::xenheap_pages(ram, megabytes)
}

/// Makes `window` the state of a window at `base`. Its tables are in the
/// `VMF_WINDOW_TABLES` frames `tables`; `vmf_system_slot()` says where they
/// are mapped.
///
/// # Safety
/// `window` points to `VMF_WINDOW_STATE_BYTES` bytes, aligned to 8, that
/// nobody uses yet; `tables` to as many frames.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmf_window_init(window: *mut Window, base: u64, tables: *const u64) {
    let mut frames = [Mfn::new(0); TABLES];
    for (i, frame) in frames.iter_mut().enumerate() {
        // SAFETY: `tables` points to `TABLES` frames.
        *frame = Mfn::new(unsafe { tables.add(i).read() });
    }
    // SAFETY: the caller gives storage of the right size and alignment.
    unsafe { window.write(Window::new(Vaddr::new(base), frames)) }
}

/// Page of the window, counted from its start, where table `index` is mapped.
#[unsafe(no_mangle)]
pub extern "C" fn vmf_system_slot(index: u32) -> u32 {
    Window::system_slot(index as usize) as u32
}

/// The address of `mfn` in this CPU's window, which it has one more use of from
/// now on; or 0 where that takes [`vmf_window_map`]. IRQs may come.
///
/// # Safety
/// `window` is this CPU's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmf_window_find(window: *const Window, mfn: u64) -> u64 {
    // SAFETY: changed by the caller's CPU only, and by atomic means.
    let found = unsafe { &*window }.find(Mfn::new(mfn));
    found.map_or(0, Vaddr::get)
}

/// Maps `mfn` in this CPU's window and returns its address, or 0 if the frame
/// must not be mapped, or [`VMF_WINDOW_FULL`]. IRQs masked.
///
/// # Safety
/// `window` is this CPU's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmf_window_map(window: *const Window, mfn: u64) -> u64 {
    // SAFETY: as in `vmf_window_find`.
    let window = unsafe { &*window };
    match window.map(&mut WindowTables, Mfn::new(mfn)) {
        Ok(va) => va.get(),
        Err(Refusal::Full) => VMF_WINDOW_FULL,
        Err(Refusal::Forbidden) => 0,
    }
}

/// Ends the use of an address from [`vmf_window_find`] or [`vmf_window_map`];
/// `false` if it is not one that is in use. IRQs may come.
///
/// # Safety
/// `window` is this CPU's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmf_window_unmap(window: *const Window, va: u64) -> bool {
    // SAFETY: as in `vmf_window_find`.
    unsafe { &*window }.unmap(Vaddr::new(va))
}

/// The frame behind an address that is in use, `~0` if there is none. IRQs may
/// come.
///
/// # Safety
/// `window` is this CPU's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmf_window_frame(window: *const Window, va: u64) -> u64 {
    // SAFETY: as in `vmf_window_find`.
    let frame = unsafe { &*window }.frame(Vaddr::new(va));
    frame.map_or(u64::MAX, Mfn::get)
}

/// Whether `vmf_op` knows the command.
#[unsafe(no_mangle)]
pub extern "C" fn vmf_is_known(cmd: u32) -> bool {
    hypercall::is_known(cmd)
}

/// Whether only the control domain may make the call.
#[unsafe(no_mangle)]
pub extern "C" fn vmf_needs_privilege(cmd: u32, domid: u32, caller: u16) -> bool {
    let call = Call {
        cmd,
        domid,
        arg0: 0,
        arg1: 0,
    };
    hypercall::needs_privilege(&call, caller)
}

/// Decides a `vmf_op` that XSM has let through. Returns the hypercall's result
/// and stores 0 in `job`, or stores a job for [`vmf_run`].
///
/// # Safety
/// `job` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmf_decide(
    cmd: u32,
    domid: u32,
    arg0: u64,
    arg1: u64,
    caller: u16,
    job: *mut u64,
) -> i64 {
    let call = Call {
        cmd,
        domid,
        arg0,
        arg1,
    };
    let (result, deferred) = match hypercall::decide(&Xen, &call, caller) {
        Ok(Outcome::Value(value)) => (i64::from(value), 0),
        Ok(Outcome::Deferred(job)) => (0, job.encode()),
        Err(error) => (-error.errno(), 0),
    };
    // SAFETY: the caller's promise.
    unsafe { job.write(deferred) };
    result
}

/// Does a job from [`vmf_decide`]. In a tasklet on CPU 0, all domains paused.
#[unsafe(no_mangle)]
pub extern "C" fn vmf_run(job: u64) -> i64 {
    let Some(job) = Job::decode(job) else {
        return -Error::Invalid.errno();
    };
    let result = match job {
        Job::Protect(id) => fuse::protect(&Xen, id).map(|()| 0),
        Job::CountStray => fuse::stray_leaves(&Xen).map(|n| n.min(0x7fff_ffff) as i64),
        Job::Lock(seal) => fuse::lock(&Xen, seal, &mut |domain, share| {
            // SAFETY: stores two numbers in the domain.
            unsafe { vmf_c_set_snapshot(domain.id, share.first as u64, share.len as u64) }
        })
        .map(|frozen| {
            SNAPSHOT_LEN.store(frozen.snapshot.len(), Ordering::Relaxed);
            SNAPSHOT.store(frozen.snapshot.as_ptr().cast_mut(), Ordering::Release);
            0
        }),
    };
    match result {
        Ok(value) => value,
        Err(error) => -error.errno(),
    }
}

/// Looks up a guest frame in the frozen snapshot, in the `len` extents from
/// `first` on. Returns the machine frame or `~0`, and stores the p2m type and
/// the order. Any context, after the lock.
///
/// # Safety
/// `p2m_type` and `order` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmf_snapshot_lookup(
    first: u64,
    len: u64,
    gfn: u64,
    p2m_type: *mut u32,
    order: *mut u32,
) -> u64 {
    let all = SNAPSHOT.load(Ordering::Acquire);
    let extents: &[GuestExtent] = if all.is_null() {
        &[]
    } else {
        // SAFETY: stored by `vmf_run`, never freed and never changed again.
        unsafe { core::slice::from_raw_parts(all, SNAPSHOT_LEN.load(Ordering::Relaxed)) }
    };
    let own = extents
        .get(first as usize..(first + len) as usize)
        .unwrap_or(&[]);
    let answer = snapshot::lookup(own, Gfn::new(gfn));
    // SAFETY: the caller's promise.
    unsafe {
        p2m_type.write(answer.p2m_type as u32);
        order.write(answer.order);
    }
    answer.mfn.map_or(u64::MAX, Mfn::get)
}

/// Adds to one of the counters of `XENVMF_counters`.
#[unsafe(no_mangle)]
pub extern "C" fn vmf_count(counter: u32, amount: u64) {
    state::count(counter, amount);
}

/// A line of text of limited length.
struct Line {
    text: [u8; 192],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let room = self.text.len() - self.len;
        let n = s.len().min(room);
        self.text[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// A Rust panic is a Xen panic, with file and line.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let mut line = Line {
        text: [0; 192],
        len: 0,
    };
    if let Some(place) = info.location() {
        let _ = write!(line, "{}:{}: ", place.file(), place.line());
    }
    let _ = write!(line, "{}", info.message());
    // SAFETY: does not return; `line` outlives the call.
    unsafe { vmf_c_panic(line.text.as_ptr(), line.len) }
}
