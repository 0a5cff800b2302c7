//! Memory of this process in dom0 whose machine address is known, and other
//! addresses of dom0's through `/dev/mem`, whose aborts are caught.
#![allow(
    unsafe_code,
    reason = "memory by physical address, and a signal handler around one load"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Aborts that the handler has stepped over.
static ABORTS: AtomicU64 = AtomicU64::new(0);

extern "C" fn aborted(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    ABORTS.fetch_add(1, Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    {
        let context: *mut libc::ucontext_t = context.cast();
        // SAFETY: the kernel passes the context of the interrupted thread,
        // which executed the one load of `Window::load`; it is stepped over.
        unsafe { (*context).uc_mcontext.pc += 4 };
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        let _ = context;
        std::process::abort();
    }
}

/// Installs the handler for loads that abort.
pub fn catch_aborts() -> Result<(), Failure> {
    // SAFETY: all zero is a valid sigaction; the handler is async-signal-safe.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = aborted as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        [libc::SIGBUS, libc::SIGSEGV]
            .iter()
            .all(|signal| libc::sigaction(*signal, &raw const action, ptr::null_mut()) == 0)
    };
    if done {
        Ok(())
    } else {
        Err(Failure::io("sigaction", &io::Error::last_os_error()))
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

    /// Reads a word; `None` where the load aborts.
    pub fn load(&self, index: usize) -> Option<u64> {
        assert!(index < WORDS);
        let before = ABORTS.load(Ordering::SeqCst);
        // SAFETY: inside the page that is mapped as long as `self`.
        let address = unsafe { self.address.add(index) };
        let value: u64;
        #[cfg(target_arch = "aarch64")]
        // SAFETY: one load, which the handler steps over if it aborts.
        unsafe {
            std::arch::asm!("mov {v}, #0", "ldr {v}, [{a}]", v = out(reg) value, a = in(reg) address,
                options(nostack));
        }
        #[cfg(not(target_arch = "aarch64"))]
        {
            // SAFETY: as above; never used but on arm64.
            value = unsafe { address.read_volatile() };
        }
        (ABORTS.load(Ordering::SeqCst) == before).then_some(value)
    }

    /// Writes 32 bits of a device, big-endian as fw_cfg wants them.
    pub fn device_store(&self, offset: usize, value: u32) {
        assert!(offset < PAGE as usize && offset % 4 == 0);
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
