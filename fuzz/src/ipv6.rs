//! What guests send to a gateway that speaks IPv6.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use weft_services::{NetworkId, NetworkServices, Services, Station};
use weft_types::{Dhcp6, DnsNames, Instant, MacAddr};
use weft_wire::{EtherType, Offload, Protocol, checksum::Sum, ethernet, icmpv6, ipv6, ndp, udp};

const NET: NetworkId = NetworkId(1);
const GATEWAY_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0xf1]);
const GUEST_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0x0a]);
const GUEST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0xff, 0xfe00, 0xa);

fn network(prefix: Option<&str>) -> NetworkServices {
    NetworkServices {
        id: NET,
        name: "office".parse().expect("a name"),
        nat: false,
        mtu: 1500,
        mac: GATEWAY_MAC,
        ip: [10, 20, 0, 1].into(),
        subnet: "10.20.0.0/24".parse().expect("a subnet"),
        subnet6: prefix.map(|prefix| prefix.parse().expect("a prefix")),
        dhcp6: Some(Dhcp6::Stateless),
        dhcp: None,
        dns: true,
        host_access: false,
        records: Vec::new(),
        names: DnsNames::default(),
        metadata: BTreeMap::new(),
        forwards: Vec::new(),
    }
}

/// IPv6 packets for a gateway, each behind two bytes with its length, with a right checksum unless it asks for none; between
/// them time passes, and now and then the prefix changes. What the gateway says is right.
pub(crate) fn ipv6_frames(data: &[u8]) {
    let mut services = Services::new([7; 32], Duration::from_secs(1_800_000_000));
    let mut now = Instant::ZERO;
    services.configure(now, vec![network(Some("fd00:20::/64"))]);
    services.set_stations(
        NET,
        vec![Station { ip: GUEST, is_fixed: false, mac: GUEST_MAC, vm: Some("web".parse().expect("a name")) }],
    );
    let mut rest = data;
    while let Some(([high, low], tail)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes([*high & 0x07, *low])).min(tail.len());
        let (packet, tail) = tail.split_at(len);
        rest = tail;
        let dst = packet
            .get(24..40)
            .and_then(|octets| octets.try_into().ok())
            .map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_octets);
        let mut frame = Vec::new();
        let to = if dst.is_multicast() { ndp::group_mac(dst) } else { GATEWAY_MAC };
        ethernet::emit(&mut frame, to, GUEST_MAC, EtherType::IPV6);
        frame.extend_from_slice(packet);
        if high & 0x08 == 0 {
            sum(&mut frame[ethernet::HEADER_BYTES..]);
        }
        services.handle_frame(now, NET, &frame, Offload::default());
        settle(&mut services);
        now += Duration::from_secs(1 << (high >> 4));
        services.handle_timeout(now);
        settle(&mut services);
        match high >> 4 {
            14 => services.configure(now, vec![network(Some("fd00:21::/64"))]),
            15 => services.configure(now, vec![network(None)]),
            13 => services.configure(now, vec![network(Some("fd00:20::/64"))]),
            _ => {}
        }
    }
}

/// Writes the checksum of a packet without extension headers.
fn sum(packet: &mut [u8]) {
    let Ok(header) = ipv6::parse(packet) else { return };
    let at = match header.next_header {
        Protocol::ICMPV6 => 42,
        Protocol::UDP => 46,
        _ => return,
    };
    let (src, dst, protocol, end) = (header.src, header.dst, header.next_header, 40 + header.payload.len());
    let Some(field) = packet.get_mut(at..at + 2).filter(|_| at + 2 <= end) else { return };
    field.fill(0);
    let bytes = &packet[40..end];
    let checksum = Sum::ZERO.pseudo_ipv6(src, dst, protocol, bytes.len() as u16).bytes(bytes).nonzero_checksum();
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Takes what the gateway says: every frame comes from itself, and no receiver would drop it.
fn settle(services: &mut Services) {
    while let Some(forward) = services.poll_dns() {
        services.dns_answer(Instant::ZERO, forward.id, None);
    }
    while let Some((net, frame)) = services.poll_frame() {
        let frame = ethernet::parse(&frame.bytes).expect("an Ethernet header");
        assert_eq!((net, frame.src, frame.ethertype), (NET, GATEWAY_MAC, EtherType::IPV6));
        assert!(frame.payload.len() <= 1500);
        let packet = ipv6::parse(frame.payload).expect("an IPv6 header");
        match packet.next_header {
            Protocol::ICMPV6 if ndp::is_ndp(packet.payload) => {
                ndp::parse(&packet, packet.payload).expect("a message that stations take");
            }
            Protocol::ICMPV6 => assert!(icmpv6::checksum_ok(packet.src, packet.dst, packet.payload)),
            Protocol::UDP => {
                let datagram = udp::parse(packet.payload).expect("a UDP header");
                assert!(datagram.checksum_ok_v6(packet.src, packet.dst));
            }
            other => panic!("{other:?}"),
        }
    }
}
