//! `vmfctl check`: what stands in the way of the fuse, in words, with what to
//! do about it. `blow` asks the same before it does anything.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use xenctrl_ffi::{DomId, MachineStatus, Obstacle};

use crate::Context;
use crate::cli::Depth;
use crate::failure::Failure;
use crate::select::{self, Domain};

/// An obstacle that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Which.
    pub obstacle: Obstacle,
    /// How often.
    pub count: u32,
}

impl Found {
    /// What stands in the way.
    #[must_use]
    pub fn what(&self) -> String {
        let n = self.count;
        match self.obstacle {
            Obstacle::ControlDomain => {
                "it is the control or hardware domain, which Xen must be able to serve".into()
            }
            Obstacle::Dying => "it is dying".into(),
            Obstacle::Unfinished => "it is still being built".into(),
            Obstacle::SharedPages => format!(
                "pages of it that another domain has mapped (grants or foreign mappings): {n}"
            ),
            Obstacle::PvPages => format!(
                "pages of it that Xen has mapped for a PV interface (vcpu_info, runstate, event channels, ioreq): {n}"
            ),
            Obstacle::Devices => format!("devices assigned to it: {n}"),
            Obstacle::Protected => "it is protected already".into(),
            Obstacle::Locked => "the machine is locked already".into(),
            Obstacle::NothingProtected => "no domain is protected".into(),
            Obstacle::CpusOffline => format!("CPUs that are present and not online: {n}"),
            Obstacle::Its => "an ITS is in use: its tables are memory that a device reads".into(),
            Obstacle::Stage2Leaves => format!(
                "stage-2 entries of unprotected domains that reach memory of protected domains or of Xen: {n}"
            ),
            Obstacle::FirmwareCalls => {
                "a work-around of a CPU calls firmware on every exception from a guest, or on some"
                    .into()
            }
            Obstacle::Iommu => {
                "an IOMMU is in use: its tables and registers stay within Xen's reach".into()
            }
            Obstacle::TraceUnits => format!(
                "CPUs that can write samples or traces to memory (SPE, TRBE), by whose translations is up to data of Xen's: {n}"
            ),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self.obstacle {
            Obstacle::ControlDomain => "leave it out; `all` means every other domain",
            Obstacle::Dying => "wait until it is gone, or leave it out",
            Obstacle::Unfinished => "wait until it has started; unpause it if it was built paused",
            Obstacle::SharedPages => {
                "detach its virtual disks, networks and consoles (xl block-detach, network-detach), and end what has its memory mapped"
            }
            Obstacle::PvPages => {
                "boot it without PV drivers: no xen,enhanced in its device tree node, no Xen drivers in its kernel"
            }
            Obstacle::Devices => "detach them, or take them out of its device tree node",
            Obstacle::Protected => "nothing: that cannot and need not be done twice",
            Obstacle::Locked => "boot again, and name every domain in one `vmfctl blow`",
            Obstacle::NothingProtected => "protect a domain first: `vmfctl protect DOMAIN`",
            Obstacle::CpusOffline => {
                "wait until they are up, or boot with maxcpus= to do without them"
            }
            Obstacle::Its => "boot with a device tree that has no ITS node",
            Obstacle::Stage2Leaves => {
                "end the sharing of that memory (static shared memory, foreign mappings) and boot again"
            }
            Obstacle::FirmwareCalls => {
                "seal with --keep-firmware-calls, or do without: spec-ctrl=ssbd=... and CONFIG_ARM_SSBD, CONFIG_ARM64_HARDEN_BRANCH_PREDICTOR (SMCCC work-arounds 1 and 3), or a CPU that needs neither"
            }
            Obstacle::Iommu => {
                "boot Xen with iommu=no; no IOMMU then holds back the devices of other domains"
            }
            Obstacle::TraceUnits => {
                "nothing: these CPUs can be protected as far as `vmfctl protect`, and not be locked"
            }
        }
    }

    fn json(&self) -> Value {
        json!({
            "obstacle": self.obstacle.code(), "count": self.count,
            "what": self.what(), "remedy": self.remedy(),
        })
    }
}

/// What a level does not hold against on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Registers of a guest that does not run.
    Registers,
    /// Devices without an IOMMU.
    Dma,
    /// Code of Xen's that loads other tables.
    Code,
    /// Calls of firmware.
    Firmware,
    /// Xen cannot be reset by software.
    NoReset,
    /// It cannot be switched off by software.
    NoPowerOff,
    /// Attack primitives are built in.
    Attack,
}

