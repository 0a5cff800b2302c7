//! Mappings of other domains' pages, by the privcmd and gntdev drivers.
#![allow(
    unsafe_code,
    reason = "ioctls with pointers, and memory of other domains"
)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::ptr;
use std::thread;
use std::time::Duration;

use crate::public::GNTCOPY_SOURCE_GREF;
use crate::xen::{Failure, Xen};

const PAGE: usize = 4096;

/// `_IOC(_IOC_NONE, type, number, size)`.
const fn ioc(kind: u8, number: u32, size: usize) -> u32 {
    ((size as u32) << 16) | ((kind as u32) << 8) | number
}

/// `struct privcmd_mmapbatch_v2`.
#[repr(C)]
struct MmapBatch {
    num: u32,
    dom: u16,
    addr: u64,
    arr: *const u64,
    err: *mut i32,
}
const _: () = assert!(size_of::<MmapBatch>() == 32);

/// `struct privcmd_mmap_resource`.
#[repr(C)]
struct MmapResource {
    dom: u16,
    kind: u32,
    id: u32,
    idx: u32,
    num: u64,
    addr: u64,
}
const _: () = assert!(size_of::<MmapResource>() == 32);

/// `struct ioctl_gntdev_map_grant_ref` with one reference.
#[repr(C)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    index: u64,
    domid: u32,
    reference: u32,
}
const _: () = assert!(size_of::<MapGrantRef>() == 24);

/// `struct gntdev_grant_copy_segment`, from a grant to memory.
#[repr(C)]
struct CopySegment {
    source_ref: u32,
    source_offset: u16,
    source_domid: u16,
    destination: *mut u8,
    len: u16,
    flags: u16,
    status: i16,
}
const _: () = assert!(size_of::<CopySegment>() == 24);

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
struct GrantCopy {
    count: u32,
    segments: *mut CopySegment,
}
const _: () = assert!(size_of::<GrantCopy>() == 16);

/// A page of address space that a driver fills, unmapped on drop.
struct Page(*mut u64);

impl Page {
    fn map(file: &impl AsRawFd, offset: u64, what: &str) -> Result<Self, Failure> {
        // SAFETY: a new mapping, anywhere.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Failure::last(what));
        }
        Ok(Self(address.cast()))
    }

    fn read(&self) -> u64 {
        // SAFETY: mapped as long as `self`; another domain may write it.
        unsafe { self.0.read_volatile() }
    }

    fn write(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.write_volatile(value) };
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and not used after.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

/// Prints the line, then keeps the mapping: a test must know that it is there.
fn hold(line: String, seconds: u64) -> String {
    if seconds == 0 {
        return line;
    }
    println!("{line}");
    std::io::stdout().flush().ok();
    thread::sleep(Duration::from_secs(seconds));
    "held=done".into()
}

/// Maps a page of `domain`.
pub fn foreign(
    xen: &Xen,
    domain: u16,
    gfn: u64,
    write: Option<u64>,
    seconds: u64,
) -> Result<String, Failure> {
    let page = Page::map(xen.privcmd(), 0, "mmap of privcmd")?;
    let mut error = 0i32;
    let request = MmapBatch {
        num: 1,
        dom: domain,
        addr: page.0.expose_provenance() as u64,
        arr: &raw const gfn,
        err: &raw mut error,
    };
    let number = ioc(b'P', 4, size_of::<MmapBatch>());
    // SAFETY: one frame, one error, and a page of this driver's mapping.
    let result = unsafe { libc::ioctl(xen.privcmd().as_raw_fd(), number as _, &raw const request) };
    if result != 0 {
        return Err(Failure::last("mmapbatch"));
    }
    if error != 0 {
        return Err(Failure::new("mmapbatch of the frame", error.abs()));
    }
    if let Some(value) = write {
        page.write(value);
    }
    let line = format!("domain={domain} gfn={gfn:#x} word={:#018x}", page.read());
    Ok(hold(line, seconds))
}

/// Maps the first frame of the grant table of `domain`.
pub fn grant_table(xen: &Xen, domain: u16, seconds: u64) -> Result<String, Failure> {
    let page = Page::map(xen.privcmd(), 0, "mmap of privcmd")?;
    let request = MmapResource {
        dom: domain,
        // XENMEM_resource_grant_table, its shared frames
        kind: 1,
        id: 0,
        idx: 0,
        num: 1,
        addr: page.0.expose_provenance() as u64,
    };
    let number = ioc(b'P', 7, size_of::<MmapResource>());
    // SAFETY: one frame, and a page of this driver's mapping.
    let result = unsafe { libc::ioctl(xen.privcmd().as_raw_fd(), number as _, &raw const request) };
    if result != 0 {
        return Err(Failure::last("mmap_resource"));
    }
    let line = format!("domain={domain} word={:#018x}", page.read());
    Ok(hold(line, seconds))
}

fn gntdev() -> Result<File, Failure> {
    let path = "/dev/xen/gntdev";
    let device = OpenOptions::new().read(true).write(true).open(path);
    device.map_err(|error| Failure::io(format!("open {path}"), &error))
}

/// Maps a page that `domain` grants.
pub fn grant(domain: u16, reference: u32, seconds: u64) -> Result<String, Failure> {
    let device = gntdev()?;
    let mut request = MapGrantRef {
        count: 1,
        pad: 0,
        index: 0,
        domid: domain.into(),
        reference,
    };
    let number = ioc(b'G', 0, size_of::<MapGrantRef>());
    // SAFETY: the driver reads and writes the structure.
    if unsafe { libc::ioctl(device.as_raw_fd(), number as _, &raw mut request) } != 0 {
        return Err(Failure::last("map_grant_ref"));
    }
    let page = Page::map(&device, request.index, "mmap of gntdev")?;
    let line = format!("domain={domain} ref={reference} word={:#018x}", page.read());
    Ok(hold(line, seconds))
}

/// Copies the first word of a page that `domain` grants.
pub fn copy(domain: u16, reference: u32) -> Result<String, Failure> {
    let device = gntdev()?;
    let mut word = [0u8; 8];
    let mut segment = CopySegment {
        source_ref: reference,
        source_offset: 0,
        source_domid: domain,
        destination: word.as_mut_ptr(),
        len: word.len() as u16,
        flags: GNTCOPY_SOURCE_GREF,
        status: 0,
    };
    let request = GrantCopy {
        count: 1,
        segments: &raw mut segment,
    };
    let number = ioc(b'G', 8, size_of::<GrantCopy>());
    // SAFETY: one segment, whose destination holds `len` bytes.
    if unsafe { libc::ioctl(device.as_raw_fd(), number as _, &raw const request) } != 0 {
        return Err(Failure::last("grant_copy"));
    }
    match segment.status {
        0 => Ok(format!(
            "domain={domain} ref={reference} word={:#018x}",
            u64::from_le_bytes(word)
        )),
        status => Err(Failure::new(
            format!("grant_copy: GNTST {status}"),
            libc::EIO,
        )),
    }
}
