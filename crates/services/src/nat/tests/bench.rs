//! What the tests share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use weft_types::{Instant, IpNet, Ipv4Net, Ipv6Net, MacAddr};
use weft_wire::icmpv4::{self, Message};
use weft_wire::{EtherType, Offload, Protocol, ethernet, icmpv6, ipv4, ipv6, segment, tcp, udp};

use crate::NetworkId;
use crate::nat::packet::{Packet, mapped, pseudo_header};
use crate::nat::{ForwardId, HostLimits, HostOp, Nat, NatNetwork};

pub(super) const NET: NetworkId = NetworkId(7);
pub(super) const GATEWAY_MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);
pub(super) const GUEST_MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 0, 0, 2]);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 1);
pub(super) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 0x10);
pub(super) const REMOTE6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80), 80, 0, 0);
pub(super) const FORWARD: ForwardId = ForwardId(3);
pub(super) const REMOTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 80), 80);

pub(super) fn network() -> NatNetwork {
    NatNetwork {
        id: NET,
        mac: GATEWAY_MAC,
        ip: GATEWAY,
        subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 20, 0, 0), 24),
        subnet6: Some(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 0), 64)),
        mtu: 1500,
        outside: true,
        dns: false,
        metadata: false,
        host_access: true,
        forwards: vec![FORWARD],
    }
}

pub(super) fn subnets() -> [IpNet; 4] {
    ["10.20.0.0/24", "10.30.0.0/24", "fd00:20::/64", "fd00:30::/64"].map(|net| net.parse().expect("a network"))
}

/// A NAT device with one network, ready for echoes.
pub(super) fn nat() -> Nat {
    let mut nat = Nat::new([7; 32]);
    nat.configure(Instant::ZERO, &[network()], &subnets());
    nat.set_limits(HostLimits { flows: 100, flows_per_guest: 50, echo: true, echo_v6: true });
    nat
}

