//! What the blow costs: `vmf=lock` at boot, over the size of the guest and the
//! number of CPUs, by the fuse's own counters.
//!
//! There is no dom0 to ask for them, so they are read from the machine's
//! memory. With one CPU they are instructions. With several, QEMU's `-icount`
//! does not get CPUs that wait for each other to take turns, so there they are
//! time in the emulator, which no two runs agree on; one CPU is timed like
//! that as well, to compare with.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use vmf_audit::symbols::Symbols;

use super::figure::Point;
use crate::lab::images::Images;
use crate::lab::layout::XEN;
use crate::lab::profile::{Bank, Guest, Profile, RAM_BASE};
use crate::lab::scenarios::boot::ALONE;
use crate::lab::session::Session;

/// Sizes of the protected guest, in MiB.
pub const SIZES: [u64; 3] = [192, 1024, 8192];
/// Numbers of CPUs, where time is taken.
pub const CPUS: [u32; 3] = [1, 2, 4];
/// What protect and lock of 1 GiB are to take at most, in instructions.
pub const TARGET: u64 = 2_000_000;
/// New tables that the blow may need.
pub const TARGET_TABLES: u64 = 8;
/// What 8 GiB may take of what 1 GiB takes.
pub const TARGET_GROWTH: f64 = 1.5;

/// RAM beside the guest's, in MiB.
const BESIDE: u64 = 832;
/// The counters, by the end of the name that the compiler gives them.
const COUNTERS: &str = "5state8COUNTERS";
/// A blow of 8 GiB on four CPUs takes minutes of a busy host.
const SLOW: Duration = Duration::from_secs(570);

/// A system whose fuse is blown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct System {
    /// In instructions (`-icount`); otherwise in nanoseconds of the emulator.
    pub counted: bool,
    /// `directmap=yes`.
    pub directmap: bool,
    /// Size of the protected guest, in MiB.
    pub mib: u64,
    /// Number of CPUs.
    pub cpus: u32,
}

impl System {
    /// All that are measured.
    pub fn all() -> Vec<Self> {
        let mut systems = Vec::new();
        for mib in SIZES {
            for directmap in [false, true] {
                systems.push(Self {
                    counted: true,
                    directmap,
                    mib,
                    cpus: 1,
                });
            }
        }
        for mib in SIZES {
            for cpus in CPUS {
                systems.push(Self {
                    counted: false,
                    directmap: false,
                    mib,
                    cpus,
                });
            }
        }
        systems
    }
}

/// What one blow took.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Blow {
    /// Of what.
    pub system: System,
    /// `protect`, in instructions or nanoseconds.
    pub protect: u64,
    /// `lock`.
    pub lock: u64,
    /// Of it, with all CPUs stopped.
    pub stopped: u64,
    /// Leaves removed.
    pub leaves: u64,
    /// Blocks split.
    pub splits: u64,
    /// Tables allocated.
    pub tables: u64,
    /// Addresses tried by the self-checks, on all CPUs together.
    pub tried: u64,
    /// Extents of the frozen snapshot.
    pub snapshot: u64,
}

impl Blow {
    /// Protect and lock together.
    pub fn total(&self) -> u64 {
        self.protect + self.lock
    }
}

/// Boots, has Xen blow the fuse, and reads the counters.
pub fn measure(images: &Images, base: &Profile, lab: &Path, system: System) -> Result<Blow> {
    let System {
        counted,
        directmap,
        mib,
        cpus,
    } = system;
    let mut profile = base.clone();
    profile.name = format!(
        "blow-{mib}-{cpus}cpu-directmap-{}",
        if directmap { "yes" } else { "no" }
    );
    profile.deadline = SLOW.as_secs() + 30;
    profile.cpus = cpus;
    profile.device_tree = ALONE.to_owned();
    profile.banks = vec![Bank {
        start: RAM_BASE,
        mib: mib + BESIDE,
    }];
    // The host's memory is not to be filled with what nobody looks at.
    profile.xen_arguments = "conswitch=ax bootscrub=off".to_owned();
    Point::Locked.apply(&mut profile);
    profile.directmap = directmap;
    if !counted {
        profile.icount = None;
    }
    profile
        .domains
        .retain(|domain| domain.guest == Guest::Canary);
    for domain in &mut profile.domains {
        domain.mib = mib;
        domain.arguments = "size=64K".to_owned();
    }
    let mut session = Session::boot(images, &profile, lab, false)?;
    session.wait_xen("VMF: boot: d1 lock", SLOW)?;
    let folder = session.folder().to_owned();
    let counters = Counters::find(&folder.join("xen-syms"))?;
    use xen_vmf_abi as abi;
    let mut read = |counter| counters.read(&mut session, counter);
    let blow = Blow {
        system,
        protect: read(abi::XENVMF_counter_protect_ns)?,
        lock: read(abi::XENVMF_counter_lock_ns)?,
        stopped: read(abi::XENVMF_counter_lock_stopped_ns)?,
        leaves: read(abi::XENVMF_counter_leaves_removed)?,
        splits: read(abi::XENVMF_counter_blocks_split)?,
        tables: read(abi::XENVMF_counter_tables_allocated)?,
        tried: read(abi::XENVMF_counter_selfcheck_addresses)?,
        snapshot: read(abi::XENVMF_counter_snapshot_extents)?,
    };
    session.finish()?;
    ensure!(
        blow.protect > 0 && blow.lock > blow.stopped && blow.stopped > 0,
        "the counters make no sense: {blow:?} (run {})",
        folder.display()
    );
    Ok(blow)
}

/// Where the counters are.
struct Counters {
    address: u64,
}

impl Counters {
    /// Finds them; Xen stays where it is loaded, so their place in RAM follows
    /// from their place in the image.
    fn find(xen_syms: &Path) -> Result<Self> {
        let symbols = Symbols::open(xen_syms, &[])?;
        let start = symbols.address("_start").context("no symbol _start")?;
        let found = symbols.named(|name| name.contains(COUNTERS));
        ensure!(
            found.len() == 1,
            "{} symbols are called {COUNTERS}",
            found.len()
        );
        Ok(Self {
            address: XEN + (found[0].0 - start),
        })
    }

    fn read(&self, session: &mut Session, counter: u32) -> Result<u64> {
        let address = self.address + u64::from(counter) * 8;
        let low = session.device_word(address)?;
        let high = session.device_word(address + 4)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }
}
