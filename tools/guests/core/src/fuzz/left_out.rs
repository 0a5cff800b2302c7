//! What is left out, and why: events that by design end the guest or the
//! machine, or with which the guest would only hit itself. Nothing that could
//! find a fault is to stand here; what stock Xen does not survive either has
//! the seed with which that is shown.

use super::event::{Event, Kind};
use super::hypercalls::{self, Call, MULTICALL, STRUCTURES};
use super::place::{Crash, Phase, Place, Role};
use super::registers::Name;
use super::tables::{CONSOLE, DOMCTL, EVTCHN, GRANT_TABLE, MEMORY, SCHED, SYSCTL, VCPU, VMF_OP};
use super::values::SELF;

/// Seconds after which a watchdog may fire: twelve days.
const WATCHDOG: u64 = 0x10_0000;

/// A rule about hypercalls, each call of a multicall by itself.
pub struct CallRule {
    /// What is left out.
    pub what: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Whether this is one.
    pub matches: fn(&Place, &Event, &Call) -> bool,
}

/// A rule about other instructions.
pub struct WordRule {
    /// What is left out.
    pub what: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Whether this is one.
    pub matches: fn(&Event) -> bool,
}

/// The structure's address is that of the event's own memory.
fn own(place: &Place, call: &Call, argument: usize) -> bool {
    call.x[argument] == place.page + call.base as u64
}

/// Xen may find something there, and it is not the event's own. Frames that
/// are empty at first may get a page. Where the CPU finds no translation Xen
/// walks the guest's tables itself (guest_walk_ld), by the low 39 bits alone;
/// from bit 63 on, the guest has no tables.
fn elsewhere(place: &Place, call: &Call, argument: usize) -> bool {
    !own(place, call, argument) && call.x[argument] < 1 << 63
}

fn field(event: &Event, call: &Call, offset: usize, size: usize) -> u64 {
    event.memory.get(call.base + offset, size)
}

/// Not this domain, nor the one to be left in peace.
fn spared(place: &Place, domain: u64) -> bool {
    domain == u64::from(place.sentinel)
        || domain == SELF
        || place.role == Role::Control && domain == 0
}

const fn command(call: &Call) -> u32 {
    call.x[0] as u32
}

