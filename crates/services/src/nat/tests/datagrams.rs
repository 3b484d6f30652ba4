//! UDP, ICMP and who may be reached.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use expect_test::{Expect, expect};
use weft_types::Instant;
use weft_wire::icmpv4::Unreachable;
use weft_wire::{Csum, Gso, GsoKind, Offload, Protocol, ethernet, ipv4, udp};

use super::bench::{
    GATEWAY, GUEST, NET, REMOTE, causes, datagram, echo, frame, frames, nat, network, ops, subnets, take,
};
use crate::nat::{FlowId, HostError, HostOp, IcmpError, Nat, NatNetwork, PacketFate, Transit};

const NOW: Instant = Instant::from_millis(1000);

/// What the guest's frames lead to: work for the host, answers, and what was counted.
fn check(nat: &mut Nat, sent: impl IntoIterator<Item = Vec<u8>>, expected: &Expect) {
    let before = causes(nat);
    take(nat, NOW, sent);
    let counted = causes(nat).into_iter().filter(|cause| !before.contains(cause));
    let lines: Vec<String> = ops(nat).into_iter().chain(frames(nat)).chain(counted).collect();
    expected.assert_eq(&lines.join("\n"));
}

fn at(ip: [u8; 4], port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip.into(), port)
}

#[test]
fn datagrams_go_where_they_may() {
    let mut nat = nat();
    check(&mut nat, [datagram(5000, REMOTE, b"hi")], &expect!["send 192.0.2.80:80 2 bytes"]);
    check(&mut nat, [datagram(5000, at([192, 0, 2, 81], 9), b"")], &expect!["send 192.0.2.81:9 0 bytes"]);
    check(&mut nat, [datagram(5000, SocketAddrV4::new(GATEWAY, 123), b"hi")], &expect!["send 127.0.0.1:123 2 bytes"]);
    assert_eq!(nat.flows(), 1, "one mapping, whoever is written to");
    check(
        &mut nat,
        [datagram(5001, at([10, 30, 0, 5], 80), b"hi")],
        &expect![[r#"
        unreachable 13 for 10.30.0.5
        prohibited 1"#]],
    );
    check(
        &mut nat,
        [datagram(5001, at([127, 0, 0, 1], 80), b"hi")],
        &expect![[r#"
        unreachable 13 for 127.0.0.1
        prohibited 2"#]],
    );
    nat.configure(NOW, &[NatNetwork { host_access: false, ..network() }], &subnets());
    check(
        &mut nat,
        [datagram(5001, SocketAddrV4::new(GATEWAY, 123), b"hi")],
        &expect![[r#"
        close udp
        unreachable 3 for 10.20.0.1
        no-host-access 1"#]],
    );
    assert_eq!(nat.flows(), 0, "the mapping that wrote to the host ended with the permission");
}

#[test]
fn damaged_datagrams() {
    let mut nat = nat();
    let good = datagram(5000, REMOTE, b"hello");
    let flip = |at: usize, bits: u8| {
        let mut bad = good.clone();
        bad[at] ^= bits;
        bad
    };
    check(&mut nat, [flip(45, 1)], &expect!["bad-checksum 1"]);
    check(&mut nat, [flip(39, 0x40)], &expect!["malformed 1"]);
    check(&mut nat, [flip(20, 0)[..38].to_vec()], &expect!["malformed 2"]);
    check(&mut nat, [frame(*REMOTE.ip(), Protocol::UDP, &[0; 7])], &expect!["malformed 3"]);
    check(
        &mut nat,
        [frame(*REMOTE.ip(), Protocol(47), &[0; 7])],
        &expect![[r#"
        unreachable 2 for 192.0.2.80
        protocol 1"#]],
    );
    check(&mut nat, [Vec::new(), vec![0; 13]], &expect!["malformed 5"]);
    nat.handle_packet(NOW, crate::NetworkId(99), &good, Offload::default());
    check(&mut nat, [], &expect![""]);
    assert!(nat.counters(crate::NetworkId(99)).is_none(), "what belongs to nobody is counted nowhere");
}

#[test]
fn a_guest_may_leave_work_to_others() {
    let mut nat = nat();
    let mut bytes = datagram(5000, REMOTE, &[7; 2500]);
    bytes[40] ^= 0x55; // an unfinished checksum
    let offload =
        Offload { csum: Csum::Partial { start: 34, offset: 6 }, gso: Some(Gso { kind: GsoKind::UdpL4, size: 1000 }) };
    nat.handle_packet(NOW, NET, &bytes, offload);
    assert_eq!(
        ops(&mut nat).join(", "),
        "send 192.0.2.80:80 1000 bytes, send 192.0.2.80:80 1000 bytes, send 192.0.2.80:80 500 bytes"
    );
}

/// The flow of the next datagram.
fn flow_of(nat: &mut Nat) -> FlowId {
    match nat.poll_host() {
        Some(HostOp::UdpSend { flow, .. } | HostOp::EchoSend { flow, .. }) => flow,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_come_from_those_who_were_asked() {
    let mut nat = nat();
    take(&mut nat, NOW, [datagram(5000, REMOTE, b"hi")]);
    let flow = flow_of(&mut nat);
    let mut check = |from: SocketAddrV4, len: usize, expected: Expect| {
        nat.udp_received(NOW, flow, from.into(), &vec![1; len]);
        expected.assert_eq(&frames(&mut nat).join("\n"));
    };
    check(REMOTE, 5, expect!["udp 192.0.2.80:80 > 5000 5 bytes"]);
    check(at([192, 0, 2, 80], 999), 0, expect!["udp 192.0.2.80:999 > 5000 0 bytes"]);
    check(at([192, 0, 2, 81], 80), 5, expect![""]);
    check(at([127, 0, 0, 1], 80), 5, expect![""]);
    check(REMOTE, 1472, expect!["udp 192.0.2.80:80 > 5000 1472 bytes"]);
    check(
        REMOTE,
        1473,
        expect![[r#"
        piece 0..1480+
        piece 1480..1481"#]],
    );
    check(
        REMOTE,
        65_507,
        expect![[r#"
        piece 0..1480+
        piece 1480..2960+
        piece 2960..4440+
        piece 4440..5920+
        piece 5920..7400+
        piece 7400..8880+
        piece 8880..10360+
        piece 10360..11840+
        piece 11840..13320+
        piece 13320..14800+
        piece 14800..16280+
        piece 16280..17760+
        piece 17760..19240+
        piece 19240..20720+
        piece 20720..22200+
        piece 22200..23680+
        piece 23680..25160+
        piece 25160..26640+
        piece 26640..28120+
        piece 28120..29600+
        piece 29600..31080+
        piece 31080..32560+
        piece 32560..34040+
        piece 34040..35520+
        piece 35520..37000+
        piece 37000..38480+
        piece 38480..39960+
        piece 39960..41440+
        piece 41440..42920+
        piece 42920..44400+
        piece 44400..45880+
        piece 45880..47360+
        piece 47360..48840+
        piece 48840..50320+
        piece 50320..51800+
        piece 51800..53280+
        piece 53280..54760+
        piece 54760..56240+
        piece 56240..57720+
        piece 57720..59200+
        piece 59200..60680+
        piece 60680..62160+
        piece 62160..63640+
        piece 63640..65120+
        piece 65120..65515"#]],
    );
    assert_eq!(causes(&nat), ["unsolicited 2"]);
}

#[test]
fn unreachable_ports_are_told() {
    let mut nat = nat();
    take(&mut nat, NOW, [datagram(5000, SocketAddrV4::new(GATEWAY, 99), b"hi")]);
    let flow = flow_of(&mut nat);
    let mut check = |error, expected: Expect| {
        nat.udp_failed(NOW, flow, at([127, 0, 0, 1], 99).into(), error);
        expected.assert_eq(&frames(&mut nat).join("\n"));
    };
    check(HostError::Refused, expect!["unreachable 3 for 10.20.0.1"]);
    check(HostError::HostUnreachable, expect!["unreachable 1 for 10.20.0.1"]);
    check(HostError::NetUnreachable, expect!["unreachable 0 for 10.20.0.1"]);
    check(HostError::Prohibited, expect!["unreachable 13 for 10.20.0.1"]);
    check(HostError::Exhausted, expect![""]);
}

#[test]
fn what_the_network_says_about_packets_is_passed_on() {
    const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    let mut nat = nat();
    take(&mut nat, NOW, [datagram(5000, REMOTE, b"hi"), datagram(5000, at([192, 0, 2, 81], 99), b"hi")]);
    let datagrams = flow_of(&mut nat);
    ops(&mut nat);
    take(&mut nat, NOW, [echo(77, *REMOTE.ip(), b"abcdefgh")]);
    let echoes = flow_of(&mut nat);
    let mut check = |from: Ipv4Addr, to: SocketAddrV4, fate, about: &str, expected: Expect| {
        let error = IcmpError { from: from.into(), fate };
        nat.udp_lost(NOW, datagrams, to.into(), error);
        nat.echo_lost(NOW, echoes, IpAddr::from(*to.ip()), 3, error);
        assert_eq!(about, if frames(&mut nat).len() == 2 { "both" } else { "one" }, "{to}");
        nat.udp_lost(NOW, datagrams, to.into(), error);
        expected.assert_eq(&frames(&mut nat).join("\n"));
    };
    check(ROUTER, REMOTE, PacketFate::Expired { code: 0 }, "both", expect!["198.51.100.1: expired for 192.0.2.80"]);
    let too_long = PacketFate::TooLong { mtu: 1400 };
    check(ROUTER, REMOTE, too_long, "both", expect!["198.51.100.1: unreachable 4 for 192.0.2.80, mtu 1400"]);
    check(Ipv4Addr::LOCALHOST, REMOTE, too_long, "both", expect!["unreachable 4 for 192.0.2.80, mtu 1400"]);
    // Several remotes at one socket: the one that is meant is named, and the echo's flow never wrote there.
    let other = at([192, 0, 2, 81], 99);
    let port = PacketFate::Unreachable(Unreachable::PORT);
    check(*other.ip(), other, port, "one", expect!["192.0.2.81: unreachable 3 for 192.0.2.81"]);
    nat.udp_lost(NOW, datagrams, at([192, 0, 2, 82], 99).into(), IcmpError { from: ROUTER.into(), fate: port });
    assert!(frames(&mut nat).is_empty(), "nobody wrote there");
    assert_eq!(causes(&nat), ["unsolicited 2", "host-refused 2", "too-long 6", "expired 3"]);
}

#[test]
fn packets_go_on_as_they_came() {
    let mut nat = nat();
    take(&mut nat, NOW, [datagram(5000, REMOTE, b"hi"), echo(77, *REMOTE.ip(), b"")]);
    let transits: Vec<Transit> = std::iter::from_fn(|| nat.poll_host())
        .filter_map(|op| match op {
            HostOp::UdpSend { transit, .. } | HostOp::EchoSend { transit, .. } => Some(transit),
            _ => None,
        })
        .collect();
    assert_eq!(transits, [Transit { ttl: 62, dont_fragment: false }; 2], "the gateway is a router");
}

#[test]
fn mappings_live_for_five_minutes_and_questions_for_seconds() {
    let mut nat = nat();
    let mut now = NOW;
    take(&mut nat, now, [datagram(5000, REMOTE, b"hi"), datagram(5001, at([192, 0, 2, 53], 53), b"?")]);
    let flow = flow_of(&mut nat);
    ops(&mut nat);
    let mut pass = |nat: &mut Nat, seconds| {
        now += Duration::from_secs(seconds);
        nat.handle_timeout(now);
        nat.flows()
    };
    assert_eq!(pass(&mut nat, 19), 2);
    assert_eq!(pass(&mut nat, 1), 1);
    assert_eq!(pass(&mut nat, 279), 1);
    nat.udp_received(NOW + Duration::from_secs(299), flow, REMOTE.into(), b"still here");
    assert_eq!(pass(&mut nat, 299), 1);
    assert_eq!(pass(&mut nat, 1), 0);
    assert_eq!(ops(&mut nat), ["close udp", "close udp"]);
    assert_eq!(nat.next_timeout(), None);
}

#[test]
fn echoes() {
    let mut nat = nat();
    take(&mut nat, NOW, [echo(77, *REMOTE.ip(), b"abcdefgh")]);
    let flow = flow_of(&mut nat);
    nat.echo_received(NOW, flow, IpAddr::from(*REMOTE.ip()), 3, b"abcdefgh");
    nat.echo_received(NOW, flow, IpAddr::from(Ipv4Addr::new(192, 0, 2, 81)), 3, b"abcdefgh");
    assert_eq!(frames(&mut nat), ["echo reply 192.0.2.80 id 77 #3 8 bytes"]);
    nat.echo_failed(NOW, flow, IpAddr::from(*REMOTE.ip()), 3, HostError::NetUnreachable);
    assert_eq!(frames(&mut nat), ["unreachable 0 for 192.0.2.80"]);
    check(
        &mut nat,
        [echo(77, Ipv4Addr::new(10, 30, 0, 1), b"")],
        &expect![[r#"
        unreachable 13 for 10.30.0.1
        prohibited 1"#]],
    );
    check(&mut nat, [echo(77, GATEWAY, b"")], &expect!["protocol 1"]);
    check(&mut nat, [frame(*REMOTE.ip(), Protocol::ICMP, &[5, 0, 0, 0, 0, 0, 0, 0])], &expect!["protocol 2"]);
    nat.handle_timeout(NOW + Duration::from_secs(60));
    assert_eq!(ops(&mut nat), ["close echo"]);

    let mut closed = super::bench::nat();
    closed.set_limits(crate::nat::HostLimits { echo: false, ..Default::default() });
    check(
        &mut closed,
        [echo(77, *REMOTE.ip(), b"")],
        &expect![[r#"
        unreachable 13 for 192.0.2.80
        echo-closed 1"#]],
    );
}

/// A datagram in pieces of at most `size` bytes.
fn pieces(ident: u16, size: usize, payload: &[u8]) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    udp::emit(&mut whole, SocketAddrV4::new(GUEST, 5000), REMOTE, payload);
    let count = whole.len().div_ceil(size);
    let cut = whole.chunks(size).enumerate().map(|(index, piece)| {
        let mut bytes = frame(*REMOTE.ip(), Protocol::UDP, piece);
        let place = (index * size / 8) as u16 | if index + 1 < count { 0x2000 } else { 0 };
        let header = &mut bytes[ethernet::HEADER_BYTES..][..ipv4::HEADER_BYTES];
        header[4..6].copy_from_slice(&ident.to_be_bytes());
        header[6..8].copy_from_slice(&place.to_be_bytes());
        header[10..12].fill(0);
        let sum = weft_wire::checksum::checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    });
    cut.collect()
}

#[test]
fn pieces_are_put_together() {
    let mut nat = nat();
    let payload = vec![9; 4000];
    let sent = || pieces(1, 1480, &payload);
    check(&mut nat, sent(), &expect!["send 192.0.2.80:80 4000 bytes"]);
    check(&mut nat, sent().into_iter().rev(), &expect!["send 192.0.2.80:80 4000 bytes"]);
    let doubled = sent().into_iter().zip(sent()).flat_map(|(a, b)| [a, b]).take(5);
    check(&mut nat, doubled, &expect!["send 192.0.2.80:80 4000 bytes"]);

    // A piece of another size that says something else about the same bytes.
    let mut liar = pieces(2, 1480, &payload);
    liar.insert(1, pieces(2, 800, &payload).remove(1));
    check(&mut nat, liar, &expect!["fragment 1"]);

    // Sixteen may be incomplete; the seventeenth takes the first one's place.
    let halves: Vec<_> = (100..117).map(|ident| pieces(ident, 3000, &payload)).collect();
    check(&mut nat, halves.iter().map(|half| half[0].clone()), &expect![""]);
    check(&mut nat, [halves[16][1].clone()], &expect!["send 192.0.2.80:80 4000 bytes"]);
    check(&mut nat, [halves[0][1].clone()], &expect![""]);
}

#[test]
fn pieces_of_connections_are_dropped() {
    let mut bytes = frame(*REMOTE.ip(), Protocol::TCP, &[0; 24]);
    bytes[ethernet::HEADER_BYTES + 6] = 0x20;
    let sum = weft_wire::checksum::update(u16::from_be_bytes([bytes[24], bytes[25]]), 0, 0x2000);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    check(&mut nat(), [bytes], &expect!["fragment 1"]);
}

#[test]
fn errors_are_not_sent_without_measure() {
    let mut nat = nat();
    take(&mut nat, NOW, (0..1000).map(|port| datagram(port, at([127, 0, 0, 1], 80), b"")));
    let told = frames(&mut nat).len();
    assert!((20..200).contains(&told), "{told}");
    assert_eq!(causes(&nat), ["prohibited 1000".to_owned(), format!("icmp-rate-limited {}", 1000 - told)]);
}
