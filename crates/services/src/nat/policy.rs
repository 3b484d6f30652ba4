//! Who may be reached through the NAT device.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_types::{IpNet, Ipv4Net, Ipv6Net};

use super::packet::Endpoint;
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

/// The same of IPv6: all that begins with a zero byte (nobody's, loopback, addresses that stand for those of IPv4), link-local,
/// site-local and multicast (RFC 6890; RFC 4291, section 2.4; RFC 3879).
const NEVER_V6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 8),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Whether a guest means the name server of its gateway, which is ours and never the host's.
pub(super) fn is_name_server(network: &NatNetwork, to: Endpoint) -> bool {
    network.dns && to.port() == dns::PORT && network.has(to.ip())
}

/// Whether a guest's connection ends at the gateway itself: at its name server, or where its machine is told of itself.
pub(super) fn is_local(network: &NatNetwork, to: Endpoint) -> bool {
    is_name_server(network, to) || (network.metadata && to == SocketAddr::V4(metadata::SOCKET).into())
}

/// Where on the host's network a guest's packet for `to` goes: [`Cause::NoHostAccess`] or [`Cause::Prohibited`] when
/// nowhere. The gateway's address stands for the host's loopback, which cannot be reached in any other way.
pub(super) fn destination(network: &NatNetwork, subnets: &[IpNet], to: IpAddr) -> Result<IpAddr, Cause> {
    if !network.outside {
        return Err(Cause::Prohibited);
    }
    if network.has(to) {
        let loopback = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        return if network.host_access { Ok(loopback) } else { Err(Cause::NoHostAccess) };
    }
    let is_never = match to {
        IpAddr::V4(to) => NEVER.iter().any(|net| net.contains(&to)),
        IpAddr::V6(to) => network.subnet6.is_none() || NEVER_V6.iter().any(|net| net.contains(&to)),
    };
    match is_never || subnets.iter().any(|net| net.contains(&to)) || network.contains(to) {
        true => Err(Cause::Prohibited),
        false => Ok(to),
    }
}

/// How a guest sees `from`: the other direction of [`destination`].
pub(super) fn as_guest_sees(network: &NatNetwork, from: SocketAddr) -> Endpoint {
    match network.gateway(from.ip()) {
        Some(gateway) if from.ip().is_loopback() => Endpoint::new(gateway, from.port()),
        _ => from.into(),
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
            subnet6: Some("fd00:20::/64".parse().unwrap()),
            mtu: 1500,
            outside: true,
            dns: false,
            metadata: false,
            host_access: false,
            forwards: Vec::new(),
        };
        let subnets = ["10.20.0.0/24", "10.30.0.0/16", "fd00:20::/64", "fd00:30::/64"].map(|net| net.parse().unwrap());
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
        check(true, "fd00:20::1", "::1");
        check(false, "fd00:20::1", "no-host-access");
        for open in ["2001:db8::1", "fd00:21::1", "2606::1", "100::1"] {
            check(true, open, OK);
        }
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
            "fd00:20::2",
            "fd00:30::1",
            "::",
            "::1",
            "::ffff:192.0.2.1",
            "64:ff9b::192.0.2.1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
        ] {
            check(true, closed, "prohibited");
        }
    }
}
