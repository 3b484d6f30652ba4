//! The messages of vhost-user (QEMU, docs/interop/vhost-user): a header, a body, and descriptors beside it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send};

const HEADER_BYTES: usize = 12;

/// The longest body that makes sense is a table of memory regions.
const MAX_BODY_BYTES: usize = 8 + MAX_DESCRIPTORS * 32;

/// Descriptors of one message, and so memory regions.
pub(crate) const MAX_DESCRIPTORS: usize = 32;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// The requests that we understand, by the standard's names.
pub(crate) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const RESET_OWNER: u32 = 4;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_LOG_FD: u32 = 7;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SEND_RARP: u32 = 19;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

/// How a VMM broke the protocol, or went away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the VMM hung up")]
    HungUp,
    #[error("the connection to the VMM broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the VMM does not read its answers")]
    Unread,
    #[error("the VMM speaks another version of vhost-user")]
    Version,
    #[error("the VMM announced a message of {0} bytes")]
    TooLong(u32),
    #[error("the VMM sent more descriptors than a message can have")]
    TooManyDescriptors,
    #[error("the VMM's request {0} has a body that does not fit it")]
    Body(u32),
    #[error("the VMM's request {0} needs other descriptors")]
    Descriptors(u32),
}

/// A request.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) request: u32,
    /// Whether the VMM waits for an acknowledgement, if that was negotiated.
    pub(crate) needs_reply: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// What has come of the next request. A VMM may stop in the middle of it: nobody waits for the rest.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Inbox {
    /// Reads what is there, without blocking; the next request once all of it is.
    pub(crate) fn recv(&mut self, stream: &UnixStream) -> Result<Option<Message>, MessageError> {
        loop {
            let header = match self.bytes.first_chunk() {
                None => None,
                Some(header) => {
                    let header = Header::decode(header)?;
                    if self.bytes.len() == HEADER_BYTES + header.body_bytes {
                        let Self { mut bytes, descriptors } = std::mem::take(self);
                        let body = bytes.split_off(HEADER_BYTES);
                        let Header { request, needs_reply, .. } = header;
                        return Ok(Some(Message { request, needs_reply, body, descriptors }));
                    }
                    Some(header)
                }
            };
            let filled = self.bytes.len();
            self.bytes.resize(HEADER_BYTES + header.map_or(0, |header| header.body_bytes), 0);
            let count = recv_some(stream, &mut self.bytes[filled..], &mut self.descriptors);
            self.bytes.truncate(filled + count.as_ref().ok().copied().flatten().unwrap_or(0));
            match count? {
                None => return Ok(None),
                Some(0) => return Err(MessageError::HungUp),
                Some(_) => {}
            }
        }
    }
}

struct Header {
    request: u32,
    needs_reply: bool,
    body_bytes: usize,
}

impl Header {
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, MessageError> {
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = *bytes;
        let (request, flags) = (u32::from_le_bytes([r0, r1, r2, r3]), u32::from_le_bytes([f0, f1, f2, f3]));
        let size = u32::from_le_bytes([s0, s1, s2, s3]);
        if flags & VERSION_MASK != VERSION || flags & REPLY != 0 {
            return Err(MessageError::Version);
        }
        if size as usize > MAX_BODY_BYTES {
            return Err(MessageError::TooLong(size));
        }
        Ok(Self { request, needs_reply: flags & NEED_REPLY != 0, body_bytes: size as usize })
    }
}

impl Message {
    /// Whether a ring begins to run by this.
    pub(crate) fn starts_ring(&self) -> bool {
        self.request == request::SET_VRING_KICK
    }

    /// Answers this request. There is always room for an answer where the ones before it are read.
    pub(crate) fn reply(&self, stream: &UnixStream, body: &[u8]) -> Result<(), MessageError> {
        let words = [self.request, VERSION | REPLY, body.len() as u32];
        let mut message: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        message.extend_from_slice(body);
        match send(stream, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(io::Error::from)? {
            sent if sent == message.len() => Ok(()),
            _ => Err(MessageError::Unread),
        }
    }

    /// The body's fields, which must be exactly these many words of 64 bits, in pairs of 32 bits where need be.
    pub(crate) fn words<const N: usize>(&self) -> Result<[u64; N], MessageError> {
        let (words, rest) = self.body.as_chunks::<8>();
        match <[[u8; 8]; N]>::try_from(words) {
            Ok(words) if rest.is_empty() => Ok(words.map(u64::from_le_bytes)),
            _ => Err(MessageError::Body(self.request)),
        }
    }

    /// The body of a request about a ring: its number and a value.
    pub(crate) fn ring_state(&self) -> Result<(usize, u32), MessageError> {
        let [word] = self.words()?;
        Ok((word as u32 as usize, (word >> 32) as u32))
    }

    /// The one descriptor of this request.
    pub(crate) fn descriptor(&mut self) -> Result<OwnedFd, MessageError> {
        match (self.descriptors.pop(), self.descriptors.is_empty()) {
            (Some(descriptor), true) => Ok(descriptor),
            _ => Err(MessageError::Descriptors(self.request)),
        }
    }
}

/// Reads once, with the descriptors that came along; `None` when there is nothing.
fn recv_some(
    stream: &UnixStream,
    room: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<Option<usize>, MessageError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match recvmsg(stream, &mut [IoSliceMut::new(room)], &mut ancillary, flags) {
            Ok(received) => {
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        descriptors.extend(fds);
                    }
                }
                if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
                    return Err(MessageError::TooManyDescriptors);
                }
                return Ok(Some(received.bytes));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET) => return Ok(Some(0)),
            Err(error) => return Err(MessageError::Broken(error.into())),
        }
    }
}
