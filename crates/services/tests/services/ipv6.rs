//! IPv6 at the gateway: advertisements, neighbours, and what comes for it.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use expect_test::{Expect, expect};
use hickory_proto::op::{Message as DnsMessage, MessageType, OpCode, Query};
use hickory_proto::rr::Name;
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr, UdpPacket,
};
use weft_services::{NetworkId, NetworkServices, Reason, Station};
use weft_types::MacAddr;
use weft_wire::icmpv6::Message;
use weft_wire::{EtherType, Protocol, checksum::Sum, ethernet, ipv6, ndp, udp};

use crate::bed::*;

pub(crate) const LAPTOP_LOCAL: &str = "fe80::ff:fe00:d";
pub(crate) const LAPTOP_GLOBAL: &str = "fd00:20::ff:fe00:d";

pub(crate) fn ip6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

pub(crate) fn office6() -> NetworkServices {
    NetworkServices { subnet6: Some("fd00:20::/64".parse().unwrap()), ..office() }
}

fn backstage6() -> NetworkServices {
    NetworkServices { subnet6: Some("fd00:30::/64".parse().unwrap()), ..backstage() }
}

fn station(ip: &str, mac: MacAddr, vm: Option<&str>) -> Station {
    Station { ip: ip6(ip), is_fixed: false, mac, vm: vm.map(|vm| vm.parse().unwrap()) }
}

/// The networks with IPv6, whose gateways have said so, and with their stations known.
fn bed() -> Bed {
    let mut bed = Bed::with(vec![office6(), backstage6()]);
    bed.services.set_stations(
        OFFICE,
        vec![
            station(LAPTOP_GLOBAL, LAPTOP, Some("laptop")),
            station(LAPTOP_LOCAL, LAPTOP, Some("laptop")),
            station("fd00:20::a", WEB, Some("web")),
            station("2001:db8::7", WEB, Some("web")),
            station("fd00:20::66", STRANGER, None),
        ],
    );
    bed.services.set_stations(BACKSTAGE, vec![station("fd00:30::c", DB, Some("db"))]);
    for _ in 0..60 {
        bed.sleep(Duration::from_secs(1));
    }
    bed.frames();
    bed
}

/// A frame from a station to the gateway, or to a group.
pub(crate) struct Sent {
    pub(crate) mac: MacAddr,
    pub(crate) src: Ipv6Addr,
    pub(crate) dst: Ipv6Addr,
    pub(crate) hop_limit: u8,
}

pub(crate) fn from_laptop(src: &str, dst: &str) -> Sent {
    Sent { mac: LAPTOP, src: ip6(src), dst: ip6(dst), hop_limit: 64 }
}

impl Sent {
    pub(crate) fn frame(&self, next_header: Protocol, payload: &[u8]) -> Vec<u8> {
        let Self { mac, src, dst, hop_limit } = *self;
        let to = if dst.is_multicast() { ndp::group_mac(dst) } else { OFFICE_MAC };
        let mut frame = Vec::new();
        ethernet::emit(&mut frame, to, mac, EtherType::IPV6);
        ipv6::Repr { src, dst, next_header, hop_limit, payload_len: payload.len() as u16 }.emit(&mut frame);
        frame.extend_from_slice(payload);
        frame
    }

    fn icmp(&self, message: &Message<'_>) -> Vec<u8> {
        let mut payload = Vec::new();
        message.emit(&mut payload, self.src, self.dst);
        self.frame(Protocol::ICMPV6, &payload)
    }

    fn ping(&self) -> Vec<u8> {
        self.icmp(&Message::EchoRequest { ident: 7, seq: 1, payload: b"data" })
    }

    pub(crate) fn udp(&self, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        let [from, to] = [(self.src, 5353), (self.dst, port)].map(|(ip, port)| SocketAddrV6::new(ip, port, 0, 0));
        udp::emit_v6(&mut datagram, from, to, payload);
        self.frame(Protocol::UDP, &datagram)
    }

