//! The privcmd driver: any hypercall by one ioctl, which is what libxencall
//! does as well.
#![allow(unsafe_code, reason = "an ioctl with a pointer")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use xen_vmf_abi::__HYPERVISOR_vmf_op;

use crate::transport::Transport;

/// `struct privcmd_hypercall` (Linux, include/uapi/xen/privcmd.h).
#[repr(C)]
struct Hypercall {
    op: u64,
    arguments: [u64; 5],
}

/// `IOCTL_PRIVCMD_HYPERCALL`: `_IOC(_IOC_NONE, 'P', 0, sizeof(struct …))`.
const IOCTL_PRIVCMD_HYPERCALL: u32 = ((size_of::<Hypercall>() as u32) << 16) | ((b'P' as u32) << 8);
const _: () = assert!(IOCTL_PRIVCMD_HYPERCALL == 0x0030_5000);

/// An open privcmd device.
#[derive(Debug)]
pub struct Privcmd(File);

impl Privcmd {
    /// Opens the device at `path`.
    ///
    /// # Errors
    /// Those of opening a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map(Self)
    }

    /// Makes hypercall `op`.
    ///
    /// # Safety
    /// Whatever memory the hypercall reads or writes by its arguments is
    /// valid for that, and locked in memory.
    ///
    /// # Errors
    /// The errno that Xen or the driver has returned, positive.
    pub unsafe fn hypercall(&self, op: u32, arguments: [u64; 5]) -> Result<u32, i32> {
        let call = Hypercall {
            op: op.into(),
            arguments,
        };
        // SAFETY: the ioctl reads `call`; the caller answers for what the
        // hypercall does.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                IOCTL_PRIVCMD_HYPERCALL as _,
                &raw const call,
            )
        };
        u32::try_from(result).map_err(|_| {
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO)
        })
    }
}

impl AsRawFd for Privcmd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl Transport for Privcmd {
    fn vmf_op(&self, [cmd, domid, arg0, arg1]: [u64; 4]) -> Result<u32, i32> {
        // SAFETY: vmf_op takes and returns registers only.
        unsafe { self.hypercall(__HYPERVISOR_vmf_op, [cmd, domid, arg0, arg1, 0]) }
    }

    fn name(&self) -> &'static str {
        "privcmd ioctl"
    }
}
