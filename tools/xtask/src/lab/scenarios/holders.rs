//! Pages of a domU that somebody else has mapped.
use super::Group;
/// The groups of this file.
pub const GROUPS: &[Group] = &[];
