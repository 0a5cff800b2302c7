//! Names of domains: xenstore's `/local/domain/ID/name`.
//!
//! A dom0less system often has no xenstore, and /dev/xen/xenbus then takes a
//! request and never answers it: every read has a deadline.
#![allow(unsafe_code, reason = "waits for a file with poll()")]

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use xenctrl_ffi::DomId;

/// How long xenstore may take for an answer.
const DEADLINE: Duration = Duration::from_millis(500);
/// `XS_READ`, `XS_ERROR` (public/io/xs_wire.h).
const XS_READ: u32 = 2;
const XS_ERROR: u32 = 16;
/// `XENSTORE_PAYLOAD_MAX`.
const PAYLOAD_MAX: u32 = 4096;

/// Where names come from.
pub enum Names {
    /// Nowhere: domains go by id.
    None,
    /// Xenstore.
    Xenstore(RefCell<Store>),
    /// A fixed list, for tests.
    Fixed(Vec<(DomId, String)>),
}

impl Names {
    /// Looks for xenstore: its socket, then its device.
    #[must_use]
    pub fn from_xenstore() -> Self {
        let sockets = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
        let socket = sockets.iter().find_map(|p| UnixStream::connect(p).ok());
        let mut store = match socket {
            Some(socket) => Store::Socket(socket),
            None => match OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/xen/xenbus")
            {
                Ok(device) => Store::Device(device),
                Err(_) => return Self::None,
            },
        };
        // The root is always there: if it cannot be read, nothing can.
        match store.read("/") {
            Ok(_) => Self::Xenstore(RefCell::new(store)),
            Err(_) => Self::None,
        }
    }

    /// True if names are known.
    #[must_use]
    pub fn known(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// The name of a domain.
    #[must_use]
    pub fn get(&self, id: DomId) -> Option<String> {
        match self {
            Self::None => None,
            Self::Fixed(list) => list.iter().find(|(i, _)| *i == id).map(|(_, n)| n.clone()),
            Self::Xenstore(store) => store
                .borrow_mut()
                .read(&format!("/local/domain/{id}/name"))
                .ok()
                .flatten(),
        }
    }
}

/// A connection to xenstore.
pub enum Store {
    /// To the daemon in this domain.
    Socket(UnixStream),
    /// Through the kernel's driver.
    Device(File),
}

impl Store {
    /// Reads a node; none if there is no such node.
    fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        let mut payload = path.as_bytes().to_vec();
        payload.push(0);
        let length = payload.len() as u32;
        let header = [XS_READ, 0, 0, length].map(u32::to_ne_bytes).concat();
        // In one piece: the device takes it as one request.
        self.write_all(&[header, payload].concat())?;
        let mut header = [0u8; 16];
        self.read_exact(&mut header)?;
        let field =
            |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let length = field(12);
        if length > PAYLOAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length as usize];
        self.read_exact(&mut payload)?;
        Ok((field(0) != XS_ERROR).then(|| String::from_utf8_lossy(&payload).into_owned()))
    }

    fn fd(&self) -> RawFd {
        match self {
            Self::Socket(socket) => socket.as_raw_fd(),
            Self::Device(file) => file.as_raw_fd(),
        }
    }
}

impl Read for Store {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut wait = libc::pollfd {
            fd: self.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor, which is open as long as `self`.
        let ready = unsafe { libc::poll(&raw mut wait, 1, DEADLINE.as_millis() as libc::c_int) };
        if ready <= 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match self {
            Self::Socket(socket) => socket.read(buffer),
            Self::Device(file) => file.read(buffer),
        }
    }
}

impl Write for Store {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.write(buffer),
            Self::Device(file) => file.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each request with the next of `answers`.
    fn daemon(answers: &'static [(u32, &'static str)]) -> Store {
        let (client, mut server) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            for (kind, text) in answers {
                let mut header = [0u8; 16];
                server.read_exact(&mut header).unwrap();
                let length = u32::from_ne_bytes(header[12..].try_into().unwrap());
                let mut path = vec![0; length as usize];
                server.read_exact(&mut path).unwrap();
                assert_eq!(path.last(), Some(&0));
                let header = [*kind, 0, 0, text.len() as u32].map(u32::to_ne_bytes);
                server.write_all(&header.concat()).unwrap();
                server.write_all(text.as_bytes()).unwrap();
            }
            std::thread::sleep(2 * DEADLINE);
        });
        Store::Socket(client)
    }

    #[test]
    fn names_and_missing_nodes() {
        let names = Names::Xenstore(RefCell::new(daemon(&[
            (XS_READ, "guest"),
            (XS_ERROR, "ENOENT\0"),
        ])));
        assert_eq!(names.get(DomId::new(1).unwrap()).as_deref(), Some("guest"));
        assert_eq!(names.get(DomId::new(2).unwrap()), None);
    }

    #[test]
    fn a_store_that_does_not_answer_is_not_waited_for() {
        assert!(daemon(&[]).read("/").is_err());
    }
}
