//! Finishing in software what a sender left to others: completing checksums, and cutting a segmentation-offload
//! frame into those that it stands for.

use std::net::IpAddr;

use crate::checksum::{Sum, checksum, complete_checksum};
use crate::{
    Csum, EtherType, Fragment, Gso, GsoKind, Headers, Layer, Malformed, Offload, Problem, Protocol, ipv6, tcp, udp,
};

/// The most frames that one may stand for. A full one, cut for the smallest MTU of IPv4 (RFC 791: 68 bytes), stays
/// below; an adversary that asks for segments of a byte does not.
pub const MAX_SEGMENTS: usize = 4096;

const MISMATCH: Malformed = Layer::Offload.is(Problem::Mismatch);

/// Whether `offload` is work that can be done on a frame of `frame_len` bytes that starts with `head` (128 bytes, or
/// all of it), and that changes nothing but transport checksums and what cutting must change. A checksum that would
/// overwrite a header on which decisions rest is refused.
///
/// # Errors
/// When it contradicts the frame.
pub fn validate_offload(head: &[u8], frame_len: usize, offload: &Offload) -> Result<(), Malformed> {
    longest_frame(head, frame_len, offload).map(|_| ())
}

/// The length of the longest frame that [`segment`] makes of this one, in bytes.
///
/// # Errors
/// As [`validate_offload`].
pub fn longest_frame(head: &[u8], frame_len: usize, offload: &Offload) -> Result<usize, Malformed> {
    match offload.gso {
        Some(gso) => {
            let cut = Cut::new(head, frame_len, offload.csum, gso)?;
            Ok(frame_len.min(cut.payload_at + usize::from(gso.size)))
        }
        None => match offload.csum {
            Csum::Partial { start, offset } => {
                validate_partial(head, frame_len, start, offset)?;
                Ok(frame_len)
            }
            Csum::Valid | Csum::Unverified => Ok(frame_len),
        },
    }
}

/// Hands the frames that `frame` stands for to `emit`, in order, each complete: nothing is left to do on them.
///
/// Of TCP the sequence numbers advance, FIN and PSH stay on the last segment only and CWR on the first only
/// (RFC 3168, section 6.1.2); of IPv4 the identification advances; lengths and checksums are made anew.
///
/// # Errors
/// As [`validate_offload`]; then nothing was emitted.
pub fn segment(frame: &[u8], offload: Offload, emit: &mut dyn FnMut(&[u8])) -> Result<(), Malformed> {
    segment_with(&mut Vec::new(), frame, offload, emit)
}

/// As [`segment`], with a buffer to work in, which grows to the longest frame and can be used again.
///
/// # Errors
/// As [`segment`].
pub fn segment_with(
    buffer: &mut Vec<u8>,
    frame: &[u8],
    offload: Offload,
    emit: &mut dyn FnMut(&[u8]),
) -> Result<(), Malformed> {
    if let Some(gso) = offload.gso {
        let cut = Cut::new(frame, frame.len(), offload.csum, gso)?;
        cut.segments(buffer, frame, gso.size, emit);
        return Ok(());
    }
    match offload.csum {
        Csum::Partial { start, offset } => {
            validate_partial(frame, frame.len(), start, offset)?;
            buffer.clear();
            buffer.extend_from_slice(frame);
            complete_checksum(buffer, start, offset)?;
            emit(buffer);
        }
        Csum::Valid | Csum::Unverified => emit(frame),
    }
    Ok(())
}

/// Whether completing a checksum there leaves all headers alone that decisions rest upon.
fn validate_partial(head: &[u8], frame_len: usize, start: u16, offset: u16) -> Result<(), Malformed> {
    if usize::from(start) + usize::from(offset) + size_of::<u16>() > frame_len {
        return Err(MISMATCH);
    }
    let headers = Headers::parse(head, frame_len)?;
    let Some(ip) = headers.ip else {
        let network_at = headers.link.len_bytes() + headers.inner_tag.map_or(0, |_| crate::ethernet::TAG_BYTES);
        let is_fine = usize::from(start) >= network_at && headers.ethertype != EtherType::ARP;
        return if is_fine { Ok(()) } else { Err(MISMATCH) };
    };
    let ip = ip?;
    let transport_at = ip.transport_at.ok_or(MISMATCH)?;
    let field = match ip.protocol {
        Protocol::TCP => Some(tcp::CHECKSUM_OFFSET),
        Protocol::UDP => Some(udp::CHECKSUM_OFFSET),
        _ => None,
    };
    // Behind the transport header's start lies payload: a tunnel's inner checksum, for example.
    let is_fine = match field {
        Some(field) if start == transport_at => offset == field && ip.fragment == Fragment::Whole,
        Some(udp::CHECKSUM_OFFSET) => usize::from(start) >= usize::from(transport_at) + udp::HEADER_BYTES,
        Some(_) => usize::from(start) >= usize::from(transport_at) + tcp::HEADER_BYTES,
        None => start >= transport_at,
    };
    if is_fine { Ok(()) } else { Err(MISMATCH) }
}

/// How a frame is cut: where its headers start, and which they are.
#[derive(Clone, Copy, Debug)]
struct Cut {
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    network_at: usize,
    transport_at: usize,
    payload_at: usize,
}

