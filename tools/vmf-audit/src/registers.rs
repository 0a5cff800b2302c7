//! The registers of every CPU at the moment of the dump, and what is claimed about the domains: the lab's
//! `registers-<moment>.json`. Register numbers may be hexadecimal strings or numbers; unknown fields are ignored.

use crate::error::{Error, Result};
use crate::hex::Hex;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::str::FromStr;

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registers {
    /// Every CPU of the machine, online or not.
    pub cpus: Vec<Cpu>,
    /// Every domain, dom0 included. May be missing while it is still to be found out (see [`crate::xen::domains`]).
    #[serde(default)]
    pub domains: Vec<Domain>,
    /// Memory that several domains have on purpose (static shared memory).
    #[serde(default)]
    pub common: Vec<Common>,
}

/// Machine frames that these domains have in common, and no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// The first frame.
    pub mfn: Hex,
    /// How many.
    pub pages: u64,
    /// The domains, of which each sees all of it.
    pub domains: Vec<u16>,
}

/// One CPU's registers that decide what EL2 and the guests can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the architecture's own names
pub struct Cpu {
    #[serde(rename = "TTBR0_EL2")]
    pub ttbr0: Hex,
    #[serde(rename = "TCR_EL2")]
    pub tcr: Hex,
    #[serde(rename = "SCTLR_EL2")]
    pub sctlr: Hex,
    #[serde(rename = "MAIR_EL2")]
    pub mair: Hex,
    #[serde(rename = "VTTBR_EL2")]
    pub vttbr: Hex,
    #[serde(rename = "VTCR_EL2")]
    pub vtcr: Hex,
    #[serde(rename = "HCR_EL2")]
    pub hcr: Hex,
    #[serde(rename = "VBAR_EL2")]
    pub vbar: Hex,
}

/// One domain, its stage 2, and whether it is claimed to be protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Xen's domain id.
    pub id: u16,
    /// What is loaded into VTTBR_EL2 when one of its vCPUs runs: VMID and root table.
    #[serde(rename = "VTTBR_EL2")]
    pub vttbr: Hex,
    /// Whether it is claimed that Xen cannot reach its memory.
    #[serde(default)]
    pub protected: bool,
    /// Machine frame numbers that it shares on purpose, and that may stay mapped.
    #[serde(default)]
    pub shared_pages: Vec<Hex>,
    /// The same by guest frame, whatever machine frames its stage 2 maps there.
    #[serde(default)]
    pub shared: Vec<GuestRange>,
}

/// Guest frames that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRange {
    /// The first.
    pub gfn: Hex,
    /// How many.
    pub pages: u64,
}

/// That a domain shares a range, in words: `DOM:GFN:PAGES`, each decimal, or hexadecimal with `0x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The domain.
    pub domain: u16,
    /// What it shares.
    pub range: GuestRange,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Share, String> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let numbers: Option<Vec<u64>> = text.split(':').map(number).collect();
        match numbers.as_deref() {
            Some(&[domain, gfn, pages]) if pages != 0 => {
                u16::try_from(domain).ok().map(|domain| Share {
                    domain,
                    range: GuestRange {
                        gfn: Hex(gfn),
                        pages,
                    },
                })
            }
            _ => None,
        }
        .ok_or_else(|| {
            "a domain, its first guest frame and a number of pages are needed, as in 1:0x40100:2"
                .to_owned()
        })
    }
}

