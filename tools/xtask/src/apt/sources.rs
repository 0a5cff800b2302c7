//! Reads the machine's apt sources, in both formats, and derives from them
//! where this machine gets Debian packages of another architecture and the
//! source packages of another release.

use std::fmt::Write;

use anyhow::{Result, bail};

/// One archive, suite and set of components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Base of the archive.
    pub uri: String,
    /// Release or pocket, such as `bookworm-security`.
    pub suite: String,
    /// Such as `main`.
    pub components: Vec<String>,
    /// Key ring, fingerprint or key block; a block keeps its line breaks.
    pub signed_by: Option<String>,
    /// `Trusted: yes`: used without a signature.
    pub trusted: bool,
}

/// Parses a `.list` file. Only binary entries count: whoever has those, has the mirror.
pub fn parse_one_line(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb ")
            .or_else(|| line.strip_prefix("deb\t"))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let option = |name: &str| {
            options.split_whitespace().find_map(|option| {
                let (key, value) = option.split_once('=')?;
                (key == name).then(|| value.to_owned())
            })
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            entries.push(Entry {
                uri,
                suite,
                components: words.collect(),
                signed_by: option("signed-by"),
                trusted: option("trusted").as_deref() == Some("yes"),
            });
        }
    }
    entries
}

/// Parses a `.sources` file (deb822).
pub fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((key, value)) = line.split_once(':') {
                fields.push((key.trim().to_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| {
            fields
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let words = |name: &str| -> Vec<String> {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        let off = field("enabled")
            .is_some_and(|value| ["no", "false", "0"].contains(&value.to_lowercase().as_str()));
        if off || !words("types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in words("uris") {
            for suite in words("suites") {
                entries.push(Entry {
                    uri: uri.clone(),
                    suite,
                    components: words("components"),
                    signed_by: field("signed-by")
                        .filter(|value| !value.is_empty())
                        .map(str::to_owned),
                    trusted: field("trusted") == Some("yes"),
                });
            }
        }
    }
    entries
}

/// Where Debian comes from on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archives {
    /// The release itself, and the archive that holds every release.
    pub base: Entry,
    /// Its `-updates` and security pockets, as far as the machine uses them.
    pub pockets: Vec<Entry>,
}

/// Picks Debian's archives for the release `codename` from all entries.
pub fn archives(entries: &[Entry], codename: &str) -> Result<Archives> {
    let named = |suites: &[String]| {
        entries
            .iter()
            .find(|entry| {
                entry.components.iter().any(|part| part == "main")
                    && !entry.uri.starts_with("cdrom:")
                    && suites.contains(&entry.suite)
            })
            .cloned()
    };
    let with = |suffix: &str| -> Vec<String> {
        [codename, "stable", "oldstable"]
            .map(|name| format!("{name}{suffix}"))
            .to_vec()
    };
    let Some(base) = named(&with("")) else {
        bail!(
            "apt on this machine has no archive with {codename} main: add Debian's to /etc/apt/sources.list.d and run again"
        );
    };
    let pockets = [with("-updates"), with("-security")];
    Ok(Archives {
        base,
        pockets: pockets.iter().filter_map(|suites| named(suites)).collect(),
    })
}

impl Archives {
    /// A `.sources` file for binary packages of `architecture` from the
    /// machine's own release, and for source packages of `source_suite`.
    pub fn deb822(&self, architecture: &str, source_suite: &str) -> String {
        let mut text = String::new();
        for entry in [&self.base].into_iter().chain(&self.pockets) {
            stanza(&mut text, entry, "deb", &entry.suite, Some(architecture));
        }
        stanza(&mut text, &self.base, "deb-src", source_suite, None);
        text
    }

    /// A `.sources` file for binary packages of `architecture` from the
    /// release `suite`, whatever the machine's own is.
    pub fn deb822_of(&self, architecture: &str, suite: &str) -> String {
        let mut text = String::new();
        stanza(&mut text, &self.base, "deb", suite, Some(architecture));
        text
    }
}

fn stanza(text: &mut String, entry: &Entry, kind: &str, suite: &str, architecture: Option<&str>) {
    let mut line = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}: {value}");
    };
    line("Types", kind);
    line("URIs", &entry.uri);
    line("Suites", suite);
    line("Components", "main");
    if let Some(architecture) = architecture {
        line("Architectures", architecture);
    }
    if let Some(key) = &entry.signed_by {
        line("Signed-By", key);
    }
    if entry.trusted {
        line("Trusted", "yes");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# a mirror of our own
Types: deb deb-src
URIs: http://mirror.example/debian
# comments may stand between fields
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://other.example/tool
Suites: bookworm
Components: stable
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
";

    #[test]
    fn deb822_gives_one_entry_for_each_suite() {
        let entries = parse_deb822(DEB822);
        let suites: Vec<&str> = entries.iter().map(|entry| entry.suite.as_str()).collect();
        assert_eq!(
            suites,
            [
                "bookworm",
                "bookworm-updates",
                "bookworm-security",
                "bookworm"
            ]
        );
        assert_eq!(entries[0].components, ["main", "contrib"]);
        assert_eq!(
            entries[3].signed_by.as_deref(),
            Some("\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc")
        );
    }

    #[test]
    fn one_line_format_with_and_without_options() {
        let entries = parse_one_line(
            "deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian bookworm main # mine\n\
             #deb http://b.example/debian bookworm main\n\
             deb-src http://c.example/debian bookworm main\n\
             deb\thttp://d.example/security bookworm-security main contrib\n",
        );
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].uri, "http://a.example/debian");
        assert_eq!(entries[0].signed_by.as_deref(), Some("/k.gpg"));
        assert_eq!(entries[1].suite, "bookworm-security");
        assert_eq!(entries[1].components, ["main", "contrib"]);
    }

    #[test]
    fn archives_skip_foreign_repositories_and_disabled_ones() {
        let mut entries = parse_deb822(DEB822);
        entries.rotate_left(3);
        let archives = archives(&entries, "bookworm").unwrap();
        assert_eq!(archives.base.uri, "http://mirror.example/debian");
        let pockets: Vec<&str> = archives
            .pockets
            .iter()
            .map(|entry| entry.suite.as_str())
            .collect();
        assert_eq!(pockets, ["bookworm-updates", "bookworm-security"]);
    }

    #[test]
    fn no_debian_archive_is_an_error_that_names_the_release() {
        let error = archives(&parse_deb822(DEB822), "forky").unwrap_err();
        assert!(error.to_string().contains("forky main"), "{error}");
    }

    #[test]
    fn derived_sources_parse_back_to_the_same_mirror() {
        let archives = archives(&parse_deb822(DEB822), "bookworm").unwrap();
        let text = archives.deb822("arm64", "trixie");
        let again = parse_deb822(&text);
        assert_eq!(again.len(), 3, "the source entry is no binary entry");
        assert!(
            again
                .iter()
                .all(|entry| entry.uri.starts_with("http://mirror.example/"))
        );
        assert!(text.contains(
            "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"
        ));
        assert_eq!(text.matches("Architectures: arm64").count(), 3);

        let other = parse_deb822(&archives.deb822_of("arm64", "trixie"));
        assert_eq!(other.len(), 1);
        assert_eq!(other[0].suite, "trixie");
        assert_eq!(other[0].uri, archives.base.uri);
    }
}
