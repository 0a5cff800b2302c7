//! Device trees: templates of `dts/`, filled in, laid over QEMU's own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::layout::{Placed, cells};
use super::profile::{Bank, Domain, Profile};

/// Words of a template and what they stand for.
pub type Words = BTreeMap<&'static str, String>;

/// Replaces each `@word@` of a template. A word that is not known, and one that
/// the template does not use, are errors: both are slips.
pub fn fill(template: &str, words: &Words) -> Result<String> {
    let mut out = String::with_capacity(template.len());
    let mut used = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find('@') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        match tail.split_once('@') {
            Some((word, after)) if is_word(word) => {
                let Some(text) = words.get(word) else {
                    bail!("the template asks for @{word}@, which the lab does not know");
                };
                out.push_str(text);
                used.push(word);
                rest = after;
            }
            _ => {
                out.push('@');
                rest = tail;
            }
        }
    }
    out.push_str(rest);
    for word in words.keys() {
        ensure!(used.contains(word), "the template does not use @{word}@");
    }
    Ok(out)
}

/// Words start with a letter; a unit address (`pl011@9000000`) does not.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Memory nodes for these banks.
pub fn memory_nodes(banks: &[Bank]) -> String {
    let mut out = String::new();
    for bank in banks {
        let reg = format!("{} {}", cells(bank.start), cells(bank.size()));
        let _ = write!(
            out,
            "\tmemory@{:x} {{\n\t\tdevice_type = \"memory\";\n\t\treg = <{reg}>;\n\t}};\n",
            bank.start
        );
    }
    out
}

/// Where the files of one domain lie.
#[derive(Clone, Copy, Debug)]
pub struct DomainFiles {
    /// The kernel, or the bare-metal image.
    pub kernel: Placed,
    /// The ramdisk, for Linux.
    pub ramdisk: Option<Placed>,
    /// The device tree of devices that it gets.
    pub devices: Option<Placed>,
}

/// The node of one domain.
pub fn domain_node(
    template: &str,
    name: &str,
    domain: &Domain,
    files: &DomainFiles,
) -> Result<String> {
    let mut properties = Vec::new();
    if domain.enhanced {
        let value = if domain.xenstore {
            "xen,enhanced;"
        } else {
            "xen,enhanced = \"no-xenstore\";"
        };
        properties.push(value.to_owned());
    }
    if domain.unprotected {
        properties.push("vmf-unprotected;".to_owned());
    }
    if !domain.share.is_empty() {
        let numbers = domain.share.iter().flatten();
        let list: Vec<String> = numbers.map(|&number| cells(number)).collect();
        properties.push(format!("vmf-share = <{}>;", list.join(" ")));
    }
    // Nodes come after properties.
    if let Some(devices) = files.devices {
        properties.push(format!(
            "module@{} {{ compatible = \"multiboot,device-tree\", \"multiboot,module\"; reg = <{}>; }};",
            devices.unit_address(),
            devices.cells()
        ));
    }
    let mut words = Words::from([
        ("name", name.to_owned()),
        ("memory-kib", format!("{:#x}", domain.mib * 1024)),
        ("vcpus", domain.vcpus.to_string()),
        ("properties", properties.join(" ")),
        ("arguments", domain.arguments.clone()),
        ("kernel", files.kernel.unit_address()),
        ("kernel-reg", files.kernel.cells()),
    ]);
    if let Some(ramdisk) = &files.ramdisk {
        words.insert("ramdisk", ramdisk.unit_address());
        words.insert("ramdisk-reg", ramdisk.cells());
    }
    fill(template, &words)
}

/// The whole system: what is laid over QEMU's device tree.
pub fn system(
    template: &str,
    profile: &Profile,
    dom0: &DomainFiles,
    dom0_arguments: &str,
    domains: &str,
) -> Result<String> {
    let ramdisk = dom0.ramdisk.context("dom0 needs a ramdisk")?;
    let mut words = Words::from([
        ("memory", memory_nodes(&profile.banks)),
        ("xen-arguments", profile.xen_command_line()),
        ("dom0-arguments", dom0_arguments.to_owned()),
        ("dom0-kernel", dom0.kernel.unit_address()),
        ("dom0-kernel-reg", dom0.kernel.cells()),
        ("dom0-ramdisk", ramdisk.unit_address()),
        ("dom0-ramdisk-reg", ramdisk.cells()),
        ("domains", domains.to_owned()),
    ]);
    if !template.contains("@dom0-kernel@") {
        // A system without one.
        words.retain(|word, _| !word.starts_with("dom0-"));
    }
    fill(template, &words)
}