/// The rules about hypercalls.
pub const CALLS: &[CallRule] = &[
    CallRule {
        what: "SCHEDOP_shutdown",
        reason: "ends the guest, and with dom0 the machine, by design",
        matches: |_, _, call| call.number == SCHED && command(call) == 2,
    },
    CallRule {
        what: "SCHEDOP_block, SCHEDOP_poll without a time that is over",
        reason: "blocks until an event or an interrupt, and these are events of chance too: for ever",
        matches: |place, event, call| {
            let over = |time: u64| time != 0 && time <= 1_000_000_000;
            call.number == SCHED
                && (command(call) == 1
                    || command(call) == 3
                        && (elsewhere(place, call, 1)
                            || own(place, call, 1) && !over(field(event, call, 16, 8))))
        },
    },
    CallRule {
        what: "SCHEDOP_watchdog with less than twelve days; a time of 0 only stops one that there is",
        reason: "ends the guest by design, with 0 for a new one at once",
        matches: |place, event, call| {
            let soon = || match field(event, call, 4, 4) {
                0 => field(event, call, 0, 4) == 0,
                time => time < WATCHDOG,
            };
            call.number == SCHED
                && command(call) == 6
                && (elsewhere(place, call, 1) || own(place, call, 1) && soon())
        },
    },
    CallRule {
        what: "SCHEDOP_remote_shutdown of dom0 or of the domain that is left in peace",
        reason: "ends the machine, or the witness, by design",
        matches: |place, event, call| {
            call.number == SCHED
                && command(call) == 4
                && (elsewhere(place, call, 1) || spared(place, field(event, call, 0, 2)))
        },
    },
    CallRule {
        what: "VCPUOP_down of a vCPU that runs events, VCPUOP_initialise",
        reason: "stops the guest by design; starts one at an address of chance, where it would run on and break the guest's own memory (CPU_ON goes the same way in Xen)",
        matches: |place, _, call| {
            call.number == VCPU
                && (command(call) == 0
                    || command(call) == 2 && u64::from(call.x[1] as u32) != place.spare)
        },
    },
    CallRule {
        what: "more than 64 bytes to Xen's console",
        reason: "floods the console, from which the test reads",
        matches: |_, _, call| call.number == CONSOLE && command(call) == 0 && call.x[1] as u32 > 64,
    },
    CallRule {
        what: "CONSOLEIO_read by a guest before the blow",
        reason: "takes the input away with which dom0 is told to blow; Xen lets every domU of the device tree do it, stock Xen as well",
        matches: |place, _, call| {
            place.role == Role::Guest
                && place.phase == Phase::Before
                && call.number == CONSOLE
                && command(call) == 1
        },
    },
    CallRule {
        what: "multicalls of more than three, or that are not the event's own",
        reason: "write their results over the guest's own memory, and run what is there",
        matches: |place, _, call| {
            call.number == MULTICALL
                && (call.x[1] > 3 || elsewhere(place, call, 0) || call.base != 0)
        },
    },
    CallRule {
        what: "more than eight grant table operations at once",
        reason: "write their results over the guest's own memory",
        matches: |_, _, call| call.number == GRANT_TABLE && call.x[2] as u32 > 8,
    },
    CallRule {
        what: "memory_op with more than 2 MiB at once, or a list that is not the event's own",
        reason: "takes the guest's own image away",
        matches: |place, event, call| {
            call.number == MEMORY
                && matches!(call.x[0] & 0x3f, 0 | 1 | 6 | 11)
                && (elsewhere(place, call, 1)
                    || [0, 32].iter().any(|at| {
                        field(event, call, at + 16, 4) > 9 || field(event, call, at + 8, 8) > 6
                    }))
        },
    },
    CallRule {
        what: "changes of the physmap of the domain that is left in peace, before the blow",
        reason: "the control domain may take its memory by design; after the blow it may not, and tries",
        matches: |place, event, call| {
            place.role == Role::Control
                && place.phase == Phase::Before
                && call.number == MEMORY
                && [0, 6, 24, 32, 56]
                    .iter()
                    .any(|&at| field(event, call, at, 2) == u64::from(place.sentinel))
        },
    },
    CallRule {
        what: "bitmaps of more than 64 Ki bits, by the control domain",
        reason: "Xen fills them byte by byte with a copy for each and does nothing else meanwhile (bitmap_to_xenctl_bitmap): many seconds, in stock Xen as well",
        matches: |place, event, call| {
            let at: &[usize] = match (call.number, field(event, call, 0, 4)) {
                (DOMCTL, 9 | 25) => &[32, 48],
                (SYSCTL, 18) => &[40],
                _ => &[],
            };
            place.role == Role::Control && at.iter().any(|&at| field(event, call, at, 4) > 0x1_0000)
        },
    },
    CallRule {
        what: "domctl on the control domain itself, or on the domain that is left in peace, but for questions",
        reason: "pauses, starves or destroys it by design",
        matches: |place, event, call| {
            let question = matches!(field(event, call, 0, 4), 5 | 13 | 14 | 25 | 61 | 69 | 85);
            call.number == DOMCTL
                && place.role == Role::Control
                && (elsewhere(place, call, 0)
                    || spared(place, field(event, call, 8, 2)) && !question)
        },
    },
    CallRule {
        what: "XEN_DOMCTL_irq_permission on stock Xen",
        reason: "a debug build of stock Xen stops at ASSERT_UNREACHABLE() in xsm_domctl() for any domain that asks, because Arm has no PIRQs (do_domctl() falls through): lab/fuzz/known/irq-permission",
        matches: |place, event, call| {
            call.number == DOMCTL
                && field(event, call, 0, 4) == 19
                && !place.known.has(Crash::IrqPermission)
        },
    },
    CallRule {
        what: "XEN_SYSCTL_page_offline_op by the control domain on stock Xen",
        reason: "a debug build of stock Xen stops at ASSERT_UNREACHABLE() in page_is_ram_type() of Arm: lab/fuzz/known/page-offline",
        matches: |place, event, call| {
            call.number == SYSCTL
                && place.role == Role::Control
                && field(event, call, 0, 4) == 14
                && !place.known.has(Crash::PageOffline)
        },
    },
    CallRule {
        what: "XEN_DOMCTL_bind_pt_irq and XEN_DOMCTL_unbind_pt_irq by the control domain on stock Xen",
        reason: "stock Xen follows a null pointer where the domain has no vCPU: lab/fuzz/known/interrupts-without-vcpus",
        matches: |place, event, call| {
            call.number == DOMCTL
                && place.role == Role::Control
                && matches!(field(event, call, 0, 4), 38 | 48)
                && !place.known.has(Crash::InterruptsWithoutVcpus)
        },
    },
    CallRule {
        what: "GNTTABOP_cache_flush on stock Xen",
        reason: "for a range that ends in the cache line where it begins, stock Xen invalidates all of its address space, which takes for ever in an emulator: lab/fuzz/known/part-of-a-cache-line",
        matches: |place, _, call| {
            call.number == GRANT_TABLE
                && call.x[0] as u32 & 0xfff == 12
                && !place.known.has(Crash::PartOfACacheLine)
        },
    },
    CallRule {
        what: "cpupool_op RMCPU by the control domain on stock Xen",
        reason: "when it fails half-way, a following ADDCPU of the same CPU meets an assertion of debug builds of stock Xen in schedule_cpu_add(): lab/fuzz/known/half-removed-cpu",
        matches: |place, event, call| {
            call.number == SYSCTL
                && place.role == Role::Control
                && field(event, call, 0, 4) == 18
                && field(event, call, 8, 4) == 5
                && !place.known.has(Crash::HalfRemovedCpu)
        },
    },
    CallRule {
        what: "sysctl debug_keys, cpu_hotplug",
        reason: "some keys end the machine by design, others flood the console; lab/blown/debug-keys presses the others",
        matches: |place, event, call| {
            call.number == SYSCTL
                && place.role == Role::Control
                && (elsewhere(place, call, 0) || matches!(field(event, call, 0, 4), 7 | 11))
        },
    },
    CallRule {
        what: "vmf_op lock, seal, by the control domain before the blow, and by others than its vCPU 0",
        reason: "the blow is to come in the middle, when the witness is protected",
        matches: |place, _, call| {
            call.number == VMF_OP
                && place.role == Role::Control
                && matches!(command(call), 3 | 7)
                && (place.phase == Phase::Before || place.vcpu != 0)
        },
    },
    CallRule {
        what: "mappings of grants and of other domains' frames before the blow, by a guest that is to be protected",
        reason: "pages that somebody has mapped are in the way of protect, which says so (lab/holders): the blow would not come",
        matches: |place, event, call| {
            place.role == Role::Guest
                && place.phase == Phase::Before
                && !place.outside
                && (call.number == GRANT_TABLE && command(call) == 0
                    || call.number == MEMORY
                        && match call.x[0] & 0x3f {
                            7 => elsewhere(place, call, 1) || field(event, call, 4, 4) == 4,
                            23 => elsewhere(place, call, 1) || field(event, call, 2, 2) == 4,
                            _ => false,
                        })
        },
    },
    CallRule {
        what: "vmf_op share before the blow",
        reason: "the verifier has to know at the end what is shared; afterwards it is refused, and tried",
        matches: |place, _, call| {
            call.number == VMF_OP && command(call) == 8 && place.phase == Phase::Before
        },
    },
    CallRule {
        what: "vcpu_info, runstate areas and FIFO event channels before the blow, but of a guest that is not to be protected",
        reason: "pages that Xen maps are in the way of protect, which says so (lab/pv-pages): the blow would not come",
        matches: |place, _, call| {
            place.phase == Phase::Before
                && !place.outside
                && (call.number == VCPU && matches!(command(call), 5 | 10 | 13..=15)
                    || call.number == EVTCHN && matches!(command(call), 11 | 12))
        },
    },
];

