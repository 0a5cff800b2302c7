//! What the canary can be told to do. Each action prints one or more lines
//! `canary: <action>: <result>` and survives, but for those that end the domain.
#![allow(
    unsafe_code,
    reason = "provokes traps, and touches device memory on purpose"
)]

use core::arch::asm;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use canary_core::script::Action;
use xen_vmf_abi::{XENVMF_lock, XENVMF_protect, XENVMF_status, XENVMF_status_domain_protected};

use bare::clock::Clock;
use bare::hypercall::{self, DOMID_INVALID, DOMID_SELF};
use bare::machine::Machine;
use bare::mmu::{self, Kind};
use bare::psci::{self, Conduit};
use bare::public::GTF_PERMIT_ACCESS;
use bare::say;
use bare::trap::catch;

use crate::cost;
use crate::crowd;
use crate::handlers;
use crate::hostile;
use crate::peers::Peers;
use crate::sharing::Shared;

const PSCI_VERSION: u64 = 0x8400_0000;
const PSCI_SYSTEM_OFF: u64 = 0x8400_0008;
const PSCI_SYSTEM_RESET: u64 = 0x8400_0009;
const PSCI_SYSTEM_SUSPEND: u64 = 0x8400_000e;

/// An address that no bank, device or magic page of a guest has (public/
/// arch-arm.h), inside the canary's 39 bits and a 40-bit IPA space.
const NOTHING: u64 = 0x70_0000_0000;
/// Where the grant table goes if the device tree names no place
/// (GUEST_GNTTAB_BASE).
const GRANT_TABLE: u64 = 0x3800_0000;

/// What actions need to know.
pub struct Surroundings<'a> {
    /// Facts of the device tree.
    pub machine: &'a Machine<'a>,
    /// Time.
    pub clock: &'a Clock,
    /// A page of RAM that holds nothing.
    pub spare_page: u64,
    /// Pages that can be shared with Xen.
    pub shared: Shared,
    /// What is done with other domains.
    pub peers: Peers,
    /// Where the image was loaded.
    pub image_start: u64,
    /// The machine's own counter when the canary began to run.
    pub entered: u64,
}

/// Runs `action`.
pub fn run(action: Action, around: &Surroundings<'_>) {
    let name = action.name();
    match action {
        Action::Protect(domain) => {
            let domain = domain.unwrap_or(DOMID_SELF);
            let result = hypercall::vmf_op(XENVMF_protect.into(), domain.into(), 0, 0);
            say!("{name}: {result}");
        }
        Action::Lock => {
            let result = hypercall::vmf_op(XENVMF_lock.into(), DOMID_INVALID.into(), 0, 0);
            say!("{name}: {result}");
        }
        Action::Status(domain) => {
            let domain = domain.unwrap_or(DOMID_SELF);
            let item = XENVMF_status_domain_protected.into();
            let result = hypercall::vmf_op(XENVMF_status.into(), domain.into(), item, 0);
            say!("{name}: {result}");
        }
        Action::Vmf([cmd, domid, arg0, arg1]) => {
            let result = hypercall::vmf_op(cmd, domid, arg0, arg1);
            say!("{name}: {result}");
        }
        Action::BadPtr => bad_pointers(name),
        Action::Unmapped(address) => unmapped(name, address.unwrap_or(NOTHING)),
        Action::Isv0 => without_syndrome(name, around.machine),
        Action::SetWay => set_way(name, around.clock),
        Action::Smc(function) => {
            let what = if function.is_some() {
                "result"
            } else {
                "psci version"
            };
            let function = function.unwrap_or(PSCI_VERSION);
            match catch(|| psci(Conduit::Smc, function)) {
                Ok(result) => say!("{name}: smc {what} {result:#x}"),
                Err(abort) => say!("{name}: smc {abort}"),
            }
            say!("{name}: hvc {what} {:#x}", psci(Conduit::Hvc, function));
        }
        Action::Reboot | Action::PowerOff => {
            let function = match action {
                Action::Reboot => PSCI_SYSTEM_RESET,
                _ => PSCI_SYSTEM_OFF,
            };
            say!("{name}: now");
            let result = psci(Conduit::Hvc, function) as i64;
            say!("{name}: refused {result}");
        }
        Action::Grant(domain) => grant(name, domain.unwrap_or(0), around),
        Action::Evtchn(domain) => match hypercall::alloc_unbound(domain.unwrap_or(0)) {
            Ok(port) => say!("{name}: port {port} send {}", hypercall::send(port)),
            Err(result) => say!("{name}: alloc_unbound {result}"),
        },
        Action::Steal(domain, frame) => {
            let own = domain == DOMID_SELF && frame == 0;
            let frame = if own { around.spare_page >> 12 } else { frame };
            hostile::steal(name, domain, frame, NOTHING >> 12);
        }
        Action::Spam => spam(name, around.clock),
        Action::Share => around.shared.share(name),
        Action::Bounce => around.shared.use_all(name, around.spare_page),
        Action::Areas => around.shared.areas(name),
        Action::Yield(millis) => yield_cpu(name, around.clock, millis),
        Action::Cost => cost::run(name, around),
        Action::Answer(domain) => match handlers::answer(around, domain) {
            Some(events) => say!("{name}: {events} events"),
            None => say!("{name}: none"),
        },
        Action::Ring(domain) => cost::ring(name, domain, around),
        Action::Shutdown(reason) => say!("{name}: {}", around.shared.shutdown(reason)),
        Action::Watchdog(seconds) => say!("{name}: {}", around.shared.watchdog(seconds)),
        Action::Suspend => {
            let result = psci(Conduit::Hvc, PSCI_SYSTEM_SUSPEND) as i64;
            say!("{name}: {result}");
        }
        Action::Poke(address, value) => word(name, address, Some(value)),
        Action::Peek(address) => word(name, address, None),
        Action::Clean(frame) => around.shared.clean(name, frame),
        Action::Take(port) => around.shared.take(name, port),
        Action::Entered => say!("{name}: at {} ticks", around.entered),
        Action::Crowd(millis) => crowd::run(name, around.clock, around.image_start, millis),
        Action::Peer(peer) => around.peers.run(name, peer, around),
    }
}

