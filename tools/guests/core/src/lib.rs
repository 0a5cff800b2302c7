//! What the bare-metal canary and the Linux one share, free of any machine.
//!
//! * [`pattern`]: the words that memory is filled with and compared to;
//! * [`script`]: bootargs and console input, turned into settings and actions;
//! * [`peer`]: what takes two domains;
//! * [`line`]: the lines that tests look for;
//! * [`fuzz`]: what the hostile guest does.
//!
//! Nothing here is unsafe or allocates, so all of it is tested on the host.
#![cfg_attr(not(test), no_std)]

pub mod fuzz;
pub mod line;
pub mod pattern;
pub mod peer;
pub mod script;
