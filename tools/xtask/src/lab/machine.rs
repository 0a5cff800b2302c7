//! The machine: a QEMU process, its serial line, its control sockets.
//!
//! It is killed by its process id when the run ends, however that happens:
//! by `Drop` here, and by the kernel (`setpriv --pdeathsig`) if this program
//! is killed.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::console::Console;
use super::demux::Source;
use super::first::{self, Exits, First};
use super::gates::{Gates, Stopped};
use super::gdb::{CPSR, Gdb, PC};
use super::layout;
use super::profile::Profile;
use super::qmp::Qmp;
use super::tlbi::{Counted, Marks, count};
use super::touch::{Places, Watch, touch};

/// The EL2 registers that a moment records, by architectural name.
pub const REGISTERS: [&str; 8] = [
    "TTBR0_EL2",
    "TCR_EL2",
    "SCTLR_EL2",
    "MAIR_EL2",
    "VTTBR_EL2",
    "VTCR_EL2",
    "HCR_EL2",
    "VBAR_EL2",
];

/// How long QEMU may take to answer. A dump of 8 GiB fits in.
const ANSWER: Duration = Duration::from_secs(120);
/// How long QEMU may take to come up.
const START: Duration = Duration::from_secs(20);

/// A file at its place in RAM.
pub struct Load {
    /// The file.
    pub path: PathBuf,
    /// Physical address.
    pub address: u64,
}

/// A running QEMU.
pub struct Machine {
    child: Child,
    sockets: PathBuf,
    qmp: Qmp,
    /// The serial line.
    pub console: Console,
    cpus: u32,
}

/// QEMU's arguments that decide which machine it is, with this many CPUs.
pub fn machine_arguments(profile: &Profile, cpus: u32) -> Vec<String> {
    let mut words: Vec<String> = ["-nodefaults", "-display", "none", "-machine"]
        .map(str::to_owned)
        .to_vec();
    words.push(format!(
        "virt,gic-version={},virtualization=on,its={}",
        profile.gic,
        // Redistributors that can do LPIs are worth an attack without it, too.
        if profile.xen.its || profile.xen.attack {
            "on"
        } else {
            "off"
        }
    ));
    words.extend(["-nic", "none", "-cpu"].map(str::to_owned));
    words.push(profile.cpu.to_string());
    words.extend(["-smp".to_owned(), cpus.to_string()]);
    words.extend(["-m".to_owned(), format!("{}M", profile.ram_mib())]);
    // Without sleep, as an idle CPU's time would else go on with the host's.
    if let Some(shift) = profile.icount {
        words.extend(["-icount".to_owned(), format!("shift={shift},sleep=off")]);
    }
    words
}

