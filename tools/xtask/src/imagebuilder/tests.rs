//! Whole outputs, every error, and U-Boot's commands carried out on a device
//! tree.

use std::path::Path;

use super::fragment;
use crate::process;

/// As an integrator has it: a dom0, three domUs, keys that are none of ours.
const WITH_DOM0: &str = r#"# Board: 2 GiB of RAM
MEMORY_START="0x0"
MEMORY_END="0x80000000"
LOAD_CMD="tftpb"

DEVICE_TREE="mpsoc.dtb"
XEN="xen"
XEN_CMD="console=dtuart dtuart=serial0 dom0_mem=1G bootscrub=0"
DOM0_KERNEL="Image-dom0"
DOM0_CMD="console=hvc0 earlycon=xen root=\"$ROOT\""   # ours
DOM0_RAMDISK='dom0-ramdisk.cpio'

NUM_DOMUS=3
DOMU_KERNEL[0]="dom1/Image-domU"
DOMU_CMD[0]="console=ttyAMA0"
DOMU_VMF_UNPROTECTED[0]=1
DOMU_KERNEL[1]="dom2/Image-domU"
DOMU_MEM[1]=4096
DOMU_VCPUS[1]=2
DOMU_VMF_SHARE[1]="0x40200000,0x4000; 0x200000000,0x1000"
DOMU_KERNEL[2]="dom3/canary"
DOMU_ENHANCED[2]=0

VMF="unmap,strict"

UBOOT_SOURCE="boot.source"
UBOOT_SCRIPT="boot.scr"
"#;

const OF_WITH_DOM0: &str = r#"# In the config file, in place of XEN_CMD:
XEN_CMD="console=dtuart dtuart=serial0 dom0_mem=1G bootscrub=0 vmf=unmap,strict"
# In the boot script (UBOOT_SOURCE), before its last line, the one that boots:
fdt resize 1000
fdt set /chosen/domU0 vmf-unprotected
fdt set /chosen/domU1 vmf-share "<0x0 0x40200000 0x0 0x4000 0x2 0x0 0x0 0x1000>"
"#;

/// Without a dom0, and with as little as possible.
const ALONE: &str = "XEN_CMD=\"console=dtuart\"\nNUM_DOMUS=2\nVMF=seal,keep-firmware-calls\n";

