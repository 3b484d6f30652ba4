//! The header that virtio-net and TAP put before each frame (virtio 1.2, section 5.1.6), little-endian.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
};
use weft_wire::{Csum, Gso, GsoKind, Offload};

/// The header's length with its `num_buffers` field.
pub const VNET_HEADER_BYTES: usize = 12;

/// The fixed part of a TCP header, and of a UDP header, in bytes.
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;

/// A header that contradicts itself or its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VnetHeaderError {
    /// The checksum would lie behind the frame's end.
    #[error("the checksum lies outside of the frame")]
    CsumOutside,
    /// A way of segmentation that was never negotiated.
    #[error("segmentation type {0:#x} is unknown")]
    UnknownGso(u8),
    /// Segments of no bytes, or without a checksum to update.
    #[error("segments need a size and a partial checksum")]
    BadGso,
}

/// What a sender's header says about its frame of `frame_len` bytes. `hdr_len` is a hint that nobody may rely
/// on, and `num_buffers` is the device's: both are ignored.
///
/// # Errors
/// When the header contradicts itself or the frame.
pub fn decode_vnet_header(header: &[u8; VNET_HEADER_BYTES], frame_len: usize) -> Result<Offload, VnetHeaderError> {
    let [flags, gso_type, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high, _, _] = *header;
    let mut offload = Offload::default();
    if u32::from(flags) & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
        let start = u16::from_le_bytes([start_low, start_high]);
        let offset = u16::from_le_bytes([offset_low, offset_high]);
        if usize::from(start) + usize::from(offset) + size_of::<u16>() > frame_len {
            return Err(VnetHeaderError::CsumOutside);
        }
        offload.csum = Csum::Partial { start, offset };
    }
    let ecn = u32::from(gso_type) & VIRTIO_NET_HDR_GSO_ECN != 0;
    let kind = match u32::from(gso_type) & !VIRTIO_NET_HDR_GSO_ECN {
        VIRTIO_NET_HDR_GSO_NONE if !ecn => return Ok(offload),
        VIRTIO_NET_HDR_GSO_TCPV4 => GsoKind::Tcp4 { ecn },
        VIRTIO_NET_HDR_GSO_TCPV6 => GsoKind::Tcp6 { ecn },
        VIRTIO_NET_HDR_GSO_UDP_L4 if !ecn => GsoKind::UdpL4,
        _ => return Err(VnetHeaderError::UnknownGso(gso_type)),
    };
    let size = u16::from_le_bytes([size_low, size_high]);
    if size == 0 || offload.csum == Csum::Unverified {
        return Err(VnetHeaderError::BadGso);
    }
    offload.gso = Some(Gso { kind, size });
    Ok(offload)
}

/// The header for a frame that starts with `head`, spread over `num_buffers` buffers of the receiver.
pub fn encode_vnet_header(offload: Offload, head: &[u8], num_buffers: u16) -> [u8; VNET_HEADER_BYTES] {
    let mut flags = 0;
    let (mut start, mut offset) = (0, 0);
    match offload.csum {
        Csum::Unverified => {}
        Csum::Valid => flags = VIRTIO_NET_HDR_F_DATA_VALID,
        Csum::Partial { start: at, offset: from } => {
            flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
            (start, offset) = (at, from);
        }
    }
    let ecn_bit = |ecn: bool| if ecn { VIRTIO_NET_HDR_GSO_ECN } else { 0 };
    let (gso_type, size, hdr_len) = match offload.gso {
        None => (VIRTIO_NET_HDR_GSO_NONE, 0, 0),
        Some(Gso { kind: GsoKind::Tcp4 { ecn }, size }) => {
            (VIRTIO_NET_HDR_GSO_TCPV4 | ecn_bit(ecn), size, tcp_payload_start(head, start))
        }
        Some(Gso { kind: GsoKind::Tcp6 { ecn }, size }) => {
            (VIRTIO_NET_HDR_GSO_TCPV6 | ecn_bit(ecn), size, tcp_payload_start(head, start))
        }
        Some(Gso { kind: GsoKind::UdpL4, size }) => {
            (VIRTIO_NET_HDR_GSO_UDP_L4, size, usize::from(start) + UDP_HEADER_BYTES)
        }
    };
    let hdr_len = u16::try_from(hdr_len).unwrap_or(0);
    let mut header = [0; VNET_HEADER_BYTES];
    header[0] = flags as u8; // all flags and types are below 256
    header[1] = gso_type as u8;
    for (at, value) in [(2, hdr_len), (4, size), (6, start), (8, offset), (10, num_buffers)] {
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    header
}

/// Where a TCP segment's payload starts, going by its data offset field; the least it can be when that lies
/// outside of `head`.
fn tcp_payload_start(head: &[u8], tcp_start: u16) -> usize {
    let tcp_start = usize::from(tcp_start);
    let words = head.get(tcp_start + 12).map_or(0, |byte| usize::from(byte >> 4));
    tcp_start + (words * 4).max(TCP_HEADER_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_that_lie_are_refused() {
        let cases: [(&str, [u8; 12], Result<Offload, VnetHeaderError>); 8] = [
            ("plain", [0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], Ok(Offload::default())),
            ("checksum behind the end", [1, 0, 0, 0, 0, 0, 34, 0, 65, 0, 0, 0], Err(VnetHeaderError::CsumOutside)),
            ("checksum far away", [1, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0], Err(VnetHeaderError::CsumOutside)),
            ("no segment size", [1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], Err(VnetHeaderError::BadGso)),
            ("segments, checksum complete", [0, 1, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0], Err(VnetHeaderError::BadGso)),
            ("UFO", [1, 3, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0], Err(VnetHeaderError::UnknownGso(3))),
            ("ECN of nothing", [0, 0x80, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0], Err(VnetHeaderError::UnknownGso(0x80))),
            (
                "TSO",
                [1, 0x81, 0, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0],
                Ok(Offload {
                    csum: Csum::Partial { start: 34, offset: 16 },
                    gso: Some(Gso { kind: GsoKind::Tcp4 { ecn: true }, size: 1460 }),
                }),
            ),
        ];
        for (what, header, expected) in cases {
            assert_eq!(decode_vnet_header(&header, 100), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn what_was_understood_survives(header in any::<[u8; 12]>(), len in 14..65_000usize) {
            if let Ok(offload) = decode_vnet_header(&header, len) {
                let again = encode_vnet_header(offload, &[0; 128], 1);
                prop_assert_eq!(decode_vnet_header(&again, len), Ok(offload));
            }
        }
    }
}
