//! Writes a small xen-syms: an ELF file with symbols, two sections, and DWARF for the structs that the verifier reads.
//! Offsets are of no real Xen; that is the point.
#![allow(dead_code)] // each test binary uses its part of it

use gimli::write::{
    Address, AttributeValue, DwarfUnit, EndianVec, Expression, LineProgram, Sections, UnitEntryId,
};
use gimli::{
    DW_AT_byte_size, DW_AT_data_member_location, DW_AT_declaration, DW_AT_location, DW_AT_name,
    DW_AT_type,
};

/// What the file is to hold.
pub struct Syms {
    /// Name, address, size.
    pub symbols: Vec<(&'static str, u64, u64)>,
    /// Name, address, size.
    pub sections: Vec<(&'static str, u64, u64)>,
    /// Variables that are arrays of `lpae_t`.
    pub tables: Vec<(&'static str, u64)>,
    /// Without debug information there are only symbols.
    pub debug: bool,
}

struct Types {
    dwarf: DwarfUnit,
}

impl Types {
    fn add(&mut self, tag: gimli::DwTag, name: &str, size: u64) -> UnitEntryId {
        let root = self.dwarf.unit.root();
        let id = self.dwarf.unit.add(root, tag);
        self.name(id, name);
        self.dwarf
            .unit
            .get_mut(id)
            .set(DW_AT_byte_size, AttributeValue::Udata(size));
        id
    }

    fn name(&mut self, id: UnitEntryId, name: &str) {
        if !name.is_empty() {
            let name = self.dwarf.strings.add(name);
            self.dwarf
                .unit
                .get_mut(id)
                .set(DW_AT_name, AttributeValue::StringRef(name));
        }
    }

    fn of(&mut self, id: UnitEntryId, of: UnitEntryId) {
        self.dwarf
            .unit
            .get_mut(id)
            .set(DW_AT_type, AttributeValue::UnitRef(of));
    }

    /// A struct or union with (name, offset, type) members; a name of none is anonymous.
    fn layout(
        &mut self,
        tag: gimli::DwTag,
        name: &str,
        size: u64,
        members: &[(&str, u64, UnitEntryId)],
    ) -> UnitEntryId {
        let id = self.add(tag, name, size);
        for &(name, offset, of) in members {
            let member = self.dwarf.unit.add(id, gimli::DW_TAG_member);
            self.name(member, name);
            self.of(member, of);
            self.dwarf
                .unit
                .get_mut(member)
                .set(DW_AT_data_member_location, AttributeValue::Udata(offset));
        }
        id
    }
}

// Where the members lie.
pub const NEXT: u64 = 16;
pub const SHARED_INFO: u64 = 24;
pub const GRANT_TABLE: u64 = 32;
pub const ROOT: u64 = 40 + 8;
pub const VMID: u64 = 40 + 16;
pub const VTTBR: u64 = 40 + 24;
pub const PAGES: u64 = 40 + 32;
pub const FREELIST: u64 = 40 + 64 + 8;
pub const PROTECTED: u64 = 40 + 96;
pub const SNAPSHOT_FIRST: u64 = 40 + 104;
pub const SNAPSHOT_LEN: u64 = 40 + 112;
pub const NR_SHARES: u64 = 40 + 120;
pub const SHARES: u64 = 40 + 128;
/// Bytes of an element of that list, and where its members lie.
pub const SHARE: u64 = 40;
pub const SHARE_GFN: u64 = 8;
pub const SHARE_MFN: u64 = 0;
pub const SHARE_PAGES: u64 = 16;
pub const SHARE_TYPE: u64 = 24;
pub const PAGE_INFO: u64 = 48;
pub const OWNER: u64 = 32;
pub const FROZEN_VTTBR: u64 = 24;
pub const LIST: u64 = 8;
pub const GRANT_FRAMES: u64 = 4;
pub const STATUS_FRAMES: u64 = 8;
pub const SHARED_RAW: u64 = 16;
pub const STATUS: u64 = 24;

fn dwarf(tables: &[(&str, u64)]) -> Vec<(&'static str, Vec<u8>)> {
    use gimli::{
        DW_TAG_base_type, DW_TAG_pointer_type, DW_TAG_structure_type, DW_TAG_typedef,
        DW_TAG_union_type,
    };
    let encoding = gimli::Encoding {
        format: gimli::Format::Dwarf32,
        version: 5,
        address_size: 8,
    };
    let mut t = Types {
        dwarf: DwarfUnit::new(encoding),
    };
    t.dwarf.unit.line_program = LineProgram::none();

    // A mere declaration comes first, as it does in half of Xen's units.
    let declared = t.add(DW_TAG_structure_type, "domain", 0);
    t.dwarf
        .unit
        .get_mut(declared)
        .set(DW_AT_declaration, AttributeValue::Flag(true));

    let (half, word) = (
        t.add(DW_TAG_base_type, "unsigned short", 2),
        t.add(DW_TAG_base_type, "unsigned int", 4),
    );
    let long = t.add(DW_TAG_base_type, "unsigned long", 8);
    let pointer = t.add(DW_TAG_pointer_type, "", 8);
    let list = t.layout(
        DW_TAG_structure_type,
        "list_head",
        16,
        &[("next", 0, pointer), ("prev", 8, pointer)],
    );
    let in_use = t.layout(DW_TAG_structure_type, "", 8, &[("domain", 0, pointer)]);
    let owner = t.layout(DW_TAG_union_type, "", 8, &[("inuse", 0, in_use)]);
    t.layout(
        DW_TAG_structure_type,
        "page_info",
        PAGE_INFO,
        &[
            ("count_info", 0, long),
            ("list", LIST, list),
            ("v", OWNER, owner),
        ],
    );
    t.layout(DW_TAG_structure_type, "vcpu", 16, &[("domain", 8, pointer)]);
    let list_of_vttbr = t.add(gimli::DW_TAG_array_type, "", 0);
    t.of(list_of_vttbr, long);
    t.layout(
        DW_TAG_structure_type,
        "vmf_frozen",
        4096,
        &[
            ("locked", 0, word),
            ("hcr_mask", 8, long),
            ("hcr_value", 16, long),
            ("vttbr", FROZEN_VTTBR, list_of_vttbr),
            ("unused", FROZEN_VTTBR + 8 * 16, long),
        ],
    );
    let vmid = t.add(DW_TAG_typedef, "uint16_t", 2);
    t.of(vmid, half);
    let p2m = t.layout(
        DW_TAG_structure_type,
        "p2m_domain",
        64,
        &[
            ("lock", 0, long),
            ("root", 8, pointer),
            ("vmid", 16, vmid),
            ("vttbr", 24, long),
            ("pages", 32, list),
        ],
    );
    let paging = t.layout(
        DW_TAG_structure_type,
        "paging_domain",
        32,
        &[("lock", 0, long), ("p2m_freelist", 8, list)],
    );
    let flag = t.add(DW_TAG_base_type, "bool", 1);
    let share = t.layout(
        DW_TAG_structure_type,
        "vmf_guest_extent",
        SHARE,
        &[
            ("gfn", SHARE_GFN, long),
            ("mfn", SHARE_MFN, long),
            ("pages", SHARE_PAGES, long),
            ("type", SHARE_TYPE, flag),
        ],
    );
    let shares = t.add(gimli::DW_TAG_array_type, "", 0);
    t.of(shares, share);
    let note = t.layout(
        DW_TAG_structure_type,
        "",
        32 + 4 * SHARE,
        &[
            ("protected", 0, flag),
            ("snapshot_first", 8, long),
            ("snapshot_len", 16, long),
            ("nr_shares", 24, word),
            ("shares", 32, shares),
        ],
    );
    let arch = t.layout(
        DW_TAG_structure_type,
        "arch_domain",
        128 + 4 * SHARE,
        &[("p2m", 0, p2m), ("paging", 64, paging), ("vmf", 96, note)],
    );
    t.layout(
        DW_TAG_structure_type,
        "domain",
        168 + 4 * SHARE,
        &[
            ("domain_id", 0, vmid),
            ("next_in_list", NEXT, pointer),
            ("shared_info", SHARED_INFO, pointer),
            ("grant_table", GRANT_TABLE, pointer),
            ("arch", 40, arch),
        ],
    );
    let raw = t.layout(
        DW_TAG_union_type,
        "",
        8,
        &[("shared_v1", 0, pointer), ("shared_raw", 0, pointer)],
    );
    t.layout(
        DW_TAG_structure_type,
        "grant_table",
        32,
        &[
            ("nr_grant_frames", GRANT_FRAMES, word),
            ("nr_status_frames", STATUS_FRAMES, word),
            ("", SHARED_RAW, raw),
            ("status", STATUS, pointer),
        ],
    );

    let bits = t.layout(DW_TAG_union_type, "", 8, &[("bits", 0, long)]);
    let lpae = t.add(DW_TAG_typedef, "lpae_t", 8);
    t.of(lpae, bits);
    for (element, variables) in [(lpae, tables), (long, &[("no_table", 0x7000)][..])] {
        let array = t.add(gimli::DW_TAG_array_type, "", 4096);
        t.of(array, element);
        for &(name, address) in variables {
            let id = t.add(gimli::DW_TAG_variable, name, 0);
            t.of(id, array);
            let mut location = Expression::new();
            location.op_addr(Address::Constant(address));
            t.dwarf
                .unit
                .get_mut(id)
                .set(DW_AT_location, AttributeValue::Exprloc(location));
        }
    }

    let mut sections = Sections::new(EndianVec::new(gimli::LittleEndian));
    t.dwarf.write(&mut sections).unwrap();
    let mut out = Vec::new();
    sections
        .for_each(|id, data| -> gimli::write::Result<()> {
            out.push((id.name(), data.slice().to_vec()));
            Ok(())
        })
        .unwrap();
    out
}

/// The file.
pub fn write(syms: &Syms) -> Vec<u8> {
    // Name, type, flags, address, size, bytes, link, entry size
    type Section<'a> = (&'a str, u32, u64, u64, u64, Vec<u8>, u32, u64);
    let mut strings = vec![0];
    let mut table = vec![0; 24];
    for &(name, address, size) in &syms.symbols {
        table.extend((strings.len() as u32).to_le_bytes());
        table.extend([0x11, 0, 0xf1, 0xff]); // a global object, absolute
        table.extend(address.to_le_bytes());
        table.extend(size.to_le_bytes());
        strings.extend(name.bytes().chain([0]));
    }
    let mut sections: Vec<Section> = vec![("", 0, 0, 0, 0, vec![], 0, 0)];
    let symtab = sections.len() as u32;
    sections.push((".symtab", 2, 0, 0, 0, table, symtab + 1, 24));
    sections.push((".strtab", 3, 0, 0, 0, strings, 0, 0));
    for &(name, address, size) in &syms.sections {
        // Allocated; the text executable as well.
        let flags = if name == ".text" { 6 } else { 2 };
        sections.push((name, 8, flags, address, size, vec![], 0, 0));
    }
    if syms.debug {
        sections.extend(
            dwarf(&syms.tables)
                .into_iter()
                .map(|(name, data)| (name, 1, 0, 0, 0, data, 0, 0)),
        );
    }
    let names_index = sections.len();
    sections.push((".shstrtab", 3, 0, 0, 0, vec![], 0, 0));
    let mut names = Vec::new();
    let offsets: Vec<u32> = sections
        .iter()
        .map(|s| {
            let at = names.len() as u32;
            names.extend(s.0.bytes().chain([0]));
            at
        })
        .collect();
    sections[names_index].5 = names;

    let mut body = Vec::new();
    let mut headers = Vec::new();
    for (section, name) in sections.iter().zip(offsets) {
        let (_, kind, flags, address, size, data, link, entry) = section;
        headers.extend(name.to_le_bytes());
        headers.extend(kind.to_le_bytes());
        let size = if data.is_empty() {
            *size
        } else {
            data.len() as u64
        };
        for word in [*flags, *address, 64 + body.len() as u64, size] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend(u32::from(*kind == 2).to_le_bytes());
        for word in [8, *entry] {
            headers.extend(u64::to_le_bytes(word));
        }
        body.extend(data);
        body.resize(body.len().next_multiple_of(8), 0);
    }
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend([2u16, 183].iter().flat_map(|h| h.to_le_bytes()));
    out.extend(1u32.to_le_bytes());
    out.extend(
        [0, 0, 64 + body.len() as u64]
            .iter()
            .flat_map(|w| w.to_le_bytes()),
    );
    out.extend(0u32.to_le_bytes());
    let halves = [64u16, 56, 0, 64, sections.len() as u16, names_index as u16];
    out.extend(halves.iter().flat_map(|h| h.to_le_bytes()));
    out.extend(body);
    out.extend(headers);
    out
}
