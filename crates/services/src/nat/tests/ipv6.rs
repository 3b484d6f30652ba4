//! The same device over IPv6: where its family shows.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use expect_test::{Expect, expect};
use weft_types::Instant;
use weft_wire::tcp::{Flags, Options, Repr};
use weft_wire::{Csum, Gso, GsoKind, Offload, Protocol, icmpv6, tcp, udp};

use super::bench::{
    FORWARD, GATEWAY6, GUEST_MAC, GUEST6, NET, REMOTE6, causes, datagram, echo, frame, frames, nat, network, ops,
    subnets, take,
};
use crate::nat::packet::Packet;
use crate::nat::{Callee, FlowId, HostError, HostLimits, HostOp, IcmpError, Nat, NatNetwork, PacketFate};

const NOW: Instant = Instant::from_millis(1000);

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// What the guest's frames lead to: work for the host, answers, and what was counted.
fn check(nat: &mut Nat, sent: impl IntoIterator<Item = Vec<u8>>, expected: &Expect) {
    let before = causes(nat);
    take(nat, NOW, sent);
    let counted = causes(nat).into_iter().filter(|cause| !before.contains(cause));
    let lines: Vec<String> = ops(nat).into_iter().chain(frames(nat)).chain(counted).collect();
    expected.assert_eq(&lines.join("\n"));
}

fn segment(to: SocketAddrV6, flags: Flags, (seq, ack): (u32, u32), payload: &[u8]) -> Vec<u8> {
    let mss = Some(1440).filter(|_| flags.contains(Flags::SYN));
    let options = Options { mss, ..Options::default() };
    let (src_port, dst_port, window) = (4000, to.port(), 60_000);
    let mut bytes = Vec::new();
    Repr { src_port, dst_port, seq, ack, flags, window, options }.emit_v6(&mut bytes, GUEST6, *to.ip(), payload);
    frame(*to.ip(), Protocol::TCP, &bytes)
}

fn flow_of(nat: &mut Nat) -> FlowId {
    match nat.poll_host() {
        Some(HostOp::UdpSend { flow, .. } | HostOp::EchoSend { flow, .. } | HostOp::TcpConnect { flow, .. }) => flow,
        other => panic!("{other:?}"),
    }
}

