//! The virtual memory fuse: the part of Xen that takes memory out of its own
//! reach.
//!
//! Linked into Xen's arm64 build, this crate decides what EL2 maps, and edits
//! Xen's own translation tables so that it maps nothing else. It runs at EL2;
//! everything but `xen`, `c_abi` and [`buffer`] is free of Xen and of `unsafe`, and
//! runs on a developer's host as well, where it is tested.
//!
//! The rooms, in the order in which the fuse uses them:
//!
//! | room | job |
//! |---|---|
//! | [`addr`], [`descriptor`], [`par`] | frames and addresses; what an entry means, one type per regime; what AT answers |
//! | [`heap`], [`window`] | the split heap: its size, and mapping on demand |
//! | [`walk`], [`stage2`], [`extents`] | reading tables; sets of frames |
//! | [`share`] | what a domain keeps in Xen's reach on purpose |
//! | [`policy`], [`plan`] | who stays mapped; which entries change, as data |
//! | [`commit`] | changing live tables by the architecture's rules |
//! | [`fuse`] | protect and lock, in order |
//! | [`snapshot`], [`state`] | what is left to answer from afterwards |
//! | [`hypercall`] | what may be asked, by whom |
//! | `xen`, `c_abi` | Xen's accessors, and what Xen calls (only at EL2) |
//! | [`machine`], [`buffer`], [`error`] | what the fuse needs from Xen, and what it says when it does not get it |
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod buffer;
pub mod commit;
pub mod descriptor;
pub mod error;
pub mod extents;
pub mod fuse;
pub mod heap;
pub mod hypercall;
pub mod machine;
pub mod par;
pub mod plan;
pub mod policy;
pub mod share;
pub mod snapshot;
pub mod stage2;
pub mod state;
pub mod walk;
pub mod window;

#[cfg(target_os = "none")]
pub mod c_abi;
#[cfg(target_os = "none")]
pub mod xen;
