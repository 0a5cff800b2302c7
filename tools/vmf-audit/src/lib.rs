//! The independent verifier of the virtual memory fuse: from a dump of a machine's physical memory and its CPUs'
//! registers it computes what Xen can reach at EL2, and judges the claimed level. Shares no code with `xen-vmf`: every
//! bit position here comes from the Arm Architecture Reference Manual (VMSAv8-64), every fact about Xen from xen-syms.
//!
//! In the order in which a judgement uses them:
//! - [`dump`]: QEMU's ELF dump of physical memory; what is in it is RAM, what is not is not
//! - [`registers`]: the registers of every CPU, and which domains are claimed to be protected
//! - [`walk`]: the walk through tables; [`stage1`], [`stage2`]: what the two regimes make of [`descriptor`] bits
//! - [`symbols`], [`xen`]: xen-syms' symbols and DWARF, and what they say about the dump (domains, pools, static tables)
//! - [`frames`]: for every frame of RAM whose it is
//! - [`audit`]: all of the above put together; [`summary`] counts, [`judge`] decides, [`report`] is what they say
//!
//! What cannot be established is never taken for granted: it ends up in [`report::Report::unestablished`].

pub mod audit;
mod claims;
mod common;
pub mod descriptor;
pub mod dump;
pub mod error;
pub mod frames;
pub mod frametable;
pub mod fused;
pub mod hex;
pub mod instructions;
pub mod judge;
pub mod picture;
pub mod registers;
pub mod report;
pub mod rules;
pub mod scan;
pub mod show;
pub mod space;
pub mod stage1;
pub mod stage2;
pub mod summary;
pub mod symbols;
pub mod walk;
pub mod xen;

pub use audit::Audit;
pub use error::Error;