#[test]
fn packets_go_where_they_may() {
    let mut nat = nat();
    check(&mut nat, [datagram(5000, REMOTE6, b"hi")], &expect!["send [2001:db8::80]:80 2 bytes"]);
    check(&mut nat, [datagram(5000, at("fd00:20::1", 123), b"hi")], &expect!["send [::1]:123 2 bytes"]);
    assert_eq!(nat.flows(), 1, "one mapping, whoever is written to");
    check(
        &mut nat,
        [datagram(5000, at("fd00:30::5", 80), b"hi")],
        &expect![[r#"
            unreachable 1 for fd00:30::5
            prohibited 1"#]],
    );
    for closed in ["::1", "fe80::2", "ff0e::1", "fec0::1", "64:ff9b::1", "::ffff:192.0.2.1"] {
        take(&mut nat, NOW, [datagram(5000, at(closed, 80), b"hi")]);
        assert!(ops(&mut nat).is_empty(), "{closed}");
        frames(&mut nat);
    }
    nat.configure(NOW, &[NatNetwork { host_access: false, ..network() }], &subnets());
    check(
        &mut nat,
        [segment(SocketAddrV6::new(GATEWAY6, 22, 0, 0), Flags::SYN, (1, 0), b"")],
        &expect![[r#"
            close udp
            tcp [fd00:20::1]:22 > 4000 RST|ACK 0 bytes
            no-host-access 1"#]],
    );
    nat.configure(NOW, &[NatNetwork { subnet6: None, ..network() }], &subnets());
    check(&mut nat, [datagram(5000, REMOTE6, b"hi")], &expect!["prohibited 8"]);
}

#[test]
fn checksums_are_a_must() {
    let mut nat = nat();
    let mut none = datagram(5000, REMOTE6, b"hello");
    none[60..62].fill(0);
    check(&mut nat, [none], &expect!["bad-checksum 1"]);
    let mut bad = segment(REMOTE6, Flags::SYN, (1, 0), b"");
    bad[40] ^= 1; // of an address, which the sum knows
    check(&mut nat, [bad], &expect!["bad-checksum 2"]);
    let mut bad = echo(7, *REMOTE6.ip(), b"abc");
    bad[64] ^= 1;
    check(&mut nat, [bad], &expect!["bad-checksum 3"]);
    check(
        &mut nat,
        [frame(*REMOTE6.ip(), Protocol(47), &[0; 8]), frame(*REMOTE6.ip(), Protocol::ICMP, &[8; 8])],
        &expect![[r#"
            unreachable 1 for 2001:db8::80
            protocol 2"#]],
    );
}

#[test]
fn answers_and_their_pieces() {
    let mut nat = nat();
    take(&mut nat, NOW, [datagram(5000, REMOTE6, b"hi")]);
    let flow = flow_of(&mut nat);
    let mut check = |from: SocketAddr, len: usize, expected: Expect| {
        nat.udp_received(NOW, flow, from, &vec![1; len]);
        expected.assert_eq(&frames(&mut nat).join("\n"));
    };
    check(REMOTE6.into(), 5, expect!["udp [2001:db8::80]:80 > 5000 5 bytes"]);
    check(at("2001:db8::81", 80), 5, expect![""]);
    check(REMOTE6.into(), 1452, expect!["udp [2001:db8::80]:80 > 5000 1452 bytes"]);
    check(
        REMOTE6.into(),
        1453,
        expect![[r#"
            piece 0..1448+
            piece 1448..1461"#]],
    );
}

#[test]
fn pieces_of_a_guest_come_together() {
    let mut nat = nat();
    let mut whole = Vec::new();
    udp::emit_v6(&mut whole, SocketAddrV6::new(GUEST6, 5000, 0, 0), REMOTE6, &[7; 2000]);
    let piece = |at: usize, end: usize, more: u8| {
        let [hi, lo] = (at as u16).to_be_bytes();
        let head = [Protocol::UDP.0, 0, hi, lo | more, 0, 0, 0, 5];
        frame(*REMOTE6.ip(), Protocol(44), &[&head[..], &whole[at..end]].concat())
    };
    check(&mut nat, [piece(1200, 2008, 0), piece(0, 1200, 1)], &expect!["send [2001:db8::80]:80 2000 bytes"]);
    check(&mut nat, [piece(0, 1200, 1), piece(600, 2008, 0)], &expect!["fragment 1"]);
}

#[test]
fn echoes_and_what_is_said_about_them() {
    let mut nat = nat();
    let remote = IpAddr::from(*REMOTE6.ip());
    take(&mut nat, NOW, [echo(77, remote, b"abcdefgh")]);
    let Some(HostOp::EchoSend { flow, to, transit, sequence: 3, .. }) = nat.poll_host() else { panic!("an echo") };
    assert_eq!((to, transit.ttl, transit.dont_fragment), (remote, 62, true));
    nat.echo_received(NOW, flow, remote, 3, b"abcdefgh");
    nat.echo_failed(NOW, flow, remote, 3, HostError::NetUnreachable);
    let router = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
    let fates = [
        PacketFate::Expired { code: 0 },
        PacketFate::TooLong { mtu: 1280 },
        PacketFate::UnreachableV6(icmpv6::Unreachable::PORT),
        PacketFate::Unreachable(weft_wire::icmpv4::Unreachable::PORT), // of the other family: nothing to say
    ];
    for fate in fates {
        nat.echo_lost(NOW, flow, remote, 3, IcmpError { from: router, fate });
    }
    expect![[r#"
        echo reply 2001:db8::80 id 77 #3 8 bytes
        unreachable 0 for 2001:db8::80
        2001:db8::9: expired for 2001:db8::80
        2001:db8::9: too big for 2001:db8::80, mtu 1280
        2001:db8::9: unreachable 4 for 2001:db8::80"#]]
    .assert_eq(&frames(&mut nat).join("\n"));
    nat.set_limits(HostLimits { flows: 100, flows_per_guest: 50, echo: true, echo_v6: false });
    check(
        &mut nat,
        [echo(77, remote, b"")],
        &expect![[r#"
            unreachable 1 for 2001:db8::80
            echo-closed 1"#]],
    );
}

#[test]
fn a_host_without_a_way_says_so_at_once() {
    let mut nat = nat();
    take(&mut nat, NOW, [segment(REMOTE6, Flags::SYN, (100, 0), b"")]);
    let flow = flow_of(&mut nat);
    nat.tcp_failed(NOW, flow, HostError::NetUnreachable);
    let (_, answer) = nat.poll_frame().expect("an error");
    let packet = Packet::parse(&answer.bytes[14..]).unwrap();
    let Ok(icmpv6::Message::DestinationUnreachable { code, quote }) = icmpv6::parse(packet.payload) else {
        panic!("{packet:?}")
    };
    assert_eq!(code, icmpv6::Unreachable::NO_ROUTE);
    assert_eq!(quote[44..48], 100u32.to_be_bytes(), "the guest looks whether the error knows its SYN");
    assert_eq!(nat.flows(), 0);
}

#[test]
fn connections_carry_segments_of_their_family() {
    let mut nat = nat();
    take(&mut nat, NOW, [segment(REMOTE6, Flags::SYN, (100, 0), b"")]);
    let flow = flow_of(&mut nat);
    nat.tcp_connected(NOW, flow);
    let (_, answer) = nat.poll_frame().expect("a SYN-ACK");
    let packet = Packet::parse(&answer.bytes[14..]).unwrap();
    let syn = tcp::parse(packet.payload).unwrap();
    assert_eq!(Options::parse(syn.options).unwrap().mss, Some(1500 - 60));
    let ours = syn.seq.wrapping_add(1);
    take(&mut nat, NOW, [segment(REMOTE6, Flags::ACK | Flags::PSH, (101, ours), b"hello")]);
    assert_eq!(nat.tcp_outgoing(flow).bytes[0], b"hello");
    nat.tcp_written(NOW, flow, 5);
    let count = nat.tcp_room(NOW, flow)[0].len().min(4000);
    assert_eq!(count, 4000);
    nat.tcp_read(NOW, flow, count);
    let mut payload = 0;
    while let Some((_, frame)) = nat.poll_frame() {
        if let Some(gso) = frame.offload.gso {
            assert_eq!(gso, Gso { kind: GsoKind::Tcp6 { ecn: false }, size: 1440 });
        }
        assert_eq!(frame.offload.csum, Csum::Partial { start: 54, offset: 16 });
        weft_wire::segment::segment(&frame.bytes, frame.offload, &mut |bytes| {
            let packet = Packet::parse(&bytes[14..]).unwrap();
            payload += tcp::parse(packet.payload).unwrap().payload.len();
        })
        .unwrap();
    }
    assert_eq!(payload, 4000);
}

#[test]
fn clients_of_forwards_reach_a_guest_over_ipv6() {
    let mut nat = nat();
    let guest = SocketAddr::from((GUEST6, 80));
    let callee = Callee { network: NET, guest, mac: Some(GUEST_MAC) };
    assert!(nat.dial(NOW, FORWARD, callee).is_some());
    let lines = frames(&mut nat).join("\n");
    assert!(lines.starts_with("tcp [fd00:20::1]:") && lines.ends_with("> 80 SYN 0 bytes"), "{lines}");
    nat.deliver(NOW, (FORWARD, 0, at("::1", 7)), callee, b"hi");
    let lines = frames(&mut nat).join("\n");
    assert!(lines.starts_with("udp [fd00:20::1]:") && lines.ends_with("> 80 2 bytes"), "{lines}");
    let port = lines.split("]:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    let mut answer = Vec::new();
    let (from, to) = (SocketAddrV6::new(GUEST6, 80, 0, 0), SocketAddrV6::new(GATEWAY6, port, 0, 0));
    udp::emit_v6(&mut answer, from, to, b"hello");
    check(&mut nat, [frame(GATEWAY6, Protocol::UDP, &answer)], &expect!["answer [::1]:7 5 bytes"]);
    assert!(nat.dial(NOW, FORWARD, Callee { mac: None, ..callee }).is_none_or(|flow| nat.tcp_fits(flow) == 0));
    assert_eq!(causes(&nat), ["no-neighbour 1"]);
}

#[test]
fn a_guest_with_many_addresses_is_still_one() {
    let mut nat = nat();
    for host in 0..60u16 {
        let mut frame = datagram(5000, REMOTE6, b"hi");
        frame[36..38].copy_from_slice(&host.to_be_bytes());
        let offload = Offload { csum: Csum::Valid, gso: None };
        nat.handle_packet(NOW, NET, &frame, offload);
    }
    assert!(nat.flows() <= 50, "{}", nat.flows());
    assert!(causes(&nat).iter().any(|cause| cause.starts_with("evicted")), "{:?}", causes(&nat));
}
