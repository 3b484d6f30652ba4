//! A pNIC of the host by a packet socket: a vSwitch's uplink.

mod bpf;
mod host_side;
mod socket;
mod traffic_control;

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use weft_wire::virtio_net::{Author, HEADER_BYTES};
use weft_wire::{Offload, TagEdit};

use self::host_side::{Ear, HostSide};
use self::socket::{Burst, PacketSocket};
use crate::claim::Claim;
use crate::epoll::Epoll;
use crate::interface::Interface;
use crate::vnet::{read_header, write_header};
use crate::{
    BURST_FRAMES, Caps, Frame, HEAD_BYTES, Lent, Link, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Port, PortError, SendError,
};

/// `RTMGRP_LINK` of linux/rtnetlink.h: whatever happens to interfaces.
const LINK_GROUP: u32 = 1;

/// An interface of the host, of which the vSwitch hears everything that comes in by the cable, and sends what it likes.
/// The host keeps what it does with that interface.
pub struct PacketPort {
    interface: Interface,
    socket: PacketSocket,
    /// Says that something happened to an interface.
    news: OwnedFd,
    epoll: Epoll,
    absence: Option<Cow<'static, str>>,
    burst: Burst,
    /// Where the frames are in the burst, and what is left to do on them.
    lent: Vec<(std::ops::Range<usize>, Offload)>,
    scratch: Vec<u8>,
    /// Held as long as the interface is ours: law 2 says that no two vSwitches share a pNIC.
    claim: Claim,
    is_shared: bool,
    /// The host, where it shares the interface.
    host: Option<HostSide>,
}

impl PacketPort {
    /// Opens the interface `name` of our network namespace. The host keeps what it does with it, but it and those at our
    /// vSwitch hear nothing of each other.
    ///
    /// # Errors
    /// When there is none of that name, another switch has it, or it may not be opened.
    pub fn open(name: &str) -> Result<Self, PortError> {
        Self::open_as(name, false)
    }

    /// The same, and the host is one of the stations behind it: what it sends by the interface comes in here too, and
    /// what is sent here for the host, or for everybody, comes in at the host.
    ///
    /// # Errors
    /// As [`Self::open`], and when no way to the host can be made.
    pub fn open_shared(name: &str) -> Result<Self, PortError> {
        Self::open_as(name, true)
    }

    fn open_as(name: &str, is_shared: bool) -> Result<Self, PortError> {
        let failed = |action| move |source: io::Error| PortError::Nic { name: name.into(), action, source };
        let interface = Interface::find(name).map_err(failed("find"))?;
        let index = interface.index().map_err(failed("find"))?;
        let claim = Claim::of(index).map_err(|error| match error {
            Errno::ADDRINUSE => PortError::NicInUse { name: name.into() },
            error => failed("claim")(error.into()),
        })?;
        let socket = PacketSocket::open(index, is_shared).map_err(failed("open"))?;
        let host = if is_shared { Some(HostSide::open(&interface, index)?) } else { None };
        let news = link_news()?;
        let epoll = Epoll::new()?;
        epoll.add(&socket, EventFlags::IN)?;
        epoll.add(&news, EventFlags::IN)?;
        let mut port = Self {
            interface,
            socket,
            news,
            epoll,
            absence: None,
            burst: Burst::new(),
            lent: Vec::with_capacity(BURST_FRAMES),
            scratch: Vec::new(),
            claim,
            is_shared,
            host,
        };
        port.look();
        Ok(port)
    }

    /// Sees how the interface is.
    fn look(&mut self) {
        self.absence = match self.interface.look().and_then(|()| self.interface.index()) {
            Err(_) => Some("the interface is gone".into()),
            Ok(index) => match self.follow(index) {
                Err(error) => Some(format!("the interface is another one now, and cannot be used: {error}").into()),
                Ok(()) if !self.interface.is_up() => {
                    Some("the interface is down; set it up with `ip link set … up`".into())
                }
                Ok(()) if !self.interface.has_carrier() => Some("nobody is at the other end of the cable".into()),
                Ok(()) => None,
            },
        };
        if let Some(host) = &mut self.host {
            host.look(&self.interface);
        }
    }

