//! Profiles: which machine, which Xen, which domains, for how long.
//!
//! A profile is a TOML file in `tools/xtask/profiles/`. The test matrix starts
//! from one and changes single values, so everything that differs between two
//! runs stands in this structure.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Where RAM starts on QEMU's `virt` machine.
pub const RAM_BASE: u64 = 0x4000_0000;
/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// A system to boot.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name of the profile, and of its folder under `target/lab/`.
    #[serde(default)]
    pub name: String,
    /// What the profile is for, in one sentence.
    pub description: String,
    /// QEMU's name of the CPU.
    pub cpu: Cpu,
    /// Number of CPUs.
    pub cpus: u32,
    /// Further CPUs that the device tree has and the machine lacks: Xen cannot
    /// bring them up.
    #[serde(default)]
    pub dead_cpus: u32,
    /// Version of the GIC: 2 or 3.
    #[serde(default = "gicv3")]
    pub gic: u32,
    /// CPUs that the machine has and the device tree lacks: Xen does not know
    /// them, and firmware can start them all the same.
    #[serde(default)]
    pub hidden_cpus: u32,
    /// Banks of RAM, in ascending order; what lies between two is not given to Xen.
    pub banks: Vec<Bank>,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Whether Xen maps all RAM at boot (`directmap=yes`), as stock Xen does.
    pub directmap: bool,
    /// Further words for Xen's command line.
    #[serde(default)]
    pub xen_arguments: String,
    /// Instruction counting (`-icount shift=N`); none: as fast as it goes.
    #[serde(default)]
    pub icount: Option<u32>,
    /// Device tree template, relative to the repository.
    pub device_tree: String,
    /// Device tree source that is laid over all else, at the end.
    #[serde(default)]
    pub overlay: String,
    /// Seconds after which a run is given up.
    pub deadline: u64,
    /// Which Xen.
    pub xen: Xen,
    /// The control domain.
    pub dom0: Dom0,
    /// Domains that Xen builds beside dom0, in order of their ids from 1.
    #[serde(default, rename = "domain")]
    pub domains: Vec<Domain>,
}

/// The GIC of most machines.
fn gicv3() -> u32 {
    3
}

/// CPUs that the lab knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cpu {
    /// 44-bit physical addresses.
    CortexA57,
    /// 40-bit physical addresses: stage 2 starts at level 1.
    CortexA53,
    /// Everything that QEMU can emulate.
    Max,
}

/// Xen's schedulers that the lab knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Xen's default.
    Credit2,
    /// One vCPU per CPU, for ever.
    Null,
}

/// A bank of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bank {
    /// Physical address.
    pub start: u64,
    /// Size in MiB.
    pub mib: u64,
}

/// Which Xen to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Xen {
    /// With the fuse; without, Xen as upstream made it.
    pub fuse: bool,
    /// CONFIG_DEBUG=y.
    pub debug: bool,
    /// CONFIG_HAS_ITS=y, and a machine that has an ITS.
    #[serde(default)]
    pub its: bool,
    /// CONFIG_STATIC_SHM=y: memory that the device tree gives to several domains.
    #[serde(default)]
    pub shm: bool,
    /// CONFIG_VMF_ATTACK=y: dom0 has the attack primitives, and `vmf-attack`.
    #[serde(default)]
    pub attack: bool,
}

/// The control domain: Linux, unless told otherwise.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Dom0 {
    /// What runs in it: Linux, the bare-metal canary, or the fuzzer.
    #[serde(default)]
    pub guest: Guest,
    /// Memory in MiB.
    pub mib: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Further words for its kernel's command line.
    #[serde(default)]
    pub arguments: String,
    /// Xen's own tools beside the project's: xenstored, `xl` and the others.
    #[serde(default)]
    pub tools: bool,
}

/// A domain built by Xen from the device tree.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// What runs in it.
    pub guest: Guest,
    /// Memory in MiB.
    pub mib: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Device tree template of its node, relative to the repository.
    pub device_tree: String,
    /// Further words for its kernel's command line.
    #[serde(default)]
    pub arguments: String,
    /// `xen,enhanced`: event channels, grants, and the rest of Xen's PV interfaces.
    #[serde(default)]
    pub enhanced: bool,
    /// With a connection to xenstore beside them: dom0's tools find it by its name,
    /// and tell it to shut down. Needs `enhanced`, and dom0's tools.
    #[serde(default)]
    pub xenstore: bool,
    /// `vmf-unprotected`: stays outside when the fuse is blown at boot.
    #[serde(default)]
    pub unprotected: bool,
    /// Device tree source of the machine's devices that it gets (`xen,reg`), in
    /// the form of docs/misc/arm/passthrough.txt in Xen's source.
    #[serde(default)]
    pub devices: String,
    /// `vmf-share`: guest-physical ranges that it shares with Xen, address and
    /// bytes.
    #[serde(default)]
    pub share: Vec<[u64; 2]>,
}

/// What a domain runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// Debian's kernel with a canary as its first process.
    #[default]
    Linux,
    /// The bare-metal canary.
    Canary,
    /// Debian's kernel with a process that makes hypercalls against others.
    Hostile,
    /// The bare-metal fuzzer.
    Fuzz,
    /// The bare-metal canary of 32 bits.
    Narrow,
}

impl Cpu {
    /// Every CPU.
    pub const ALL: [Self; 3] = [Self::CortexA57, Self::CortexA53, Self::Max];
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CortexA57 => "cortex-a57",
            Self::CortexA53 => "cortex-a53",
            Self::Max => "max",
        })
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credit2 => "credit2",
            Self::Null => "null",
        })
    }
}

