//! Packets of either version of IP, as the rest of the NAT device sees them: there is one way through it for both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_wire::checksum::Sum;
use weft_wire::{Protocol, ipv4, ipv6};

use super::Cause;

/// The number of the fragment header (RFC 8200, section 4.5).
pub(super) const FRAGMENT: Protocol = Protocol(44);
/// Its length.
pub(super) const FRAGMENT_BYTES: usize = 8;

/// A packet of a guest. Extension headers are skipped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: Protocol,
    /// The time to live, or hop limit.
    pub(super) ttl: u8,
    /// Whether no router may cut it: of IPv6, all that the sender did not cut itself.
    pub(super) dont_fragment: bool,
    pub(super) piece: Option<Piece>,
    /// From the transport header on.
    pub(super) payload: &'a [u8],
    /// All of it, to be quoted.
    pub(super) bytes: &'a [u8],
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) ident: u32,
    /// In bytes.
    pub(super) at: usize,
    pub(super) has_more: bool,
}

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`, of either version.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Cause> {
        if bytes.first().is_some_and(|byte| byte >> 4 == 6) { Self::parse_v6(bytes) } else { Self::parse_v4(bytes) }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Cause> {
        let packet = ipv4::parse(bytes)?;
        let piece = packet.is_fragment().then_some(Piece {
            ident: packet.ident.into(),
            at: packet.fragment_offset.into(),
            has_more: packet.more_fragments,
        });
        let ipv4::Packet { src, dst, protocol, ttl, dont_fragment, payload, bytes, .. } = packet;
        Ok(Self { src: src.into(), dst: dst.into(), protocol, ttl, dont_fragment, piece, payload, bytes })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Cause> {
        let header = ipv6::parse(bytes)?;
        let ipv6::Packet { src, dst, hop_limit: ttl, .. } = header;
        // What looks like an IPv4 address here would be taken for one.
        if src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some() {
            return Err(Cause::Prohibited);
        }
        let walked = ipv6::transport(header.next_header, header.payload, false)?.ok_or(Cause::Malformed)?;
        // A fragment that is the whole packet is no piece (RFC 6946).
        let piece = match walked.fragment {
            Some((has_more, at)) if has_more || at > 0 => {
                let place = fragment_header(header.next_header, header.payload).ok_or(Cause::Malformed)?;
                if walked.at != place + FRAGMENT_BYTES {
                    return Err(Cause::Fragment); // extension headers inside of pieces: nobody honest sends that
                }
                let ident = header.payload.get(place + 4..).and_then(|rest| rest.first_chunk::<4>());
                let ident = u32::from_be_bytes(*ident.ok_or(Cause::Malformed)?);
                Some(Piece { ident, at: at.into(), has_more })
            }
            _ => None,
        };
        let payload = header.payload.get(walked.at..).ok_or(Cause::Malformed)?;
        let bytes = &bytes[..ipv6::HEADER_BYTES + header.payload.len()];
        let (src, dst, dont_fragment) = (src.into(), dst.into(), piece.is_none());
        Ok(Self { src, dst, protocol: walked.protocol, ttl, dont_fragment, piece, payload, bytes })
    }
}

/// Where the fragment header stands behind the fixed one. The walk to the transport header has found it already.
fn fragment_header(first: Protocol, payload: &[u8]) -> Option<usize> {
    let (mut next, mut at) = (first, 0);
    while next != FRAGMENT {
        let &[protocol, len, ..] = payload.get(at..)? else { return None };
        next = Protocol(protocol);
        at += 8 + usize::from(len) * 8;
    }
    Some(at)
}

/// The sum of the pseudo-header of `len` bytes between two addresses of one family.
pub(super) fn pseudo_header(from: IpAddr, to: IpAddr, protocol: Protocol, len: u16) -> Sum {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Sum::ZERO.pseudo_ipv4(from, to, protocol, len),
        _ => Sum::ZERO.pseudo_ipv6(mapped(from), mapped(to), protocol, len),
    }
}

/// The length of the header of a packet of ours.
pub(super) fn header_bytes(ip: IpAddr) -> usize {
    if ip.is_ipv4() { ipv4::HEADER_BYTES } else { ipv6::HEADER_BYTES }
}

/// `ip` in the room of one of IPv6 (RFC 4291, section 2.5.5.2).
pub(super) fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// The address of a socket, in little room: flows are many, and are found by two of them. No packet over IPv6 has an
/// address that stands for one of IPv4, so these are kept as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    ip: [u64; 2],
    port: u16,
}

impl Endpoint {
    /// Nobody's.
    pub(super) const ANY: Self = Self { ip: [0; 2], port: 0 };

    pub(super) fn new(ip: impl Into<IpAddr>, port: u16) -> Self {
        let bits = mapped(ip.into()).to_bits();
        Self { ip: [(bits >> 64) as u64, bits as u64], port }
    }

    pub(super) fn ip(self) -> IpAddr {
        self.mapped().to_canonical()
    }

    /// The address in the room of one of IPv6.
    pub(super) fn mapped(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from(self.ip[0]) << 64 | u128::from(self.ip[1]))
    }

    pub(super) fn port(self) -> u16 {
        self.port
    }
}

impl std::hash::Hash for Endpoint {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.ip[0]);
        state.write_u64(self.ip[1] ^ u64::from(self.port) << 48);
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip(), address.port())
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.ip(), endpoint.port)
    }
}

/// The IPv4 address, if it is one.
pub(crate) fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn endpoints_are_what_they_were_made_of(v4: [u8; 4], v6: [u8; 16], port: u16) {
            let v4 = SocketAddr::from((v4, port));
            prop_assert_eq!(SocketAddr::from(Endpoint::from(v4)), v4);
            let v6 = Ipv6Addr::from(v6);
            prop_assume!(v6.to_ipv4_mapped().is_none());
            prop_assert_eq!(SocketAddr::from(Endpoint::from(SocketAddr::from((v6, port)))), SocketAddr::from((v6, port)));
        }

        #[test]
        fn any_bytes_are_safe(mut bytes in proptest::collection::vec(any::<u8>(), 0..160), is_v6: bool) {
            if let (Some(first), true) = (bytes.first_mut(), is_v6) {
                *first = 0x60;
            }
            let _ = Packet::parse(&bytes);
        }
    }

    #[test]
    fn pieces_and_extension_headers() {
        let packet = |next: u8, rest: &[u8]| {
            let mut bytes = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 9];
            bytes.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
            bytes.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).octets());
            bytes.extend(rest);
            bytes
        };
        let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let read = |next, rest: &[u8]| {
            let bytes = packet(next, rest);
            Packet::parse(&bytes).map(|it| (it.protocol.0, it.payload.len(), it.dont_fragment, it.piece))
        };
        assert_eq!(read(17, &[1; 9]), Ok((17, 9, true, None)));
        assert_eq!(read(0, &[&options(60)[..], &options(17), &[1; 9]].concat()), Ok((17, 9, true, None)));
        let piece = |at, has_more| Some(Piece { ident: 7, at, has_more });
        let first = [17, 0, 0, 1, 0, 0, 0, 7];
        assert_eq!(read(44, &[&first[..], &[1; 8]].concat()), Ok((17, 8, false, piece(0, true))));
        assert_eq!(read(0, &[&options(44)[..], &first, &[1; 8]].concat()), Ok((17, 8, false, piece(0, true))));
        assert_eq!(read(44, &[17, 0, 1, 0, 0, 0, 0, 7, 1]), Ok((17, 1, false, piece(256, false))));
        assert_eq!(read(44, &[17, 0, 0, 0, 0, 0, 0, 7, 1]), Ok((17, 1, true, None)), "a whole in one piece");
        let inside = [&[60, 0, 0, 1, 0, 0, 0, 7][..], &options(17), &[1; 8]].concat();
        assert_eq!(read(44, &inside), Err(Cause::Fragment));
        assert_eq!(read(60, &[17, 9, 0, 0, 0, 0, 0, 0]), Err(Cause::Malformed));
        let mut mapped = packet(17, &[1; 9]);
        mapped[24..40].copy_from_slice(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        assert_eq!(Packet::parse(&mapped).map(|_| ()), Err(Cause::Prohibited));
    }
}
