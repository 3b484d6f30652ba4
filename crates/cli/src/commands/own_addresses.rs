//! The addresses by which ports are known, where a question names one.

use std::net::{IpAddr, Ipv6Addr};

use weft_model::view::PortView;
use weft_types::{IpNet, MacAddr};

/// Whether an address is a port's own: configured, seen, or made of its MAC address.
pub(crate) fn has(port: &PortView, address: IpAddr) -> bool {
    let is_fixed = port.addresses.iter().flatten().any(|prefix| prefix.contains(&address));
    let is_made = || port.macs.iter().any(|mac| address == link_local(*mac));
    is_fixed || port.learned.contains(&address) || is_made()
}

/// The IPv6 address from which a port speaks to another: one of the same scope, if it has such a one; that which is
/// made of its address `mac` otherwise, which it always may have.
pub(crate) fn own_v6(port: &PortView, mac: MacAddr, target: Ipv6Addr) -> Ipv6Addr {
    let seen = port.learned.iter().copied();
    let configured = port.addresses.iter().flatten().filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
    let mut own = seen.chain(configured.map(IpNet::addr)).filter_map(|address| match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    let is_near = target.is_unicast_link_local() || target.is_multicast();
    let fits = |address: &Ipv6Addr| address.is_unicast_link_local() == is_near;
    own.find(fits).unwrap_or_else(|| link_local(mac))
}

/// The link-local address that is made of a MAC address (RFC 4291, appendix A).
pub(crate) fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The MAC address of a group of hosts (RFC 1112, section 6.4; RFC 2464, section 7).
pub(crate) fn group_mac(address: IpAddr) -> Option<MacAddr> {
    match address {
        IpAddr::V4(address) if address.is_broadcast() => Some(MacAddr::BROADCAST),
        IpAddr::V4(address) => {
            let [_, b, c, d] = address.octets();
            address.is_multicast().then_some(MacAddr::new([1, 0, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            address.is_multicast().then_some(MacAddr::new([0x33, 0x33, a, b, c, d]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_addresses_of_their_own() {
        let mac = |text: &str| group_mac(text.parse().unwrap()).map(|mac| mac.to_string());
        assert_eq!(mac("ff02::1:ff00:2").as_deref(), Some("33:33:ff:00:00:02"));
        assert_eq!(mac("239.129.2.3").as_deref(), Some("01:00:5e:01:02:03"));
        assert_eq!(mac("255.255.255.255").as_deref(), Some("ff:ff:ff:ff:ff:ff"));
        assert_eq!((mac("fe80::1"), mac("10.0.0.1")), (None, None));
    }

    #[test]
    fn an_address_is_made_of_another() {
        let made = link_local(MacAddr::new([2, 0x57, 0, 0, 0, 1]));
        assert_eq!(made.to_string(), "fe80::57:ff:fe00:1");
    }
}
