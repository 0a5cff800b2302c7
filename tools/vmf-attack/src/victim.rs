//! A domain as its attacker sees it: where Xen keeps it, where its stage 2
//! begins, and a page with a secret, recognised by the canary's pattern.

use canary_core::pattern;

use crate::Failure;
use crate::lab::Lab;
use crate::memory::PAGE;
use crate::tables::{self, Found};

/// Where a guest's RAM begins (GUEST_RAM0_BASE, public/arch-arm.h).
const RAM: u64 = 0x4000_0000;
/// How far behind that the secret is: canaries fill what follows their image.
const SECRET: u64 = 0x40_5000;
/// Bits of VTTBR_EL2 that hold the address.
const BADDR: u64 = 0x0000_ffff_ffff_fffe;

/// A domain in Xen's memory.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its id.
    pub id: u16,
    /// Address of its `struct domain`.
    pub structure: u64,
    /// Address of its first `struct vcpu`.
    pub vcpu: u64,
    /// Machine address of its stage 2, and the level of that table.
    pub root: u64,
    /// As above.
    pub root_level: u32,
    /// VTTBR_EL2, as a context switch loads it.
    pub vttbr: u64,
}

/// A page of a domain.
#[derive(Clone, Copy, Debug)]
pub struct Secret {
    /// Guest-physical address.
    pub gpa: u64,
    /// Machine address.
    pub maddr: u64,
    /// The word there.
    pub word: u64,
}

impl Secret {
    /// Guest frame.
    pub fn gfn(&self) -> u64 {
        self.gpa / PAGE
    }

    /// Machine frame.
    pub fn mfn(&self) -> u64 {
        self.maddr / PAGE
    }
}

/// A domain with a canary in it.
#[derive(Clone, Debug)]
pub struct Victim {
    /// The domain.
    pub domain: Domain,
    /// A word that the canary checks.
    pub secret: Secret,
    /// A page of it that the canary does not check.
    pub spare: Secret,
    /// The entry of its stage 2 that leads to the secret.
    pub entry: Found,
}

impl Domain {
    /// Finds a domain in Xen's list.
    pub fn find(lab: &mut Lab, id: u16) -> Result<Self, Failure> {
        let of = |path: &str| lab.symbols.member("domain", path);
        let (next, number) = (of("next_in_list")?, of("domain_id")?);
        let vcpu = of("vcpu")?;
        let vttbr = of("arch.p2m.vttbr")?;
        let mut structure = lab.read(lab.symbols.symbol("domain_list")?)?;
        while structure != 0 {
            if lab.read(structure + number)? as u16 == id {
                let vttbr = lab.read(structure + vttbr)?;
                let level = lab.read(lab.symbols.symbol("p2m_root_level")?)? as u32;
                let vcpus = lab.read(structure + vcpu)?;
                return Ok(Self {
                    id,
                    structure,
                    vcpu: lab.read(vcpus)?,
                    root: vttbr & BADDR,
                    root_level: level,
                    vttbr,
                });
            }
            structure = lab.read(structure + next)?;
        }
        Err(Failure(format!("Xen's list has no domain {id}")))
    }

    /// Walks its stage 2.
    pub fn walk(&self, lab: &mut Lab, gpa: u64) -> Result<Option<Found>, Failure> {
        Ok(tables::walk(lab, self.root, self.root_level, gpa)?)
    }

    fn page(&self, lab: &mut Lab, gpa: u64) -> Result<(Secret, Found), Failure> {
        let found = self
            .walk(lab, gpa)?
            .ok_or_else(|| Failure(format!("d{}: nothing at {gpa:#x}", self.id)))?;
        let secret = Secret {
            gpa,
            maddr: found.maddr,
            word: lab.read_physical(found.maddr)?,
        };
        Ok((secret, found))
    }
}

impl Victim {
    /// Looks into a domain whose canary has this seed. The word that
    /// is taken must be the canary's, or what follows would prove nothing.
    pub fn find(lab: &mut Lab, id: u16, seed: u64) -> Result<Self, Failure> {
        let domain = Domain::find(lab, id)?;
        let (secret, entry) = domain.page(lab, RAM + SECRET)?;
        let next = lab.read_physical(secret.maddr + 8)?;
        // The pattern begins on some page before it.
        let start = (1..SECRET / PAGE)
            .map(|page| secret.gpa - page * PAGE)
            .find(|start| {
                let index = ((secret.gpa - start) / 8) as usize;
                pattern::word(seed, index) == secret.word && pattern::word(seed, index + 1) == next
            })
            .ok_or_else(|| {
                Failure(format!(
                    "d{id}: {:#x} at {:#x} is not the canary's pattern of seed {seed:#x}",
                    secret.word, secret.gpa
                ))
            })?;
        // The page before the pattern is the one that the canary can grant.
        let (spare, _) = domain.page(lab, start - PAGE)?;
        Ok(Self {
            domain,
            secret,
            spare,
            entry,
        })
    }
}