/// Writes a word of memory that others may have as well, or reads it.
fn word(name: &str, address: u64, new: Option<u64>) {
    if !address.is_multiple_of(8) || !mmu::map(address, 8, Kind::Normal) {
        say!("{name}: {address:#x} is beyond the canary's own map");
        return;
    }
    let pointer = with_exposed_provenance_mut::<u64>(address as usize);
    // SAFETY: aligned and mapped; a trap is caught. The canary uses no memory
    // by a fixed address, so whoever says this address means what is there.
    let done = catch(|| unsafe {
        if let Some(value) = new {
            pointer.write_volatile(value);
            asm!("dsb ish", options(nostack));
        }
        pointer.read_volatile()
    });
    match done {
        Ok(value) => say!("{name}: {address:#x} {value:#x}"),
        Err(abort) => say!("{name}: {address:#x} {abort}"),
    }
}

fn bad_pointers(name: &str) {
    let mut buffer = [0u8; 16];
    let version = hypercall::extra_version(&mut buffer);
    let end = buffer.iter().position(|&b| b == 0).unwrap_or(buffer.len());
    let text = core::str::from_utf8(&buffer[..end]).unwrap_or("?");
    say!("{name}: xen_version {version} \"{text}\"");
    say!(
        "{name}: console_io {}",
        hypercall::console_write("canary was here\n")
    );
    say!("{name}: sched_op {}", hypercall::poll_nothing());
}

fn unmapped(name: &str, address: u64) {
    if !mmu::map(address, 4, Kind::Device) && !mmu::map(address, 4, Kind::Normal) {
        say!("{name}: {address:#x} is beyond the canary's own map");
        return;
    }
    let pointer = with_exposed_provenance::<u32>(address as usize);
    // SAFETY: an aligned address in the own map; a trap is caught.
    match catch(|| unsafe { pointer.map_addr(|a| a & !3).read_volatile() }) {
        Ok(value) => say!("{name}: {address:#x} read {value:#x}"),
        Err(abort) => say!("{name}: {address:#x} {abort}"),
    }
}

/// Loads that leave ESR_EL2.ISV 0, so that whoever emulates them has to read
/// the instruction: post-indexed, which Xen decodes, and a pair, which it
/// does not.
fn without_syndrome(name: &str, machine: &Machine<'_>) {
    let targets = [
        ("gicd", machine.gic.map(|g| g.distributor())),
        ("uart", machine.uart.map(|base| base + 0x18)),
    ];
    for (what, address) in targets {
        let Some(address) = address else {
            say!("{name}: {what} is not there");
            continue;
        };
        let post_indexed = catch(|| {
            let value: u64;
            // SAFETY: a device register that reads without effect.
            unsafe {
                asm!("ldr {v:w}, [{a}], #4", v = out(reg) value, a = inout(reg) address => _,
                    options(nostack));
            }
            value
        });
        match post_indexed {
            Ok(value) => say!("{name}: {what} post-indexed read {value:#x}"),
            Err(abort) => say!("{name}: {what} post-indexed {abort}"),
        }
        let pair = catch(|| {
            let (first, second): (u64, u64);
            // SAFETY: as above.
            unsafe {
                asm!("ldp {v:w}, {w:w}, [{a}]", v = out(reg) first, w = out(reg) second,
                    a = in(reg) address, options(nostack));
            }
            (first, second)
        });
        match pair {
            Ok((first, second)) => say!("{name}: {what} pair read {first:#x} {second:#x}"),
            Err(abort) => say!("{name}: {what} pair {abort}"),
        }
    }
}

