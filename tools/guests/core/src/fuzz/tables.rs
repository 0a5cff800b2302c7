//! Sub-commands and their structures, as Xen's include/public has them: for
//! each argument register and each field, what it may hold. What a command
//! wants of a structure is what counts; x86's commands are numbers only.

use super::values::Field::{
    self, Any, Below, Bits, Count, Domain, Frame, Is, Length, List, OneOf, Order, Past, Room,
    Small, Structure, Text, Vcpu,
};

/// A sub-command, or several that take the same structure.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// `__HYPERVISOR_*`.
    pub number: u64,
    /// x0 on.
    pub registers: &'static [Field],
    /// Offset, size and content of fields.
    pub structure: &'static [(usize, usize, Field)],
    /// Size of one structure, where there may be several.
    pub stride: usize,
}

const fn op(
    number: u64,
    registers: &'static [Field],
    structure: &'static [(usize, usize, Field)],
) -> Op {
    Op {
        number,
        registers,
        structure,
        stride: 0,
    }
}

/// A grant table operation.
const fn grant(
    registers: &'static [Field],
    structure: &'static [(usize, usize, Field)],
    stride: usize,
) -> Op {
    Op {
        number: GRANT_TABLE,
        registers,
        structure,
        stride,
    }
}

/// `__HYPERVISOR_*` (public/xen.h) that have a meaning of their own here.
pub const MEMORY: u64 = 12;
const XEN_VERSION: u64 = 17;
/// console_io.
pub const CONSOLE: u64 = 18;
/// grant_table_op.
pub const GRANT_TABLE: u64 = 20;
/// vcpu_op.
pub const VCPU: u64 = 24;
/// sched_op.
pub const SCHED: u64 = 29;
/// event_channel_op.
pub const EVTCHN: u64 = 32;
const PHYSDEV: u64 = 33;
const HVM: u64 = 34;
/// sysctl.
pub const SYSCTL: u64 = 35;
/// domctl.
pub const DOMCTL: u64 = 36;
/// platform_op.
const PLATFORM: u64 = 7;
/// vmf_op.
pub const VMF_OP: u64 = 43;

/// `struct xen_memory_reservation`.
const RESERVATION: &[(usize, usize, Field)] = &[
    (0, 8, List(&Frame)),
    (8, 8, Below(9)),
    (16, 4, Order),
    (20, 4, Bits(0xf_ffff)),
    (24, 2, Domain),
];
/// XENMAPSPACE_*: shared info, grant table, gmfn, gmfn range, gmfn foreign,
/// device MMIO.
const SPACES: Field = OneOf(&[0, 1, 1, 2, 3, 4, 4, 5, 6]);
/// Length of a list that fits, or of one that does not.
const SHORT: Field = OneOf(&[0, 1, 2, 3, 8, 9, 64, 0x1_0000]);
/// The version of domctl's and of sysctl's structures.
const DOMCTL_VERSION: Field = Is(0x17);
const SYSCTL_VERSION: Field = Is(0x15);

