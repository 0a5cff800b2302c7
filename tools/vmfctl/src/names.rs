//! Names of domains: xenstore's `/local/domain/ID/name`.
//!
//! A dom0less system often has no xenstore, and /dev/xen/xenbus then takes a
//! request and never answers it: every read has a deadline. Once it has passed,
//! nothing is asked any more: what comes late would answer the next question,
//! and one domain would get the name of another.
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
            Some(socket) => Store::new(Connection::Socket(socket)),
            None => match OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/xen/xenbus")
            {
                Ok(device) => Store::new(Connection::Device(device)),
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

/// Xenstore, and what was asked of it.
pub struct Store {
    connection: Connection,
    /// Number of the last request, which its answer has to bear.
    request: u32,
    /// A request was not answered in time, or by what is no answer to it.
    lost: bool,
}

/// A connection to xenstore.
enum Connection {
    /// To the daemon in this domain.
    Socket(UnixStream),
    /// Through the kernel's driver.
    Device(File),
}

impl Store {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            request: 0,
            lost: false,
        }
    }

    /// Reads a node; none if there is no such node.
    fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        if self.lost {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let answer = self.ask(path);
        self.lost = answer.is_err();
        answer
    }

    fn ask(&mut self, path: &str) -> io::Result<Option<String>> {
        self.request += 1;
        let mut payload = path.as_bytes().to_vec();
        payload.push(0);
        let length = payload.len() as u32;
        let header = [XS_READ, self.request, 0, length]
            .map(u32::to_ne_bytes)
            .concat();
        // In one piece: the device takes it as one request.
        self.connection.write_all(&[header, payload].concat())?;
        let mut header = [0u8; 16];
        self.connection.read_exact(&mut header)?;
        let field =
            |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let length = field(12);
        if field(4) != self.request || length > PAYLOAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length as usize];
        self.connection.read_exact(&mut payload)?;
        Ok((field(0) != XS_ERROR).then(|| String::from_utf8_lossy(&payload).into_owned()))
    }
}

impl Connection {
    fn fd(&self) -> RawFd {
        match self {
            Self::Socket(socket) => socket.as_raw_fd(),
            Self::Device(file) => file.as_raw_fd(),
        }
    }
}

impl Read for Connection {
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

impl Write for Connection {
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

    /// What a daemon does with a request.
    struct Answer {
        kind: u32,
        text: &'static str,
        late: bool,
        /// Added to the request's number.
        off: u32,
    }

    const GUEST: Answer = Answer {
        kind: XS_READ,
        text: "guest",
        late: false,
        off: 0,
    };

    /// Answers each request with the next of `answers`.
    fn daemon(answers: &'static [Answer]) -> Store {
        let (client, mut server) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let mut header = [0u8; 16];
                server.read_exact(&mut header).unwrap();
                let request = u32::from_ne_bytes(header[4..8].try_into().unwrap());
                let length = u32::from_ne_bytes(header[12..].try_into().unwrap());
                let mut path = vec![0; length as usize];
                server.read_exact(&mut path).unwrap();
                assert_eq!(path.last(), Some(&0));
                if answer.late {
                    std::thread::sleep(DEADLINE + DEADLINE / 2);
                }
                let number = request + answer.off;
                let header = [answer.kind, number, 0, answer.text.len() as u32];
                server
                    .write_all(&header.map(u32::to_ne_bytes).concat())
                    .unwrap();
                server.write_all(answer.text.as_bytes()).unwrap();
            }
            std::thread::sleep(2 * DEADLINE);
        });
        Store::new(Connection::Socket(client))
    }

    fn two_names(answers: &'static [Answer]) -> [Option<String>; 2] {
        let names = Names::Xenstore(RefCell::new(daemon(answers)));
        [1, 2].map(|id| names.get(DomId::new(id).unwrap()))
    }

    #[test]
    fn names_and_missing_nodes() {
        const MISSING: Answer = Answer {
            kind: XS_ERROR,
            text: "ENOENT\0",
            ..GUEST
        };
        let names = two_names(&[GUEST, MISSING]);
        assert_eq!(names, [Some("guest".to_owned()), None]);
    }

    #[test]
    fn a_store_that_does_not_answer_is_not_waited_for() {
        assert!(daemon(&[]).read("/").is_err());
    }

    #[test]
    fn a_late_answer_names_no_other_domain() {
        const LATE: Answer = Answer {
            late: true,
            ..GUEST
        };
        assert_eq!(two_names(&[LATE, GUEST]), [None, None]);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        const OTHER: Answer = Answer { off: 1, ..GUEST };
        assert_eq!(two_names(&[OTHER, GUEST]), [None, None]);
    }
}
