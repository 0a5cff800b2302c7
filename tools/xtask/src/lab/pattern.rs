//! Where a canary's pattern lies in a dump: how many frames hold a page of it.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use canary_core::pattern;
use vmf_audit::dump::{Dump, FRAME_SIZE};

use super::session::Moment;

/// Words of a frame.
const WORDS: usize = FRAME_SIZE as usize / 8;

/// Frames of RAM that begin as one of the first `pages` pages of the pattern of
/// `seed` begins.
pub fn frames(moment: &Moment, seed: u64, pages: usize) -> Result<usize> {
    let dump = Dump::open(&moment.memory)?;
    let beginnings: HashSet<u64> = (0..pages)
        .map(|page| pattern::word(seed, page * WORDS))
        .collect();
    ensure!(
        beginnings.len() == pages,
        "two pages of the pattern begin alike"
    );
    let count = dump
        .banks()
        .flat_map(|(start, length)| (start..start + length).step_by(FRAME_SIZE as usize))
        .filter_map(|address| dump.word(address))
        .filter(|word| beginnings.contains(word))
        .count();
    Ok(count)
}
