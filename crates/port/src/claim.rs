//! Law 2: no two vSwitches share an interface of the host.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

/// An interface that is claimed among all of Weft's switches in this network namespace, until this is dropped.
pub(crate) struct Claim {
    index: i32,
    _name: OwnedFd,
}

impl Claim {
    /// Claims the interface with this number; an error says that somebody else has.
    pub(crate) fn of(index: i32) -> rustix::io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        // Abstract names live in the network namespace, as interfaces do, and end with their socket.
        bind(&socket, &SocketAddrUnix::new_abstract_name(format!("weft/nic/{index}").as_bytes())?)?;
        Ok(Self { index, _name: socket })
    }

    /// The interface's number.
    pub(crate) fn index(&self) -> i32 {
        self.index
    }
}