    /// A message of neighbour discovery, with a checksum.
    pub(crate) fn ndp(&self, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        let len = message.len() as u16;
        let sum = Sum::ZERO.pseudo_ipv6(self.src, self.dst, Protocol::ICMPV6, len).bytes(&message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Self { hop_limit: if self.hop_limit == 64 { 255 } else { self.hop_limit }, ..*self }
            .frame(Protocol::ICMPV6, &message)
    }
}

pub(crate) fn own(mac: MacAddr) -> Vec<u8> {
    [&[1, 1], &mac.octets()[..]].concat()
}

fn who_has(target: &str, options: &[u8]) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ip6(target).octets(), options].concat()
}

fn i_have(target: &str, mac: MacAddr) -> Vec<u8> {
    [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &ip6(target).octets(), &[2, 1], &mac.octets()].concat()
}

pub(crate) fn which_routers(options: &[u8]) -> Vec<u8> {
    [&[133, 0, 0, 0, 0, 0, 0, 0][..], options].concat()
}

/// A frame from the gateway in a line; panics where a receiver would drop it.
fn describe6(bytes: &[u8]) -> String {
    let frame = EthernetFrame::new_checked(bytes).unwrap();
    let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
    let ip = Ipv6Repr::parse(&packet).unwrap();
    let way = format!("{} -> {} {}", ip.src_addr, ip.dst_addr, frame.dst_addr());
    let strict = ChecksumCapabilities::default();
    match ip.next_header {
        IpProtocol::Icmpv6 => {
            let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
            let message = Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &icmp, &strict).expect("a right message");
            let text = match message {
                Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { .. }) => {
                    format!("router {}", describe_advertisement(packet.payload()))
                }
                Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) => {
                    format!("{target_addr} is at {} ({flags:?})", lladdr.unwrap())
                }
                Icmpv6Repr::EchoReply { ident, seq_no, data } => format!("echo reply {ident}/{seq_no} {data:?}"),
                Icmpv6Repr::DstUnreachable { reason, header, .. } => {
                    format!("unreachable: {reason} (about {})", header.dst_addr)
                }
                Icmpv6Repr::TimeExceeded { header, .. } => format!("time exceeded (about {})", header.dst_addr),
                Icmpv6Repr::ParamProblem { reason, pointer, .. } => format!("{reason} at {pointer}"),
                other => format!("{other:?}"),
            };
            if matches!(message, Icmpv6Repr::Ndisc(_)) {
                assert_eq!(ip.hop_limit, 255);
            }
            format!("icmp {way} {text}")
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(packet.payload()).unwrap();
            assert!(udp.verify_checksum(&IpAddress::Ipv6(ip.src_addr), &IpAddress::Ipv6(ip.dst_addr)));
            match udp.src_port() {
                547 => format!("udp {way}:{} {}", udp.dst_port(), crate::dhcp6::describe(udp.payload())),
                _ => format!("udp {way}:{} {}", udp.dst_port(), crate::dns::describe(udp.payload())),
            }
        }
        other => format!("{other} {way}"),
    }
}

/// What a router advertisement says, read with nothing but the RFCs at hand.
fn describe_advertisement(message: &[u8]) -> String {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let address = |bytes: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap());
    let mut text = format!("for {} s, flags {:#04x}, hops {}", number(&message[6..8]), message[5], message[4]);
    let mut options = &message[16..];
    while !options.is_empty() {
        let (option, rest) = options.split_at(8 * usize::from(options[1]));
        text += &match option[0] {
            1 => format!(", at {}", MacAddr::new(option[2..8].try_into().unwrap())),
            3 => format!(
                ", {}/{} flags {:#04x} valid {} preferred {}",
                address(&option[16..]),
                option[2],
                option[3],
                number(&option[4..8]),
                number(&option[8..12])
            ),
            5 => format!(", mtu {}", number(&option[4..8])),
            25 => format!(", names by {} for {} s", address(&option[8..24]), number(&option[4..8])),
            31 => format!(", in {}", String::from_utf8_lossy(&option[8..]).escape_debug()),
            other => panic!("option {other}"),
        };
        options = rest;
    }
    text
}

pub(crate) fn heard6(bed: &mut Bed) -> String {
    let lines: Vec<_> = bed.frames().iter().map(|frame| describe6(frame)).collect();
    if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") }
}

fn check(net: NetworkId, frames: &[(&str, Vec<u8>)], expected: Expect) {
    let mut table = String::new();
    for (what, frame) in frames {
        let mut bed = bed();
        let mut frame = frame.clone();
        if net == BACKSTAGE && frame[0] & 1 == 0 {
            frame[..6].copy_from_slice(&BACKSTAGE_MAC.octets());
        }
        bed.send(net, &frame);
        table += &format!("{what}: {} | {}\n", heard6(&mut bed), bed.counted());
    }
    expected.assert_eq(&table);
}

