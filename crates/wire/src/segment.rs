//! What a network card would have done: completing checksums and cutting large frames into segments.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::checksum::{Sum, checksum};
use crate::ethernet::{Header, ethertype};
use crate::{Csum, GsoKind, Malformed, Offload};

const IPV4_MIN_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_MIN_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// Completes a partial checksum in place (virtio 1.2, section 5.1.6.2): sums from `start` to the frame's end and writes
/// the result at `start + offset`. The field holds the pseudo-header's sum.
///
/// # Errors
/// [`Malformed::Offload`] if the field does not lie within the frame.
pub fn complete_checksum(frame: &mut [u8], start: u16, offset: u16) -> Result<(), Malformed> {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let summed = frame.get_mut(start..).ok_or(Malformed::Offload)?;
    let sum = Sum::ZERO.bytes(summed).checksum();
    let field = summed.get_mut(offset..offset + 2).ok_or(Malformed::Offload)?;
    // UDP writes an all-zero sum as ones (RFC 768); for TCP both mean the same.
    field.copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    Ok(())
}

/// Does the work that `offload` leaves: hands out the frame with its checksum completed, or its segments in order, each
/// complete. `scratch` is room to work in, and is overwritten.
///
/// # Errors
/// [`Malformed`] if the frame is not what `offload` says it is; then nothing was handed out.
pub fn finish(
    frame: &[u8],
    offload: &Offload,
    scratch: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8]),
) -> Result<(), Malformed> {
    let Some(gso) = offload.gso else {
        let Csum::Partial { start, offset } = offload.csum else {
            emit(frame);
            return Ok(());
        };
        scratch.clear();
        scratch.extend_from_slice(frame);
        complete_checksum(scratch, start, offset)?;
        emit(scratch);
        return Ok(());
    };
    let layout = Layout::find(frame, gso.kind)?;
    let size = usize::from(gso.size);
    if size == 0 {
        return Err(Malformed::Offload);
    }
    let payload = frame.get(layout.payload..).ok_or(Malformed::Truncated)?;
    let count = payload.len().div_ceil(size).max(1);
    for index in 0..count {
        let from = index * size;
        let part = &payload[from..payload.len().min(from + size)];
        scratch.clear();
        scratch.extend_from_slice(&frame[..layout.payload]);
        scratch.extend_from_slice(part);
        layout.adjust(scratch, index, from, index + 1 == count)?;
        emit(scratch);
    }
    Ok(())
}

/// Where a large frame's headers stand.
struct Layout {
    network: usize,
    transport: usize,
    payload: usize,
    kind: GsoKind,
    is_ipv6: bool,
}

impl Layout {
    fn find(frame: &[u8], kind: GsoKind) -> Result<Self, Malformed> {
        let header = Header::parse(frame)?;
        let network = header.len();
        let (transport, protocol, is_ipv6) = match header.ethertype {
            ethertype::IPV4 => {
                let first = *frame.get(network).ok_or(Malformed::Truncated)?;
                let len = usize::from(first & 0x0f) * 4;
                let ip = frame.get(network..network + len).ok_or(Malformed::Truncated)?;
                if first >> 4 != 4 || len < IPV4_MIN_BYTES {
                    return Err(Malformed::Ipv4);
                }
                (network + len, ip[9], false)
            }
            ethertype::IPV6 => {
                let ip = frame.get(network..network + IPV6_BYTES).ok_or(Malformed::Truncated)?;
                if ip[0] >> 4 != 6 {
                    return Err(Malformed::Ipv6);
                }
                // Extension headers are not cut: a sender that uses them does so itself.
                (network + IPV6_BYTES, ip[6], true)
            }
            _ => return Err(Malformed::Offload),
        };
        let (wanted, len) = match kind {
            GsoKind::Tcp4 { .. } | GsoKind::Tcp6 { .. } => {
                let offset = *frame.get(transport + 12).ok_or(Malformed::Truncated)?;
                (PROTOCOL_TCP, usize::from(offset >> 4) * 4)
            }
            GsoKind::UdpL4 => (PROTOCOL_UDP, UDP_BYTES),
        };
        let family_is_right = match kind {
            GsoKind::Tcp4 { .. } => !is_ipv6,
            GsoKind::Tcp6 { .. } => is_ipv6,
            GsoKind::UdpL4 => true,
        };
        let least = if wanted == PROTOCOL_TCP { TCP_MIN_BYTES } else { UDP_BYTES };
        if protocol != wanted || !family_is_right || len < least {
            return Err(Malformed::Offload);
        }
        let payload = transport + len;
        if payload > frame.len() {
            return Err(Malformed::Truncated);
        }
        Ok(Self { network, transport, payload, kind, is_ipv6 })
    }

