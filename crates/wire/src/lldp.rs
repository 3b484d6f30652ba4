//! The Link Layer Discovery Protocol (IEEE 802.1AB-2016): what the switch at the other end of a cable says about itself.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use weft_types::{MacAddr, VlanId};

use crate::{Layer, Malformed, Problem};

/// The VLAN of untagged frames, of the VLANs' names, and the largest frame: organizationally specific TLVs of IEEE 802.1
/// (IEEE 802.1Q, annex D) and of IEEE 802.3.
const PORT_VLAN: [u8; 4] = [0x00, 0x80, 0xc2, 1];
const VLAN_NAME: [u8; 4] = [0x00, 0x80, 0xc2, 3];
const MAX_FRAME: [u8; 4] = [0x00, 0x12, 0x0f, 4];

/// What a neighbour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Which device it is.
    pub chassis: Id<'a>,
    /// Which of its ports the cable is in.
    pub port: Id<'a>,
    /// For how many seconds this holds; 0: it says goodbye.
    pub ttl_s: u16,
    /// The port's description.
    pub port_description: Option<Text<'a>>,
    /// The device's name.
    pub system_name: Option<Text<'a>>,
    /// The VLAN that untagged frames are in.
    pub port_vlan: Option<VlanId>,
    /// The largest frame that it takes, in bytes.
    pub max_frame_bytes: Option<u16>,
    /// All TLVs behind the first three.
    rest: &'a [u8],
}

/// Bytes that a neighbour means to be read. Shown without what a terminal would obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(pub &'a [u8]);

/// What identifies a device, or one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id<'a> {
    /// A MAC address.
    Mac(MacAddr),
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A name: of a component, an interface, or what its owner likes.
    Name(Text<'a>),
}

/// The kinds of TLVs that are read (table 8-1).
mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const CHASSIS: u8 = 1;
    pub(super) const PORT: u8 = 2;
    pub(super) const TTL: u8 = 3;
    pub(super) const PORT_DESCRIPTION: u8 = 4;
    pub(super) const SYSTEM_NAME: u8 = 5;
    pub(super) const SPECIFIC: u8 = 127;
}

/// The packet in a frame's payload; what follows its end is padding.
///
/// # Errors
/// When a TLV is cut off, or the three that must come first do not.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let (chassis, bytes) = take(bytes, kind::CHASSIS)?;
    let (port, bytes) = take(bytes, kind::PORT)?;
    let (ttl, rest) = take(bytes, kind::TTL)?;
    let ttl = ttl.first_chunk().ok_or(Layer::Lldp.is(Problem::Length))?;
    let mut packet = Packet {
        chassis: Id::parse(chassis, 4, 5)?,
        port: Id::parse(port, 3, 4)?,
        ttl_s: u16::from_be_bytes(*ttl),
        port_description: None,
        system_name: None,
        port_vlan: None,
        max_frame_bytes: None,
        rest,
    };
    let mut bytes = rest;
    while let Some((kind, value, after)) = next(bytes)? {
        match kind {
            kind::PORT_DESCRIPTION => packet.port_description = Some(Text(value)),
            kind::SYSTEM_NAME => packet.system_name = Some(Text(value)),
            kind::SPECIFIC => match value.split_first_chunk::<6>() {
                Some(([a, b, c, d, high, low], _)) => {
                    let number = u16::from_be_bytes([*high, *low]);
                    match [*a, *b, *c, *d] {
                        PORT_VLAN => packet.port_vlan = VlanId::try_from(number).ok(), // 0: it has none
                        MAX_FRAME => packet.max_frame_bytes = Some(number),
                        _ => {}
                    }
                }
                None if value.len() < 4 => return Err(Layer::Lldp.is(Problem::Length)),
                None => {}
            },
            _ => {}
        }
        bytes = after;
    }
    Ok(packet)
}

impl<'a> Packet<'a> {
    /// The VLANs that it has a name for, with their names, as they come.
    pub fn vlans(&self) -> impl Iterator<Item = (VlanId, Text<'a>)> {
        let mut bytes = self.rest;
        let tlvs = std::iter::from_fn(move || {
            let (kind, value, after) = next(bytes).ok()??;
            bytes = after;
            Some((kind, value))
        });
        tlvs.filter(|(kind, _)| *kind == kind::SPECIFIC).filter_map(|(_, value)| {
            let ([high, low, len], name) = value.strip_prefix(&VLAN_NAME)?.split_first_chunk()?;
            let vlan = VlanId::try_from(u16::from_be_bytes([*high, *low])).ok()?;
            Some((vlan, Text(name.get(..usize::from(*len))?)))
        })
    }
}

/// The next TLV: its kind, its value, and what follows; `None` at the end (clause 8.4).
type Tlv<'a> = (u8, &'a [u8], &'a [u8]);

fn next(bytes: &[u8]) -> Result<Option<Tlv<'_>>, Malformed> {
    if bytes.is_empty() {
        return Ok(None); // some leave the end out
    }
    let (head, after) = bytes.split_first_chunk().ok_or(Layer::Lldp.is(Problem::Truncated))?;
    let head = u16::from_be_bytes(*head);
    let (kind, len) = ((head >> 9) as u8, usize::from(head & 0x1ff));
    if kind == kind::END {
        return Ok(None);
    }
    let (value, after) = after.split_at_checked(len).ok_or(Layer::Lldp.is(Problem::Truncated))?;
    Ok(Some((kind, value, after)))
}

