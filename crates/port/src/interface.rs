//! Network interfaces of the host, as the network namespace that we are in sees them (netdevice(7)).

use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use weft_types::MacAddr;

use crate::ethtool::SIOCETHTOOL;

const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCGIFADDR: Opcode = 0x8915;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCGIFNETMASK: Opcode = 0x891b;
const SIOCSIFNETMASK: Opcode = 0x891c;
const SIOCGIFMTU: Opcode = 0x8921;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCGIFHWADDR: Opcode = 0x8927;
const SIOCSIFHWADDR: Opcode = 0x8924;
const SIOCGIFINDEX: Opcode = 0x8933;
const SIOCBRADDIF: Opcode = 0x89a2;
const IFF_UP: u16 = 0x0001;
const IFF_RUNNING: u16 = 0x0040;
const AF_INET: u16 = 2;
const ARPHRD_ETHER: u16 = 1;

/// `struct ifreq`, with the first member of its union that we use.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct InterfaceRequest {
    pub(crate) name: [u8; 16],
    pub(crate) flags: u16,
    pub(crate) rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40 && offset_of!(InterfaceRequest, flags) == 16);

/// `struct ifreq`, with the pointer of its union.
#[repr(C)]
struct EthtoolRequest {
    name: [u8; 16],
    command: *mut c_void,
    rest: [u8; 16],
}

const _: () = assert!(size_of::<EthtoolRequest>() == 40);

impl InterfaceRequest {
    /// About the interface `name`; `None` when no interface can have that name.
    pub(crate) fn about(name: &str) -> Option<Self> {
        // `%` would make the kernel choose another name; the last byte stays zero.
        let forbidden = |byte: u8| matches!(byte, b'/' | b':' | b'%' | 0) || byte.is_ascii_whitespace();
        if name.is_empty() || name.len() > 15 || name.bytes().any(forbidden) || matches!(name, "." | "..") {
            return None;
        }
        let mut request = Self { name: [0; 16], flags: 0, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Some(request)
    }

    /// Has the kernel read it, and answer in it.
    #[expect(unsafe_code, reason = "an ioctl")]
    pub(crate) fn update<const CODE: Opcode>(&mut self, fd: impl AsFd) -> rustix::io::Result<()> {
        // SAFETY: every request this is used with reads and writes a `struct ifreq`, which this is.
        unsafe { ioctl(fd, Updater::<CODE, _>::new(self)) }
    }

    /// The union's `int`, which begins where its flags do.
    fn number(&self) -> i32 {
        let ([a, b], [c, d, ..]) = (self.flags.to_ne_bytes(), self.rest);
        i32::from_ne_bytes([a, b, c, d])
    }

    fn with_number(mut self, number: i32) -> Self {
        let [a, b, c, d] = number.to_ne_bytes();
        self.flags = u16::from_ne_bytes([a, b]);
        self.rest[..2].copy_from_slice(&[c, d]);
        self
    }

    /// With the union's `struct sockaddr`, which is a family and bytes.
    fn with_address(mut self, family: u16, bytes: &[u8]) -> Self {
        self.flags = family;
        self.rest = [0; 22];
        self.rest.iter_mut().zip(bytes).for_each(|(byte, value)| *byte = *value);
        self
    }

    /// The union's `struct sockaddr_in`.
    fn ipv4(&self) -> Ipv4Addr {
        let [_, _, a, b, c, d, ..] = self.rest; // behind the port
        Ipv4Addr::new(a, b, c, d)
    }

    fn with_ipv4(self, ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        self.with_address(AF_INET, &[0, 0, a, b, c, d]) // behind the port
    }
}

/// An interface that exists, or did when it was found.
pub(crate) struct Interface {
    socket: OwnedFd,
    /// Its name and flags.
    request: InterfaceRequest,
}

impl Interface {
    pub(crate) fn find(name: &str) -> io::Result<Self> {
        Self::by(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?, name)
    }

    /// The one of the network namespace that an IPv4 socket is of.
    pub(crate) fn by(socket: OwnedFd, name: &str) -> io::Result<Self> {
        let request = InterfaceRequest::about(name).ok_or(io::ErrorKind::InvalidInput)?;
        let mut interface = Self { socket, request };
        interface.look()?;
        Ok(interface)
    }

    /// The socket, to find it by again.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Reads its flags again.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        Ok(self.request.update::<SIOCGIFFLAGS>(&self.socket)?)
    }

    /// Whether it was set up.
    pub(crate) fn is_up(&self) -> bool {
        self.request.flags & IFF_UP != 0
    }

    /// Whether there is somebody at the other end of its cable.
    pub(crate) fn has_carrier(&self) -> bool {
        self.request.flags & IFF_RUNNING != 0
    }

