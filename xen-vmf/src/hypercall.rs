//! The `vmf_op` hypercall: what may be asked, and by whom.
//!
//! Everything that arrives here is four numbers from a guest, and an
//! allegation until it has been checked. The caller's privilege has been
//! judged by XSM in the glue before ([`needs_privilege`] says what to ask);
//! what changes the machine is not done here but returned as a [`Deferred`]
//! job, which runs in a tasklet because it stops all CPUs.
//!
//! Context: a guest's hypercall on any CPU, IRQs enabled, no locks.

use crate::addr::{Gfn, Mfn, PAGE_SHIFT};
use crate::error::Error;
use crate::fuse;
use crate::machine::{Domain, DomainFlags, Machine};
use crate::policy::Seal;
use crate::share::{self, Shares};
use crate::stage2::GuestExtent;
use crate::state;
use xen_vmf_abi as abi;

/// `DOMID_SELF` of Xen's `public/xen.h`.
pub const DOMID_SELF: u32 = 0x7ff0;
/// `DOMID_INVALID`: here, the machine.
pub const DOMID_INVALID: u32 = 0x7ff4;
/// `DOMID_FIRST_RESERVED`: domain ids of guests are smaller.
pub const DOMID_FIRST_RESERVED: u32 = 0x7ff0;

/// The arguments of the hypercall.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// `XENVMF_*`.
    pub cmd: u32,
    /// A domain, or one of the special ids.
    pub domid: u32,
    /// First argument.
    pub arg0: u64,
    /// Second argument.
    pub arg1: u64,
}

/// What the caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A value from 0 to 2^31 - 1.
    Value(u32),
    /// A job that stops all CPUs, to be run in a tasklet.
    Deferred(Job),
}

/// What a tasklet has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Protect the domain with this id.
    Protect(u16),
    /// Lock the machine, and seal it so far.
    Lock(Seal),
    /// Count the stage-2 leaves that stand in the way of the lock.
    CountStray,
}

impl Job {
    /// As a number for the tasklet; never 0.
    pub const fn encode(self) -> u64 {
        match self {
            Job::Protect(id) => 1 << 16 | id as u64,
            Job::CountStray => 2 << 16,
            Job::Lock(Seal::None) => 3 << 16,
            Job::Lock(Seal::KeepFirmwareCalls) => 4 << 16,
            Job::Lock(Seal::Full) => 5 << 16,
        }
    }

    /// The job that [`Job::encode`] made `number` of.
    pub const fn decode(number: u64) -> Option<Self> {
        match number >> 16 {
            1 => Some(Job::Protect(number as u16)),
            2 => Some(Job::CountStray),
            3 => Some(Job::Lock(Seal::None)),
            4 => Some(Job::Lock(Seal::KeepFirmwareCalls)),
            5 => Some(Job::Lock(Seal::Full)),
            _ => None,
        }
    }
}

/// Additional facts that only status queries need.
pub trait Status: Machine {
    /// Accesses of a protected domain that Xen could not decode, and the guest
    /// PC of the last.
    fn undecoded(&self, domain: &Domain) -> (u64, u64);
    /// Free pages of the xenheap.
    fn xenheap_free_pages(&self) -> u64;
    /// Whether the fuse was to be blown at boot, and was not.
    fn boot_failed(&self) -> bool;
    /// Whether the machine can be reset without firmware.
    fn has_reset(&self) -> bool;
    /// Whether Xen is a debug build.
    fn debug_build(&self) -> bool;
    /// TLB invalidations that all windows have issued.
    fn window_tlbi(&self) -> u64;
    /// The machine frame behind a guest frame that is RAM which `domain` owns,
    /// may write, and has not given up.
    fn owned_ram(&self, domain: &Domain, gfn: Gfn) -> Option<Mfn>;
    /// Takes `new` into the list of pages that `domain` shares, and from the
    /// domain the right to execute them; from then on its stage 2 does not
    /// change there. Nothing of it on an error: `Again` where stage 2 says
    /// something else by now, `Done` where a page is shared already, `NoSpace`
    /// where the list is full, `NoMemory` where stage 2 has no room for tables.
    fn share(&self, domain: &Domain, new: &Shares) -> Result<(), Error>;
}

