//! One frame a datagram on a Unix socket: what QEMU's `-netdev dgram` speaks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix, SocketType, recvfrom, sendto};
use weft_wire::Offload;

use crate::socket::{SocketFile, bind_at};
use crate::{BURST_FRAMES, Caps, Frame, Lent, Link, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Port, PortError, SendError};

/// Talks to one peer, whose socket may come and go.
pub struct UnixDatagramPort {
    socket: OwnedFd,
    _file: SocketFile,
    /// Whom frames go to.
    peer: Option<SocketAddrUnix>,
    /// Whether nobody else is listened to; otherwise the peer is whoever sent last.
    is_fixed: bool,
    /// Whether the last frame reached the peer, or came from it.
    heard: bool,
    /// One slot a frame; pages that no frame ever filled cost nothing.
    slots: Box<[u8]>,
    lent: Vec<usize>,
    scratch: Vec<u8>,
}

/// One byte more than any frame, so that a longer one is told from one that just fits.
const SLOT_BYTES: usize = MAX_FRAME_BYTES + 1;

impl UnixDatagramPort {
    /// Binds `socket` and talks to `peer` and nobody else, or to whoever sent last.
    ///
    /// # Errors
    /// When the socket cannot be made there.
    pub fn open(socket: &Path, peer: Option<&Path>) -> Result<Self, PortError> {
        let address =
            |peer: &Path| SocketAddrUnix::new(peer).map_err(|_| PortError::PathTooLong { path: peer.to_owned() });
        let peer = peer.map(address).transpose()?;
        let (socket, file) = bind_at(socket, SocketType::DGRAM)?;
        Ok(Self {
            socket,
            _file: file,
            is_fixed: peer.is_some(),
            peer,
            heard: false,
            slots: vec![0; BURST_FRAMES * SLOT_BYTES].into(),
            lent: Vec::with_capacity(BURST_FRAMES),
            scratch: Vec::new(),
        })
    }
}

impl Port for UnixDatagramPort {
    fn driver(&self) -> &'static str {
        "unix-datagram"
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
            let slot = &mut self.slots[self.lent.len() * SLOT_BYTES..][..SLOT_BYTES];
            match recvfrom(&self.socket, slot, RecvFlags::DONTWAIT) {
                Ok((_, count, from)) => {
                    let from = from.and_then(|from| SocketAddrUnix::try_from(from).ok());
                    let from_peer = from.is_some() && (!self.is_fixed || from == self.peer);
                    if from_peer && (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&count) {
                        self.heard = true;
                        self.peer = from;
                        self.lent.push(count);
                    } else {
                        malformed += 1;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        Lent { frames: self.lent.len(), malformed }
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        Frame::new(&self.slots[index * SLOT_BYTES..][..self.lent[index]], Offload::default())
    }

    fn release(&mut self) {
        self.lent.clear();
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        let Some(peer) = &self.peer else { return Err(SendError::Down) };
        self.scratch.clear();
        frame.append_to(&mut self.scratch);
        let sent = sendto(&self.socket, &self.scratch, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, peer);
        match sent {
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
