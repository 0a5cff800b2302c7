//! What can be asked of the fuse, and what it answers, as types.

use std::fmt;

use xen_vmf_abi as abi;

use crate::refusal::Refusal;
use crate::transport::OpenError;

/// Reserved domain ids begin here (public/xen.h, DOMID_FIRST_RESERVED).
const FIRST_RESERVED: u16 = 0x7ff0;
/// Id of a guest, control or hardware domain; never a reserved one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(pub(crate) u16);

impl DomId {
    /// None where `id` is not one that a domain can have.
    #[must_use]
    pub fn new(id: u64) -> Option<Self> {
        u16::try_from(id)
            .ok()
            .filter(|&id| id < FIRST_RESERVED)
            .map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to Xen.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// This Xen has no fuse.
    #[error(
        "this Xen has no virtual memory fuse (vmf_op: ENOSYS); build Xen with the series and CONFIG_VMF=y"
    )]
    NoVmf,
    /// Another version of the interface.
    #[error(
        "Xen's fuse has interface version {}.{}, this program needs {}.x; use the one that was built with this Xen",
        .0 >> 16, .0 & 0xffff, abi::XENVMF_INTERFACE_VERSION >> 16
    )]
    Version(u32),
    /// Xen has refused.
    #[error("{what}: {refusal}")]
    Refused {
        /// What was asked.
        what: String,
        /// Why not.
        refusal: Refusal,
    },
    /// Xen has answered something that the interface does not allow.
    #[error(
        "{what}: Xen answered {value}, which the interface does not have; use the program that was built with this Xen"
    )]
    Unexpected {
        /// What was asked.
        what: String,
        /// The answer.
        value: u64,
    },
}

/// How far the fuse has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing has been removed.
    Open,
    /// Pages have left the directmap.
    Unmapped,
    /// No translation table is mapped any more.
    Locked,
    /// Nor is there an instruction that could undo that.
    Sealed,
}

impl State {
    pub(crate) fn from_number(value: u64) -> Option<Self> {
        let number = u32::try_from(value).ok()?;
        match number {
            abi::XENVMF_state_open => Some(Self::Open),
            abi::XENVMF_state_unmapped => Some(Self::Unmapped),
            abi::XENVMF_state_locked => Some(Self::Locked),
            abi::XENVMF_state_sealed => Some(Self::Sealed),
            _ => None,
        }
    }

    /// A word for programs and people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Unmapped => "unmapped",
            Self::Locked => "locked",
            Self::Sealed => "sealed",
        }
    }

    /// The level of the threat model that holds, none while open.
    #[must_use]
    pub fn level(self) -> Option<&'static str> {
        match self {
            Self::Open => None,
            Self::Unmapped => Some("unmap"),
            Self::Locked => Some("lock"),
            Self::Sealed => Some("seal"),
        }
    }
}

/// Something that can stand in the way of the fuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// The control or hardware domain.
    ControlDomain,
    /// The domain is dying.
    Dying,
    /// The domain is still being built.
    Unfinished,
    /// Another domain has pages of it mapped.
    SharedPages,
    /// Xen has pages of it mapped for a PV interface.
    PvPages,
    /// Devices are assigned to it.
    Devices,
    /// It is protected already.
    Protected,
    /// The machine is locked already.
    Locked,
    /// No domain is protected.
    NothingProtected,
    /// CPUs are not online.
    CpusOffline,
    /// An ITS is in use.
    Its,
    /// Stage-2 leaves of unprotected domains reach protected pages or Xen's.
    Stage2Leaves,
    /// A work-around of a CPU calls firmware (in the way of a full seal).
    FirmwareCalls,
    /// An IOMMU is in use.
    Iommu,
    /// CPUs can write samples or traces to memory (SPE, TRBE).
    TraceUnits,
}

impl Obstacle {
    /// Those of a domain.
    pub const DOMAIN: [Self; 7] = [
        Self::ControlDomain,
        Self::Dying,
        Self::Unfinished,
        Self::SharedPages,
        Self::PvPages,
        Self::Devices,
        Self::Protected,
    ];
    /// Those of the machine.
    pub const MACHINE: [Self; 8] = [
        Self::Locked,
        Self::NothingProtected,
        Self::CpusOffline,
        Self::Its,
        Self::Iommu,
        Self::TraceUnits,
        Self::Stage2Leaves,
        Self::FirmwareCalls,
    ];

