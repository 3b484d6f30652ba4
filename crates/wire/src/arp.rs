//! The Address Resolution Protocol for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use weft_types::MacAddr;

use crate::read::{ipv4_at, mac_at, u16_at};
use crate::{EtherType, Layer, Malformed, Problem, ethernet};

/// The length of a packet.
pub const PACKET_BYTES: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has.
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// What it is for.
    pub operation: Operation,
    /// The sender's hardware address.
    pub sender_mac: MacAddr,
    /// The sender's protocol address; unspecified in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// The target's hardware address; without meaning in a request.
    pub target_mac: MacAddr,
    /// The target's protocol address.
    pub target_ip: Ipv4Addr,
}

/// The packet at the start of `bytes`; what follows it is padding.
///
/// # Errors
/// When the bytes end inside it, or when it is about anything but IPv4 over Ethernet.
pub fn parse(bytes: &[u8]) -> Result<Packet, Malformed> {
    let packet = bytes.first_chunk::<PACKET_BYTES>().ok_or(Layer::Arp.is(Problem::Truncated))?;
    let operation = match u16_at::<6, _>(packet) {
        1 => Operation::Request,
        2 => Operation::Reply,
        _ => return Err(Layer::Arp.is(Problem::Unsupported)),
    };
    if packet[..6] != ETHERNET_IPV4 {
        return Err(Layer::Arp.is(Problem::Unsupported));
    }
    Ok(Packet {
        operation,
        sender_mac: mac_at::<8, _>(packet),
        sender_ip: ipv4_at::<14, _>(packet),
        target_mac: mac_at::<18, _>(packet),
        target_ip: ipv4_at::<24, _>(packet),
    })
}

impl Packet {
    /// The question who has `target_ip`.
    pub fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Self { operation: Operation::Request, sender_mac, sender_ip, target_mac: MacAddr::ZERO, target_ip }
    }

    /// The answer to this question: it is `mac`.
    #[must_use]
    pub fn reply(&self, mac: MacAddr) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// Appends the packet to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&ETHERNET_IPV4);
        out.extend_from_slice(&[0, if self.operation == Operation::Request { 1 } else { 2 }]);
        out.extend_from_slice(&self.sender_mac.octets());
        out.extend_from_slice(&self.sender_ip.octets());
        out.extend_from_slice(&self.target_mac.octets());
        out.extend_from_slice(&self.target_ip.octets());
    }

    /// The whole frame from the sender to `dst`: broadcast for a request, the target for a reply.
    pub fn frame(&self, dst: MacAddr) -> Vec<u8> {
        let mut frame = Vec::with_capacity(ethernet::HEADER_BYTES + PACKET_BYTES);
        ethernet::emit(&mut frame, dst, self.sender_mac, EtherType::ARP);
        self.emit(&mut frame);
        frame
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_ipv4_over_ethernet() {
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        let mut bytes = Vec::new();
        Packet::request(mac, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 1)).emit(&mut bytes);
        assert!(parse(&bytes).is_ok());
        assert_eq!(parse(&bytes[..27]).unwrap_err().to_string(), "arp-truncated");
        for at in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 0x10;
            assert_eq!(parse(&other).unwrap_err().to_string(), "arp-unsupported", "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn parse_after_emit_is_identity(is_reply: bool, macs: [[u8; 6]; 2], ips: [[u8; 4]; 2], padding: Vec<u8>) {
            let packet = Packet {
                operation: if is_reply { Operation::Reply } else { Operation::Request },
                sender_mac: MacAddr::new(macs[0]),
                sender_ip: ips[0].into(),
                target_mac: MacAddr::new(macs[1]),
                target_ip: ips[1].into(),
            };
            let mut bytes = Vec::new();
            packet.emit(&mut bytes);
            bytes.extend_from_slice(&padding);
            prop_assert_eq!(parse(&bytes), Ok(packet));
            prop_assert_eq!(packet.reply(packet.target_mac).reply(packet.sender_mac).sender_ip, packet.sender_ip);
        }
    }
}
