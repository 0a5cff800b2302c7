//! Formatting, lints, and the unit and property tests that run on this host.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::cases::Cases;
use crate::process;
use crate::site::Site;
use crate::tree::Tree;

/// Directories with a workspace each, and what of it runs on this host.
const WORKSPACES: [(&str, &[&str]); 2] = [
    (".", &["--workspace"]),
    ("tools/guests", &["--package", "canary-core"]),
];

/// All host cases.
pub fn run(site: &Site, stock: &Tree, cases: &mut Cases) {
    for (directory, packages) in WORKSPACES {
        let label = if directory == "." {
            "workspace"
        } else {
            directory
        };
        let log = |tool: &str| {
            site.target()
                .join(format!("test/{}-{tool}.log", label.replace('/', "-")))
        };
        let cargo = |arguments: &[&str]| {
            let mut cargo =
                process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo
                .current_dir(site.root().join(directory))
                .env("CARGO_TARGET_DIR", site.target())
                .args(arguments);
            // The tool chain that runs this program. Without it rustup looks
            // for one in each crate's own folder, and some name another.
            if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
                cargo.env("RUSTUP_TOOLCHAIN", toolchain);
            }
            cargo
        };

        let name = format!("{label}: formatting");
        match absent(cargo(&["fmt", "--version"]), "rustfmt") {
            Some(why) => cases.skip(&name, &why),
            None => cases.case(&name, || {
                process::logged(
                    &mut cargo(&["fmt", "--all", "--check"]),
                    "cargo fmt --check",
                    &log("fmt"),
                )
            }),
        }

        let name = format!("{label}: lints");
        match absent(cargo(&["clippy", "--version"]), "clippy") {
            Some(why) => cases.skip(&name, &why),
            None => cases.case(&name, || {
                let mut clippy = cargo(&["clippy", "--quiet", "--all-targets"]);
                clippy.args(packages).args(["--", "-D", "warnings"]);
                process::logged(&mut clippy, "cargo clippy", &log("clippy"))
            }),
        }

        let name = format!("{label}: tests");
        if cases.wants(&name) {
            // Some compare with Xen's own headers.
            let mut test = cargo(&["test", "--no-fail-fast"]);
            test.args(packages).env("VMF_XEN_SOURCE", &stock.path);
            tests(&mut test, &name, &log("test"), cases);
        }
    }
}

/// Why a component of the tool chain cannot be used, if so.
fn absent(mut version: Command, component: &str) -> Option<String> {
    let there = version.output().is_ok_and(|output| output.status.success());
    (!there).then(|| format!("{component} is not installed: rustup component add {component}"))
}

/// Runs cargo's tests, and records each test program as a group of cases.
fn tests(command: &mut Command, name: &str, log: &Path, cases: &mut Cases) {
    let start = Instant::now();
    let result = process::logged(command, "cargo test", log);
    let groups = groups(&fs::read_to_string(log).unwrap_or_default());
    let any_failed = groups.iter().any(|group| !group.failed.is_empty());
    for group in groups
        .iter()
        .filter(|group| group.passed > 0 || !group.failed.is_empty())
    {
        cases.group(
            &format!("{name}: {}", group.name),
            group.time,
            group.passed,
            &group.failed,
        );
    }
    match result {
        Ok(()) if groups.is_empty() => {
            cases.record(
                name,
                start.elapsed(),
                Err(anyhow!("cargo test ran nothing")),
            );
        }
        // It did not compile, or a program of tests ended before it had a result.
        Err(error) if !any_failed => cases.record(name, start.elapsed(), Err(error)),
        _ => {}
    }
}

/// The results of one test program.
#[derive(Debug, PartialEq)]
struct Group {
    name: String,
    passed: usize,
    failed: Vec<String>,
    time: Duration,
}

/// Reads the output of `cargo test`.
fn groups(text: &str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(name) = program(line) {
            groups.push(Group {
                name,
                passed: 0,
                failed: Vec::new(),
                time: Duration::ZERO,
            });
        }
        let Some(group) = groups.last_mut() else {
            continue;
        };
        if line.starts_with("test ") && line.ends_with(" ... ok") {
            group.passed += 1;
        } else if let Some(test) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            group.failed.push(test.to_owned());
        } else if let Some(seconds) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.rsplit_once("finished in "))
        {
            let seconds = seconds.1.trim_end_matches('s').parse().unwrap_or_default();
            group.time = Duration::from_secs_f64(seconds);
        }
    }
    groups
}

/// Name of the test program that cargo announces in this line.
fn program(line: &str) -> Option<String> {
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{name} (documentation)"));
    }
    let rest = line.strip_prefix("Running ")?;
    let (source, file) = rest.rsplit_once(" (")?;
    let file = file.trim_end_matches(')').rsplit('/').next()?;
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
    Some(match source.strip_prefix("unittests ") {
        Some(source) if source.ends_with("main.rs") => format!("{name} (program)"),
        Some(_) => name.to_owned(),
        None => format!("{name} ({source})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_cargo_test_is_read_by_program() {
        let text = "\
   Compiling xen-vmf v0.1.0
     Running unittests src/lib.rs (target/debug/deps/xen_vmf-0123abcd)

running 3 tests
test addr::tests::checked ... ok
test plan::tests::forbidden ... FAILED
test plan::tests::retained ... ok

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s

     Running unittests src/main.rs (target/debug/deps/xtask-0123abcd)
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
   Doc-tests xen_vmf
test xen-vmf/src/lib.rs - walk (line 3) ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.50s
";
        let groups = groups(text);
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(
            names,
            ["xen_vmf", "xtask (program)", "xen_vmf (documentation)"]
        );
        assert_eq!(groups[0].passed, 2);
        assert_eq!(groups[0].failed, ["plan::tests::forbidden"]);
        assert_eq!(groups[0].time, Duration::from_millis(1250));
        assert_eq!((groups[2].passed, groups[2].failed.len()), (1, 0));
    }
}
