//! A pNIC by AF_XDP: its driver hands each frame to us before the host's network has seen it (the kernel's
//! Documentation/networking/af_xdp.rst). Nothing else of the host hears the interface meanwhile.

mod checksum;
mod program;
mod queue;
mod ring;

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use weft_wire::Offload;

use self::program::Attachment;
use self::queue::{LONGEST_FRAME_BYTES, Queue};
use crate::claim::Claim;
use crate::epoll::Epoll;
use crate::ethtool;
use crate::interface::Interface;
use crate::pnic::{LinkNews, promiscuous};
use crate::vnet::is_sound;
use crate::{BURST_FRAMES, Caps, Frame, Lent, Link, MIN_FRAME_BYTES, Port, PortError, SendError};

/// An Ethernet header with a tag, which no MTU counts.
const HEADER_BYTES: usize = 18;

/// The most receive queues that an interface may have: each costs 8 MiB.
const MAX_QUEUES: u32 = 64;

/// An interface of the host that is the switch's alone.
pub struct XdpPort {
    interface: Interface,
    rig: Rig,
    news: LinkNews,
    epoll: Epoll,
    absence: Option<Cow<'static, str>>,
    /// The queue that is asked first next time, so that each gets its turn.
    turn: usize,
    lent: Vec<(usize, Range<usize>, Offload)>,
    claim: Claim,
}

/// Everything that is bound to one interface of the kernel. The program goes first.
struct Rig {
    _attachment: Attachment,
    queues: Vec<Queue>,
    index: i32,
    longest: usize,
    _promiscuous: OwnedFd,
}

impl Rig {
    fn open(interface: &Interface) -> io::Result<Self> {
        let index = interface.index()?;
        let mtu = usize::try_from(interface.mtu()?).map_err(|_| io::ErrorKind::InvalidData)?;
        let unsupported = |why: String| io::Error::new(io::ErrorKind::Unsupported, why);
        let longest = mtu + HEADER_BYTES;
        if longest > LONGEST_FRAME_BYTES {
            let most = LONGEST_FRAME_BYTES - HEADER_BYTES;
            return Err(unsupported(format!("its MTU is {mtu}, and AF_XDP takes {most} at most")));
        }
        if ethtool::strips_tags(interface)? {
            let name = interface.name();
            return Err(unsupported(format!(
                "it takes VLAN tags off, which AF_XDP does not tell: `ethtool -K {name} rxvlan off` keeps them"
            )));
        }
        let count = ethtool::receive_queues(interface)?;
        if count > MAX_QUEUES {
            return Err(unsupported(format!("it has {count} receive queues, and AF_XDP takes {MAX_QUEUES} at most")));
        }
        let number = u32::try_from(index).map_err(|_| io::ErrorKind::InvalidData)?;
        let attachment = Attachment::new(number, count)?;
        let queues = (0..count).map(|queue| Queue::open(number, queue)).collect::<io::Result<Vec<_>>>()?;
        for (queue, at) in queues.iter().zip(0..) {
            attachment.serve(at, queue.as_fd())?;
        }
        Ok(Self { _attachment: attachment, queues, index, longest, _promiscuous: promiscuous(index)? })
    }
}

impl XdpPort {
    /// Opens the interface `name` of our network namespace, which then is ours alone.
    ///
    /// # Errors
    /// When there is none of that name, another switch has it, or AF_XDP cannot be used with it.
    pub fn open(name: &str) -> Result<Self, PortError> {
        let failed = |action| move |source: io::Error| PortError::Nic { name: name.into(), action, source };
        let interface = Interface::find(name).map_err(failed("find"))?;
        let index = interface.index().map_err(failed("find"))?;
        let claim = Claim::of(index).map_err(|error| match error {
            Errno::ADDRINUSE => PortError::NicInUse { name: name.into() },
            error => failed("claim")(error.into()),
        })?;
        let rig = Rig::open(&interface).map_err(failed("use AF_XDP on"))?;
        let (news, epoll) = (LinkNews::listen()?, Epoll::new()?);
        epoll.add(&news, EventFlags::IN)?;
        rig.queues.iter().try_for_each(|queue| epoll.add(queue, EventFlags::IN))?;
        let lent = Vec::with_capacity(BURST_FRAMES);
        let mut port = Self { interface, rig, news, epoll, absence: None, turn: 0, lent, claim };
        port.look();
        Ok(port)
    }

