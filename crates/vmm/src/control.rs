//! The socket at which a machine is controlled: one JSON object a line, and one in answer.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{Timespec, epoll};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Programs that may be connected at a time.
const MAX_CLIENTS: usize = 8;
/// The longest line.
const MAX_LINE_BYTES: usize = 4096;
const LISTENER: u64 = u64::MAX;

/// What a machine can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Say whether it runs.
    Status,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Press the power button.
    PowerButton,
    /// Begin anew.
    Reset,
    /// Say all that is not in the guest's memory, while it stands still.
    State,
    /// End now.
    Quit,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done; what was asked for.
    Ok(Value),
    /// It is not.
    Error(String),
}

/// Whoever controls the machine.
pub(crate) struct Control {
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    next_client: u64,
    ready: OwnedFd,
}

struct Client {
    id: u64,
    stream: UnixStream,
    line: Vec<u8>,
}

impl Control {
    /// Serves whoever connects to `listener`.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn new(listener: Option<UnixListener>) -> io::Result<Self> {
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
            epoll::add(&ready, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        }
        Ok(Self { listener, clients: Vec::new(), next_client: 0, ready })
    }

    /// Ready when somebody connects, says something or leaves.
    pub(crate) fn ready(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Hears what was said, and has `answer` do it.
    pub(crate) fn serve(&mut self, mut answer: impl FnMut(Request) -> Reply) {
        let mut room = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 8];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.ready, room.as_mut_slice(), Some(&now)).unwrap_or(0);
        for event in room.iter().take(count) {
            match event.data.u64() {
                LISTENER => self.accept(),
                id => self.clients.retain_mut(|client| client.id != id || client.serve(&mut answer).is_ok()),
            }
        }
    }

    fn accept(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
        if self.clients.len() == MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
            return;
        }
        let id = self.next_client;
        if epoll::add(&self.ready, &stream, epoll::EventData::new_u64(id), epoll::EventFlags::IN).is_ok() {
            self.next_client += 1;
            self.clients.push(Client { id, stream, line: Vec::new() });
        }
    }
}

impl Client {
    /// Reads what there is and answers whole lines; an error when the client is to go.
    fn serve(&mut self, answer: &mut impl FnMut(Request) -> Reply) -> io::Result<()> {
        let mut bytes = [0; MAX_LINE_BYTES];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        for byte in &bytes[..count] {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > MAX_LINE_BYTES {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                continue;
            }
            let reply = match serde_json::from_slice(&std::mem::take(&mut self.line)) {
                Ok(request) => answer(request),
                Err(error) => Reply::Error(error.to_string()),
            };
            let mut line = serde_json::to_vec(&reply)?;
            line.push(b'\n');
            // A state is longer than a socket's buffer; who asks for it reads it.
            self.stream.set_nonblocking(false)?;
            self.stream.set_write_timeout(Some(std::time::Duration::from_secs(2)))?;
            self.stream.write_all(&line)?;
            self.stream.set_nonblocking(true)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};

    fn check(said: &[u8], expected: &[&str]) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("control");
        let mut control = Control::new(Some(UnixListener::bind(&path).expect("a socket"))).expect("control");
        let mut stream = UnixStream::connect(&path).expect("a connection");
        stream.write_all(said).expect("room");
        let mut asked = Vec::new();
        for _ in 0..8 {
            control.serve(|request| {
                asked.push(request);
                Reply::Ok(serde_json::json!({ "heard": request }))
            });
        }
        drop(control);
        let lines: Vec<_> = BufReader::new(stream).lines().map_while(Result::ok).collect();
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.contains(expected), "{line} has no {expected}");
        }
    }

    #[test]
    fn each_line_is_answered() {
        check(b"{\"do\":\"status\"}\n{\"do\":\"pause\"}\n", &["\"do\":\"status\"", "\"do\":\"pause\""]);
        check(b"{\"do\":\"fly\"}\nnonsense\n", &["unknown variant", "error"]);
        check(b"{\"do\":\"status\"}", &[]);
        check(&[b'x'; 5000], &[]);
    }
}