/// The value of the next TLV, which must be of this kind.
fn take(bytes: &[u8], wanted: u8) -> Result<(&[u8], &[u8]), Malformed> {
    match next(bytes)? {
        Some((kind, value, after)) if kind == wanted => Ok((value, after)),
        _ => Err(Layer::Lldp.is(Problem::Mismatch)),
    }
}

impl<'a> Id<'a> {
    /// Reads an identity, of which these subtypes are a MAC address and a network address (tables 8-2 and 8-3).
    fn parse(value: &'a [u8], mac: u8, network: u8) -> Result<Self, Malformed> {
        let (subtype, bytes) = value.split_first().ok_or(Layer::Lldp.is(Problem::Length))?;
        if bytes.is_empty() {
            return Err(Layer::Lldp.is(Problem::Length));
        }
        let name = Self::Name(Text(bytes));
        Ok(match *subtype {
            subtype if subtype == mac => <[u8; 6]>::try_from(bytes).map_or(name, |mac| Self::Mac(MacAddr::new(mac))),
            subtype if subtype == network => match bytes {
                // The address families are IANA's.
                [1, ip @ ..] => <[u8; 4]>::try_from(ip).map_or(name, |ip| Self::Ipv4(ip.into())),
                [2, ip @ ..] => <[u8; 16]>::try_from(ip).map_or(name, |ip| Self::Ipv6(ip.into())),
                _ => name,
            },
            _ => name,
        })
    }
}

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Ipv4(ip) => ip.fmt(f),
            Self::Ipv6(ip) => ip.fmt(f),
            Self::Name(text) => text.fmt(f),
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.0);
        let shown: String =
            text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        f.write_str(shown.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let head = u16::from(kind) << 9 | value.len() as u16;
        [&head.to_be_bytes()[..], value].concat()
    }

    fn packet(more: &[&[u8]]) -> Vec<u8> {
        let first = [tlv(1, &[4, 2, 0, 0, 0, 0, 9]), tlv(2, b"\x05ge-0/0/3"), tlv(3, &[0, 120])].concat();
        [first, more.concat()].concat()
    }

    #[test]
    fn a_switch_introduces_itself() {
        let vlan = |id: u8, name: &[u8]| tlv(127, &[&VLAN_NAME[..], &[0, id, name.len() as u8], name].concat());
        let bytes = packet(&[
            &tlv(4, b"uplink of rack 7\x1b[2J"),
            &tlv(5, b"leaf-7"),
            &tlv(6, b"what it runs"),
            &tlv(127, &[0x00, 0x80, 0xc2, 1, 0, 10]),
            &vlan(10, b"office"),
            &vlan(20, b"lab"),
            &tlv(127, &[0x00, 0x12, 0x0f, 4, 0x24, 0]),
            &tlv(127, &[0x00, 0x12, 0x0f, 1, 3]),
            &tlv(0, b""),
            b"padding, whatever it may be",
        ]);
        let packet = parse(&bytes).unwrap();
        assert_eq!(
            (packet.chassis.to_string(), packet.port.to_string()),
            ("02:00:00:00:00:09".into(), "ge-0/0/3".into())
        );
        assert_eq!((packet.ttl_s, packet.max_frame_bytes), (120, Some(9216)));
        assert_eq!(packet.port_vlan.map(u16::from), Some(10));
        assert_eq!(packet.system_name.unwrap().to_string(), "leaf-7");
        assert_eq!(packet.port_description.unwrap().to_string(), "uplink of rack 7\u{fffd}[2J");
        let vlans: Vec<_> = packet.vlans().map(|(id, name)| (u16::from(id), name.to_string())).collect();
        assert_eq!(vlans, [(10, "office".to_owned()), (20, "lab".to_owned())]);
    }

    #[test]
    fn identities() {
        for (subtype, bytes, shown) in [
            (5, &[1, 192, 0, 2, 1][..], "192.0.2.1"),
            (5, &[2, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "2001:db8::1"),
            (4, b"short", "short"),
            (7, b" rack 7 ", "rack 7"),
        ] {
            let value = [&[subtype][..], bytes].concat();
            let bytes = [tlv(1, &value), tlv(2, b"\x07x"), tlv(3, &[0, 0])].concat();
            assert_eq!(parse(&bytes).unwrap().chassis.to_string(), shown);
        }
    }

    #[test]
    fn what_makes_no_sense() {
        let whole = packet(&[]);
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end}");
        }
        let check = |bytes: Vec<u8>, name: &str| assert_eq!(parse(&bytes).unwrap_err().to_string(), name);
        check(tlv(2, b"\x07x"), "lldp-mismatch");
        check([tlv(1, b"\x07x"), tlv(2, b"\x07"), tlv(3, &[0, 1])].concat(), "lldp-length");
        check([tlv(1, b"\x07x"), tlv(2, b"\x07x"), tlv(3, &[0])].concat(), "lldp-length");
        check(packet(&[&[10 << 1, 9, 1]]), "lldp-truncated");
        check(packet(&[&tlv(127, &[0, 0x80])]), "lldp-length");
        // A VLAN that cannot be, and a name that is longer than what is there, are nothing.
        let odd = packet(&[&tlv(127, &[0, 0x80, 0xc2, 3, 0, 0, 0]), &tlv(127, &[0, 0x80, 0xc2, 3, 0, 5, 9, b'x'])]);
        assert_eq!(parse(&odd).unwrap().vlans().count(), 0);
    }
}