    /// Its number in the interface.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::ControlDomain => abi::XENVMF_obstacle_control_domain,
            Self::Dying => abi::XENVMF_obstacle_dying,
            Self::Unfinished => abi::XENVMF_obstacle_unfinished,
            Self::SharedPages => abi::XENVMF_obstacle_shared_pages,
            Self::PvPages => abi::XENVMF_obstacle_pv_pages,
            Self::Devices => abi::XENVMF_obstacle_devices,
            Self::Protected => abi::XENVMF_obstacle_protected,
            Self::Locked => abi::XENVMF_obstacle_locked,
            Self::NothingProtected => abi::XENVMF_obstacle_nothing_protected,
            Self::CpusOffline => abi::XENVMF_obstacle_cpus_offline,
            Self::Its => abi::XENVMF_obstacle_its,
            Self::Stage2Leaves => abi::XENVMF_obstacle_stage2_leaves,
            Self::FirmwareCalls => abi::XENVMF_obstacle_firmware_calls,
            Self::Iommu => abi::XENVMF_obstacle_iommu,
            Self::TraceUnits => abi::XENVMF_obstacle_trace_units,
        }
    }

    /// A word for programs, stable.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ControlDomain => "control-domain",
            Self::Dying => "dying",
            Self::Unfinished => "unfinished",
            Self::SharedPages => "shared-pages",
            Self::PvPages => "pv-pages",
            Self::Devices => "devices",
            Self::Protected => "protected",
            Self::Locked => "locked",
            Self::NothingProtected => "nothing-protected",
            Self::CpusOffline => "cpus-offline",
            Self::Its => "its",
            Self::Stage2Leaves => "stage2-leaves",
            Self::FirmwareCalls => "firmware-calls",
            Self::Iommu => "iommu",
            Self::TraceUnits => "trace-units",
        }
    }
}

/// The machine's status items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineStatus {
    /// How far the fuse has gone.
    pub state: State,
    /// All RAM is in the directmap (`directmap=yes`).
    pub directmap: bool,
    /// Xen is a debug build.
    pub debug: bool,
    /// Xen can call firmware (`SMC`); a full seal takes that away.
    pub firmware_calls: bool,
    /// Xen has attack primitives for tests built in (`CONFIG_VMF_ATTACK`).
    pub attack: bool,
    /// Xen can reset the machine without firmware (`vmf-reset=`).
    pub reset: bool,
    /// The fuse was to be blown at boot, and was not.
    pub boot_failed: bool,
    /// Number of protected domains.
    pub protected_domains: u64,
    /// First machine address of the xenheap.
    pub xenheap_start: u64,
    /// Its size in bytes.
    pub xenheap_bytes: u64,
    /// Its free bytes.
    pub xenheap_free: u64,
}

/// A domain's status items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainStatus {
    /// Its id.
    pub id: DomId,
    /// Its pages have left the directmap.
    pub protected: bool,
    /// How far the fuse has gone for it.
    pub state: State,
    /// Pages of memory it owns.
    pub pages: u64,
    /// It is the control domain.
    pub control: bool,
    /// It is the hardware domain.
    pub hardware: bool,
}

/// Guest frames that a domain shares with Xen on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The first guest frame.
    pub gfn: u64,
    /// How many follow one another, from there on.
    pub pages: u64,
}

/// Accesses to emulated devices that Xen could not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecoded {
    /// How many.
    pub count: u64,
    /// Guest PC of the last one; means nothing where there is none.
    pub pc: u64,
}

/// The machine's counters, by name; the fields are those of the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub(crate) values: [u64; abi::XENVMF_counter_end as usize],
}

impl Counters {
    /// Names of all counters, in the interface's order.
    pub const NAMES: [&'static str; abi::XENVMF_counter_end as usize] = [
        "leaves_removed",
        "bytes_removed",
        "blocks_split",
        "tables_allocated",
        "protect_ns",
        "lock_ns",
        "lock_stopped_ns",
        "table_frames",
        "forbidden_frames",
        "retained_frames",
        "refused",
        "leaked_pages",
        "selfcheck_addresses",
        "snapshot_extents",
        "window_tlbi",
    ];

    /// The counter of that number, `XENVMF_counter_*`.
    #[must_use]
    pub fn get(&self, counter: u32) -> u64 {
        self.values[counter as usize]
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::NAMES.into_iter().zip(self.values)
    }
}
