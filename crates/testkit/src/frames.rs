use std::net::{Ipv4Addr, SocketAddrV4};

use weft_types::MacAddr;
use weft_wire::{Protocol, ipv4, udp};

/// A station's address that ends with `last`.
pub fn mac(last: u8) -> MacAddr {
    MacAddr::new([0x02, 0, 0, 0, 0, last])
}

/// An Ethernet II frame.
pub fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A broadcast ARP request (RFC 826): who has `target`?
pub fn arp_request(from: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend_from_slice(&from.octets());
    arp.extend_from_slice(&sender.octets());
    arp.extend_from_slice(&[0; 6]);
    arp.extend_from_slice(&target.octets());
    ethernet(MacAddr::BROADCAST, from, 0x0806, &arp)
}

/// A UDP datagram over IPv4, complete.
pub fn udp4(to: MacAddr, from: MacAddr, src: SocketAddrV4, dst: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let header = ipv4::Repr {
        src: *src.ip(),
        dst: *dst.ip(),
        protocol: Protocol::UDP,
        ttl: 64,
        ident: 0,
        dont_fragment: true,
        payload_len: (udp::HEADER_BYTES + payload.len()) as u16,
    };
    let mut packet = Vec::new();
    header.emit(&mut packet);
    udp::emit(&mut packet, src, dst, payload);
    ethernet(to, from, 0x0800, &packet)
}

/// A TCP segment over IPv4 with the pseudo-header's sum in its checksum field, as one that sends it with
/// checksum or segmentation offload does: the checksum starts at byte 34 and belongs 16 bytes behind.
pub fn tcp4(to: MacAddr, from: MacAddr, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let tcp_len = 20 + payload.len();
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&((20 + tcp_len) as u16).to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip.extend_from_slice(&src.octets());
    ip.extend_from_slice(&dst.octets());
    let sum = !fold(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut pseudo = Vec::new();
    pseudo.extend_from_slice(&src.octets());
    pseudo.extend_from_slice(&dst.octets());
    pseudo.extend_from_slice(&[0, 6]);
    pseudo.extend_from_slice(&(tcp_len as u16).to_be_bytes());
    ip.extend_from_slice(&[0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff]);
    ip.extend_from_slice(&fold(&pseudo).to_be_bytes());
    ip.extend_from_slice(&[0, 0]);
    ip.extend_from_slice(payload);
    ethernet(to, from, 0x0800, &ip)
}

/// The ones' complement sum of big-endian 16-bit words (RFC 1071).
fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
