//! Xen's own tools in dom0: what each does before the lock, and after it. What
//! cannot be done any more is refused by an error that the tool shows; nothing
//! hangs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vmf_audit::report::Level;

use super::{CANARY, Group, LINUX, dom0_goes_on, state_is, status, told};
use crate::lab::audit;
use crate::lab::experiment;
use crate::lab::pattern;
use crate::lab::profile::{Guest, Profile};
use crate::lab::session::{Output, Session};

/// The groups of this file.
pub const GROUPS: &[Group] = &[Group {
    name: "xl",
    system,
    tests: &[
        ("the-tools-start", start),
        ("tools-that-look-before", looks),
        ("domains-of-its-own-before", own_before),
        ("pause-and-dump-before", pause_and_dump),
        ("balloon-before", |session| balloon(session, 32)),
        ("what-this-xen-never-does", never),
        ("a-domain-of-xl-cannot-be-protected", own_is_held),
        ("blow", blow),
        ("tools-that-look-after", looks),
        ("what-the-tools-never-do-after", never),
        ("no-domain-is-created-after", none_created),
        ("pause-after-and-no-dump", pause_and_no_dump),
        ("console-after", |session| console(session, KEPT)),
        ("balloon-after", |session| balloon(session, 64)),
        ("shutdown-after", shutdown),
        ("destroy-of-a-protected-domain", destroy_protected),
        ("destroy-of-a-domain-of-xl", destroy_own),
        ("the-others-go-on", others_go_on),
        ("still-locked", still_locked),
    ],
}];

/// A second canary, protected as the first.
const OTHER_CANARY: u16 = 3;
/// Its seed.
const OTHER_SEED: u64 = 0x07e4;
/// The domain that `xl` creates before the blow, and that is there after it.
const KEPT: &str = "kept";
/// How long a tool may take.
const TOOL: u64 = 100;
/// The seed of the canaries that `xl` creates.
pub const OWN_SEED: u64 = 0xc0_ffee;
/// Pages of every canary's pattern here.
pub const PATTERN: usize = 512;
/// MiB of dom0, which Xen puts together from pieces of a power of two: of less than
/// 128 it takes none that happens to lie below the first one, and gives up.
const DOM0_MIB: u64 = 384;
/// MiB of a canary.
const CANARY_MIB: u64 = 32;

/// A Linux domain that the tools can ask to shut down, two canaries to protect.
fn system(profile: &mut Profile) {
    with_tools(profile);
    let canary = profile.domains.iter().find(|d| d.guest == Guest::Canary);
    if let Some(mut other) = canary.cloned() {
        other.arguments = arguments(OTHER_SEED);
        profile.domains.push(other);
    }
    for domain in &mut profile.domains {
        domain.enhanced = domain.guest == Guest::Linux;
        domain.xenstore = domain.enhanced;
    }
}

/// A dom0 with Xen's own tools, and guests that leave it time.
pub fn with_tools(profile: &mut Profile) {
    profile.dom0.tools = true;
    profile.dom0.mib = DOM0_MIB;
    profile.deadline = 1200;
    for domain in &mut profile.domains {
        domain.arguments += match domain.guest {
            Guest::Canary | Guest::Fuzz | Guest::Narrow => " size=2M",
            Guest::Linux | Guest::Hostile => " mib=2",
        };
    }
}

/// Bootargs of a canary with a pattern of [`PATTERN`] pages.
pub fn arguments(seed: u64) -> String {
    format!("seed={seed:#x} size=2M")
}

/// Runs a tool in dom0, to its end: one that hangs ends with 143.
pub fn tool(session: &mut Session, command: &str) -> Result<Output> {
    let allowed = Duration::from_secs(TOOL + 20);
    let output = session.run_within(&format!("timeout {TOOL} {command}"), allowed)?;
    ensure!(output.code != 143, "{command}: hangs: {}", output.line());
    Ok(output)
}