impl Exposure {
    /// Those of a machine at a level.
    fn of(goal: Goal, status: &MachineStatus) -> Vec<Self> {
        let mut list = vec![Self::Registers, Self::Dma];
        if goal == Goal::Lock {
            list.push(Self::Code);
        }
        if goal != Goal::Seal {
            list.push(Self::Firmware);
        } else if status.reset {
            list.push(Self::NoPowerOff);
        } else {
            list.push(Self::NoReset);
        }
        if status.attack {
            list.push(Self::Attack);
        }
        list
    }

    /// A word for programs, stable.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Dma => "dma",
            Self::Code => "code",
            Self::Firmware => "firmware",
            Self::NoReset => "no-reset",
            Self::NoPowerOff => "no-power-off",
            Self::Attack => "attack-primitives",
        }
    }

    /// What it means.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Registers => {
                "whoever writes Xen's data can set a guest's registers while it does not run, and so have it read its own memory"
            }
            Self::Dma => "devices that do DMA: no IOMMU holds them back",
            Self::Code => {
                "whoever chooses what code of Xen's runs can load other tables; `seal` ends that"
            }
            Self::Firmware => {
                "whoever chooses what code of Xen's runs can call firmware, which starts a CPU with its MMU off"
            }
            Self::NoReset => {
                "the machine can be neither reset nor switched off by software; vmf-reset= on Xen's command line names a register that resets it"
            }
            Self::NoPowerOff => {
                "the machine cannot be switched off by software; it is reset by the register of vmf-reset="
            }
            Self::Attack => "this Xen has attack primitives built in, for tests",
        }
    }
}

/// What was found about the machine and some domains.
pub struct Report {
    /// In the way of the machine.
    pub machine: Vec<Found>,
    /// The domains, and what is in the way of each.
    pub domains: Vec<(Domain, Vec<Found>)>,
    /// The machine is locked.
    pub locked: bool,
    /// What it stays exposed to; empty where it is not to be locked.
    pub exposed: Vec<Exposure>,
}

/// The level that the machine is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// `lock`.
    Lock,
    /// `seal`, but that firmware can still be called.
    SealKeepingFirmware,
    /// `seal`.
    Seal,
}

impl From<Depth> for Goal {
    fn from(depth: Depth) -> Self {
        match (depth.seal, depth.keep_firmware_calls) {
            (false, _) => Self::Lock,
            (true, true) => Self::SealKeepingFirmware,
            (true, false) => Self::Seal,
        }
    }
}

/// What the check is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// To protect the domains: what only concerns the lock is left out.
    Protect,
    /// To lock or seal with what is protected now.
    Lock(Goal),
    /// To protect the domains, then to lock or seal.
    Blow(Goal),
}

impl Aim {
    /// The level of the machine, none where only domains are protected.
    #[must_use]
    pub fn goal(self) -> Option<Goal> {
        match self {
            Self::Protect => None,
            Self::Lock(goal) | Self::Blow(goal) => Some(goal),
        }
    }
}

/// How often Xen is asked for pages that somebody else has mapped, while it names
/// some, and how long is waited in between. The domain runs meanwhile, and a page
/// that it gives up is in use until its hypercall ends.
const ASKED: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(20);

