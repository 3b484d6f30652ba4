//! Writing captures that Wireshark and tcpdump read (the pcapng format, draft-ietf-opsawg-pcapng).
//!
//! Each function appends one block. A capture starts with [`section_header`]; an [`interface`] comes before the first
//! [`packet`] of it, and gets the next number, from zero on.

/// What interfaces carry: Ethernet frames (LINKTYPE_ETHERNET).
const ETHERNET: u16 = 1;

/// The kinds of blocks.
mod block {
    pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
    pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
    pub(super) const INTERFACE_STATISTICS: u32 = 5;
    pub(super) const ENHANCED_PACKET: u32 = 6;
}

/// The options' codes; they depend on the block.
mod option {
    pub(super) const USER_APPLICATION: u16 = 4; // shb_userappl
    pub(super) const NAME: u16 = 2; // if_name
    pub(super) const RESOLUTION: u16 = 9; // if_tsresol
    pub(super) const DROPPED: u16 = 5; // isb_ifdrop
}

/// Tells readers in which order our bytes come.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// The exponent of ten of our clock's ticks in a second.
const NANOSECONDS: u8 = 9;

/// Starts a capture by the program of this name.
pub fn section_header(out: &mut Vec<u8>, application: &str) {
    in_block(out, block::SECTION_HEADER, |out| {
        out.extend(BYTE_ORDER.to_le_bytes());
        out.extend([1, 0, 0, 0]); // version 1.0
        out.extend(u64::MAX.to_le_bytes()); // nobody knows how long the section gets
        option(out, option::USER_APPLICATION, application.as_bytes());
        end_of_options(out);
    });
}

/// Describes an interface, of whose frames at most `snap_bytes` are kept (0: all).
pub fn interface(out: &mut Vec<u8>, name: &str, snap_bytes: u32) {
    in_block(out, block::INTERFACE_DESCRIPTION, |out| {
        out.extend(ETHERNET.to_le_bytes());
        out.extend([0, 0]);
        out.extend(snap_bytes.to_le_bytes());
        option(out, option::NAME, name.as_bytes());
        option(out, option::RESOLUTION, &[NANOSECONDS]);
        end_of_options(out);
    });
}

/// A frame of `len` bytes, of which `bytes` were kept, seen at an interface so many nanoseconds after 1970 began.
pub fn packet(out: &mut Vec<u8>, interface: u32, unix_nanos: u64, bytes: &[u8], len: u32) {
    in_block(out, block::ENHANCED_PACKET, |out| {
        out.extend(interface.to_le_bytes());
        timestamp(out, unix_nanos);
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(len.to_le_bytes());
        padded(out, bytes);
    });
}

/// How many frames of an interface were lost so far.
pub fn statistics(out: &mut Vec<u8>, interface: u32, unix_nanos: u64, lost: u64) {
    in_block(out, block::INTERFACE_STATISTICS, |out| {
        out.extend(interface.to_le_bytes());
        timestamp(out, unix_nanos);
        option(out, option::DROPPED, &lost.to_le_bytes());
        end_of_options(out);
    });
}

/// A block's kind, its length, what `body` appends, which is a multiple of four bytes, and its length once more.
fn in_block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let len = (out.len() + 4 - start) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    out.extend(len.to_le_bytes());
}

fn timestamp(out: &mut Vec<u8>, unix_nanos: u64) {
    out.extend(((unix_nanos >> 32) as u32).to_le_bytes());
    out.extend((unix_nanos as u32).to_le_bytes());
}

/// An option; what is longer than one can be is cut.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(u16::MAX.into())];
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    padded(out, value);
}

fn end_of_options(out: &mut Vec<u8>) {
    option(out, 0, &[]);
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len() + bytes.len().wrapping_neg() % 4, 0);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The blocks' kinds and bodies, read by the format's own lengths.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let len = word(&bytes[4..]) as usize;
            assert!(len.is_multiple_of(4) && word(&bytes[len - 4..]) as usize == len);
            blocks.push((word(bytes), &bytes[8..len - 4]));
            bytes = &bytes[len..];
        }
        blocks
    }

    #[test]
    fn a_capture_byte_for_byte() {
        let mut out = Vec::new();
        interface(&mut out, "web-0", 96);
        let expected = [
            &[1, 0, 0, 0, 44, 0, 0, 0, 1, 0, 0, 0, 96, 0, 0, 0][..],
            &[2, 0, 5, 0, b'w', b'e', b'b', b'-', b'0', 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[44, 0, 0, 0],
        ];
        assert_eq!(out, expected.concat());
        out.clear();
        packet(&mut out, 3, 0x0000_0001_0000_0002, &[7; 5], 60);
        let expected = [6, 0, 0, 0, 40, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 60, 0, 0, 0];
        assert_eq!(out, [&expected[..], &[7, 7, 7, 7, 7, 0, 0, 0, 40, 0, 0, 0]].concat());
    }

    proptest! {
        #[test]
        fn blocks_are_whole(name in ".{0,40}", frames in vec(vec(any::<u8>(), 0..200), 0..9), at: u64, lost: u64) {
            let mut out = Vec::new();
            section_header(&mut out, "weft");
            interface(&mut out, &name, 0);
            for frame in &frames {
                packet(&mut out, 0, at, frame, frame.len() as u32);
            }
            statistics(&mut out, 0, at, lost);
            let blocks = blocks(&out);
            prop_assert_eq!(blocks.len(), frames.len() + 3);
            for ((kind, body), frame) in blocks[2..].iter().zip(&frames) {
                prop_assert_eq!(*kind, 6);
                prop_assert_eq!(&body[20..20 + frame.len()], &frame[..]);
            }
            prop_assert_eq!(&blocks.last().unwrap().1[16..24], &lost.to_le_bytes()[..]);
        }
    }
}