    /// Turns a copy of the headers with one part of the payload behind it into a frame of its own.
    fn adjust(&self, segment: &mut [u8], index: usize, from: usize, is_last: bool) -> Result<(), Malformed> {
        let len = segment.len();
        let (ip, transport) = segment.split_at_mut(self.transport);
        let ip = &mut ip[self.network..];
        let too_long = |_| Malformed::Offload;
        let transport_len = u16::try_from(transport.len()).map_err(too_long)?;
        if self.is_ipv6 {
            ip[4..6].copy_from_slice(&transport_len.to_be_bytes());
        } else {
            let total = u16::try_from(len - self.network).map_err(too_long)?;
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            let identification = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
            ip[4..6].copy_from_slice(&identification.to_be_bytes());
            ip[10..12].fill(0);
            let sum = checksum(ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let (protocol, field): (u8, Range<usize>) = match self.kind {
            GsoKind::UdpL4 => {
                transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
                (PROTOCOL_UDP, 6..8)
            }
            GsoKind::Tcp4 { .. } | GsoKind::Tcp6 { .. } => {
                let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
                transport[4..8].copy_from_slice(&sequence.wrapping_add(from as u32).to_be_bytes());
                if !is_last {
                    transport[13] &= !(TCP_FIN | TCP_PSH);
                }
                if index > 0 {
                    transport[13] &= !TCP_CWR; // once a window is enough (RFC 3168, section 6.1.2)
                }
                (PROTOCOL_TCP, 16..18)
            }
        };
        transport[field.clone()].fill(0);
        let sum = pseudo(ip, self.is_ipv6, protocol, transport_len).bytes(transport).checksum();
        transport[field].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
        Ok(())
    }
}

fn pseudo(ip: &[u8], is_ipv6: bool, protocol: u8, len: u16) -> Sum {
    if is_ipv6 {
        let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap_or_default());
        Sum::ZERO.pseudo_v6(address(8), address(24), protocol, u32::from(len))
    } else {
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        Sum::ZERO.pseudo_v4(address(12), address(16), protocol, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gso;
    use proptest::prelude::*;

    fn tcp4(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, PROTOCOL_TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let flags = TCP_FIN | TCP_PSH | TCP_CWR | 0x10;
        frame.extend([0, 80, 0x9c, 0x40, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 9, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn segments(frame: &[u8], kind: GsoKind, size: u16) -> Result<Vec<Vec<u8>>, Malformed> {
        let offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Some(Gso { kind, size }) };
        let mut found = Vec::new();
        finish(frame, &offload, &mut Vec::new(), |segment| found.push(segment.to_vec()))?;
        Ok(found)
    }

    proptest! {
        #[test]
        fn tcp_segments_make_up_the_frame(
            payload in proptest::collection::vec(any::<u8>(), 0..9000), size in 1u16..3000,
        ) {
            let found = segments(&tcp4(&payload), GsoKind::Tcp4 { ecn: true }, size).unwrap();
            let mut rebuilt = Vec::new();
            for (index, segment) in found.iter().enumerate() {
                let (ip, tcp) = (&segment[14..34], &segment[34..]);
                prop_assert!(Sum::ZERO.bytes(ip).is_intact());
                let len = u16::from_be_bytes([ip[2], ip[3]]);
                prop_assert_eq!(usize::from(len), segment.len() - 14);
                prop_assert!(pseudo(ip, false, PROTOCOL_TCP, tcp.len() as u16).bytes(tcp).is_intact());
                let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
                prop_assert_eq!(sequence, 0xffff_ff00u32.wrapping_add(rebuilt.len() as u32));
                prop_assert_eq!(u16::from_be_bytes([ip[4], ip[5]]), 0xfffeu16.wrapping_add(index as u16));
                let is_last = index + 1 == found.len();
                prop_assert_eq!(tcp[13] & (TCP_FIN | TCP_PSH) != 0, is_last);
                prop_assert_eq!(tcp[13] & TCP_CWR != 0, index == 0);
                prop_assert!(tcp.len() - 20 <= usize::from(size));
                rebuilt.extend_from_slice(&tcp[20..]);
            }
            prop_assert_eq!(rebuilt, payload);
        }

        #[test]
        fn hostile_frames_are_refused_or_cut(
            frame in proptest::collection::vec(any::<u8>(), 0..200), size in 0u16..50, kind in 0..3,
        ) {
            let kind = [GsoKind::Tcp4 { ecn: false }, GsoKind::Tcp6 { ecn: false }, GsoKind::UdpL4][kind as usize];
            let _ = segments(&frame, kind, size);
        }

        #[test]
        fn a_completed_checksum_is_intact(payload in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let mut frame = tcp4(&payload);
            let len = (frame.len() - 34) as u16;
            let partial = pseudo(&frame[14..34], false, PROTOCOL_TCP, len).folded();
            frame[50..52].copy_from_slice(&partial.to_be_bytes());
            complete_checksum(&mut frame, 34, 16).unwrap();
            prop_assert!(pseudo(&frame[14..34], false, PROTOCOL_TCP, len).bytes(&frame[34..]).is_intact());
        }
    }

    #[test]
    fn a_field_outside_of_the_frame_is_refused() {
        let mut frame = [0; 40];
        for (start, offset) in [(41, 0), (39, 0), (0, 39), (30, 9), (u16::MAX, u16::MAX)] {
            assert_eq!(complete_checksum(&mut frame, start, offset), Err(Malformed::Offload), "{start} {offset}");
        }
    }
}
