use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The requests of a vhost-user front end (QEMU, docs/interop/vhost-user) that tests make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the standard's names")]
pub enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    SetMemTable = 5,
    SetLogBase = 6,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    SetVringEnable = 18,
    SendRarp = 19,
    AddMemRegion = 37,
    RemoveMemRegion = 38,
}

const VERSION: u32 = 1;
const NEEDS_REPLY: u32 = 8;

/// The front end's side of a vhost-user connection, which says whatever a test wants it to say.
#[derive(Debug)]
pub struct VmmLink {
    stream: UnixStream,
}

impl VmmLink {
    /// Connects; answers are waited for 5 s.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        Self::of(UnixStream::connect(socket)?)
    }

    /// Talks to the back end that connected.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn of(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { stream })
    }

    /// Makes a request that has no answer.
    ///
    /// # Errors
    /// When the back end hung up.
    pub fn tell(&mut self, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(request as u32, VERSION, payload, fds)
    }

    /// Makes a request and waits until it is acknowledged (`REPLY_ACK` must be negotiated).
    ///
    /// # Errors
    /// When it is refused, or the back end hung up.
    pub fn order(&mut self, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(request as u32, VERSION | NEEDS_REPLY, payload, fds)?;
        match self.answer()?.as_slice() {
            [0, 0, 0, 0, 0, 0, 0, 0] => Ok(()),
            answer => Err(io::Error::other(format!("{request:?} was refused: {answer:?}"))),
        }
    }

    /// Asks and returns the answer's payload.
    ///
    /// # Errors
    /// When the back end hung up.
    pub fn ask(&mut self, request: Request, payload: &[u8]) -> io::Result<Vec<u8>> {
        self.tell(request, payload, &[])?;
        self.answer()
    }

    /// Sends a message with any header.
    ///
    /// # Errors
    /// When the back end hung up.
    pub fn send(&mut self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut message = Vec::new();
        for word in [request, flags, payload.len() as u32] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        message.extend_from_slice(payload);
        self.send_raw(&message, fds)
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// When the back end hung up.
    pub fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the back end to hang up; `false` when it did not within 5 s.
    pub fn was_hung_up(&mut self) -> bool {
        let mut bytes = [0; 256];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    pub(crate) fn answer(&mut self) -> io::Result<Vec<u8>> {
        let mut header = [0; 12];
        self.stream.read_exact(&mut header)?;
        let [.., a, b, c, d] = header;
        let mut payload = vec![0; u32::from_le_bytes([a, b, c, d]).min(4096) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(payload)
    }
}

/// A memfd of `len` bytes, sealed with `seals`.
///
/// # Panics
/// When the system refuses.
pub fn guest_memory(len: u64, seals: SealFlags) -> File {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    let file = File::from(fd);
    file.set_len(len).expect("memory");
    fcntl_add_seals(file.as_fd(), seals).expect("seals");
    file
}

/// An event counter as QEMU makes it.
///
/// # Panics
/// When the system refuses.
pub fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}
