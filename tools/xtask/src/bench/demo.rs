//! How long the demonstration takes where all is built already. This is time
//! of the host.

use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::{self, DemoOptions};
use crate::site::Site;

/// What it is to take at most, in seconds.
pub const TARGET: f64 = 60.0;

/// The result.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Demo {
    /// The second of two runs, in seconds.
    pub seconds: f64,
    /// CPUs of the host.
    pub cpus: usize,
}

/// Demonstrates twice.
pub fn measure(site: &Site) -> Result<Demo> {
    let mut seconds = 0.0;
    for _ in 0..2 {
        let start = Instant::now();
        let held = lab::demo(site, &DemoOptions::default())?;
        seconds = start.elapsed().as_secs_f64();
        ensure!(held, "the demonstration does not hold");
    }
    Ok(Demo {
        seconds,
        cpus: available_parallelism().map_or(1, usize::from),
    })
}
