//! Performs an event: its memory, its registers, its instruction.
#![allow(
    unsafe_code,
    reason = "runs instructions of chance, and writes the page that they name"
)]

use core::arch::{asm, global_asm};
use core::ptr::with_exposed_provenance_mut;

use bare::boot;
use bare::trap::{Abort, catch};
use canary_core::fuzz::event::{BYTES, Event};

global_asm!(include_str!("run.S"));

/// Most vCPUs that perform events.
pub const PERFORMERS: usize = 4;
/// An instruction, RET, and RET once more: for an HVC that it does not want, Xen
/// reports the address behind it, and the handler skips that one.
const SLOT: usize = 16;
const SLOTS: usize = 4096 / SLOT;
const RET: u32 = 0xd65f_03c0;

unsafe extern "C" {
    static code_pages: [u32; PERFORMERS * 1024];
    static spare_vcpu: u8;
    fn run_event(frame: *mut [u64; 10], code: *const u32);
}

/// Physical address of what the spare vCPU runs.
pub fn spare_entry(image_start: u64) -> u64 {
    boot::physical(&raw const spare_vcpu, image_start)
}

/// One vCPU's means.
pub struct Performer {
    code: *const u32,
    alias: *mut u32,
    /// What is in the slots.
    words: [u32; SLOTS],
    page: *mut u64,
    used: usize,
}

impl Performer {
    /// The means of vCPU `number`; `page` is its page of structures.
    ///
    /// # Safety
    /// The page is mapped and this vCPU's alone, as is the number; the image was
    /// loaded at `image_start`, and is mapped there writable as well.
    pub unsafe fn new(number: usize, page: u64, image_start: u64) -> Self {
        assert!(number < PERFORMERS);
        // SAFETY: within the symbol's size.
        let code = unsafe { (&raw const code_pages).cast::<u32>().add(number * 1024) };
        let alias = boot::physical(code, image_start);
        // CPACR_EL1.FPEN: SIMD accesses are to reach stage 2. The guest itself
        // uses none.
        // SAFETY: changes nothing else.
        unsafe { asm!("msr cpacr_el1, {}", "isb", in(reg) 3u64 << 20, options(nostack)) };
        Self {
            code,
            alias: with_exposed_provenance_mut(alias as usize),
            words: [0; SLOTS],
            page: with_exposed_provenance_mut(page as usize),
            used: 0,
        }
    }

    /// Performs it; returns x0, or the exception that it got.
    pub fn perform(&mut self, event: &Event) -> Result<u64, Abort> {
        let words = event.memory.words();
        for index in 0..words.len().max(self.used) {
            let word = words.get(index).copied().unwrap_or(0);
            const { assert!(BYTES <= 4096) };
            // SAFETY: within the page, by the promise of `new`.
            unsafe { self.page.add(index).write_volatile(word) };
        }
        self.used = words.len();
        let code = self.code(event.word);
        let mut frame = [0; 10];
        frame[..9].copy_from_slice(&event.x);
        frame[9] = event.number;
        // SAFETY: the grammar leaves out what would change this guest's own
        // Rust memory or control flow; traps are skipped.
        catch(|| unsafe { run_event(&mut frame, code) })?;
        Ok(frame[0])
    }

    /// Where `word` can be run.
    fn code(&mut self, word: u32) -> *const u32 {
        let slot = (word.wrapping_mul(0x9e37_79b1) >> 20) as usize % SLOTS;
        // SAFETY: within the vCPU's page of code; nobody else writes there.
        unsafe {
            let code = self.code.add(slot * SLOT / 4);
            if self.words[slot] != word {
                let alias = self.alias.add(slot * SLOT / 4);
                alias.write_volatile(word);
                alias.add(1).write_volatile(RET);
                alias.add(2).write_volatile(RET);
                asm!("dc cvau, {alias}", "dsb ish", "ic ivau, {code}", "dsb ish", "isb",
                    alias = in(reg) alias, code = in(reg) code, options(nostack));
                self.words[slot] = word;
            }
            code
        }
    }
}
