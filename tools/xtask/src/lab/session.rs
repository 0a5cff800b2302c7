//! One run: a machine that was booted, what was asked of it, what it answered.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use vmf_audit::registers::{Common, Share};

use super::audit;
use super::console::{Seen, Step};
use super::demux::Source;
use super::first::{Exits, First};
use super::gates::{Gates, Stopped};
use super::images::Images;
use super::initramfs::{BEGIN, END, READY};
use super::machine::Machine;
use super::profile::{Domain, Profile};
use super::report::Report;
use super::tlbi::{Counted, Marks};
use super::touch::{Places, Reached};

/// How long a command in dom0 may take unless it says otherwise.
pub const COMMAND: Duration = Duration::from_secs(120);
/// How long a heartbeat may be absent.
pub const HEARTBEAT: Duration = Duration::from_secs(120);
/// How long dom0 may take to its prompt.
pub const BOOT: Duration = Duration::from_secs(240);

/// How much of a step's name a line of progress shows.
const PROGRESS: usize = 64;

/// How long Xen is silent when a debug key's output is complete.
pub const SILENCE: Duration = Duration::from_millis(1500);
/// How long all visits to the gates may take.
const GATES: Duration = Duration::from_secs(120);

/// What a command in dom0 did.
#[derive(Clone, Debug)]
pub struct Output {
    /// What it wrote.
    pub text: String,
    /// Its exit code.
    pub code: i32,
}

impl Output {
    /// What it wrote, as one line for a message.
    pub fn line(&self) -> String {
        self.text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// What a domain's canary has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Number of heartbeats seen.
    pub beats: usize,
    /// The last heartbeat's number.
    pub last: u64,
    /// Every heartbeat said that the pattern held, and none shouted.
    pub pattern: bool,
}

/// A run in progress.
pub struct Session {
    machine: Machine,
    /// What is recorded.
    pub report: Report,
    /// What moments from now on claim to be shared on purpose by domains that
    /// they claim to be protected: at first, what the profile's tree shares.
    pub shared: Vec<Share>,
    /// What they claim that several domains have in common on purpose.
    pub common: Vec<Common>,
    has_dom0: bool,
    deadline: Instant,
    total: Duration,
    commands: u32,
    progress: bool,
}

impl Session {
    /// Boots `profile`. `progress`: print what is done.
    pub fn boot(images: &Images, profile: &Profile, lab: &Path, progress: bool) -> Result<Self> {
        let mut session = Self::load(images, profile, lab, progress)?;
        session.machine.go()?;
        Ok(session)
    }

    /// Boots `profile` up to the first instruction of any guest, where the
    /// machine is recorded as the moment `first`; then it runs on. `protected`
    /// are claimed to be so.
    pub fn boot_to_guest(
        images: &Images,
        profile: &Profile,
        lab: &Path,
        protected: &[u16],
    ) -> Result<(Self, First, Moment)> {
        let mut session = Self::load(images, profile, lab, false)?;
        let exits = Exits::find(&session.folder().join("xen-syms"))?;
        let (first, moment) = session.step("the first instruction of a guest", |session| {
            let deadline = session.deadline;
            session.recorded("first", protected, |machine, memory| {
                machine.record_first(&exits, deadline, memory)
            })
        })?;
        Ok((session, first, moment))
    }

    /// The same, up to the first instruction: that is not executed yet.
    pub fn load(images: &Images, profile: &Profile, lab: &Path, progress: bool) -> Result<Self> {
        profile.validate()?;
        let mut report = Report::new(lab, profile)?;
        let folder = report.folder().to_owned();
        let start = Instant::now();
        let total = profile.deadline();
        let deadline = start + total;
        let result = images
            .place(profile, &folder)
            .and_then(|loads| Machine::start(profile, &loads, &folder));
        report.step("start QEMU", start, &result)?;
        let machine = result.with_context(|| format!("run {}", folder.display()))?;
        let tree = std::fs::read_to_string(folder.join("system.dts")).context("system.dts")?;
        let has_dom0 = tree.contains("xen,dom0-bootargs");
        Ok(Self {
            machine,
            report,
            shared: shared_by_tree(profile),
            common: Vec::new(),
            has_dom0,
            deadline,
            total,
            commands: 0,
            progress,
        })
    }

