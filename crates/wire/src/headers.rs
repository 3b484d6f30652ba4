use std::fmt;
use std::net::IpAddr;

use crate::read::{ipv4_at, u16_at};
use crate::{EtherType, Layer, Malformed, Problem, Protocol, ethernet, ipv4, ipv6};

/// All header fields that a decision about a frame may rest upon, read in one pass over its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The Ethernet header with its outermost tag.
    pub link: ethernet::Header,
    /// The tag inside the outermost, of a frame that has two.
    pub inner_tag: Option<ethernet::Tag>,
    /// The EtherType behind all tags that were read.
    pub ethertype: EtherType,
    /// The IP header, of a frame that carries a packet. When it is wrong, the frame is still one that a bridge can
    /// forward, so it is up to the reader whether that matters.
    pub ip: Option<Result<Ip, Malformed>>,
}

/// What an IP packet's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ip {
    /// The sender.
    pub src: IpAddr,
    /// The receiver.
    pub dst: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Whether the packet is whole.
    pub fragment: Fragment,
    /// The ports, for TCP and UDP, where they can be seen: not in a later fragment.
    pub ports: Option<Ports>,
    /// Where the transport header starts, in bytes from the frame's first; `None` in a later fragment, and when
    /// extension headers reach behind the bytes that were read.
    pub transport_at: Option<u16>,
}

/// The ports of TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The sender's.
    pub src: u16,
    /// The receiver's.
    pub dst: u16,
}

/// Which piece of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first piece: it has the transport header.
    First,
    /// A later piece.
    Later,
}

impl Fragment {
    const fn new(more: bool, offset: u16) -> Self {
        match (more, offset) {
            (_, 1..) => Self::Later,
            (true, 0) => Self::First,
            (false, 0) => Self::Whole,
        }
    }
}

impl Headers {
    /// The headers of a frame of `frame_len` bytes that starts with `head`; 128 bytes are enough for all but long
    /// chains of IPv6 extension headers.
    ///
    /// # Errors
    /// When the frame ends inside its Ethernet header or a tag.
    pub fn parse(head: &[u8], frame_len: usize) -> Result<Self, Malformed> {
        let (link, rest) = ethernet::Header::parse(head)?;
        let (inner_tag, ethertype, packet) = match link.tag {
            Some(_) => ethernet::split_tag(link.ethertype, rest)?,
            None => (None, link.ethertype, rest),
        };
        let at = head.len() - packet.len();
        let packet_len = frame_len.max(head.len()) - at;
        let ip = match ethertype {
            EtherType::IPV4 => Some(Ip::parse_v4(packet, packet_len, at)),
            EtherType::IPV6 => Some(Ip::parse_v6(packet, packet_len, at)),
            _ => None,
        };
        Ok(Self { link, inner_tag, ethertype, ip })
    }
}

impl Ip {
    fn parse_v4(packet: &[u8], packet_len: usize, at: usize) -> Result<Self, Malformed> {
        let header = packet.first_chunk::<{ ipv4::HEADER_BYTES }>().ok_or(Layer::Ipv4.is(Problem::Truncated))?;
        let (header_len, total_len) = ipv4::lengths(header)?;
        if total_len > packet_len {
            return Err(Layer::Ipv4.is(Problem::Length));
        }
        let (more, offset) = ipv4::fragment(header);
        let ip = Self {
            src: ipv4_at::<12, _>(header).into(),
            dst: ipv4_at::<16, _>(header).into(),
            protocol: Protocol(header[9]),
            fragment: Fragment::new(more, offset),
            ports: None,
            transport_at: None,
        };
        ip.with_transport(packet, header_len, total_len, at)
    }

    fn parse_v6(packet: &[u8], packet_len: usize, at: usize) -> Result<Self, Malformed> {
        let header = packet.first_chunk::<{ ipv6::HEADER_BYTES }>().ok_or(Layer::Ipv6.is(Problem::Truncated))?;
        let total_len = ipv6::HEADER_BYTES + ipv6::payload_len(header)?;
        if total_len > packet_len {
            return Err(Layer::Ipv6.is(Problem::Length));
        }
        let payload = &packet[ipv6::HEADER_BYTES..packet.len().min(total_len)];
        let is_cut = packet.len() < total_len;
        let transport = ipv6::transport(Protocol(header[6]), payload, is_cut)?;
        let (src, dst) = ipv6::addresses(header);
        let (more, offset) = transport.and_then(|found| found.fragment).unwrap_or((false, 0));
        let ip = Self {
            src: src.into(),
            dst: dst.into(),
            protocol: transport.map_or(Protocol(header[6]), |found| found.protocol),
            fragment: Fragment::new(more, offset),
            ports: None,
            transport_at: None,
        };
        match transport {
            Some(found) => ip.with_transport(packet, ipv6::HEADER_BYTES + found.at, total_len, at),
            None => Ok(ip),
        }
    }

    /// Adds what the transport header says, which starts `header_len` bytes into a packet of `total_len` bytes;
    /// the packet starts `at` bytes into its frame.
    fn with_transport(
        mut self,
        packet: &[u8],
        header_len: usize,
        total_len: usize,
        at: usize,
    ) -> Result<Self, Malformed> {
        if self.fragment == Fragment::Later {
            return Ok(self);
        }
        let layer = match self.protocol {
            Protocol::TCP => Layer::Tcp,
            Protocol::UDP => Layer::Udp,
            _ => {
                self.transport_at = u16::try_from(at + header_len).ok();
                return Ok(self);
            }
        };
        if header_len + 4 > total_len {
            return Err(layer.is(Problem::Truncated));
        }
        if let Some(ports) = packet.get(header_len..).and_then(|rest| rest.first_chunk::<4>()) {
            self.ports = Some(Ports { src: u16_at::<0, _>(ports), dst: u16_at::<2, _>(ports) });
            self.transport_at = u16::try_from(at + header_len).ok();
        }
        Ok(self)
    }
}

