//! What stations send across a router.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use weft_services::{JoinedNetwork, NetworkId, NetworkServices, RouteEnd, RouteRule, RouterConfig, Services};
use weft_types::{DnsNames, Instant, MacAddr, Permission, Provenance, Traffic};
use weft_wire::{Csum, EtherType, Gso, GsoKind, Offload, checksum, ethernet, ipv4};

const MTU: [u16; 2] = [1500, 576];

/// The station, or the gateway, of a network.
fn mac(network: usize, is_gateway: bool) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, network as u8, is_gateway.into()])
}

fn ip(network: usize, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, network as u8, 0, last)
}

/// Two networks with a station each, whose packets may pass one way.
fn services() -> Services {
    let network = |network: usize| NetworkServices {
        id: NetworkId(network as u32),
        name: ["left", "right"][network].parse().expect("a name"),
        nat: network == 0,
        mtu: MTU[network],
        mac: mac(network, true),
        ip: ip(network, 1),
        subnet: format!("10.{network}.0.0/24").parse().expect("a subnet"),
        subnet6: None,
        dhcp6: None,
        dhcp: None,
        dns: false,
        metadata: Default::default(),
        host_access: false,
        records: Vec::new(),
        names: DnsNames::default(),
        forwards: Vec::new(),
    };
    let joined = |network: usize| JoinedNetwork {
        id: NetworkId(network as u32),
        stations: BTreeMap::from([(ip(network, 2).into(), mac(network, false))]),
    };
    let rule = |permission, from: u32, traffic| RouteRule {
        name: "rule".to_owned(),
        permission,
        from: RouteEnd::Network(NetworkId(from)),
        to: RouteEnd::Any,
        traffic,
        provenance: Provenance::command("fuzz"),
    };
    let tcp = Traffic::Ports { protocol: 6, src: Traffic::ALL_PORTS, dst: 0..=0x7fff };
    let mut services = Services::new([7; 32], Duration::from_secs(1_800_000_000));
    services.configure(Instant::ZERO, vec![network(0), network(1)]);
    services.set_routers(vec![RouterConfig {
        name: "core".parse().expect("a name"),
        networks: vec![joined(0), joined(1)],
        rules: vec![rule(Permission::Reject, 1, tcp), rule(Permission::Allow, 0, Traffic::Any)],
        default: Permission::Deny,
        connections: 4,
        provenance: Provenance::command("fuzz"),
    }]);
    services
}

/// Packets, each behind six bytes: from which station and how, the protocol, the time to live, flags and offset, and how
/// much of what follows it carries.
pub(crate) fn router_frames(data: &[u8]) {
    let mut services = services();
    let mut now = Instant::ZERO;
    let mut rest = data;
    while let Some(([how, protocol, ttl, high, low, len], tail)) = rest.split_first_chunk::<6>() {
        let (payload, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        // A byte may stand for many: packets are to be longer than networks take.
        let payload = payload.repeat(if how & 2 != 0 { 40 } else { 1 });
        let from = usize::from(how & 1);
        let options = if how & 4 != 0 { payload.len().min(8) & !3 } else { 0 };
        let mut frame = Vec::new();
        ethernet::emit(&mut frame, mac(from, true), mac(from, false), EtherType::IPV4);
        frame.extend([0x45 + (options / 4) as u8, 0]);
        frame.extend((20 + payload.len() as u16).to_be_bytes());
        frame.extend([0, how >> 6, *high, *low, *ttl, *protocol, 0, 0]);
        frame.extend([ip(from, 2).octets(), ip(1 - from, how >> 3 & 3).octets()].concat());
        frame.extend(&payload);
        let sum = checksum::checksum(&frame[14..34 + options]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let start = 34 + options as u16;
        let csum = if how & 0x20 != 0 { Csum::Partial { start, offset: 16 } } else { Csum::Unverified };
        let gso = (how & 0x60 == 0x60).then_some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 500 });
        services.handle_frame(now, NetworkId(from as u32), &frame, Offload { csum, gso });
        while let Some((to, out)) = services.poll_frame() {
            check(from, usize::try_from(to.0).unwrap_or(0), *ttl, &out.bytes, out.offload);
        }
        now += Duration::from_secs(u64::from(how >> 7));
        services.handle_timeout(now);
    }
}

/// What leaves by the other gateway is one hop nearer to its end, right, and no longer than that network takes.
fn check(from: usize, to: usize, ttl: u8, bytes: &[u8], offload: Offload) {
    let frame = ethernet::parse(bytes).expect("a frame");
    assert_eq!(frame.src, mac(to, true));
    if frame.ethertype != EtherType::IPV4 || from == to {
        return;
    }
    let packet = ipv4::parse(frame.payload).expect("a packet");
    if frame.dst == mac(to, false) && packet.src == ip(from, 2) {
        assert_eq!(packet.ttl, ttl - 1);
        assert!(offload.gso.is_some() || packet.bytes.len() <= usize::from(MTU[to]));
    }
}
