//! The packets that `why` asks about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use weft_types::{MacAddr, Traffic, VlanId};

use crate::failure::{Failure, Result};

/// The port that a sender has who chose none (RFC 6335: the first dynamic one).
const SENDERS_PORT: u16 = 49_152;

/// The port that is meant where none is named (RFC 863).
const DISCARD: u16 = 9;

/// Between whom a packet is, and how its frame is tagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) src: MacAddr,
    pub(crate) dst: MacAddr,
    pub(crate) hosts: Hosts,
    pub(crate) vlan: Option<VlanId>,
}

/// The addresses of the sender and of whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Hosts {
    pub(crate) fn source(self) -> IpAddr {
        match self {
            Self::V4(source, _) => source.into(),
            Self::V6(source, _) => source.into(),
        }
    }

    pub(crate) fn target(self) -> IpAddr {
        match self {
            Self::V4(_, target) => target.into(),
            Self::V6(_, target) => target.into(),
        }
    }

    /// ICMP's number beside this version of IP, and its type of an echo request (RFC 792, RFC 4443).
    const fn icmp(self) -> (u8, u8) {
        match self {
            Self::V4(..) => (1, 8),
            Self::V6(..) => (58, 128),
        }
    }
}

/// What is in an IP packet, as the first of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    protocol: u8,
    /// Of a protocol with ports: the sender's, and the receiver's.
    ports: (u16, u16),
    /// Of ICMP.
    kind: u8,
}

impl Packet {
    /// One that is such traffic; a ping if nothing is said.
    ///
    /// # Errors
    /// Where it is ICMP of the other version of IP.
    pub(crate) fn of(traffic: Option<&Traffic>, hosts: Hosts) -> Result<Self> {
        let (icmp, echo) = hosts.icmp();
        let packet = Self { protocol: icmp, ports: (SENDERS_PORT, DISCARD), kind: echo };
        // Of a range, its first is as good as any; a port of 0 says nothing.
        let first =
            |range: &RangeInclusive<u16>, default| if range.contains(&default) { default } else { *range.start() };
        let packet = match traffic {
            None | Some(Traffic::Any) => packet,
            Some(Traffic::Protocol { protocol }) => Self { protocol: *protocol, ..packet },
            Some(Traffic::Icmp { protocol, kind }) => Self { protocol: *protocol, kind: *kind, ..packet },
            Some(Traffic::Ports { protocol, src, dst }) => {
                Self { protocol: *protocol, ports: (first(src, SENDERS_PORT), first(dst, DISCARD)), ..packet }
            }
        };
        if Traffic::is_icmp(packet.protocol) && packet.protocol != icmp {
            let traffic = traffic.map(ToString::to_string).unwrap_or_default();
            let title = format!("{} is no address for `{traffic}`", hosts.target());
            return Err(Failure::new(
                "bad-traffic",
                title,
                "say `icmp` between IPv4 addresses, `icmp6` between IPv6 ones",
            ));
        }
        Ok(packet)
    }

    /// The frame that carries it: Ethernet II, a tag (IEEE 802.1Q) if it is in a VLAN, IP (RFC 791, RFC 8200), and the
    /// packet.
    pub(crate) fn frame(self, ends: &Ends) -> Vec<u8> {
        let body = self.body(ends.hosts);
        let (ethertype, ip) = match ends.hosts {
            Hosts::V4(source, target) => {
                let mut ip = vec![0x45, 0];
                ip.extend((20 + body.len() as u16).to_be_bytes());
                ip.extend([0, 0, 0x40, 0, 64, self.protocol, 0, 0]);
                ip.extend([source.octets(), target.octets()].concat());
                ([8, 0], with_checksum(ip, 10))
            }
            Hosts::V6(source, target) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend((body.len() as u16).to_be_bytes());
                ip.extend([self.protocol, 64]);
                ip.extend([source.octets(), target.octets()].concat());
                ([0x86, 0xdd], ip)
            }
        };
        let mut frame = [ends.dst.octets(), ends.src.octets()].concat();
        if let Some(vlan) = ends.vlan {
            frame.extend([0x81, 0]);
            frame.extend(u16::from(vlan).to_be_bytes());
        }
        frame.extend(ethertype);
        frame.extend(ip);
        frame.extend(body);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// The bytes behind the IP header.
    fn body(self, hosts: Hosts) -> Vec<u8> {
        let (src, dst) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        let ports = [src, dst].concat();
        // RFC 9293, RFC 768, RFC 8200 (section 8.1): the checksum is over the addresses, too.
        let transport = |body: Vec<u8>, at: usize| {
            let length = (body.len() as u16).to_be_bytes();
            let mut pseudo = match hosts {
                Hosts::V4(source, target) => [source.octets(), target.octets()].concat(),
                Hosts::V6(source, target) => [source.octets(), target.octets()].concat(),
            };
            pseudo.extend([&[0, self.protocol], &length[..]].concat());
            let head = pseudo.len();
            with_checksum([pseudo, body].concat(), head + at).split_off(head)
        };
        match self.protocol {
            6 => transport([&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]].concat(), 16),
            17 => transport([&ports[..], &[0, 8, 0, 0]].concat(), 6),
            1 => with_checksum(vec![self.kind, 0, 0, 0, 0, 1, 0, 1], 2), // RFC 792
            58 => transport(vec![self.kind, 0, 0, 0, 0, 1, 0, 1], 2),    // RFC 4443
            protocol if Traffic::has_ports(protocol) => [&ports[..], &[0; 8]].concat(),
            _ => vec![0; 8],
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            1 if self.kind == 8 => f.write_str("a ping"),
            58 if self.kind == 128 => f.write_str("a ping"),
            1 => write!(f, "an ICMP message of type {}", self.kind),
            58 => write!(f, "an ICMPv6 message of type {}", self.kind),
            protocol if Traffic::has_ports(protocol) => {
                let traffic = Traffic::Ports { protocol, src: Traffic::ALL_PORTS, dst: self.ports.1..=self.ports.1 };
                write!(f, "{traffic}")
            }
            protocol => write!(f, "a packet of {}", Traffic::Protocol { protocol }),
        }
    }
}

