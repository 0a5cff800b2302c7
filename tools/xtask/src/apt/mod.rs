//! apt with a state directory of its own: arm64 packages and Debian 13's
//! source packages, from the mirror that the machine's apt uses, without a
//! change to the machine. And the one thing that does change it: installing
//! host packages that are missing.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::site::Site;

/// The Debian release whose source package of Xen is used, and whose tools.
const XEN_SUITE: &str = "trixie";

/// apt with private lists, cache and sources, for packages of arm64.
pub struct Apt {
    root: PathBuf,
    pool: Vec<String>,
}

impl Apt {
    /// Packages of the machine's own release. Derives the sources from the
    /// machine's, and gets the indices if they are not there.
    pub fn open(site: &Site) -> Result<Self> {
        Self::derive(site, site.cache().join("apt"), |archives| {
            archives.deb822("arm64", XEN_SUITE)
        })
    }

    /// Packages of the release that has this Xen's tools.
    pub fn open_xen(site: &Site) -> Result<Self> {
        Self::derive(site, site.cache().join("apt-xen"), |archives| {
            archives.deb822_of("arm64", XEN_SUITE)
        })
    }

    fn derive(
        site: &Site,
        root: PathBuf,
        sources: impl FnOnce(&sources::Archives) -> String,
    ) -> Result<Self> {
        let codename = codename(&fs::read_to_string("/etc/os-release").unwrap_or_default())?;
        let archives = sources::archives(&machine_entries()?, &codename)?;
        for part in [
            "sources.list.d",
            "lists/partial",
            "archives/partial",
            "state",
        ] {
            let path = root.join(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let list = root.join("sources.list.d/vmf.sources");
        let text = sources(&archives);
        let known = fs::read_to_string(&list).is_ok_and(|old| old == text);
        fs::write(&list, text).with_context(|| format!("cannot write {}", list.display()))?;
        let pool = [&archives.base]
            .into_iter()
            .chain(&archives.pockets)
            .map(|entry| entry.uri.trim_end_matches('/').to_owned())
            .collect();
        let apt = Self { root, pool };
        if !known || !apt.root.join("updated").exists() {
            apt.update(site)?;
        }
        Ok(apt)
    }

    /// Gets the indices anew.
    pub fn update(&self, site: &Site) -> Result<()> {
        site.say("apt", "package indices for arm64 and for Debian 13's Xen");
        let marker = self.root.join("updated");
        let _ = fs::remove_file(&marker);
        process::logged(
            self.command("apt-get").args(["--error-on=any", "update"]),
            "apt-get update (is the mirror reachable?)",
            &self.root.join("update.log"),
        )?;
        fs::write(&marker, "")?;
        Ok(())
    }

    /// Downloads the newest arm64 version of a package into `directory`, or
    /// the one given, and returns the file.
    pub fn download(
        &self,
        site: &Site,
        package: &str,
        version: Option<&str>,
        directory: &Path,
    ) -> Result<PathBuf> {
        let wanted = match version {
            Some(version) => format!("{package}={version}"),
            None => package.to_owned(),
        };
        if self.try_download(&wanted, directory).is_err() {
            // The index may be older than the archive.
            self.update(site)?;
            self.try_download(&wanted, directory)?;
        }
        let name =
            process::output(
                self.command("apt-get")
                    .args(["download", "--print-uris", &wanted]),
            )?;
        let file = name
            .split_whitespace()
            .nth(1)
            .map(|file| directory.join(file))
            .filter(|file| file.exists());
        file.with_context(|| format!("apt-get download {wanted} left no file"))
    }

    fn try_download(&self, wanted: &str, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        process::logged(
            self.command("apt-get")
                .args(["download", wanted])
                .current_dir(directory),
            &format!("download of {wanted}"),
            &self.root.join("download.log"),
        )
    }

    /// What a package depends on, as its `Depends` line has it.
    pub fn depends(&self, package: &str) -> Result<String> {
        let text = process::output(self.command("apt-cache").args([
            "show",
            "--no-all-versions",
            package,
        ]))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        Ok(line
            .with_context(|| format!("{package} depends on nothing"))?
            .to_owned())
    }

    /// Downloads the upstream tarball of a source package through the index.
    pub fn source_tarball(&self, package: &str, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        process::logged(
            self.command("apt-get")
                .args(["source", "--download-only", "--tar-only", package])
                .current_dir(directory),
            &format!("download of the source of {package}"),
            &self.root.join("source.log"),
        )
    }

    /// Downloads `path`, which is relative to an archive's root, from the first
    /// of the machine's archives that has it with this SHA-256.
    pub fn pool_file(&self, path: &str, sha256: &str, file: &Path) -> Result<()> {
        let mut last = None;
        for base in &self.pool {
            let mut helper = self.command("/usr/lib/apt/apt-helper");
            helper
                .args(["download-file", &format!("{base}/{path}")])
                .arg(file)
                .arg(format!("SHA256:{sha256}"));
            match process::output(&mut helper) {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        let _ = fs::remove_file(file);
        match last {
            Some(error) => {
                Err(error.context(format!("no archive of this machine has {path} as expected")))
            }
            None => bail!("no archive to download {path} from"),
        }
    }

    fn command(&self, program: &str) -> Command {
        let root = self.root.display();
        let mut command = process::command(program);
        for option in [
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={root}/sources.list.d"),
            format!("Dir::State={root}/state"),
            format!("Dir::State::lists={root}/lists"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={root}"),
            "APT::Architecture=arm64".to_owned(),
            "APT::Architectures::=arm64".to_owned(),
            // The directory is the user's, apt's own account cannot write it.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Installs host packages, as new as the mirror has them; needs root.
pub fn install(site: &Site, packages: &[&str]) -> Result<()> {
    let log = site.cache().join("apt/install.log");
    let names = packages.join(" ");
    site.say("apt", &format!("apt-get install {names}"));
    // A fresh machine has no indices, or old ones, by which an old compiler
    // would be installed where the mirror still has it.
    process::logged(
        process::command("apt-get").args(["update", "-o", "Acquire::Retries=3"]),
        "apt-get update (is the mirror reachable?)",
        &log.with_file_name("install-update.log"),
    )?;
    process::logged(
        process::command("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args([
                "install",
                "-y",
                "--no-install-recommends",
                "-o",
                "Acquire::Retries=3",
            ])
            .args(packages),
        &format!("apt-get install {names}"),
        &log,
    )
}

/// The release's name from `os-release`, which must be Debian's.
fn codename(os_release: &str) -> Result<String> {
    let field = |name: &str| {
        os_release.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key == name).then(|| value.trim_matches('"').to_owned())
        })
    };
    match (field("ID").as_deref(), field("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) => Ok(codename),
        (id, _) => bail!(
            "guest kernel and Xen source come from Debian's archive, and this machine runs {}: use Debian 12 or later, or a container of it",
            id.unwrap_or("an unknown system")
        ),
    }
}

/// All entries of the machine's apt configuration.
fn machine_entries() -> Result<Vec<sources::Entry>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(directory) = fs::read_dir("/etc/apt/sources.list.d") {
        for entry in directory {
            files.push(entry?.path());
        }
    }
    files.sort();
    let mut entries = Vec::new();
    for file in files {
        // A file that is absent or unreadable is one that apt does not use either.
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => entries.extend(sources::parse_one_line(&text)),
            Some("sources") => entries.extend(sources::parse_deb822(&text)),
            _ => {}
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codename_comes_from_debian_only() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(codename(debian).unwrap(), "bookworm");
        let other = codename("ID=fedora\nVERSION_ID=42\n").unwrap_err();
        assert!(other.to_string().contains("runs fedora"), "{other}");
    }
}
