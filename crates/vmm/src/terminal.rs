//! What is at the other end of a guest's console: a log, programs that are connected, and what they type.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::epoll;

/// Programs that may be connected at a time.
const MAX_CLIENTS: usize = 16;
/// Bytes that were typed and that the guest has not read yet.
const MAX_INPUT_BYTES: usize = 4096;
const LISTENER: u64 = u64::MAX;

/// A console's other end. Output is kept up to a limit, and shown to whoever connects; who does not read loses
/// it. Input of all that are connected is one stream; who types faster than the guest reads waits.
pub struct Terminal {
    backlog: VecDeque<u8>,
    backlog_bytes: usize,
    log: Option<File>,
    listener: Option<UnixListener>,
    clients: Vec<(u64, UnixStream)>,
    next_client: u64,
    typed: VecDeque<u8>,
    ready: OwnedFd,
}

impl Terminal {
    /// Keeps `backlog_bytes` of output, writes all of it to `log`, and serves `listener`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(backlog_bytes: usize, log: Option<File>, listener: Option<UnixListener>) -> io::Result<Self> {
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
            epoll::add(&ready, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        }
        Ok(Self {
            backlog: VecDeque::new(),
            backlog_bytes,
            log,
            listener,
            clients: Vec::new(),
            next_client: 0,
            typed: VecDeque::new(),
            ready,
        })
    }

    /// Ready when somebody connects, types or leaves.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Takes what the guest wrote.
    pub fn output(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            // The guest must not wait for a log that cannot be written.
            let _ = log.write_all(bytes);
        }
        let kept = &bytes[bytes.len().saturating_sub(self.backlog_bytes)..];
        let surplus = (self.backlog.len() + kept.len()).saturating_sub(self.backlog_bytes);
        self.backlog.drain(..surplus);
        self.backlog.extend(kept);
        self.clients.retain_mut(|(_, client)| match client.write(bytes) {
            Ok(_) => true, // what did not fit is lost to it
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        });
    }

    /// Looks who came, left and typed.
    pub fn serve(&mut self) {
        let mut room = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 8];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.ready, room.as_mut_slice(), Some(&now)).unwrap_or(0);
        for event in room.iter().take(count) {
            let flags = event.flags;
            match event.data.u64() {
                LISTENER => self.accept(),
                id => self.read(id, flags.contains(epoll::EventFlags::HUP)),
            }
        }
    }

    /// Whether something was typed that the guest has not read.
    pub fn has_input(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Takes up to `limit` bytes of what was typed.
    pub fn input(&mut self, limit: usize) -> Vec<u8> {
        let was_full = self.typed.len() >= MAX_INPUT_BYTES;
        let bytes = self.typed.drain(..limit.min(self.typed.len())).collect();
        if was_full {
            self.listen_to_clients(true);
        }
        bytes
    }

    fn accept(&mut self) {
        let Some(Ok((mut client, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
        if self.clients.len() == MAX_CLIENTS || client.set_nonblocking(true).is_err() {
            return;
        }
        self.backlog.make_contiguous();
        let _ = client.write(self.backlog.as_slices().0);
        let id = self.next_client;
        if epoll::add(&self.ready, &client, epoll::EventData::new_u64(id), epoll::EventFlags::IN).is_ok() {
            self.next_client += 1;
            self.clients.push((id, client));
        }
    }

    fn read(&mut self, id: u64, gone: bool) {
        let Some(index) = self.clients.iter().position(|(client, _)| *client == id) else { return };
        let mut bytes = [0; 512];
        let room = MAX_INPUT_BYTES.saturating_sub(self.typed.len()).min(bytes.len());
        match self.clients[index].1.read(&mut bytes[..room]) {
            Ok(0) if room > 0 || gone => drop(self.clients.swap_remove(index)),
            Ok(count) => self.typed.extend(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => drop(self.clients.swap_remove(index)),
        }
        if self.typed.len() >= MAX_INPUT_BYTES {
            self.listen_to_clients(false);
        }
    }

    /// Listens to those who type, or lets them wait.
    fn listen_to_clients(&self, listen: bool) {
        let flags = if listen { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        for (id, client) in &self.clients {
            // It fails for nobody: each was added.
            let _ = epoll::modify(&self.ready, client, epoll::EventData::new_u64(*id), flags);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> (tempfile::TempDir, Terminal, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("console");
        let listener = UnixListener::bind(&path).expect("a socket");
        (dir, Terminal::new(8, None, Some(listener)).expect("a terminal"), path)
    }

    #[test]
    fn who_connects_sees_what_was_kept() {
        let (_dir, mut terminal, path) = terminal();
        terminal.output(b"0123456789");
        let mut client = UnixStream::connect(&path).expect("a connection");
        terminal.serve();
        assert!(!terminal.has_input());
        terminal.output(b"ab");
        let mut seen = [0; 10];
        client.read_exact(&mut seen).expect("output");
        assert_eq!(&seen, b"23456789ab");
    }

    #[test]
    fn what_is_typed_waits_for_the_guest_and_is_bounded() {
        let (_dir, mut terminal, path) = terminal();
        let mut client = UnixStream::connect(&path).expect("a connection");
        terminal.serve();
        client.write_all(&[b'x'; 5000]).expect("typing");
        for _ in 0..20 {
            terminal.serve();
        }
        assert_eq!(terminal.typed.len(), MAX_INPUT_BYTES);
        assert_eq!(terminal.input(4000).len(), 4000);
        for _ in 0..20 {
            terminal.serve();
        }
        assert_eq!(terminal.input(usize::MAX).len(), 1000);
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let (_dir, mut terminal, path) = terminal();
        drop(UnixStream::connect(&path).expect("a connection"));
        terminal.serve();
        terminal.serve();
        assert!(terminal.clients.is_empty());
    }
}
