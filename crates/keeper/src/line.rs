//! A serial line of the guest: a socket at which one program at a time speaks with it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};

/// How much waits in each direction for who does not read.
const BUFFER_BYTES: usize = 64 << 10;

/// What becomes of what the guest says and nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is lost: the guest waits for nobody.
    Lost,
    /// It waits as long as somebody is connected, and the guest with it.
    Waits,
}

/// A line.
pub(crate) struct Line {
    guest: UnixStream,
    listener: UnixListener,
    client: Option<UnixStream>,
    to_guest: VecDeque<u8>,
    to_client: VecDeque<u8>,
    log: Option<File>,
    unread: Unread,
}

impl Line {
    /// A line that listens at `socket`, and the guest's end of it.
    pub(crate) fn new(socket: &Path, log: Option<File>, unread: Unread) -> io::Result<(Self, UnixStream)> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let (guest, end) = UnixStream::pair()?;
        guest.set_nonblocking(true)?;
        let (to_guest, to_client) = (VecDeque::new(), VecDeque::new());
        Ok((Self { guest, listener, client: None, to_guest, to_client, log, unread }, end))
    }

    /// What is to be watched: the guest's end, and the client's or the place where one comes.
    pub(crate) fn watched(&self) -> [PollFd<'_>; 2] {
        let interest = |reads: bool, writes: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reads);
            flags.set(PollFlags::OUT, writes);
            flags
        };
        let hears = self.unread == Unread::Lost || self.to_client.len() < BUFFER_BYTES;
        let guest = PollFd::new(&self.guest, interest(hears, !self.to_guest.is_empty()));
        let client = match &self.client {
            Some(client) => match interest(self.to_guest.len() < BUFFER_BYTES, !self.to_client.is_empty()) {
                // A client that hung up would be ready all the time, and nothing could be done about it.
                nothing if nothing.is_empty() => PollFd::new(&self.guest, nothing),
                interest => PollFd::new(client, interest),
            },
            None => PollFd::new(&self.listener, PollFlags::IN),
        };
        [guest, client]
    }

    /// Moves what can be moved, where something was found to be ready.
    pub(crate) fn serve(&mut self, [guest_ready, client_ready]: [bool; 2]) {
        if client_ready {
            self.serve_client();
        }
        if guest_ready {
            self.hear_guest();
        }
        // A guest that is gone is noticed by its process.
        let _ = drain(&mut self.to_guest, &mut self.guest);
        if let Some(client) = &mut self.client
            && drain(&mut self.to_client, client).is_err()
        {
            self.hang_up();
        }
    }

    fn serve_client(&mut self) {
        let Some(client) = &mut self.client else {
            let accepted = self.listener.accept().and_then(|(client, _)| {
                client.set_nonblocking(true)?;
                Ok(client)
            });
            self.client = accepted.ok();
            return;
        };
        let mut piece = [0; 4096];
        while self.to_guest.len() < BUFFER_BYTES {
            match client.read(&mut piece) {
                Err(error) if is_temporary(&error) => return,
                Ok(0) | Err(_) => return self.hang_up(),
                Ok(count) => self.to_guest.extend(&piece[..count]),
            }
        }
    }

    fn hear_guest(&mut self) {
        let mut piece = [0; 4096];
        while self.unread == Unread::Lost || self.to_client.len() < BUFFER_BYTES {
            let Ok(count @ 1..) = self.guest.read(&mut piece) else { return };
            let words = &piece[..count];
            if let Some(log) = &mut self.log {
                let _ = log.write_all(words); // a full disk stops no guest
            }
            if self.client.is_some() && self.to_client.len() < BUFFER_BYTES {
                self.to_client.extend(words);
            }
        }
    }

    fn hang_up(&mut self) {
        self.client = None;
        self.to_client.clear();
    }

    /// Takes the last words of a guest that has ended.
    pub(crate) fn finish(&mut self) {
        self.hear_guest();
        self.serve([false, false]);
    }
}

/// Writes what can be written at once.
fn drain(buffer: &mut VecDeque<u8>, to: &mut UnixStream) -> io::Result<()> {
    while !buffer.is_empty() {
        match to.write(buffer.as_slices().0) {
            Ok(count) => drop(buffer.drain(..count)),
            Err(error) if is_temporary(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use rustix::event::{Timespec, poll};

    use super::*;

    /// Serves the line as long as there is something to do.
    fn settle(line: &mut Line) {
        let moment = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            let mut watched = line.watched();
            if poll(&mut watched, Some(&moment)).unwrap() == 0 {
                return;
            }
            let ready = watched.each_ref().map(|watched| !watched.revents().is_empty());
            line.serve(ready);
        }
    }

    #[test]
    fn one_client_after_the_other_speaks_with_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, log) = (dir.path().join("line"), dir.path().join("log"));
        let (mut line, mut guest) = Line::new(&socket, Some(File::create(&log).unwrap()), Unread::Lost).unwrap();
        guest.write_all(b"nobody hears; ").unwrap();
        settle(&mut line);
        for word in [b"one", b"two"] {
            let mut client = UnixStream::connect(&socket).unwrap();
            client.write_all(word).unwrap();
            settle(&mut line);
            let mut heard = [0; 3];
            guest.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, word);
            guest.write_all(word).unwrap();
            settle(&mut line);
            client.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, word);
            drop(client);
            settle(&mut line);
        }
        assert_eq!(std::fs::read(log).unwrap(), b"nobody hears; onetwo");
    }

    #[test]
    fn what_waits_is_bounded() {
        for unread in [Unread::Lost, Unread::Waits] {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("line");
            let (mut line, mut guest) = Line::new(&socket, None, unread).unwrap();
            guest.set_nonblocking(true).unwrap();
            let mut client = UnixStream::connect(&socket).unwrap();
            settle(&mut line);
            let mut sent = 0;
            while let Ok(count) = guest.write(&[7; 4096]) {
                sent += count;
                settle(&mut line);
                if sent > 8 << 20 {
                    break;
                }
            }
            assert_eq!(sent > 8 << 20, unread == Unread::Lost, "{unread:?}: {sent}");
            assert!(line.to_client.len() < BUFFER_BYTES + 4096);
            client.set_nonblocking(true).unwrap();
            let mut received = 0;
            let mut piece = [0; 4096];
            loop {
                match client.read(&mut piece) {
                    Ok(count @ 1..) => received += count,
                    _ if line.to_client.is_empty() => break,
                    _ => {}
                }
                settle(&mut line);
            }
            assert!(unread == Unread::Lost || received == sent, "{received} of {sent}");
        }
    }
}
