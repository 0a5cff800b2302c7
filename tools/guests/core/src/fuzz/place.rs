//! What the generator knows of the guest that it makes events for.

/// Whose place the guest is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A domU.
    Guest,
    /// The control domain.
    Control,
}

/// How far the fuse is, as far as the events depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the blow, and while it happens.
    Before,
    /// After it.
    After,
}

/// The guest's addresses and neighbours. Virtual addresses are physical ones,
/// but for the image.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Whose place it is in.
    pub role: Role,
    /// How far the fuse is.
    pub phase: Phase,
    /// The vCPU that executes.
    pub vcpu: u64,
    /// The vCPU that executes nothing, and may be started and stopped.
    pub spare: u64,
    /// Physical address of the code that the spare one may be started at.
    pub spare_entry: u64,
    /// First address of the memory that may be lost: 2 MiB, aligned.
    pub arena: u64,
    /// The page with the structures of this vCPU's hypercalls.
    pub page: u64,
    /// A read-only address of the image.
    pub image: u64,
    /// Base of GICD; 0 if there is none.
    pub distributor: u64,
    /// Base of GICR; 0 if there is none.
    pub redistributor: u64,
    /// Base of the virtual UART; 0 if there is none.
    pub uart: u64,
    /// A domain that is left in peace but for what the fuse forbids anyway.
    pub sentinel: u16,
    /// A domain with which anything may be done.
    pub prey: u16,
    /// What of that which stock Xen does not survive is done.
    pub known: Known,
    /// The guest is not to be protected: nothing that it does is in the way.
    pub outside: bool,
}

/// What stock Xen does not survive; [`left_out`](super::left_out) says what each one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// `irq-permission`
    IrqPermission,
    /// `page-offline`
    PageOffline,
    /// `interrupts-without-vcpus`
    InterruptsWithoutVcpus,
    /// `part-of-a-cache-line`
    PartOfACacheLine,
    /// `half-removed-cpu`
    HalfRemovedCpu,
}

impl Crash {
    const ALL: [(Self, &'static str); 5] = [
        (Self::IrqPermission, "irq-permission"),
        (Self::PageOffline, "page-offline"),
        (Self::InterruptsWithoutVcpus, "interrupts-without-vcpus"),
        (Self::PartOfACacheLine, "part-of-a-cache-line"),
        (Self::HalfRemovedCpu, "half-removed-cpu"),
    ];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(_, of)| *of == name).map(|(crash, _)| crash)
    }
}

/// Which of the [`Crash`]es are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// None of them.
    None,
    /// This one only.
    One(Crash),
    /// All.
    All,
}

impl Known {
    /// Whether `crash` is done.
    #[must_use]
    pub fn has(self, crash: Crash) -> bool {
        match self {
            Self::None => false,
            Self::One(one) => one == crash,
            Self::All => true,
        }
    }
}

/// Size of the arena.
pub const ARENA: u64 = 2 << 20;
/// An address that nothing answers (public/arch-arm.h), inside 39 bits.
pub const NOTHING: u64 = 0x70_0000_0000;
