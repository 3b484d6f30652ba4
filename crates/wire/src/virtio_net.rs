//! The header that virtio-net, and a TAP device with `IFF_VNET_HDR`, put before each frame (virtio 1.2, section
//! 5.1.6), little-endian, with its `num_buffers`.

use crate::{Csum, Gso, GsoKind, Layer, Malformed, Offload, Problem, read};

/// The header's length.
pub const HEADER_BYTES: usize = 12;

mod flag {
    pub(super) const NEEDS_CSUM: u8 = 1;
    pub(super) const DATA_VALID: u8 = 2;
}

mod gso {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCPV4: u8 = 1;
    pub(super) const TCPV6: u8 = 4;
    pub(super) const UDP_L4: u8 = 5;
    pub(super) const ECN: u8 = 0x80;
}

/// Who wrote a header, and so what it may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Author {
    /// A driver, in a guest: it may not vouch for checksums (section 5.1.6.2.1), so such a claim is not heard.
    Driver,
    /// A device, such as the kernel behind a TAP.
    Device,
}

/// The header's fields as they were written; nothing of it is to be believed before [`offload`](Self::offload).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VirtioNetHeader {
    /// `VIRTIO_NET_HDR_F_*`
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`
    pub gso_type: u8,
    /// The length of all headers up to the payload: a hint.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where summing starts, in bytes from the frame's first.
    pub csum_start: u16,
    /// Where the checksum belongs, in bytes from `csum_start`.
    pub csum_offset: u16,
    /// Over how many buffers a device has spread the frame.
    pub num_buffers: u16,
}

impl VirtioNetHeader {
    /// The header at the start of `bytes`, and the frame that follows.
    ///
    /// # Errors
    /// When the bytes end inside the header.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (header, frame) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Layer::Offload.is(Problem::Truncated))?;
        let header = Self {
            flags: header[0],
            gso_type: header[1],
            hdr_len: u16::from_le_bytes(read::bytes::<2, 2, _>(header)),
            gso_size: u16::from_le_bytes(read::bytes::<4, 2, _>(header)),
            csum_start: u16::from_le_bytes(read::bytes::<6, 2, _>(header)),
            csum_offset: u16::from_le_bytes(read::bytes::<8, 2, _>(header)),
            num_buffers: u16::from_le_bytes(read::bytes::<10, 2, _>(header)),
        };
        Ok((header, frame))
    }

    /// The header for a frame with `offload`, whose headers up to the payload have `hdr_len` bytes, that was spread
    /// over `num_buffers` buffers.
    pub fn new(offload: Offload, hdr_len: u16, num_buffers: u16) -> Self {
        let mut header = Self { num_buffers, ..Self::default() };
        match offload.csum {
            Csum::Unverified => {}
            Csum::Valid => header.flags = flag::DATA_VALID,
            Csum::Partial { start, offset } => {
                header.flags = flag::NEEDS_CSUM;
                header.csum_start = start;
                header.csum_offset = offset;
            }
        }
        if let Some(Gso { kind, size }) = offload.gso {
            let ecn_bit = |ecn| if ecn { gso::ECN } else { 0 };
            header.gso_type = match kind {
                GsoKind::Tcp4 { ecn } => gso::TCPV4 | ecn_bit(ecn),
                GsoKind::Tcp6 { ecn } => gso::TCPV6 | ecn_bit(ecn),
                GsoKind::UdpL4 => gso::UDP_L4,
            };
            header.gso_size = size;
            header.hdr_len = hdr_len;
        }
        header
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (field, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The work that the header asks for. Whether it fits the frame is for
    /// [`validate_offload`](crate::segment::validate_offload) to say.
    ///
    /// # Errors
    /// When it asks for segmentation of an unknown kind, into nothing, or without a checksum to complete.
    pub fn offload(&self, author: Author) -> Result<Offload, Malformed> {
        let csum = if self.flags & flag::NEEDS_CSUM != 0 {
            Csum::Partial { start: self.csum_start, offset: self.csum_offset }
        } else if self.flags & flag::DATA_VALID != 0 && author == Author::Device {
            Csum::Valid
        } else {
            Csum::Unverified
        };
        let ecn = self.gso_type & gso::ECN != 0;
        let kind = match self.gso_type & !gso::ECN {
            gso::NONE if !ecn => return Ok(Offload { csum, gso: None }),
            gso::TCPV4 => GsoKind::Tcp4 { ecn },
            gso::TCPV6 => GsoKind::Tcp6 { ecn },
            gso::UDP_L4 if !ecn => GsoKind::UdpL4,
            _ => return Err(Layer::Offload.is(Problem::Unsupported)),
        };
        if self.gso_size == 0 || !matches!(csum, Csum::Partial { .. }) {
            return Err(Layer::Offload.is(Problem::Mismatch));
        }
        Ok(Offload { csum, gso: Some(Gso { kind, size: self.gso_size }) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_that_lie_are_refused() {
        let check = |bytes: [u8; 12]| {
            let (header, _) = VirtioNetHeader::parse(&bytes).unwrap();
            header.offload(Author::Driver).map_err(|problem| problem.to_string())
        };
        let plain = Offload::default();
        let tso = Offload {
            csum: Csum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { kind: GsoKind::Tcp4 { ecn: true }, size: 1460 }),
        };
        let unsupported = || Err("offload-unsupported".to_owned());
        let mismatch = || Err("offload-mismatch".to_owned());
        assert_eq!(check([0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]), Ok(plain), "fields without a flag mean nothing");
        assert_eq!(check([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(plain), "a driver cannot vouch");
        assert_eq!(check([1, 0x81, 0, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]), Ok(tso));
        assert_eq!(check([1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]), mismatch(), "no segment size");
        assert_eq!(check([0, 1, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0]), mismatch(), "no checksum to complete");
        assert_eq!(check([1, 3, 0, 0, 1, 0, 34, 0, 6, 0, 0, 0]), unsupported(), "UFO");
        assert_eq!(check([1, 0x85, 0, 0, 1, 0, 34, 0, 6, 0, 0, 0]), unsupported(), "ECN of UDP");
        assert_eq!(check([1, 0x80, 0, 0, 1, 0, 34, 0, 6, 0, 0, 0]), unsupported(), "ECN of nothing");
        assert!(VirtioNetHeader::parse(&[0; 11]).is_err());
    }

    proptest! {
        #[test]
        fn parse_after_emit_is_identity(bytes: [u8; 12], frame: Vec<u8>) {
            let whole = [&bytes[..], &frame].concat();
            let (header, rest) = VirtioNetHeader::parse(&whole).unwrap();
            prop_assert_eq!((header.emit(), rest), (bytes, &frame[..]));
        }

        #[test]
        fn what_was_understood_survives(bytes: [u8; 12]) {
            let (header, _) = VirtioNetHeader::parse(&bytes).unwrap();
            for author in [Author::Driver, Author::Device] {
                if let Ok(offload) = header.offload(author) {
                    let again = VirtioNetHeader::new(offload, header.hdr_len, header.num_buffers);
                    prop_assert_eq!(again.offload(author), Ok(offload));
                }
            }
        }
    }
}
