//! What can stand in the way, and the errno that says so.

use crate::commit;
use crate::extents::Full;
use crate::{plan, stage2};

/// Why a command was refused. Each has one errno; the table in the ABI crate
/// says what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Unknown command.
    UnknownCommand,
    /// Unknown flag or item, an argument that is not 0, or no guest's domid.
    Invalid,
    /// No such domain, or no further one.
    NoDomain,
    /// No further domain, or nothing to lock.
    Nothing,
    /// The domain is dying.
    Dying,
    /// The domain is still being built.
    Unfinished,
    /// The control or hardware domain cannot be protected.
    ControlDomain,
    /// It is done already.
    Done,
    /// The machine is locked.
    Locked,
    /// CPUs are offline, or one holds a mapping of its window.
    Again,
    /// There was too little room for the lists or the plan. That happens with the
    /// machine stopped; a command tries once more with as much as it needs.
    Room,
    /// Somebody else holds pages of the domain.
    SharedPages,
    /// Xen has mapped pages of the domain for a PV interface.
    PvPages,
    /// An ITS is in use.
    Its,
    /// An IOMMU is in use.
    Iommu,
    /// CPUs can write samples or traces to memory.
    TraceUnits,
    /// A device is assigned to the domain.
    Devices,
    /// No memory for tables or lists.
    NoMemory,
    /// The plan did not pass its check.
    Unsound,
    /// A domain's VMID is too large for the frozen page.
    TooManyDomains,
    /// A CPU's work-around calls firmware on entry from a guest.
    NeedsFirmware,
    /// CPUs differ in what HCR_EL2 can hold.
    UnlikeCpus,
    /// A guest frame that is not RAM of the domain.
    NotRam,
    /// A domain shares too many extents.
    NoSpace,
    /// The domain has to do that itself.
    NotYours,
}

impl Error {
    /// The number from Xen's `public/errno.h`.
    pub const fn errno(self) -> i64 {
        match self {
            Error::UnknownCommand => 38,
            Error::Invalid => 22,
            Error::NoDomain => 3,
            Error::Nothing => 2,
            Error::Dying => 6,
            Error::Unfinished => 16,
            Error::ControlDomain => 95,
            Error::Done => 17,
            Error::Locked => 30,
            Error::Again | Error::Room => 11,
            Error::SharedPages => 31,
            Error::PvPages => 98,
            Error::Its => 18,
            Error::Iommu => 99,
            Error::TraceUnits => 61,
            Error::Devices => 19,
            Error::NoMemory => 12,
            Error::Unsound => 5,
            Error::TooManyDomains => 7,
            Error::NeedsFirmware => 8,
            Error::UnlikeCpus => 34,
            Error::NotRam => 14,
            Error::NoSpace => 28,
            Error::NotYours => 1,
        }
    }
}

impl From<Full> for Error {
    fn from(_: Full) -> Self {
        Error::Room
    }
}

impl From<plan::Error> for Error {
    fn from(error: plan::Error) -> Self {
        match error {
            plan::Error::TooManyEdits | plan::Error::TooFewTables => Error::Room,
            plan::Error::Unsound(_) | plan::Error::Misplaced(_) => Error::Unsound,
        }
    }
}

impl From<stage2::Error<Error>> for Error {
    fn from(error: stage2::Error<Error>) -> Self {
        match error {
            stage2::Error::UnknownType(_) => Error::Unsound,
            stage2::Error::Visitor(inner) => inner,
        }
    }
}

/// A plan that would pull away what the machine stands on is our own mistake.
impl From<commit::Floor> for Error {
    fn from(_: commit::Floor) -> Self {
        Error::Unsound
    }
}