/// The rules about other instructions.
pub const WORDS: &[WordRule] = &[
    WordRule {
        what: "PSCI CPU_OFF, CPU_SUSPEND, SYSTEM_OFF, SYSTEM_RESET",
        reason: "ends the guest, or stops the vCPU until an interrupt, by design; the spare vCPU does CPU_OFF",
        matches: |event| {
            event.kind == Kind::Call
                && matches!(
                    event.x[0] as u32 & !(1 << 30),
                    0 | 1 | 0x8400_0001 | 0x8400_0002 | 0x8400_0008
                        ..=0x8400_0009 | 0x8400_000c | 0x8400_000e | 0x8400_0012
                )
        },
    },
    WordRule {
        what: "HVC #0xff00 to #0xffff",
        reason: "debug builds print a line for each, without a limit of their rate, by design",
        matches: |event| {
            event.kind == Kind::Call
                && event.word & 0xffe0_001f == 0xd400_0002
                && event.word >> 5 & 0xff00 == 0xff00
        },
    },
    WordRule {
        what: "writes of SCTLR, TTBR0, TCR, MAIR, VBAR, SPSel, DAIF and other PSTATE of the guest's own EL1",
        reason: "never reach Xen, and end the guest",
        matches: |event| {
            Name::of(event.word).is_some_and(|name| {
                let Name {
                    read,
                    op0,
                    op1,
                    crn,
                    crm,
                    op2,
                } = name;
                let own = matches!(
                    (op0, op1, crn, crm, op2),
                    (3, 0, 1, 0, 0 | 3)
                        | (3, 0, 2, 0, _)
                        | (3, 0, 10, 2, 0)
                        | (3, 0, 12, 0, 0)
                        | (3, 0, 4, 2, _)
                        | (3, 3, 4, 2, _)
                        | (0, _, 4, ..)
                );
                event.kind == Kind::Register && !read && own
            })
        },
    },
    WordRule {
        what: "WFI",
        reason: "waits for an interrupt that the events may have switched off: for ever",
        matches: |event| {
            Name::of(event.word).is_some_and(|name| {
                name.op0 == 0 && name.crn == 2 && name.crm == 0 && name.op2 == 3
            })
        },
    },
];

/// Why an event is left out.
#[must_use]
pub fn reason(place: &Place, event: &Event) -> Option<&'static str> {
    let mut reason = None;
    if event.kind == Kind::Hypercall {
        hypercalls::calls(place, event, |call| {
            debug_assert!(call.base % STRUCTURES == 0);
            let rule = CALLS.iter().find(|rule| (rule.matches)(place, event, call));
            reason = reason.or(rule.map(|rule| rule.reason));
        });
    } else {
        let rule = WORDS.iter().find(|rule| (rule.matches)(event));
        reason = rule.map(|rule| rule.reason);
    }
    reason
}
