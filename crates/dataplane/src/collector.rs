//! The way of copies to somebody on the host's networks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with};
use weft_types::Collector;
use weft_wire::{Fragment, Headers, Protocol, erspan, ethernet, vxlan};

/// A socket that talks to a collector. Whoever sends waits until there is room, so this is for a thread of its own.
pub(crate) struct Tunnel {
    collector: Collector,
    socket: OwnedFd,
    sent: u32,
    packet: Vec<u8>,
}

impl Tunnel {
    /// Opens the socket; whether anybody is there, nobody knows.
    pub(crate) fn open(collector: Collector) -> io::Result<Self> {
        let socket = match collector {
            Collector::Vxlan { to, .. } => {
                let any = match to {
                    SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                let socket = socket_with(family(to.ip()), SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
                bind(&socket, &any)?;
                socket
            }
            Collector::Erspan { to, .. } => {
                socket_with(family(to.into()), SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::GRE))?
            }
        };
        Ok(Self { collector, socket, sent: 0, packet: Vec::new() })
    }

    /// Sends a frame, of which perhaps not everything is there; whether it is under way.
    pub(crate) fn send(&mut self, frame: &[u8], is_cut: bool) -> bool {
        self.packet.clear();
        let to = match self.collector {
            Collector::Vxlan { to, vni } => {
                self.packet.extend(vxlan::header(vni));
                to
            }
            Collector::Erspan { to, session } => {
                let tag = ethernet::Header::parse(frame).ok().and_then(|(header, _)| header.tag);
                self.packet.extend(erspan::header(self.sent, session, tag, is_cut));
                SocketAddr::from((to, 0))
            }
        };
        self.packet.extend_from_slice(frame);
        self.sent = self.sent.wrapping_add(1);
        loop {
            match sendto(&self.socket, &self.packet, SendFlags::empty(), &to) {
                Err(Errno::INTR) => {}
                // Refused was an earlier one; where there is no way today, there may be one tomorrow.
                result => return result.is_ok(),
            }
        }
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Whether a frame itself is on its way to this collector, so that its copy would be another one, and so on for ever.
pub(crate) fn is_for(collector: &Collector, headers: &Headers) -> bool {
    let Some(Ok(ip)) = &headers.ip else { return false };
    match collector {
        Collector::Vxlan { to, .. } => {
            let is_there = ip.ports.map_or(ip.fragment == Fragment::Later, |ports| ports.dst == to.port());
            ip.dst == to.ip() && ip.protocol == Protocol::UDP && is_there
        }
        Collector::Erspan { to, .. } => ip.dst == IpAddr::V4(*to) && ip.protocol == Protocol(47),
    }
}

#[cfg(test)]
mod tests {
    use weft_testkit::{mac, udp4};

    use super::*;

    #[test]
    fn copies_of_copies_are_known() {
        let collector = "vxlan://10.0.0.5:4789/1".parse().unwrap();
        let is_for = |src: &str, dst: &str| {
            let frame = udp4(mac(1), mac(2), src.parse().unwrap(), dst.parse().unwrap(), b"x");
            is_for(&collector, &Headers::parse(&frame, frame.len()).unwrap())
        };
        assert!(is_for("10.0.0.1:5000", "10.0.0.5:4789"));
        assert!(!is_for("10.0.0.1:5000", "10.0.0.5:53"));
        assert!(!is_for("10.0.0.5:4789", "10.0.0.1:4789"));
    }
}
