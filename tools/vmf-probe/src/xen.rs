//! Buffers that Xen can reach, and hypercalls that get them.
#![allow(
    unsafe_code,
    reason = "hypercalls that read and write memory by address"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use memmap2::{MmapMut, MmapOptions};
use xenctrl_ffi::privcmd::Privcmd;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[error("error={} errno={errno} what=\"{what}\" words=\"{}\"", name(*.errno), io::Error::from_raw_os_error(*.errno))]
pub struct Failure {
    what: String,
    errno: i32,
}

impl Failure {
    /// `errno` (positive) while doing `what`.
    pub fn new(what: impl Into<String>, errno: i32) -> Self {
        Self {
            what: what.into(),
            errno,
        }
    }

    /// The same, as part of something larger.
    pub fn within(self, larger: &str) -> Self {
        Self::new(format!("{larger}: {}", self.what), self.errno)
    }

    /// From an error of the operating system.
    pub fn io(what: impl Into<String>, error: &io::Error) -> Self {
        Self::new(what, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The errno's name.
    pub fn name(&self) -> &'static str {
        name(self.errno)
    }

    /// The last error of the operating system.
    pub fn last(what: impl Into<String>) -> Self {
        Self::io(what, &io::Error::last_os_error())
    }
}

fn name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EXDEV => "EXDEV",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::EROFS => "EROFS",
        libc::EMLINK => "EMLINK",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EADDRINUSE => "EADDRINUSE",
        _ => "OTHER",
    }
}

/// Memory that Xen reads and writes: pages of the kernel's hypercall device,
/// which never move, or locked ones where the kernel has no such device.
pub struct Buffer(MmapMut);

impl Buffer {
    /// Its address, for Xen.
    pub fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Puts `value` at its start.
    pub fn put<T: IntoBytes + Immutable>(&mut self, value: &T) {
        let bytes = value.as_bytes();
        self.0[..bytes.len()].copy_from_slice(bytes);
    }

    /// What is at `offset`.
    pub fn get<T: FromBytes + Immutable + KnownLayout>(&self, offset: usize) -> T {
        let bytes = &self.0[offset..offset + size_of::<T>()];
        T::read_from_bytes(bytes).expect("the slice has the size of T")
    }
}

/// The way to Xen.
pub struct Xen {
    privcmd: Privcmd,
    buffers: Option<File>,
}

impl Xen {
    /// Opens the drivers.
    pub fn open() -> Result<Self, Failure> {
        let privcmd = Privcmd::open(Path::new("/dev/xen/privcmd"))
            .map_err(|error| Failure::io("open /dev/xen/privcmd", &error))?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/xen/hypercall");
        Ok(Self {
            privcmd,
            buffers: device.ok(),
        })
    }

    /// The privcmd driver.
    pub fn privcmd(&self) -> &Privcmd {
        &self.privcmd
    }

    /// A buffer of whole pages, all zero.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer, Failure> {
        let bytes = bytes.next_multiple_of(4096);
        let mut map = match &self.buffers {
            // SAFETY: the driver gives each mapping pages of its own.
            Some(device) => unsafe { MmapOptions::new().len(bytes).map_mut(device) },
            None => MmapMut::map_anon(bytes).and_then(|map| map.lock().map(|()| map)),
        }
        .map_err(|error| Failure::io("hypercall buffer", &error))?;
        // Touches each page: Xen cannot fault it in.
        map.fill(0);
        Ok(Buffer(map))
    }

    /// A hypercall whose arguments are values and addresses of `buffers`.
    pub fn with(
        &self,
        what: &str,
        op: u32,
        arguments: [u64; 5],
        buffers: &mut [&mut Buffer],
    ) -> Result<u32, Failure> {
        // Held exclusively for the time of the call; that is all they are for.
        let _ = buffers;
        // SAFETY: the callers pass every buffer whose address is in the
        // arguments or in another buffer, each large enough for `op`.
        unsafe { self.privcmd.hypercall(op, arguments) }.map_err(|errno| Failure::new(what, errno))
    }

    /// A hypercall whose arguments are values only.
    pub fn registers(&self, what: &str, op: u32, arguments: [u64; 5]) -> Result<u32, Failure> {
        self.with(what, op, arguments, &mut [])
    }
}