/// A tool must end with this exit code and say this.
pub fn says(session: &mut Session, command: &str, code: i32, word: &str) -> Result<String> {
    let output = tool(session, command)?;
    ensure!(
        output.code == code && output.text.contains(word),
        "{command}: exit code {} (awaited: {code}), no \"{word}\" in: {}",
        output.code,
        output.line()
    );
    Ok(output.text)
}

/// The line of `xl list` about a domain, none if it is not there: MiB and state.
pub fn listed(session: &mut Session, id: u16) -> Result<Option<(u64, String)>> {
    let text = says(session, "xl list", 0, "Domain-0")?;
    let mut fields = text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let found = words.next()?.parse() == Ok(id);
        let mib = words.next()?.parse().ok()?;
        found.then(|| (mib, words.nth(1).unwrap_or_default().to_owned()))
    });
    Ok(fields.next())
}

fn state(session: &mut Session, id: u16) -> Result<String> {
    let line = listed(session, id)?;
    Ok(line.with_context(|| format!("xl list has no {id}"))?.1)
}

/// Starts the tools: the store, consoles, and what makes Xen's domains known.
pub fn start(session: &mut Session) -> Result<()> {
    for id in experiment::domus(session) {
        session.beats(id, 1)?;
    }
    says(session, "toolstack", 0, "")?;
    let text = says(session, "xl list", 0, "Domain-0")?;
    let domains = session.report.profile.domains.len() + 1;
    ensure!(
        text.lines().count() == domains + 1,
        "xl list should have {domains} domains: {text}"
    );
    Ok(())
}

/// Tools that ask, and small settings: the same on every machine, blown or not.
fn looks(session: &mut Session) -> Result<()> {
    for (command, word) in [
        ("xl info", "xen_scheduler          : credit2"),
        ("xl vcpu-list", "Domain-0"),
        ("xl uptime 0", "Domain-0"),
        ("xl cpupool-list", "Pool-0"),
        ("xl sched-credit2 -d 2 -w 512", ""),
        ("xl sched-credit2 -d 2", "512"),
        ("xl sched-credit2 -d 2 -w 256", ""),
        ("xl vcpu-pin 2 0 1", ""),
        ("xl vcpu-list 2", " 1 / all"),
        ("xl vcpu-pin 2 0 all", ""),
        ("xl vcpu-set 1 1", ""),
        ("xl sysrq 1 h", ""),
        ("xl debug-keys h", ""),
        ("xenstore-ls /local/domain/1", "dom0less-1"),
        ("xenhypfs ls /", "buildinfo"),
        ("xenpm get-cpu-topology", "CPU0"),
    ] {
        says(session, command, 0, word)?;
    }
    // Xen's lines would be taken for what Xen says on the serial line.
    says(session, "sh -c \"xl dmesg | grep -c pressed\"", 0, "")?;
    dom0_goes_on(session)
}

/// What Xen 4.20 has not on Arm, or what this dom0 has no back end for.
fn never(session: &mut Session) -> Result<()> {
    for (command, code, word) in [
        ("xl save 1 /saved", 1, "not implemented"),
        ("xl trigger 1 reset", 0, "Function not implemented"),
        ("xl block-attach 1 phy:/dev/none xvda w", 1, "No such file"),
    ] {
        says(session, command, code, word)?;
    }
    Ok(())
}

/// Writes what `xl` is to create.
pub fn configure(session: &mut Session, name: &str) -> Result<()> {
    session
        .must(&format!(
            "printf 'name=\"{name}\"\\nkernel=\"/guests/canary\"\\nmemory={CANARY_MIB}\\n\
             vuart=\"sbsa_uart\"\\ncmdline=\"seed={OWN_SEED:#x}\"\\n' >/{name}.cfg"
        ))
        .map(drop)
}

/// Creates a domain; returns its id.
pub fn create(session: &mut Session, name: &str) -> Result<u16> {
    configure(session, name)?;
    says(session, &format!("xl create /{name}.cfg"), 0, "")?;
    let id = says(session, &format!("xl domid {name}"), 0, "")?;
    id.trim().parse().with_context(|| format!("xl domid: {id}"))
}

