//! The experiment: look at the machine's memory, blow the fuse, look again.
//!
//! The demonstration prints it, every case of the test matrix judges it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use vmf_audit::report::{Level, Report, Verdict};

use super::audit;
use super::session::{Pulse, Session};

/// How long blowing may take, under emulation on a busy host.
pub const BLOW: Duration = Duration::from_secs(90);
/// How many hypercalls with pointers dom0 makes at each look.
const HYPERCALLS: u32 = 20;

/// One look at the machine.
pub struct Look {
    /// The audit at level `lock`.
    pub report: Report,
    /// Each domU's id and canary, up to then.
    pub pulses: Vec<(u16, Pulse)>,
    /// How many of [`HYPERCALLS`] were answered.
    pub hypercalls: u32,
}

/// What the experiment found.
pub struct Outcome {
    /// Before the fuse.
    pub before: Look,
    /// After it.
    pub after: Look,
    /// How long Xen worked on the blow, by its own clock.
    pub blow: Duration,
    /// How long all CPUs stood still meanwhile.
    pub stopped: Duration,
}

/// One claim and whether it holds.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// What is claimed.
    pub text: String,
    /// Whether it holds.
    pub held: bool,
    /// What was seen.
    pub seen: String,
}

/// Ids of the domUs of a session.
pub fn domus(session: &Session) -> Vec<u16> {
    (1..).take(session.report.profile.domains.len()).collect()
}

/// The ids as arguments.
pub fn arguments(ids: &[u16]) -> String {
    ids.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
}

/// Makes hypercalls with pointers from dom0 (`XENVER_compile_info` copies into
/// the caller's memory) and counts those that bring an answer.
pub fn hypercalls(session: &mut Session) -> Result<u32> {
    let text = session.must(&format!(
        "n=0; for i in $(seq {HYPERCALLS}); do read -r x < /sys/hypervisor/compilation/compiler \
         && [ -n \"$x\" ] && n=$((n+1)); done; echo $n"
    ))?;
    text.trim()
        .parse()
        .with_context(|| format!("dom0 should have printed a number: {text}"))
}

/// Looks at the machine: heartbeats, hypercalls, memory.
pub fn look(session: &mut Session, name: &str, ids: &[u16]) -> Result<Look> {
    let pulses = session.beats_of(ids, 2)?;
    let pulses = ids.iter().copied().zip(pulses).collect();
    let hypercalls = hypercalls(session)?;
    let moment = session.moment(name, ids)?;
    let report = session.step(&format!("audit {name}"), |_| {
        audit::check(&moment, Level::Lock)
    })?;
    Ok(Look {
        report,
        pulses,
        hypercalls,
    })
}

/// How far the fuse is blown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// Level `lock`.
    Lock,
    /// Level `seal`, but firmware can still be called.
    SealKeepingFirmware,
    /// Level `seal`.
    Seal,
}

impl Fuse {
    /// What `vmfctl blow` is told.
    fn options(self) -> &'static str {
        match self {
            Self::Lock => "",
            Self::SealKeepingFirmware => "--seal --keep-firmware-calls",
            Self::Seal => "--seal",
        }
    }

    /// What it then says.
    fn state(self) -> &'static str {
        match self {
            Self::Lock => "locked",
            Self::SealKeepingFirmware | Self::Seal => "sealed",
        }
    }
}

/// Locks with these domains protected; returns what `vmfctl` says as JSON.
pub fn blow(session: &mut Session, ids: &[u16]) -> Result<Value> {
    blow_to(session, ids, Fuse::Lock)
}

/// Blows the fuse so far.
pub fn blow_to(session: &mut Session, ids: &[u16], fuse: Fuse) -> Result<Value> {
    let options = fuse.options();
    let command = format!("vmfctl blow --yes --json {options} {}", arguments(ids));
    let output = session.run_within(&command, BLOW)?;
    ensure!(
        output.code == 0,
        "{command}: exit code {}: {}",
        output.code,
        output.line()
    );
    let answer: Value = serde_json::from_str(&output.text)
        .with_context(|| format!("{command} should print JSON: {}", output.line()))?;
    ensure!(
        answer["ok"] == true && answer["state"] == fuse.state(),
        "{command}: {answer}"
    );
    Ok(answer)
}

/// Blows the fuse on all domUs of a session in which dom0 is up, and looks
/// before and after.
pub fn experiment(session: &mut Session) -> Result<Outcome> {
    let ids = domus(session);
    let before = look(session, "before", &ids)?;
    let answer = blow(session, &ids)?;
    let time = |key: &str| {
        let nanoseconds = answer[key].as_u64();
        nanoseconds
            .map(Duration::from_nanos)
            .with_context(|| format!("vmfctl blow does not say {key}"))
    };
    let (blow, stopped) = (time("blow_ns")?, time("lock_stopped_ns")?);
    let after = look(session, "after", &ids)?;
    Ok(Outcome {
        before,
        after,
        blow,
        stopped,
    })
}

impl Outcome {
    /// Everything that must hold: the positives before, the negatives after.
    pub fn claims(&self, directmap: bool) -> Vec<Claim> {
        let claim = |text: &str, held: bool, seen: String| Claim {
            text: text.to_owned(),
            held,
            seen,
        };
        let open = audit::must_be_open(&self.before.report.summary, directmap);
        let mut claims = vec![
            claim(
                "before: Xen can reach the guests and the tables",
                open.is_ok(),
                open.err().map_or_else(
                    || audit::sentence(&self.before.report),
                    |error| error.to_string(),
                ),
            ),
            claim(
                "before: the level lock does not hold",
                self.before.report.verdict == Verdict::Violated,
                audit::sentence(&self.before.report),
            ),
            claim(
                "after: the level lock holds",
                audit::must_hold(&self.after.report).is_ok(),
                audit::sentence(&self.after.report),
            ),
        ];
        for ((id, before), (_, after)) in self.before.pulses.iter().zip(&self.after.pulses) {
            claims.push(claim(
                &format!("d{id} runs on, its memory unchanged"),
                before.pattern && after.pattern && after.beats > before.beats,
                format!("heartbeats {} -> {}", before.last, after.last),
            ));
        }
        claims.push(claim(
            "dom0's hypercalls are answered before and after",
            self.before.hypercalls == HYPERCALLS && self.after.hypercalls == HYPERCALLS,
            format!(
                "{} and {} of {HYPERCALLS}",
                self.before.hypercalls, self.after.hypercalls
            ),
        ));
        claims
    }
}
