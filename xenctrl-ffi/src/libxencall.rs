//! libxencall, Xen's own library for hypercalls, loaded when it is there.
#![allow(unsafe_code, reason = "functions of a C library")]

use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::ptr;

use libloading::Library;
use xen_vmf_abi::__HYPERVISOR_vmf_op;

use crate::transport::Transport;

type Open = unsafe extern "C" fn(*mut c_void, c_uint) -> *mut c_void;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;
type Call4 = unsafe extern "C" fn(*mut c_void, c_uint, u64, u64, u64, u64) -> c_int;

/// libxencall with an open handle.
///
/// # Invariants
/// `handle` comes from `xencall_open` and is closed once; `close` and `call`
/// are of the library that `_library` keeps loaded.
#[derive(Debug)]
pub struct Libxencall {
    handle: *mut c_void,
    call: Call4,
    close: Close,
    _library: Library,
}

impl Libxencall {
    /// Loads libxencall.so.1; none if it is not there or does not open.
    #[must_use]
    pub fn load() -> Option<Self> {
        // SAFETY: the library's initialisation has no side effects; the
        // signatures are those of xencall.h.
        unsafe {
            let library = Library::new("libxencall.so.1").ok()?;
            let open = *library.get::<Open>(b"xencall_open\0").ok()?;
            let close = *library.get::<Close>(b"xencall_close\0").ok()?;
            let call = *library.get::<Call4>(b"xencall4\0").ok()?;
            let handle = open(ptr::null_mut(), 0);
            (!handle.is_null()).then_some(Self {
                handle,
                call,
                close,
                _library: library,
            })
        }
    }
}

impl Drop for Libxencall {
    fn drop(&mut self) {
        // SAFETY: the invariants.
        unsafe { (self.close)(self.handle) };
    }
}

impl Transport for Libxencall {
    fn vmf_op(&self, [cmd, domid, arg0, arg1]: [u64; 4]) -> Result<u32, i32> {
        // SAFETY: the invariants; vmf_op takes and returns registers only.
        let result =
            unsafe { (self.call)(self.handle, __HYPERVISOR_vmf_op, cmd, domid, arg0, arg1) };
        u32::try_from(result).map_err(|_| {
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO)
        })
    }

    fn name(&self) -> &'static str {
        "libxencall"
    }
}
