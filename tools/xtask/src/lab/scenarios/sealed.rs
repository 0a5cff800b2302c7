//! A system whose fuse is blown as far as it goes: no instruction is left that
//! could undo it, and what the gates still write is checked.

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::{Group, LINUX, dom0_goes_on, ends, guests_go_on, state_is, status, unchanged};
use crate::lab::audit;
use crate::lab::experiment::{self, Fuse};
use crate::lab::gates::{End, Outcome};
use crate::lab::profile::{Cpu, Guest, Scheduler};
use crate::lab::session::{COMMAND, Session};

/// The groups of this file.
pub const GROUPS: &[Group] = &[
    Group {
        name: "sealed",
        system: unchanged,
        tests: &[
            ("gates-let-all-through-before", gates_before),
            ("seal-under-load", seal_under_load),
            ("gates-hold-at-every-instruction", gates_after),
            ("too-late-for-another-level", too_late),
            ("reboot-says-that-it-cannot", reboot),
        ],
    },
    Group {
        name: "sealed-null",
        system: |profile| {
            profile.cpu = Cpu::CortexA53;
            profile.scheduler = Scheduler::Null;
            profile.xen.debug = true;
            profile.directmap = false;
            // One CPU for each vCPU.
            profile.dom0.vcpus = 1;
            profile.xen_arguments = format!("vmf-reset={RESET:#x},{RESET_VALUE:#x}");
        },
        tests: &[
            ("seal", seal),
            ("gates-hold-at-every-instruction", gates_after),
            ("reboot-writes-the-register", reset),
        ],
    },
    Group {
        name: "sealed-keeping-firmware",
        system: |profile| {
            profile.cpu = Cpu::Max;
            profile
                .domains
                .retain(|domain| domain.guest == Guest::Canary);
        },
        tests: &[
            ("seal-but-for-firmware-calls", keep_firmware),
            ("power-off-by-firmware", power_off),
        ],
    },
];

/// A root in the xenheap's neighbourhood, with a VMID that some domain has.
const FORGED: [u64; 4] = [
    0x0001_0000_4020_0000,
    0x0002_0000_0000_0000,
    // HCR_EL2 with E2H and TGE, without VM.
    0x0000_0004_8800_0038,
    0,
];

/// The load register of the machine's clock (PL031).
const RESET: u64 = 0x901_0008;
const RESET_VALUE: u32 = 0x5ea1;

/// The audit's rule about calls of firmware.
const FIRMWARE: &str = "S2";

/// Commands in dom0 that keep timers, IPIs, the console and hypercalls busy.
const LOAD: &str = "for i in 1 2; do (while [ ! -e /tmp/enough ]; do \
     vmf-probe version; vmf-probe evtchn; cat /sys/hypervisor/compilation/compiler; \
     done > /dev/null 2>&1 &) ; done";

fn protected(session: &Session) -> Vec<u16> {
    experiment::domus(session)
}

fn seal_with(session: &mut Session, fuse: Fuse) -> Result<()> {
    let ids = protected(session);
    guests_go_on(session)?;
    let before = session.moment("before", &ids)?;
    audit::must_not_hold(&audit::check(&before, Level::Seal)?)?;
    experiment::blow_to(session, &ids, fuse)?;
    guests_go_on(session)?;
    dom0_goes_on(session)?;
    let after = session.moment("after", &ids)?;
    audit::must_hold(&audit::check(&after, Level::Lock)?)?;
    let sealed = audit::check(&after, Level::Seal)?;
    if fuse == Fuse::Seal {
        audit::must_hold(&sealed)?;
    } else {
        // The calls of firmware, and nothing else, are what is missing.
        let other = sealed.violations.iter().find(|one| one.rule != FIRMWARE);
        ensure!(
            !sealed.violations.is_empty() && other.is_none(),
            "{other:?}: {}",
            audit::sentence(&sealed)
        );
    }
    let firmware = fuse != Fuse::Seal;
    let status = status(session)?;
    ensure!(
        status["firmware_calls"] == firmware,
        "vmfctl status should say firmware_calls: {firmware}: {status}"
    );
    state_is(session, "sealed")
}

fn seal(session: &mut Session) -> Result<()> {
    seal_with(session, Fuse::Seal)
}