/// What any domain may try.
pub const EVERYBODY: &[Op] = &[
    op(XEN_VERSION, &[Below(16), Room], &[]),
    op(XEN_VERSION, &[Is(6), Structure], &[(0, 4, Below(3))]),
    op(
        XEN_VERSION,
        &[OneOf(&[10, 11, 12, 13, 14]), Structure],
        &[(0, 4, Below(64))],
    ),
    op(
        CONSOLE,
        &[Is(0), Below(24), Text(&["fuzz was here\n"])],
        &[],
    ),
    op(CONSOLE, &[Below(3), Below(64), Room], &[]),
    op(MEMORY, &[OneOf(&[0, 1, 6]), Structure], RESERVATION),
    op(MEMORY, &[OneOf(&[1, 6]), Structure], RESERVATION),
    op(
        MEMORY,
        &[Is(11), Structure],
        &[
            (0, 8, List(&Frame)),
            (8, 8, Below(3)),
            (16, 4, Order),
            (24, 2, Domain),
            (32, 8, List(&Frame)),
            (40, 8, Below(3)),
            (48, 4, Order),
            (56, 2, Domain),
            (64, 8, Below(2)),
        ],
    ),
    op(
        MEMORY,
        &[OneOf(&[2, 3, 4, 14, 16, 17, 18, 19]), Structure],
        &[(0, 2, Domain)],
    ),
    op(
        MEMORY,
        &[Is(7), Structure],
        &[
            (0, 2, Domain),
            (2, 2, Small),
            (4, 4, SPACES),
            (8, 8, Small),
            (16, 8, Frame),
        ],
    ),
    op(
        MEMORY,
        &[Is(7), Structure],
        &[
            (0, 2, Domain),
            (2, 2, Small),
            (4, 4, SPACES),
            (8, 8, Frame),
            (16, 8, Frame),
        ],
    ),
    op(
        MEMORY,
        &[Is(23), Structure],
        &[
            (0, 2, Domain),
            (2, 2, SPACES),
            (4, 2, Below(9)),
            (6, 2, Domain),
            (8, 8, List(&Frame)),
            (16, 8, List(&Frame)),
            (24, 8, Room),
        ],
    ),
    op(
        MEMORY,
        &[Is(15), Structure],
        &[(0, 2, Domain), (8, 8, Frame)],
    ),
    op(
        MEMORY,
        &[Is(21), Structure],
        &[
            (0, 1, Below(5)),
            (1, 1, Below(16)),
            (2, 2, Domain),
            (4, 4, Small),
            (8, 8, Frame),
        ],
    ),
    op(MEMORY, &[OneOf(&[20, 22, 24]), Structure], RESERVATION),
    op(
        MEMORY,
        &[Is(28), Structure],
        &[
            (0, 2, Domain),
            (2, 2, Below(4)),
            (4, 4, Below(3)),
            (8, 4, Below(4)),
            (16, 8, Below(3)),
            (24, 8, List(&Frame)),
        ],
    ),
    op(
        MEMORY,
        &[OneOf(&[26, 27]), Structure],
        &[
            (0, 2, Domain),
            (4, 4, SHORT),
            (8, 4, SHORT),
            (12, 4, SHORT),
            (16, 8, Room),
            (24, 8, Room),
            (32, 8, Room),
        ],
    ),
    op(MEMORY, &[Below(64), Structure], RESERVATION),
    // Event channels.
    op(
        EVTCHN,
        &[Is(6), Structure],
        &[(0, 2, Domain), (2, 2, Domain)],
    ),
    op(
        EVTCHN,
        &[Is(6), Structure],
        &[(0, 2, Is(0x7ff0)), (2, 2, Is(0x7ff0))],
    ),
    op(
        EVTCHN,
        &[Is(0), Structure],
        &[(0, 2, Domain), (4, 4, Small)],
    ),
    op(
        EVTCHN,
        &[Is(1), Structure],
        &[(0, 4, Below(32)), (4, 4, Vcpu)],
    ),
    op(
        EVTCHN,
        &[Is(2), Structure],
        &[(0, 4, Small), (4, 4, Below(2))],
    ),
    op(EVTCHN, &[OneOf(&[3, 4, 9]), Structure], &[(0, 4, Small)]),
    op(
        EVTCHN,
        &[Is(5), Structure],
        &[(0, 2, Domain), (4, 4, Small)],
    ),
    op(EVTCHN, &[Is(7), Structure], &[(0, 4, Vcpu)]),
    op(EVTCHN, &[Is(8), Structure], &[(0, 4, Small), (4, 4, Vcpu)]),
    op(EVTCHN, &[OneOf(&[10, 14]), Structure], &[(0, 2, Domain)]),
    op(
        EVTCHN,
        &[Is(11), Structure],
        &[
            (0, 8, Frame),
            (8, 4, OneOf(&[0, 8, 64, 0xfc0])),
            (12, 4, Vcpu),
        ],
    ),
    op(EVTCHN, &[Is(12), Structure], &[(0, 8, Frame)]),
    op(
        EVTCHN,
        &[Is(13), Structure],
        &[(0, 4, Small), (4, 4, Below(18))],
    ),
    op(EVTCHN, &[Below(20), Structure], &[(0, 8, Any), (8, 8, Any)]),
    // Scheduling.
    op(SCHED, &[Is(0)], &[]),
    op(
        SCHED,
        &[Is(3), Structure],
        &[(0, 8, List(&Small)), (8, 4, Below(3)), (16, 8, Past)],
    ),
    op(SCHED, &[Is(5), Structure], &[(0, 4, Below(8))]),
    op(
        SCHED,
        &[Is(6), Structure],
        &[(0, 4, Below(5)), (4, 4, OneOf(&[0, 0x10_0000]))],
    ),
    op(SCHED, &[Is(7), Structure], &[(0, 4, Below(5))]),
    op(SCHED, &[Below(12), Structure], &[(0, 8, Any)]),
    // Grant tables.
    grant(
        &[Is(0), Structure, Count],
        &[
            (0, 8, Room),
            (8, 4, Bits(0x1f)),
            (12, 4, Small),
            (16, 2, Domain),
        ],
        32,
    ),
    grant(
        &[OneOf(&[1, 7]), Structure, Count],
        &[
            (0, 8, Room),
            (8, 8, OneOf(&[0, 0, 0x4000_0000])),
            (16, 4, Small),
        ],
        24,
    ),
    grant(
        &[Is(2), Structure, Count],
        &[(0, 2, Domain), (4, 4, Below(70)), (16, 8, Room)],
        24,
    ),
    grant(&[Is(3), Structure, Count], &[(0, 2, Domain)], 4),
    grant(
        &[Is(4), Structure, Count],
        &[(0, 8, Frame), (8, 2, Domain), (12, 4, Small)],
        24,
    ),
    grant(
        &[Is(5), Structure, Count],
        &[
            (0, 8, Frame),
            (8, 2, Domain),
            (10, 2, Below(4097)),
            (16, 8, Frame),
            (24, 2, Domain),
            (26, 2, Below(4097)),
            (32, 2, Below(4097)),
            (36, 2, Is(0)),
        ],
        40,
    ),
    grant(
        &[Is(5), Structure, Count],
        &[
            (0, 8, Small),
            (8, 2, Domain),
            (10, 2, Below(64)),
            (16, 8, Small),
            (24, 2, Domain),
            (26, 2, Below(64)),
            (32, 2, Below(64)),
            (36, 2, Below(4)),
        ],
        40,
    ),
    grant(&[OneOf(&[6, 10]), Structure, Count], &[(0, 2, Domain)], 16),
    grant(&[Is(8), Structure, Count], &[(0, 4, Below(4))], 4),
    grant(
        &[Is(9), Structure, Count],
        &[(0, 4, Below(40)), (4, 2, Domain), (16, 8, Room)],
        24,
    ),
    grant(
        &[Is(11), Structure, Count],
        &[(0, 4, Small), (4, 4, Small)],
        8,
    ),
    grant(
        &[Is(12), Structure, Count],
        &[
            (0, 8, Room),
            (8, 2, Below(4097)),
            (10, 2, Below(4097)),
            (12, 4, OneOf(&[0, 1, 2, 3, 0x8000_0001])),
        ],
        16,
    ),
    grant(
        &[Below(16), Structure, Any],
        &[(0, 8, Any), (8, 8, Any)],
        32,
    ),
    // Virtual CPUs.
    op(
        VCPU,
        &[OneOf(&[0, 1, 2, 3, 11, 12]), Vcpu, Structure],
        &[(0, 8, Any)],
    ),
    op(VCPU, &[OneOf(&[4, 12]), Vcpu, Room], &[]),
    op(
        VCPU,
        &[OneOf(&[5, 13, 14, 15]), Vcpu, Structure],
        &[(0, 8, Room)],
    ),
    op(
        VCPU,
        &[Is(6), Vcpu, Structure],
        &[(0, 8, OneOf(&[0, 1_000_000, 10_000_000]))],
    ),
    op(VCPU, &[OneOf(&[7, 9]), Vcpu], &[]),
    op(
        VCPU,
        &[Is(8), Vcpu, Structure],
        &[(0, 8, Past), (8, 4, Below(2))],
    ),
    op(
        VCPU,
        &[Is(10), Vcpu, Structure],
        &[(0, 8, Frame), (8, 4, OneOf(&[0, 64, 0xfc0, 0xff8]))],
    ),
    // The rest.
    op(
        HVM,
        &[OneOf(&[0, 1]), Structure],
        &[(0, 2, Domain), (4, 4, Below(40)), (8, 8, Any)],
    ),
    op(HVM, &[Below(32), Structure], &[(0, 8, Any), (8, 8, Any)]),
    op(
        PHYSDEV,
        &[Below(40), Structure],
        &[(0, 8, Any), (8, 8, Any), (16, 8, Small)],
    ),
    // vm_assist, xsm_op, argo, dm_op, and the old forms of others.
    op(21, &[Below(3), Below(40)], &[]),
    op(27, &[Structure], &[(0, 8, Below(32))]),
    op(
        39,
        &[Below(6), Structure, Room, Small, Any],
        &[(0, 8, Domain)],
    ),
    op(
        41,
        &[Domain, Below(4), Structure],
        &[(0, 8, Room), (8, 8, Small)],
    ),
    op(6, &[Below(4), Any], &[]),
    op(16, &[Structure], &[(0, 4, Below(12)), (8, 8, Any)]),
    op(19, &[Structure], &[(0, 4, Below(12)), (8, 8, Any)]),
];