/// The console of a domain of `xl` brings its canary's heartbeats, with the
/// pattern intact. Left after one, it ends with the next.
pub fn console(session: &mut Session, name: &str) -> Result<()> {
    let read = format!("xl console -t vuart {name} </dev/null | grep -m 1 heartbeat");
    let line = says(session, &format!("sh -c '{read}'"), 0, "pattern ok")?;
    ensure!(!line.contains("BROKEN"), "xl console {name}: {line}");
    Ok(())
}

/// Dumps a domain's core; returns its bytes.
fn dump(session: &mut Session, domain: &str) -> Result<u64> {
    says(session, &format!("xl dump-core {domain} /core"), 0, "")?;
    let text = session.must("stat -c %s /core && rm /core")?;
    text.trim().parse().with_context(|| format!("stat: {text}"))
}

fn dumps(session: &mut Session, domain: &str) -> Result<()> {
    let bytes = dump(session, domain)?;
    ensure!(
        bytes > CANARY_MIB << 20,
        "the core of {domain} has {bytes} bytes"
    );
    Ok(())
}

fn own_before(session: &mut Session) -> Result<()> {
    let id = create(session, "early")?;
    console(session, "early")?;
    dumps(session, "early")?;
    says(session, "xl destroy early", 0, "")?;
    ensure!(listed(session, id)?.is_none(), "domain {id} does not go");
    let before = status(session)?["counters"]["leaked_pages"].clone();
    ensure!(before == 0, "leaked pages of an open machine: {before}");
    // One is left for later.
    create(session, KEPT).map(drop)
}

/// A paused domain is silent, and goes on when it is not any more.
fn pause(session: &mut Session, id: u16) -> Result<()> {
    says(session, &format!("xl pause {id}"), 0, "")?;
    ensure!(
        state(session, id)?.contains('p'),
        "domain {id} is not paused"
    );
    let silent = session.pulse(id)?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        session.pulse(id)? == silent,
        "domain {id} is paused, and its canary goes on"
    );
    says(session, &format!("xl unpause {id}"), 0, "")?;
    session.beats(id, 2).map(drop)
}

fn pause_and_dump(session: &mut Session) -> Result<()> {
    pause(session, CANARY)?;
    dumps(session, "2")?;
    session.beats(CANARY, 1).map(drop)
}

fn shutdown(session: &mut Session) -> Result<()> {
    session.beats(LINUX, 1)?;
    let command = format!("xl shutdown -w {LINUX}");
    says(session, &command, 0, "has been shut down")?;
    let state = state(session, LINUX)?;
    ensure!(state.contains('s'), "domain {LINUX} is {state} in xl list");
    dom0_goes_on(session)
}

/// dom0's balloon takes these MiB, so Linux says. Xen keeps them where they were,
/// blown or not: on Arm, dom0's memory is mapped one to one.
fn balloon(session: &mut Session, taken: u64) -> Result<()> {
    inflate(session, DOM0_MIB - taken)?;
    let mib = listed(session, 0)?.map(|(mib, _)| mib);
    ensure!(
        mib == Some(DOM0_MIB),
        "dom0 has a balloon, and {mib:?} MiB instead of {DOM0_MIB}"
    );
    dom0_goes_on(session)
}

/// Tells dom0's balloon how much memory to leave, and waits until Linux says
/// that it is so.
fn inflate(session: &mut Session, mib: u64) -> Result<()> {
    let balloon = "/sys/devices/system/xen_memory/xen_memory0";
    session
        .must(&format!(
            "echo {kib} >{balloon}/target_kb; n=0; until [ $(cat {balloon}/info/current_kb) -eq {kib} ]; do \
             n=$((n+1)); [ $n -lt 60 ] || {{ cat {balloon}/info/current_kb; false; break; }}; sleep 0.5; done",
            kib = mib << 10
        ))
        .map(drop)
}

