//! Where a canary's pattern lies in a dump: how many frames hold a page of it;
//! and where a word of its lies.

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
    let count = pages_of(&dump)
        .filter_map(|address| dump.word(address))
        .filter(|word| beginnings.contains(word))
        .count();
    Ok(count)
}

/// Addresses of all pages of RAM.
fn pages_of(dump: &Dump) -> impl Iterator<Item = u64> {
    dump.banks()
        .flat_map(|(start, length)| (start..start + length).step_by(FRAME_SIZE as usize))
}

/// Frames of RAM that have `word` at this offset.
pub fn with_word(moment: &Moment, offset: u64, word: u64) -> Result<Vec<u64>> {
    let dump = Dump::open(&moment.memory)?;
    let found = pages_of(&dump).filter(|page| dump.word(page + offset) == Some(word));
    Ok(found.map(|page| page / FRAME_SIZE).collect())
}