impl Registers {
    /// Reads and checks the file in `path`.
    pub fn open(path: &Path) -> Result<Registers> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Registers::parse(&text)
    }

    /// Reads and checks the text of such a file.
    pub fn parse(text: &str) -> Result<Registers> {
        let registers: Registers =
            serde_json::from_str(text).map_err(|e| Error::Registers(e.to_string()))?;
        registers.check()?;
        Ok(registers)
    }

    /// Claims that the domains `ids` are protected, and no others.
    pub fn protect(&mut self, ids: &[u16]) -> Result<()> {
        if let Some(id) = ids
            .iter()
            .find(|id| self.domains.iter().all(|d| d.id != **id))
        {
            return Err(Error::Registers(format!("it does not list domain {id}")));
        }
        for domain in &mut self.domains {
            domain.protected = ids.contains(&domain.id);
        }
        Ok(())
    }

    /// Claims that this is shared, besides what is claimed already.
    pub fn share(&mut self, shares: &[Share]) -> Result<()> {
        for share in shares {
            let domain = self.domains.iter_mut().find(|d| d.id == share.domain);
            let Some(domain) = domain else {
                return Err(Error::Registers(format!(
                    "it does not list domain {}",
                    share.domain
                )));
            };
            domain.shared.push(share.range);
        }
        Ok(())
    }

    /// What every registers file has to satisfy.
    pub fn check(&self) -> Result<()> {
        if self.cpus.is_empty() {
            return Err(Error::Registers(
                "it names no CPU; every CPU's registers are needed".into(),
            ));
        }
        let mut ids: Vec<u16> = self.domains.iter().map(|d| d.id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|p| p[0] == p[1]) {
            return Err(Error::Registers(format!(
                "domain {} is listed twice",
                twice[0]
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestRange, Registers, Share};
    use crate::hex::Hex;

    const CPU: &str = r#"{"TTBR0_EL2":"0x1","TCR_EL2":2,"SCTLR_EL2":"3","MAIR_EL2":"0x4","VTTBR_EL2":5,"VTCR_EL2":6,
        "HCR_EL2":7,"VBAR_EL2":8}"#;

    #[test]
    fn reads_strings_and_numbers_and_defaults() {
        let r = Registers::parse(&format!(
            "{{\"cpus\":[{CPU}],\"domains\":[{{\"id\":1,\"VTTBR_EL2\":\"0x1000\"}}]}}"
        ))
        .unwrap();
        assert_eq!(
            (r.cpus[0].ttbr0.0, r.cpus[0].sctlr.0, r.cpus[0].vbar.0),
            (1, 3, 8)
        );
        assert!(!r.domains[0].protected && r.domains[0].shared_pages.is_empty());
        assert!(r.domains[0].shared.is_empty());
        assert!(
            Registers::parse(&format!("{{\"cpus\":[{CPU}]}}"))
                .unwrap()
                .domains
                .is_empty()
        );
    }

    #[test]
    fn reads_what_is_shared() {
        let text = format!(
            "{{\"cpus\":[{CPU}],\"domains\":[{{\"id\":1,\"VTTBR_EL2\":1,\"shared\":[{{\"gfn\":\"0x40103\",\"pages\":2}}]}}]}}"
        );
        let mut r = Registers::parse(&text).unwrap();
        let range = |gfn, pages| GuestRange {
            gfn: Hex(gfn),
            pages,
        };
        assert_eq!(r.domains[0].shared, [range(0x40103, 2)]);
        r.share(&["1:0x40000:0x10".parse().unwrap(), "1:5:1".parse().unwrap()])
            .unwrap();
        assert_eq!(
            r.domains[0].shared,
            [range(0x40103, 2), range(0x40000, 16), range(5, 1)]
        );
        assert!(r.share(&["2:5:1".parse().unwrap()]).is_err());
        for wrong in [
            "",
            "1",
            "1:2",
            "1:2:3:4",
            "1:2:0",
            "65536:2:1",
            "1:-2:1",
            "1:2:x",
        ] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn refuses_what_is_missing_or_doubled() {
        for text in [
            "",
            "[]",
            "{\"cpus\":[]}",
            "{\"cpus\":[{\"TTBR0_EL2\":1}]}",
            &format!(
                "{{\"cpus\":[{CPU}],\"domains\":[{{\"id\":1,\"VTTBR_EL2\":1}},{{\"id\":1,\"VTTBR_EL2\":2}}]}}"
            ),
            &format!("{{\"cpus\":[{CPU}],\"domains\":[{{\"id\":70000,\"VTTBR_EL2\":1}}]}}"),
        ] {
            assert!(Registers::parse(text).is_err(), "{text}");
        }
    }
}
