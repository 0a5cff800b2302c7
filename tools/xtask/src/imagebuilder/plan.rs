//! What the config file asks of the fuse, checked.
//!
//! Checked is what is known before the boot and would have Xen start no domain:
//! words of `vmf=`, ranges, domains that Xen would refuse to protect. Xen has
//! the last word.

use std::ops::Range;

use anyhow::Result;

use super::config::{Config, number};

/// What the names of our keys have in them, and no key of ImageBuilder's; and
/// all of them.
const OURS: &str = "VMF";
const LEVEL: &str = "VMF";
const UNPROTECTED: &str = "DOMU_VMF_UNPROTECTED";
const SHARE: &str = "DOMU_VMF_SHARE";

/// How many domUs there are.
const NUM_DOMUS: &str = "NUM_DOMUS";
/// More ids than these Xen has for no domain.
const DOMAINS: u64 = 0x7ff0;
/// Bytes of a page.
const PAGE: u64 = 4096;
/// Ranges that Xen has room for in each domain, if none adjoin.
const RANGES: usize = 32;
/// Where Xen puts a guest's RAM: the first bank, and the one for what does not
/// fit into it (`xen/include/public/arch-arm.h`).
const RAM0: Range<u64> = 0x4000_0000..0x1_0000_0000;
const RAM1: u64 = 0x2_0000_0000;
/// What ImageBuilder gives a domU, in MiB, unless told.
const MEMORY: u64 = 512;

/// What is to be added.
#[derive(Debug)]
pub struct Plan {
    /// Xen's command line with `vmf=`; `None` if the fuse is not to be blown
    /// at boot.
    pub xen_command: Option<String>,
    /// The domUs whose nodes get a property, in order.
    pub domains: Vec<Domain>,
}

/// What one domU's node gets.
#[derive(Debug)]
pub struct Domain {
    /// Its number in the config file.
    pub index: u64,
    /// Its properties.
    pub unprotected: bool,
    /// Guest-physical ranges, in bytes, that are shared with Xen.
    pub share: Vec<Range<u64>>,
}

impl Plan {
    /// What this file asks for; the error names key and line.
    pub fn new(config: &Config) -> Result<Self> {
        let domus = config.number(NUM_DOMUS)?.unwrap_or(0);
        if domus > DOMAINS {
            return Err(config.wrong(NUM_DOMUS, &format!("Xen has room for {DOMAINS}")));
        }
        check_keys(config, domus)?;
        let level = level(config)?;
        let mut domains = Vec::new();
        let mut protected = 0;
        for index in 0..domus {
            let domain = Domain::new(config, index)?;
            let started = !config.is_set(&key("DOMU_NOBOOT", index));
            if !started {
                domain.has_no_node(config)?;
            } else if !domain.unprotected {
                protected += 1;
                if level.is_some() {
                    domain.check_enhanced(config)?;
                }
            }
            if domain.unprotected || !domain.share.is_empty() {
                domains.push(domain);
            }
        }
        if level.is_some() && protected == 0 {
            return Err(config.wrong(LEVEL, "no domU is protected by it"));
        }
        if level.is_none() && domains.is_empty() {
            return Err(config.wrong(LEVEL, "nor is any key of a domU; nothing to do"));
        }
        Ok(Self {
            xen_command: level.map(|level| xen_command(config, level)).transpose()?,
            domains,
        })
    }
}

impl Domain {
    fn new(config: &Config, index: u64) -> Result<Self> {
        let unprotected_key = key(UNPROTECTED, index);
        let unprotected = match config.text(&unprotected_key)? {
            None | Some("0") => false,
            Some("1") => true,
            Some(other) => {
                return Err(config.wrong(&unprotected_key, &format!("\"{other}\" is not 0 or 1")));
            }
        };
        let share_key = key(SHARE, index);
        let share = match config.text(&share_key)? {
            Some(text) => ranges(text, &memory(config, index)?)
                .map_err(|what| config.wrong(&share_key, &what))?,
            None => Vec::new(),
        };
        if unprotected && !share.is_empty() {
            let what = format!("{unprotected_key} is set: Xen reaches all of it anyway");
            return Err(config.wrong(&share_key, &what));
        }
        Ok(Self {
            index,
            unprotected,
            share,
        })
    }

    /// For a domU that ImageBuilder makes no node for: it must not want one.
    fn has_no_node(&self, config: &Config) -> Result<()> {
        for name in [UNPROTECTED, SHARE] {
            let key = key(name, self.index);
            if config.is_set(&key) {
                return Err(config.wrong(&key, "the domU has no node, because of DOMU_NOBOOT"));
            }
        }
        Ok(())
    }

    /// Hypercalls of an enhanced domain would fail, so Xen refuses to protect
    /// it. With a dom0, ImageBuilder makes every domU one that is not told
    /// otherwise.
    fn check_enhanced(&self, config: &Config) -> Result<()> {
        let name = key("DOMU_ENHANCED", self.index);
        let told = config.text(&name)?;
        let enhanced = match told {
            Some(text) => text != "0",
            None => config.is_set("DOM0_KERNEL"),
        };
        if !enhanced || !self.share.is_empty() {
            return Ok(());
        }
        let mut what = format!(
            "a protected domU is not enhanced unless it shares pages: set it to 0, or {}, or {}",
            key(SHARE, self.index),
            key(UNPROTECTED, self.index)
        );
        if told.is_none() {
            what.insert_str(0, "with a dom0 that means 1; ");
        }
        Err(config.wrong(&name, &what))
    }
}

