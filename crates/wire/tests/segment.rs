//! Segmentation: what is cut and put together again is what it was, every piece is complete, and no lie about a frame
//! gets through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use weft_types::MacAddr;
use weft_wire::checksum::Sum;
use weft_wire::segment::{MAX_SEGMENTS, longest_frame, segment, validate_offload};
use weft_wire::tcp::{Flags, Options};
use weft_wire::{Csum, EtherType, Gso, GsoKind, Headers, Offload, Protocol, ethernet, ipv4, tcp, udp};

const SRC4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const DST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SRC6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const DST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const SEQ: u32 = u32::MAX - 5000; // wraps on the way
const IDENT: u16 = u16::MAX - 3; // wraps too

/// A frame that a driver left unfinished.
#[derive(Clone, Debug)]
struct Large {
    kind: GsoKind,
    is_tagged: bool,
    has_options: bool,
    flags: Flags,
    payload: Vec<u8>,
    size: u16,
    /// UDP only, where the kind does not say it.
    is_ipv6: bool,
}

impl Large {
    fn is_ipv6(&self) -> bool {
        matches!(self.kind, GsoKind::Tcp6 { .. }) || self.kind == GsoKind::UdpL4 && self.is_ipv6
    }

    fn build(&self) -> (Vec<u8>, Offload) {
        let mut transport = Vec::new();
        let (protocol, offset) = match self.kind {
            GsoKind::UdpL4 => {
                for word in [5000, 53, (8 + self.payload.len()) as u16, 0] {
                    transport.extend_from_slice(&word.to_be_bytes());
                }
                transport.extend_from_slice(&self.payload);
                (Protocol::UDP, udp::CHECKSUM_OFFSET)
            }
            GsoKind::Tcp4 { .. } | GsoKind::Tcp6 { .. } => {
                let mss = self.has_options.then_some(1460);
                let options = Options { mss, ..Options::default() };
                let repr = tcp::Repr {
                    src_port: 5000,
                    dst_port: 80,
                    seq: SEQ,
                    flags: self.flags,
                    options,
                    ..Default::default()
                };
                repr.emit_partial(&mut transport, SRC4, DST4, &self.payload);
                (Protocol::TCP, tcp::CHECKSUM_OFFSET)
            }
        };
        let mut frame = Vec::new();
        let ethertype = if self.is_ipv6() { EtherType::IPV6 } else { EtherType::IPV4 };
        let tag = self.is_tagged.then_some(ethernet::Tag { kind: EtherType::C_TAG, control: 10 });
        let dst = MacAddr::new([2, 0, 0, 0, 0, 2]);
        ethernet::Header { dst, src: MacAddr::new([2, 0, 0, 0, 0, 1]), tag, ethertype }.emit(&mut frame);
        let payload_len = transport.len() as u16;
        if self.is_ipv6() {
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&payload_len.to_be_bytes());
            frame.extend_from_slice(&[protocol.0, 64]);
            frame.extend_from_slice(&SRC6.octets());
            frame.extend_from_slice(&DST6.octets());
        } else {
            let (src, dst) = (SRC4, DST4);
            ipv4::Repr { src, dst, protocol, ttl: 64, ident: IDENT, dont_fragment: true, payload_len }.emit(&mut frame);
        }
        let start = frame.len() as u16;
        let pseudo = if self.is_ipv6() {
            Sum::ZERO.pseudo_ipv6(SRC6, DST6, protocol, payload_len)
        } else {
            Sum::ZERO.pseudo_ipv4(SRC4, DST4, protocol, payload_len)
        };
        transport[usize::from(offset)..][..2].copy_from_slice(&pseudo.folded().to_be_bytes());
        frame.extend_from_slice(&transport);
        let gso = Some(Gso { kind: self.kind, size: self.size });
        (frame, Offload { csum: Csum::Partial { start, offset }, gso })
    }
}

fn cut(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    segment(frame, offload, &mut |piece| pieces.push(piece.to_vec())).expect("the frame can be cut");
    pieces
}

/// The transport bytes of a piece whose lengths and checksums are all right.
fn transport(piece: &[u8]) -> (Headers, &[u8]) {
    let headers = Headers::parse(piece, piece.len()).unwrap();
    let ip = headers.ip.unwrap().unwrap();
    let bytes = &piece[ip.transport_at.unwrap().into()..];
    let pseudo = match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let packet = ipv4::parse(&piece[headers.link.len_bytes()..]).expect("the IPv4 header's checksum is right");
            assert_eq!(packet.payload, bytes, "the packet ends where the frame does");
            Sum::ZERO.pseudo_ipv4(src, dst, ip.protocol, bytes.len() as u16)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::ZERO.pseudo_ipv6(src, dst, ip.protocol, bytes.len() as u16),
        _ => unreachable!(),
    };
    assert_eq!(pseudo.bytes(bytes).checksum(), 0, "the transport checksum is right");
    (headers, bytes)
}