impl Machine {
    /// Starts QEMU with CPU 0 at the boot stub, where it stands still until
    /// [`Machine::go`]. The serial line is read from the first byte on.
    pub fn start(profile: &Profile, loads: &[Load], folder: &Path) -> Result<Self> {
        let sockets = socket_folder()?;
        let mut words = machine_arguments(profile, profile.cpus + profile.hidden_cpus);
        for load in loads {
            words.push("-device".to_owned());
            words.push(format!(
                "loader,file={},addr={:#x},force-raw=on",
                load.path.display(),
                load.address
            ));
        }
        words.push("-device".to_owned());
        words.push(format!("loader,addr={:#x},cpu-num=0", layout::STUB));
        for (option, name) in [("-serial", "serial"), ("-qmp", "qmp"), ("-gdb", "gdb")] {
            words.push(option.to_owned());
            words.push(format!(
                "unix:{}/{name},server=on,wait=off",
                sockets.display()
            ));
        }
        // Stopped until the serial line is connected; a reset ends the run.
        words.extend(["-S", "-no-reboot"].map(str::to_owned));

        let errors = folder.join("qemu.log");
        let log = File::create(&errors)
            .with_context(|| format!("{}: cannot create", errors.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-aarch64"])
            .args(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start qemu-system-aarch64 (through setpriv, of util-linux)")?;
        let mut starting = Starting { child: Some(child) };
        let qmp = Qmp::new(connect(&mut starting, &sockets, "qmp", &errors)?, ANSWER)?;
        let serial = connect(&mut starting, &sockets, "serial", &errors)?;
        let console = Console::new(serial, &folder.join("serial.log"))?;
        let child = starting.child.take().context("QEMU is gone")?;
        Ok(Self {
            child,
            sockets,
            qmp,
            console,
            cpus: profile.cpus,
        })
    }

    /// Lets it run.
    pub fn go(&mut self) -> Result<()> {
        self.qmp.cont()
    }

    /// Lets the CPUs run, and counts TLB maintenance until the last mark; see
    /// [`super::tlbi`].
    pub fn count_tlbi(&mut self, marks: &Marks) -> Result<Vec<Counted>> {
        let socket = UnixStream::connect(self.sockets.join("gdb")).context("GDB stub")?;
        let mut gdb = Gdb::new(socket, ANSWER)?;
        let counted = count(&mut gdb, marks)?;
        gdb.detach()?;
        self.qmp.cont()?;
        Ok(counted)
    }

    /// Lets it run up to the first instruction of any guest, records it there as
    /// [`Machine::record`] does, and lets it run on.
    pub fn record_first(
        &mut self,
        exits: &Exits,
        deadline: Instant,
        memory: &Path,
    ) -> Result<(Vec<Value>, First)> {
        let socket = UnixStream::connect(self.sockets.join("gdb")).context("GDB stub")?;
        let mut gdb = Gdb::new(socket, ANSWER)?;
        let mut first = first::stop(&mut gdb, exits, self.cpus, deadline)?;
        self.qmp.dump_memory(memory)?;
        let registers = registers(&mut gdb, self.cpus)?;
        first.heard = self.console.look(|seen| {
            let mut lines = seen.streams.lines.iter();
            let of_domain = lines.find(|line| line.source != Source::Xen);
            of_domain.map(|line| line.text.clone())
        })?;
        gdb.detach()?;
        self.qmp.cont()?;
        Ok((registers, first))
    }

    /// Records the machine at this instant: all memory to `memory`, and the
    /// EL2 registers of every CPU, which are returned. No CPU runs meanwhile.
    pub fn record(&mut self, memory: &Path) -> Result<Vec<Value>> {
        self.qmp.stop()?;
        self.qmp.dump_memory(memory)?;
        let registers = self.registers()?;
        self.qmp.cont()?;
        Ok(registers)
    }

    fn registers(&self) -> Result<Vec<Value>> {
        let socket = UnixStream::connect(self.sockets.join("gdb")).context("GDB stub")?;
        let mut gdb = Gdb::new(socket, ANSWER)?;
        let cpus = registers(&mut gdb, self.cpus)?;
        gdb.detach()?;
        Ok(cpus)
    }

    /// Gives one CPU that is in EL2 this program counter; false if none is.
    pub fn derail(&mut self, pc: u64) -> Result<bool> {
        /// CPSR.M[3:0] of EL2 with its own stack pointer.
        const EL2H: u64 = 0b1001;
        self.qmp.stop()?;
        let socket = UnixStream::connect(self.sockets.join("gdb")).context("GDB stub")?;
        let mut gdb = Gdb::new(socket, ANSWER)?;
        let mut done = false;
        for cpu in 0..self.cpus {
            if gdb.get(cpu, CPSR)? & 0xf == EL2H {
                gdb.set(cpu, PC, pc)?;
                done = true;
                break;
            }
        }
        gdb.detach()?;
        self.qmp.cont()?;
        Ok(done)
    }

    /// For each CPU, which of `addresses` Xen can reach: see [`super::touch`].
    /// The serial line's input must be turned to Xen: its debug key `d` makes
    /// every CPU take an interrupt.
    pub fn touch(
        &mut self,
        places: &Places,
        addresses: &[u64],
        deadline: Instant,
    ) -> Result<Vec<Vec<bool>>> {
        self.qmp.stop()?;
        let socket = UnixStream::connect(self.sockets.join("gdb")).context("GDB stub")?;
        let mut gdb = Gdb::new(socket, ANSWER)?;
        let console = &mut self.console;
        let wake = || console.send(b"d");
        let reached = touch(&mut gdb, places, self.cpus, addresses, deadline, wake)?;
        gdb.detach()?;
        self.qmp.cont()?;
        Ok(reached)
    }

    /// Has the machine stop in its next lock; see [`Watch`].
    pub fn watch(&mut self, places: Places) -> Result<Watch> {
        self.qmp.stop()?;
        let socket = UnixStream::connect(self.sockets.join("gdb")).context("GDB stub")?;
        Watch::new(Gdb::new(socket, ANSWER)?, self.cpus, places)
    }

    /// Stops a CPU at EL2 and has `visit` send it through the gates; see
    /// [`super::gates`]. The serial line's input must be turned to Xen.
    pub fn gates<T>(
        &mut self,
        gates: &Gates,
        visit: impl FnOnce(&mut Stopped<'_>) -> Result<T>,
    ) -> Result<T> {
        self.qmp.stop()?;
        let socket = UnixStream::connect(self.sockets.join("gdb")).context("GDB stub")?;
        let mut gdb = Gdb::new(socket, ANSWER)?;
        let console = &mut self.console;
        let mut stopped = Stopped::stop(&mut gdb, gates, || console.send(b"d"))?;
        let result = visit(&mut stopped);
        stopped.go()?;
        gdb.detach()?;
        self.qmp.cont()?;
        result
    }

    /// Reads a register of a device, as the bus has it.
    pub fn device_word(&mut self, address: u64) -> Result<u32> {
        let command = format!("xp /1xw {address:#x}");
        let answer = self.qmp.execute(
            "human-monitor-command",
            serde_json::json!({ "command-line": command }),
        )?;
        let text = answer.as_str().unwrap_or_default();
        let word = text.trim().rsplit("0x").next().unwrap_or_default();
        u32::from_str_radix(word, 16).with_context(|| format!("{command}: {text}"))
    }

    /// Waits until QEMU ends.
    pub fn ended(&mut self, allowed: Duration) -> Result<()> {
        let deadline = Instant::now() + allowed;
        while Instant::now() < deadline {
            if self.child.try_wait().context("QEMU")?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("QEMU has not ended within {allowed:?}")
    }

    /// Ends QEMU in an orderly way, if it has not ended by itself.
    pub fn quit(mut self) -> Result<()> {
        if self.child.try_wait().context("QEMU")?.is_none() {
            self.qmp.quit()?;
        }
        self.ended(START).context("QEMU is killed")
    }
}

/// The EL2 registers of every CPU.
fn registers(gdb: &mut Gdb, cpus: u32) -> Result<Vec<Value>> {
    let of_cpu = |cpu| {
        let mut values = Map::new();
        for name in REGISTERS {
            let value = gdb.read(cpu, name)?;
            values.insert(name.to_owned(), json!(format!("{value:#x}")));
        }
        Ok(Value::Object(values))
    };
    (0..cpus).map(of_cpu).collect()
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill(&mut self.child);
        let _ = std::fs::remove_dir_all(&self.sockets);
    }
}

/// Kills QEMU if coming up fails half way.
struct Starting {
    child: Option<Child>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            kill(child);
        }
    }
}

fn kill(child: &mut Child) {
    // It may have ended by itself; either way it is reaped.
    let _ = child.kill();
    let _ = child.wait();
}

/// A Unix socket's path holds 107 bytes, so they are not in the run's folder.
fn socket_folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("vmf-lab-{}-{number}", std::process::id()));
    std::fs::create_dir(&path).with_context(|| format!("{}: cannot create", path.display()))?;
    Ok(path)
}

fn connect(
    starting: &mut Starting,
    sockets: &Path,
    name: &str,
    errors: &Path,
) -> Result<UnixStream> {
    let deadline = Instant::now() + START;
    loop {
        if let Ok(socket) = UnixStream::connect(sockets.join(name)) {
            return Ok(socket);
        }
        let child = starting.child.as_mut().context("QEMU is gone")?;
        if child.try_wait().context("QEMU")?.is_some() {
            let text = std::fs::read_to_string(errors).unwrap_or_default();
            bail!("QEMU did not start: {}", text.trim());
        }
        if Instant::now() >= deadline {
            bail!("QEMU did not open its {name} socket within {START:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
