//! Who may be reached through the NAT device.

use std::net::{Ipv4Addr, SocketAddrV4};

use weft_types::Ipv4Net;

use super::{Cause, NatNetwork};
use crate::{dns, metadata};

/// Addresses that no packet is forwarded to: `this network`, loopback, link-local (a cloud's metadata stand there, and ours),
/// multicast, reserved and broadcast (RFC 6890).
const NEVER: [Ipv4Net; 5] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Whether a guest means the name server of its gateway, which is ours and never the host's.
pub(super) fn is_name_server(network: &NatNetwork, to: SocketAddrV4) -> bool {
    network.dns && to == SocketAddrV4::new(network.ip, dns::PORT)
}

/// Whether a guest's connection ends at the gateway itself: at its name server, or where its machine is told of itself.
pub(super) fn is_local(network: &NatNetwork, to: SocketAddrV4) -> bool {
    is_name_server(network, to) || (network.metadata && to == metadata::SOCKET)
}

/// Where on the host's network a guest's packet for `to` goes: [`Cause::NoHostAccess`] or [`Cause::Prohibited`] when
/// nowhere. The gateway's address stands for the host's loopback, which cannot be reached in any other way.
pub(super) fn destination(network: &NatNetwork, subnets: &[Ipv4Net], to: Ipv4Addr) -> Result<Ipv4Addr, Cause> {
    if !network.outside {
        return Err(Cause::Prohibited);
    }
    if to == network.ip {
        return if network.host_access { Ok(Ipv4Addr::LOCALHOST) } else { Err(Cause::NoHostAccess) };
    }
    let is_closed = |net: &Ipv4Net| net.contains(&to);
    match NEVER.iter().any(is_closed) || subnets.iter().any(is_closed) || network.subnet.contains(&to) {
        true => Err(Cause::Prohibited),
        false => Ok(to),
    }
}

/// How a guest sees `from`: the other direction of [`destination`].
pub(super) fn as_guest_sees(network: &NatNetwork, from: SocketAddrV4) -> SocketAddrV4 {
    match from.ip().is_loopback() {
        true => SocketAddrV4::new(network.ip, from.port()),
        false => from,
    }
}

#[cfg(test)]
mod tests {
    use weft_types::MacAddr;

    use super::*;
    use crate::NetworkId;

    #[test]
    fn who_may_be_reached() {
        const OK: &str = "as it is";
        let mut network = NatNetwork {
            id: NetworkId(1),
            mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
            ip: Ipv4Addr::new(10, 20, 0, 1),
            subnet: "10.20.0.0/24".parse().unwrap(),
            mtu: 1500,
            outside: true,
            dns: false,
            metadata: false,
            host_access: false,
            forwards: Vec::new(),
        };
        let subnets = ["10.20.0.0/24".parse().unwrap(), "10.30.0.0/16".parse().unwrap()];
        let mut check = |host_access: bool, to: &str, expected: &str| {
            network.host_access = host_access;
            let inside = NatNetwork { outside: false, ..network.clone() };
            assert_eq!(destination(&inside, &subnets, to.parse().unwrap()), Err(Cause::Prohibited), "{to}");
            let found = match destination(&network, &subnets, to.parse().unwrap()) {
                Ok(ip) if ip.to_string() == to => OK.to_owned(),
                Ok(ip) => ip.to_string(),
                Err(cause) => cause.name().to_owned(),
            };
            assert_eq!(found, expected, "{to}");
        };
        check(true, "10.20.0.1", "127.0.0.1");
        check(false, "10.20.0.1", "no-host-access");
        for open in ["192.0.2.1", "10.21.0.1", "10.31.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255"] {
            check(true, open, OK);
        }
        for closed in [
            "10.20.0.2",
            "10.20.0.255",
            "10.30.0.1",
            "10.30.255.255",
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
        ] {
            check(true, closed, "prohibited");
        }
    }
}
