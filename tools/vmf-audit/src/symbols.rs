//! xen-syms, the linked hypervisor with symbols: addresses by name, sections, and from its DWARF where a member of a
//! struct lies. Needs a Xen built with CONFIG_DEBUG_INFO=y for the last of these.

use crate::error::{Error, Result};
use gimli::{AttributeValue, DwAt, EndianSlice, LittleEndian, Unit, UnitOffset};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind, elf};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

type Slice<'d> = EndianSlice<'d, LittleEndian>;
type Dwarf<'d> = gimli::Dwarf<Slice<'d>>;

/// Where a member of a struct lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the outermost struct.
    pub offset: u64,
    /// Bytes, 0 if the type has no size of its own (an array).
    pub size: u64,
}

/// A named piece of Xen's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Section or symbol.
    pub name: String,
    /// First virtual address, as linked.
    pub va: u64,
    /// Bytes.
    pub size: u64,
    /// Whether it is meant to be executed from.
    pub executable: bool,
}

/// Functions by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    by_address: Vec<(u64, String)>,
}

impl Functions {
    /// Symbols of the executable sections of an ELF file.
    pub fn of<'d>(file: &impl Object<'d>) -> Functions {
        let code: Vec<Range<u64>> = file
            .sections()
            .filter(executable)
            .map(|s| s.address()..s.address().saturating_add(s.size()))
            .collect();
        let mut by_address: Vec<(u64, String)> = file
            .symbols()
            .filter(|s| {
                matches!(
                    s.kind(),
                    SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label
                )
            })
            .filter(|s| code.iter().any(|c| c.contains(&s.address())))
            .filter_map(|s| Some((s.address(), s.name().ok()?.to_owned())))
            // Mapping symbols say where code and data begin, not what they are called.
            .filter(|(_, name)| !name.is_empty() && !name.starts_with('$'))
            .collect();
        by_address.sort();
        by_address.dedup_by_key(|f| f.0);
        Functions { by_address }
    }

    /// Which function an address is in, as `name+0x8`.
    pub fn name(&self, va: u64) -> Option<String> {
        let after = self.by_address.partition_point(|f| f.0 <= va);
        let (start, name) = &self.by_address[after.checked_sub(1)?];
        let name = rustc_demangle::demangle(name);
        Some(format!("{name:#}+{:#x}", va - start))
    }
}

/// Whether a section is meant to be executed from.
pub fn executable<'d>(section: &impl ObjectSection<'d>) -> bool {
    matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(elf::SHF_EXECINSTR) != 0)
        && section.size() != 0
}

/// What is known from xen-syms.
pub struct Symbols {
    symbols: HashMap<String, (u64, u64)>,
    /// Functions.
    pub functions: Functions,
    /// Sections that are loaded, by address.
    pub sections: Vec<Region>,
    /// Variables that are translation tables: arrays of `lpae_t`.
    pub tables: Vec<Region>,
    members: BTreeMap<(&'static str, &'static str), Member>,
    sizes: BTreeMap<&'static str, u64>,
}

impl Symbols {
    /// Reads xen-syms; `wanted` are the members to look up, as (struct, path with dots). What is not there is not an
    /// error here: [`Symbols::member`] says so when it is asked for.
    pub fn open(path: &Path, wanted: &[(&'static str, &'static str)]) -> Result<Symbols> {
        let data = std::fs::read(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Symbols::parse(&data, wanted)
    }

    /// As [`Symbols::open`], from memory.
    pub fn parse(data: &[u8], wanted: &[(&'static str, &'static str)]) -> Result<Symbols> {
        let bad = |e: object::Error| Error::Symbols(format!("not a usable ELF file: {e}"));
        let file =
            object::read::elf::ElfFile64::<object::LittleEndian>::parse(data).map_err(bad)?;
        if file.architecture() != object::Architecture::Aarch64 {
            return Err(Error::Symbols("it is not an AArch64 ELF file".into()));
        }
        let symbols: HashMap<_, _> = file
            .symbols()
            .filter_map(|s| Some((s.name().ok()?.to_owned(), (s.address(), s.size()))))
            .collect();
        if !symbols.contains_key("domain_list") {
            return Err(Error::Symbols(
                "it has no symbol domain_list: use the xen-syms of the build that ran".into(),
            ));
        }
        let mut sections: Vec<_> = file
            .sections()
            .filter(|s| s.address() != 0 && s.size() != 0)
            .filter_map(|s| {
                Some(Region {
                    name: s.name().ok()?.to_owned(),
                    va: s.address(),
                    size: s.size(),
                    executable: executable(&s),
                })
            })
            .collect();
        sections.sort_by_key(|s| s.va);

        let load = |id: gimli::SectionId| -> std::result::Result<Slice<'_>, gimli::Error> {
            let bytes = file
                .section_by_name(id.name())
                .and_then(|s| s.data().ok())
                .unwrap_or(&[]);
            Ok(EndianSlice::new(bytes, LittleEndian))
        };
        let bad = |e: gimli::Error| Error::Symbols(format!("its DWARF is corrupt: {e}"));
        let dwarf = Dwarf::load(load).map_err(bad)?;
        let mut found = Symbols {
            symbols,
            functions: Functions::of(&file),
            sections,
            tables: Vec::new(),
            members: BTreeMap::new(),
            sizes: BTreeMap::new(),
        };
        found.read_dwarf(&dwarf, wanted).map_err(bad)?;
        Ok(found)
    }