/// The fuse's own.
pub const VMF: &[Op] = &[
    op(VMF_OP, &[Is(0), Is(0x7ff0)], &[]),
    op(VMF_OP, &[Is(1), Domain, Below(16)], &[]),
    op(VMF_OP, &[Is(1), Is(0x7ff4), Below(16)], &[]),
    op(VMF_OP, &[Is(2), Domain], &[]),
    op(VMF_OP, &[Is(3), Is(0x7ff4)], &[]),
    op(VMF_OP, &[Is(4), Domain, Below(24), Below(4)], &[]),
    op(VMF_OP, &[Is(4), Is(0x7ff4), Below(24), Below(4)], &[]),
    op(VMF_OP, &[Is(5), Is(0x7ff4), Below(20), Below(4)], &[]),
    op(VMF_OP, &[Is(6), Is(0x7ff4), Small], &[]),
    op(VMF_OP, &[Is(7), Is(0x7ff4), Below(3)], &[]),
    op(
        VMF_OP,
        &[Is(8), Domain, Frame, OneOf(&[0, 1, 2, 16, 65])],
        &[],
    ),
    op(VMF_OP, &[Below(12), Domain, Any, Any], &[]),
];

/// What only the control domain may do; others get an error.
pub const CONTROL: &[Op] = &[
    // createdomain: flags, options, limits, arch.
    domctl(&[
        (0, 4, Is(1)),
        (4, 4, DOMCTL_VERSION),
        (8, 2, OneOf(&[0, 0x7ff4, 3, 4, 5])),
        (36, 4, OneOf(&[0, 3, 3, 3, 0x13, 0x83])),
        (40, 4, Below(2)),
        (44, 4, OneOf(&[0, 1, 1, 2, 8, 129])),
        (48, 4, OneOf(&[0, 63, 1023])),
        (52, 4, OneOf(&[1, 4, 64])),
        (56, 4, OneOf(&[0, 16, 1024])),
        (60, 4, Below(4)),
        (76, 1, OneOf(&[0, 2, 3])),
        (80, 4, OneOf(&[0, 32, 256])),
    ]),
    // By domain alone.
    domctl(&[
        (0, 4, OneOf(&[2, 3, 4, 5, 27])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
    ]),
    domctl(&[
        (0, 4, OneOf(&[2, 3, 4, 5])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, OneOf(&[3, 4, 5, 6])),
    ]),
    // vCPUs: affinity, context, info.
    domctl(&[
        (0, 4, OneOf(&[9, 25])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 4, Vcpu),
        (20, 4, Below(8)),
        (24, 8, Room),
        (32, 4, SHORT),
        (40, 8, Room),
        (48, 4, SHORT),
    ]),
    domctl(&[
        (0, 4, OneOf(&[12, 13])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 4, Below(3)),
        (24, 8, Room),
    ]),
    domctl(&[
        (0, 4, OneOf(&[14, 15])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 4, Below(4)),
    ]),
    domctl(&[
        (0, 4, Is(11)),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 8, OneOf(&[0x100, 0x8000, 0x10000, u64::MAX])),
    ]),
    domctl(&[
        (0, 4, Is(16)),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 4, OneOf(&[5, 6, 9, 10])),
        (20, 4, Below(4)),
        (24, 8, Any),
        (32, 4, SHORT),
    ]),
    // Permissions and mappings of devices.
    domctl(&[
        (0, 4, OneOf(&[19, 37, 45, 47, 50, 87])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 4, Below(2)),
        (20, 4, Below(2)),
        (24, 4, Length),
        (32, 8, Text(&["/pl031@9010000", "/", "x"])),
    ]),
    domctl(&[
        (0, 4, Is(20)),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 8, Frame),
        (24, 8, Small),
        (32, 1, Below(2)),
    ]),
    domctl(&[
        (0, 4, Is(39)),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 8, Frame),
        (24, 8, OneOf(&[0x9010, 0xa000, 0x8000, 0x4_0000])),
        (32, 8, Below(4)),
        (40, 4, Below(2)),
    ]),
    domctl(&[
        (0, 4, OneOf(&[38, 48])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 4, OneOf(&[34, 35, 48, 79])),
        (20, 4, Below(6)),
        (24, 2, OneOf(&[34, 35, 48, 79])),
    ]),
    // Pools of stage 2, cache, events, and all other numbers.
    domctl(&[
        (0, 4, OneOf(&[10, 85, 86])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 8, OneOf(&[0, 0x1000, 0x10_0000, 0x40_0000])),
    ]),
    domctl(&[
        (0, 4, Is(71)),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 8, Frame),
        (24, 8, Below(600)),
    ]),
    domctl(&[
        (0, 4, OneOf(&[56, 77, 81])),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 4, Below(6)),
        (20, 4, Below(16)),
        (24, 8, Small),
        (32, 8, Frame),
    ]),
    domctl(&[
        (0, 4, Below(96)),
        (4, 4, DOMCTL_VERSION),
        (8, 2, Domain),
        (16, 8, Any),
        (24, 8, Room),
        (32, 8, Any),
    ]),
    // The machine.
    sysctl(&[
        (0, 4, OneOf(&[1, 2])),
        (4, 4, SYSCTL_VERSION),
        (8, 4, Below(5)),
        (16, 8, Room),
        (24, 4, SHORT),
    ]),
    sysctl(&[
        (0, 4, OneOf(&[3, 4, 5, 9, 10, 12, 15])),
        (4, 4, SYSCTL_VERSION),
        (8, 8, Small),
        (16, 8, Room),
    ]),
    sysctl(&[
        (0, 4, Is(6)),
        (4, 4, SYSCTL_VERSION),
        (8, 2, Small),
        (12, 4, SHORT),
        (16, 8, Room),
    ]),
    sysctl(&[
        (0, 4, OneOf(&[8, 16, 17, 22])),
        (4, 4, SYSCTL_VERSION),
        (8, 4, SHORT),
        (16, 8, Room),
        (24, 8, Room),
    ]),
    sysctl(&[
        (0, 4, Is(14)),
        (4, 4, SYSCTL_VERSION),
        (8, 4, Below(4)),
        (12, 4, Frame),
        (16, 4, Frame),
        (24, 8, Room),
    ]),
    sysctl(&[
        (0, 4, Is(18)),
        (4, 4, SYSCTL_VERSION),
        (8, 4, Below(9)),
        (12, 4, Below(4)),
        (16, 4, OneOf(&[5, 6, 9])),
        (20, 4, Domain),
        (24, 4, Below(6)),
        (28, 4, Small),
        (32, 8, Room),
        (40, 4, SHORT),
    ]),
    sysctl(&[
        (0, 4, Is(19)),
        (4, 4, SYSCTL_VERSION),
        (8, 4, Below(4)),
        (12, 4, OneOf(&[5, 6, 9, 10])),
        (16, 4, Below(3)),
        (24, 8, Any),
    ]),
    sysctl(&[
        (0, 4, Below(32)),
        (4, 4, SYSCTL_VERSION),
        (8, 8, Any),
        (16, 8, Room),
        (24, 8, Any),
    ]),
    op(
        PLATFORM,
        &[Structure],
        &[
            (0, 4, OneOf(&[17, 62, 51, 1])),
            (4, 4, Is(0x0300_0001)),
            (8, 8, Any),
            (16, 8, Any),
        ],
    ),
    op(
        42,
        &[
            Below(5),
            Text(&["/", "/params", "/cpupool", "/cpupool/0", "/buildinfo", "x"]),
            Length,
            Room,
            OneOf(&[0, 4, 64, 4096]),
        ],
        &[],
    ),
];

const fn domctl(structure: &'static [(usize, usize, Field)]) -> Op {
    op(DOMCTL, &[Structure], structure)
}

const fn sysctl(structure: &'static [(usize, usize, Field)]) -> Op {
    op(SYSCTL, &[Structure], structure)
}
