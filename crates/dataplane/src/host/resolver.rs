//! Questions that Weft's DNS passes on: to the host's name servers, or to those of a domain.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_services::Services;
use weft_types::Instant;

use super::OWN;
use super::lookup::{Lookup, Progress};

const PORT: u16 = 53;
/// How many name servers of the file count (resolv.conf(5), `MAXNS`).
const MAX_SERVERS: usize = 3;
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

    #[cfg(test)]
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
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
        self.lookups.values().map(Lookup::deadline).min()
    }

    /// Asks what the services want to know, and asks again where nobody answered.
    pub(super) fn drive(&mut self, now: Instant, epoll: &OwnedFd, services: &mut Services) {
        if self.look_at_file(now) {
            services.forget_dns_answers();
        }
        while let Some(question) = services.poll_dns() {
            let number = self.next_number;
            self.next_number = (number + 1) & !OWN;
            let mut lookup = Lookup::new(now, question, &self.servers);
            if lookup.ask(now, epoll, number) {
                self.lookups.insert(number, lookup);
            } else {
                services.dns_answer(now, lookup.id(), None);
            }
        }
        self.lookups.retain(|number, lookup| {
            let goes_on = lookup.deadline() > now || lookup.ask(now, epoll, *number);
            if !goes_on && !services.dns_answer(now, lookup.id(), lookup.failure()) {
                services.dns_answer(now, lookup.id(), None);
            }
            goes_on
        });
    }

    /// Something happened to the socket of a question.
    pub(super) fn progress(&mut self, now: Instant, number: u64, services: &mut Services, buffer: &mut [u8]) {
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        match lookup.progress(buffer) {
            Progress::Waits => {}
            Progress::Failed => lookup.give_up_server(now),
            Progress::Answer(answer) => {
                if services.dns_answer(now, lookup.id(), Some(&answer)) {
                    self.lookups.remove(&number);
                } else if lookup.is_stream() {
                    lookup.give_up_server(now); // no other answer comes on this connection
                }
            }
        }
    }

    /// Reads the file again if it changed; whether other servers stand in it now.
    fn look_at_file(&mut self, now: Instant) -> bool {
        if self.looked.is_some_and(|at| now.since(at) < FILE_INTERVAL) {
            return false;
        }
        self.looked = Some(now);
        if self.file == file_state(&self.path).ok() {
            return false;
        }
        let before = std::mem::take(&mut self.servers);
        self.read_file();
        self.servers != before
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
