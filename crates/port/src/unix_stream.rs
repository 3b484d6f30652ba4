//! Frames behind a 32-bit big-endian length on a Unix stream socket: what QEMU's `-netdev stream` speaks.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use weft_wire::Offload;

use crate::epoll::Epoll;
use crate::socket::{REDIAL, Side, SocketFile, dial, listen_at};
use crate::{BURST_FRAMES, Caps, Frame, Lent, Link, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Port, PortError, SendError};

const LENGTH_BYTES: usize = 4;

/// Room for what was read; holds at least one frame of any length besides the one that is being read.
const INCOMING_BYTES: usize = 2 * (LENGTH_BYTES + MAX_FRAME_BYTES);

/// What may wait for a slow peer.
const OUTGOING_BYTES: usize = 256 << 10;

/// So much is written at once while frames keep coming: each call of the kernel costs as much as many frames.
const WRITE_BYTES: usize = 32 << 10;

/// After so many bursts of nothing, what waits to be written waits no more.
const QUIET_ROUNDS: u32 = 4;

/// A length that no frame has; the stream is of no use behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer announced a frame of {0} bytes")]
pub struct LengthError(pub u32);

/// Cuts a byte stream into frames, without copying them out.
#[derive(Debug)]
pub struct FrameSplitter {
    buffer: Box<[u8]>,
    /// What was read and not yet cut.
    filled: Range<usize>,
}

impl Default for FrameSplitter {
    fn default() -> Self {
        Self { buffer: vec![0; INCOMING_BYTES].into(), filled: 0..0 }
    }
}

impl FrameSplitter {
    /// Where the next bytes go; follow with [`Self::fill`]. Frames that were cut are gone after this.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        &mut self.buffer[self.filled.end..]
    }

    /// `count` bytes were written to [`Self::room`].
    pub fn fill(&mut self, count: usize) {
        self.filled.end = (self.filled.end + count).min(self.buffer.len());
    }

    /// The next whole frame's place, for [`Self::bytes`].
    ///
    /// # Errors
    /// When the length is one that no frame has.
    pub fn cut(&mut self) -> Result<Option<Range<usize>>, LengthError> {
        let next = self.next()?;
        if let Some(place) = &next {
            self.filled.start = place.end;
        }
        Ok(next)
    }

    /// Where the next frame lies, when it is whole.
    fn next(&self) -> Result<Option<Range<usize>>, LengthError> {
        let Some((length, rest)) = self.buffer[self.filled.clone()].split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&(length as usize)) {
            return Err(LengthError(length));
        }
        let start = self.filled.start + LENGTH_BYTES;
        Ok((rest.len() >= length as usize).then_some(start..start + length as usize))
    }

    /// A frame that was cut since the last [`Self::room`].
    pub fn bytes(&self, place: Range<usize>) -> &[u8] {
        &self.buffer[place]
    }

    /// Whether [`Self::cut`] would find something, if only a length that lies.
    fn is_ready(&self) -> bool {
        !matches!(self.next(), Ok(None))
    }
}

/// Serves one peer at a time, which may come back as often as it likes.
pub struct UnixStreamPort {
    door: Door,
    epoll: Epoll,
    peer: Option<Peer>,
    absence: Cow<'static, str>,
}

/// Where peers come from.
enum Door {
    /// They connect to this socket.
    Listener { socket: OwnedFd, _file: SocketFile },
    /// There is one, which listens here; the timer says when to try again.
    Peer { path: PathBuf, timer: OwnedFd },
}

impl Door {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener { socket, .. } => socket.as_fd(),
            Self::Peer { timer, .. } => timer.as_fd(),
        }
    }

    /// The peer that waits behind it.
    fn next(&self) -> Option<OwnedFd> {
        match self {
            Self::Listener { socket, .. } => accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok(),
            Self::Peer { path, timer } => {
                let _ = rustix::io::read(timer, &mut [0; 8]);
                dial(path, SocketFlags::NONBLOCK)
            }
        }
    }
}

struct Peer {
    stream: OwnedFd,
    incoming: FrameSplitter,
    lent: Vec<Range<usize>>,
    outgoing: Vec<u8>,
    wants_room: bool,
    /// How often frames were asked for since the last one was sent.
    quiet_rounds: u32,
}

impl UnixStreamPort {
    /// Listens at `socket`, or connects to the peer that does.
    ///
    /// # Errors
    /// When the socket cannot be made there.
    pub fn open(socket: &Path, side: Side) -> Result<Self, PortError> {
        let epoll = Epoll::new()?;
        let (door, absence) = match side {
            Side::Listen => {
                let (socket, file) = listen_at(socket)?;
                (Door::Listener { socket, _file: file }, "waits for a peer to connect")
            }
            Side::Connect => (Door::Peer { path: socket.to_owned(), timer: redial_timer()? }, "no peer listens there"),
        };
        epoll.add(door.fd(), EventFlags::IN)?;
        Ok(Self { door, epoll, peer: None, absence: absence.into() })
    }

