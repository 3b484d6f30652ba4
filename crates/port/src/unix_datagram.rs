//! One frame a datagram on a Unix socket: what QEMU's `-netdev dgram` speaks.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix, SocketType, recvfrom, sendto};
use weft_wire::Offload;

use crate::socket::{SocketFile, bind_at};
use crate::{BURST_FRAMES, Caps, Frame, Lent, Link, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Port, PortError, SendError};

/// Talks to one peer, whose socket may come and go.
pub struct UnixDatagramPort {
    socket: OwnedFd,
    _file: SocketFile,
    /// Where our own socket is: a name that counts from a peer's folder most likely counts from this one.
    folder: PathBuf,
    /// Whom frames go to.
    peer: Option<SocketAddrUnix>,
    /// The only one who is listened to; without, the peer is whoever sent last.
    fixed: Option<PathBuf>,
    /// By which name the peer sent last: the one that it gave its socket.
    known_as: Option<SocketAddrUnix>,
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
        let too_long = |path: &Path| PortError::PathTooLong { path: path.to_owned() };
        let address = peer.map(|peer| SocketAddrUnix::new(peer).map_err(|_| too_long(peer))).transpose()?;
        let folder = socket.parent().unwrap_or(Path::new("")).to_owned();
        let (socket, file) = bind_at(socket, SocketType::DGRAM)?;
        Ok(Self {
            socket,
            _file: file,
            folder,
            peer: address,
            fixed: peer.map(Path::to_owned),
            known_as: None,
            heard: false,
            slots: vec![0; BURST_FRAMES * SLOT_BYTES].into(),
            lent: Vec::with_capacity(BURST_FRAMES),
            scratch: Vec::new(),
        })
    }
}

impl UnixDatagramPort {
    /// Whether we listen to who sends by this name; notes where to answer.
    fn admit(&mut self, from: SocketAddrUnix) -> bool {
        if self.known_as.as_ref() == Some(&from) {
            return true;
        }
        let Some(path) = from.path_bytes().map(|bytes| Path::new(OsStr::from_bytes(bytes))) else { return false };
        match &self.fixed {
            Some(peer) if !may_be(path, peer) => return false,
            Some(_) => {}
            None => match SocketAddrUnix::new(self.folder.join(path)) {
                Ok(address) => self.peer = Some(address),
                Err(_) => return false,
            },
        }
        self.known_as = Some(from);
        true
    }
}

/// Whether a socket by this name can be the one at `peer`. A name without a root counts from a folder that we do not
/// know. (Only our own user can send to us: this is against mistakes.)
fn may_be(name: &Path, peer: &Path) -> bool {
    name == peer || (name.is_relative() && peer.ends_with(name.strip_prefix(".").unwrap_or(name)))
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
                    let is_frame = (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&count);
                    if is_frame && from.is_some_and(|from| self.admit(from)) {
                        self.heard = true;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_peer_may_be() {
        for (name, is_peer) in [
            ("/run/lab/theirs", true),
            ("theirs", true),
            ("./theirs", true),
            ("lab/theirs", true),
            ("/theirs", false),
            ("heirs", false),
            ("other/theirs", false),
        ] {
            assert_eq!(may_be(Path::new(name), Path::new("/run/lab/theirs")), is_peer, "{name}");
        }
    }
}
