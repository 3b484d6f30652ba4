//! The messages of vhost-user (QEMU, docs/interop/vhost-user), passed on rather than understood: a header, a body, and
//! descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

const HEADER_BYTES: usize = 12;
/// The longest body that makes sense: a configuration space, or a table of memory regions.
const MAX_BODY_BYTES: usize = 1024;
/// Descriptors of one message.
const MAX_DESCRIPTORS: usize = 8;

const VERSION: u32 = 1;
const REPLY: u32 = 4;

/// The requests that matter here, by the standard's names.
pub(crate) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    /// `SET_SLAVE_REQ_FD`, or `SET_BACKEND_REQ_FD`.
    pub(crate) const SET_BACK_CHANNEL: u32 = 21;
    pub(crate) const GET_CONFIG: u32 = 24;
}

/// A message, to or from either side.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) request: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Message {
    /// Reads one, all of it; `None` where the other side hung up.
    pub(crate) fn receive(mut stream: &UnixStream) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let read = recvmsg(stream, &mut [IoSliceMut::new(&mut header)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if read == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut header[read..])?;
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = header;
        let [request, flags, size] = [[r0, r1, r2, r3], [f0, f1, f2, f3], [s0, s1, s2, s3]].map(u32::from_le_bytes);
        if flags & 3 != VERSION || size as usize > MAX_BODY_BYTES {
            return Err(malformed("a header that is none"));
        }
        let mut body = vec![0; size as usize];
        stream.read_exact(&mut body)?;
        Ok(Some(Self { request, body, descriptors }))
    }

    /// Sends a request with words of 64 bits, and descriptors.
    pub(crate) fn request(stream: &UnixStream, request: u32, words: &[u64], with: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        send(stream, request, VERSION, &body, with)
    }

    /// Sends a request, and reads the word that answers it.
    pub(crate) fn ask(stream: &UnixStream, request: u32, words: &[u64]) -> io::Result<u64> {
        Self::request(stream, request, words, &[])?;
        match Self::receive(stream)? {
            Some(answer) if answer.request == request => answer.words::<1>().map(|[word]| word),
            Some(_) => Err(malformed("an answer to something else")),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Answers this request.
    pub(crate) fn reply(&self, stream: &UnixStream, body: &[u8]) -> io::Result<()> {
        send(stream, self.request, VERSION | REPLY, body, &[])
    }

    /// The body's words of 64 bits, which are exactly so many.
    pub(crate) fn words<const N: usize>(&self) -> io::Result<[u64; N]> {
        let (words, rest) = self.body.as_chunks::<8>();
        match <[[u8; 8]; N]>::try_from(words) {
            Ok(words) if rest.is_empty() => Ok(words.map(u64::from_le_bytes)),
            _ => Err(malformed("a body of another length")),
        }
    }

    /// The body of a request about a ring: its number, and a value.
    pub(crate) fn ring_state(&self) -> io::Result<(usize, u32)> {
        let [word] = self.words()?;
        Ok((word as u32 as usize, (word >> 32) as u32))
    }

    /// The one descriptor that came along.
    pub(crate) fn descriptor(&mut self) -> io::Result<OwnedFd> {
        match (self.descriptors.pop(), self.descriptors.is_empty()) {
            (Some(descriptor), true) => Ok(descriptor),
            _ => Err(malformed("other descriptors than its request needs")),
        }
    }
}

/// The error for a message that is none.
pub(crate) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a vhost-user message with {what}"))
}

fn send(mut stream: &UnixStream, request: u32, flags: u32, body: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut bytes: Vec<u8> = [request, flags, body.len() as u32].into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.extend_from_slice(body);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(malformed("too many descriptors"));
    }
    let sent = sendmsg(stream.as_fd(), &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(&bytes[sent..])
}

/// Reads a hostile guest's messages from `bytes`, which come over a socket like any.
pub fn fuzz(bytes: &[u8]) {
    let Ok((mut guest, keeper)) = UnixStream::pair() else { return };
    let _ = guest.set_nonblocking(true).and_then(|()| guest.write_all(bytes));
    drop(guest);
    while let Ok(Some(message)) = Message::receive(&keeper) {
        let _ = (message.ring_state(), message.words::<5>());
    }
}