/// Asks QEMU for the device tree of this machine, as source, without its
/// memory and `chosen` nodes.
pub fn machine_source(qemu: &[String], folder: &Path) -> Result<String> {
    let blob = folder.join("machine.dtb");
    let mut arguments = qemu.to_vec();
    let machine = arguments
        .iter()
        .position(|word| word == "-machine")
        .context("no -machine among QEMU's arguments")?;
    arguments[machine + 1] += &format!(",dumpdtb={}", blob.display());
    let output = Command::new("qemu-system-aarch64")
        .args(&arguments)
        .output()
        .context("cannot start qemu-system-aarch64; `cargo xtask doctor` says how to install it")?;
    ensure!(
        output.status.success() && blob.is_file(),
        "QEMU did not describe its machine: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let source = dtc(&["-I", "dtb", "-O", "dts"], &blob)?;
    std::fs::remove_file(&blob).context("machine.dtb: cannot remove")?;
    Ok(format!(
        "{}\n/ {{\n\t/delete-node/ memory@40000000;\n\t/delete-node/ chosen;\n}};\n",
        String::from_utf8(source).context("dtc wrote what is not text")?
    ))
}

/// Compiles `source` to `blob`.
pub fn compile(source: &Path, blob: &Path) -> Result<()> {
    let bytes = dtc(&["-I", "dts", "-O", "dtb"], source)?;
    std::fs::write(blob, bytes).with_context(|| format!("{}: cannot write", blob.display()))
}

/// Runs dtc on a file and returns what it writes. QEMU's own tree draws
/// warnings, so they are shown only when it fails.
fn dtc(arguments: &[&str], input: &Path) -> Result<Vec<u8>> {
    let output = Command::new("dtc")
        .args(arguments)
        .arg(input)
        .output()
        .context("cannot start dtc; `cargo xtask doctor` says how to install it")?;
    if !output.status.success() {
        let all = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<&str> = all
            .lines()
            .filter(|line| !line.contains("Warning"))
            .collect();
        bail!("dtc on {}: {}", input.display(), errors.join("; "));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::profile::{Guest, RAM_BASE};
    use crate::process;

    #[test]
    fn words_are_filled_in_beside_unit_addresses() {
        let words = Words::from([("kernel", "4a000000".to_owned())]);
        let out = fill("a/pl011@9000000; module@@kernel@ { }; x@y", &words).unwrap();
        assert_eq!(out, "a/pl011@9000000; module@4a000000 { }; x@y");
    }

    #[test]
    fn slips_are_errors() {
        assert!(fill("@what@", &Words::new()).is_err());
        assert!(fill("", &Words::from([("kernel", String::new())])).is_err());
    }

    #[test]
    fn banks_become_nodes() {
        let nodes = memory_nodes(&[
            Bank {
                start: RAM_BASE,
                mib: 512,
            },
            Bank {
                start: 0x1_0000_0000,
                mib: 4096,
            },
        ]);
        assert!(nodes.contains("memory@40000000 {"));
        assert!(nodes.contains("reg = <0x0 0x40000000 0x0 0x20000000>;"));
        assert!(nodes.contains("memory@100000000 {"));
        assert!(nodes.contains("reg = <0x1 0x0 0x1 0x0>;"));
    }

    #[test]
    fn templates_of_the_repository_fit() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        let profile = Profile::read(&root, "demo").unwrap();
        let placed = Placed {
            address: 0x4a00_0000,
            size: 0x1234,
        };
        let mut domains = String::new();
        for (index, domain) in profile.domains.iter().enumerate() {
            let files = DomainFiles {
                kernel: placed,
                ramdisk: (domain.guest == Guest::Linux).then_some(placed),
                devices: None,
            };
            let template = read(&domain.device_tree);
            let name = format!("domU{}", index + 1);
            domains += &domain_node(&template, &name, domain, &files).unwrap();
        }
        let dom0 = DomainFiles {
            kernel: placed,
            ramdisk: Some(placed),
            devices: None,
        };
        let template = read(&profile.device_tree);
        let text = system(&template, &profile, &dom0, "console=hvc0", &domains).unwrap();
        assert!(text.contains("domU1 {") && text.contains("domU2 {"));
        assert!(text.contains("xen,dom0-bootargs = \"console=hvc0\""));
        assert!(text.contains("module@4a000000 {"));
    }

    /// An example of `dts/`, compiled behind a board's tree; returns what
    /// `fdtget` says of a property.
    fn example(name: &str) -> impl Fn(&str, &str) -> Result<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = std::env::temp_dir().join(format!("vmf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let board = "/dts-v1/;\n/ { #address-cells = <2>; #size-cells = <2>; chosen { }; };\n";
        let text = std::fs::read_to_string(root.join("dts").join(name)).unwrap();
        let (source, blob) = (folder.join("system.dts"), folder.join("system.dtb"));
        std::fs::write(&source, board.to_owned() + &text).unwrap();
        compile(&source, &blob).unwrap();
        let bytes = std::fs::read(&blob).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        move |node, property| {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(&blob, &bytes)?;
            let mut fdtget = process::command("fdtget");
            let out = process::output(fdtget.args(["-t", "x"]).arg(&blob).args([node, property]));
            std::fs::remove_dir_all(&folder)?;
            out
        }
    }

    #[test]
    fn the_example_with_dom0_compiles() {
        let read = example("example-with-dom0.dts");
        assert_eq!(read("/chosen/domU1", "vmf-unprotected").unwrap(), "");
        assert!(read("/chosen/domU1", "vmf-share").is_err());
        assert_eq!(
            read("/chosen/domU2", "vmf-share").unwrap(),
            "0 40200000 0 4000"
        );
        assert!(read("/chosen/domU2", "vmf-unprotected").is_err());
    }

    #[test]
    fn the_example_of_two_that_talk_compiles() {
        let read = example("example-two-that-talk.dts");
        let [first, second] = ["/chosen/domU1", "/chosen/domU2"];
        let ends = [
            format!("{first}/evtchn-to-second"),
            format!("{second}/evtchn-to-first"),
        ];
        for (end, other, port) in [(&ends[0], &ends[1], "a"), (&ends[1], &ends[0], "b")] {
            let phandle = read(other, "phandle").unwrap();
            let channel = read(end, "xen,evtchn").unwrap();
            assert_eq!(channel, format!("{port} {phandle}"));
        }
        let memory = [
            format!("{first}/memory-with-second"),
            format!("{second}/memory-with-first"),
        ];
        for property in ["xen,shm-id", "xen,shared-mem"] {
            let one = read(&memory[0], property).unwrap();
            assert_eq!(one, read(&memory[1], property).unwrap());
        }
        for node in [first, second] {
            assert_eq!(read(node, "vmf-share").unwrap(), "0 40200000 0 4000");
            assert!(read(node, "vmf-unprotected").is_err());
        }
    }
}
