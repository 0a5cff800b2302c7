//! How a hypercall gets to Xen, and what to say when it cannot.

use std::io;
use std::path::Path;

use crate::privcmd::Privcmd;

/// Something that makes `vmf_op` hypercalls.
pub trait Transport {
    /// Makes the hypercall with its four arguments.
    ///
    /// # Errors
    /// The errno, positive.
    fn vmf_op(&self, arguments: [u64; 4]) -> Result<u32, i32>;

    /// Which way it goes, for people.
    fn name(&self) -> &'static str;
}

/// Why there is no way to Xen.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not on Xen.
    #[error(
        "this machine does not run on Xen: /sys/hypervisor/type does not say xen; boot Xen, and run this in dom0"
    )]
    NoXen,
    /// On Xen, without the driver.
    #[error(
        "Xen is there, but not /dev/xen/privcmd; load the driver (modprobe xen-privcmd), or use a kernel with CONFIG_XEN_PRIVCMD"
    )]
    NoPrivcmd,
    /// Not allowed to open the driver.
    #[error("no permission to open /dev/xen/privcmd; run this as root")]
    NotPermitted,
    /// Something else.
    #[error("cannot open /dev/xen/privcmd: {0}")]
    Io(io::Error),
}

/// Finds a way to Xen: libxencall if this build can load it and the machine
/// has it, else the privcmd driver.
///
/// # Errors
/// What is missing.
pub fn open() -> Result<Box<dyn Transport>, OpenError> {
    // The driver is what both go through, and it says best what is missing.
    let privcmd = open_in(Path::new("/"))?;
    #[cfg(feature = "libxencall")]
    if let Some(library) = crate::libxencall::Libxencall::load() {
        return Ok(Box::new(library));
    }
    Ok(Box::new(privcmd))
}

fn open_in(root: &Path) -> Result<Privcmd, OpenError> {
    for device in ["dev/xen/privcmd", "proc/xen/privcmd"] {
        let error = match Privcmd::open(&root.join(device)) {
            Ok(privcmd) => return Ok(privcmd),
            Err(error) => error,
        };
        match error.raw_os_error() {
            // Not there, or a node without a driver behind it.
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {}
            Some(libc::EACCES | libc::EPERM) => return Err(OpenError::NotPermitted),
            _ => return Err(OpenError::Io(error)),
        }
    }
    Err(if on_xen(root) {
        OpenError::NoPrivcmd
    } else {
        OpenError::NoXen
    })
}

/// True if the kernel says that it runs on Xen: in sysfs, or in the device
/// tree where sysfs is not mounted.
fn on_xen(root: &Path) -> bool {
    let says = |path: &str, what: &str| {
        std::fs::read(root.join(path))
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains(what))
    };
    says("sys/hypervisor/type", "xen") || says("proc/device-tree/hypervisor/compatible", "xen,xen")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn no_xen_and_no_driver_are_told_apart() {
        let none = root(&[]);
        assert!(matches!(open_in(none.path()), Err(OpenError::NoXen)));
        let kvm = root(&[("sys/hypervisor/type", "kvm\n")]);
        assert!(matches!(open_in(kvm.path()), Err(OpenError::NoXen)));
        let no_driver = root(&[("sys/hypervisor/type", "xen\n")]);
        assert!(matches!(
            open_in(no_driver.path()),
            Err(OpenError::NoPrivcmd)
        ));
        let tree = root(&[(
            "proc/device-tree/hypervisor/compatible",
            "xen,xen-4.20\0xen,xen\0",
        )]);
        assert!(matches!(open_in(tree.path()), Err(OpenError::NoPrivcmd)));
    }

    #[test]
    fn the_driver_may_be_in_dev_or_in_proc() {
        for path in ["dev/xen/privcmd", "proc/xen/privcmd"] {
            assert!(open_in(root(&[(path, "")]).path()).is_ok());
        }
    }

    #[test]
    fn a_directory_in_its_place_is_an_error_of_its_own() {
        let odd = root(&[("dev/xen/privcmd/x", "")]);
        assert!(matches!(open_in(odd.path()), Err(OpenError::Io(_))));
    }
}