impl Cut {
    fn new(head: &[u8], frame_len: usize, csum: Csum, gso: Gso) -> Result<Self, Malformed> {
        let headers = Headers::parse(head, frame_len)?;
        let ip = headers.ip.ok_or(MISMATCH)??;
        let transport_at = usize::from(ip.transport_at.ok_or(MISMATCH)?);
        let (protocol, csum_offset) = match gso.kind {
            GsoKind::Tcp4 { .. } if ip.src.is_ipv4() => (Protocol::TCP, tcp::CHECKSUM_OFFSET),
            GsoKind::Tcp6 { .. } if ip.src.is_ipv6() => (Protocol::TCP, tcp::CHECKSUM_OFFSET),
            GsoKind::UdpL4 => (Protocol::UDP, udp::CHECKSUM_OFFSET),
            GsoKind::Tcp4 { .. } | GsoKind::Tcp6 { .. } => return Err(MISMATCH),
        };
        let is_partial = matches!(csum, Csum::Partial { start, offset }
            if usize::from(start) == transport_at && offset == csum_offset);
        if !is_partial || ip.protocol != protocol || ip.fragment != Fragment::Whole {
            return Err(MISMATCH);
        }
        let transport = head.get(transport_at..).ok_or(MISMATCH)?;
        let header_len = if protocol == Protocol::TCP {
            let fixed = transport.first_chunk().ok_or(Layer::Tcp.is(Problem::Truncated))?;
            let is_handshake = fixed[13] & (tcp::Flags::SYN | tcp::Flags::RST).0 != 0;
            if is_handshake {
                return Err(MISMATCH);
            }
            tcp::header_len(fixed)?
        } else {
            udp::HEADER_BYTES
        };
        let network_at = headers.link.len_bytes() + headers.inner_tag.map_or(0, |_| crate::ethernet::TAG_BYTES);
        let payload_at = transport_at + header_len;
        let packet_len = match headers.ethertype {
            EtherType::IPV4 => be16(head, network_at + 2),
            _ => be16(head, network_at + 4).map(|len| len + ipv6::HEADER_BYTES),
        };
        let payload_len = frame_len.checked_sub(payload_at).filter(|len| *len > 0).ok_or(MISMATCH)?;
        if gso.size == 0
            || packet_len != Some(frame_len - network_at)
            || payload_len.div_ceil(gso.size.into()) > MAX_SEGMENTS
        {
            return Err(MISMATCH);
        }
        Ok(Self { src: ip.src, dst: ip.dst, protocol, network_at, transport_at, payload_at })
    }

    fn segments(&self, buffer: &mut Vec<u8>, frame: &[u8], size: u16, emit: &mut dyn FnMut(&[u8])) {
        let (headers, payload) = frame.split_at(self.payload_at);
        let pieces = payload.chunks(size.into());
        let last = pieces.len() - 1;
        for (index, piece) in pieces.enumerate() {
            buffer.clear();
            buffer.extend_from_slice(headers);
            buffer.extend_from_slice(piece);
            let (network, transport) = buffer[self.network_at..].split_at_mut(self.transport_at - self.network_at);
            // The frame has at most MAX_SEGMENTS pieces and 64 KiB, so none of these numbers is cut off.
            self.finish_network(network, transport.len() as u16, index as u16);
            if self.protocol == Protocol::TCP {
                advance_tcp(transport, (index * usize::from(size)) as u32, index == 0, index == last);
            } else {
                let len = transport.len() as u16;
                transport[4..6].copy_from_slice(&len.to_be_bytes());
            }
            self.finish_transport(transport);
            emit(buffer);
        }
    }

    /// Makes the network header right for the `index`th segment, with `transport_len` bytes behind it.
    fn finish_network(&self, header: &mut [u8], transport_len: u16, index: u16) {
        let header_len = header.len() as u16;
        if self.src.is_ipv6() {
            let payload_len = header_len - ipv6::HEADER_BYTES as u16 + transport_len;
            header[4..6].copy_from_slice(&payload_len.to_be_bytes());
            return;
        }
        header[2..4].copy_from_slice(&(header_len + transport_len).to_be_bytes());
        let ident = u16::from_be_bytes([header[4], header[5]]).wrapping_add(index);
        header[4..6].copy_from_slice(&ident.to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn finish_transport(&self, transport: &mut [u8]) {
        let len = transport.len() as u16;
        let pseudo = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::ZERO.pseudo_ipv4(src, dst, self.protocol, len),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::ZERO.pseudo_ipv6(src, dst, self.protocol, len),
            _ => return, // one header has both addresses
        };
        let offset = if self.protocol == Protocol::TCP { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET };
        let field = usize::from(offset)..usize::from(offset) + 2;
        transport[field.clone()].fill(0);
        let sum = pseudo.bytes(transport).nonzero_checksum();
        transport[field].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Moves a segment `sent` payload bytes on.
fn advance_tcp(segment: &mut [u8], sent: u32, is_first: bool, is_last: bool) {
    let seq = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]).wrapping_add(sent);
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    let mut flags = tcp::Flags(segment[13]);
    if !is_first {
        flags = flags.without(tcp::Flags::CWR);
    }
    if !is_last {
        flags = flags.without(tcp::Flags::FIN | tcp::Flags::PSH);
    }
    segment[13] = flags.0;
}

fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*word).into())
}
