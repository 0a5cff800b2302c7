//! The dom0 side of the `vmf_op` hypercall, from the bottom up:
//!
//! * [`privcmd`] and `libxencall` (a feature) reach Xen; a test replays what
//!   was recorded (feature `recorded`); [`transport`] is what they have in
//!   common, and finds the one to use;
//! * [`refusal`] gives each errno of the interface its one meaning;
//! * [`answer`] has the types of questions and answers;
//! * [`machine`] is the safe API: version, preflight, protect, lock, share,
//!   status, counters, the domains.
//!
//! Numbers come from `xen-vmf-abi`, the one description of the interface.

#[cfg(all(feature = "libxencall", target_feature = "crt-static"))]
compile_error!("feature libxencall: a statically linked program cannot load a library");

pub mod answer;
#[cfg(feature = "libxencall")]
pub mod libxencall;
pub mod machine;
pub mod privcmd;
#[cfg(any(test, feature = "recorded"))]
pub mod recorded;
pub mod refusal;
pub mod transport;

pub use answer::{
    Counters, DomId, DomainStatus, Error, MachineStatus, Obstacle, Shared, State, Undecoded,
};
pub use machine::Machine;
pub use refusal::Refusal;
pub use transport::{OpenError, Transport};