    /// The address of a symbol.
    pub fn address(&self, name: &str) -> Option<u64> {
        Some(self.symbols.get(name)?.0)
    }

    /// Symbols whose name satisfies `wanted`, with address and size, by address.
    pub fn named(&self, wanted: impl Fn(&str) -> bool) -> Vec<(u64, u64)> {
        let mut found: Vec<_> = self
            .symbols
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(_, &at)| at)
            .collect();
        found.sort_unstable();
        found
    }

    /// A member that was asked for when the file was opened.
    pub fn member(&self, of: &'static str, path: &'static str) -> Result<Member> {
        self.members.get(&(of, path)).copied().ok_or_else(|| {
            Error::Symbols(format!(
                "no debug information on struct {of}.{path}: build Xen with CONFIG_DEBUG_INFO=y"
            ))
        })
    }

    /// Size of a struct of which a member was asked for.
    pub fn size_of(&self, of: &'static str) -> Result<u64> {
        self.sizes
            .get(of)
            .copied()
            .filter(|&s| s != 0)
            .ok_or_else(|| {
                Error::Symbols(format!(
                    "no debug information on struct {of}: build Xen with CONFIG_DEBUG_INFO=y"
                ))
            })
    }

    fn read_dwarf(
        &mut self,
        dwarf: &Dwarf<'_>,
        wanted: &[(&'static str, &'static str)],
    ) -> gimli::Result<()> {
        let mut tables = BTreeMap::new();
        let mut headers = dwarf.units();
        while let Some(header) = headers.next()? {
            let unit = dwarf.unit(header)?;
            let mut tree = unit.entries_tree(None)?;
            let mut children = tree.root()?.children();
            while let Some(child) = children.next()? {
                let entry = child.entry();
                match entry.tag() {
                    gimli::DW_TAG_structure_type => {
                        let Some(name) = name_of(dwarf, &unit, entry.offset())? else {
                            continue;
                        };
                        let Some(&(of, _)) = wanted.iter().find(|(of, _)| *of == name) else {
                            continue;
                        };
                        if entry.attr_value(gimli::DW_AT_declaration)?.is_some()
                            || self.sizes.contains_key(of)
                        {
                            continue;
                        }
                        self.sizes
                            .insert(of, constant(entry.attr_value(gimli::DW_AT_byte_size)?));
                        for &(_, path) in wanted.iter().filter(|(o, _)| *o == of) {
                            if let Some(member) =
                                find_member(dwarf, &unit, entry.offset(), path, 0)?
                            {
                                self.members.insert((of, path), member);
                            }
                        }
                    }
                    gimli::DW_TAG_variable => {
                        if let Some((name, va)) = table_variable(dwarf, &unit, entry.offset())? {
                            tables.insert(va, name);
                        }
                    }
                    _ => {}
                }
            }
        }
        for (va, name) in tables {
            let size = self
                .symbols
                .get(&name)
                .map_or(0, |s| s.1)
                .max(crate::dump::FRAME_SIZE);
            let executable = false;
            self.tables.push(Region {
                name,
                va,
                size,
                executable,
            });
        }
        Ok(())
    }
}

fn constant(value: Option<AttributeValue<Slice<'_>>>) -> u64 {
    value.and_then(|v| v.udata_value()).unwrap_or(0)
}

fn attribute<'d>(
    unit: &Unit<Slice<'d>>,
    at: UnitOffset,
    name: DwAt,
) -> gimli::Result<Option<AttributeValue<Slice<'d>>>> {
    unit.entry(at)?.attr_value(name)
}

fn reference(
    unit: &Unit<Slice<'_>>,
    at: UnitOffset,
    name: DwAt,
) -> gimli::Result<Option<UnitOffset>> {
    Ok(match attribute(unit, at, name)? {
        Some(AttributeValue::UnitRef(offset)) => Some(offset),
        _ => None,
    })
}

