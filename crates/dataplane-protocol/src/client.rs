use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

use crate::line::{LineBuffer, LineError, to_line};
use crate::{Request, Response};

/// How long the switch may take for one answer before it counts as hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The most descriptors that travel with one request.
pub const MAX_DESCRIPTORS: usize = 64;

/// Why the switch gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the control socket.
    #[error("cannot reach the switch at `{}`", path.display())]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the switch broke")]
    Io(#[source] io::Error),
    /// The switch ended, or ended the connection, before it answered.
    #[error("the switch hung up before it answered")]
    HungUp,
    /// The switch took too long.
    #[error("the switch did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The switch speaks another language; most likely it is of another version.
    #[error("the switch's answer is not understood")]
    Answer(#[source] LineError),
}

impl ClientError {
    /// How to fix it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Connect { .. } | Self::HungUp | Self::Io(_) => "`weft up` starts a new switch",
            Self::TimedOut(_) => "if it stays so, end the switch process: no VM stops, and `weft up` starts a new one",
            Self::Answer(_) => "end the switch process: `weft up` starts one of this version, and no VM stops",
        }
    }

    /// Whether no switch runs at all (as opposed to one that misbehaves).
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Connect { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }
}

/// A blocking connection to a switch's control socket.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: LineBuffer,
    timeout: Duration,
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`]; [`ClientError::is_absent`] tells whether a switch runs at all.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let attempt = || -> io::Result<UnixStream> {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // A Unix socket's `connect` waits while the backlog is full; the send timeout bounds that too.
            set_socket_timeout(&socket, Timeout::Send, Some(ANSWER_TIMEOUT))?;
            connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(UnixStream::from(socket))
        };
        let stream = attempt().map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        Ok(Self { stream, lines: LineBuffer::default(), timeout: ANSWER_TIMEOUT })
    }

    /// The same connection, waiting `timeout` for each answer.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks, and waits for the answer. A [`Response::Refused`] is an answer, too.
    ///
    /// # Errors
    /// When no answer comes. The connection is of no use after that.
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.call_with(request, &[])
    }

    /// [`Self::call`] that hands open descriptors over, such as TAP devices: the switch tells each by the
    /// interface that it belongs to.
    ///
    /// # Errors
    /// As [`Self::call`], and when there are more than [`MAX_DESCRIPTORS`].
    pub fn call_with(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Response, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let line = to_line(request).map_err(ClientError::Io)?;
        self.send(&line, descriptors, deadline)?;
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(answer) = self.lines.pop() {
                return answer.map_err(ClientError::Answer);
            }
            self.stream.set_read_timeout(Some(self.left(deadline)?)).map_err(ClientError::Io)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::HungUp),
                Ok(count) => self.lines.push(&chunk[..count]).map_err(ClientError::Answer)?,
                Err(error) => self.check(error)?,
            }
        }
    }

    /// Sends all of `line`, and `descriptors` with its first byte.
    fn send(&mut self, mut line: &[u8], mut fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<(), ClientError> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        while !line.is_empty() {
            let mut ancillary = SendAncillaryBuffer::new(&mut room);
            if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(ClientError::Io(io::Error::other("too many descriptors for one request")));
            }
            let left = self.left(deadline)?;
            set_socket_timeout(&self.stream, Timeout::Send, Some(left)).map_err(|e| ClientError::Io(e.into()))?;
            match sendmsg(self.stream.as_fd(), &[io::IoSlice::new(line)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    line = &line[count..];
                    fds = &[];
                }
                Err(error) => self.check(error.into())?,
            }
        }
        Ok(())
    }

    /// The time that is left until `deadline`, never zero (which would mean forever).
    fn left(&self, deadline: Instant) -> Result<Duration, ClientError> {
        match deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ClientError::TimedOut(self.timeout)),
            left => Ok(left.max(Duration::from_millis(1))),
        }
    }

    /// Tells interruptions and timeouts, which the caller's loop handles, from real errors.
    fn check(&self, error: io::Error) -> Result<(), ClientError> {
        match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Err(ClientError::HungUp),
            _ => Err(ClientError::Io(error)),
        }
    }
}

impl AsFd for Client {
    /// Readable between two calls only when the switch has hung up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A switch that reads one line, answers with `answer` and hangs up after `linger`.
    fn ask_one_that_answers(answer: &'static [u8], linger: Duration) -> Result<Response, ClientError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let switch = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer).unwrap();
            thread::sleep(linger);
        });
        let mut client = Client::connect(&path)?.with_timeout(Duration::from_millis(200));
        let answer = client.call(&Request::Status);
        switch.join().unwrap();
        answer
    }

    #[test]
    fn answers_and_their_absence() {
        let at_once = Duration::ZERO;
        let ask = ask_one_that_answers;
        assert_eq!(ask(b"{\"response\":\"done\"}\n", at_once).unwrap(), Response::Done);
        assert!(matches!(ask(b"{\"response\":\"do", at_once), Err(ClientError::HungUp)));
        assert!(matches!(ask(b"hello\n", at_once), Err(ClientError::Answer(_))));
        assert!(matches!(ask(b"{", Duration::from_millis(600)), Err(ClientError::TimedOut(_))));
    }

    #[test]
    fn nobody_there() {
        let directory = tempfile::tempdir().unwrap();
        let error = Client::connect(&directory.path().join("control")).unwrap_err();
        assert!(error.is_absent(), "{error:?}");
    }
}
