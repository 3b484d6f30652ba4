//! The host's half of a guest's TCP connection, whoever began it.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType, connect, sendmsg, shutdown, socket_with, sockopt,
};
use weft_services::nat::{FlowId, Nat};
use weft_types::Instant;

use super::{error, family_of};

/// A socket of a flow.
pub(super) struct TcpSocket {
    fd: OwnedFd,
    state: State,
    /// Reading, or writing, was not refused since the last event.
    is_readable: bool,
    is_writable: bool,
    /// The remote side ended its half, or all of it: bytes that wait are the last.
    is_ending: bool,
    has_error: bool,
    /// It is a client's whom the guest has not answered yet.
    is_waiting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Connected,
    /// The NAT device was told that no more comes.
    Finished,
    /// The NAT device was told that it failed.
    Broken,
}

impl TcpSocket {
    /// Begins to connect.
    pub(super) fn connect(epoll: &OwnedFd, flow: FlowId, to: SocketAddr) -> Result<Self, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family_of(to.ip()), SocketType::STREAM, flags, None)?;
        watch(epoll, flow, &fd)?;
        match connect(&fd, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        Ok(Self::new(fd, State::Connecting))
    }

    /// Takes over the socket of a client that was accepted.
    pub(super) fn accepted(epoll: &OwnedFd, flow: FlowId, fd: OwnedFd) -> Result<Self, Errno> {
        watch(epoll, flow, &fd)?; // which tells at once that it may be written
        Ok(Self { is_waiting: true, ..Self::new(fd, State::Connected) })
    }

    fn new(fd: OwnedFd, state: State) -> Self {
        let (is_readable, is_writable) = (false, false);
        Self { fd, state, is_readable, is_writable, is_ending: false, has_error: false, is_waiting: false }
    }

    /// An event came.
    pub(super) fn note(&mut self, flags: EventFlags) {
        let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.is_ending |= ends;
        self.has_error |= flags.contains(EventFlags::ERR);
        self.is_readable |= ends || flags.contains(EventFlags::IN);
        self.is_writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }

    /// Whether it is of no more use.
    pub(super) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Moves what can be moved, in both directions; `scratch` is for what comes while the flow holds no memory.
    pub(super) fn progress(&mut self, now: Instant, nat: &mut Nat, flow: FlowId, scratch: &mut [u8]) {
        let result = match self.state {
            State::Connecting if !self.is_writable => Ok(()),
            State::Connecting => self.conclude_connect(now, nat, flow),
            State::Connected | State::Finished | State::Broken => Ok(()),
        };
        let result = result.and_then(|()| match self.state {
            State::Connected => self.write(now, nat, flow).and_then(|()| self.read(now, nat, flow, scratch)),
            State::Finished => self.check_error().and_then(|()| self.write(now, nat, flow)),
            State::Connecting | State::Broken => Ok(()),
        });
        if let Err(errno) = result {
            self.state = State::Broken;
            nat.tcp_failed(now, flow, error::of(errno));
        }
    }

    /// An error that no read will tell, because all was read.
    fn check_error(&mut self) -> Result<(), Errno> {
        if std::mem::take(&mut self.has_error) { sockopt::socket_error(&self.fd)? } else { Ok(()) }
    }

    fn conclude_connect(&mut self, now: Instant, nat: &mut Nat, flow: FlowId) -> Result<(), Errno> {
        sockopt::socket_error(&self.fd)??;
        self.state = State::Connected;
        nat.tcp_connected(now, flow);
        Ok(())
    }

    /// Writes what the guest sent.
    fn write(&mut self, now: Instant, nat: &mut Nat, flow: FlowId) -> Result<(), Errno> {
        while self.is_writable {
            let outgoing = nat.tcp_outgoing(flow);
            if outgoing.is_empty() {
                if outgoing.then_shut {
                    match shutdown(&self.fd, Shutdown::Write) {
                        // Not connected any more: reading tells the rest.
                        Ok(()) | Err(Errno::NOTCONN) => nat.tcp_shut(now, flow),
                        Err(errno) => return Err(errno),
                    }
                }
                break;
            }
            let parts = outgoing.bytes.map(IoSlice::new);
            match sendmsg(&self.fd, &parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Ok(count) => nat.tcp_written(now, flow, count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.is_writable = false,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Reads as much as the guest has room for.
    fn read(&mut self, now: Instant, nat: &mut Nat, flow: FlowId, scratch: &mut [u8]) -> Result<(), Errno> {
        while self.is_readable {
            let fits = nat.tcp_fits(flow).min(scratch.len());
            let (room_bytes, result) = if fits > 0 {
                (fits, rustix::io::read(&self.fd, &mut scratch[..fits]))
            } else {
                let room = nat.tcp_room(now, flow);
                let room_bytes = room[0].len() + room[1].len();
                if room_bytes == 0 {
                    // Whom nobody has answered yet may leave; what he left behind is for nobody.
                    return if self.is_waiting { self.check_error() } else { Ok(()) };
                }
                (room_bytes, rustix::io::readv(&self.fd, &mut room.map(IoSliceMut::new)))
            };
            self.is_waiting = false;
            match result {
                Ok(0) => {
                    self.is_readable = false;
                    self.state = State::Finished;
                    nat.tcp_finished(now, flow);
                }
                Ok(count) => {
                    // Less than there was room for: the socket is empty, and the next byte is another event.
                    self.is_readable = count == room_bytes || self.is_ending;
                    if fits > 0 {
                        nat.tcp_take(now, flow, &scratch[..count]);
                    } else {
                        nat.tcp_read(now, flow, count);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.is_readable = false,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Ends it, with a reset where the remote side is to see that something is missing.
    pub(super) fn close(self, reset: bool) {
        if reset {
            self::reset(self.fd);
        }
    }
}

/// Has epoll watch a new socket, both ways.
fn watch(epoll: &OwnedFd, flow: FlowId, fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(fd, true)?; // the guest's TCP has gathered already
    sockopt::set_socket_keepalive(fd, true)?;
    let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(epoll, fd, EventData::new_u64(flow.to_bits()), events)
}

/// Closes a socket with a reset.
pub(super) fn reset(fd: OwnedFd) {
    let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO)); // an orderly end is the best we can do
}