fn name_of(
    dwarf: &Dwarf<'_>,
    unit: &Unit<Slice<'_>>,
    at: UnitOffset,
) -> gimli::Result<Option<String>> {
    let Some(value) = attribute(unit, at, gimli::DW_AT_name)? else {
        return Ok(None);
    };
    Ok(Some(
        dwarf
            .attr_string(unit, value)?
            .to_string_lossy()
            .into_owned(),
    ))
}

/// Follows typedefs and qualifiers to what has a layout. Bounded: corrupt input may have cycles.
fn strip(unit: &Unit<Slice<'_>>, mut at: UnitOffset) -> gimli::Result<Option<UnitOffset>> {
    for _ in 0..32 {
        match unit.entry(at)?.tag() {
            gimli::DW_TAG_typedef | gimli::DW_TAG_const_type | gimli::DW_TAG_volatile_type => {
                match reference(unit, at, gimli::DW_AT_type)? {
                    Some(next) => at = next,
                    None => return Ok(None),
                }
            }
            _ => return Ok(Some(at)),
        }
    }
    Ok(None)
}

fn find_member(
    dwarf: &Dwarf<'_>,
    unit: &Unit<Slice<'_>>,
    of: UnitOffset,
    path: &str,
    depth: u32,
) -> gimli::Result<Option<Member>> {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(f, r)| (f, Some(r)));
    if depth > 16 {
        return Ok(None);
    }
    let mut tree = unit.entries_tree(Some(of))?;
    let mut children = tree.root()?.children();
    while let Some(child) = children.next()? {
        let entry = child.entry();
        if entry.tag() != gimli::DW_TAG_member {
            continue;
        }
        let offset = constant(entry.attr_value(gimli::DW_AT_data_member_location)?);
        let Some(of_type) = reference(unit, entry.offset(), gimli::DW_AT_type)? else {
            continue;
        };
        let Some(of_type) = strip(unit, of_type)? else {
            continue;
        };
        let inner = match name_of(dwarf, unit, entry.offset())? {
            Some(name) if name == first => match rest {
                None => {
                    let entry = unit.entry(of_type)?;
                    let size = match entry.tag() {
                        gimli::DW_TAG_pointer_type => 8,
                        _ => constant(entry.attr_value(gimli::DW_AT_byte_size)?),
                    };
                    Some(Member { offset: 0, size })
                }
                Some(rest) => find_member(dwarf, unit, of_type, rest, depth + 1)?,
            },
            Some(_) => None,
            // An anonymous struct or union: its members are this struct's.
            None => find_member(dwarf, unit, of_type, path, depth + 1)?,
        };
        if let Some(member) = inner {
            return Ok(Some(Member {
                offset: member.offset + offset,
                ..member
            }));
        }
    }
    Ok(None)
}

/// Name and address of a variable that is an array of `lpae_t`.
fn table_variable(
    dwarf: &Dwarf<'_>,
    unit: &Unit<Slice<'_>>,
    at: UnitOffset,
) -> gimli::Result<Option<(String, u64)>> {
    let Some(AttributeValue::Exprloc(location)) = attribute(unit, at, gimli::DW_AT_location)?
    else {
        return Ok(None);
    };
    let Ok(gimli::Operation::Address { address }) =
        gimli::Operation::parse(&mut location.0.clone(), unit.encoding())
    else {
        return Ok(None);
    };
    // A definition may refer to an earlier declaration that has the type and the name.
    let declared = reference(unit, at, gimli::DW_AT_specification)?.unwrap_or(at);
    let Some(array) =
        reference(unit, at, gimli::DW_AT_type)?.or(reference(unit, declared, gimli::DW_AT_type)?)
    else {
        return Ok(None);
    };
    let Some(array) = strip(unit, array)? else {
        return Ok(None);
    };
    if unit.entry(array)?.tag() != gimli::DW_TAG_array_type {
        return Ok(None);
    }
    let mut element = reference(unit, array, gimli::DW_AT_type)?;
    for _ in 0..32 {
        let Some(at) = element else { return Ok(None) };
        if name_of(dwarf, unit, at)?.as_deref() == Some("lpae_t") {
            return Ok(name_of(dwarf, unit, declared)?.map(|name| (name, address)));
        }
        element = match unit.entry(at)?.tag() {
            gimli::DW_TAG_typedef | gimli::DW_TAG_const_type | gimli::DW_TAG_volatile_type => {
                reference(unit, at, gimli::DW_AT_type)?
            }
            _ => None,
        };
    }
    Ok(None)
}