#[test]
fn neighbours_that_ask_for_the_gateway() {
    let local = |dst| from_laptop(LAPTOP_LOCAL, dst);
    let (group, own) = ("ff02::1:ff00:1", own(LAPTOP));
    check(
        OFFICE,
        &[
            ("its link's address", local(group).ndp(&who_has("fe80::1", &own))),
            ("its global one", from_laptop(LAPTOP_GLOBAL, group).ndp(&who_has("fd00:20::1", &own))),
            ("by unicast", local("fe80::1").ndp(&who_has("fe80::1", &own))),
            ("without a name", from_laptop("::", group).ndp(&who_has("fe80::1", &[]))),
            ("a neighbour", local("ff02::1:ff00:a").ndp(&who_has("fd00:20::a", &own))),
            ("another gateway", local(group).ndp(&who_has("fd00:30::1", &own))),
            ("a neighbour is there", local("fe80::1").ndp(&i_have(LAPTOP_LOCAL, LAPTOP))),
        ],
        expect![[r#"
            its link's address: icmp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d fe80::1 is at 02:00:00:00:00:f1 (ROUTER | SOLICITED | OVERRIDE) | 
            its global one: icmp fd00:20::1 -> fd00:20::ff:fe00:d 02-00-00-00-00-0d fd00:20::1 is at 02:00:00:00:00:f1 (ROUTER | SOLICITED | OVERRIDE) | 
            by unicast: icmp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d fe80::1 is at 02:00:00:00:00:f1 (ROUTER | SOLICITED | OVERRIDE) | 
            without a name: icmp fe80::1 -> ff02::1 33-33-00-00-00-01 fe80::1 is at 02:00:00:00:00:f1 (ROUTER | OVERRIDE) | 
            a neighbour: nothing | nd-ignored 1
            another gateway: nothing | nd-ignored 1
            a neighbour is there: nothing | nd-ignored 1
        "#]],
    );
}

#[test]
fn hostile_neighbours() {
    let local = |dst| from_laptop(LAPTOP_LOCAL, dst);
    let (group, own) = ("ff02::1:ff00:1", own(LAPTOP));
    let good = who_has("fe80::1", &own);
    let mut damaged = local(group).ndp(&good);
    *damaged.last_mut().unwrap() ^= 1;
    let routed = Sent { hop_limit: 254, ..local(group) };
    let with_fragment = [&[58, 0, 0, 1, 0, 0, 0, 7][..], &good].concat();
    check(
        OFFICE,
        &[
            ("from afar", routed.ndp(&good)),
            ("damaged", damaged),
            ("cut", local(group).ndp(&good[..20])),
            ("an option without end", local(group).ndp(&who_has("fe80::1", &[1, 0, 0, 0, 0, 0, 0, 0]))),
            ("another's hardware address", local(group).ndp(&who_has("fe80::1", &[1, 1, 2, 0, 0, 0, 0, 0x0a]))),
            ("a fragment", local(group).frame(Protocol(44), &with_fragment)),
            ("as the gateway", from_laptop("fe80::1", group).ndp(&good)),
            ("from nowhere here", from_laptop("2001:db8::1", group).ndp(&good)),
            (
                "it has the gateway's",
                local("ff02::1").ndp(&{
                    let mut message = i_have("fe80::1", LAPTOP);
                    message[4] = 0x20;
                    message
                }),
            ),
            ("it is a router", local("ff02::1").ndp(&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0])),
            ("it knows a better way", local("fe80::1").ndp(&[137, 0, 0, 0, 0, 0, 0, 0])),
            ("without a name, with one", from_laptop("::", "ff02::2").ndp(&which_routers(&own))),
        ],
        expect![[r#"
            from afar: nothing | nd-malformed 1
            damaged: nothing | bad-checksum 1
            cut: nothing | nd-malformed 1
            an option without end: nothing | nd-malformed 1
            another's hardware address: nothing | forged-source 1
            a fragment: nothing | fragment 1
            as the gateway: nothing | forged-source 1
            from nowhere here: nothing | forged-source 1
            it has the gateway's: nothing | forged-source 1
            it is a router: nothing | nd-rogue-router 1
            it knows a better way: nothing | nd-rogue-router 1
            without a name, with one: nothing | nd-malformed 1
        "#]],
    );
}

#[test]
fn packets_for_the_gateway() {
    let to = |dst| from_laptop(LAPTOP_GLOBAL, dst);
    let hop_by_hop = [58, 0, 1, 4, 0, 0, 0, 0];
    let mut ping = Vec::new();
    let echo = Message::EchoRequest { ident: 7, seq: 1, payload: b"data" };
    echo.emit(&mut ping, ip6(LAPTOP_GLOBAL), ip6("fd00:20::1"));
    let error = Message::TimeExceeded { code: 0, quote: &[0; 40] };
    let last = Sent { hop_limit: 1, ..to("2001:db8::1") };
    check(
        BACKSTAGE,
        &[
            ("on the wrong network", to("fd00:30::1").ping()),
            ("an echo", from_laptop("fd00:30::77", "fd00:30::1").ping()),
            ("an echo on the link", from_laptop(LAPTOP_LOCAL, "fe80::1").ping()),
            ("a closed port", from_laptop("fd00:30::77", "fd00:30::1").udp(7, b"x")),
            ("tcp", from_laptop("fd00:30::77", "fd00:30::1").frame(Protocol::TCP, &[0; 20])),
            ("sctp", from_laptop("fd00:30::77", "fd00:30::1").frame(Protocol(132), &[0; 20])),
            ("the world", from_laptop("fd00:30::77", "2001:db8::1").ping()),
            ("the world, from the link", from_laptop(LAPTOP_LOCAL, "2001:db8::1").ping()),
            ("the world, an error", from_laptop("fd00:30::77", "2001:db8::1").icmp(&error)),
            ("the office", from_laptop("fd00:30::77", "fd00:20::a").ping()),
            ("a group", from_laptop(LAPTOP_LOCAL, "ff02::16").frame(Protocol::ICMPV6, &[143, 0, 0, 0, 0, 0, 0, 0])),
        ],
        expect![[r#"
            on the wrong network: nothing | forged-source 1
            an echo: icmp fd00:30::1 -> fd00:30::77 02-00-00-00-00-0d echo reply 7/1 [100, 97, 116, 97] | 
            an echo on the link: icmp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d echo reply 7/1 [100, 97, 116, 97] | 
            a closed port: icmp fd00:30::1 -> fd00:30::77 02-00-00-00-00-0d unreachable: port unreachable (about fd00:30::1) | no-service 1
            tcp: icmp fd00:30::1 -> fd00:30::77 02-00-00-00-00-0d unreachable: port unreachable (about fd00:30::1) | no-service 1
            sctp: icmp fd00:30::1 -> fd00:30::77 02-00-00-00-00-0d unrecognized next header type. at 6 | no-service 1
            the world: icmp fd00:30::1 -> fd00:30::77 02-00-00-00-00-0d unreachable: no route to destination (about 2001:db8::1) | no-route 1
            the world, from the link: icmp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d unreachable: beyond scope of source address (about 2001:db8::1) | no-route 1
            the world, an error: nothing | no-route 1
            the office: icmp fd00:30::1 -> fd00:30::77 02-00-00-00-00-0d unreachable: communication with destination administratively prohibited (about fd00:20::a) | no-route 1
            a group: nothing | multicast 1
        "#]],
    );
    check(
        OFFICE,
        &[
            ("its last hop", last.ping()),
            ("behind a header", to("fd00:20::1").frame(Protocol(0), &[&hop_by_hop[..], &ping].concat())),
            ("headers without end", to("fd00:20::1").frame(Protocol(0), &[0; 8].repeat(20))),
            ("a lie about its length", {
                let mut frame = to("fd00:20::1").ping();
                frame[19] = 200;
                frame
            }),
            ("from a group", from_laptop("ff02::1", "fd00:20::1").ping()),
            ("as the gateway", from_laptop("fd00:20::1", "fd00:20::1").ping()),
            ("udp without a checksum", {
                let mut frame = to("fd00:20::1").udp(53, b"x");
                frame[60..62].fill(0);
                frame
            }),
        ],
        expect![[r#"
            its last hop: icmp fd00:20::1 -> fd00:20::ff:fe00:d 02-00-00-00-00-0d time exceeded (about 2001:db8::1) | ttl-expired 1
            behind a header: icmp fd00:20::1 -> fd00:20::ff:fe00:d 02-00-00-00-00-0d echo reply 7/1 [100, 97, 116, 97] | 
            headers without end: nothing | malformed 1
            a lie about its length: nothing | malformed 1
            from a group: nothing | forged-source 1
            as the gateway: nothing | forged-source 1
            udp without a checksum: nothing | bad-checksum 1
        "#]],
    );
}

#[test]
fn a_network_without_a_prefix_speaks_no_ipv6() {
    let mut bed = Bed::new();
    bed.send(OFFICE, &from_laptop(LAPTOP_LOCAL, "ff02::1:ff00:1").ndp(&who_has("fe80::1", &own(LAPTOP))));
    bed.sleep(Duration::from_secs(3600));
    assert_eq!((heard6(&mut bed), bed.counted()), ("nothing".to_owned(), "ether-type 1".to_owned()));
}

/// When everybody on a network hears an advertisement, in milliseconds, and what it says.
fn advertisements(bed: &mut Bed, net: NetworkId, span: Duration) -> Vec<(u64, String)> {
    let until = bed.now + span;
    let mut all = Vec::new();
    loop {
        for (of, frame) in std::iter::from_fn(|| bed.services.poll_frame()) {
            let text = describe6(&frame.bytes);
            if of == net && text.contains("-> ff02::1 ") && text.contains(" router ") {
                all.push((bed.now.since(weft_types::Instant::ZERO).as_millis() as u64, text));
            }
        }
        match bed.services.next_timeout().filter(|next| *next <= until) {
            Some(next) => {
                bed.now = next;
                bed.services.handle_timeout(next);
            }
            None => {
                bed.now = until;
                return all;
            }
        }
    }
}

#[test]
fn what_a_gateway_says_of_itself() {
    let mut bed = Bed::with(vec![office6(), NetworkServices { dns: false, ..backstage6() }]);
    bed.send(OFFICE, &from_laptop(LAPTOP_LOCAL, "ff02::2").ndp(&which_routers(&own(LAPTOP))));
    bed.send(BACKSTAGE, &from_laptop(LAPTOP_LOCAL, "ff02::2").ndp(&which_routers(&[])));
    expect![[r#"
        icmp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d router for 1800 s, flags 0x00, hops 64, at 02:00:00:00:00:f1, mtu 1500, fd00:20::/64 flags 0xc0 valid 86400 preferred 14400, names by fd00:20::1 for 1800 s, in \u{6}office\u{4}weft\0\0\0\0
        icmp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d router for 0 s, flags 0x00, hops 64, at 02:00:00:00:00:f2, mtu 1400, fd00:30::/64 flags 0xc0 valid 86400 preferred 14400"#]].assert_eq(&heard6(&mut bed));
}

#[test]
fn a_gateway_speaks_soon_and_then_seldom() {
    let mut bed = Bed::with(vec![office6(), backstage6()]);
    let all = advertisements(&mut bed, OFFICE, Duration::from_secs(24 * 3600));
    let gaps: Vec<_> = std::iter::once(0).chain(all.iter().map(|(at, _)| *at)).collect();
    let gaps: Vec<_> = gaps.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] <= 500 && gaps[1..4].iter().all(|gap| *gap <= 16_000), "{:?}", &gaps[..6]);
    assert!(gaps[4..].iter().all(|gap| (200_000..600_000).contains(gap)), "{gaps:?}");
    let mut distinct = gaps[4..].to_vec();
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() > 100, "they are spread: {distinct:?}");
}

#[test]
fn who_asks_without_a_name_is_answered_with_everybody() {
    let mut bed = bed();
    let ask = from_laptop("::", "ff02::2").ndp(&which_routers(&[]));
    let before = advertisements(&mut bed, OFFICE, Duration::from_secs(30)).len();
    for _ in 0..100 {
        bed.send(OFFICE, &ask);
        assert_eq!(heard6(&mut bed), "nothing", "not at once");
    }
    let first = advertisements(&mut bed, OFFICE, Duration::from_millis(500));
    assert_eq!((before, first.len()), (0, 1));
    bed.send(OFFICE, &ask);
    let second = advertisements(&mut bed, OFFICE, Duration::from_secs(4));
    assert_eq!(second.len(), 1);
    assert!(second[0].0 - first[0].0 >= 3000, "{first:?} {second:?}");
}

#[test]
fn who_asks_all_the_time_is_not_answered_all_the_time() {
    let mut bed = bed();
    let ask = from_laptop(LAPTOP_LOCAL, "ff02::2").ndp(&which_routers(&own(LAPTOP)));
    (0..1000).for_each(|_| bed.send(OFFICE, &ask));
    assert_eq!((bed.frames().len(), bed.counted()), (50, "icmp-rate-limited 950".to_owned()));
}

#[test]
fn a_prefix_that_goes_is_taken_back() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let mut bed = bed();
    let renumbered = NetworkServices { subnet6: Some("fd00:21::/64".parse().unwrap()), ..office6() };
    bed.services.configure(bed.now, vec![renumbered.clone(), backstage6()]);
    let said = advertisements(&mut bed, OFFICE, hours(1));
    assert!(said.len() >= 6, "at once, and again");
    expect![[r#"icmp fe80::1 -> ff02::1 33-33-00-00-00-01 router for 1800 s, flags 0x00, hops 64, at 02:00:00:00:00:f1, mtu 1500, fd00:21::/64 flags 0xc0 valid 86400 preferred 14400, fd00:20::/64 flags 0xc0 valid 7200 preferred 0, names by fd00:21::1 for 1800 s, in \u{6}office\u{4}weft\0\0\0\0"#]].assert_eq(&said[0].1);
    let late = advertisements(&mut bed, OFFICE, hours(3));
    assert!(!late.last().unwrap().1.contains("fd00:20::"), "{late:?}");

    bed.services.configure(bed.now, vec![office(), backstage6()]);
    let said = advertisements(&mut bed, OFFICE, hours(1));
    expect!["icmp fe80::1 -> ff02::1 33-33-00-00-00-01 router for 0 s, flags 0x00, hops 64, at 02:00:00:00:00:f1, mtu 1500, fd00:21::/64 flags 0xc0 valid 7200 preferred 0"].assert_eq(&said[0].1);
    bed.services.configure(bed.now, vec![renumbered, backstage6()]);
    let said = advertisements(&mut bed, OFFICE, hours(1));
    assert_eq!(said[0].1.matches("fd00:21::").count(), 2, "it is there again: {}", said[0].1);
    bed.services.configure(bed.now, vec![office(), backstage6()]);
    advertisements(&mut bed, OFFICE, hours(3));
    assert!(advertisements(&mut bed, OFFICE, hours(24)).is_empty(), "nobody has to hear of it any more");
}

#[test]
fn a_gateway_that_leads_nowhere_any_more_says_so() {
    let mut bed = bed();
    bed.services.configure(bed.now, vec![NetworkServices { nat: false, ..office6() }, backstage6()]);
    let said = advertisements(&mut bed, OFFICE, Duration::from_secs(1));
    assert!(said.len() == 1 && said[0].1.contains("router for 0 s"), "{said:?}");
    bed.services.configure(bed.now, vec![NetworkServices { nat: false, ..office6() }, backstage6()]);
    assert_eq!(advertisements(&mut bed, OFFICE, Duration::from_secs(1)).len(), 0, "nothing is new");
}

fn question(name: &str, rtype: &str) -> Vec<u8> {
    let mut message = DnsMessage::new(0xbeef, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype.parse().unwrap()));
    message.to_vec().unwrap()
}

#[test]
fn names_over_ipv6() {
    let mut bed = bed();
    let mut table = String::new();
    for (who, src, name, rtype) in [
        (LAPTOP, LAPTOP_GLOBAL, "laptop.office.weft.", "AAAA"),
        (LAPTOP, LAPTOP_LOCAL, "web", "AAAA"),
        (LAPTOP, LAPTOP_LOCAL, "web", "A"),
        (LAPTOP, LAPTOP_LOCAL, "printer", "AAAA"),
        (LAPTOP, LAPTOP_LOCAL, "gateway.office.weft.", "AAAA"),
        (LAPTOP, LAPTOP_LOCAL, "db.backstage.weft.", "AAAA"),
        (WEB, "fd00:20::a", "db.backstage.weft.", "AAAA"),
        (LAPTOP, LAPTOP_LOCAL, &reverse("fd00:20::a"), "PTR"),
        (LAPTOP, LAPTOP_LOCAL, &reverse("fd00:20::1"), "PTR"),
        (LAPTOP, LAPTOP_LOCAL, &reverse("fd00:20::66"), "PTR"),
        (LAPTOP, LAPTOP_LOCAL, &reverse("fd00:30::c"), "PTR"),
        (WEB, "fd00:20::a", &reverse("fd00:30::c"), "PTR"),
        (LAPTOP, LAPTOP_LOCAL, &reverse("2001:db8::7")[16..], "PTR"),
        (LAPTOP, LAPTOP_LOCAL, "0.2.0.0.0.0.d.f.ip6.arpa.", "PTR"),
        (LAPTOP, LAPTOP_LOCAL, &reverse("fd00:20::a")[4..], "PTR"),
        (LAPTOP, LAPTOP_LOCAL, "x.0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa.", "PTR"),
    ] {
        let to = if src.starts_with("fe80") { "fe80::1" } else { "fd00:20::1" };
        let sent = Sent { mac: who, ..from_laptop(src, to) };
        bed.send(OFFICE, &sent.udp(53, &question(name, rtype)));
        table += &format!("{who} {name} {rtype}: {}\n", heard6(&mut bed).replace(" authoritative", ""));
    }
    expect![[r#"
        02:00:00:00:00:0d laptop.office.weft. AAAA: udp fd00:20::1 -> fd00:20::ff:fe00:d 02-00-00-00-00-0d:5353 NoError [laptop.office.weft. 5 IN AAAA fd00:20::ff:fe00:d]
        02:00:00:00:00:0d web AAAA: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NoError [web. 5 IN AAAA fd00:20::a]
        02:00:00:00:00:0d web A: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NoError [web. 5 IN A 10.20.0.10]
        02:00:00:00:00:0d printer AAAA: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NoError (. SOA)
        02:00:00:00:00:0d gateway.office.weft. AAAA: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NoError [gateway.office.weft. 5 IN AAAA fd00:20::1]
        02:00:00:00:00:0d db.backstage.weft. AAAA: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NXDomain (weft. SOA)
        02:00:00:00:00:0a db.backstage.weft. AAAA: udp fd00:20::1 -> fd00:20::a 02-00-00-00-00-0a:5353 NoError [db.backstage.weft. 5 IN AAAA fd00:30::c]
        02:00:00:00:00:0d a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. PTR: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NoError [a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. 5 IN PTR web.office.weft.]
        02:00:00:00:00:0d 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. PTR: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NoError [1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. 5 IN PTR gateway.office.weft.]
        02:00:00:00:00:0d 6.6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. PTR: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NXDomain (0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. SOA)
        02:00:00:00:00:0d c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.0.0.0.d.f.ip6.arpa. PTR: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NXDomain (0.0.0.0.0.0.0.0.0.3.0.0.0.0.d.f.ip6.arpa. SOA)
        02:00:00:00:00:0a c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.0.0.0.d.f.ip6.arpa. PTR: udp fd00:20::1 -> fd00:20::a 02-00-00-00-00-0a:5353 NoError [c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.0.0.0.d.f.ip6.arpa. 5 IN PTR db.backstage.weft.]
        02:00:00:00:00:0d 0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR: nothing
        02:00:00:00:00:0d 0.2.0.0.0.0.d.f.ip6.arpa. PTR: nothing
        02:00:00:00:00:0d 0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. PTR: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NoError (0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. SOA)
        02:00:00:00:00:0d x.0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. PTR: udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 NXDomain (0.0.0.0.0.0.0.0.0.2.0.0.0.0.d.f.ip6.arpa. SOA)
    "#]].assert_eq(&table);
    bed.send(OFFICE, &from_laptop(LAPTOP_LOCAL, "fe80::1").udp(53, &question("example.org.", "AAAA")));
    let forward = bed.services.poll_dns().expect("the outside is asked");
    assert!(bed.services.dns_answer(bed.now, forward.id, None));
    expect!["udp fe80::1 -> fe80::ff:fe00:d 02-00-00-00-00-0d:5353 ServFail"].assert_eq(&heard6(&mut bed));
}

#[test]
fn a_machine_is_found_by_the_addresses_that_stay() {
    let own = LAPTOP_GLOBAL;
    let fixed = |ip| Station { is_fixed: true, ..station(ip, LAPTOP, Some("laptop")) };
    let taken = |ip| station(ip, LAPTOP, Some("laptop"));
    let second = || station("fd00:20::b:1", STRANGER, Some("laptop"));
    for (stations, expected) in [
        (vec![taken("fd00:20::1:1"), taken("fd00:20::1:2")], "fd00:20::1:1 fd00:20::1:2"),
        (vec![taken("fd00:20::1:1"), taken(own), taken("fe80::1:1")], own),
        (vec![taken("fd00:20::1:1"), fixed("fd00:20::7")], "fd00:20::7"),
        (vec![fixed("fd00:20::7"), taken("fd00:20::7"), taken(own)], "fd00:20::7 fd00:20::ff:fe00:d"),
        (vec![taken("fd00:20::1:1"), fixed("fd00:99::7")], "fd00:20::1:1"),
        (vec![taken("fd00:20::1:1"), taken(own), second()], "fd00:20::ff:fe00:d fd00:20::b:1"),
    ] {
        let mut bed = bed();
        bed.services.set_stations(OFFICE, stations);
        bed.send(OFFICE, &from_laptop(LAPTOP_LOCAL, "fe80::1").udp(53, &question("laptop.office.weft.", "AAAA")));
        let heard = heard6(&mut bed);
        let answers: Vec<_> = heard.split("AAAA ").skip(1).map(|rest| rest.split(']').next().unwrap()).collect();
        assert_eq!(answers.join(" "), expected, "{heard}");
    }
}

/// The name under which an address is looked up.
fn reverse(address: &str) -> String {
    let digits: Vec<_> = ip6(address).octets().iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
    digits.iter().rev().map(|digit| format!("{digit:x}.")).collect::<String>() + "ip6.arpa."
}

proptest! {
    /// Nothing upsets the gateway, and what it says is right. Nothing that a receiver has to drop is answered.
    #[test]
    fn any_neighbour_is_survived(
        messages in vec((133..138_u8, 0..2_u8, vec(any::<u8>(), 0..60), any::<[bool; 4]>()), 1..20),
    ) {
        let mut bed = bed();
        for (kind, code, rest, [from_afar, nameless, to_all, is_damaged]) in messages {
            let mut message = [&[kind, code, 0, 0][..], &rest].concat();
            if message.len() >= 24 && !to_all {
                message[8..24].copy_from_slice(&ip6("fe80::1").octets());
            }
            let src = if nameless { "::" } else { LAPTOP_LOCAL };
            let sent = Sent { hop_limit: if from_afar { 3 } else { 255 }, ..from_laptop(src, "ff02::1:ff00:1") };
            let mut frame = sent.ndp(&message);
            if is_damaged {
                let last = frame.len() - 1;
                frame[last] ^= 0x10;
            }
            bed.send(OFFICE, &frame);
            let heard = bed.frames();
            prop_assert!(heard.is_empty() || !(from_afar || is_damaged || code > 0 || message.len() < 8));
            heard.iter().for_each(|frame| {
                describe6(frame);
            });
        }
        prop_assert!(bed.services.counters(OFFICE).unwrap().get(Reason::UnknownNetwork) == 0);
    }

    /// The same for whatever else is IPv6.
    #[test]
    fn any_packet_is_survived(
        packets in vec((any::<u8>(), any::<u8>(), 0..4_usize, vec(any::<u8>(), 0..90), any::<bool>()), 1..20),
    ) {
        let mut bed = bed();
        for (next_header, hop_limit, to, payload, is_known) in packets {
            let dst = ["fe80::1", "fd00:20::1", "2001:db8::1", "ff02::1"][to];
            let known = [0, 6, 17, 43, 44, 58, 60][usize::from(next_header) % 7];
            let next_header = Protocol(if is_known { known } else { next_header });
            let sent = Sent { hop_limit, ..from_laptop(LAPTOP_GLOBAL, dst) };
            bed.send(OFFICE, &sent.frame(next_header, &payload));
            bed.frames().iter().for_each(|frame| {
                describe6(frame);
            });
        }
    }
}
