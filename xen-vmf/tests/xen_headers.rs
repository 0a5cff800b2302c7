//! The crate's constants against Xen's own headers.
//!
//! Field positions are computed from the bit-field structs of `asm/lpae.h`,
//! types from `asm/p2m.h`, numbers from the public headers. The source is
//! the one in `VMF_XEN_SOURCE`, or what `cargo xtask fetch` has unpacked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use xen_vmf::addr::Mfn;
use xen_vmf::descriptor::ADDRESS_MASK;
use xen_vmf::descriptor::stage1::{Attributes, Stage1};
use xen_vmf::descriptor::stage2::{P2mType, Stage2};
use xen_vmf::error::Error;
use xen_vmf::hypercall;

/// The text of a header, by its path below the source's `xen` folder.
fn header(path: &str) -> String {
    let source = std::env::var_os("VMF_XEN_SOURCE").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/xen/source")),
        PathBuf::from,
    );
    let file = source.join("xen").join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|e| {
        panic!(
            "no Xen source to compare with: {}: {e}; run `cargo xtask fetch`, or set VMF_XEN_SOURCE",
            file.display()
        )
    })
}

/// First bit and width of each field of the struct that ends with `} name;`.
fn fields(text: &str, name: &str) -> BTreeMap<String, (u32, u32)> {
    let end = text.find(&format!("}} {name};")).expect("the struct");
    let start = text[..end].rfind("typedef struct").expect("its start");
    let mut bit = 0;
    let mut out = BTreeMap::new();
    for line in text[start..end]
        .lines()
        .filter(|l| l.contains("unsigned long"))
    {
        let field = line.split(';').next().expect("a field");
        let (names, width) = field.rsplit_once(':').expect("a bit-field");
        let name = names.split_whitespace().last().expect("a name");
        let width: u32 = width.trim().parse().expect("a width");
        out.insert(name.to_string(), (bit, width));
        bit += width;
    }
    assert_eq!(bit, 64, "{name} was not read completely");
    out
}

fn mask((bit, width): (u32, u32)) -> u64 {
    ((1 << width) - 1) << bit
}

#[test]
fn stage_1_fields_are_where_xen_has_them() {
    let pt = fields(&header("arch/arm/include/asm/lpae.h"), "lpae_pt_t");
    let at = |name: &str| mask(pt[name]);
    assert_eq!(Attributes::VALID.bits(), at("valid"));
    assert_eq!(Attributes::TABLE_OR_PAGE.bits(), at("table"));
    assert_eq!(Attributes::READ_ONLY.bits(), at("ro"));
    assert_eq!(Attributes::CONTIGUOUS.bits(), at("contig"));
    assert_eq!(Attributes::EXECUTE_NEVER.bits(), at("xn"));
    assert_eq!(ADDRESS_MASK, at("base"));
}

#[test]
fn a_page_is_what_mfn_to_xen_entry_makes_of_it() {
    let pt = fields(&header("arch/arm/include/asm/lpae.h"), "lpae_pt_t");
    let code = header("arch/arm/mmu/pt.c");
    let body = &code[code.find("lpae_t mfn_to_xen_entry(").expect("the function")..];
    let body = &body[..body.find("\n}").expect("its end")];
    // Fields of the initialiser, then what MT_NORMAL sets below it.
    let mut expected = 0;
    for line in body.lines() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('.')
            .and_then(|l| l.split_once('='))
        else {
            continue;
        };
        let Some((value, _)) = value.split_once(',') else {
            continue;
        };
        // `attr` is the one that is not a number: MT_NORMAL here.
        let value: u64 = value.trim().parse().unwrap_or(7);
        expected |= value << pt[name.trim()].0;
    }
    let page = header("arch/arm/include/asm/page.h");
    let normal = page
        .lines()
        .find(|l| l.contains("#define MT_NORMAL "))
        .expect("MT_NORMAL");
    assert!(normal.contains("0x7"), "{normal}");
    assert!(body.contains("e.pt.sh = LPAE_SH_INNER"));
    assert!(page.contains("#define LPAE_SH_INNER         0x3"));
    expected |= 3 << pt["sh"].0;
    let frame = Mfn::new(0xf_edcb_a987);
    expected |= frame.get() << pt["base"].0;
    // `table` is set for level 3 by the caller (xen_pt_update_entry).
    expected |= mask(pt["table"]);
    assert_eq!(Stage1::page(frame).bits(), expected, "{:#x}", expected);
    assert_eq!(Stage1::table(frame).bits(), expected);
    assert_eq!(Stage1::page(frame).mfn(), frame);
}