    /// What the host says about it.
    fn answer<const CODE: Opcode>(&self) -> io::Result<InterfaceRequest> {
        let mut request = self.request;
        request.update::<CODE>(&self.socket)?;
        Ok(request)
    }

    /// Its number.
    pub(crate) fn index(&self) -> io::Result<i32> {
        Ok(self.answer::<SIOCGIFINDEX>()?.number())
    }

    /// The largest IP packet that it takes.
    pub(crate) fn mtu(&self) -> io::Result<i32> {
        Ok(self.answer::<SIOCGIFMTU>()?.number())
    }

    /// Makes the interface with this number a port of it, which is a bridge.
    pub(crate) fn add_port(&self, index: i32) -> io::Result<()> {
        Ok(self.request.with_number(index).update::<SIOCBRADDIF>(&self.socket)?)
    }

    /// Keeps the host's own words (neighbour discovery and such) away from it.
    pub(crate) fn silence(&self) {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name()), "1");
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        let end = self.request.name.iter().position(|&byte| byte == 0).unwrap_or(self.request.name.len());
        String::from_utf8_lossy(&self.request.name[..end]).into_owned()
    }

    /// Its MAC address, if it is one of Ethernet's.
    pub(crate) fn mac(&self) -> io::Result<MacAddr> {
        let request = self.answer::<SIOCGIFHWADDR>()?;
        // `struct sockaddr`: the kind of hardware, where the flags are, and the address.
        match (request.flags, request.rest) {
            (ARPHRD_ETHER, [a, b, c, d, e, f, ..]) => Ok(MacAddr::new([a, b, c, d, e, f])),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it is no Ethernet interface")),
        }
    }

    /// Whether the host has an IPv4 address there.
    pub(crate) fn has_ipv4_address(&self) -> io::Result<bool> {
        match { self.request }.update::<SIOCGIFADDR>(&self.socket) {
            Ok(()) => Ok(true),
            Err(Errno::ADDRNOTAVAIL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Has its driver carry out an ethtool command, which answers in its own words.
    #[expect(unsafe_code, reason = "an ioctl")]
    pub(crate) fn ethtool<const N: usize>(&self, command: &mut [u32; N]) -> rustix::io::Result<()> {
        let mut request =
            EthtoolRequest { name: self.request.name, command: command.as_mut_ptr().cast(), rest: [0; 16] };
        // SAFETY: the kernel reads a `struct ifreq`, which this is, and answers in the command's memory, which is as long
        // as that command's structure; those that are used here have a fixed length.
        unsafe { ioctl(&self.socket, Updater::<SIOCETHTOOL, _>::new(&mut request)) }
    }

    /// Sets it up, if it is not.
    pub(crate) fn bring_up(&mut self) -> io::Result<()> {
        if !self.is_up() {
            self.request.flags |= IFF_UP;
            self.request.update::<SIOCSIFFLAGS>(&self.socket)?;
        }
        Ok(())
    }

    /// Sets it down, if it is not.
    pub(crate) fn take_down(&mut self) -> io::Result<()> {
        if self.is_up() {
            self.request.flags &= !IFF_UP;
            self.request.update::<SIOCSIFFLAGS>(&self.socket)?;
        }
        Ok(())
    }

    /// The host's address here, and how many bits of it name the network.
    pub(crate) fn ipv4(&self) -> io::Result<(Ipv4Addr, u8)> {
        let mask: u32 = self.answer::<SIOCGIFNETMASK>()?.ipv4().into();
        Ok((self.answer::<SIOCGIFADDR>()?.ipv4(), mask.leading_ones() as u8))
    }

    /// Sets the largest IP packet that it takes.
    pub(crate) fn set_mtu(&self, mtu: i32) -> io::Result<()> {
        Ok(self.request.with_number(mtu).update::<SIOCSIFMTU>(&self.socket)?)
    }

    /// Sets its MAC address.
    pub(crate) fn set_mac(&self, mac: MacAddr) -> io::Result<()> {
        Ok(self.request.with_address(ARPHRD_ETHER, &mac.octets()).update::<SIOCSIFHWADDR>(&self.socket)?)
    }

    /// Gives the host an address here, and the way to what else is in that prefix.
    pub(crate) fn set_ipv4(&self, ip: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
        self.request.with_ipv4(ip).update::<SIOCSIFADDR>(&self.socket)?;
        Ok(self.request.with_ipv4(mask.into()).update::<SIOCSIFNETMASK>(&self.socket)?)
    }
}

impl AsFd for Interface {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has() {
        for bad in ["", "sixteen-letters-", "a/b", "a b", "tap%d", "..", "a:1"] {
            assert!(InterfaceRequest::about(bad).is_none() && Interface::find(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_loopback_interface() {
        let interface = Interface::find("lo").unwrap();
        assert!(interface.index().unwrap() > 0);
    }
}