impl Bank {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.mib * MIB
    }

    /// First address behind the bank.
    pub fn end(&self) -> u64 {
        self.start + self.size()
    }
}

impl Profile {
    /// Reads `tools/xtask/profiles/<name>.toml` of the repository at `root`.
    pub fn read(root: &Path, name: &str) -> Result<Self> {
        let folder = root.join("tools/xtask/profiles");
        let path = folder.join(format!("{name}.toml"));
        if !path.is_file() {
            let mut known: Vec<String> = std::fs::read_dir(&folder)
                .with_context(|| format!("{}: cannot list", folder.display()))?
                .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
                .collect();
            known.sort();
            bail!("no profile {name:?}; there are: {}", known.join(", "));
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: cannot read", path.display()))?;
        let mut profile: Self =
            toml::from_str(&text).with_context(|| format!("{}: not a profile", path.display()))?;
        profile.name = name.to_owned();
        profile
            .validate()
            .with_context(|| format!("{}: makes no sense", path.display()))?;
        Ok(profile)
    }

    /// Checks what the structure alone cannot promise.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.cpus > 0 && self.cpus + self.dead_cpus.max(self.hidden_cpus) <= 8,
            "cpus = {}, dead_cpus = {}: 1 to 8 are possible",
            self.cpus,
            self.dead_cpus
        );
        ensure!(
            self.gic == 3 || self.gic == 2 && !self.xen.its,
            "gic = {}: 3 is possible, and 2 without an ITS",
            self.gic
        );
        ensure!(!self.banks.is_empty(), "no bank of RAM");
        ensure!(
            self.banks[0].start == RAM_BASE,
            "the first bank starts at {:#x}, but QEMU's RAM at {RAM_BASE:#x}",
            self.banks[0].start
        );
        for pair in self.banks.windows(2) {
            ensure!(
                pair[0].end() <= pair[1].start,
                "banks at {:#x} and {:#x} overlap or are out of order",
                pair[0].start,
                pair[1].start
            );
        }
        ensure!(
            self.domains
                .iter()
                .all(|domain| !domain.xenstore || domain.enhanced && self.dom0.tools),
            "xenstore = true needs enhanced = true, and tools = true of dom0"
        );
        if self.scheduler == Scheduler::Null {
            ensure!(
                self.vcpus() <= self.cpus,
                "the null scheduler needs a CPU for each of {} vCPUs, there are {}",
                self.vcpus(),
                self.cpus
            );
        }
        Ok(())
    }

    /// Whether it runs alone where others run side by side. For the TLB
    /// maintenance of one vCPU an emulator stops all, and each has to be given a
    /// CPU of the host for that: a dom0 with four vCPUs would not get anywhere.
    pub fn needs_the_host(&self) -> bool {
        self.dom0.vcpus > 2
    }

    /// vCPUs of all domains together.
    pub fn vcpus(&self) -> u32 {
        self.dom0.vcpus + self.domains.iter().map(|domain| domain.vcpus).sum::<u32>()
    }

    /// What QEMU must have as RAM: all banks, and the holes between them.
    pub fn ram_mib(&self) -> u64 {
        self.banks
            .last()
            .map_or(0, |bank| (bank.end() - RAM_BASE) / MIB)
    }

    /// How long a run may take.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }

    /// Xen's command line.
    pub fn xen_command_line(&self) -> String {
        let mut words = vec![
            "console=dtuart".to_owned(),
            "dtuart=/pl011@9000000".to_owned(),
            "loglvl=all guest_loglvl=all".to_owned(),
            "noreboot".to_owned(),
            format!("sched={}", self.scheduler),
            format!("dom0_mem={}M", self.dom0.mib),
            format!("dom0_max_vcpus={}", self.dom0.vcpus),
        ];
        if self.xen.fuse {
            words.push(format!(
                "directmap={}",
                if self.directmap { "yes" } else { "no" }
            ));
        }
        if !self.xen_arguments.is_empty() {
            words.push(self.xen_arguments.clone());
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Profile {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        Profile::read(&root, "demo").unwrap()
    }

    #[test]
    fn every_profile_is_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for entry in std::fs::read_dir(root.join("tools/xtask/profiles")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let profile = Profile::read(&root, name).unwrap();
            assert!(root.join(&profile.device_tree).is_file());
            for domain in &profile.domains {
                assert!(root.join(&domain.device_tree).is_file());
            }
        }
    }

    #[test]
    fn unknown_profile_names_the_known() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let error = Profile::read(&root, "nonesuch").unwrap_err().to_string();
        assert!(error.contains("there are:") && error.contains("demo"));
    }

    #[test]
    fn null_scheduler_needs_a_cpu_for_each_vcpu() {
        let mut profile = demo();
        profile.scheduler = Scheduler::Null;
        profile.cpus = 1;
        let error = profile.validate().unwrap_err().to_string();
        assert!(error.contains("null scheduler"), "{error}");
    }

    #[test]
    fn banks_do_not_overlap() {
        let mut profile = demo();
        profile.banks = vec![
            Bank {
                start: RAM_BASE,
                mib: 1024,
            },
            Bank {
                start: RAM_BASE + 512 * MIB,
                mib: 1024,
            },
        ];
        assert!(profile.validate().is_err());
        profile.banks[1].start = RAM_BASE + 1536 * MIB;
        profile.validate().unwrap();
        assert_eq!(profile.ram_mib(), 2560);
    }

    #[test]
    fn stock_xen_gets_no_unknown_words() {
        let mut profile = demo();
        assert!(profile.xen_command_line().contains("directmap=yes"));
        profile.xen.fuse = false;
        assert!(!profile.xen_command_line().contains("directmap"));
    }
}
