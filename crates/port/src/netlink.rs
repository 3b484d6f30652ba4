//! What is asked of the kernel about interfaces (netlink(7), rtnetlink(7)).

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

const NLMSG_ERROR: u16 = 2;
/// A request to make something new, and to hear whether it was made.
const CREATE: u16 = 0x1 | 0x4 | 0x200 | 0x400;

/// A socket for requests about the network namespace in which it was opened.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open() -> rustix::io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?; // 0: NETLINK_ROUTE
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Has the kernel make something: of this `kind`, `about` what its header's structure says, with these attributes. It
    /// has answered when the request is sent.
    pub(crate) fn create(&self, kind: u16, about: &[u8], attributes: &[u8]) -> rustix::io::Result<()> {
        let len = 16 + (about.len() + attributes.len()) as u32;
        let header = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &CREATE.to_ne_bytes(), &[0; 8]].concat();
        send(&self.0, &[&header, about, attributes].concat(), SendFlags::empty())?;
        let mut answer = [0; 4096];
        let (count, _) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        let answer = &answer[..count.min(4096)];
        let number = |at| answer.get(at..at + 4).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
        let is_verdict = answer.get(4..6) == Some(&NLMSG_ERROR.to_ne_bytes()[..]);
        match number(16).filter(|_| is_verdict) {
            Some(0) => Ok(()),
            Some(code) => Err(Errno::from_raw_os_error(code.wrapping_neg())),
            None => Err(Errno::PROTO),
        }
    }
}

/// `struct nlattr`, its value, and what brings the next one to its place.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len();
    let mut bytes = [&(len as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
}
