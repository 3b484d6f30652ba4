//! What happens to interfaces, and how one hears what is for others.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC, SOL_PACKET, packet_mreq, socklen_t};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// `RTMGRP_LINK` of linux/rtnetlink.h: whatever happens to interfaces.
const LINK_GROUP: u32 = 1;

/// Says that something happened to an interface (rtnetlink(7)).
pub(crate) struct LinkNews(OwnedFd);

impl LinkNews {
    pub(crate) fn listen() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?; // 0: NETLINK_ROUTE
        bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        Ok(Self(socket))
    }

    /// Whether something happened since.
    pub(crate) fn heard(&self) -> bool {
        let mut heard = false;
        // What is too long for the buffer is cut; an overrun says that much was missed. Both are news.
        while let Ok(_) | Err(Errno::NOBUFS) = recv(&self.0, &mut [0; 256], RecvFlags::DONTWAIT) {
            heard = true;
        }
        heard
    }
}

impl AsFd for LinkNews {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Has the interface with this number take what is for others, as long as this is open (packet(7)).
#[expect(unsafe_code, reason = "a socket option that rustix does not know")]
pub(crate) fn promiscuous(interface: i32) -> io::Result<OwnedFd> {
    // Without a protocol it hears nothing itself.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let membership =
        packet_mreq { mr_ifindex: interface, mr_type: PACKET_MR_PROMISC as u16, mr_alen: 0, mr_address: [0; 8] };
    // SAFETY: the kernel reads as many bytes of `membership` as it is told that there are.
    let code = unsafe {
        let len = size_of::<packet_mreq>() as socklen_t;
        let start = (&raw const membership).cast();
        libc::setsockopt(socket.as_raw_fd(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, start, len)
    };
    if code == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}
