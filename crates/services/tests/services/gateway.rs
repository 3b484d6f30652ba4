//! ARP, ICMP echo, and what a gateway refuses.

use expect_test::{Expect, expect};
use weft_services::{NetworkId, OutFrame, Reason};
use weft_types::MacAddr;
use weft_wire::tcp::{Flags, Options};
use weft_wire::{Csum, Offload, tcp};

use crate::bed::*;

/// Sends each frame to the office's gateway, or to backstage's, and compares what comes back and what was counted.
fn check(net: NetworkId, frames: &[(&str, Vec<u8>)], expected: Expect) {
    let mut table = String::new();
    for (what, frame) in frames {
        let mut bed = Bed::new();
        bed.send(net, frame);
        table += &format!("{what}: {} | {}\n", bed.heard(), bed.counted());
    }
    expected.assert_eq(&table);
}

fn backstage_way(from: &str, to: &str) -> Way {
    Way { to_mac: BACKSTAGE_MAC, ..way(DB, from, to) }
}

#[test]
fn arp_for_the_gateway_and_nobody_else() {
    let mut lying = arp(LAPTOP, "10.20.0.103", "10.20.0.1");
    lying[22..28].copy_from_slice(&WEB.octets());
    let mut reply = arp(LAPTOP, "10.20.0.103", "10.20.0.1");
    reply[21] = 2;
    check(
        OFFICE,
        &[
            ("the gateway", arp(LAPTOP, "10.20.0.103", "10.20.0.1")),
            ("a probe for its address", arp(LAPTOP, "0.0.0.0", "10.20.0.1")),
            ("a neighbour", arp(LAPTOP, "10.20.0.103", "10.20.0.10")),
            ("another network's gateway", arp(LAPTOP, "10.20.0.103", "10.30.0.1")),
            ("its own address claimed", arp(LAPTOP, "10.20.0.1", "10.20.0.1")),
            ("a sender who lies", lying),
            ("an answer", reply),
            ("cut", arp(LAPTOP, "10.20.0.103", "10.20.0.1")[..40].to_vec()),
        ],
        expect![[r#"
            the gateway: arp Reply 10.20.0.1 is at 02-00-00-00-00-f1 -> 10.20.0.103 02-00-00-00-00-0d | 
            a probe for its address: arp Reply 10.20.0.1 is at 02-00-00-00-00-f1 -> 0.0.0.0 02-00-00-00-00-0d | 
            a neighbour: nothing | arp-ignored 1
            another network's gateway: nothing | arp-ignored 1
            its own address claimed: nothing | forged-source 1
            a sender who lies: nothing | forged-source 1
            an answer: nothing | arp-ignored 1
            cut: nothing | arp-ignored 1
        "#]],
    );
}

#[test]
fn pings() {
    let to = |address: &str| way(LAPTOP, "10.20.0.103:0", address);
    let mut damaged = ping(to("10.20.0.1:0"), b"data");
    *damaged.last_mut().unwrap() ^= 1;
    let mut fragment = ping(to("10.20.0.1:0"), b"data");
    set_fragment(&mut fragment, 0x2000);
    check(
        OFFICE,
        &[
            ("small", ping(to("10.20.0.1:0"), b"")),
            ("large", ping(to("10.20.0.1:0"), &[7; 1472])),
            ("damaged", damaged),
            ("a piece", fragment),
            ("no question", raw(to("10.20.0.1:0"), 1, &[0, 0, 0xff, 0xff, 0, 0, 0, 0])),
            ("another gateway", ping(to("10.30.0.1:0"), b"")),
        ],
        expect![[r#"
            small: icmp 10.20.0.1 -> 10.20.0.103 02-00-00-00-00-0d echo reply 7/1 0 bytes | 
            large: icmp 10.20.0.1 -> 10.20.0.103 02-00-00-00-00-0d echo reply 7/1 1472 bytes | 
            damaged: nothing | bad-checksum 1
            a piece: nothing | fragment 1
            no question: nothing | icmp-ignored 1
            another gateway: icmp 10.20.0.1 -> 10.20.0.103 02-00-00-00-00-0d unreachable: communication administratively prohibited (about 10.30.0.1) | no-route 1
        "#]],
    );
}

/// Writes the fragment field, and the header's checksum.
fn set_fragment(frame: &mut [u8], value: u16) {
    frame[20..22].copy_from_slice(&value.to_be_bytes());
    let mut packet = smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.fill_checksum();
}

#[test]
fn an_internal_network_ends_at_its_gateway() {
    let host = "10.30.0.77:4000";
    let answer_to_an_error = raw(backstage_way(host, "8.8.8.8:0"), 1, &[3, 3, 0xfc, 0xfc, 0, 0, 0, 0]);
    let mut later_piece = udp(backstage_way(host, "8.8.8.8:9"), b"x");
    set_fragment(&mut later_piece, 0x0010);
    check(
        BACKSTAGE,
        &[
            ("the world, udp", udp(backstage_way(host, "8.8.8.8:53"), b"x")),
            ("the world, ping", ping(backstage_way(host, "8.8.8.8:0"), b"x")),
            ("the world, an icmp error", answer_to_an_error),
            ("the world, a later piece", later_piece),
            ("the office", udp(backstage_way(host, "10.20.0.10:80"), b"x")),
            ("a neighbour by way of the gateway", udp(backstage_way(host, "10.30.0.99:80"), b"x")),
            ("a closed port", udp(backstage_way(host, "10.30.0.1:80"), b"x")),
            ("tcp to the gateway", raw(backstage_way(host, "10.30.0.1:80"), 6, &[0; 20])),
            ("sctp to the gateway", raw(backstage_way(host, "10.30.0.1:80"), 132, &[0; 20])),
        ],
        expect![[r#"
            the world, udp: icmp 10.30.0.1 -> 10.30.0.77 02-00-00-00-00-0c unreachable: destination network unreachable (about 8.8.8.8) | no-route 1
            the world, ping: icmp 10.30.0.1 -> 10.30.0.77 02-00-00-00-00-0c unreachable: destination network unreachable (about 8.8.8.8) | no-route 1
            the world, an icmp error: nothing | no-route 1
            the world, a later piece: nothing | no-route 1
            the office: icmp 10.30.0.1 -> 10.30.0.77 02-00-00-00-00-0c unreachable: communication administratively prohibited (about 10.20.0.10) | no-route 1
            a neighbour by way of the gateway: icmp 10.30.0.1 -> 10.30.0.77 02-00-00-00-00-0c unreachable: communication administratively prohibited (about 10.30.0.99) | no-route 1
            a closed port: icmp 10.30.0.1 -> 10.30.0.77 02-00-00-00-00-0c unreachable: destination port unreachable (about 10.30.0.1) | no-service 1
            tcp to the gateway: icmp 10.30.0.1 -> 10.30.0.77 02-00-00-00-00-0c unreachable: destination port unreachable (about 10.30.0.1) | no-service 1
            sctp to the gateway: icmp 10.30.0.1 -> 10.30.0.77 02-00-00-00-00-0c unreachable: destination protocol unreachable (about 10.30.0.1) | no-service 1
        "#]],
    );
}

/// Not over TCP, and not when a query comes in pieces, which nobody puts together here.
#[test]
fn the_name_server_is_never_the_hosts() {
    let way = way(LAPTOP, "10.20.0.103:4000", "10.20.0.1:53");
    let (seq, ack, window, options) = (1, 0, u16::MAX, Options::default());
    let header = tcp::Repr { src_port: 4000, dst_port: 53, seq, ack, flags: Flags::SYN, window, options };
    let mut syn = Vec::new();
    header.emit(&mut syn, *way.from.ip(), *way.to.ip(), &[]);
    let mut bed = Bed::new();
    bed.send(OFFICE, &raw(way, 6, &syn));
    assert!(bed.services.nat_mut().poll_host().is_none());
    assert_eq!((bed.frames().len(), bed.services.nat().flows()), (1, 1), "a name server of ours answers");

    let mut bed = Bed::new();
    let whole = udp(way, &[7; 100]);
    for (flags_and_offset, piece) in [([0x20, 0], &whole[34..90]), ([0, 7], &whole[90..])] {
        let mut frame = raw(way, 17, piece);
        frame[20..22].copy_from_slice(&flags_and_offset);
        frame[24..26].fill(0);
        let sum = weft_wire::checksum::Sum::ZERO.bytes(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        bed.send(OFFICE, &frame);
    }
    assert!(bed.services.nat_mut().poll_host().is_none());
    let frames = bed.frames();
    assert_eq!((frames.len(), &frames[0][34..36]), (1, &[3, 3][..]), "port unreachable");
}

#[test]
fn packets_that_cannot_be() {
    let host = "10.20.0.103:4000";
    let to_world = |from: &str| udp(way(LAPTOP, from, "8.8.8.8:9"), b"x");
    let changed = |at: usize, value: u8| {
        let mut frame = udp(way(LAPTOP, host, "10.20.0.1:53"), b"x");
        frame[at] = value;
        frame
    };
    let to_all = Way { to_mac: MacAddr::BROADCAST, ..way(LAPTOP, host, "8.8.8.8:9") };
    check(
        OFFICE,
        &[
            ("another network's source", to_world("10.30.0.5:1")),
            ("the gateway's source", to_world("10.20.0.1:1")),
            ("the network's source", to_world("10.20.0.0:1")),
            ("everyone's source", to_world("10.20.0.255:1")),
            ("no source", to_world("0.0.0.0:1")),
            ("the end of its life", udp_ttl(way(LAPTOP, host, "8.8.8.8:9"), 1, b"x")),
            ("multicast", udp(way(LAPTOP, host, "224.0.0.251:5353"), b"x")),
            ("everyone", udp(way(LAPTOP, host, "255.255.255.255:9"), b"x")),
            ("everyone here", udp(way(LAPTOP, host, "10.20.0.255:9"), b"x")),
            ("everyone's mac", udp(to_all, b"x")),
            ("loopback", udp(way(LAPTOP, host, "127.0.0.1:9"), b"x")),
            ("the reserved", udp(way(LAPTOP, host, "250.0.0.1:9"), b"x")),
            ("this network", udp(way(LAPTOP, host, "0.1.2.3:9"), b"x")),
            ("another station's mac", changed(5, 0x99)),
            ("a group's source mac", changed(6, 1)),
            ("the gateway's source mac", changed(11, 0xf1)),
            ("ipv6", changed(12, 0x86)),
            ("version 6", changed(14, 0x65)),
            ("a header shorter than one", changed(14, 0x44)),
            ("longer than its frame", changed(17, 0xff)),
            ("a damaged header", changed(22, 0x41)),
            ("a damaged datagram", changed(42, 0x41)),
            ("a datagram longer than its packet", changed(39, 0x41)),
            ("no frame", vec![0; 13]),
        ],
        expect![[r#"
            another network's source: nothing | forged-source 1
            the gateway's source: nothing | forged-source 1
            the network's source: nothing | forged-source 1
            everyone's source: nothing | forged-source 1
            no source: nothing | forged-source 1
            the end of its life: icmp 10.20.0.1 -> 10.20.0.103 02-00-00-00-00-0d time exceeded (about 8.8.8.8) | ttl-expired 1
            multicast: nothing | multicast 1
            everyone: nothing | multicast 1
            everyone here: nothing | multicast 1
            everyone's mac: nothing | not-for-gateway 1
            loopback: icmp 10.20.0.1 -> 10.20.0.103 02-00-00-00-00-0d unreachable: destination network unreachable (about 127.0.0.1) | no-route 1
            the reserved: icmp 10.20.0.1 -> 10.20.0.103 02-00-00-00-00-0d unreachable: destination network unreachable (about 250.0.0.1) | no-route 1
            this network: icmp 10.20.0.1 -> 10.20.0.103 02-00-00-00-00-0d unreachable: destination network unreachable (about 0.1.2.3) | no-route 1
            another station's mac: nothing | not-for-gateway 1
            a group's source mac: nothing | forged-source 1
            the gateway's source mac: nothing | forged-source 1
            ipv6: nothing | ether-type 1
            version 6: nothing | malformed 1
            a header shorter than one: nothing | malformed 1
            longer than its frame: nothing | malformed 1
            a damaged header: nothing | bad-checksum 1
            a damaged datagram: nothing | bad-checksum 1
            a datagram longer than its packet: nothing | malformed 1
            no frame: nothing | malformed 1
        "#]],
    );
}

#[test]
fn checksums_that_somebody_else_sees_to() {
    let mut frame = udp(way(LAPTOP, "10.20.0.103:4000", "10.20.0.1:53"), b"too short for dns");
    frame[40] ^= 0x55;
    for (csum, reason) in [
        (Csum::Unverified, Reason::BadChecksum),
        (Csum::Valid, Reason::DnsMalformed),
        (Csum::Partial { start: 34, offset: 6 }, Reason::DnsMalformed),
    ] {
        let mut bed = Bed::new();
        bed.services.handle_frame(bed.now, OFFICE, &frame, Offload { csum, gso: None });
        assert_eq!(bed.services.counters(OFFICE).unwrap().get(reason), 1, "{csum:?}");
    }
}

#[test]
fn refusals_are_rationed() {
    let mut bed = Bed::new();
    let frame = udp(backstage_way("10.30.0.77:4000", "8.8.8.8:53"), b"x");
    for _ in 0..200 {
        bed.send(BACKSTAGE, &frame);
    }
    assert_eq!((bed.frames().len(), bed.counted().as_str()), (50, "no-route 200, icmp-rate-limited 150"));
    bed.sleep(std::time::Duration::from_millis(35));
    for _ in 0..10 {
        bed.send(BACKSTAGE, &frame);
    }
    assert_eq!(bed.frames().len(), 3);
}

#[test]
fn the_queue_has_an_end() {
    let mut bed = Bed::new();
    for _ in 0..20_000 {
        bed.send(OFFICE, &arp(LAPTOP, "10.20.0.103", "10.20.0.1"));
    }
    assert_eq!((bed.frames().len(), bed.counted().as_str()), (16_384, "queue-full 3616"));
}

#[test]
fn a_network_that_is_not_there() {
    let mut bed = Bed::new();
    bed.send(NetworkId(9), &arp(LAPTOP, "10.20.0.103", "10.20.0.1"));
    assert_eq!((bed.heard().as_str(), bed.counted().as_str()), ("nothing", ""));
}

#[test]
fn answers_need_nothing_more_done() {
    let mut bed = Bed::new();
    bed.send(OFFICE, &arp(LAPTOP, "10.20.0.103", "10.20.0.1"));
    let (net, OutFrame { offload, .. }) = bed.services.poll_frame().unwrap();
    assert_eq!((net, offload), (OFFICE, Offload::default()));
}
