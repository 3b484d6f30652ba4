//! What guests send to a gateway, and what the host's resolvers answer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use weft_services::{DhcpServer, NetworkId, NetworkServices, Reservation, Services};
use weft_types::{Boot, DnsNames, Instant, MacAddr, Metadata, UserData};
use weft_wire::tcp::{Flags, Options};
use weft_wire::{Csum, EtherType, Offload, Protocol, ethernet, icmpv4, ipv4, tcp, udp};

const NET: NetworkId = NetworkId(1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const GATEWAY_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0xf1]);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
const GUEST_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 0x0a]);
const MTU: u16 = 1500;

/// A network with a guest of a fixed address, and a pool of four, whose addresses may have to be asked for first.
fn services(probe: bool) -> Services {
    let mut services = Services::new([7; 32], Duration::from_secs(1_800_000_000));
    let network = NetworkServices {
        id: NET,
        name: "office".parse().expect("a name"),
        nat: true,
        mtu: MTU,
        mac: GATEWAY_MAC,
        ip: GATEWAY,
        subnet: "10.20.0.0/24".parse().expect("a subnet"),
        subnet6: None,
        dhcp6: None,
        dhcp: Some(DhcpServer {
            first: Ipv4Addr::new(10, 20, 0, 100),
            last: Ipv4Addr::new(10, 20, 0, 103),
            lease_s: 3600,
            reservations: vec![Reservation { mac: GUEST_MAC, vm: "web".parse().expect("a name"), ip: Some(GUEST) }],
            excluded: Vec::new(),
            kept: BTreeMap::from([("id:hex:00aa".parse().expect("a client"), Ipv4Addr::new(10, 20, 0, 20))]),
            // Routes; more than fits into small answers; several that have to stand elsewhere.
            options: [(121, 7), (43, 600), (17, 120), (100, 100), (252, 60)]
                .map(|(code, bytes)| (code, vec![b'a'; bytes]))
                .into(),
            boot: Some(Boot {
                server: Some(GATEWAY),
                file: Some("pxelinux.0".to_owned()),
                efi: Some("x".repeat(200)),
                arm64: None,
                http: Some("http://10.20.0.1/boot.efi".to_owned()),
                ipxe: None,
            }),
            probe,
        }),
        dns: true,
        host_access: true,
        records: Vec::new(),
        names: DnsNames::default(),
        metadata: BTreeMap::from([(GUEST_MAC, machine())]),
        forwards: Vec::new(),
    };
    services.configure(Instant::ZERO, vec![network]);
    services
}

fn machine() -> Metadata {
    Metadata {
        vm: "web".parse().expect("a name"),
        instance_id: "1234".to_owned(),
        ssh_key: Some("ssh-ed25519 AAAA".to_owned()),
        user_data: UserData::Text("#!/bin/sh\n".repeat(500)),
    }
}

/// A datagram from a guest to the gateway; what answers it is checked.
fn say(services: &mut Services, mac: MacAddr, from: SocketAddrV4, port: u16, payload: &[u8]) {
    let Ok(payload_len) = u16::try_from(payload.len() + udp::HEADER_BYTES) else { return };
    let header = ipv4::Repr {
        src: *from.ip(),
        dst: GATEWAY,
        protocol: Protocol::UDP,
        ttl: 64,
        ident: 0,
        dont_fragment: true,
        payload_len: payload_len.min(65_515),
    };
    let mut frame = Vec::new();
    ethernet::emit(&mut frame, GATEWAY_MAC, mac, EtherType::IPV4);
    header.emit(&mut frame);
    udp::emit(&mut frame, from, SocketAddrV4::new(GATEWAY, port), payload);
    services.handle_frame(Instant::ZERO, NET, &frame, Offload::default());
    settle(services);
}

/// Lets everything happen that is due, and checks every frame that comes out.
fn settle(services: &mut Services) {
    while let Some(request) = services.poll_persist() {
        services.persisted(Instant::ZERO, request.token);
    }
    while let Some((net, frame)) = services.poll_frame() {
        assert_eq!(net, NET);
        check_frame(&frame.bytes, frame.offload);
    }
}

/// What a gateway sends is never malformed, and comes from itself.
fn check_frame(bytes: &[u8], offload: Offload) {
    let frame = ethernet::parse(bytes).expect("an Ethernet header");
    assert_eq!(frame.src, GATEWAY_MAC);
    assert!(offload.gso.is_some() || frame.payload.len() <= MTU.into());
    if frame.ethertype != EtherType::IPV4 {
        return;
    }
    let packet = ipv4::parse(frame.payload).expect("an IPv4 header");
    if offload.csum != Csum::Unverified || packet.is_fragment() {
        return;
    }
    match packet.protocol {
        Protocol::UDP => {
            let datagram = udp::parse(packet.payload).expect("a UDP header");
            assert!(datagram.checksum_ok(packet.src, packet.dst));
        }
        Protocol::ICMP => assert!(icmpv4::checksum_ok(packet.payload)),
        _ => {}
    }
}

