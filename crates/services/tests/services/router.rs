//! Routers: what passes between networks, what answers it, and what is said about the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::collection::vec;
use proptest::prelude::*;
use weft_services::{JoinedNetwork, NetworkId, NetworkServices, RouteEnd, RouteRule, RouterConfig};
use weft_types::{MacAddr, Permission, Provenance, Traffic};
use weft_wire::tcp::Flags;
use weft_wire::{Csum, Gso, GsoKind, Offload, Protocol, checksum, ipv4, tcp};

use crate::bed::*;

const LAB: NetworkId = NetworkId(3);
const LAB_MAC: MacAddr = mac(0xf3);

/// A third network, which no router joins with the others.
fn lab() -> NetworkServices {
    NetworkServices {
        id: LAB,
        name: "lab".parse().unwrap(),
        mac: LAB_MAC,
        ip: ip("10.40.0.1"),
        subnet: "10.40.0.0/24".parse().unwrap(),
        subnet6: None,
        dhcp6: None,
        dhcp: None,
        ..backstage()
    }
}

fn tcp_to(port: u16) -> Traffic {
    Traffic::Ports { protocol: 6, src: Traffic::ALL_PORTS, dst: port..=port }
}

fn rule(name: &str, permission: Permission, from: RouteEnd, to: RouteEnd, traffic: Traffic) -> RouteRule {
    RouteRule { name: name.into(), permission, from, to, traffic, provenance: Provenance::file("/w.toml", 9) }
}

/// The office may ask the database, and ping; backstage may begin nothing.
fn rules() -> Vec<RouteRule> {
    let (office, backstage) = (RouteEnd::Network(OFFICE), RouteEnd::Network(BACKSTAGE));
    let laptop = RouteEnd::Stations(vec![(OFFICE, LAPTOP)]);
    vec![
        rule("no-laptop", Permission::Reject, laptop, RouteEnd::Any, tcp_to(5432)),
        rule("database", Permission::Allow, office.clone(), backstage.clone(), tcp_to(5432)),
        rule("names", Permission::Allow, office.clone(), backstage.clone(), Traffic::Protocol { protocol: 17 }),
        rule("ping", Permission::Allow, office, backstage, Traffic::Icmp { protocol: 1, kind: 8 }),
    ]
}

pub(crate) fn router(rules: Vec<RouteRule>) -> RouterConfig {
    let joined = |id, stations: &[(&str, MacAddr)]| JoinedNetwork {
        id,
        stations: stations.iter().map(|(address, mac)| (IpAddr::V4(ip(address)), *mac)).collect(),
    };
    RouterConfig {
        name: "core".parse().unwrap(),
        networks: vec![
            joined(OFFICE, &[("10.20.0.10", WEB), ("10.20.0.20", LAPTOP)]),
            joined(BACKSTAGE, &[("10.30.0.10", DB)]),
        ],
        rules,
        default: Permission::Deny,
        connections: 3,
        provenance: Provenance::file("/w.toml", 7),
    }
}

fn joined() -> Bed {
    let mut bed = Bed::with(vec![office(), backstage(), lab()]);
    bed.services.set_routers(vec![router(rules())]);
    bed
}

const fn to_db() -> Way {
    Way {
        mac: WEB,
        to_mac: OFFICE_MAC,
        from: std::net::SocketAddrV4::new(Ipv4Addr::new(10, 20, 0, 10), 40_000),
        to: std::net::SocketAddrV4::new(Ipv4Addr::new(10, 30, 0, 10), 5432),
    }
}

/// The way of answers.
fn back(way: Way) -> Way {
    Way { mac: DB, to_mac: BACKSTAGE_MAC, from: way.to, to: way.from }
}

fn segment(way: Way, flags: Flags) -> Vec<u8> {
    let repr =
        tcp::Repr { src_port: way.from.port(), dst_port: way.to.port(), seq: 1000, flags, ..tcp::Repr::default() };
    let mut bytes = Vec::new();
    repr.emit(&mut bytes, *way.from.ip(), *way.to.ip(), &[]);
    raw(way, 6, &bytes)
}

