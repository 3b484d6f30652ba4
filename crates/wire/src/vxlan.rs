//! The header of Virtual eXtensible Local Area Network packets (RFC 7348, section 5).

/// The UDP port at which they are expected.
pub const UDP_PORT: u16 = 4789;

/// The length of the header, which the frame follows.
pub const HEADER_BYTES: usize = 8;

/// The largest network identifier.
pub const MAX_VNI: u32 = 0xff_ffff;

/// The flag which says that there is a network identifier.
const HAS_VNI: u8 = 0x08;

/// The header of a frame of the network `vni`, of which the lower 24 bits count.
pub const fn header(vni: u32) -> [u8; HEADER_BYTES] {
    let [_, a, b, c] = vni.to_be_bytes();
    [HAS_VNI, 0, 0, 0, a, b, c, 0]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_identifier_has_24_bits() {
        assert_eq!(super::header(0x0012_3456), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(super::header(u32::MAX), super::header(super::MAX_VNI));
    }
}
