//! Questions that Weft's DNS passes on to the host's name servers.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with};
use weft_services::Services;
use weft_types::Instant;

use super::OWN;

const PORT: u16 = 53;
/// How many name servers of the file count (resolv.conf(5), `MAXNS`).
const MAX_SERVERS: usize = 3;
/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each of them is asked.
const ROUNDS: usize = 2;
/// How often the file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);

/// The host's name servers, and the questions they were asked.
pub(super) struct Resolver {
    path: PathBuf,
    servers: Vec<SocketAddr>,
    /// What the file looked like when it was read, and when that was.
    file: Option<FileState>,
    looked: Option<Instant>,
    lookups: HashMap<u64, Lookup>,
    next_number: u64,
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// A question.
struct Lookup {
    /// As the services call it.
    id: u64,
    message: Vec<u8>,
    servers: Vec<SocketAddr>,
    /// How many questions were sent.
    tries: usize,
    socket: Option<OwnedFd>,
    deadline: Instant,
    /// An answer that says only that the server could not find out.
    failure: Option<Vec<u8>>,
}

impl Resolver {
    pub(super) fn new(path: &Path) -> Self {
        let mut resolver = Self {
            path: path.to_owned(),
            servers: Vec::new(),
            file: None,
            looked: None,
            lookups: HashMap::new(),
            next_number: 0,
        };
        resolver.read_file();
        resolver
    }

    /// Name servers in place of the file's, at ports of their own.
    #[cfg(test)]
    pub(super) fn set_servers(&mut self, servers: &[SocketAddr]) {
        self.servers = servers.to_vec();
    }

    /// What does not work, and how to make it work.
    pub(super) fn note(&self) -> Option<String> {
        let path = self.path.display();
        let note =
            || format!("{path} names no name server, so guests find no names of the outside: add a `nameserver` line");
        self.servers.is_empty().then(note)
    }

    /// When [`Self::drive`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.lookups.values().map(|lookup| lookup.deadline).min()
    }

    /// Asks what the services want to know, and asks again where nobody answered.
    pub(super) fn drive(&mut self, now: Instant, epoll: &OwnedFd, services: &mut Services) {
        while let Some(question) = services.poll_dns() {
            self.look_at_file(now);
            let number = self.next_number;
            self.next_number = (number + 1) & !OWN;
            let servers = self.servers.clone();
            let mut lookup = Lookup {
                id: question.id,
                message: question.message,
                servers,
                tries: 0,
                socket: None,
                deadline: now,
                failure: None,
            };
            if lookup.ask(now, epoll, number) {
                self.lookups.insert(number, lookup);
            } else {
                services.dns_answer(now, lookup.id, None);
            }
        }
        self.lookups.retain(|number, lookup| {
            let goes_on = lookup.deadline > now || lookup.ask(now, epoll, *number);
            if !goes_on && !services.dns_answer(now, lookup.id, lookup.failure.as_deref()) {
                services.dns_answer(now, lookup.id, None);
            }
            goes_on
        });
    }

    /// The socket of a question is readable.
    pub(super) fn receive(&mut self, now: Instant, number: u64, services: &mut Services, buffer: &mut [u8]) {
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        let Some(socket) = &lookup.socket else { return };
        match recv(socket, &mut *buffer, RecvFlags::empty()) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody listens there: `drive` asks the next one at once.
            Err(_) => lookup.give_up_server(now),
            Ok((count, _)) => match lookup.judge(&buffer[..count]) {
                Verdict::Answer => {
                    if services.dns_answer(now, lookup.id, Some(&buffer[..count])) {
                        self.lookups.remove(&number);
                    }
                }
                Verdict::Failure => {
                    lookup.failure = Some(buffer[..count].to_vec());
                    lookup.give_up_server(now);
                }
                Verdict::Forged => {}
            },
        }
    }

    /// Reads the file again if it changed.
    fn look_at_file(&mut self, now: Instant) {
        if self.looked.is_some_and(|at| now.since(at) < FILE_INTERVAL) {
            return;
        }
        self.looked = Some(now);
        if self.file != file_state(&self.path).ok() {
            self.read_file();
        }
    }

    fn read_file(&mut self) {
        self.file = file_state(&self.path).ok();
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        self.servers = name_servers(&text);
    }
}

fn file_state(path: &Path) -> io::Result<FileState> {
    let metadata = fs::metadata(path)?;
    let changed = (metadata.mtime(), metadata.mtime_nsec());
    Ok(FileState { inode: metadata.ino(), bytes: metadata.len(), changed })
}

/// The name servers of a resolv.conf(5).
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        let ip: IpAddr = words.next()?.parse().ok()?;
        Some(SocketAddr::new(ip, PORT))
    });
    servers.take(MAX_SERVERS).collect()
}

/// What an answer is worth.
enum Verdict {
    Answer,
    /// The server failed or refused: another one may know.
    Failure,
    /// Not an answer to this question.
    Forged,
}

impl Lookup {
    /// Asks the next server; `false` when all of them were asked often enough.
    fn ask(&mut self, now: Instant, epoll: &OwnedFd, number: u64) -> bool {
        self.socket = None;
        while self.tries < self.servers.len() * ROUNDS {
            let server = self.servers[self.tries % self.servers.len()];
            self.tries += 1;
            if let Ok(socket) = self.send_to(server, epoll, number) {
                self.socket = Some(socket);
                self.deadline = now + PATIENCE;
                return true;
            }
        }
        false
    }

    /// Sends the question from a socket of its own: its port is random, and only this server can answer to it.
    fn send_to(&self, server: SocketAddr, epoll: &OwnedFd, number: u64) -> Result<OwnedFd, Errno> {
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
        connect(&socket, &server)?;
        send(&socket, &self.message, SendFlags::NOSIGNAL)?;
        epoll::add(epoll, &socket, EventData::new_u64(OWN | number), EventFlags::IN)?;
        Ok(socket)
    }

    fn give_up_server(&mut self, now: Instant) {
        self.socket = None;
        self.deadline = now;
    }

    fn judge(&self, answer: &[u8]) -> Verdict {
        const RESPONSE: u8 = 0x80;
        const SERVER_FAILURE: u8 = 2;
        const NOT_IMPLEMENTED: u8 = 4;
        const REFUSED: u8 = 5;
        match answer {
            [a, b, flags, code, ..] if self.message.starts_with(&[*a, *b]) && flags & RESPONSE != 0 => {
                match code & 0x0f {
                    SERVER_FAILURE | NOT_IMPLEMENTED | REFUSED => Verdict::Failure,
                    _ => Verdict::Answer, // whether it is one the services see
                }
            }
            _ => Verdict::Forged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<String> = name_servers(text).iter().map(|server| server.ip().to_string()).collect();
            assert_eq!(found, expected, "{text:?}");
        };
        check("", &[]);
        check("# nameserver 192.0.2.1\nsearch example.org\nnameserver 192.0.2.2 # ours\n", &["192.0.2.2"]);
        check("nameserver\t::1\n  nameserver 127.0.0.53\noptions edns0", &["::1", "127.0.0.53"]);
        check("nameserver\nnameserver x\nnameserver 300.0.0.1\nnameserverx 192.0.2.1", &[]);
        check(
            "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4",
            &["1.1.1.1", "1.1.1.2", "1.1.1.3"],
        );
    }
}
