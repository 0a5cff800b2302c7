//! The command line by snapshots: what it prints and its exit status, over machines built here. After an intended
//! change, run with `SNAPSHOTS=write` and read the difference.

mod common;
use common::*;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with a good machine, a bad one, and files that are neither.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let registers = |machine: &Machine| serde_json::to_vec_pretty(&machine.registers).unwrap();

    let mut good = Machine::locked();
    good.cpu();
    write("after.elf", &good.elf());
    write("after.json", &registers(&good));

    let mut bad = good.clone();
    bad.el2(DIRECTMAP, GUEST, 2, RW);
    bad.el2(DIRECTMAP + (1 << 30), TEXT, 3, RW);
    bad.el2(
        DIRECTMAP + (1 << 30) + 0x1000,
        bad.registers.cpus[0].ttbr0.0,
        3,
        R,
    );
    write("before.elf", &bad.elf());
    write("before.json", &registers(&bad));

    let mut unclaimed = good.clone();
    unclaimed.registers.domains[1].protected = false;
    write("unclaimed.json", &registers(&unclaimed));

    let mut sealed = good.clone();
    sealed.code(0, 0xd51c_2100);
    sealed.code(8, 0xd51c_1101);
    sealed.code(0x20, 0xd400_0003);
    write("gates.elf", &sealed.elf());

    // The same pages of d1, shared on purpose, claimed in one file and not in the other.
    let mut sharing = good.clone();
    sharing.share(5, 2);
    sharing.share(9, 1);
    write("sharing.elf", &sharing.elf());
    write("sharing.json", &registers(&sharing));
    sharing.registers.domains[1].shared.clear();
    write("silent.json", &registers(&sharing));

    write("cut.elf", &good.elf()[..1 << 20]);
    write("text.elf", b"This is a text file.\n");
    write(
        "no-registers.json",
        b"{\"cpus\": [{\"TTBR0_EL2\": \"0x1\"}]}\n",
    );
    folder
}

fn run(folder: &Path, arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vmf-audit"))
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    format!(
        "$ vmf-audit {arguments}\n{}{}[exit {}]\n",
        text(output.stdout),
        text(output.stderr),
        output.status.code().unwrap()
    )
}

#[test]
fn commands_print_what_they_are_known_to_print() {
    let folder = folder();
    let cases = [
        ("help", "--help"),
        ("help-check", "check --help"),
        ("check-holds", "check --level lock after.elf after.json"),
        (
            "check-violated",
            "check --level lock before.elf before.json",
        ),
        (
            "check-violated-json",
            "check --level unmap before.elf before.json --json",
        ),
        (
            "check-cannot-judge",
            "check --level unmap after.elf unclaimed.json",
        ),
        (
            "check-unknown-level",
            "check --level welded after.elf after.json",
        ),
        (
            "check-claimed",
            "check --level unmap --protected 1 after.elf unclaimed.json",
        ),
        (
            "check-claimed-unknown",
            "check --level unmap --protected 7 after.elf unclaimed.json",
        ),
        (
            "check-shared",
            "check --level unmap sharing.elf sharing.json",
        ),
        (
            "check-shared-json",
            "check --level unmap sharing.elf sharing.json --json",
        ),
        (
            "check-shared-unclaimed",
            "check --level unmap sharing.elf silent.json --shared 1:0x40005:2",
        ),
        (
            "check-shared-claimed",
            "check --level unmap sharing.elf silent.json --shared 1:0x40005:2 --shared 1:0x40009:1",
        ),
        (
            "check-shared-too-much",
            "check --level unmap sharing.elf sharing.json --shared 1:0x4000f:2",
        ),
        (
            "check-shared-unknown",
            "check --level unmap sharing.elf sharing.json --shared 7:0x40005:2",
        ),
        (
            "check-shared-malformed",
            "check --level unmap sharing.elf sharing.json --shared 1:0x40005",
        ),
        ("summary-shared", "summary sharing.elf sharing.json"),
        ("map-shared", "map sharing.elf sharing.json"),
        ("check-seal", "check --level seal gates.elf after.json"),
        ("help-map", "map --help"),
        ("help-scan", "scan --help"),
        ("rules", "rules"),
        ("map", "map before.elf before.json"),
        ("map-json", "map after.elf after.json --json"),
        (
            "map-diff",
            "map before.elf before.json --diff after.elf after.json --svg map.svg",
        ),
        (
            "map-unwritable",
            "map after.elf after.json --svg none/map.svg",
        ),
        ("scan", "scan gates.elf after.json"),
        ("scan-json", "scan gates.elf after.json --json"),
        ("scan-without-registers", "scan gates.elf"),
        ("scan-foreign", "scan text.elf"),
        ("summary", "summary before.elf before.json"),
        ("summary-json", "summary after.elf after.json --json"),
        ("dump-cut", "summary cut.elf after.json"),
        ("dump-foreign", "summary text.elf after.json"),
        ("dump-missing", "summary none.elf after.json"),
        (
            "registers-incomplete",
            "summary after.elf no-registers.json",
        ),
        (
            "syms-foreign",
            "check --level lock after.elf after.json --syms text.elf",
        ),
    ];
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli");
    let mut differ = Vec::new();
    for (name, arguments) in cases {
        let file: PathBuf = snapshots.join(format!("{name}.txt"));
        let actual = run(folder.path(), arguments);
        if std::env::var_os("SNAPSHOTS").is_some_and(|v| v == "write") {
            std::fs::write(&file, &actual).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if actual != expected {
            differ.push(format!(
                "--- {}\n{expected}+++ now\n{actual}",
                file.display()
            ));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