    fn accept(&mut self) {
        let Some(stream) = self.door.next() else { return };
        if self.epoll.add(&stream, EventFlags::IN).is_ok() {
            self.epoll.remove(self.door.fd()); // further peers wait in the backlog without keeping us awake
            self.peer = Some(Peer {
                stream,
                incoming: FrameSplitter::default(),
                lent: Vec::with_capacity(BURST_FRAMES),
                outgoing: Vec::new(),
                wants_room: false,
                quiet_rounds: 0,
            });
        }
    }

    fn hang_up(&mut self, reason: Cow<'static, str>) {
        if let Some(peer) = self.peer.take() {
            self.epoll.remove(&peer.stream);
            let _ = self.epoll.add(self.door.fd(), EventFlags::IN);
            self.absence = reason;
        }
    }
}

/// Readable each time that it is worth trying to connect.
fn redial_timer() -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let pause = Timespec { tv_sec: 0, tv_nsec: REDIAL.subsec_nanos().into() };
    let soon = Timespec { tv_sec: 0, tv_nsec: 1 };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: pause, it_value: soon })?;
    Ok(timer)
}

impl Peer {
    /// Reads once and cuts what is there.
    fn recv(&mut self) -> Result<(), Cow<'static, str>> {
        if !self.incoming.is_ready() {
            match recv(&self.stream, self.incoming.room(), RecvFlags::empty()) {
                Ok((_, 0)) => return Err("the peer hung up".into()),
                Ok((_, count)) => self.incoming.fill(count),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(format!("the connection broke: {error}").into()),
            }
        }
        while self.lent.len() < BURST_FRAMES
            && let Some(place) = self.incoming.cut().map_err(|error| error.to_string())?
        {
            self.lent.push(place);
        }
        Ok(())
    }

    /// Writes what the peer takes.
    fn flush(&mut self) -> Result<(), Cow<'static, str>> {
        let mut sent = 0;
        let result = loop {
            let rest = &self.outgoing[sent..];
            if rest.is_empty() {
                break Ok(());
            }
            match send(&self.stream, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => break Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => break Err(format!("the connection broke: {error}").into()),
            }
        };
        self.outgoing.drain(..sent);
        result
    }
}

impl Port for UnixStreamPort {
    fn driver(&self) -> &'static str {
        "unix-stream"
    }

    fn caps(&self) -> Caps {
        Caps::default()
    }

    fn link(&self) -> Link {
        if self.peer.is_some() { Link::Up } else { Link::Down(self.absence.clone()) }
    }

    fn recv(&mut self) -> Lent {
        let Some(peer) = &mut self.peer else { return Lent::default() };
        peer.quiet_rounds += 1;
        let written = if peer.quiet_rounds == QUIET_ROUNDS { peer.flush() } else { Ok(()) };
        let result = written.and_then(|()| peer.recv());
        let frames = peer.lent.len();
        match result {
            Err(reason) if frames == 0 => {
                self.hang_up(reason);
                Lent::default()
            }
            // What came before the error still counts; the error comes again.
            _ => Lent { frames, malformed: 0 },
        }
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        let bytes = self.peer.as_ref().map_or(&[][..], |peer| peer.incoming.bytes(peer.lent[index].clone()));
        Frame::new(bytes, Offload::default())
    }

    fn release(&mut self) {
        if let Some(peer) = &mut self.peer {
            peer.lent.clear();
        }
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        let Some(peer) = &mut self.peer else { return Err(SendError::Down) };
        if frame.len() > MAX_FRAME_BYTES {
            return Err(SendError::TooLong);
        }
        if peer.outgoing.len() + LENGTH_BYTES + frame.len() > OUTGOING_BYTES {
            return Err(SendError::Full);
        }
        peer.outgoing.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        frame.append_to(&mut peer.outgoing);
        peer.quiet_rounds = 0;
        Ok(())
    }

    fn flush(&mut self) {
        if let Some(peer) = &mut self.peer
            && peer.outgoing.len() >= WRITE_BYTES
            && let Err(reason) = peer.flush()
        {
            self.hang_up(reason);
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn sleep(&mut self) -> bool {
        let Some(peer) = &mut self.peer else { return true };
        if let Err(reason) = peer.flush() {
            self.hang_up(reason);
            return true;
        }
        if !peer.outgoing.is_empty() && !peer.wants_room {
            peer.wants_room = self.epoll.modify(&peer.stream, EventFlags::IN | EventFlags::OUT).is_ok();
        }
        !peer.incoming.is_ready()
    }

    fn wake(&mut self) {
        match &mut self.peer {
            None => self.accept(),
            Some(peer) if peer.wants_room => {
                peer.wants_room = self.epoll.modify(&peer.stream, EventFlags::IN).is_err();
                if let Err(reason) = peer.flush() {
                    self.hang_up(reason);
                }
            }
            Some(_) => {}
        }
    }
}
