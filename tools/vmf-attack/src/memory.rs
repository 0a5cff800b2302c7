//! Memory of this process in dom0 whose machine address is known, and other
//! addresses of dom0's through `/dev/mem`, which may abort.
#![allow(
    unsafe_code,
    reason = "memory by physical address, and a child that may die of it"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::Ordering;

use crate::Failure;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Words of a page.
pub const WORDS: usize = 512;

/// A locked page. dom0 is mapped 1:1, so its physical address is the machine's.
pub struct Page {
    words: *mut u64,
    /// Machine address.
    pub address: u64,
}

impl Page {
    /// A page, all zero.
    pub fn new() -> Result<Self, Failure> {
        // SAFETY: a new mapping, anywhere.
        let words = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if words == libc::MAP_FAILED {
            return Err(Failure::io("memory", &io::Error::last_os_error()));
        }
        let words: *mut u64 = words.cast();
        // SAFETY: mapped just now, one page.
        unsafe { words.write_volatile(0) };
        let address = physical(words.expose_provenance() as u64)?;
        Ok(Self { words, address })
    }

    /// Writes a word.
    pub fn put(&self, index: usize, value: u64) {
        assert!(index < WORDS);
        // SAFETY: inside the page, which is mapped as long as the process lives.
        unsafe { self.words.add(index).write_volatile(value) };
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Reads a word, which others may write.
    pub fn get(&self, index: usize) -> u64 {
        assert!(index < WORDS);
        // SAFETY: as above.
        unsafe { self.words.add(index).read_volatile() }
    }

    /// Makes what was written visible to instruction fetches and to accesses
    /// past the caches.
    pub fn publish(&self) {
        #[cfg(target_arch = "aarch64")]
        for line in 0..PAGE / 64 {
            let address = self.words.expose_provenance() as u64 + line * 64;
            // SAFETY: cache maintenance by address (EL0 may, SCTLR_EL1.UCI).
            unsafe {
                std::arch::asm!("dc civac, {a}", "dsb ish", "ic ivau, {a}", "dsb ish", "isb",
                    a = in(reg) address, options(nostack));
            }
        }
    }
}

/// A page that Xen reads and writes by its address in this process.
pub struct Buffer(Page);

impl Buffer {
    /// A page, all zero. `bytes` is what the caller needs of it.
    pub fn new(bytes: usize) -> Result<Self, Failure> {
        assert!(bytes <= PAGE as usize);
        Page::new().map(Self)
    }

    /// Its address, for Xen.
    pub fn address(&self) -> u64 {
        self.0.words.expose_provenance() as u64
    }

    /// Writes the word at an offset.
    pub fn put(&self, offset: u64, value: u64) {
        self.0.put((offset / 8) as usize, value);
    }
}

/// The physical address behind an address of this process.
fn physical(address: u64) -> Result<u64, Failure> {
    let map = File::open("/proc/self/pagemap").map_err(|e| Failure::io("pagemap", &e))?;
    let mut entry = [0; 8];
    map.read_exact_at(&mut entry, address / PAGE * 8)
        .map_err(|e| Failure::io("pagemap", &e))?;
    let entry = u64::from_le_bytes(entry);
    let frame = entry & ((1 << 55) - 1);
    // Linux, Documentation/admin-guide/mm/pagemap.rst.
    if entry >> 63 == 0 || frame == 0 {
        return Err(Failure("pagemap does not say where a page is".into()));
    }
    Ok(frame * PAGE)
}

/// A page of dom0's physical address space.
pub struct Window {
    address: *const u64,
}

/// Does something in a child, which what it does may kill: Linux ends a
/// process with SIGKILL for the aborts that Xen injects. `None` if it did.
pub fn in_child(work: impl FnOnce() -> u64) -> Result<Option<u64>, Failure> {
    let failed = |what: &str| Failure::io(what, &io::Error::last_os_error());
    let mut pipe = [0; 2];
    // SAFETY: the call fills the array.
    if unsafe { libc::pipe(pipe.as_mut_ptr()) } != 0 {
        return Err(failed("pipe"));
    }
    let [from, to] = pipe;
    // SAFETY: no other thread runs in this process at this time.
    match unsafe { libc::fork() } {
        -1 => Err(failed("fork")),
        0 => {
            let value = work().to_le_bytes();
            // SAFETY: 8 bytes, an open descriptor; the child ends here.
            unsafe {
                libc::write(to, value.as_ptr().cast(), value.len());
                libc::_exit(0);
            }
        }
        child => {
            let mut value = [0u8; 8];
            // SAFETY: 8 bytes, descriptors and a child of this function's own.
            let count = unsafe {
                libc::close(to);
                let count = libc::read(from, value.as_mut_ptr().cast(), value.len());
                libc::close(from);
                libc::waitpid(child, ptr::null_mut(), 0);
                count
            };
            Ok((count == 8).then(|| u64::from_le_bytes(value)))
        }
    }
}

impl Window {
    /// The page at physical address `at` of dom0.
    pub fn open(at: u64) -> Result<Self, Failure> {
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mem")
            .map_err(|error| Failure::io("/dev/mem", &error))?;
        // SAFETY: a new mapping, anywhere. Nothing of this process or of the
        // kernel is there.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                memory.as_raw_fd(),
                (at & !(PAGE - 1)) as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(Failure::io("mmap of /dev/mem", &error));
        }
        Ok(Self {
            address: address.cast_const().cast(),
        })
    }

    /// Reads a word. Where nothing answers this is the end of the process, see
    /// [`in_child`].
    pub fn load(&self, index: usize) -> u64 {
        assert!(index < WORDS);
        // SAFETY: inside the page that is mapped as long as `self`.
        unsafe { self.address.add(index).read_volatile() }
    }

    /// Writes 32 bits of a device, big-endian as fw_cfg wants them.
    pub fn device_store(&self, offset: usize, value: u32) {
        assert!(offset < PAGE as usize && offset.is_multiple_of(4));
        // SAFETY: inside the page; a device register of 32 bits.
        unsafe {
            let register = self.address.cast::<u8>().add(offset).cast::<u32>();
            register.cast_mut().write_volatile(value.to_be());
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, and not used after.
        unsafe { libc::munmap(self.address.cast_mut().cast(), PAGE as usize) };
    }
}