fn any_large() -> impl Strategy<Value = Large> {
    let kind = prop_oneof![
        any::<bool>().prop_map(|ecn| GsoKind::Tcp4 { ecn }),
        any::<bool>().prop_map(|ecn| GsoKind::Tcp6 { ecn }),
        Just(GsoKind::UdpL4),
    ];
    let flags = any::<u8>().prop_map(|bits| Flags(bits).without(Flags::SYN | Flags::RST));
    (kind, any::<bool>(), any::<bool>(), flags, vec(any::<u8>(), 1..9000), 8..3000u16, any::<bool>()).prop_map(
        |(kind, is_tagged, has_options, flags, payload, size, is_ipv6)| Large {
            kind,
            is_tagged,
            has_options,
            flags,
            payload,
            size,
            is_ipv6,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn segments_reassemble_to_the_payload(large in any_large()) {
        let (frame, offload) = large.build();
        let head = &frame[..frame.len().min(128)];
        prop_assert_eq!(validate_offload(head, frame.len(), &offload), Ok(()));
        let pieces = cut(&frame, offload);
        prop_assert_eq!(pieces.len(), large.payload.len().div_ceil(large.size.into()));
        let longest = pieces.iter().map(Vec::len).max().unwrap();
        prop_assert_eq!(longest_frame(head, frame.len(), &offload), Ok(longest));

        let (mut payload, last) = (Vec::new(), pieces.len() - 1);
        for (index, piece) in pieces.iter().enumerate() {
            prop_assert_eq!(&piece[..12], &frame[..12]);
            let (headers, bytes) = transport(piece);
            prop_assert_eq!(headers.link.tag.is_some(), large.is_tagged);
            if !large.is_ipv6() {
                let packet = ipv4::parse(&piece[headers.link.len_bytes()..]).unwrap();
                prop_assert_eq!(packet.ident, IDENT.wrapping_add(index as u16));
            }
            if large.kind == GsoKind::UdpL4 {
                let datagram = udp::parse(bytes).unwrap();
                prop_assert_eq!((datagram.src_port, datagram.dst_port, datagram.bytes), (5000, 53, bytes));
                prop_assert_ne!(datagram.checksum, 0);
                payload.extend_from_slice(datagram.payload);
            } else {
                let segment = tcp::parse(bytes).unwrap();
                prop_assert_eq!(segment.seq, SEQ.wrapping_add(payload.len() as u32));
                let mut flags = large.flags;
                if index != 0 {
                    flags = flags.without(Flags::CWR);
                }
                if index != last {
                    flags = flags.without(Flags::FIN | Flags::PSH);
                }
                prop_assert_eq!(segment.flags, flags);
                payload.extend_from_slice(segment.payload);
            }
        }
        prop_assert_eq!(payload, large.payload);
    }

    #[test]
    fn a_frame_that_is_only_unfinished_is_finished(large in any_large()) {
        let (frame, offload) = large.build();
        let pieces = cut(&frame, Offload { gso: None, ..offload });
        prop_assert_eq!(pieces.len(), 1);
        let (_, bytes) = transport(&pieces[0]);
        prop_assert!(bytes.ends_with(&large.payload));
    }

    #[test]
    fn decisions_survive_any_offload(
        large in any_large(),
        flips in vec((0..70usize, any::<u8>()), 0..3),
        cut in prop::option::weighted(0.2, 0..200usize),
        // Where the checksum stands: honest, close to it, or anywhere.
        is_honest: bool,
        shift in prop::option::of(0..3u16),
        start in prop_oneof![0..80u16, any::<u16>()],
        offset in prop_oneof![2 => 0..10u16, 1 => any::<u16>()],
        has_gso: bool,
        kind in 0..5usize,
        size in prop_oneof![0..3u16, any::<u16>()],
    ) {
        let (mut frame, honest) = large.build();
        for (at, value) in flips {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(cut.unwrap_or(usize::MAX));
        let kinds = [
            GsoKind::Tcp4 { ecn: false }, GsoKind::Tcp4 { ecn: true }, GsoKind::Tcp6 { ecn: false },
            GsoKind::Tcp6 { ecn: true }, GsoKind::UdpL4,
        ];
        let Csum::Partial { start: honest_start, .. } = honest.csum else { unreachable!() };
        let start = shift.map_or(start, |shift| honest_start + shift);
        let csum = if is_honest { honest.csum } else { Csum::Partial { start, offset } };
        let offload = Offload { csum, gso: has_gso.then_some(Gso { kind: kinds[kind], size }) };
        let before = Headers::parse(&frame, frame.len());
        let mut count = 0;
        let result = segment(&frame, offload, &mut |piece| {
            count += 1;
            // All that a decision rests on is what it was.
            let (before, after) = (before.unwrap(), Headers::parse(piece, piece.len()).unwrap());
            assert_eq!((before.link, before.inner_tag, before.ip), (after.link, after.inner_tag, after.ip));
        });
        prop_assert_eq!(validate_offload(&frame, frame.len(), &offload), result);
        prop_assert_eq!(result.is_ok(), count > 0);
        prop_assert!(count <= MAX_SEGMENTS);
    }
}

#[test]
fn work_that_contradicts_the_frame_is_refused() {
    let large = Large {
        kind: GsoKind::Tcp4 { ecn: false },
        is_tagged: false,
        has_options: false,
        flags: Flags::ACK,
        payload: vec![7; 5000],
        size: 1000,
        is_ipv6: false,
    };
    let (good, offload) = large.build();
    let Csum::Partial { start, offset } = offload.csum else { unreachable!() };
    let gso = |kind, size| Offload { gso: Some(Gso { kind, size }), ..offload };
    let csum = |start, offset| Offload { csum: Csum::Partial { start, offset }, gso: None };
    let damaged = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    let tcp4 = GsoKind::Tcp4 { ecn: false };
    let cases: [(&str, &[u8], Offload); 20] = [
        ("other protocol", &good, gso(GsoKind::UdpL4, 1000)),
        ("other IP version", &good, gso(GsoKind::Tcp6 { ecn: false }, 1000)),
        ("no size", &good, gso(tcp4, 0)),
        ("too many segments", &good, gso(tcp4, 1)),
        ("checksum complete", &good, Offload { csum: Csum::Unverified, ..offload }),
        ("checksum elsewhere", &good, Offload { gso: offload.gso, ..csum(start + 1, offset) }),
        ("no payload", &good[..54], offload),
        ("cut off", &good[..4000], offload),
        ("ends inside TCP", &good[..40], offload),
        ("SYN", &damaged(47, 0x12), offload),
        ("RST", &damaged(47, 0x14), offload),
        ("fragment", &damaged(20, 0x20), offload),
        ("TCP header too short", &damaged(46, 0x40), offload),
        ("not IP", &damaged(12, 0x09), offload),
        ("IP total length", &damaged(17, 0), offload),
        ("overwrites the destination", &good, csum(0, 0)),
        ("overwrites the source address", &good, csum(14, 12)),
        ("overwrites the ports", &good, csum(start, 0)),
        ("overwrites the sequence number", &good, csum(start + 2, 2)),
        ("behind the end", &good, csum(start, 5020 - 1)),
    ];
    assert!(validate_offload(&good, good.len(), &offload).is_ok());
    for (what, frame, offload) in cases {
        assert!(validate_offload(frame, frame.len(), &offload).is_err(), "{what}");
        let head = &frame[..frame.len().min(128)];
        assert!(validate_offload(head, frame.len(), &offload).is_err(), "{what}, by its head");
        assert!(segment(frame, offload, &mut |_| panic!("{what}")).is_err(), "{what}");
    }

    let arp = weft_wire::arp::Packet::request(MacAddr::new([2, 0, 0, 0, 0, 1]), SRC4, DST4).frame(MacAddr::BROADCAST);
    assert!(validate_offload(&arp, arp.len(), &csum(28, 0)).is_err(), "ARP has no checksum");
}

#[test]
fn a_tunnels_inner_checksum_can_be_completed() {
    let mut datagram = Vec::new();
    let (outer, inner) = (std::net::SocketAddrV4::new(SRC4, 5000), std::net::SocketAddrV4::new(DST4, 4789));
    udp::emit(&mut datagram, outer, inner, &[0; 100]);
    let mut frame = Vec::new();
    ethernet::emit(&mut frame, MacAddr::new([2, 0, 0, 0, 0, 2]), MacAddr::new([2, 0, 0, 0, 0, 1]), EtherType::IPV4);
    let payload_len = datagram.len() as u16;
    let (src, dst, protocol) = (SRC4, DST4, Protocol::UDP);
    ipv4::Repr { src, dst, protocol, ttl: 64, ident: 0, dont_fragment: true, payload_len }.emit(&mut frame);
    let inner_at = frame.len() as u16 + 50;
    frame.extend_from_slice(&datagram);
    let offload = Offload { csum: Csum::Partial { start: inner_at, offset: 6 }, gso: None };
    assert_eq!(validate_offload(&frame, frame.len(), &offload), Ok(()));
}