impl fmt::Display for Headers {
    /// In a line, for explanations: `02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.link.src, self.link.dst)?;
        for tag in [self.link.tag, self.inner_tag].into_iter().flatten() {
            write!(f, ", {} VLAN {}", tag.kind, tag.control & 0xfff)?;
        }
        write!(f, ", {}", self.ethertype)?;
        match self.ip {
            None => Ok(()),
            Some(Err(problem)) => write!(f, " (wrong: {problem})"),
            Some(Ok(Ip { src, dst, protocol, fragment, ports, .. })) => {
                match ports {
                    Some(ports) => write!(f, " {src} port {} > {dst} port {}, {protocol}", ports.src, ports.dst)?,
                    None => write!(f, " {src} > {dst}, {protocol}")?,
                }
                match fragment {
                    Fragment::Whole => Ok(()),
                    Fragment::First => f.write_str(", first fragment"),
                    Fragment::Later => f.write_str(", later fragment"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use weft_types::MacAddr;

    use super::*;
    use crate::{arp, udp};

    const SRC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

    /// A DNS question behind `tags`, whose IP header is changed by `damage` at `at`.
    fn frame(tags: &[u8], at: usize, damage: u8) -> Vec<u8> {
        let [src, dst] = [1, 2].map(|n| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 50 + u16::from(n)));
        let mut datagram = Vec::new();
        udp::emit(&mut datagram, src, dst, b"hello");
        let mut bytes = Vec::new();
        ethernet::emit(&mut bytes, MacAddr::BROADCAST, SRC, EtherType::IPV4);
        bytes.splice(12..12, tags.iter().copied());
        let start = bytes.len();
        let repr = ipv4::Repr {
            src: *src.ip(),
            dst: *dst.ip(),
            protocol: Protocol::UDP,
            ttl: 64,
            ident: 1,
            dont_fragment: false,
            payload_len: datagram.len() as u16,
        };
        repr.emit(&mut bytes);
        bytes[start + at] ^= damage;
        bytes.extend_from_slice(&datagram);
        bytes
    }

    #[test]
    fn one_line_per_frame() {
        let check = |bytes: &[u8], expected: &str| {
            let line = match Headers::parse(bytes, bytes.len()) {
                Ok(headers) => headers.to_string(),
                Err(problem) => problem.to_string(),
            };
            assert_eq!(line.strip_prefix("02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ").unwrap_or(&line), expected);
        };
        let udp = "IPv4 10.0.0.1 port 51 > 10.0.0.2 port 52, UDP";
        check(&frame(&[], 0, 0), udp);
        check(&frame(&[0x81, 0, 0, 10], 0, 0), &format!("802.1Q VLAN 10, {udp}"));
        check(&frame(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 10], 0, 0), &format!("802.1ad VLAN 7, 802.1Q VLAN 10, {udp}"));
        check(&frame(&[], 6, 0x20), &format!("{udp}, first fragment"));
        check(&frame(&[], 7, 1), "IPv4 10.0.0.1 > 10.0.0.2, UDP, later fragment");
        check(&frame(&[], 9, 17 ^ 1), "IPv4 10.0.0.1 > 10.0.0.2, ICMP");
        check(&frame(&[], 0, 0x20), "IPv4 (wrong: ipv4-version)");
        check(&frame(&[], 0, 0x01), "IPv4 (wrong: ipv4-header-length)");
        check(&frame(&[], 2, 0xff), "IPv4 (wrong: ipv4-length)");
        check(&frame(&[], 0, 0x45 ^ 0x48), "IPv4 (wrong: udp-truncated)");
        check(&frame(&[], 0, 0)[..33], "IPv4 (wrong: ipv4-truncated)");
        check(&frame(&[], 0, 0)[..13], "ethernet-truncated");
        check(&frame(&[0x81, 0, 0, 10], 0, 0)[..17], "vlan-truncated");
        let ask = arp::Packet::request(SRC, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        check(&ask.frame(MacAddr::BROADCAST), "ARP");
    }

    proptest! {
        #[test]
        fn a_head_says_no_more_than_the_frame(bytes in vec(any::<u8>(), 0..200), ipv6: bool, cut in 0..200usize) {
            let mut bytes = bytes;
            if let Some(ethertype) = bytes.get_mut(12..14) {
                ethertype.copy_from_slice(&if ipv6 { EtherType::IPV6 } else { EtherType::IPV4 }.0.to_be_bytes());
            }
            let head = &bytes[..cut.min(bytes.len())];
            if let (Ok(whole), Ok(part)) = (Headers::parse(&bytes, bytes.len()), Headers::parse(head, bytes.len())) {
                prop_assert_eq!(whole.link, part.link);
                if let (Some(Ok(whole)), Some(Ok(part))) = (whole.ip, part.ip) {
                    prop_assert_eq!((whole.src, whole.dst), (part.src, part.dst));
                    prop_assert!(part.ports.is_none() || part == whole);
                }
            }
        }
    }
}