/// The name of a key with an index.
fn key(name: &str, index: u64) -> String {
    format!("{name}[{index}]")
}

/// Every key of ours has to be known, with the index of a domU that there is.
fn check_keys(config: &Config, domus: u64) -> Result<()> {
    for full in config.keys() {
        let (name, index) = match full.split_once('[') {
            Some((name, index)) => (name, number(index.trim_end_matches(']'))),
            None => (full, None),
        };
        if !name.contains(OURS) {
            continue;
        }
        let indexed = [UNPROTECTED, SHARE].contains(&name);
        if !indexed && name != LEVEL {
            return Err(config.wrong(full, "not known"));
        }
        match index {
            None if indexed => return Err(config.wrong(full, "wants the number of a domU, [n]")),
            Some(_) if !indexed => return Err(config.wrong(full, "has no number, it is of Xen")),
            Some(index) if index >= domus => {
                let what = format!("no such domU, NUM_DOMUS is {domus}");
                return Err(config.wrong(full, &what));
            }
            // The shell reads 0x1 too, which would be looked for in vain.
            Some(index) if full != key(name, index) => {
                return Err(config.wrong(full, "write the number in decimal"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The value of `vmf=`, if there is to be one.
fn level(config: &Config) -> Result<Option<&str>> {
    let Some(text) = config.text(LEVEL)? else {
        return Ok(None);
    };
    let mut levels = Vec::new();
    let mut keeps = false;
    for word in text.split(',') {
        match word {
            "unmap" | "lock" | "seal" => levels.push(word),
            "keep-firmware-calls" => keeps = true,
            "strict" | "permissive" => {}
            _ => return Err(config.wrong(LEVEL, &format!("\"{word}\" is not known"))),
        }
    }
    let wrong = match levels[..] {
        ["unmap" | "lock"] if keeps => "keep-firmware-calls is of seal",
        ["lock" | "seal"] if config.is_set("DOM0_KERNEL") => {
            "with a dom0 (DOM0_KERNEL) only unmap; dom0 locks or seals later, by vmfctl"
        }
        [_] => return Ok(Some(text)),
        _ => "wants one of unmap, lock, seal",
    };
    Err(config.wrong(LEVEL, wrong))
}

/// Xen's command line with the level.
fn xen_command(config: &Config, level: &str) -> Result<String> {
    const KEY: &str = "XEN_CMD";
    let Some(command) = config.text(KEY)? else {
        return Err(config.wrong(KEY, "write out what ImageBuilder would take"));
    };
    if command
        .split_whitespace()
        .any(|word| word.starts_with("vmf="))
    {
        return Err(config.wrong(KEY, "has vmf= already, which is what VMF is for"));
    }
    if command.contains(['"', '$', '`', '\\']) {
        return Err(config.wrong(KEY, "has characters that cannot be quoted"));
    }
    Ok(format!("{command} vmf={level}"))
}

/// Where a domU has RAM, or nothing if that is up to static memory.
fn memory(config: &Config, index: u64) -> Result<Option<[Range<u64>; 2]>> {
    let name = key("DOMU_MEM", index);
    let mib = config.number(&name)?.unwrap_or(MEMORY);
    if config.is_set(&key("DOMU_STATIC_MEM", index)) {
        return Ok(None);
    }
    let Some(bytes) = mib.checked_mul(1 << 20).filter(|bytes| bytes >> 48 == 0) else {
        return Err(config.wrong(&name, "too much"));
    };
    let first = bytes.min(RAM0.end - RAM0.start);
    Ok(Some([
        RAM0.start..RAM0.start + first,
        RAM1..RAM1 + (bytes - first),
    ]))
}

/// Reads `address,size;...`, in bytes, or says what is wrong with it.
fn ranges(text: &str, memory: &Option<[Range<u64>; 2]>) -> Result<Vec<Range<u64>>, String> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for part in text.split(';') {
        let range = range(part.trim()).map_err(|what| format!("\"{}\": {what}", part.trim()))?;
        let show = || format!("{:#x},{:#x}", range.start, range.end - range.start);
        if let Some(banks) = memory
            && !banks
                .iter()
                .any(|bank| bank.start <= range.start && range.end <= bank.end)
        {
            let [first, second] = banks;
            let mut what = format!("{}: not memory of the domU, which is {first:#x?}", show());
            if !second.is_empty() {
                what += &format!(" and {second:#x?}");
            }
            return Err(what);
        }
        if let Some(other) = out
            .iter()
            .find(|other| other.start < range.end && range.start < other.end)
        {
            let size = other.end - other.start;
            return Err(format!("{}: overlaps {:#x},{size:#x}", show(), other.start));
        }
        out.push(range);
    }
    if out.len() > RANGES {
        return Err(format!("{} ranges, Xen has room for {RANGES}", out.len()));
    }
    Ok(out)
}

/// One range: whole pages, at least one.
fn range(text: &str) -> Result<Range<u64>, String> {
    let Some((address, size)) = text.split_once(',') else {
        return Err("not of the form address,size".to_owned());
    };
    let parse =
        |text: &str| number(text.trim()).ok_or(format!("\"{}\" is not a number", text.trim()));
    let (address, size) = (parse(address)?, parse(size)?);
    if address % PAGE != 0 || size % PAGE != 0 || size == 0 {
        return Err(format!(
            "does not begin and end with a page of {PAGE} bytes"
        ));
    }
    let end = address.checked_add(size).ok_or("too large")?;
    Ok(address..end)
}
