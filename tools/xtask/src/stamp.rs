//! Content hashes, so that what is up to date is not made again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Gathers the inputs of a step; each is named, so that they cannot be confused.
#[derive(Default)]
pub struct Inputs(Sha256);

impl Inputs {
    /// No inputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a named text or a file's content.
    pub fn add(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds every file of `directory` that `wanted` accepts, by relative path and content.
    pub fn add_tree(mut self, directory: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Self> {
        for path in files(directory, &wanted)? {
            let full = directory.join(&path);
            self = self.add(&path.to_string_lossy(), read(&full)?);
        }
        Ok(self)
    }

    /// The hash of all inputs, in hexadecimal.
    pub fn digest(self) -> String {
        hex(&self.0.finalize())
    }
}

/// SHA-256 of a file, in hexadecimal.
pub fn of_file(path: &Path) -> Result<String> {
    Ok(of_bytes(read(path)?))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn of_bytes(bytes: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(bytes.as_ref()))
}

/// Whether the step that keeps its stamp in `file` last ran with these inputs.
pub fn is_current(file: &Path, digest: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.trim() == digest)
}

/// Records that the step has run with these inputs.
pub fn write(file: &Path, digest: &str) -> Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, format!("{digest}\n"))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// All files and symbolic links below `directory` that `wanted` accepts (it is
/// asked for directories too), relative to it and sorted.
pub fn files(directory: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let full = directory.join(&relative);
        let entries =
            fs::read_dir(&full).with_context(|| format!("cannot read {}", full.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = relative.join(entry.file_name());
            if !wanted(&path) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A file's content; of a symbolic link, where it points to.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    let meta = fs::symlink_metadata(path).with_context(failed)?;
    if meta.is_symlink() {
        let target = fs::read_link(path).with_context(failed)?;
        return Ok(target.into_os_string().into_encoded_bytes());
    }
    fs::read(path).with_context(failed)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_cannot_be_confused() {
        let one = Inputs::new().add("ab", "c").digest();
        let two = Inputs::new().add("a", "bc").digest();
        assert_ne!(one, two);
        assert_eq!(one, Inputs::new().add("ab", "c").digest());
    }

    #[test]
    fn sha256_of_a_known_text() {
        assert_eq!(
            of_bytes("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
