//! QEMU's ELF dump of physical memory (`dump-guest-memory` without paging): an AArch64 core file whose load segments
//! are the machine's RAM by physical address. Memory-mapped: a dump is as large as the machine.
//!
//! A frame is RAM if and only if it is in the dump. Input is untrusted: nothing here panics on a bad file.
#![allow(unsafe_code)] // memmap2's map(): see the one SAFETY comment below

use crate::error::{Error, Result};
use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use std::path::Path;

/// Bytes of a frame; the only granule that is judged.
pub const FRAME_SIZE: u64 = 4096;
/// log2 of [`FRAME_SIZE`].
pub const FRAME_SHIFT: u32 = 12;

const NT_PRSTATUS: u32 = 1;

enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

struct Segment {
    start: u64,
    len: u64,
    offset: usize,
    /// Number of RAM frames in the segments before this one.
    first_index: usize,
}

/// Physical memory as it was when the dump was taken.
pub struct Dump {
    bytes: Bytes,
    segments: Vec<Segment>,
    frames: usize,
    processors: Vec<Processor>,
}

/// Where a CPU was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Its program counter.
    pub pc: u64,
    /// PSTATE, as SPSR_ELx has it.
    pub pstate: u64,
}

impl Processor {
    /// Whether it was in EL1 or EL0, or in AArch32.
    pub fn in_guest(&self) -> bool {
        self.pstate & 1 << 4 != 0 || self.pstate >> 2 & 3 < 2
    }
}

impl Dump {
    /// Maps the dump in `path`.
    pub fn open(path: &Path) -> Result<Dump> {
        let read = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(read)?;
        // SAFETY: the mapping is read-only and private to this process, and only ever read as plain bytes. A file that
        // somebody truncates while it is read ends the process with SIGBUS, which is no worse than a failed audit.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(read)?;
        Dump::new(Bytes::Mapped(map))
    }

    /// Whether `path` looks like a dump: an ELF file that is a core dump.
    pub fn is_core(path: &Path) -> Result<bool> {
        use std::io::Read;
        let read = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(read)?;
        let mut head = Vec::new();
        file.take(18).read_to_end(&mut head).map_err(read)?;
        Ok(head.starts_with(&elf::ELFMAG) && head.ends_with(&elf::ET_CORE.to_le_bytes()))
    }

    /// Takes a dump from memory, as the tests build it.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Dump> {
        Dump::new(Bytes::Owned(bytes))
    }

    fn new(bytes: Bytes) -> Result<Dump> {
        let (segments, processors) = parse(bytes.as_slice())?;
        let frames = segments.last().map_or(0, |s| s.first_index + frames_in(s));
        Ok(Dump {
            bytes,
            segments,
            frames,
            processors,
        })
    }

    /// How many CPUs the dump describes (one register note each), whether they are online or not.
    pub fn cpus(&self) -> usize {
        self.processors.len()
    }

    /// Where each CPU was, in QEMU's order.
    pub fn processors(&self) -> &[Processor] {
        &self.processors
    }

    /// How many frames of RAM there are. A frame's index, below, is in `0..frames()`.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// The banks of RAM as (physical address, bytes), by address.
    pub fn banks(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments.iter().map(|s| (s.start, s.len))
    }

    /// The dense index of a machine frame, if it is RAM.
    pub fn frame_index(&self, mfn: u64) -> Option<usize> {
        let segment = self.segment(mfn.checked_mul(FRAME_SIZE)?)?;
        Some(segment.first_index + (mfn - (segment.start >> FRAME_SHIFT)) as usize)
    }

    /// The RAM frames within `[pa, pa + len)` as runs of (first frame, its index, number of frames).
    pub fn ram_within(&self, pa: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
        let end = pa.saturating_add(len);
        self.segments.iter().filter_map(move |s| {
            let (from, to) = (pa.max(s.start), end.min(s.start + s.len));
            (from < to).then(|| {
                let first = from >> FRAME_SHIFT;
                let index = s.first_index + (first - (s.start >> FRAME_SHIFT)) as usize;
                (first, index, (to.div_ceil(FRAME_SIZE) - first) as usize)
            })
        })
    }

    /// `len` bytes at a physical address, if all of them are RAM of one bank.
    pub fn bytes_at(&self, pa: u64, len: usize) -> Option<&[u8]> {
        let segment = self.segment(pa)?;
        let within = pa - segment.start;
        if u64::try_from(len).ok()? > segment.len - within {
            return None;
        }
        let from = segment.offset + within as usize;
        self.bytes.as_slice().get(from..from + len)
    }

    /// Where in the file a physical address is: for whoever makes a damaged copy of a dump.
    pub fn file_offset(&self, pa: u64) -> Option<usize> {
        let segment = self.segment(pa)?;
        Some(segment.offset + (pa - segment.start) as usize)
    }

    /// The 64-bit little-endian word at a physical address, if it is RAM.
    pub fn word(&self, pa: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes_at(pa, 8)?.try_into().ok()?))
    }

    fn segment(&self, pa: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|s| s.start <= pa);
        let segment = &self.segments[after.checked_sub(1)?];
        (pa - segment.start < segment.len).then_some(segment)
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

