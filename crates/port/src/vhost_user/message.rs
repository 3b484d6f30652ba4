//! The messages of vhost-user (QEMU, docs/interop/vhost-user): a header, a body, and descriptors beside it.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

const HEADER_BYTES: usize = 12;

/// The longest body that makes sense is a table of memory regions.
const MAX_BODY_BYTES: usize = 8 + MAX_DESCRIPTORS * 32;

/// Descriptors of one message, and so memory regions.
pub(crate) const MAX_DESCRIPTORS: usize = 32;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// How a VMM broke the protocol, or went away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the VMM hung up")]
    HungUp,
    #[error("the connection to the VMM broke: {0}")]
    Broken(#[from] io::Error),
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

impl Message {
    /// Waits for the next request.
    pub(crate) fn recv(stream: &mut UnixStream) -> Result<Self, MessageError> {
        let mut header = [0; HEADER_BYTES];
        let mut descriptors = Vec::new();
        let mut filled = 0;
        while filled < HEADER_BYTES {
            match recv_some(stream, &mut header[filled..], &mut descriptors)? {
                0 => return Err(MessageError::HungUp),
                count => filled += count,
            }
        }
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = header;
        let (request, flags) = (u32::from_le_bytes([r0, r1, r2, r3]), u32::from_le_bytes([f0, f1, f2, f3]));
        let size = u32::from_le_bytes([s0, s1, s2, s3]);
        if flags & VERSION_MASK != VERSION || flags & REPLY != 0 {
            return Err(MessageError::Version);
        }
        if size as usize > MAX_BODY_BYTES {
            return Err(MessageError::TooLong(size));
        }
        let mut body = vec![0; size as usize];
        stream.read_exact(&mut body).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => MessageError::HungUp,
            _ => MessageError::Broken(error),
        })?;
        Ok(Self { request, needs_reply: flags & NEED_REPLY != 0, body, descriptors })
    }

    /// Answers this request.
    pub(crate) fn reply(&self, stream: &mut UnixStream, body: &[u8]) -> Result<(), MessageError> {
        let words = [self.request, VERSION | REPLY, body.len() as u32];
        let mut message: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        message.extend_from_slice(body);
        Ok(stream.write_all(&message)?)
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

/// Reads once, with the descriptors that came along.
fn recv_some(stream: &UnixStream, room: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<usize, MessageError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(stream, &mut [IoSliceMut::new(room)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => {
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        descriptors.extend(fds);
                    }
                }
                if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
                    return Err(MessageError::TooManyDescriptors);
                }
                return Ok(received.bytes);
            }
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(0),
            Err(error) => return Err(MessageError::Broken(error.into())),
        }
    }
}