#[test]
fn stage_1_predicates_read_those_fields() {
    let pt = fields(&header("arch/arm/include/asm/lpae.h"), "lpae_pt_t");
    let entry = |names: &[&str]| {
        Stage1::from_bits(
            names
                .iter()
                .map(|name| mask(pt[*name]))
                .fold(0, |a, b| a | b),
        )
    };
    assert!(entry(&["valid"]).is_valid() && !entry(&["table"]).is_valid());
    assert!(entry(&["valid", "table"]).is_table(2) && !entry(&["valid", "table"]).is_table(3));
    assert!(!entry(&["table"]).is_table(1) && !entry(&["table"]).is_leaf(3));
    assert!(entry(&["valid"]).is_leaf(1));
    assert!(entry(&["contig"]).is_contiguous() && !entry(&["pxn"]).is_contiguous());
    assert!(entry(&["ro"]).is_read_only() && !entry(&["up"]).is_read_only());
    assert!(entry(&["xn"]).is_execute_never() && !entry(&["pxn"]).is_execute_never());
    assert_eq!(entry(&["base"]).mfn().get(), (1 << pt["base"].1) - 1);

    // A change of one field: which ones need break-before-make.
    let page = Stage1::page(Mfn::new(0x1230));
    for (name, &field) in &pt {
        let other = Stage1::from_bits(page.bits() ^ (mask(field) & (1 << field.0)));
        let harmless = ["valid", "ro", "xn", "af", "avail"].contains(&name.as_str());
        assert_eq!(page.needs_break(other), !harmless, "{name}");
    }
    let block = Stage1::from_bits(page.bits() & !mask(pt["table"]) | mask(pt["contig"]));
    let narrowed = block.narrowed(Mfn::new(0x1234), 3);
    let expected = page.bits() & !mask(pt["base"]) | 0x1234 << 12;
    assert_eq!(narrowed.bits(), expected);
    assert_eq!(
        block.narrowed(Mfn::new(0x1200), 2).bits() & mask(pt["table"]),
        0
    );
}

#[test]
fn stage_2_fields_are_where_xen_has_them() {
    let p2m = fields(&header("arch/arm/include/asm/lpae.h"), "lpae_p2m_t");
    let bits = |name: &str, value: u64| value << p2m[name].0;
    for raw in 0..16 {
        let entry = Stage2::from_bits(!mask(p2m["type"]) | bits("type", raw));
        let number = entry.p2m_type().map_or_else(u64::from, |t| t as u64);
        assert_eq!(number, raw);
        assert_eq!(entry.is_present(), raw != 0);
    }
    let entry = Stage2::from_bits(bits("type", 1));
    assert!(!entry.is_valid() && entry.validated().is_valid());
    assert_eq!(
        entry.validated().bits(),
        bits("type", 1) | mask(p2m["valid"])
    );
    assert!(Stage2::from_bits(mask(p2m["table"])).is_table(2));
    assert!(!Stage2::from_bits(!mask(p2m["table"])).is_table(2));
    let last = Stage2::from_bits(mask(p2m["base"])).mfn().get();
    assert_eq!(last, (1 << p2m["base"].1) - 1);
}