    /// Whether the interface's driver reads and writes our memory itself, in every queue: where AF_XDP pays.
    pub fn is_zero_copy(&self) -> bool {
        self.rig.queues.iter().all(Queue::is_zero_copy)
    }

    /// Sees how the interface is.
    fn look(&mut self) {
        self.absence = match self.interface.look() {
            Err(_) => Some("the interface is gone".into()),
            Ok(()) if !self.interface.is_up() => {
                Some("the interface is down; set it up with `ip link set … up`".into())
            }
            Ok(()) => match self.follow() {
                Err(error) => Some(format!("the interface is another one now, and cannot be used: {error}").into()),
                Ok(()) if !self.interface.has_carrier() => Some("nobody is at the other end of the cable".into()),
                Ok(()) => None,
            },
        };
    }

    /// Moves to the interface that has our name now.
    fn follow(&mut self) -> io::Result<()> {
        let index = self.interface.index()?;
        if index == self.rig.index {
            return Ok(());
        }
        if self.claim.index() != index {
            self.claim = Claim::of(index)?;
        }
        let rig = Rig::open(&self.interface)?;
        self.rig.queues.iter().for_each(|queue| self.epoll.remove(queue));
        rig.queues.iter().try_for_each(|queue| self.epoll.add(queue, EventFlags::IN))?;
        self.lent.clear(); // nothing is lent while this is called, and what was is gone
        (self.rig, self.turn) = (rig, 0);
        Ok(())
    }
}

impl Port for XdpPort {
    fn driver(&self) -> &'static str {
        "xdp"
    }

    fn caps(&self) -> Caps {
        Caps::default()
    }

    fn link(&self) -> Link {
        self.absence.clone().map_or(Link::Up, Link::Down)
    }

    fn recv(&mut self) -> Lent {
        let (count, mut malformed) = (self.rig.queues.len(), 0);
        for step in 0..count {
            let at = (self.turn + step) % count;
            let queue = &mut self.rig.queues[at];
            while self.lent.len() < BURST_FRAMES
                && let Some(frame) = queue.next()
            {
                let bytes = queue.bytes(&frame);
                let offload = left_to_do(bytes);
                match offload {
                    Some(offload) => self.lent.push((at, frame, offload)),
                    None => {
                        malformed += 1;
                        queue.release(&frame);
                    }
                }
            }
        }
        self.turn = (self.turn + 1) % count.max(1);
        if malformed > 0 && self.lent.is_empty() {
            self.rig.queues.iter_mut().for_each(Queue::released);
        }
        Lent { frames: self.lent.len(), malformed }
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        let (queue, frame, offload) = &self.lent[index];
        Frame::new(self.rig.queues[*queue].bytes(frame), *offload)
    }

    fn release(&mut self) {
        if self.lent.is_empty() {
            return;
        }
        for (queue, frame, _) in self.lent.drain(..) {
            self.rig.queues[queue].release(&frame);
        }
        self.rig.queues.iter_mut().for_each(Queue::released);
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        if self.absence.is_some() {
            return Err(SendError::Down);
        }
        let len = frame.len();
        if len > self.rig.longest {
            return Err(SendError::TooLong);
        }
        let Some(room) = self.rig.queues.first_mut().and_then(|queue| queue.room(len)) else {
            return Err(SendError::Full);
        };
        frame.copy_to(room);
        Ok(())
    }

    fn flush(&mut self) {
        self.rig.queues.first_mut().into_iter().for_each(Queue::flush);
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn sleep(&mut self) -> bool {
        self.flush();
        !self.rig.queues.iter().any(Queue::has_more)
    }

    fn wake(&mut self) {
        if self.news.heard() {
            self.look();
        }
    }
}

/// What is left to do on a frame that came; `None` when it makes no sense.
fn left_to_do(frame: &[u8]) -> Option<Offload> {
    let offload = checksum::left_to_do(frame);
    (frame.len() >= MIN_FRAME_BYTES && is_sound(frame, &offload)).then_some(offload)
}