    /// Lets a machine run that was only loaded, and counts the TLB maintenance
    /// between Xen's calls of `mark`, up to its last one; see [`super::tlbi`].
    pub fn count_tlbi(&mut self, mark: &str, last: u64) -> Result<Vec<Counted>> {
        self.step("count TLB maintenance", |session| {
            let marks = Marks::find(&session.folder().join("xen-syms"), mark, last)?;
            session.machine.count_tlbi(&marks)
        })
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        self.report.folder()
    }

    /// Does one step, timed and recorded, with progress.
    pub fn step<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = body(self);
        self.report.step(name, start, &result)?;
        if self.progress && result.is_ok() {
            let short: String = name.chars().take(PROGRESS).collect();
            let more = if short == name { "" } else { "..." };
            println!("  {:6.1}s  {short}{more}", start.elapsed().as_secs_f64());
        }
        result
    }

    fn limit(&self, name: &str, allowed: Duration) -> Step {
        let now = Instant::now();
        let end = now + allowed;
        if end <= self.deadline {
            return Step {
                name: name.to_owned(),
                deadline: end,
                allowed,
            };
        }
        Step {
            name: format!(
                "{name} (at the end of the run's {} s)",
                self.total.as_secs()
            ),
            deadline: self.deadline,
            allowed: self.deadline.saturating_duration_since(now),
        }
    }

    /// Waits until `found` finds what it looks for on the serial line.
    pub fn wait<T>(
        &self,
        name: &str,
        allowed: Duration,
        found: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<T> {
        self.machine.console.wait(&self.limit(name, allowed), found)
    }

    /// Waits until dom0 listens to commands.
    pub fn wait_dom0(&mut self) -> Result<()> {
        self.step("dom0 up", |session| {
            session.wait("dom0 up", BOOT, |seen| {
                listens(&seen.streams.dom0).then_some(())
            })
        })
    }

    /// Runs a shell command in dom0, to its end.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        self.run_within(command, COMMAND)
    }

    /// Runs a shell command in dom0, to its end, for a given time at most.
    pub fn run_within(&mut self, command: &str, allowed: Duration) -> Result<Output> {
        ensure!(
            !command.contains('\n') && command.len() < 3800,
            "dom0's terminal takes one line of 3800 characters: {command}"
        );
        self.step(&format!("dom0: {command}"), |session| {
            session.commands += 1;
            let number = session.commands;
            let limit = session.limit(&format!("dom0: {command}"), allowed);
            let start = session.look(|seen| seen.streams.dom0.len())?;
            let line = format!("{number} {command}");
            session.machine.console.type_to_dom0(&line, &limit)?;
            session
                .machine
                .console
                .wait(&limit, |seen| answer(&seen.streams.dom0[start..], number))
        })
    }

    /// Runs a command in dom0 that must succeed; returns what it wrote.
    pub fn must(&mut self, command: &str) -> Result<String> {
        let output = self.run(command)?;
        ensure!(
            output.code == 0,
            "dom0: {command}: exit code {}: {}",
            output.code,
            output.line()
        );
        Ok(output.text)
    }

    /// Looks at what the serial line has brought so far.
    pub fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> Result<T> {
        self.machine.console.look(look)
    }

    /// Turns the serial line's input to Xen (`None`) or to a domain.
    fn focus(&mut self, target: Option<u16>) -> Result<()> {
        let wanted = match target {
            None => "Xen".to_owned(),
            Some(id) => format!("DOM{id}"),
        };
        let rounds = self.report.profile.domains.len() + 2;
        for _ in 0..rounds {
            if self.next_focus(b"")? == wanted {
                return Ok(());
            }
        }
        bail!("Xen does not turn the serial input to {wanted}")
    }