/// The bytes with the Internet checksum (RFC 1071) over them at `at`, where there were zeros.
fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    bytes[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_a_ping() {
        let ends = Ends {
            src: MacAddr::new([2, 0, 0, 0, 0, 1]),
            dst: MacAddr::new([2, 0, 0, 0, 0, 2]),
            hosts: Hosts::V4(Ipv4Addr::new(10, 20, 0, 10), Ipv4Addr::new(10, 20, 0, 11)),
            vlan: None,
        };
        let ping = Packet::of(None, ends.hosts).unwrap();
        let frame = ping.frame(&ends);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert!(sums_up(&frame[14..34]) && sums_up(&frame[34..42]));
        assert_eq!(frame[26..34], [10, 20, 0, 10, 10, 20, 0, 11]);
        let tagged = ping.frame(&Ends { vlan: VlanId::try_from(20).ok(), ..ends });
        assert_eq!((&tagged[12..18], &tagged[18..46]), (&[0x81, 0, 0, 20, 8, 0][..], &frame[14..42]));
        let hosts = Hosts::V6("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
        for traffic in ["any", "tcp/80", "udp/53"].map(|text| weft_model::parse_traffic(text).unwrap()) {
            let frame = Packet::of(Some(&traffic), hosts).unwrap().frame(&Ends { hosts, ..ends });
            let headers = weft_wire::Headers::parse(&frame, frame.len()).unwrap();
            let ip = headers.ip.unwrap().unwrap();
            assert_eq!((ip.src, ip.dst), (hosts.source(), hosts.target()));
            let length = [frame[18], frame[19]];
            let pseudo = [&frame[22..54], &[0, frame[20]], &length, &frame[54..54 + usize::from(length[1])]].concat();
            assert!(sums_up(&pseudo), "{traffic}");
        }
    }

    fn sums_up(bytes: &[u8]) -> bool {
        let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum == 0xffff
    }

    #[test]
    fn what_rules_can_say_can_be_asked() {
        let check = |text: &str, bytes: usize, sentence: &str| {
            let v6 = Hosts::V6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
            let v4 = Hosts::V4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
            let (hosts, other) = if text.starts_with("icmp6") { (v6, v4) } else { (v4, v6) };
            let traffic = weft_model::parse_traffic(text).unwrap();
            assert_eq!(Packet::of(Some(&traffic), other).is_err(), text.starts_with("icmp"));
            let packet = Packet::of(Some(&traffic), hosts).unwrap();
            let body = packet.body(hosts);
            assert_eq!((body.len(), packet.to_string().as_str()), (bytes, sentence));
            (packet, body)
        };
        let (packet, body) = check("tcp/5432", 20, "tcp/5432");
        assert_eq!((packet.ports, &body[..4], body[13]), ((49_152, 5432), &[0xc0, 0, 0x15, 0x38][..], 2));
        assert_eq!(check("udp/1000-2000 from 53", 8, "udp/1000").0.ports, (53, 1000));
        check("udp", 8, "udp/9");
        check("icmp/echo", 8, "a ping");
        check("icmp/3", 8, "an ICMP message of type 3");
        check("icmp6/128", 8, "a ping");
        check("icmp6/135", 8, "an ICMPv6 message of type 135");
        check("gre", 8, "a packet of gre");
        check("sctp/9", 12, "sctp/9");
    }
}
