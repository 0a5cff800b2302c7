//! What an errno of `vmf_op` means: one meaning each, see `xen-vmf-abi`.
//!
//! Xen's errno numbers (public/errno.h) are Linux's on Arm, and the privcmd
//! driver hands them through.

use std::fmt;

/// Why Xen did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// ENOSYS: this Xen has no such command, or no fuse at all.
    Unknown,
    /// EINVAL: a flag, item or domain that cannot be.
    Invalid,
    /// EPERM: the caller is not the control domain.
    NotControlDomain,
    /// ESRCH: no such domain.
    NoSuchDomain,
    /// ENXIO: the domain is dying.
    Dying,
    /// EBUSY: the domain is still being built.
    Unfinished,
    /// EOPNOTSUPP: the control or hardware domain.
    ControlDomain,
    /// EEXIST: done already.
    Already,
    /// EROFS: the machine is locked.
    Locked,
    /// ENOENT: nothing protected, or no further domain.
    Nothing,
    /// EAGAIN: CPUs are offline or coming up.
    CpusOffline,
    /// EMLINK: another domain has pages of the domain mapped.
    SharedPages,
    /// EADDRINUSE: Xen has pages of the domain mapped.
    PvPages,
    /// EXDEV: an ITS is in use.
    Its,
    /// ENODEV: a device is assigned to the domain.
    Devices,
    /// ENOMEM: the xenheap has no room for tables.
    NoMemory,
    /// EADDRNOTAVAIL: an IOMMU is in use.
    Iommu,
    /// ENODATA: CPUs can write samples or traces to memory.
    TraceUnits,
    /// E2BIG: a domain's VMID is too large for the frozen page.
    TooManyDomains,
    /// ENOEXEC: a work-around of a CPU calls firmware.
    NeedsFirmware,
    /// ERANGE: CPUs differ in what HCR_EL2 can hold.
    UnlikeCpus,
    /// EIO: the plan of the lock did not pass its check.
    PlanRejected,
    /// EFAULT: a guest frame to be shared is not RAM of the domain.
    NotRam,
    /// ENOSPC: a domain shares as many extents as it can.
    NoSpace,
    /// An errno that the interface does not document.
    Other(i32),
}

impl Refusal {
    /// Every documented refusal, with its errno.
    pub const DOCUMENTED: [(i32, Self); 24] = [
        (libc::ENOSYS, Self::Unknown),
        (libc::EINVAL, Self::Invalid),
        (libc::EPERM, Self::NotControlDomain),
        (libc::ESRCH, Self::NoSuchDomain),
        (libc::ENXIO, Self::Dying),
        (libc::EBUSY, Self::Unfinished),
        (libc::EOPNOTSUPP, Self::ControlDomain),
        (libc::EEXIST, Self::Already),
        (libc::EROFS, Self::Locked),
        (libc::ENOENT, Self::Nothing),
        (libc::EAGAIN, Self::CpusOffline),
        (libc::EMLINK, Self::SharedPages),
        (libc::EADDRINUSE, Self::PvPages),
        (libc::EXDEV, Self::Its),
        (libc::ENODEV, Self::Devices),
        (libc::ENOMEM, Self::NoMemory),
        (libc::EIO, Self::PlanRejected),
        (libc::EADDRNOTAVAIL, Self::Iommu),
        (libc::ENODATA, Self::TraceUnits),
        (libc::E2BIG, Self::TooManyDomains),
        (libc::ENOEXEC, Self::NeedsFirmware),
        (libc::ERANGE, Self::UnlikeCpus),
        (libc::EFAULT, Self::NotRam),
        (libc::ENOSPC, Self::NoSpace),
    ];