    /// Sends `text` to whoever has the serial line's input and, with the same
    /// write, turns the input to the next; returns who that is.
    ///
    /// Xen prints what the domain in focus writes to its UART character by
    /// character, without a prefix (vpl011_write_data_xen), so nobody is to
    /// stay in focus for longer than that.
    fn next_focus(&mut self, text: &[u8]) -> Result<String> {
        let limit = self.limit("serial input to the next", COMMAND);
        let seen = |seen: &Seen| -> Vec<String> {
            let lines = seen.streams.lines.iter();
            lines
                .filter_map(|line| line.text.split_once("*** Serial input to "))
                .filter_map(|(_, rest)| focused(rest))
                .collect()
        };
        let before = self.look(seen)?.len();
        self.machine
            .console
            .send(&[text, b"\x01\x01\x01"].concat())?;
        self.machine
            .console
            .wait(&limit, |state| seen(state).get(before).cloned())
    }

    /// Presses one of Xen's debug keys, and returns all that Xen prints from
    /// then on until it has been silent for [`SILENCE`].
    pub fn debug_key(&mut self, key: char) -> Result<Vec<String>> {
        self.step(&format!("debug key {key}"), |session| {
            session.focus(None)?;
            let start = session.look(|seen| seen.streams.lines.len())?;
            session.machine.console.send(key.to_string().as_bytes())?;
            let lines = session.silence(start, &format!("debug key {key}"))?;
            session.focus(Some(0))?;
            Ok(lines)
        })
    }

    /// What Xen has said since line `start`.
    pub fn xen_lines(&self, start: usize) -> Result<Vec<String>> {
        self.look(|seen| {
            let lines = seen.streams.lines[start..].iter();
            let xen = lines.filter(|line| line.source == Source::Xen);
            xen.map(|line| line.text.clone()).collect()
        })
    }

    /// Waits until Xen, having said something since line `start`, is silent;
    /// returns what it has said.
    fn silence(&self, start: usize, name: &str) -> Result<Vec<String>> {
        self.wait(name, COMMAND, |seen| {
            let lines = &seen.streams.lines[start..];
            let xen = lines.iter().filter(|line| line.source == Source::Xen);
            let last = xen.clone().next_back()?;
            let texts = || xen.clone().map(|line| line.text.clone()).collect();
            (last.at.elapsed() >= SILENCE).then(texts)
        })
    }

    /// Types a line to a domU's virtual UART.
    pub fn type_to_domain(&mut self, id: u16, line: &str) -> Result<()> {
        self.step(&format!("d{id}: type {line}"), |session| {
            session.focus(Some(id))?;
            session.next_focus(format!("{line}\n").as_bytes())?;
            session.focus(session.has_dom0.then_some(0))
        })
    }

    /// Lines that a domU has written so far.
    pub fn domain_lines(&self, id: u16) -> Result<Vec<String>> {
        self.look(|seen| {
            seen.streams
                .lines
                .iter()
                .filter(|line| line.source == Source::Domain(id))
                .map(|line| line.text.clone())
                .collect()
        })
    }

    /// Waits until a domU has written a line that contains `text`; returns it.
    pub fn wait_domain(&mut self, id: u16, text: &str, allowed: Duration) -> Result<String> {
        let name = format!("d{id} says \"{text}\"");
        self.step(&name, |session| {
            session.wait(&name, allowed, |seen| {
                let mut lines = seen.streams.lines.iter();
                lines
                    .find(|line| line.source == Source::Domain(id) && line.text.contains(text))
                    .map(|line| line.text.clone())
            })
        })
    }

    /// Waits until a domU has written `count` lines in all that contain `text`.
    pub fn wait_lines(
        &mut self,
        id: u16,
        text: &str,
        count: usize,
        allowed: Duration,
    ) -> Result<()> {
        let name = format!("d{id} says \"{text}\" {count} times");
        self.step(&name, |session| {
            session.wait(&name, allowed, |seen| {
                let lines = seen.streams.lines.iter();
                let lines = lines.filter(|line| line.source == Source::Domain(id));
                let said = lines.filter(|line| line.text.contains(text)).count();
                (said >= count).then_some(())
            })
        })
    }