#[test]
fn p2m_types_have_xen_s_numbers() {
    let text = header("arch/arm/include/asm/p2m.h");
    let start = text.find("p2m_invalid = 0").expect("the enum");
    let body = &text[start..start + text[start..].find('}').expect("its end")];
    let names: Vec<&str> = body
        .lines()
        .filter_map(|l| l.trim().strip_prefix("p2m_"))
        .map(|l| l.split([',', ' ']).next().expect("a name"))
        .collect();
    use P2mType as T;
    let ours = [
        ("invalid", T::Invalid),
        ("ram_rw", T::RamRw),
        ("ram_ro", T::RamRo),
        ("mmio_direct_dev", T::MmioDev),
        ("mmio_direct_nc", T::MmioNc),
        ("mmio_direct_c", T::MmioC),
        ("map_foreign_rw", T::ForeignRw),
        ("map_foreign_ro", T::ForeignRo),
        ("grant_map_rw", T::GrantRw),
        ("grant_map_ro", T::GrantRo),
        ("iommu_map_rw", T::IommuRw),
        ("iommu_map_ro", T::IommuRo),
    ];
    assert_eq!(names.last(), Some(&"max_real_type"));
    assert_eq!(names.len() - 1, ours.len());
    for (i, (name, p2m_type)) in ours.into_iter().enumerate() {
        assert_eq!(names[i], name);
        assert_eq!(p2m_type as usize, i);
        assert_eq!(P2mType::from_raw(i as u8), Some(p2m_type));
        assert_eq!(p2m_type.is_ram(), name.starts_with("ram"));
        let borrowed = name.starts_with("map_foreign") || name.starts_with("grant");
        assert_eq!(p2m_type.is_borrowed(), borrowed);
        let memory = borrowed || name.starts_with("ram") || name.starts_with("iommu");
        assert_eq!(p2m_type.is_any_ram(), memory);
    }
    assert!((12..=255).all(|raw| P2mType::from_raw(raw).is_none()));
}

#[test]
fn errors_are_the_numbers_of_public_errno_h() {
    let text = header("include/public/errno.h");
    let errno = |name: &str| -> i64 {
        let at = text
            .find(&format!("XEN_ERRNO({name},"))
            .unwrap_or_else(|| panic!("{name}"));
        let rest = &text[at..];
        let inner = &rest[rest.find(',').expect("comma") + 1..rest.find(')').expect("end")];
        inner.trim().parse().expect("a number")
    };
    let all = [
        (Error::UnknownCommand, "ENOSYS"),
        (Error::Invalid, "EINVAL"),
        (Error::NoDomain, "ESRCH"),
        (Error::Nothing, "ENOENT"),
        (Error::Dying, "ENXIO"),
        (Error::Unfinished, "EBUSY"),
        (Error::ControlDomain, "EOPNOTSUPP"),
        (Error::Done, "EEXIST"),
        (Error::Locked, "EROFS"),
        (Error::Again, "EAGAIN"),
        (Error::SharedPages, "EMLINK"),
        (Error::PvPages, "EADDRINUSE"),
        (Error::Its, "EXDEV"),
        (Error::Devices, "ENODEV"),
        (Error::NoMemory, "ENOMEM"),
        (Error::Unsound, "EIO"),
        (Error::TooManyDomains, "E2BIG"),
    ];
    for (error, name) in all {
        assert_eq!(error.errno(), errno(name), "{error:?}");
    }
    let numbers: std::collections::BTreeSet<i64> = all.iter().map(|(e, _)| e.errno()).collect();
    assert_eq!(numbers.len(), all.len(), "two errors share a number");
    // For the caller there is no difference.
    assert_eq!(Error::Room.errno(), Error::Again.errno());
}

#[test]
fn special_domids_are_those_of_public_xen_h() {
    let text = header("include/public/xen.h");
    let domid = |name: &str| {
        let line = text
            .lines()
            .find(|l| l.starts_with(&format!("#define {name} ")))
            .unwrap_or_else(|| panic!("{name}"));
        let number = &line[line.find("0x").expect("a number") + 2..line.len() - 1];
        u32::from_str_radix(number, 16).expect("hexadecimal")
    };
    assert_eq!(hypercall::DOMID_SELF, domid("DOMID_SELF"));
    assert_eq!(hypercall::DOMID_INVALID, domid("DOMID_INVALID"));
    assert_eq!(
        hypercall::DOMID_FIRST_RESERVED,
        domid("DOMID_FIRST_RESERVED")
    );
}