/// A packet of the guest, in a frame to the gateway.
pub(super) fn frame(dst: impl Into<IpAddr>, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let payload_len = payload.len() as u16;
    let mut bytes = Vec::new();
    match dst.into() {
        IpAddr::V4(dst) => {
            ethernet::emit(&mut bytes, GATEWAY_MAC, GUEST_MAC, EtherType::IPV4);
            ipv4::Repr { src: GUEST, dst, protocol, ttl: 63, ident: 9, dont_fragment: false, payload_len }
                .emit(&mut bytes);
        }
        IpAddr::V6(dst) => {
            ethernet::emit(&mut bytes, GATEWAY_MAC, GUEST_MAC, EtherType::IPV6);
            ipv6::Repr { src: GUEST6, dst, next_header: protocol, hop_limit: 63, payload_len }.emit(&mut bytes);
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A datagram of the guest.
pub(super) fn datagram(port: u16, to: impl Into<SocketAddr>, payload: &[u8]) -> Vec<u8> {
    let (mut bytes, to) = (Vec::new(), to.into());
    match to {
        SocketAddr::V4(to) => udp::emit(&mut bytes, SocketAddrV4::new(GUEST, port), to, payload),
        SocketAddr::V6(to) => udp::emit_v6(&mut bytes, SocketAddrV6::new(GUEST6, port, 0, 0), to, payload),
    }
    frame(to.ip(), Protocol::UDP, &bytes)
}

/// An echo request of the guest.
pub(super) fn echo(ident: u16, to: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
    let (mut bytes, to) = (Vec::new(), to.into());
    match to {
        IpAddr::V4(_) => {
            Message::EchoRequest { ident, seq: 3, payload }.emit(&mut bytes);
            frame(to, Protocol::ICMP, &bytes)
        }
        IpAddr::V6(dst) => {
            icmpv6::Message::EchoRequest { ident, seq: 3, payload }.emit(&mut bytes, GUEST6, dst);
            frame(to, Protocol::ICMPV6, &bytes)
        }
    }
}

/// All frames for the guest, each described in a line.
pub(super) fn frames(nat: &mut Nat) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some((network, frame)) = nat.poll_frame() {
        assert_eq!(network, NET);
        segment::segment(&frame.bytes, frame.offload, &mut |frame| lines.push(describe(frame)))
            .expect("offloads that fit their frame");
    }
    lines
}

/// All work for the host, each described in a line.
pub(super) fn ops(nat: &mut Nat) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(op) = nat.poll_host() {
        lines.push(match op {
            HostOp::TcpConnect { to, .. } => format!("connect {to}"),
            HostOp::TcpProgress { .. } => "progress".to_owned(),
            HostOp::TcpClose { reset, .. } => if reset { "reset" } else { "close" }.to_owned(),
            HostOp::UdpSend { to, payload, .. } => format!("send {to} {} bytes", payload.len()),
            HostOp::UdpAnswer { to, payload, .. } => format!("answer {to} {} bytes", payload.len()),
            HostOp::UdpClose { .. } => "close udp".to_owned(),
            HostOp::EchoSend { to, sequence, payload, .. } => format!("echo {to} #{sequence} {} bytes", payload.len()),
            HostOp::EchoClose { .. } => "close echo".to_owned(),
        });
    }
    lines
}

/// The causes that were counted.
pub(super) fn causes(nat: &Nat) -> Vec<String> {
    let counted = nat.networks.values().flat_map(|network| network.counters.iter()).filter(|(_, count)| *count > 0);
    counted.map(|(cause, count)| format!("{} {count}", cause.name())).collect()
}

/// A frame in a line; every checksum has to be right.
fn describe(bytes: &[u8]) -> String {
    let frame = ethernet::parse(bytes).unwrap();
    assert_eq!((frame.src, frame.dst), (GATEWAY_MAC, GUEST_MAC));
    let packet = Packet::parse(frame.payload).unwrap();
    let (src, dst) = (packet.src, packet.dst);
    let guest: IpAddr = if dst.is_ipv4() { GUEST.into() } else { GUEST6.into() };
    assert_eq!(dst, guest);
    assert!(packet.bytes.len() <= network().mtu.into(), "{} bytes", packet.bytes.len());
    if let Some(piece) = packet.piece {
        let more = if piece.has_more { "+" } else { "" };
        return format!("piece {}..{}{more}", piece.at, piece.at + packet.payload.len());
    }
    let is_right =
        || pseudo_header(src, dst, packet.protocol, packet.payload.len() as u16).bytes(packet.payload).checksum() == 0;
    match packet.protocol {
        Protocol::TCP => {
            let segment = tcp::parse(packet.payload).unwrap();
            assert!(is_right());
            let tcp::Segment { src_port, dst_port, flags, payload, .. } = segment;
            format!("tcp {} > {dst_port} {flags:?} {} bytes", SocketAddr::new(src, src_port), payload.len())
        }
        Protocol::UDP => {
            let datagram = udp::parse(packet.payload).unwrap();
            assert!(is_right() && datagram.checksum != 0);
            let udp::Datagram { src_port, dst_port, payload, .. } = datagram;
            format!("udp {} > {dst_port} {} bytes", SocketAddr::new(src, src_port), payload.len())
        }
        Protocol::ICMPV6 => {
            assert!(icmpv6::checksum_ok(mapped(src), mapped(dst), packet.payload));
            match icmpv6::parse(packet.payload).unwrap() {
                icmpv6::Message::EchoReply { ident, seq, payload } => {
                    format!("echo reply {src} id {ident} #{seq} {} bytes", payload.len())
                }
                icmpv6::Message::DestinationUnreachable { code, quote } => {
                    format!("{}unreachable {} for {}", speaker(src), code.0, quoted_target(quote))
                }
                icmpv6::Message::PacketTooBig { mtu, quote } => {
                    format!("{}too big for {}, mtu {mtu}", speaker(src), quoted_target(quote))
                }
                icmpv6::Message::TimeExceeded { quote, .. } => {
                    format!("{}expired for {}", speaker(src), quoted_target(quote))
                }
                other => panic!("{other:?}"),
            }
        }
        Protocol::ICMP => {
            assert!(icmpv4::checksum_ok(packet.payload));
            match icmpv4::parse(packet.payload).unwrap() {
                Message::EchoReply { ident, seq, payload } => {
                    format!("echo reply {} id {ident} #{seq} {} bytes", packet.src, payload.len())
                }
                Message::DestinationUnreachable { code, next_hop_mtu, quote } => {
                    let mtu = if next_hop_mtu > 0 { format!(", mtu {next_hop_mtu}") } else { String::new() };
                    format!("{}unreachable {} for {}{mtu}", speaker(packet.src), code.0, quoted_target(quote))
                }
                Message::TimeExceeded { quote, .. } => {
                    format!("{}expired for {}", speaker(packet.src), quoted_target(quote))
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
}

/// Who says something, unless it is the gateway.
fn speaker(ip: IpAddr) -> String {
    if ip == GATEWAY || ip == GATEWAY6 { String::new() } else { format!("{ip}: ") }
}

/// Where a packet of the guest that is quoted should have gone.
fn quoted_target(quote: &[u8]) -> IpAddr {
    if quote[0] >> 4 == 6 {
        assert_eq!(quote[8..24], GUEST6.octets(), "the guest's own packet is quoted");
        return Ipv6Addr::from(*quote[24..].first_chunk::<16>().expect("a destination")).into();
    }
    assert_eq!(quote[12..16], GUEST.octets(), "the guest's own packet is quoted");
    let [a, b, c, d, ..] = quote[16..] else { panic!("a quote without a destination") };
    Ipv4Addr::new(a, b, c, d).into()
}

/// Hands frames of the guest to the NAT device.
pub(super) fn take(nat: &mut Nat, now: Instant, frames: impl IntoIterator<Item = Vec<u8>>) {
    frames.into_iter().for_each(|frame| nat.handle_packet(now, NET, &frame, Offload::default()));
}
