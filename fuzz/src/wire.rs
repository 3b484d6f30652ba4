//! Frames, and the headers before them, as hostile peers send them. What is understood must say the same when it is
//! written and read again.

use std::net::Ipv4Addr;

use weft_wire::capture_file;
use weft_wire::ethernet::Header;
use weft_wire::segment::{MAX_SEGMENTS, segment, validate_offload};
use weft_wire::virtio_net::{Author, VirtioNetHeader};
use weft_wire::{Headers, arp, ethernet, icmpv4, icmpv6, ipv4, ipv6, lldp, ndp, tcp, udp};

/// How much of a frame decisions are made on.
const HEAD_BYTES: usize = 128;

/// All headers of a frame, read whole and by the frame's head.
pub(crate) fn wire_frame(data: &[u8]) {
    let whole = Headers::parse(data, data.len());
    let head = &data[..data.len().min(HEAD_BYTES)];
    let by_head = Headers::parse(head, data.len());
    if let (Ok(whole), Ok(by_head)) = (&whole, &by_head) {
        assert_eq!((whole.link, whole.inner_tag), (by_head.link, by_head.inner_tag));
        assert!(!whole.to_string().is_empty());
    }
    if let Ok((header, payload)) = Header::parse(data) {
        let mut again = Vec::new();
        header.emit(&mut again);
        again.extend_from_slice(payload);
        assert_eq!(again, data);
        assert_eq!(ethernet::parse(data).map(|frame| frame.payload), Ok(payload));
    }
}

/// A file of captured frames. What is read of it lies in it, and each frame takes some of it.
pub(crate) fn wire_capture(data: &[u8]) {
    let Ok(frames) = capture_file::frames(data) else { return };
    let lengths: Vec<_> = frames.map(|frame| frame.map(|frame| frame.bytes.len())).collect();
    let errors = lengths.iter().filter(|length| length.is_err()).count();
    assert!(errors <= 1 && (errors == 0 || lengths.last().is_some_and(Result::is_err)));
    assert!(lengths.iter().flatten().sum::<usize>() + 12 * lengths.len() <= data.len() + 12);
}

/// An ARP packet.
pub(crate) fn wire_arp(data: &[u8]) {
    if let Ok(packet) = arp::parse(data) {
        let mut again = Vec::new();
        packet.emit(&mut again);
        assert_eq!(again, data[..arp::PACKET_BYTES]);
    }
}

/// What a switch says about itself. What is shown of it harms no terminal.
pub(crate) fn wire_lldp(data: &[u8]) {
    if let Ok(packet) = lldp::parse(data) {
        let texts = [packet.port_description, packet.system_name].into_iter().flatten().map(|text| text.to_string());
        let vlans = packet.vlans().map(|(vlan, name)| format!("{vlan} {name}"));
        let ids = [packet.chassis.to_string(), packet.port.to_string()];
        for shown in texts.chain(vlans).chain(ids) {
            assert!(!shown.contains(char::is_control));
        }
    }
}

/// An IP packet of either version, and all that it carries.
pub(crate) fn wire_ip(data: &[u8]) {
    if let Ok(packet) = ipv4::parse(data) {
        assert!(packet.bytes.len() <= data.len());
        assert_eq!(packet.header.len() + packet.payload.len(), packet.bytes.len());
        transport(packet.src, packet.dst, packet.payload);
    }
    if let Ok(packet) = ipv6::parse(data)
        && let Ok(Some(found)) = ipv6::transport(packet.next_header, packet.payload, false)
        && let Some(rest) = packet.payload.get(found.at..)
    {
        transport(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, rest);
        let _ = icmpv6::parse(rest);
        assert!(ndp::parse(&packet, rest).is_err() || packet.hop_limit == ndp::HOP_LIMIT);
    }
}

/// A UDP datagram, a TCP segment or an ICMP message.
pub(crate) fn wire_transport(data: &[u8]) {
    transport(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), data);
}

fn transport(src: Ipv4Addr, dst: Ipv4Addr, data: &[u8]) {
    if let Ok(datagram) = udp::parse(data) {
        assert_eq!(datagram.payload.len() + udp::HEADER_BYTES, datagram.bytes.len());
        datagram.checksum_ok(src, dst);
    }
    if let Ok(segment) = tcp::parse(data) {
        assert_eq!(segment.bytes.len(), data.len());
        segment.checksum_ok(src, dst);
        if let Ok(options) = tcp::Options::parse(segment.options) {
            let repr = tcp::Repr { flags: segment.flags, options, ..tcp::Repr::default() };
            let mut again = Vec::new();
            repr.emit(&mut again, src, dst, &[]);
            let again = tcp::parse(&again).expect("what was written is read");
            assert_eq!(tcp::Options::parse(again.options), Ok(options));
        }
    }
    if let Ok(message) = icmpv4::parse(data) {
        let mut again = Vec::new();
        message.emit(&mut again);
        assert!(icmpv4::checksum_ok(&again) && again.len() == data.len());
    }
}

/// A virtio-net header and the frame behind it: what is accepted can be done, and changes no header that decisions
/// rest on.
pub(crate) fn wire_offload(data: &[u8]) {
    let Ok((header, frame)) = VirtioNetHeader::parse(data) else { return };
    assert_eq!(header.emit(), data[..12]);
    let Ok(offload) = header.offload(Author::Driver) else { return };
    assert_eq!(VirtioNetHeader::new(offload, 0, 1).offload(Author::Driver), Ok(offload));
    let before = Headers::parse(frame, frame.len());
    let mut count = 0;
    let result = segment(frame, offload, &mut |piece| {
        count += 1;
        if let (Ok(before), Ok(after)) = (before, Headers::parse(piece, piece.len())) {
            assert_eq!((before.link, before.inner_tag, before.ip), (after.link, after.inner_tag, after.ip));
        }
    });
    assert_eq!(validate_offload(frame, frame.len(), &offload), result);
    assert_eq!(result.is_ok(), count > 0);
    assert!(count <= MAX_SEGMENTS);
}