    /// Waits until Xen has written a line that contains `text`; returns it.
    pub fn wait_xen(&mut self, text: &str, allowed: Duration) -> Result<String> {
        let name = format!("Xen says \"{text}\"");
        self.step(&name, |session| {
            session.wait(&name, allowed, |seen| {
                let mut lines = seen.streams.lines.iter();
                lines
                    .find(|line| line.source == Source::Xen && line.text.contains(text))
                    .map(|line| line.text.clone())
            })
        })
    }

    /// What a domain's canary has said so far.
    pub fn pulse(&self, id: u16) -> Result<Pulse> {
        self.look(|seen| pulse_of(seen, id))
    }

    /// Waits for `count` more heartbeats of a domain, each with its pattern
    /// intact, and returns its pulse.
    pub fn beats(&mut self, id: u16, count: usize) -> Result<Pulse> {
        let pulses = self.beats_of(&[id], count)?;
        pulses.into_iter().next().context("one domain, one pulse")
    }

    /// The same of several domains at once, in their order.
    pub fn beats_of(&mut self, ids: &[u16], count: usize) -> Result<Vec<Pulse>> {
        ensure!(
            !ids.is_empty(),
            "no domain whose heartbeats could be awaited"
        );
        let who: Vec<String> = ids.iter().map(|id| format!("d{id}")).collect();
        let name = format!("{}: {count} more heartbeats", who.join(", "));
        let pulses =
            |seen: &Seen| -> Vec<Pulse> { ids.iter().map(|&id| pulse_of(seen, id)).collect() };
        let before = self.look(pulses)?;
        self.step(&name, |session| {
            let now = session.wait(&name, HEARTBEAT, |seen| {
                let now = pulses(seen);
                let broken = now.iter().any(|pulse| !pulse.pattern);
                let mut pairs = now.iter().zip(&before);
                let all = pairs.all(|(now, before)| now.beats >= before.beats + count);
                (broken || all).then_some(now)
            })?;
            for (who, pulse) in who.iter().zip(&now) {
                ensure!(pulse.pattern, "{who}: the canary's pattern is broken");
            }
            Ok(now)
        })
    }

    /// Records the machine as `memory-<name>.elf` and `registers-<name>.json`,
    /// with the claim that the domains `protected` are, and that
    /// [`shared`](Self::shared) is shared.
    pub fn moment(&mut self, name: &str, protected: &[u16]) -> Result<Moment> {
        self.step(&format!("moment {name}"), |session| {
            let take = |machine: &mut Machine, memory: &Path| Ok((machine.record(memory)?, ()));
            session
                .recorded(name, protected, take)
                .map(|((), moment)| moment)
        })
    }

    /// The same, taken by `take`, which returns the registers and what else it saw.
    fn recorded<T>(
        &mut self,
        name: &str,
        protected: &[u16],
        take: impl FnOnce(&mut Machine, &Path) -> Result<(Vec<Value>, T)>,
    ) -> Result<(T, Moment)> {
        let moment = super::audit::recorded(self.folder(), name);
        let (cpus, seen) = take(&mut self.machine, &moment.memory)?;
        let write = |domains: &Value| {
            let text = json!({ "cpus": cpus, "domains": domains, "common": self.common });
            let text = serde_json::to_string_pretty(&text).context("registers")?;
            std::fs::write(&moment.registers, text)
                .with_context(|| format!("{}: cannot write", moment.registers.display()))
        };
        // Xen's list of domains is read out of the dump, which needs the registers.
        write(&json!([]))?;
        let domains = audit::domains(&moment, protected, &self.shared)?;
        write(&json!(domains))?;
        Ok((seen, moment))
    }

    /// For each CPU, which of `addresses` a load at EL2 reaches, TLB included.
    pub fn touch(&mut self, addresses: &[u64]) -> Result<Vec<Vec<bool>>> {
        self.step("load at EL2 on every CPU", |session| {
            let places = Places::find(&session.folder().join("xen-syms"))?;
            let limit = session.limit("load at EL2 on every CPU", COMMAND);
            session.focus(None)?;
            let start = session.look(|seen| seen.streams.lines.len())?;
            let reached = session.machine.touch(&places, addresses, limit.deadline)?;
            session.silence(start, "after the loads")?;
            session.focus(Some(0))?;
            Ok(reached)
        })
    }