fn frames_in(segment: &Segment) -> usize {
    (segment.len >> FRAME_SHIFT) as usize
}

fn parse(data: &[u8]) -> Result<(Vec<Segment>, Vec<Processor>)> {
    let bad = |why: String| Error::Dump(why);
    let again = "make it with QEMU's dump-guest-memory, without -p";
    if data.len() < 4 || data[..4] != elf::ELFMAG {
        return Err(bad(format!("this is no ELF file; {again}")));
    }
    let header = elf::FileHeader64::<LittleEndian>::parse(data)
        .map_err(|e| bad(format!("this is no 64-bit ELF file ({e}); {again}")))?;
    let endian = header
        .endian()
        .map_err(|_| bad("it is big-endian: not a dump of a machine that runs Xen".into()))?;
    if header.e_machine.get(endian) != elf::EM_AARCH64 {
        return Err(bad(format!(
            "it is of another architecture (ELF machine {})",
            header.e_machine.get(endian)
        )));
    }
    if header.e_type.get(endian) != elf::ET_CORE {
        return Err(bad(format!("it is an ELF file, but no core dump; {again}")));
    }
    let headers = header
        .program_headers(endian, data)
        .map_err(|e| bad(format!("its program headers are cut off or corrupt ({e})")))?;

    let mut segments = Vec::new();
    let mut processors = Vec::new();
    for ph in headers {
        match ph.p_type(endian) {
            elf::PT_NOTE => processors.extend(register_notes(ph, endian, data)?),
            elf::PT_LOAD => {
                let (start, len, offset) =
                    (ph.p_paddr(endian), ph.p_filesz(endian), ph.p_offset(endian));
                if ph.p_memsz(endian) != len {
                    return Err(bad(format!(
                        "bank {start:#x} has {len:#x} of {:#x} bytes: a filtered dump cannot be judged",
                        ph.p_memsz(endian)
                    )));
                }
                if len == 0 {
                    continue;
                }
                let end = offset
                    .checked_add(len)
                    .filter(|&end| end <= data.len() as u64);
                if end.is_none() {
                    return Err(bad(format!(
                        "truncated: bank {start:#x} should end at byte {:#x} of a file of {:#x} bytes; dump again, there may be no space left",
                        offset.saturating_add(len),
                        data.len()
                    )));
                }
                if start % FRAME_SIZE != 0
                    || len % FRAME_SIZE != 0
                    || start.checked_add(len).is_none_or(|e| e > 1 << 52)
                {
                    return Err(bad(format!(
                        "bank {start:#x}+{len:#x} is not made of whole frames below 2^52"
                    )));
                }
                segments.push(Segment {
                    start,
                    len,
                    offset: offset as usize,
                    first_index: 0,
                });
            }
            _ => {}
        }
    }
    segments.sort_by_key(|s| s.start);
    if segments.is_empty() {
        return Err(bad(format!("it holds no memory; {again}")));
    }
    if let Some(pair) = segments
        .windows(2)
        .find(|p| p[0].start + p[0].len > p[1].start)
    {
        return Err(bad(format!(
            "two banks overlap at {:#x}: made with paging? {again}",
            pair[1].start
        )));
    }
    let mut index = 0;
    for segment in &mut segments {
        segment.first_index = index;
        index += frames_in(segment);
    }
    Ok((segments, processors))
}

/// The CPUs: QEMU writes one NT_PRSTATUS note for each. In it 112 bytes that do not matter here, then X0 to X30, SP, PC
/// and PSTATE (Linux' `struct elf_prstatus` for arm64).
fn register_notes(
    ph: &elf::ProgramHeader64<LittleEndian>,
    endian: LittleEndian,
    data: &[u8],
) -> Result<Vec<Processor>> {
    let bad = |e| Error::Dump(format!("its notes are cut off or corrupt ({e})"));
    let mut processors = Vec::new();
    if let Some(mut notes) = ph.notes(endian, data).map_err(bad)? {
        while let Some(note) = notes.next().map_err(bad)? {
            if note.n_type(endian) == NT_PRSTATUS && note.name() == b"CORE" {
                let word = |at: usize| {
                    let bytes = note.desc().get(at..at + 8)?.try_into().ok()?;
                    Some(u64::from_le_bytes(bytes))
                };
                let Some((pc, pstate)) = word(112 + 32 * 8).zip(word(112 + 33 * 8)) else {
                    return Err(Error::Dump("its notes on CPUs are too short".into()));
                };
                processors.push(Processor { pc, pstate });
            }
        }
    }
    Ok(processors)
}