/// xenstored and xenconsoled have pages of a domain that `xl` has created.
fn own_is_held(session: &mut Session) -> Result<()> {
    let blow = format!("vmfctl blow --yes {KEPT}");
    says(session, &blow, 1, "another domain has mapped")?;
    state_is(session, "open")
}

fn blow(session: &mut Session) -> Result<()> {
    experiment::blow(session, &[CANARY, OTHER_CANARY])?;
    state_is(session, "locked")
}

fn none_created(session: &mut Session) -> Result<()> {
    let before = says(session, "vmf-probe domains", 0, "domains=")?;
    configure(session, "late")?;
    says(
        session,
        "xl create /late.cfg",
        3,
        "domain creation fail: Cannot allocate memory",
    )?;
    let after = says(session, "vmf-probe domains", 0, "domains=")?;
    ensure!(before == after, "domains were {before}, and are {after}");
    dom0_goes_on(session)
}

fn pause_and_no_dump(session: &mut Session) -> Result<()> {
    pause(session, CANARY)?;
    let refused = "No VCPU context could be grabbed (1 = Operation not permitted)";
    says(session, "xl dump-core 2 /core", 1, refused)?;
    session.must("[ ! -s /core ]")?;
    // The positive: a domain that is not protected.
    dumps(session, KEPT)?;
    session.beats(CANARY, 1).map(drop)
}

fn leaked(session: &mut Session) -> Result<u64> {
    let status = status(session)?;
    let pages = status["counters"]["leaked_pages"].as_u64();
    pages.with_context(|| format!("no leaked_pages in {status}"))
}

/// A page of 4 KiB.
const PAGES_PER_MIB: u64 = 256;

/// Its memory goes out of use: it counts as leaked, and still holds what it held.
fn destroy_protected(session: &mut Session) -> Result<()> {
    told(session, OTHER_CANARY, "status", 1)?;
    let before = leaked(session)?;
    says(session, &format!("xl destroy {OTHER_CANARY}"), 0, "")?;
    ensure!(
        listed(session, OTHER_CANARY)?.is_none(),
        "domain {OTHER_CANARY} does not go"
    );
    let gone = leaked(session)? - before;
    // Beside its memory, tables and what Xen kept for them.
    let least = CANARY_MIB * PAGES_PER_MIB;
    ensure!(
        (least..least + 4 * PAGES_PER_MIB).contains(&gone),
        "{gone} pages leaked, the domain had {least}"
    );
    let moment = session.moment("destroyed", &[CANARY])?;
    let frames = pattern::frames(&moment, OTHER_SEED, PATTERN)?;
    ensure!(
        frames == PATTERN,
        "{frames} frames still hold the pattern, of {PATTERN}"
    );
    dom0_goes_on(session)
}

/// A domain that others have mapped stays, dying: these mappings cannot end.
fn destroy_own(session: &mut Session) -> Result<()> {
    let id = says(session, &format!("xl domid {KEPT}"), 0, "")?;
    let id: u16 = id
        .trim()
        .parse()
        .with_context(|| format!("xl domid: {id}"))?;
    let before = leaked(session)?;
    says(session, &format!("xl destroy {KEPT}"), 0, "")?;
    let state = state(session, id)?;
    ensure!(state.ends_with('d'), "domain {id} is {state} in xl list");
    let gone = leaked(session)? - before;
    ensure!(
        gone >= CANARY_MIB * PAGES_PER_MIB - PAGES_PER_MIB,
        "{gone} pages leaked, the domain had {CANARY_MIB} MiB"
    );
    dom0_goes_on(session)
}

fn others_go_on(session: &mut Session) -> Result<()> {
    session.beats(CANARY, 2)?;
    dom0_goes_on(session)
}

fn still_locked(session: &mut Session) -> Result<()> {
    state_is(session, "locked")?;
    let moment = session.moment("end", &[CANARY])?;
    audit::must_hold(&audit::check(&moment, Level::Lock)?)
}