    /// Moves to the interface with this number, which has our name now. One that was deleted and made again, or went to
    /// another network namespace and came back, is another one to the kernel: our socket hears nothing of it.
    fn follow(&mut self, index: i32) -> io::Result<()> {
        if self.socket.interface()? == index {
            return Ok(());
        }
        if self.claim.index() != index {
            self.claim = Claim::of(index)?;
        }
        let socket = PacketSocket::open(index, self.is_shared)?;
        if self.is_shared {
            self.host = None; // its device has the same name as the next one's, if the number is the same
            self.host = Some(HostSide::open(&self.interface, index).map_err(io::Error::other)?);
        }
        self.epoll.remove(&self.socket);
        self.epoll.add(&socket, EventFlags::IN)?;
        self.socket = socket;
        Ok(())
    }
}

/// A socket that is readable when something happened to an interface (rtnetlink(7)).
fn link_news() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?; // 0: NETLINK_ROUTE
    bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
    Ok(socket)
}

impl Port for PacketPort {
    fn driver(&self) -> &'static str {
        "packet"
    }

    fn caps(&self) -> Caps {
        Caps { uso: false, ..Caps::ALL }
    }

    fn link(&self) -> Link {
        self.absence.clone().map_or(Link::Up, Link::Down)
    }

    fn recv(&mut self) -> Lent {
        // A socket whose interface went down says so once, and then waits for it.
        let count = self.socket.recv(&mut self.burst).unwrap_or(0);
        let mut malformed = 0;
        for index in 0..count {
            match self.burst.admit(index) {
                Some(frame) => self.lent.push(frame),
                None => malformed += 1,
            }
        }
        Lent { frames: self.lent.len(), malformed }
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        let (range, offload) = &self.lent[index];
        Frame::new(self.burst.bytes(range), *offload)
    }

    fn release(&mut self) {
        self.lent.clear();
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        let header = write_header(frame.offload(), frame.head(), 0);
        let [head, tail] = match frame.slices() {
            Some(slices) => slices,
            None => {
                self.scratch.clear();
                frame.append_to(&mut self.scratch);
                [&self.scratch[..], &[]]
            }
        };
        let sent = match self.host.as_ref().map(|host| (host, host.ear(frame))) {
            None | Some((_, Ear::Cable)) => self.socket.send(&header, head, tail),
            Some((host, Ear::Host)) => host.send(&header, head, tail),
            Some((host, Ear::Both)) => {
                let left = self.socket.send(&header, head, tail); // first, or the host's answer would overtake it
                let heard = host.send(&header, head, tail);
                left.or(heard)
            }
        };
        sent.map_err(|error| match error {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR => SendError::Full,
            Errno::MSGSIZE => SendError::TooLong,
            Errno::INVAL => SendError::Malformed,
            _ => SendError::Down,
        })
    }

    fn flush(&mut self) {}

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn sleep(&mut self) -> bool {
        true
    }

    fn wake(&mut self) {
        let mut news = false;
        // What is too long for the buffer is cut; an overrun says that much was missed. Both are news.
        while let Ok(_) | Err(Errno::NOBUFS) = recv(&self.news, &mut [0; 256], RecvFlags::DONTWAIT) {
            news = true;
        }
        if news {
            self.look();
        }
    }
}

impl Burst {
    /// Where the frame that was received into a slot is, with its tag where it was on the cable; `None` when it makes
    /// no sense.
    fn admit(&mut self, index: usize) -> Option<(std::ops::Range<usize>, Offload)> {
        let received = self.received(index)?;
        let range = received.frame;
        let len = range.len();
        if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&len) {
            return None;
        }
        let mut header = [0; HEADER_BYTES];
        header[..received.header.len()].copy_from_slice(&received.header);
        let head = &self.bytes(&range)[..len.min(HEAD_BYTES)];
        let offload = read_header(&header, Author::Device, head, len)?;
        match received.tag {
            None => Some((range, offload)),
            Some(tag) => {
                let edit = TagEdit::Push(tag.control);
                Some((self.insert_tag(range, tag), edit.offload(offload).ok()?))
            }
        }
    }
}