/// Its output for a config file, or the error as it is shown.
fn printed(config: &str) -> String {
    match fragment("config", config) {
        Ok(text) => text,
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn a_system_with_dom0() {
    assert_eq!(printed(WITH_DOM0), OF_WITH_DOM0);
}

#[test]
fn a_system_without_dom0() {
    assert_eq!(
        printed(ALONE),
        "# In the config file, in place of XEN_CMD:\n\
         XEN_CMD=\"console=dtuart vmf=seal,keep-firmware-calls\"\n\
         # Nothing is to be added to the boot script.\n"
    );
}

#[test]
fn pages_are_shared_without_a_blow_at_boot() {
    assert_eq!(
        printed("NUM_DOMUS=1\nDOM0_KERNEL=Image\nDOMU_VMF_SHARE[0]=1073741824,4096\n"),
        "# XEN_CMD stays as it is: the fuse is not blown at boot.\n\
         # In the boot script (UBOOT_SOURCE), before its last line, the one that boots:\n\
         fdt resize 1000\n\
         fdt set /chosen/domU0 vmf-share \"<0x0 0x40000000 0x0 0x1000>\"\n"
    );
}

/// The last assignment counts, and an empty one is none.
#[test]
fn assignments_are_the_shell_s() {
    let base = printed(ALONE);
    assert_eq!(printed(&format!("VMF=fast\n{ALONE}")), base);
    assert_eq!(
        printed(&format!("VMF=fast # word\n{ALONE}DOM0_KERNEL=\"\"\n")),
        base
    );
    assert_eq!(
        printed(&format!("{ALONE}DOM0_CMD='$(cat x)' # or so\n")),
        base
    );
}

/// Each error with the line that is wrong, which comes after [`ALONE`]'s three.
#[test]
fn each_error_names_line_and_key() {
    let page = "does not begin and end with a page of 4096 bytes";
    let cases = [
        // Malformed.
        ("NUM_DOMUS=two", "NUM_DOMUS: \"two\" is not a number"),
        ("NUM_DOMUS=02", "NUM_DOMUS: \"02\" is not a number"),
        (
            "DOMU_VMF_SHARE[1]=0x40000000",
            "DOMU_VMF_SHARE[1]: \"0x40000000\": not of the form address,size",
        ),
        (
            "DOMU_VMF_SHARE[1]=0x4000000g,0x1000",
            "DOMU_VMF_SHARE[1]: \"0x4000000g,0x1000\": \"0x4000000g\" is not a number",
        ),
        (
            "DOMU_VMF_SHARE[1]=0x40000000,+4096",
            "DOMU_VMF_SHARE[1]: \"0x40000000,+4096\": \"+4096\" is not a number",
        ),
        (
            "DOMU_VMF_SHARE[1]=\"0x40000000,0x1000;\"",
            "DOMU_VMF_SHARE[1]: \"\": not of the form address,size",
        ),
        (
            "DOMU_VMF_SHARE[1]=\"$A,0x1000\"",
            "DOMU_VMF_SHARE[1]: nothing is expanded here, write it out",
        ),
        (
            "DOMU_VMF_UNPROTECTED[1]=yes",
            "DOMU_VMF_UNPROTECTED[1]: \"yes\" is not 0 or 1",
        ),
        // Pages.
        (
            "DOMU_VMF_SHARE[1]=0x40000800,0x1000",
            &format!("DOMU_VMF_SHARE[1]: \"0x40000800,0x1000\": {page}"),
        ),
        (
            "DOMU_VMF_SHARE[1]=0x40000000,0x800",
            &format!("DOMU_VMF_SHARE[1]: \"0x40000000,0x800\": {page}"),
        ),
        (
            "DOMU_VMF_SHARE[1]=0x40000000,0",
            &format!("DOMU_VMF_SHARE[1]: \"0x40000000,0\": {page}"),
        ),
        (
            "DOMU_VMF_SHARE[1]=0xfffffffffffff000,0x1000",
            "DOMU_VMF_SHARE[1]: \"0xfffffffffffff000,0x1000\": too large",
        ),
        (
            "DOMU_VMF_SHARE[1]=\"0x40000000,0x3000;0x40002000,0x1000\"",
            "DOMU_VMF_SHARE[1]: 0x40002000,0x1000: overlaps 0x40000000,0x3000",
        ),
        (
            "DOMU_VMF_SHARE[1]=0x5ffff000,0x2000",
            "DOMU_VMF_SHARE[1]: 0x5ffff000,0x2000: not memory of the domU, which is 0x40000000..0x60000000",
        ),
        // Domains.
        (
            "DOMU_VMF_SHARE[2]=0x40000000,0x1000",
            "DOMU_VMF_SHARE[2]: no such domU, NUM_DOMUS is 2",
        ),
        (
            "DOMU_VMF_UNPROTECTED[2]=1",
            "DOMU_VMF_UNPROTECTED[2]: no such domU, NUM_DOMUS is 2",
        ),
        (
            "DOMU_VMF_UNPROTECTED[0x1]=1",
            "DOMU_VMF_UNPROTECTED[0x1]: write the number in decimal",
        ),
        (
            "DOMU_VMF_UNPROTECTED=1",
            "DOMU_VMF_UNPROTECTED: wants the number of a domU, [n]",
        ),
        (
            "DOMU_VMF_SHARES[1]=0x40000000,0x1000",
            "DOMU_VMF_SHARES[1]: not known",
        ),
        ("VMF_LEVEL=lock", "VMF_LEVEL: not known"),
        (
            "DOMU_VMFSHARE[1]=0x40000000,0x1000",
            "DOMU_VMFSHARE[1]: not known",
        ),
        ("NUM_DOMUS=0x7ff1", "NUM_DOMUS: Xen has room for 32752"),
        ("VMF[0]=lock", "VMF[0]: has no number, it is of Xen"),
        // The level.
        ("VMF=fast", "VMF: \"fast\" is not known"),
        ("VMF=strict", "VMF: wants one of unmap, lock, seal"),
        ("VMF=lock,seal", "VMF: wants one of unmap, lock, seal"),
        (
            "VMF=lock,keep-firmware-calls",
            "VMF: keep-firmware-calls is of seal",
        ),
        (
            "XEN_CMD=\"console=dtuart vmf=lock\"",
            "XEN_CMD: has vmf= already, which is what VMF is for",
        ),
        (
            "XEN_CMD='a=\"b\"'",
            "XEN_CMD: has characters that cannot be quoted",
        ),
        (
            "DOMU_ENHANCED[1]=1",
            "DOMU_ENHANCED[1]: a protected domU is not enhanced unless it shares pages: \
             set it to 0, or DOMU_VMF_SHARE[1], or DOMU_VMF_UNPROTECTED[1]",
        ),
        // Shell.
        ("export VMF=lock", ""),
        ("VMF+=,strict", ""),
        ("VMF=lock; VMF=seal", ""),
        ("VMF=\"lock", ""),
        ("VMF=\"lock\"\"seal\"", ""),
        ("DOMU_MEM[i]=5", ""),
        ("source other", ""),
        ("DOM0_CMD=a\\", ""),
    ];
    for (line, what) in cases {
        let what = match what {
            "" => "not of the form KEY=\"value\" or KEY[n]=\"value\"",
            what => what,
        };
        let wanted = format!("error: config: line 4: {what}");
        assert_eq!(printed(&format!("{ALONE}{line}\n")), wanted);
    }
}

/// Errors of two lines, and of a line that is missing.
#[test]
fn what_does_not_go_together_is_an_error() {
    let share = "DOMU_VMF_SHARE[0]=0x40000000,0x1000\n";
    let cases = [
        (
            format!("{ALONE}DOMU_VMF_UNPROTECTED[0]=1\n{share}"),
            "line 5: DOMU_VMF_SHARE[0]: DOMU_VMF_UNPROTECTED[0] is set: Xen reaches all of it anyway",
        ),
        (
            format!("{ALONE}DOMU_NOBOOT[0]=y\n{share}"),
            "line 5: DOMU_VMF_SHARE[0]: the domU has no node, because of DOMU_NOBOOT",
        ),
        (
            format!("{ALONE}DOM0_KERNEL=Image\n"),
            "line 3: VMF: with a dom0 (DOM0_KERNEL) only unmap; dom0 locks or seals later, by vmfctl",
        ),
        (
            format!("{ALONE}DOM0_KERNEL=Image\nVMF=lock\n"),
            "line 5: VMF: with a dom0 (DOM0_KERNEL) only unmap; dom0 locks or seals later, by vmfctl",
        ),
        (
            format!("{ALONE}DOM0_KERNEL=Image\nVMF=unmap\n{share}"),
            "DOMU_ENHANCED[1]: not set; with a dom0 that means 1; a protected domU is not enhanced unless \
             it shares pages: set it to 0, or DOMU_VMF_SHARE[1], or DOMU_VMF_UNPROTECTED[1]",
        ),
        (
            format!("{ALONE}DOMU_VMF_UNPROTECTED[0]=1\nDOMU_NOBOOT[1]=1\n"),
            "line 3: VMF: no domU is protected by it",
        ),
        (
            "NUM_DOMUS=1\nVMF=lock\n".to_owned(),
            "XEN_CMD: not set; write out what ImageBuilder would take",
        ),
        (
            "NUM_DOMUS=1\n".to_owned(),
            "VMF: not set; nor is any key of a domU; nothing to do",
        ),
    ];
    for (config, what) in cases {
        assert_eq!(printed(&config), format!("error: config: {what}"));
    }
}

#[test]
fn as_many_ranges_as_xen_has_room_for() {
    let config = |count: u64| {
        let ranges: Vec<String> = (0..count)
            .map(|n| format!("{:#x},0x1000", 0x4000_0000 + n * 0x2000))
            .collect();
        format!("{ALONE}DOMU_VMF_SHARE[0]=\"{}\"\n", ranges.join(";"))
    };
    assert!(printed(&config(32)).contains(" 0x0 0x4003e000 0x0 0x1000>\""));
    assert_eq!(
        printed(&config(33)),
        "error: config: line 4: DOMU_VMF_SHARE[0]: 33 ranges, Xen has room for 32"
    );
}

/// The commands, carried out on a device tree with the nodes that ImageBuilder
/// makes, are what one would write by hand.
#[test]
fn the_commands_make_the_properties() {
    let folder = std::env::temp_dir().join(format!("vmf-imagebuilder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let tree = |name: &str, first: &str, second: &str| {
        let source = folder.join(name);
        let blob = source.with_extension("dtb");
        let node = |properties: &str| format!("{{ compatible = \"xen,domain\"; {properties} }};");
        let text = format!(
            "/dts-v1/;\n/ {{ chosen {{ #address-cells = <2>; #size-cells = <2>; \
             domU0 {} domU1 {} domU2 {} }}; }};\n",
            node(first),
            node(second),
            node("")
        );
        std::fs::write(&source, text).unwrap();
        run("dtc", &["-q", "-o", path(&blob), path(&source)]);
        blob
    };
    let made = tree("made.dts", "", "");
    let before = decompiled(&made);
    let mut sets = 0;
    for line in OF_WITH_DOM0.lines() {
        let Some(rest) = line.strip_prefix("fdt set ") else {
            continue;
        };
        let mut words = rest.splitn(3, ' ');
        let (node, name) = (words.next().unwrap(), words.next().unwrap());
        let cells = words.next().unwrap_or("").trim_matches('"');
        let mut arguments = vec!["-t", "x", path(&made), node, name];
        arguments.extend(cells.trim_matches(['<', '>']).split_whitespace());
        run("fdtput", &arguments);
        sets += 1;
    }
    assert_eq!(sets, 2);
    let by_hand = tree(
        "by-hand.dts",
        "vmf-unprotected;",
        "vmf-share = <0x0 0x40200000 0x0 0x4000 0x2 0x0 0x0 0x1000>;",
    );
    assert_ne!(decompiled(&made), before);
    assert_eq!(decompiled(&made), decompiled(&by_hand));
    std::fs::remove_dir_all(&folder).unwrap();
}

fn run(program: &str, arguments: &[&str]) -> String {
    process::output(process::command(program).args(arguments)).unwrap()
}

fn decompiled(blob: &Path) -> String {
    run("dtc", &["-q", "-s", "-I", "dtb", "-O", "dts", path(blob)])
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