/// Changes an IPv4 header's word, and makes the header's checksum right again.
fn with_word(mut frame: Vec<u8>, at: usize, word: u16) -> Vec<u8> {
    frame[14 + at..16 + at].copy_from_slice(&word.to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A frame in one line, with what only routers send.
fn tell(frame: &[u8]) -> String {
    let Some(packet) = ipv4::parse(&frame[14..]).ok().filter(|_| frame[12..14] == [8, 0]) else {
        return describe(frame);
    };
    let way = format!("{} -> {} {}", packet.src, packet.dst, MacAddr::new(frame[..6].try_into().unwrap()));
    match packet.payload {
        [kind @ (3 | 11 | 12), code, _, _, _, _, mtu @ ..] if packet.protocol == Protocol::ICMP => {
            format!("error {kind}/{code} {} {way}", u16::from_be_bytes([mtu[0], mtu[1]]))
        }
        _ if packet.is_fragment() => format!("piece at {} {way}", packet.fragment_offset),
        _ => describe(frame),
    }
}

/// What came of a frame, in one line: what was sent, by which gateway to whom, and what was counted.
fn outcome(bed: &mut Bed, net: NetworkId, frame: &[u8]) -> String {
    let before = bed.counted();
    bed.send(net, frame);
    let heard: Vec<_> = bed.frames().iter().map(|frame| tell(frame)).collect();
    let heard = if heard.is_empty() { "nothing".to_owned() } else { heard.join("\n") };
    let counted = bed.counted();
    if counted == before { heard } else { format!("{heard} | {counted}") }
}

fn check(frames: &[(&str, NetworkId, Vec<u8>)], expected: Expect) {
    let mut bed = joined();
    let lines: Vec<_> =
        frames.iter().map(|(what, net, frame)| format!("{what}: {}\n", outcome(&mut bed, *net, frame))).collect();
    expected.assert_eq(&lines.concat());
}

#[test]
fn what_may_begin_passes_and_what_answers_it() {
    let way = to_db();
    let mut pong = ping(back(way), b"");
    pong[34] = 0; // the type, and its checksum
    pong[36..38].fill(0);
    let sum = checksum::checksum(&pong[34..42]);
    pong[36..38].copy_from_slice(&sum.to_be_bytes());
    check(
        &[
            ("an answer to nothing", BACKSTAGE, segment(back(way), Flags::SYN | Flags::ACK)),
            ("a question", OFFICE, segment(way, Flags::SYN)),
            ("its answer", BACKSTAGE, segment(back(way), Flags::SYN | Flags::ACK)),
            ("a question from there, between the same ports", BACKSTAGE, segment(back(way), Flags::SYN)),
            ("another question", OFFICE, segment(Way { to: "10.30.0.10:22".parse().unwrap(), ..way }, Flags::SYN)),
            ("a ping", OFFICE, ping(way, b"")),
            ("its answer", BACKSTAGE, pong),
            ("a ping from there, with the same number", BACKSTAGE, ping(back(way), b"")),
            ("a datagram", OFFICE, udp(way, b"data")),
        ],
        expect![[r#"
            an answer to nothing: nothing | router-denied 1
            a question: TCP 10.20.0.10 -> 10.30.0.10 02-00-00-00-00-0c
            its answer: TCP 10.30.0.10 -> 10.20.0.10 02-00-00-00-00-0a
            a question from there, between the same ports: nothing | router-denied 2
            another question: nothing | router-denied 3
            a ping: icmp 10.20.0.10 -> 10.30.0.10 02-00-00-00-00-0c EchoRequest { ident: 7, seq_no: 1, data: [] }
            its answer: icmp 10.30.0.10 -> 10.20.0.10 02-00-00-00-00-0a echo reply 7/1 0 bytes
            a ping from there, with the same number: nothing | router-denied 4
            a datagram: udp 40000 10.20.0.10 -> 10.30.0.10 02-00-00-00-00-0c:5432 4 bytes
        "#]],
    );
}

#[test]
fn who_sends_what_cannot_pass_is_told() {
    let way = to_db();
    let laptop = Way { mac: LAPTOP, from: "10.20.0.20:40000".parse().unwrap(), ..way };
    let to = |address: &str| Way { to: address.parse().unwrap(), ..way };
    let long = udp(way, &[7; 1450]);
    check(
        &[
            ("one hop left", OFFICE, udp_ttl(way, 1, b"data")),
            ("two hops left", OFFICE, udp_ttl(way, 2, b"data")),
            ("too long", OFFICE, with_word(long, 6, 0x4000)),
            ("rejected", OFFICE, segment(laptop, Flags::SYN)),
            ("rejected, and a reset itself", OFFICE, segment(laptop, Flags::RST)),
            ("to the other gateway", OFFICE, ping(to("10.30.0.1:0"), b"")),
            ("to a service of the other gateway", OFFICE, udp(to("10.30.0.1:53"), b"data")),
            ("to all of the other network", OFFICE, udp(to("10.30.0.255:9"), b"data")),
            ("to a network that is not joined", OFFICE, udp(to("10.40.0.9:9"), b"data")),
            ("to the outside", OFFICE, udp(to("192.0.2.1:9"), b"data")),
            ("from an address of the other network", OFFICE, udp(Way { from: way.to, ..way }, b"data")),
        ],
        expect![[r#"
            one hop left: error 11/0 0 10.20.0.1 -> 10.20.0.10 02:00:00:00:00:0a | ttl-expired 1
            two hops left: udp 40000 10.20.0.10 -> 10.30.0.10 02-00-00-00-00-0c:5432 4 bytes
            too long: error 3/4 1400 10.20.0.1 -> 10.20.0.10 02:00:00:00:00:0a | ttl-expired 1, router-too-long 1
            rejected: TCP 10.30.0.10 -> 10.20.0.20 02-00-00-00-00-0d | ttl-expired 1, router-rejected 1, router-too-long 1
            rejected, and a reset itself: nothing | ttl-expired 1, router-rejected 2, router-too-long 1
            to the other gateway: icmp 10.30.0.1 -> 10.20.0.10 02-00-00-00-00-0a echo reply 7/1 0 bytes
            to a service of the other gateway: error 3/3 0 10.20.0.1 -> 10.20.0.10 02:00:00:00:00:0a | ttl-expired 1, router-rejected 2, router-too-long 1, no-service 1
            to all of the other network: error 3/1 0 10.20.0.1 -> 10.20.0.10 02:00:00:00:00:0a | ttl-expired 1, router-rejected 2, router-too-long 1, router-nobody 1, no-service 1
            to a network that is not joined: error 3/13 0 10.20.0.1 -> 10.20.0.10 02:00:00:00:00:0a | ttl-expired 1, router-rejected 2, router-too-long 1, router-nobody 1, no-route 1, no-service 1
            to the outside: nothing
            from an address of the other network: nothing | forged-source 1, ttl-expired 1, router-rejected 2, router-too-long 1, router-nobody 1, no-route 1, no-service 1
        "#]],
    );
}

#[test]
fn who_is_not_known_is_asked_for() {
    let mut bed = joined();
    let way = Way { to: "10.30.0.77:9".parse().unwrap(), ..to_db() };
    let mut told = String::new();
    told += &format!("{}\n", outcome(&mut bed, OFFICE, &udp(way, b"one")));
    told += &format!("{}\n", outcome(&mut bed, OFFICE, &udp(way, b"two!")));
    told += &format!("{}\n", outcome(&mut bed, BACKSTAGE, &arp(STRANGER, "10.30.0.77", "10.30.0.1")));
    told += &format!("{}\n", outcome(&mut bed, OFFICE, &udp(way, b"three")));
    // Nobody answers: after three questions the sender is told.
    let way = Way { to: "10.30.0.78:9".parse().unwrap(), ..to_db() };
    told += &format!("{}\n", outcome(&mut bed, OFFICE, &udp(way, b"data")));
    for _ in 0..3 {
        bed.sleep(Duration::from_secs(1));
        told += &format!("{} | {}\n", bed.heard(), bed.counted());
    }
    // Whoever waits is not many.
    for _ in 0..6 {
        bed.send(OFFICE, &udp(way, b"data"));
    }
    told += &bed.counted();
    expect![[r#"
        arp Request 10.30.0.1 is at 02-00-00-00-00-f2 -> 10.30.0.77 ff-ff-ff-ff-ff-ff
        nothing
        arp Reply 10.30.0.1 is at 02-00-00-00-00-f2 -> 10.30.0.77 02-00-00-00-00-0e
        udp 40000 10.20.0.10 -> 10.30.0.77 02-00-00-00-00-0e:9 3 bytes
        udp 40000 10.20.0.10 -> 10.30.0.77 02-00-00-00-00-0e:9 4 bytes
        udp 40000 10.20.0.10 -> 10.30.0.77 02-00-00-00-00-0e:9 5 bytes
        arp Request 10.30.0.1 is at 02-00-00-00-00-f2 -> 10.30.0.78 ff-ff-ff-ff-ff-ff
        arp Request 10.30.0.1 is at 02-00-00-00-00-f2 -> 10.30.0.78 ff-ff-ff-ff-ff-ff | 
        arp Request 10.30.0.1 is at 02-00-00-00-00-f2 -> 10.30.0.78 ff-ff-ff-ff-ff-ff | 
        icmp 10.20.0.1 -> 10.20.0.10 02-00-00-00-00-0a unreachable: destination host unreachable (about 10.30.0.78) | router-nobody 1
        router-nobody 1, queue-full 2"#]].assert_eq(&told);
}

#[test]
fn pieces_follow_the_first_one() {
    let way = to_db();
    let first = with_word(udp(way, &[1; 64]), 6, 0x2000);
    let later = with_word(raw(way, 17, &[2; 8]), 6, 9);
    let denied = Way { to: "10.30.0.10:22".parse().unwrap(), ..way };
    let over_the_header = with_word(raw(denied, 6, &[2; 8]), 6, 1);
    let beyond = with_word(raw(way, 17, &[2; 800]), 6, 0x1fff);
    check(
        &[
            ("a later piece alone", OFFICE, later.clone()),
            ("the first piece", OFFICE, first),
            ("a later piece", OFFICE, later.clone()),
            ("of another packet", OFFICE, with_word(later, 4, 99)),
            ("the first piece of what is denied", OFFICE, with_word(segment(denied, Flags::SYN), 6, 0x2000)),
            ("a piece over the first one's header", OFFICE, over_the_header),
            ("a piece beyond the longest packet", OFFICE, beyond),
            ("ports in the next piece", OFFICE, with_word(raw(way, 17, &[0; 4]), 6, 0x2000)),
        ],
        expect![[r#"
            a later piece alone: nothing | router-denied 1
            the first piece: piece at 0 10.20.0.10 -> 10.30.0.10 02:00:00:00:00:0c
            a later piece: piece at 72 10.20.0.10 -> 10.30.0.10 02:00:00:00:00:0c
            of another packet: nothing | router-denied 2
            the first piece of what is denied: nothing | router-denied 3
            a piece over the first one's header: nothing | fragment 1, router-denied 3
            a piece beyond the longest packet: nothing | malformed 1, fragment 1, router-denied 3
            ports in the next piece: nothing | malformed 2, fragment 1, router-denied 3
        "#]],
    );
}

#[test]
fn a_large_packet_is_cut() {
    let mut bed = joined();
    let whole = udp(to_db(), &[7; 3000]);
    let whole = with_word(with_word(whole, 6, 0), 4, 77);
    bed.send(OFFICE, &whole);
    let frames = bed.frames();
    let mut payload = Vec::new();
    for frame in &frames {
        let packet = ipv4::parse(&frame[14..]).unwrap();
        assert!(packet.bytes.len() <= 1400 && packet.ident == 77 && packet.ttl == 63);
        payload.extend(packet.payload);
    }
    assert_eq!((frames.len(), &payload[..]), (3, ipv4::parse(&whole[14..]).unwrap().payload));
}

#[test]
fn segments_that_are_still_to_be_cut_pass_whole() {
    let way = to_db();
    let repr = tcp::Repr { src_port: 40_000, dst_port: 5432, flags: Flags::ACK, ..tcp::Repr::default() };
    let send = |size: u16, word: u16| {
        let mut bed = joined();
        let mut bytes = Vec::new();
        repr.emit_partial(&mut bytes, *way.from.ip(), *way.to.ip(), &[5; 20_000]);
        let frame = with_word(raw(way, 6, &bytes), 6, word);
        let offload = Offload {
            csum: Csum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size }),
        };
        bed.services.handle_frame(bed.now, OFFICE, &frame, offload);
        let out: Vec<_> = std::iter::from_fn(|| bed.services.poll_frame()).collect();
        (out, offload)
    };
    let (out, offload) = send(1360, 0x4000);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].0, out[0].1.offload, out[0].1.bytes.len()), (BACKSTAGE, offload, 54 + 20_000));
    let (out, _) = send(1361, 0x4000);
    assert_eq!(out[0].0, OFFICE, "an error");
    let (out, _) = send(1460, 0);
    assert!(out.len() > 14 && out.iter().all(|(net, frame)| *net == BACKSTAGE && frame.bytes.len() <= 1414));
}

#[test]
fn edits_keep_what_they_allow() {
    let way = to_db();
    let mut bed = joined();
    let hits = |bed: &Bed| bed.services.routers()[0].hits().to_vec();
    bed.send(OFFICE, &segment(way, Flags::SYN));
    bed.send(BACKSTAGE, &segment(back(way), Flags::SYN | Flags::ACK));
    assert_eq!((bed.frames().len(), hits(&bed)), (2, vec![0, 1, 0, 0]));

    // Another rule before it: connections show again that they may be, from either side.
    let mut more = rules();
    more.insert(0, rule("new", Permission::Deny, RouteEnd::Network(OFFICE), RouteEnd::Any, tcp_to(80)));
    bed.services.set_routers(vec![router(more.clone())]);
    bed.send(BACKSTAGE, &segment(back(way), Flags::ACK));
    assert_eq!((bed.frames().len(), hits(&bed)), (1, vec![0, 0, 2, 0, 0]));
    bed.send(OFFICE, &segment(way, Flags::ACK));
    assert_eq!((bed.frames().len(), hits(&bed)), (1, vec![0, 0, 2, 0, 0]));

    // A rule that denies it ends it.
    more[2].permission = Permission::Deny;
    bed.services.set_routers(vec![router(more)]);
    bed.send(BACKSTAGE, &segment(back(way), Flags::ACK));
    assert_eq!((bed.frames().len(), bed.services.routers()[0].connections()), (0, 0));

    // Without the router nothing passes, and its sender is told.
    bed.services.set_routers(Vec::new());
    bed.send(OFFICE, &udp(way, b"data"));
    assert_eq!(tell(&bed.frames()[0]), "error 3/13 0 10.20.0.1 -> 10.20.0.10 02:00:00:00:00:0a");
}

#[test]
fn nobody_begins_more_than_may_be() {
    let mut bed = joined();
    let from = |port: u16| {
        let from = std::net::SocketAddrV4::new(ip("10.20.0.10"), port);
        udp(Way { from, ..to_db() }, b"data")
    };
    (1..=5).for_each(|port| bed.send(OFFICE, &from(port)));
    assert_eq!((bed.frames().len(), bed.counted().as_str()), (3, "router-connection-limit 2"));
    bed.sleep(Duration::from_secs(41)); // nobody has answered for 30 s
    assert_eq!(bed.services.routers()[0].connections(), 0);
    bed.send(OFFICE, &from(5));
    assert_eq!(bed.frames().len(), 1);
    bed.sleep(Duration::from_secs(60));
    bed.sleep(Duration::from_secs(60));
    assert_eq!(bed.services.next_timeout(), None, "an idle router wakes nobody");
}

#[test]
fn errors_about_connections_pass() {
    let way = to_db();
    let question = udp(way, b"data");
    let error = |quote: &[u8]| {
        let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
        message.extend(quote);
        let sum = checksum::checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        raw(back(way), 1, &message)
    };
    let mut for_laptop = error(&question[14..42]);
    for_laptop[33] = 20;
    for_laptop = with_word(for_laptop, 4, 0);
    let mut other = question[14..42].to_vec();
    other[20] ^= 1; // another port
    check(
        &[
            ("about nothing", BACKSTAGE, error(&question[14..42])),
            ("a question", OFFICE, question.clone()),
            ("about it", BACKSTAGE, error(&question[14..42])),
            ("about another", BACKSTAGE, error(&other)),
            ("about it, for somebody else", BACKSTAGE, for_laptop),
            ("about half of a header", BACKSTAGE, error(&question[14..30])),
        ],
        expect![[r#"
            about nothing: nothing | router-denied 1
            a question: udp 40000 10.20.0.10 -> 10.30.0.10 02-00-00-00-00-0c:5432 4 bytes
            about it: error 3/3 0 10.30.0.10 -> 10.20.0.10 02:00:00:00:00:0a
            about another: nothing | router-denied 2
            about it, for somebody else: nothing | router-denied 3
            about half of a header: nothing | router-denied 4
        "#]],
    );
}

#[test]
fn a_router_says_what_it_would_do() {
    let mut bed = joined();
    let way = to_db();
    let told = |bed: &Bed, net, frame: &[u8]| {
        let Some(trace) = bed.services.trace_router(bed.now, net, frame) else { return "no router\n".to_owned() };
        let mut lines = String::new();
        for step in &trace.steps {
            let because = step.because.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
            lines += &format!("{}{because}\n", step.finding);
        }
        let onward = trace.onward.map(|(net, frame)| format!("{net:?}: {}\n", describe(&frame)));
        lines + &trace.verdict.map(|verdict| verdict + "\n").or(onward).unwrap_or_default()
    };
    let mut text = String::new();
    for (net, frame) in [
        (OFFICE, segment(way, Flags::SYN)),
        (OFFICE, segment(Way { to: "10.30.0.10:22".parse().unwrap(), ..way }, Flags::SYN)),
        (OFFICE, udp(Way { to: "10.30.0.99:22".parse().unwrap(), ..way }, b"data")),
        (OFFICE, udp(Way { to: "10.40.0.9:22".parse().unwrap(), ..way }, b"data")),
        (BACKSTAGE, segment(back(way), Flags::ACK)),
    ] {
        text += &told(&bed, net, &frame);
        text += "\n";
    }
    bed.send(OFFICE, &segment(way, Flags::SYN));
    text += &told(&bed, BACKSTAGE, &segment(back(way), Flags::ACK));
    expect![[r#"
        router `core` joins `office` and `backstage` (/w.toml:7)
        10.30.0.10 is at 02:00:00:00:00:0c on `backstage`
        `database` allows it (/w.toml:9)
        NetworkId(2): TCP 10.20.0.10 -> 10.30.0.10 02-00-00-00-00-0c

        router `core` joins `office` and `backstage` (/w.toml:7)
        10.30.0.10 is at 02:00:00:00:00:0c on `backstage`
        no rule fits, and the default denies it (/w.toml:7)
        router `core` drops it

        router `core` joins `office` and `backstage` (/w.toml:7)
        the router asks who has 10.30.0.99; if nobody answers, its sender is told so

        no router

        router `core` joins `backstage` and `office` (/w.toml:7)
        10.20.0.10 is at 02:00:00:00:00:0a on `office`
        no rule fits, and the default denies it (/w.toml:7)
        router `core` drops it

        router `core` joins `backstage` and `office` (/w.toml:7)
        10.20.0.10 is at 02:00:00:00:00:0a on `office`
        it belongs to a connection that may be
        NetworkId(1): TCP 10.30.0.10 -> 10.20.0.10 02-00-00-00-00-0a
    "#]]
    .assert_eq(&text);
}

/// What the naive model knows: who may have begun what, and that is all.
#[derive(Default)]
struct Model {
    begun: BTreeSet<(Ipv4Addr, u16, Ipv4Addr, u16)>,
    count: BTreeMap<MacAddr, usize>,
}

impl Model {
    /// Whether a datagram passes: an answer to what began, or what a rule lets begin and its station has room for.
    fn passes(&mut self, mac: MacAddr, way: &Way) -> bool {
        let tuple = (*way.from.ip(), way.from.port(), *way.to.ip(), way.to.port());
        let answered = (tuple.2, tuple.3, tuple.0, tuple.1);
        if self.begun.contains(&tuple) || self.begun.contains(&answered) {
            return true;
        }
        let is_from_office = way.from.ip().octets()[1] == 20;
        let begun = self.count.entry(mac).or_default();
        let may = is_from_office && *begun < 3;
        if may {
            *begun += 1;
            self.begun.insert(tuple);
        }
        may
    }
}

proptest! {
    /// Datagrams pass as the model says, to the adapter that has the address, with one hop less, and nothing else changed.
    #[test]
    fn the_model_agrees(sent in vec((0..3_u8, 0..4_u16, 0..3_u16, 0..4_u8), 1..60)) {
        let mut bed = joined();
        let mut model = Model::default();
        let office = [(WEB, ip("10.20.0.10")), (LAPTOP, ip("10.20.0.20"))];
        for (who, port, other_port, ttl) in sent {
            let socket = |ip, port| std::net::SocketAddrV4::new(ip, port);
            let db = socket(ip("10.30.0.10"), 100 + other_port);
            let (mac, way) = match who {
                2 => (DB, Way { mac: DB, to_mac: BACKSTAGE_MAC, from: db, to: socket(office[0].1, 200 + port) }),
                who => {
                    let (mac, own) = office[usize::from(who)];
                    (mac, Way { mac, to_mac: OFFICE_MAC, from: socket(own, 200 + port), to: db })
                }
            };
            let net = if who == 2 { BACKSTAGE } else { OFFICE };
            let frame = udp_ttl(way, ttl + 1, b"data");
            bed.send(net, &frame);
            let out: Vec<_> = std::iter::from_fn(|| bed.services.poll_frame()).collect();
            let across: Vec<_> = out.iter().filter(|(to, _)| *to != net).collect();
            if ttl == 0 || !model.passes(mac, &way) {
                prop_assert!(across.is_empty());
                continue;
            }
            prop_assert_eq!(out.len(), 1);
            let (_, got) = across[0];
            let expected = udp_ttl(Way {
                mac: if net == OFFICE { BACKSTAGE_MAC } else { OFFICE_MAC },
                to_mac: if net == OFFICE { DB } else { WEB },
                ..way
            }, ttl, b"data");
            prop_assert_eq!(&got.bytes, &expected);
        }
    }

    /// Whatever comes from two networks, each frame that leaves has fewer hops to live, or is an answer to its sender: there
    /// is nothing that goes in a circle.
    #[test]
    fn nothing_goes_in_a_circle(payload in vec(any::<u8>(), 0..80), protocol: u8, ttl: u8, word: u16, to_office: bool) {
        let mut bed = joined();
        let way = if to_office { back(to_db()) } else { to_db() };
        let mut frame = with_word(raw(way, protocol, &payload), 6, word);
        frame = with_word(frame, 8, u16::from(ttl) << 8 | u16::from(protocol));
        let mut net = if to_office { BACKSTAGE } else { OFFICE };
        for round in 0.. {
            prop_assert!(round < 3);
            bed.send(net, &frame);
            let Some((out, next)) = bed.services.poll_frame() else { break };
            if out == net {
                break; // its sender is told
            }
            prop_assert!(next.bytes[22] < ttl);
            // A station that sends everything back to the router.
            frame = next.bytes;
            let (from, to) = frame.split_at_mut(6);
            from.swap_with_slice(&mut to[..6]);
            net = out;
        }
    }
}
