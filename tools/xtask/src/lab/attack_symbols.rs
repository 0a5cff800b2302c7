//! What `vmf-attack` has to know of the Xen that it attacks, out of xen-syms:
//! addresses of symbols, members of structs, and where the instructions are
//! that somebody who controls the program counter looks for.
//!
//! One fact a line: `symbol NAME ADDRESS`, `member STRUCT PATH OFFSET`,
//! `code KIND ADDRESS WORD...` with the instruction and those behind it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};
use vmf_audit::symbols::Symbols;

/// Symbols by their own name.
const SYMBOLS: [&str; 35] = [
    "__per_cpu_offset",
    "_start",
    "access_guest_memory_by_gpa",
    "alloc_xenheap_pages",
    "boot_pgtable",
    "clear_fixmap",
    "cur_mediator",
    "directmap_base_pdx",
    "directmap_virt_start",
    "domain_list",
    "host_its_list",
    "hyp_traps_vector",
    "init_traps",
    "init_ttbr",
    "map_domain_page_global",
    "p2m_root_level",
    "pmap_map",
    "set_fixmap",
    "system_cpuinfo",
    "unmap_domain_page_global",
    "vmap",
    "vmf_attack_load",
    "vmf_attack_returned",
    "vmf_c_flush_all",
    "vmf_c_flush_guests",
    "vmf_frozen",
    "vmf_map_slowly",
    "vmf_smc_1_0",
    "vmf_system_slot",
    "vmf_window_map",
    "vmf_window_unmap",
    "vmf_windows",
    "vunmap",
    "xen_fixmap",
    "xen_pgtable",
];
/// Names that the compiler has decorated, by what they end with.
const DECORATED: [(&str, &str); 2] = [
    ("state_locked", "5state6LOCKED"),
    ("per_cpu_rbase", "per_cpu__rbase"),
];
/// Members of structs.
const MEMBERS: [(&str, &str); 10] = [
    ("domain", "domain_id"),
    ("domain", "next_in_list"),
    ("domain", "vcpu"),
    ("domain", "arch.p2m.vttbr"),
    ("vcpu", "arch.hcr_el2"),
    ("vcpu", "processor"),
    ("vmf_frozen", "locked"),
    ("vmf_frozen", "hcr_mask"),
    ("vmf_frozen", "vttbr"),
    ("cpuinfo_arm", "dbg64"),
];
/// Instructions: name, value, and the mask of what has to be that (the others
/// hold the register). Arm ARM C6.2 MSR (register), SMC.
const CODE: [(&str, u32, u32); 5] = [
    ("msr-ttbr0_el2", 0xd51c_2000, !0x1f),
    ("msr-sctlr_el2", 0xd51c_1000, !0x1f),
    ("msr-vttbr_el2", 0xd51c_2100, !0x1f),
    ("msr-hcr_el2", 0xd51c_1100, !0x1f),
    ("smc", 0xd400_0003, !0),
];
/// How many words of code are shown at each place.
const WORDS: usize = 16;

/// Reads `syms` and returns the lines.
pub fn lines(syms: &Path) -> Result<String> {
    let symbols = Symbols::open(syms, &MEMBERS).context("xen-syms")?;
    let data = std::fs::read(syms).with_context(|| format!("{}: cannot read", syms.display()))?;
    let file = object::File::parse(&*data).context("xen-syms")?;
    let mut text = String::new();
    for name in SYMBOLS {
        // What this build does not have is a fact as well: nothing is written.
        if let Some(address) = symbols.address(name) {
            writeln!(text, "symbol {name} {address:#x}")?;
        }
    }
    for (name, end) in DECORATED {
        use object::ObjectSymbol;
        let found = file.symbols().find(|symbol| {
            let name = symbol.name().unwrap_or_default();
            name.trim_end_matches(".0").ends_with(end)
        });
        let symbol = found.with_context(|| format!("xen-syms has no symbol like {end}"))?;
        writeln!(text, "symbol {name} {:#x}", symbol.address())?;
    }
    for (of, path) in MEMBERS {
        let member = symbols.member(of, path)?;
        writeln!(text, "member {of} {path} {:#x}", member.offset)?;
    }
    let section = file
        .section_by_name(".text")
        .context("xen-syms has no .text")?;
    let code: Vec<u32> = section
        .data()?
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    for (kind, value, mask) in CODE {
        let places: Vec<usize> = (0..code.len())
            .filter(|&at| code[at] & mask == value)
            .collect();
        ensure!(!places.is_empty(), "xen-syms: no {kind} in .text");
        for at in places {
            let address = section.address() + 4 * at as u64;
            write!(text, "code {kind} {address:#x}")?;
            for word in code.iter().skip(at).take(WORDS) {
                write!(text, " {word:#x}")?;
            }
            text.push('\n');
        }
    }
    Ok(text)
}
