//! Which of dom0's vCPUs a thread runs on.
#![allow(unsafe_code, reason = "a system call with a pointer")]

use std::io;

use crate::Failure;

/// Keeps the calling thread on one of dom0's vCPUs, or on the only one.
pub fn to_cpu(number: usize) -> Result<(), Failure> {
    // SAFETY: all zero is an empty set; the call reads it.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let count = libc::sysconf(libc::_SC_NPROCESSORS_ONLN).max(1) as usize;
        libc::CPU_SET(number % count, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Failure::io(
            "sched_setaffinity",
            &io::Error::last_os_error(),
        ))
    }
}