    /// Runs a command that locks, with loads from `addresses` on every CPU right
    /// before the lock's first write and right after its last; see
    /// [`super::touch::Watch`].
    /// Returns the output, and what was reached before and after.
    pub fn run_touched(
        &mut self,
        command: &str,
        allowed: Duration,
        addresses: &[u64],
    ) -> Result<(Output, Reached, Reached)> {
        let places = Places::find(&self.folder().join("xen-syms"))?;
        let watch = self.machine.watch(places)?;
        std::thread::scope(|scope| {
            let touched = scope.spawn(|| watch.touch(addresses));
            let output = self.run_within(command, allowed)?;
            let touched = touched.join().map_err(|_| anyhow!("the watch panicked"))?;
            let (before, after) = touched.context("all CPUs, in the lock")?;
            Ok((output, before, after))
        })
    }

    /// Sends a CPU through the gates of VTTBR_EL2 and HCR_EL2, see
    /// [`super::gates`]; `visit` also gets the time at which it must be done.
    pub fn gates<T>(
        &mut self,
        visit: impl FnOnce(&mut Stopped<'_>, Instant) -> Result<T>,
    ) -> Result<T> {
        self.step("enter the gates", |session| {
            let gates = Gates::find(&session.folder().join("xen-syms"))?;
            let limit = session.limit("entering the gates", GATES);
            session.focus(None)?;
            let start = session.look(|seen| seen.streams.lines.len())?;
            let result = session
                .machine
                .gates(&gates, |stopped| visit(stopped, limit.deadline))?;
            session.silence(start, "after the gates")?;
            session.focus(Some(0))?;
            Ok(result)
        })
    }

    /// Makes Xen jump to `pc` on a CPU that is in EL2. An idle machine has one;
    /// it is looked for until a command's time is over.
    pub fn derail(&mut self, pc: u64) -> Result<()> {
        self.step(&format!("derail Xen to {pc:#x}"), |session| {
            let limit = session.limit("a CPU in EL2", COMMAND);
            while Instant::now() < limit.deadline {
                if session.machine.derail(pc)? {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            bail!("no CPU was found in EL2 within {COMMAND:?}")
        })
    }

    /// From now on a crash report is what the test wants.
    pub fn expect_crash(&mut self) {
        self.machine.console.expect_crash();
    }

    /// Reads a register of a device, as the bus has it.
    pub fn device_word(&mut self, address: u64) -> Result<u32> {
        self.machine.device_word(address)
    }

    /// Waits until the machine has switched itself off.
    pub fn ended(&mut self, allowed: Duration) -> Result<()> {
        self.step("the machine's end", |session| {
            session.machine.ended(allowed)
        })
    }

    /// Ends the run.
    pub fn finish(self) -> Result<Report> {
        self.machine.quit()?;
        Ok(self.report)
    }
}

/// The files of one moment.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Its name.
    pub name: String,
    /// QEMU's dump of physical memory.
    pub memory: std::path::PathBuf,
    /// EL2 registers and domains.
    pub registers: std::path::PathBuf,
    /// Xen's symbols.
    pub syms: std::path::PathBuf,
}

/// Whether dom0 has said that it listens, to the end of the line: what is typed
/// earlier, the terminal may echo around that end.
fn listens(dom0: &str) -> bool {
    dom0.split_once(READY)
        .is_some_and(|(_, rest)| rest.contains('\n'))
}

/// Finds a command's output between its marks.
fn answer(dom0: &str, number: u32) -> Option<Output> {
    let begin = format!("{BEGIN} {number}\n");
    let rest = &dom0[dom0.find(&begin)? + begin.len()..];
    let end = format!("{END} {number} ");
    let at = rest.find(&end)?;
    let code = rest[at + end.len()..].split_once('\n')?.0;
    Some(Output {
        text: rest[..at].to_owned(),
        code: code.trim().parse().ok()?,
    })
}

/// A canary's pulse so far.
fn pulse_of(seen: &Seen, id: u16) -> Pulse {
    let lines = seen.streams.lines.iter();
    let lines = lines.filter(|line| line.source == Source::Domain(id));
    pulse(lines.map(|line| line.text.as_str()))
}

/// Sums a canary's lines up: `canary: heartbeat N pattern ok` or `BROKEN`,
/// `canary: FAIL ...`, and the same of `canary-linux`. A line that says neither is
/// no evidence: a control domain can read Xen's console ring, and write a part of
/// it back to the console.
fn pulse<'a>(lines: impl Iterator<Item = &'a str>) -> Pulse {
    let mut pulse = Pulse {
        pattern: true,
        ..Pulse::default()
    };
    for line in lines {
        if line.contains("canary: FAIL") || line.contains("canary-linux: FAIL") {
            pulse.pattern = false;
        }
        let Some((_, rest)) = line
            .split_once("canary: heartbeat ")
            .or_else(|| line.split_once("canary-linux: heartbeat "))
        else {
            continue;
        };
        let mut words = rest.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        match words.collect::<Vec<_>>().join(" ").as_str() {
            "pattern ok" => {
                pulse.beats += 1;
                pulse.last = number;
            }
            broken if broken.starts_with("pattern BROKEN") => pulse.pattern = false,
            _ => {}
        }
    }
    pulse
}

/// Whom Xen names as the one that has the input. A domain that had it before
/// may have written a character behind the name.
fn focused(text: &str) -> Option<String> {
    if text.starts_with("Xen") {
        return Some("Xen".to_owned());
    }
    let rest = text.strip_prefix("DOM")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    (digits != 0).then(|| format!("DOM{}", &rest[..digits]))
}

/// The pages that a profile's device tree has its domains share.
fn shared_by_tree(profile: &Profile) -> Vec<Share> {
    let of_domain = |(id, domain): (u16, &Domain)| -> Vec<_> {
        let ranges = domain.share.iter();
        ranges.map(|&range| audit::share(id, range)).collect()
    };
    (1..).zip(&profile.domains).flat_map(of_domain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_input() {
        assert_eq!(focused("Xen (type 'CTRL-a'").as_deref(), Some("Xen"));
        assert_eq!(focused("DOM3h (type").as_deref(), Some("DOM3"));
        assert_eq!(focused("DOMh"), None);
    }

    #[test]
    fn dom0_listens_when_it_has_said_so() {
        assert!(!listens("lab: dom0 list"));
        assert!(!listens("a\nlab: dom0 listens"));
        assert!(listens("a\nlab: dom0 listens\n"));
    }

    #[test]
    fn output_is_what_stands_between_the_marks() {
        let text = "3 echo a; false\nlab: begin 3\na\nlab: end 3 1\nlab: begin 4\n";
        let output = answer(text, 3).unwrap();
        assert_eq!((output.text.as_str(), output.code), ("a\n", 1));
        assert!(answer(text, 4).is_none());
        assert!(answer("lab: begin 3\nab lab: end 3 1", 3).is_none());
        let output = answer("lab: begin 3\nno newlinelab: end 3 0\n", 3).unwrap();
        assert_eq!(output.text, "no newline");
    }

    #[test]
    fn pulse_counts_and_judges() {
        let good = [
            "x",
            "canary: heartbeat 1 pattern ok",
            "canary: heartbeat 2 pattern ok",
        ];
        assert_eq!(
            pulse(good.into_iter()),
            Pulse {
                beats: 2,
                last: 2,
                pattern: true
            }
        );
        assert!(!pulse(["canary: heartbeat 3 pattern BROKEN"].into_iter()).pattern);
        let mixed = pulse(["canary: heartbeat 3 pattern okfuzz was here"].into_iter());
        assert!(mixed.pattern && mixed.beats == 0);
        assert!(!pulse(["canary: FAIL at 0x40"].into_iter()).pattern);
        assert!(!pulse(["canary-linux: FAIL at 0x7f"].into_iter()).pattern);
        assert_eq!(
            pulse(["canary-linux: heartbeat 7 pattern ok"].into_iter()).last,
            7
        );
        // A line cut in two by a change of the console's focus is no evidence.
        assert_eq!(
            pulse(["canary: heart", "beat 4 pattern ok"].into_iter()).beats,
            0
        );
    }
}