impl Report {
    /// Asks Xen.
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn new(context: &Context, domains: Vec<Domain>, aim: Aim) -> Result<Self, Failure> {
        let find = |domain: Option<DomId>, obstacle| {
            let mut count = context.machine.preflight(domain, obstacle)?;
            for _ in 1..ASKED {
                if count == 0 || obstacle != Obstacle::SharedPages {
                    break;
                }
                thread::sleep(BETWEEN);
                count = context.machine.preflight(domain, obstacle)?;
            }
            Ok::<_, Failure>((count != 0).then_some(Found { obstacle, count }))
        };
        let mut report = Self {
            machine: Vec::new(),
            domains: Vec::new(),
            locked: false,
            exposed: Vec::new(),
        };
        if let Some(goal) = aim.goal() {
            report.exposed = Exposure::of(goal, &context.machine.status()?);
        }
        for obstacle in Obstacle::MACHINE {
            let Some(found) = find(None, obstacle)? else {
                continue;
            };
            let concerns = match obstacle {
                Obstacle::Locked => {
                    report.locked = true;
                    false
                }
                Obstacle::NothingProtected => matches!(aim, Aim::Lock(_)),
                Obstacle::FirmwareCalls => aim.goal() == Some(Goal::Seal),
                _ => aim != Aim::Protect,
            };
            if concerns {
                report.machine.push(found);
            }
        }
        for domain in domains {
            let mut obstacles = Vec::new();
            // What is protected need not be protected again.
            if !domain.status.protected {
                for obstacle in Obstacle::DOMAIN {
                    obstacles.extend(find(Some(domain.id()), obstacle)?);
                }
                if report.locked {
                    obstacles.push(Found {
                        obstacle: Obstacle::Locked,
                        count: 1,
                    });
                }
            }
            report.domains.push((domain, obstacles));
        }
        if report.locked {
            // They stood in the way of a lock that is done.
            report.machine.clear();
        }
        Ok(report)
    }

    /// True if nothing stands in the way.
    #[must_use]
    pub fn clear(&self) -> bool {
        self.machine.is_empty() && self.domains.iter().all(|(_, found)| found.is_empty())
    }

    /// The domains that are not protected yet.
    pub fn unprotected(&self) -> impl Iterator<Item = &Domain> {
        self.domains
            .iter()
            .map(|(domain, _)| domain)
            .filter(|d| !d.status.protected)
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let list = |found: &[Found]| found.iter().map(Found::json).collect::<Vec<_>>();
        let domains: Vec<Value> = self
            .domains
            .iter()
            .map(|(domain, found)| {
                let mut value = json!({
                    "id": domain.id().get(), "name": domain.name, "ok": found.is_empty(),
                    "protected": domain.status.protected, "obstacles": list(found),
                });
                if domain.shared.is_some() {
                    value["stays_readable"] = shared_pages(domain)
                        .map(|gfn| json!({ "gfn": format!("{gfn:#x}"), "why": SHARED }))
                        .collect();
                }
                value
            })
            .collect();
        json!({
            "ok": self.clear(), "locked": self.locked,
            "machine": list(&self.machine), "domains": domains,
            "exposed": self.exposed.iter()
                .map(|one| json!({ "exposure": one.code(), "what": one.what() }))
                .collect::<Vec<_>>(),
        })
    }

    /// Prints it for people.
    pub fn print(&self) {
        print_one(
            "machine",
            &self.machine,
            if self.locked {
                "locked already"
            } else {
                "nothing in the way"
            },
        );
        for (domain, found) in &self.domains {
            let ok = if domain.status.protected {
                "protected already"
            } else {
                "nothing in the way"
            };
            print_one(&domain.title(), found, ok);
            for gfn in shared_pages(domain) {
                println!(
                    "{}: guest frame {gfn:#x} stays readable and writable for Xen: {SHARED}",
                    domain.title()
                );
            }
        }
        for one in &self.exposed {
            println!("stays exposed: {}", one.what());
        }
    }
}

/// Why a page stays.
const SHARED: &str = "shared on purpose";

/// Guest frames that stay within Xen's reach, one by one. Of the control and
/// hardware domains all stays.
fn shared_pages(domain: &Domain) -> impl Iterator<Item = u64> + '_ {
    let ranges = domain.shared.iter().flatten().filter(|_| domain.is_guest());
    ranges.flat_map(|range| range.gfn..range.gfn + range.pages)
}

fn print_one(title: &str, found: &[Found], ok: &str) {
    if found.is_empty() {
        println!("{title}: {ok}");
    }
    for one in found {
        println!("{title}: {}\n  -> {}", one.what(), one.remedy());
    }
}

/// Runs the command.
///
/// # Errors
/// [`Failure::Obstacles`] if something stands in the way.
pub fn run(context: &Context, words: &[String], goal: Goal) -> Result<(), Failure> {
    let all = ["all".to_owned()];
    let words = if words.is_empty() { &all } else { words };
    let report = Report::new(context, select::select(context, words)?, Aim::Blow(goal))?;
    if context.json {
        println!("{:#}", report.json());
    } else {
        report.print();
    }
    if report.clear() {
        Ok(())
    } else {
        Err(Failure::Obstacles)
    }
}