/// A DHCP message, from the station that it names.
pub(crate) fn dhcp_message(data: &[u8]) {
    let mac = data.get(28..34).and_then(|octets| octets.try_into().ok()).map_or(GUEST_MAC, MacAddr::new);
    let mut services = services(false);
    for _ in 0..2 {
        // A client's own word, and one that a relay passed on.
        say(&mut services, mac, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68), 67, data);
        say(&mut services, GUEST_MAC, SocketAddrV4::new(GUEST, 67), 67, data);
    }
    for lease in services.leases(Instant::ZERO) {
        assert!(
            lease.ip == GUEST || lease.ip.octets()[3] == 20 || (100..=103).contains(&lease.ip.octets()[3]),
            "{lease:?}"
        );
    }
}

/// A DNS query, and the silence of the host's resolvers.
pub(crate) fn dns_query(data: &[u8]) {
    let mut services = services(false);
    say(&mut services, GUEST_MAC, SocketAddrV4::new(GUEST, 5353), 53, data);
    while let Some(forward) = services.poll_dns() {
        assert!(forward.message.len() <= data.len().min(12 + 255 + 4 + 11), "one question, and EDNS");
        assert!(services.dns_answer(Instant::ZERO, forward.id, None));
    }
    settle(&mut services);
}

/// What a guest sends to the name server over TCP, in segments of a few bytes; nobody outside answers.
pub(crate) fn dns_stream(data: &[u8]) {
    stream(SocketAddrV4::new(GATEWAY, 53), data);
}

/// What a guest asks of its machine, in segments of a few bytes.
pub(crate) fn metadata_stream(data: &[u8]) {
    stream(SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80), data);
}

fn stream(to: SocketAddrV4, data: &[u8]) {
    let mut services = services(false);
    let mut seq = 1;
    send_segment(&mut services, to, 0, 0, Flags::SYN, &[]);
    let (_, answer) = services.poll_frame().expect("somebody answers");
    let frame = ethernet::parse(&answer.bytes).expect("a frame");
    let packet = ipv4::parse(frame.payload).expect("a packet");
    let ack = tcp::parse(packet.payload).expect("a segment").seq.wrapping_add(1);
    for piece in data.chunks(61) {
        send_segment(&mut services, to, seq, ack, Flags::ACK, piece);
        seq = seq.wrapping_add(piece.len() as u32);
        while let Some(forward) = services.poll_dns() {
            assert!(forward.is_stream);
            assert!(services.dns_answer(Instant::ZERO, forward.id, None));
        }
        settle(&mut services);
    }
    for second in [20, 40] {
        services.handle_timeout(Instant::ZERO + Duration::from_secs(second));
        settle(&mut services);
    }
}

fn send_segment(services: &mut Services, to: SocketAddrV4, seq: u32, ack: u32, flags: Flags, payload: &[u8]) {
    let (window, options) = (u16::MAX, Options::default());
    let mut segment = Vec::new();
    let header = tcp::Repr { src_port: 40_000, dst_port: to.port(), seq, ack, flags, window, options };
    header.emit(&mut segment, GUEST, *to.ip(), payload);
    let payload_len = segment.len() as u16;
    let (src, dst, protocol) = (GUEST, *to.ip(), Protocol::TCP);
    let mut frame = Vec::new();
    ethernet::emit(&mut frame, GATEWAY_MAC, GUEST_MAC, EtherType::IPV4);
    ipv4::Repr { src, dst, protocol, ttl: 64, ident: 0, dont_fragment: true, payload_len }.emit(&mut frame);
    frame.extend_from_slice(&segment);
    services.handle_frame(Instant::ZERO, NET, &frame, Offload::default());
}

/// What a resolver answers to a query for `www.example.org`; once as it is, once with the id that was asked.
pub(crate) fn dns_answer(data: &[u8]) {
    let mut query = vec![0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(b"\x03www\x07example\x03org\0\0\x01\0\x01");
    let mut services = services(false);
    say(&mut services, GUEST_MAC, SocketAddrV4::new(GUEST, 5353), 53, &query);
    let forward = services.poll_dns().expect("nothing of ours");
    services.dns_answer(Instant::ZERO, forward.id, Some(data));
    let mut fitting = data.to_vec();
    if let Some(id) = fitting.first_chunk_mut::<2>() {
        id.copy_from_slice(&forward.message[..2]);
    }
    services.dns_answer(Instant::ZERO, forward.id, Some(&fitting));
    settle(&mut services);
}

/// Frames for a gateway, each behind two bytes with its length; between them time passes.
pub(crate) fn gateway_frames(data: &[u8]) {
    let mut services = services(data.len().is_multiple_of(2));
    let mut now = Instant::ZERO;
    let mut rest = data;
    while let Some(([high, low], tail)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes([*high & 0x0f, *low])).min(tail.len());
        let (frame, tail) = tail.split_at(len);
        rest = tail;
        let csum = if high & 0x10 != 0 { Csum::Valid } else { Csum::Unverified };
        services.handle_frame(now, NET, frame, Offload { csum, gso: None });
        settle(&mut services);
        now += Duration::from_secs(u64::from(high >> 5));
        services.handle_timeout(now);
        settle(&mut services);
    }
}
