//! The fuse: what `protect` and `lock` do, in order.
//!
//! Both run in a tasklet on CPU 0, reached from the hypercall, with all
//! domains paused: no vCPU runs, so ownership of memory, stage 2 and Xen's
//! mappings of guest pages stand still but for what idle CPUs do.
//!
//! 1. [`preflight`]: what stands in the way is named and nothing is touched.
//! 2. Working storage is allocated, as much as usually suffices.
//! 3. Rendezvous: all other CPUs wait with IRQs masked. The facts are gathered
//!    ([`collect`]) and the plan is made. A plan that does not pass its check ends
//!    here and nothing has happened. One that does not fit does so once: a dry
//!    run tells how much room it takes, and there is another rendezvous.
//! 4. The plan is carried out ([`crate::commit`]); for the lock, the windows
//!    go as well, this CPU's own last.
//! 5. [`selfcheck`]: AT instructions on every CPU try the addresses that must
//!    not translate any more. If one does, Xen stops: that is a broken
//!    invariant of the fuse, and going on would be a lie.
//!
//! States: `open` -> `unmapped` (a domain is protected) -> `locked`, or at
//! once `sealed`. There is no way back, and none from `locked` to `sealed`:
//! the tables that would have to change are out of reach.

mod collect;
mod lock;
mod owned;
mod protect;
mod retain;
mod room;
mod selfcheck;

pub use lock::{lock, stray_leaves};
pub use protect::protect;

use crate::error::Error;
use crate::extents::Extent;
use crate::machine::{Domain, DomainFlags, Machine};
use crate::policy::Seal;
use crate::state;
use xen_vmf_abi as abi;

/// Domains in ascending order of id.
pub fn domains<M: Machine>(machine: &M) -> impl Iterator<Item = Domain> + Clone + '_ {
    let mut next = Some(0);
    core::iter::from_fn(move || {
        let domain = machine.next_domain(next?)?;
        next = Some(u32::from(domain.id) + 1);
        Some(domain)
    })
}

/// The domain with id `id`.
pub fn domain<M: Machine>(machine: &M, id: u16) -> Result<Domain, Error> {
    machine
        .next_domain(id.into())
        .filter(|d| d.id == id)
        .ok_or(Error::NoDomain)
}

/// How often `obstacle` stands in the way of protecting `domain`; `None` if
/// it is not one that a domain has.
pub fn domain_obstacle<M: Machine>(machine: &M, domain: &Domain, obstacle: u32) -> Option<u32> {
    let flag = |f| u32::from(domain.flags.contains(f));
    Some(match obstacle {
        abi::XENVMF_obstacle_control_domain => u32::from(domain.in_control()),
        abi::XENVMF_obstacle_dying => flag(DomainFlags::DYING),
        abi::XENVMF_obstacle_unfinished => 1 - flag(DomainFlags::BUILT),
        abi::XENVMF_obstacle_shared_pages => machine.obstacles(domain, true).shared_pages,
        abi::XENVMF_obstacle_pv_pages => machine.obstacles(domain, false).pv_pages,
        abi::XENVMF_obstacle_devices => machine.obstacles(domain, false).devices,
        abi::XENVMF_obstacle_protected => flag(DomainFlags::PROTECTED),
        _ => return None,
    })
}

/// How often `obstacle` stands in the way of the lock; `None` if it is not
/// one that the machine has. Before the lock, stage-2 leaves are counted by
/// [`stray_leaves`] with all domains paused.
pub fn machine_obstacle<M: Machine>(machine: &M, obstacle: u32) -> Option<u32> {
    Some(match obstacle {
        abi::XENVMF_obstacle_locked => u32::from(state::locked()),
        abi::XENVMF_obstacle_nothing_protected => {
            let any = domains(machine).any(|d| d.flags.contains(DomainFlags::PROTECTED));
            u32::from(!any)
        }
        abi::XENVMF_obstacle_cpus_offline => machine.cpus_offline(),
        abi::XENVMF_obstacle_its => u32::from(machine.its_in_use()),
        abi::XENVMF_obstacle_iommu => u32::from(machine.iommu_in_use()),
        abi::XENVMF_obstacle_trace_units => machine.trace_units(),
        abi::XENVMF_obstacle_firmware_calls => u32::from(machine.needs_firmware()),
        // Locked: stage 2 was found clean, and cannot change.
        abi::XENVMF_obstacle_stage2_leaves if state::locked() => 0,
        _ => return None,
    })
}

/// The first thing in the way of protecting `domain`, but for pages that others
/// refer to.
pub fn preflight_domain<M: Machine>(machine: &M, domain: &Domain) -> Result<(), Error> {
    if domain.in_control() {
        return Err(Error::ControlDomain);
    }
    if domain.flags.contains(DomainFlags::PROTECTED) {
        return Err(Error::Done);
    }
    if state::locked() {
        return Err(Error::Locked);
    }
    if domain.flags.contains(DomainFlags::DYING) {
        return Err(Error::Dying);
    }
    if !domain.flags.contains(DomainFlags::BUILT) {
        return Err(Error::Unfinished);
    }
    let found = machine.obstacles(domain, false);
    // A dom0 has what nobody else has: its devices are what it is there for.
    if found.devices != 0 && !domain.flags.contains(DomainFlags::CHOSEN) {
        return Err(Error::Devices);
    }
    if found.pv_pages != 0 {
        return Err(Error::PvPages);
    }
    if found.shared_pages != 0 {
        return Err(Error::SharedPages);
    }
    Ok(())
}

/// Nobody holds a mapping of a window while all CPUs wait: each is in its idle
/// loop. Should a part of Xen ever keep one, nothing is done.
fn windows_idle<M: Machine>(machine: &M) -> Result<(), Error> {
    if machine.windows_idle() {
        Ok(())
    } else {
        Err(Error::Again)
    }
}

/// The first thing in the way of the lock, but for what only a walk through
/// every stage 2 can tell.
pub fn preflight_machine<M: Machine>(machine: &M, seal: Seal) -> Result<(), Error> {
    if state::locked() {
        // What a lock has left mapped cannot be reached any more.
        let less = seal != Seal::None && state::seal() != seal;
        return Err(if less { Error::Locked } else { Error::Done });
    }
    if machine.cpus_offline() != 0 {
        return Err(Error::Again);
    }
    if machine.its_in_use() {
        return Err(Error::Its);
    }
    if machine.iommu_in_use() {
        return Err(Error::Iommu);
    }
    if machine.trace_units() != 0 {
        return Err(Error::TraceUnits);
    }
    if seal == Seal::Full && machine.needs_firmware() {
        return Err(Error::NeedsFirmware);
    }
    if machine_obstacle(machine, abi::XENVMF_obstacle_nothing_protected) != Some(0) {
        return Err(Error::Nothing);
    }
    Ok(())
}

/// Counts the extents that a [`FrameSet`] will need.
#[derive(Clone, Copy, Debug, Default)]
struct RunCounter {
    runs: usize,
    end: Option<u64>,
}

impl RunCounter {
    fn push(&mut self, extent: Extent) {
        if self.end != Some(extent.start.get()) {
            self.runs += 1;
        }
        self.end = Some(extent.end());
    }
}
