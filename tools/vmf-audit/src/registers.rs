//! The registers of every CPU at the moment of the dump, and what is claimed about the domains: the lab's
//! `registers-<moment>.json`. Register numbers may be hexadecimal strings or numbers; unknown fields are ignored.

use crate::error::{Error, Result};
use crate::hex::Hex;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registers {
    /// Every CPU of the machine, online or not.
    pub cpus: Vec<Cpu>,
    /// Every domain, dom0 included. May be missing while it is still to be found out (see [`crate::xen::domains`]).
    #[serde(default)]
    pub domains: Vec<Domain>,
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
    use super::Registers;

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
        assert!(
            Registers::parse(&format!("{{\"cpus\":[{CPU}]}}"))
                .unwrap()
                .domains
                .is_empty()
        );
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
