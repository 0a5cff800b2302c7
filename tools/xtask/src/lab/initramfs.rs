//! Ramdisks: cpio archives (newc) made here, so that no mount, no root and no
//! cpio program is needed.
//!
//! dom0's first process reads commands from Xen's console and answers between
//! marks; a Linux domU's runs the canary and reads single words from its
//! virtual UART.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

/// What dom0's first process prints when it listens.
pub const READY: &str = "lab: dom0 listens";
/// Opens a command's output, before its number.
pub const BEGIN: &str = "lab: begin";
/// Closes a command's output, before its number and exit code.
pub const END: &str = "lab: end";

/// dom0's /init. The shell only reads lines, so the terminal's own echo tells
/// the lab which characters have arrived (Xen's input ring holds 128).
const DOM0_INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /tmp /run
for module in /modules/*.ko; do insmod "$module" || echo "lab: $module: cannot load"; done
[ -x /bin/toolstack ] && PATH=$PATH:/usr/lib/xen-4.20/bin:/usr/sbin:/usr/bin
mkdir -p /proc/xen && mount -t xenfs xenfs /proc/xen
stty 115200 icanon echo -echoctl 2>/dev/null
dmesg -n 1
echo "lab: dom0 listens"
while read -r number command; do
    echo "lab: begin $number"
    ( eval "$command" ) </dev/null 2>&1
    echo "lab: end $number $?"
done
echo "lab: dom0's console is gone"
sleep 1000000
"#;

/// Starts Xen's own tools in dom0, as a distribution's boot scripts do: the
/// store, dom0's entry in it, those of the domains that Xen has built, consoles.
const TOOLSTACK: &str = r#"#!/bin/busybox sh
set -e
mkdir -p /run/lock /run/xen /var/lib/xen /var/log/xen /etc/xen /dev/pts
ln -s /run /var/run
ln -s /run/lock /var/lock
mount -t devpts devpts /dev/pts
oxenstored --pid-file /run/xen/xenstored.pid
xen-init-dom0
init-dom0less
xenconsoled --pid-file=/run/xen/xenconsoled.pid
"#;

/// A Linux domU's /init.
const DOMU_INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
stty -echo 2>/dev/null
dmesg -n 1
# What the kernel starts when a toolstack asks for it.
mkdir /sbin
for word in poweroff reboot; do
    printf '#!/bin/sh\nexec /bin/%s -f\n' $word >/sbin/$word
    chmod +x /sbin/$word
done
seed=1 mib=16
for word in $(cat /proc/cmdline); do
    case "$word" in
        seed=*) seed=${word#seed=} ;;
        mib=*) mib=${word#mib=} ;;
    esac
done
/bin/canary-linux --seed $((seed)) $mib </dev/null &
while read -r word; do
    case "$word" in
        reboot) echo "lab: reboots"; reboot -f ;;
        poweroff) echo "lab: powers off"; poweroff -f ;;
        *) echo "lab: what is $word?" ;;
    esac
done
sleep 1000000
"#;

/// A hostile domU's /init: for ever, what Linux lets a domU without xenstore
/// ask of Xen to get at a page of somebody else's, and after each round a line
/// with what succeeded. `granter=` names a domain that grants it a page.
const HOSTILE_INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /tmp
stty -echo 2>/dev/null
dmesg -n 1
for module in /modules/*.ko; do timeout 10 insmod "$module" || echo "hostile: $module: cannot load"; done
echo "hostile: starts"
for word in $(cat /proc/cmdline); do
    case "$word" in granter=*) granter=${word#granter=} ;; esac
done
n=0
while :; do
    n=$((n+1)); got=""
    while read -r attempt; do
        set -- $attempt
        timeout 5 vmf-probe "$@" >/tmp/answer 2>&1 </dev/null && got="$got $1:$2"
    done <<ATTEMPTS
gnttab-copy $granter 8
grant-map $granter 8
ATTEMPTS
    echo "hostile: round $n got$got end"
done
"#;

/// Kernel modules of dom0, in the order in which they are loaded.
const MODULES: [&str; 5] = [
    "kernel/drivers/xen/xen-privcmd.ko",
    "kernel/drivers/xen/xenfs/xenfs.ko",
    "kernel/drivers/xen/xen-evtchn.ko",
    "kernel/drivers/xen/xen-gntdev.ko",
    "kernel/drivers/xen/xen-gntalloc.ko",
];

/// An archive under construction.
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inodes: 0,
        }
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, ModeFileType::Directory, 0o755, &[])
    }

    /// Adds an executable file.
    pub fn program(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        self.entry(name, ModeFileType::Regular, 0o755, contents)
    }

    /// Adds an executable file with what `path` contains.
    pub fn copy(&mut self, name: &str, path: &Path) -> Result<()> {
        let contents =
            std::fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
        self.program(name, &contents)
    }

    fn entry(&mut self, name: &str, kind: ModeFileType, mode: u32, data: &[u8]) -> Result<()> {
        self.inodes += 1;
        let size = u32::try_from(data.len()).with_context(|| format!("{name}: too large"))?;
        let mut writer = Builder::new(name)
            .ino(self.inodes)
            .nlink(1)
            .mode(mode)
            .set_mode_file_type(kind)
            .write(&mut self.bytes, size);
        writer.write_all(data).context("cpio")?;
        writer.finish().context("cpio")?;
        Ok(())
    }

    /// Closes the archive.
    pub fn finish(self) -> Result<Vec<u8>> {
        trailer(self.bytes).context("cpio")
    }
}

/// A file that some dom0 has beside what all have.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Its path there, without the slash at the front.
    pub name: String,
    /// Where it is on the host.
    pub path: PathBuf,
}

/// dom0's ramdisk: busybox, Xen's modules, these programs in /bin, and what an
/// attacker knows of Xen in /xen-symbols.
pub fn dom0(
    busybox: &Path,
    modules: &Path,
    programs: &[(&str, &Path)],
    symbols: Option<&str>,
) -> Result<Vec<u8>> {
    dom0_archive(busybox, modules, programs, symbols)?.finish()
}

/// The same with Xen's own tools, and guests that `xl` can start.
pub fn dom0_with_tools(
    busybox: &Path,
    modules: &Path,
    programs: &[(&str, &Path)],
    extras: &[Extra],
) -> Result<Vec<u8>> {
    let mut archive = dom0_archive(busybox, modules, programs, None)?;
    archive.program("bin/toolstack", TOOLSTACK.as_bytes())?;
    let folders: BTreeSet<&str> = extras
        .iter()
        .flat_map(|extra| Path::new(&extra.name).ancestors().skip(1))
        .filter_map(Path::to_str)
        .filter(|folder| !folder.is_empty())
        .collect();
    for folder in folders {
        archive.directory(folder)?;
    }
    for extra in extras {
        archive.copy(&extra.name, &extra.path)?;
    }
    archive.finish()
}

fn dom0_archive(
    busybox: &Path,
    modules: &Path,
    programs: &[(&str, &Path)],
    symbols: Option<&str>,
) -> Result<Archive> {
    let mut archive = skeleton(busybox, DOM0_INIT)?;
    add_modules(&mut archive, modules)?;
    for (name, path) in programs {
        archive.copy(&format!("bin/{name}"), path)?;
    }
    if let Some(symbols) = symbols {
        archive.program("xen-symbols", symbols.as_bytes())?;
    }
    Ok(archive)
}

/// A hostile domU's ramdisk: busybox, Xen's modules, these programs in /bin.
pub fn hostile(busybox: &Path, modules: &Path, programs: &[(&str, &Path)]) -> Result<Vec<u8>> {
    let mut archive = skeleton(busybox, HOSTILE_INIT)?;
    add_modules(&mut archive, modules)?;
    for (name, path) in programs {
        archive.copy(&format!("bin/{name}"), path)?;
    }
    archive.finish()
}

fn add_modules(archive: &mut Archive, modules: &Path) -> Result<()> {
    archive.directory("modules")?;
    for (index, module) in MODULES.iter().enumerate() {
        let file = module.rsplit('/').next().unwrap_or(module);
        archive.copy(&format!("modules/{index}-{file}"), &modules.join(module))?;
    }
    Ok(())
}

/// A Linux domU's ramdisk: busybox and the canary.
pub fn domu(busybox: &Path, canary: &Path) -> Result<Vec<u8>> {
    let mut archive = skeleton(busybox, DOMU_INIT)?;
    archive.copy("bin/canary-linux", canary)?;
    archive.finish()
}

fn skeleton(busybox: &Path, init: &str) -> Result<Archive> {
    let mut archive = Archive::new();
    for name in ["bin", "dev", "proc", "sys"] {
        archive.directory(name)?;
    }
    archive.copy("bin/busybox", busybox)?;
    archive.program("init", init.as_bytes())?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Read};

    #[test]
    fn what_goes_in_comes_out() {
        let mut archive = Archive::new();
        archive.directory("bin").unwrap();
        archive.program("init", b"#!/bin/sh\n").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(bytes.len() % 4, 0);

        let mut entry = cpio::newc::Reader::new(Cursor::new(bytes)).unwrap();
        assert_eq!(entry.entry().name(), "bin");
        assert_eq!(entry.entry().mode(), 0o040_755);
        let rest = entry.finish().unwrap();
        entry = cpio::newc::Reader::new(rest).unwrap();
        assert_eq!(entry.entry().name(), "init");
        assert_eq!(entry.entry().mode(), 0o100_755);
        let mut contents = String::new();
        entry.read_to_string(&mut contents).unwrap();
        assert_eq!(contents, "#!/bin/sh\n");
        let rest = entry.finish().unwrap();
        let end = cpio::newc::Reader::new(rest).unwrap();
        assert!(end.entry().is_trailer());
    }

    #[test]
    fn marks_of_init_are_those_awaited() {
        for mark in [READY, BEGIN, END] {
            assert!(DOM0_INIT.contains(&format!("echo \"{mark}")));
        }
    }
}