    /// The refusal that `errno` (positive) stands for.
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        Self::DOCUMENTED
            .iter()
            .find(|(number, _)| *number == errno)
            .map_or(Self::Other(errno), |(_, refusal)| *refusal)
    }

    /// The errno, positive.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::Unknown => libc::ENOSYS,
            Self::Invalid => libc::EINVAL,
            Self::NotControlDomain => libc::EPERM,
            Self::NoSuchDomain => libc::ESRCH,
            Self::Dying => libc::ENXIO,
            Self::Unfinished => libc::EBUSY,
            Self::ControlDomain => libc::EOPNOTSUPP,
            Self::Already => libc::EEXIST,
            Self::Locked => libc::EROFS,
            Self::Nothing => libc::ENOENT,
            Self::CpusOffline => libc::EAGAIN,
            Self::SharedPages => libc::EMLINK,
            Self::PvPages => libc::EADDRINUSE,
            Self::Its => libc::EXDEV,
            Self::Devices => libc::ENODEV,
            Self::NoMemory => libc::ENOMEM,
            Self::PlanRejected => libc::EIO,
            Self::Iommu => libc::EADDRNOTAVAIL,
            Self::TraceUnits => libc::ENODATA,
            Self::TooManyDomains => libc::E2BIG,
            Self::NeedsFirmware => libc::ENOEXEC,
            Self::UnlikeCpus => libc::ERANGE,
            Self::NotRam => libc::EFAULT,
            Self::NoSpace => libc::ENOSPC,
            Self::Other(errno) => errno,
        }
    }

    /// A word for programs, stable.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "unknown-command",
            Self::Invalid => "invalid",
            Self::NotControlDomain => "not-control-domain",
            Self::NoSuchDomain => "no-such-domain",
            Self::Dying => "dying",
            Self::Unfinished => "unfinished",
            Self::ControlDomain => "control-domain",
            Self::Already => "already",
            Self::Locked => "locked",
            Self::Nothing => "nothing",
            Self::CpusOffline => "cpus-offline",
            Self::SharedPages => "shared-pages",
            Self::PvPages => "pv-pages",
            Self::Its => "its",
            Self::Devices => "devices",
            Self::NoMemory => "no-memory",
            Self::PlanRejected => "plan-rejected",
            Self::Iommu => "iommu",
            Self::TraceUnits => "trace-units",
            Self::TooManyDomains => "too-many-domains",
            Self::NeedsFirmware => "needs-firmware",
            Self::UnlikeCpus => "unlike-cpus",
            Self::NotRam => "not-ram",
            Self::NoSpace => "no-space",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "this Xen does not know the command; build Xen with CONFIG_VMF=y",
            Self::Invalid => "a flag, item or domain id that Xen does not accept",
            Self::NotControlDomain => "only the control domain may ask this; run it in dom0",
            Self::NoSuchDomain => "there is no such domain",
            Self::Dying => "the domain is dying; wait until it is gone",
            Self::Unfinished => "the domain is still being built; try again when it runs",
            Self::ControlDomain => "the control and hardware domains cannot be protected",
            Self::Already => "that is done already",
            Self::Locked => "the machine is locked; what is not protected or sealed by now needs a reboot first",
            Self::Nothing => "no domain is protected; protect one first",
            Self::CpusOffline => "not all CPUs are online; bring them up, or boot with maxcpus= to do without them",
            Self::SharedPages => "another domain has pages of the domain mapped; detach its backends and unmap them",
            Self::PvPages => "Xen has pages of the domain mapped for a PV interface; build the domain without xen,enhanced and PV drivers",
            Self::Its => "an ITS is in use; use a device tree without its node",
            Self::Devices => "a device is assigned to the domain; take it away",
            Self::NoMemory => "the xenheap is full; boot Xen with a larger xenheap_megabytes=",
            Self::PlanRejected => "the plan of the lock did not pass its check and nothing was changed; Xen's log (xl dmesg) says which",
            Self::Iommu => "an IOMMU is in use; boot Xen with iommu=no",
            Self::TraceUnits => "CPUs can write samples or traces to memory (SPE, TRBE)",
            Self::TooManyDomains => "there have been too many domains since boot; boot again and blow the fuse earlier",
            Self::NeedsFirmware => "a work-around of a CPU calls firmware on entry from a guest; keep firmware calls, or do without the work-around",
            Self::UnlikeCpus => "the CPUs differ in HCR_EL2; use CPUs of one kind",
            Self::NotRam => "a guest frame is not memory of the domain; name frames of its RAM",
            Self::NoSpace => "the domain cannot share more runs of frames; name longer ones",
            Self::Other(errno) => return write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_one_meaning() {
        for (errno, refusal) in Refusal::DOCUMENTED {
            assert_eq!(Refusal::from_errno(errno), refusal);
            assert_eq!(refusal.errno(), errno);
            let same = Refusal::DOCUMENTED
                .iter()
                .filter(|(_, r)| r.code() == refusal.code());
            assert_eq!(same.count(), 1);
        }
    }

    #[test]
    fn an_unknown_errno_is_kept() {
        let refusal = Refusal::from_errno(libc::EUCLEAN);
        assert_eq!(refusal, Refusal::Other(libc::EUCLEAN));
        assert_eq!(refusal.errno(), libc::EUCLEAN);
        assert!(refusal.to_string().contains("needs cleaning"));
    }

    #[test]
    fn numbers_are_those_of_xens_errno_h() {
        // public/errno.h, which is generic Linux.
        let xen = [
            38, 22, 1, 3, 6, 16, 95, 17, 30, 2, 11, 31, 98, 18, 19, 12, 5, 99, 61, 7, 8, 34, 14, 28,
        ];
        assert_eq!(Refusal::DOCUMENTED.map(|(errno, _)| errno), xen);
    }
}
