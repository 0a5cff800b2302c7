//! Runs other programs: with an environment that does not depend on who
//! started us, output to a log, and an error that says what to do.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::doctor;

/// Lines of a log that an error shows.
const TAIL: usize = 12;

/// What `cargo run` and rustup leave behind in the environment, and what would
/// make another tool chain's cargo use the wrong compiler.
const LEFT_BEHIND: [&str; 9] = [
    "CARGO",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "LD_LIBRARY_PATH",
    "MAKEFLAGS",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// A command in a clean environment, with messages in English.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in LEFT_BEHIND {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Runs it and returns its standard output, without the final newline.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .map_err(|error| not_started(command, error))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        bail!(
            "{} ended with {}: {}",
            name_of(command),
            output.status,
            last.unwrap_or("no message").trim()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Runs it with all output in the file `log`; `what` names the step in the error.
pub fn logged(command: &mut Command, what: &str, log: &Path) -> Result<()> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = command
        .stderr(file.try_clone()?)
        .stdout(file)
        .status()
        .map_err(|error| not_started(command, error))?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        bail!("{}", failure(what, &text, log));
    }
    Ok(())
}

/// The error of a step whose output is `text`: its last lines, and the first
/// that says "error", which a parallel build may have put far above them.
fn failure(what: &str, text: &str, log: &Path) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.len().saturating_sub(TAIL);
    let first = lines[..tail].iter().find(|line| {
        let line = line.to_lowercase();
        line.contains("error:") || line.starts_with("error") || line.contains("undefined reference")
    });
    let mut message = format!("{what} failed, the whole log is {}", log.display());
    for line in first.into_iter().chain(&lines[tail..]) {
        message.push_str("\n    ");
        message.push_str(line);
    }
    message
}

/// The error of a program that could not be started.
fn not_started(command: &Command, error: std::io::Error) -> anyhow::Error {
    let name = name_of(command);
    if error.kind() == ErrorKind::NotFound {
        match doctor::package_of(&name) {
            Some(package) => anyhow!("{name} is not installed: apt-get install {package}"),
            None => anyhow!("{name} is not installed"),
        }
    } else {
        anyhow!("cannot start {name}: {error}")
    }
}

/// The program's name without its directory.
fn name_of(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_shows_the_first_error_and_the_tail() {
        let mut text = String::from("CC a.o\nb.c:3:1: error: no such thing\n");
        for number in 0..40 {
            text.push_str(&format!("line {number}\n"));
        }
        let message = failure("make", &text, Path::new("/l/make.log"));
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines[0], "make failed, the whole log is /l/make.log");
        assert_eq!(lines[1].trim(), "b.c:3:1: error: no such thing");
        assert_eq!(lines.len(), 2 + TAIL);
        assert_eq!(lines[lines.len() - 1].trim(), "line 39");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = output(&mut command("/nowhere/qemu-system-aarch64")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "qemu-system-aarch64 is not installed: apt-get install qemu-system-arm"
        );
    }

    #[test]
    fn output_reports_the_last_line_of_stderr() {
        let error = output(command("sh").args(["-c", "echo one >&2; echo two >&2; exit 3"]));
        assert_eq!(
            error.unwrap_err().to_string(),
            "sh ended with exit status: 3: two"
        );
    }
}