/// Whether the call is one that only the control domain may make. A domain
/// may ask for its own status, and which interface it asks, and share pages of
/// its own.
pub fn needs_privilege(call: &Call, caller: u16) -> bool {
    let own = call.domid == DOMID_SELF || call.domid == u32::from(caller);
    let free = matches!(
        call.cmd,
        abi::XENVMF_status | abi::XENVMF_version | abi::XENVMF_share
    );
    !(free && own)
}

/// Whether the command exists. Others are `ENOSYS`, whoever asks.
pub fn is_known(cmd: u32) -> bool {
    cmd <= abi::XENVMF_share
}

/// Decides a call that has passed [`is_known`] and XSM.
pub fn decide<S: Status>(xen: &S, call: &Call, caller: u16) -> Result<Outcome, Error> {
    let value = match call.cmd {
        abi::XENVMF_version => {
            require(call.domid == DOMID_SELF && call.arg0 == 0 && call.arg1 == 0)?;
            abi::XENVMF_INTERFACE_VERSION
        }
        abi::XENVMF_preflight => {
            require(call.arg1 == 0)?;
            let obstacle = u32::try_from(call.arg0).map_err(|_| Error::Invalid)?;
            let count = if call.domid == DOMID_INVALID {
                if obstacle == abi::XENVMF_obstacle_stage2_leaves && !state::locked() {
                    return Ok(Outcome::Deferred(Job::CountStray));
                }
                fuse::machine_obstacle(xen, obstacle)
            } else {
                let domain = target(xen, call.domid, caller)?;
                fuse::domain_obstacle(xen, &domain, obstacle)
            };
            count.ok_or(Error::Invalid)?.min(0x7fff_ffff)
        }
        abi::XENVMF_protect => {
            require(call.arg0 == 0 && call.arg1 == 0)?;
            let domain = target(xen, call.domid, caller)?;
            fuse::preflight_domain(xen, &domain)?;
            return Ok(Outcome::Deferred(Job::Protect(domain.id)));
        }
        abi::XENVMF_lock => {
            require(call.domid == DOMID_INVALID && call.arg0 == 0 && call.arg1 == 0)?;
            fuse::preflight_machine(xen, Seal::None)?;
            return Ok(Outcome::Deferred(Job::Lock(Seal::None)));
        }
        abi::XENVMF_seal => {
            require(call.domid == DOMID_INVALID && call.arg1 == 0)?;
            let seal = match call.arg0 {
                0 => Seal::Full,
                flags if flags == u64::from(abi::XENVMF_seal_keep_firmware_calls) => {
                    Seal::KeepFirmwareCalls
                }
                _ => return Err(Error::Invalid),
            };
            fuse::preflight_machine(xen, seal)?;
            return Ok(Outcome::Deferred(Job::Lock(seal)));
        }
        abi::XENVMF_status => word(status(xen, call, caller)?, call.arg1)?,
        abi::XENVMF_counters => {
            require(call.domid == DOMID_INVALID)?;
            let counter = u32::try_from(call.arg0).map_err(|_| Error::Invalid)?;
            let value = if counter == abi::XENVMF_counter_window_tlbi {
                xen.window_tlbi()
            } else {
                state::counter(counter).ok_or(Error::Invalid)?
            };
            word(value, call.arg1)?
        }
        abi::XENVMF_next_domain => {
            require(call.domid == DOMID_INVALID && call.arg1 == 0)?;
            let from = u32::try_from(call.arg0).map_err(|_| Error::Nothing)?;
            u32::from(xen.next_domain(from).ok_or(Error::Nothing)?.id)
        }
        abi::XENVMF_share => {
            let domain = target(xen, call.domid, caller)?;
            share_pages(xen, &domain, domain.id == caller, call)?;
            0
        }
        _ => return Err(Error::UnknownCommand),
    };
    Ok(Outcome::Value(value))
}

/// `XENVMF_share`.
fn share_pages<S: Status>(xen: &S, domain: &Domain, own: bool, call: &Call) -> Result<(), Error> {
    let flag = |f| domain.flags.intersects(f);
    if domain.in_control() {
        return Err(Error::ControlDomain);
    }
    if state::locked() {
        return Err(Error::Locked);
    }
    if flag(DomainFlags::DYING) {
        return Err(Error::Dying);
    }
    // What it has been promised, only the domain itself can give up.
    if flag(DomainFlags::PROTECTED) && !own {
        return Err(Error::NotYours);
    }
    let new = share::wanted(xen, domain, call.arg0, call.arg1)?;
    xen.share(domain, &new)
}

