//! One frame a datagram of UDP: what QEMU's `-netdev dgram` speaks between hosts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send, socket_with,
};
use weft_wire::Offload;

use crate::{BURST_FRAMES, Caps, Frame, Lent, Link, MIN_FRAME_BYTES, Port, PortError, SendError};

/// The largest datagram of UDP over IPv4: an IP packet less two headers.
const MAX_DATAGRAM_BYTES: usize = 65_535 - 20 - 8;

/// Talks to one peer; the kernel drops what comes from others.
pub struct UdpPort {
    socket: OwnedFd,
    /// Whether the last frame was not refused by the peer's host, or one came from it.
    heard: bool,
    /// One slot a frame; pages that no frame ever filled cost nothing.
    slots: Box<[u8]>,
    lent: Vec<usize>,
    scratch: Vec<u8>,
}

impl UdpPort {
    /// Binds `local` and talks to `peer`, and to nobody else.
    ///
    /// # Errors
    /// When the addresses cannot be used.
    pub fn open(local: SocketAddr, peer: SocketAddr) -> Result<Self, PortError> {
        let open = || -> io::Result<OwnedFd> {
            let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
            bind(&socket, &local)?;
            connect(&socket, &peer)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(|source| PortError::Udp { local, peer, source })?,
            heard: false,
            slots: vec![0; BURST_FRAMES * MAX_DATAGRAM_BYTES].into(),
            lent: Vec::with_capacity(BURST_FRAMES),
            scratch: Vec::new(),
        })
    }
}

impl Port for UdpPort {
    fn driver(&self) -> &'static str {
        "udp"
    }

    fn caps(&self) -> Caps {
        Caps::default()
    }

    fn link(&self) -> Link {
        if self.heard { Link::Up } else { Link::Down("nothing reaches the peer, and nothing comes from it".into()) }
    }

    fn recv(&mut self) -> Lent {
        let mut malformed = 0;
        while self.lent.len() < BURST_FRAMES && malformed < BURST_FRAMES as u32 {
            let slot = &mut self.slots[self.lent.len() * MAX_DATAGRAM_BYTES..][..MAX_DATAGRAM_BYTES];
            match recv(&self.socket, slot, RecvFlags::DONTWAIT) {
                Ok((_, count)) if count >= MIN_FRAME_BYTES => {
                    self.heard = true;
                    self.lent.push(count);
                }
                Ok(_) => malformed += 1,
                // The peer's host said that nobody is there; that is told once.
                Err(Errno::CONNREFUSED) => self.heard = false,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        Lent { frames: self.lent.len(), malformed }
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        Frame::new(&self.slots[index * MAX_DATAGRAM_BYTES..][..self.lent[index]], Offload::default())
    }

    fn release(&mut self) {
        self.lent.clear();
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        self.scratch.clear();
        frame.append_to(&mut self.scratch);
        match send(&self.socket, &self.scratch, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => self.heard = true,
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => return Err(SendError::Full),
            Err(Errno::MSGSIZE) => return Err(SendError::TooLong),
            Err(_) => {
                self.heard = false;
                return Err(SendError::Down);
            }
        }
        Ok(())
    }

    fn flush(&mut self) {}

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn sleep(&mut self) -> bool {
        true
    }

    fn wake(&mut self) {}
}