/// Cleans and invalidates every data cache by set and way, as an old boot
/// loader does (Arm ARM D7.5, the example of DC CISW).
fn set_way(name: &str, clock: &Clock) {
    let start = clock.now();
    let mut operations = 0u64;
    let clidr: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, clidr_el1", out(reg) clidr, options(nomem, nostack)) };
    for level in 0..7u64 {
        // 2 data, 3 separate, 4 unified; 0 and 1 hold no data.
        if (clidr >> (3 * level)) & 7 < 2 {
            continue;
        }
        let ccsidr: u64;
        // SAFETY: selects and reads the geometry of a cache.
        unsafe {
            asm!("msr csselr_el1, {}", "isb", "mrs {}, ccsidr_el1",
                in(reg) level << 1, out(reg) ccsidr, options(nomem, nostack));
        }
        let line_shift = (ccsidr & 7) + 4;
        let ways = (ccsidr >> 3) & 0x3ff;
        let sets = (ccsidr >> 13) & 0x7fff;
        let way_shift = (ways as u32).leading_zeros();
        for way in 0..=ways {
            for set in 0..=sets {
                let way = if ways == 0 { 0 } else { way << way_shift };
                let operand = way | (set << line_shift) | (level << 1);
                // SAFETY: cleans before it invalidates: nothing is lost.
                let done =
                    catch(|| unsafe { asm!("dc cisw, {}", in(reg) operand, options(nostack)) });
                if let Err(abort) = done {
                    say!("{name}: refused after {operations} operations: {abort}");
                    return;
                }
                operations += 1;
            }
        }
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb sy", "isb", options(nostack)) };
    let micros = (clock.now() - start) * 1_000_000 / clock.frequency();
    say!("{name}: {operations} operations in {micros} us");
}

fn psci(conduit: Conduit, function: u64) -> u64 {
    // SAFETY: the functions used here touch no memory; two of them end the guest.
    unsafe { psci::call(conduit, function, [0; 3]) }
}

/// `grant_entry_v1_t`, permit access (public/grant_table.h).
/// The first references are reserved (GNTTAB_NR_RESERVED_ENTRIES).
const REFERENCE: u64 = 8;

/// Where the grant table goes.
pub fn grant_table(machine: &Machine<'_>) -> u64 {
    machine.grant_table.unwrap_or(GRANT_TABLE)
}

fn grant(name: &str, domain: u16, around: &Surroundings<'_>) {
    let table = grant_table(around.machine);
    let result = hypercall::map_grant_table(table >> 12);
    if result.0 != 0 {
        say!("{name}: add_to_physmap {result}");
        return;
    }
    if !mmu::map(table, 4096, Kind::Normal) && !mmu::map(table, 4096, Kind::Device) {
        say!("{name}: {table:#x} is beyond the canary's own map");
        return;
    }
    let page = around.spare_page;
    let entry = table + REFERENCE * 8;
    let flags = with_exposed_provenance_mut::<u16>(entry as usize);
    // SAFETY: the entry lies in the grant table that was just mapped; the
    // page is this guest's and holds nothing else.
    unsafe {
        with_exposed_provenance_mut::<u64>(page as usize).write_volatile(0x6361_6e61_7279_0000);
        with_exposed_provenance_mut::<u16>((entry + 2) as usize).write_volatile(domain);
        with_exposed_provenance_mut::<u32>((entry + 4) as usize)
            .write_volatile((page >> 12) as u32);
        // The flags make the entry valid: last, and after all else.
        asm!("dmb ishst", options(nostack));
        flags.write_volatile(GTF_PERMIT_ACCESS);
    }
    say!(
        "{name}: ref {REFERENCE} gfn {:#x} to domain {domain}",
        page >> 12
    );
}

fn spam(name: &str, clock: &Clock) {
    let end = clock.now() + clock.frequency();
    let mut traps = 0u64;
    while clock.now() < end {
        for _ in 0..64 {
            hypercall::version();
        }
        traps += 64;
    }
    say!("{name}: {traps} hypercalls in 1 s");
}

/// Yields the CPU for that long, and says how long it is away for each time:
/// the upper quartile over batches, so that neither batches without somebody
/// to yield to count, if they are few, nor single long ones.
fn yield_cpu(name: &str, clock: &Clock, millis: u64) {
    const BATCH: u64 = 64;
    let mut ticks = [0u32; 1024];
    let mut batches = 0;
    let end = clock.now() + clock.frequency() * millis / 1000;
    while batches < ticks.len() {
        let start = clock.now();
        if start >= end {
            break;
        }
        for _ in 0..BATCH {
            hypercall::yield_cpu();
        }
        ticks[batches] = (clock.now() - start) as u32;
        batches += 1;
    }
    let ticks = &mut ticks[..batches];
    ticks.sort_unstable();
    let quartile = ticks.get(batches * 3 / 4).copied().unwrap_or(0);
    let nanoseconds = u64::from(quartile) * 1_000_000_000 / clock.frequency() / BATCH;
    say!("{name}: {batches} batches of {BATCH}, {nanoseconds} ns each");
}