fn require(condition: bool) -> Result<(), Error> {
    if condition {
        Ok(())
    } else {
        Err(Error::Invalid)
    }
}

/// The domain that `domid` names.
fn target<S: Status>(xen: &S, domid: u32, caller: u16) -> Result<Domain, Error> {
    let id = match domid {
        DOMID_SELF => caller,
        id if id < DOMID_FIRST_RESERVED => id as u16,
        _ => return Err(Error::Invalid),
    };
    fuse::domain(xen, id)
}

fn status<S: Status>(xen: &S, call: &Call, caller: u16) -> Result<u64, Error> {
    let item = u32::try_from(call.arg0).map_err(|_| Error::Invalid)?;
    if call.domid == DOMID_INVALID {
        return machine_status(xen, item);
    }
    let domain = target(xen, call.domid, caller)?;
    let flag = |f| u64::from(domain.flags.contains(f));
    let nth = |of: fn(&GuestExtent) -> u64| {
        let shares = xen.shares(&domain);
        let extent = shares.extents().get((item >> 16) as usize);
        extent.map(of).ok_or(Error::Nothing)
    };
    Ok(match item & 0xffff {
        abi::XENVMF_status_share_gfn => nth(|e| e.gfn.get())?,
        abi::XENVMF_status_share_pages => nth(|e| e.pages)?,
        _ if item >> 16 != 0 => return Err(Error::Invalid),
        abi::XENVMF_status_domain_shared_pages => xen.shares(&domain).pages(),
        abi::XENVMF_status_domain_undecoded => xen.undecoded(&domain).0,
        abi::XENVMF_status_domain_undecoded_pc => xen.undecoded(&domain).1,
        abi::XENVMF_status_domain_shares => xen.shares(&domain).extents().len() as u64,
        abi::XENVMF_status_domain_protected => flag(DomainFlags::PROTECTED),
        abi::XENVMF_status_domain_state => u64::from(match flag(DomainFlags::PROTECTED) {
            0 => abi::XENVMF_state_open,
            _ => level(),
        }),
        abi::XENVMF_status_domain_pages => xen.owned_pages(&domain),
        abi::XENVMF_status_domain_control => flag(DomainFlags::CONTROL),
        abi::XENVMF_status_domain_hardware => flag(DomainFlags::HARDWARE),
        _ => return Err(Error::Invalid),
    })
}

/// The level that holds for a protected domain.
fn level() -> u32 {
    match (state::locked(), state::seal()) {
        (false, _) => abi::XENVMF_state_unmapped,
        (true, Seal::None) => abi::XENVMF_state_locked,
        (true, _) => abi::XENVMF_state_sealed,
    }
}

fn machine_status<S: Status>(xen: &S, item: u32) -> Result<u64, Error> {
    let protected = || {
        fuse::domains(xen)
            .filter(|d| d.flags.contains(DomainFlags::PROTECTED))
            .count() as u64
    };
    let layout = xen.layout();
    Ok(match item {
        abi::XENVMF_status_state => u64::from(if state::locked() || protected() != 0 {
            level()
        } else {
            abi::XENVMF_state_open
        }),
        abi::XENVMF_status_features => {
            let bits = [
                (xen.directmap_all(), abi::XENVMF_feature_directmap),
                (xen.debug_build(), abi::XENVMF_feature_debug),
                (xen.has_reset(), abi::XENVMF_feature_reset),
                (xen.boot_failed(), abi::XENVMF_feature_boot_failed),
            ];
            bits.iter()
                .filter(|(is_so, _)| *is_so)
                .map(|(_, bit)| u64::from(*bit))
                .sum()
        }
        abi::XENVMF_status_protected_domains => protected(),
        abi::XENVMF_status_xenheap_start => layout.xenheap.start.maddr(),
        abi::XENVMF_status_xenheap_bytes => layout.xenheap.pages << PAGE_SHIFT,
        abi::XENVMF_status_firmware_calls => u64::from(state::seal() != Seal::Full),
        abi::XENVMF_status_xenheap_free => xen.xenheap_free_pages() << PAGE_SHIFT,
        _ => return Err(Error::Invalid),
    })
}

/// One 31-bit word of a value.
fn word(value: u64, index: u64) -> Result<u32, Error> {
    require(index <= 2)?;
    Ok((value >> (31 * index)) as u32 & 0x7fff_ffff)
}
