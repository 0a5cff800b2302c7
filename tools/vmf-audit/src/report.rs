//! What an audit says: the shapes of `--json`, and of the library's answers to whoever calls it.

use crate::descriptor::Step;
use crate::hex::Hex;
use serde::Serialize;

/// What the fuse is claimed to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// No protected frame is mapped at EL2.
    Unmap,
    /// Nor is any translation table.
    Lock,
    /// Nor can any instruction be executed that would replace them.
    Seal,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Level::Unmap => "unmap",
            Level::Lock => "lock",
            Level::Seal => "seal",
        })
    }
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The claimed level holds.
    Holds,
    /// It does not.
    Violated,
    /// Nothing speaks against it, but something that is needed could not be established.
    CannotJudge,
}

impl Verdict {
    /// The command's exit status.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Holds => 0,
            Verdict::Violated => 1,
            Verdict::CannotJudge => 2,
        }
    }
}

/// One finding against the claimed level: a run of frames, or a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Id of the rule, such as `U1`.
    pub rule: &'static str,
    /// Ids of the threat model's vectors.
    pub vectors: &'static [&'static str],
    /// What is wrong, in a sentence.
    pub what: String,
    /// First machine frame.
    pub mfn: Option<Hex>,
    /// Number of frames.
    pub frames: u64,
    /// Whose they are.
    pub owner: Option<String>,
    /// First virtual address at EL2 (or intermediate physical address, for a rule on stage 2).
    pub address: Option<Hex>,
    /// The entries that lead there, root first.
    pub walk: Vec<Step>,
    /// CPUs that it applies to.
    pub cpus: Vec<usize>,
}

/// A frame that a protected domain's stage 2 reaches, and that may be mapped nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Excluded {
    /// The domain.
    pub domain: u16,
    /// The frame.
    pub mfn: Hex,
    /// Where the domain sees it, if it is shared on purpose: its guest frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gfn: Option<Hex>,
    /// Why: shared on purpose, or what of Xen's own it is.
    pub why: &'static str,
}

/// A rule that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleResult {
    /// Id of the rule.
    pub rule: &'static str,
    /// What it demands.
    pub demands: &'static str,
    /// Ids of the threat model's vectors.
    pub vectors: &'static [&'static str],
    /// Whether it holds: nothing violates it, and all that it needs could be established.
    pub holds: bool,
    /// How many violations there are.
    pub violations: usize,
    /// How many frames they make.
    pub frames: u64,
}

/// The answer of `check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was claimed.
    pub level: Level,
    /// Whether it holds.
    pub verdict: Verdict,
    /// Every rule of the level.
    pub rules: Vec<RuleResult>,
    /// Every finding.
    pub violations: Vec<Violation>,
    /// What could not be established.
    pub unestablished: Vec<String>,
    /// Frames of protected domains that are not held to be protected.
    pub excluded: Vec<Excluded>,
    /// The counts.
    pub summary: Summary,
}

/// Leaves by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leaves {
    /// 4 KiB pages.
    #[serde(rename = "4K")]
    pub pages: usize,
    /// 2 MiB blocks.
    #[serde(rename = "2M")]
    pub blocks_2m: usize,
    /// 1 GiB blocks.
    #[serde(rename = "1G")]
    pub blocks_1g: usize,
}

impl Leaves {
    /// Counts one leaf.
    pub fn add(&mut self, level: u8) {
        match level {
            1 => self.blocks_1g += 1,
            2 => self.blocks_2m += 1,
            _ => self.pages += 1,
        }
    }
}

/// Counts of one EL2 root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootSummary {
    /// The root table; none with the MMU off.
    pub root: Option<Hex>,
    /// CPUs that use it.
    pub cpus: Vec<usize>,
    /// SCTLR_EL2.WXN.
    pub wxn: bool,
    /// Leaves by size.
    pub leaves: Leaves,
    /// Frames of RAM that are mapped.
    pub ram_frames_mapped: usize,
    /// Leaves that descriptors make writable and executable.
    pub wx_leaves: usize,
    /// Those of them that WXN does not save.
    pub wx_leaves_effective: usize,
    /// Leaves that can be executed from.
    pub executable_leaves: usize,
    /// Frames that hold its tables.
    pub tables: usize,
    /// Protected frames that are mapped.
    pub protected_frames_mapped: usize,
    /// Frames with tables of any regime that are mapped.
    pub table_frames_mapped: usize,
}

/// Counts of one stage 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DomainSummary {
    /// The domain; none if no known one owns it.
    pub id: Option<u16>,
    /// Root and VMID.
    pub vttbr: Hex,
    /// Whether it is claimed to be protected.
    pub protected: bool,
    /// Leaves by size.
    pub leaves: Leaves,
    /// Frames of RAM that it reaches.
    pub ram_frames: usize,
    /// Frames that hold its tables.
    pub tables: usize,
    /// Frames of RAM that it shares on purpose: claimed, and found.
    pub shared_frames: usize,
    /// Entries with a clear valid bit that count nevertheless.
    pub pending_entries: usize,
}

/// The answer of `summary`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// CPUs in the registers file.
    pub cpus: usize,
    /// Frames of RAM.
    pub ram_frames: usize,
    /// Frames of RAM that any CPU can reach at EL2.
    pub ram_frames_mapped: usize,
    /// Frames of protected domains, without what is excluded.
    pub protected_frames: usize,
    /// Those of them that any CPU can reach at EL2.
    pub protected_frames_mapped: usize,
    /// Frames that hold tables of any regime.
    pub table_frames: usize,
    /// Those of them that any CPU can reach at EL2.
    pub table_frames_mapped: usize,
    /// Frames that can be executed from and written to, at the same address or at two.
    pub executable_frames_writable: usize,
    /// Leaves by size, over all roots.
    pub leaves: Leaves,
    /// Leaves that descriptors make writable and executable, over all roots.
    pub wx_leaves: usize,
    /// Those of them that WXN does not save.
    pub wx_leaves_effective: usize,
    /// Frames that are in a protected domain's stage 2 and not held to be protected.
    pub excluded_frames: usize,
    /// Those of them that are shared on purpose.
    pub shared_frames: usize,
    /// Those of the latter that any CPU can reach at EL2.
    pub shared_frames_mapped: usize,
    /// Each EL2 root.
    pub roots: Vec<RootSummary>,
    /// Each stage 2.
    pub domains: Vec<DomainSummary>,
}