fn seal_under_load(session: &mut Session) -> Result<()> {
    session.must(LOAD)?;
    seal_with(session, Fuse::Seal)?;
    session.must("touch /tmp/enough")?;
    guests_go_on(session)
}

fn keep_firmware(session: &mut Session) -> Result<()> {
    seal_with(session, Fuse::SealKeepingFirmware)
}

/// Sends a CPU to every instruction of the gates with each of [`FORGED`].
fn visit(session: &mut Session) -> Result<Vec<Outcome>> {
    let ids: Vec<u16> = std::iter::once(0).chain(protected(session)).collect();
    let moment = session.moment("gates", &[])?;
    let registers = vmf_audit::registers::Registers::open(&moment.registers)?;
    let stage2: Vec<u64> = registers
        .domains
        .iter()
        .filter(|domain| ids.contains(&domain.id))
        .map(|domain| domain.vttbr.0)
        .collect();
    ensure!(stage2.len() == ids.len(), "a domain has no VTTBR_EL2");
    session.gates(|stopped, deadline| {
        let [own, _] = stopped.values();
        // An idle CPU may hold the root that maps nothing.
        let allowed: Vec<u64> = stage2.iter().copied().chain([own]).collect();
        // The last one is close to what is there, which makes it hard to tell.
        let values = FORGED.into_iter().chain([own ^ 0x1000]);
        values
            .map(|value| stopped.visit_all(value, &allowed, deadline))
            .collect()
    })
}

fn gates_before(session: &mut Session) -> Result<()> {
    guests_go_on(session)?;
    // The positive: as long as nothing is locked, the gates write what they get.
    let outcomes = visit(session)?;
    for outcome in &outcomes {
        let returned = |line: &&String| line.contains("Returned");
        ensure!(
            outcome.forged.iter().filter(returned).count() >= 2,
            "before the lock the gates should let everything through: {outcome:?}"
        );
    }
    guests_go_on(session)
}

/// No visit to the gates of a locked machine leaves what it wanted.
pub fn gates_after(session: &mut Session) -> Result<()> {
    for outcome in visit(session)? {
        ensure!(
            outcome.forged.is_empty(),
            "{} visits of {:?} left what they wanted, the first {}",
            outcome.forged.len(),
            outcome.ends,
            outcome.forged[0]
        );
        let refused = outcome.ends.get(&End::Refused);
        ensure!(
            refused.is_some_and(|&count| count >= 2) && !outcome.ends.contains_key(&End::Stuck),
            "entries that write should end in a refusal: {outcome:?}"
        );
    }
    guests_go_on(session)?;
    dom0_goes_on(session)
}

fn too_late(session: &mut Session) -> Result<()> {
    for command in [
        "vmfctl seal --yes --keep-firmware-calls",
        "vmfctl lock --yes",
    ] {
        let output = session.run(command)?;
        ensure!(
            output.text.contains("already"),
            "{command}: {}",
            output.line()
        );
    }
    ends(
        session,
        &format!("vmfctl protect --yes {LINUX}"),
        0,
        &["already"],
    )?;
    state_is(session, "sealed")
}

fn reboot(session: &mut Session) -> Result<()> {
    session.must("(sleep 1; reboot -f) > /dev/null 2>&1 &")?;
    session
        .wait_xen("sealed without firmware calls", COMMAND)
        .map(drop)
}

/// QEMU's machine has no register that resets it, so another one shows that
/// it is written, and with what.
fn reset(session: &mut Session) -> Result<()> {
    let before = session.device_word(RESET)?;
    ensure!(before != RESET_VALUE, "it is {before:#x} already");
    session.must("(sleep 1; reboot -f) > /dev/null 2>&1 &")?;
    session.wait_xen("reset by register", COMMAND)?;
    session.wait_xen("it did not reset", COMMAND)?;
    let after = session.device_word(RESET)?;
    ensure!(
        after == RESET_VALUE,
        "the register was {before:#x}, and is {after:#x}"
    );
    Ok(())
}

fn power_off(session: &mut Session) -> Result<()> {
    session.must("(sleep 1; poweroff -f) > /dev/null 2>&1 &")?;
    session
        .ended(COMMAND)
        .context("with firmware calls kept, power-off should end QEMU")
}
