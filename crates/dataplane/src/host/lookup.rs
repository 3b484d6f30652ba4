//! A question that one name server after the other is asked, over UDP, or over TCP (RFC 7766) if the guest came by TCP.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with};
use weft_services::DnsForward;
use weft_types::Instant;

use super::OWN;

/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each of them is asked.
const ROUNDS: usize = 2;

/// A question.
pub(super) struct Lookup {
    question: DnsForward,
    servers: Vec<SocketAddr>,
    /// How many times it was asked.
    tries: usize,
    socket: Option<Socket>,
    deadline: Instant,
    /// An answer that says only that the server could not find out.
    failure: Option<Vec<u8>>,
}

/// The way to the server that is asked now.
enum Socket {
    Datagram(OwnedFd),
    Stream(Stream),
}

/// A connection for one question.
struct Stream {
    fd: OwnedFd,
    /// What of the question was not sent yet.
    unsent: Vec<u8>,
    /// What of the answer came.
    received: Vec<u8>,
}

/// What came of an event.
pub(super) enum Progress {
    /// Nothing yet.
    Waits,
    /// The server has no answer: `drive` asks the next one at once.
    Failed,
    /// This may be an answer.
    Answer(Vec<u8>),
}

impl Lookup {
    /// To be asked of the servers that the question names, or else of the host's.
    pub(super) fn new(now: Instant, question: DnsForward, hosts: &[SocketAddr]) -> Self {
        let servers = if question.servers.is_empty() { hosts.to_vec() } else { question.servers.clone() };
        Self { question, servers, tries: 0, socket: None, deadline: now, failure: None }
    }

    /// As the services call it.
    pub(super) fn id(&self) -> u64 {
        self.question.id
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn failure(&self) -> Option<&[u8]> {
        self.failure.as_deref()
    }

    pub(super) fn is_stream(&self) -> bool {
        self.question.is_stream
    }

    /// Asks the next server; `false` when all of them were asked often enough.
    pub(super) fn ask(&mut self, now: Instant, epoll: &OwnedFd, number: u64) -> bool {
        self.socket = None;
        while self.tries < self.servers.len() * ROUNDS {
            let server = self.servers[self.tries % self.servers.len()];
            self.tries += 1;
            let socket = match self.is_stream() {
                true => self.connect_to(server, epoll, number).map(Socket::Stream),
                false => self.send_to(server, epoll, number).map(Socket::Datagram),
            };
            if let Ok(socket) = socket {
                self.socket = Some(socket);
                self.deadline = now + PATIENCE;
                return true;
            }
        }
        false
    }

    /// Sends the question from a socket of its own: its port is random, and only this server can answer to it.
    fn send_to(&self, server: SocketAddr, epoll: &OwnedFd, number: u64) -> Result<OwnedFd, Errno> {
        let socket = open(server, SocketType::DGRAM)?;
        connect(&socket, &server)?;
        send(&socket, &self.question.message, SendFlags::NOSIGNAL)?;
        epoll::add(epoll, &socket, EventData::new_u64(OWN | number), EventFlags::IN)?;
        Ok(socket)
    }

    /// Begins to connect; the question goes out as soon as that is done.
    fn connect_to(&self, server: SocketAddr, epoll: &OwnedFd, number: u64) -> Result<Stream, Errno> {
        let message = &self.question.message;
        let length = u16::try_from(message.len()).map_err(|_| Errno::MSGSIZE)?;
        let fd = open(server, SocketType::STREAM)?;
        match connect(&fd, &server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(epoll, &fd, EventData::new_u64(OWN | number), events)?;
        Ok(Stream { fd, unsent: [&length.to_be_bytes(), &message[..]].concat(), received: Vec::new() })
    }

    /// Nothing more is expected of the server that is asked now.
    pub(super) fn give_up_server(&mut self, now: Instant) {
        self.socket = None;
        self.deadline = now;
    }

    /// Something happened to the socket.
    pub(super) fn progress(&mut self, buffer: &mut [u8]) -> Progress {
        let came = match &mut self.socket {
            None => return Progress::Waits,
            Some(Socket::Datagram(socket)) => {
                recv(&*socket, &mut *buffer, RecvFlags::empty()).map(|(count, _)| buffer[..count].to_vec())
            }
            Some(Socket::Stream(stream)) => stream.progress(buffer),
        };
        match came {
            Err(Errno::AGAIN | Errno::INTR) => Progress::Waits,
            Err(_) => Progress::Failed,
            Ok(answer) => match self.judge(&answer) {
                Verdict::Answer => Progress::Answer(answer),
                Verdict::Failure => {
                    self.failure = Some(answer);
                    Progress::Failed
                }
                Verdict::Forged if self.is_stream() => Progress::Failed,
                Verdict::Forged => Progress::Waits,
            },
        }
    }

    fn judge(&self, answer: &[u8]) -> Verdict {
        const RESPONSE: u8 = 0x80;
        const SERVER_FAILURE: u8 = 2;
        const NOT_IMPLEMENTED: u8 = 4;
        const REFUSED: u8 = 5;
        match answer {
            [a, b, flags, code, ..] if self.question.message.starts_with(&[*a, *b]) && flags & RESPONSE != 0 => {
                match code & 0x0f {
                    SERVER_FAILURE | NOT_IMPLEMENTED | REFUSED => Verdict::Failure,
                    _ => Verdict::Answer, // whether it is one the services see
                }
            }
            _ => Verdict::Forged,
        }
    }
}

/// What an answer is worth.
enum Verdict {
    Answer,
    /// The server failed or refused: another one may know.
    Failure,
    /// Not an answer to this question.
    Forged,
}

impl Stream {
    /// Sends what is left of the question, and reads what there is of the answer; gives it when it is whole, and
    /// [`Errno::AGAIN`] before that.
    fn progress(&mut self, buffer: &mut [u8]) -> Result<Vec<u8>, Errno> {
        while !self.unsent.is_empty() {
            match send(&self.fd, &self.unsent, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno), // AGAIN: the next event tells that there is room
            }
        }
        loop {
            if let Some((length, rest)) = self.received.split_first_chunk::<2>()
                && let Some(answer) = rest.get(..usize::from(u16::from_be_bytes(*length)))
            {
                return Ok(answer.to_vec());
            }
            match recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Err(Errno::CONNRESET),
                Ok((count, _)) => self.received.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn open(server: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}
