//! Reading captures that Wireshark, tcpdump and others wrote: pcapng (draft-ietf-opsawg-pcapng) and the older pcap
//! (draft-ietf-opsawg-pcap), in either byte order.
//!
//! Such a file is as hostile as any frame: nothing here panics or allocates beyond a word for each interface.

use std::fmt;
use std::iter::FusedIterator;

/// What interfaces carry: Ethernet frames (LINKTYPE_ETHERNET).
const ETHERNET: u32 = 1;

/// A captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// What was kept of it.
    pub bytes: &'a [u8],
    /// How long it was.
    pub len: u32,
}

/// Why a file, or the rest of it, cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureError {
    /// It does not begin like one.
    Unknown,
    /// It ends in the middle of something.
    Truncated,
    /// A length in it cannot be.
    Length,
    /// It says nothing about the interface that a frame comes from.
    Interface,
    /// It holds something else than Ethernet frames: this link type.
    LinkType(u32),
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("this is neither a pcap nor a pcapng file"),
            Self::Truncated => f.write_str("the file is cut short"),
            Self::Length => f.write_str("the file is damaged: a length in it cannot be"),
            Self::Interface => f.write_str("the file is damaged: it does not describe a frame's interface"),
            Self::LinkType(link) => write!(f, "what was captured are no Ethernet frames (link type {link})"),
        }
    }
}

impl std::error::Error for CaptureError {}

/// The frames of a file, in their order; the first error is the last item.
///
/// # Errors
/// When it does not begin like one.
pub fn frames(file: &[u8]) -> Result<Frames<'_>, CaptureError> {
    let magic = file.first_chunk().ok_or(CaptureError::Unknown)?;
    let (kind, order, rest) = match (u32::from_le_bytes(*magic), u32::from_be_bytes(*magic)) {
        (0x0a0d_0d0a, _) => (Kind::Pcapng { interfaces: Vec::new() }, Order::Little, file),
        (0xa1b2_c3d4 | 0xa1b2_3c4d, _) => pcap(file, Order::Little)?,
        (_, 0xa1b2_c3d4 | 0xa1b2_3c4d) => pcap(file, Order::Big)?,
        _ => return Err(CaptureError::Unknown),
    };
    Ok(Frames { kind, order, rest })
}

/// The file's header: a magic number, versions, times and lengths that do not matter, and the link type.
fn pcap(file: &[u8], order: Order) -> Result<(Kind, Order, &[u8]), CaptureError> {
    let link = order.word(file, 20).ok_or(CaptureError::Truncated)? & 0xffff;
    Ok((Kind::Pcap { link }, order, &file[24..]))
}

/// The frames of a file.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    kind: Kind,
    order: Order,
    rest: &'a [u8],
}

#[derive(Clone, Debug)]
enum Kind {
    Pcap {
        link: u32,
    },
    /// The link type of each interface of the section.
    Pcapng {
        interfaces: Vec<u32>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

impl Order {
    /// The 32-bit number at `at`.
    fn word(self, bytes: &[u8], at: usize) -> Option<u32> {
        let word = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        })
    }

    /// The 16-bit number at `at`.
    fn half(self, bytes: &[u8], at: usize) -> Option<u32> {
        let half = *bytes.get(at..)?.first_chunk()?;
        Some(u32::from(match self {
            Self::Little => u16::from_le_bytes(half),
            Self::Big => u16::from_be_bytes(half),
        }))
    }
}

/// The kinds of blocks of pcapng that matter.
mod block {
    pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
    pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
    pub(super) const SIMPLE_PACKET: u32 = 3;
    pub(super) const ENHANCED_PACKET: u32 = 6;
}

impl<'a> Frames<'a> {
    /// The next frame; `None` at the end.
    fn read(&mut self) -> Result<Option<Captured<'a>>, CaptureError> {
        while !self.rest.is_empty() {
            if let Kind::Pcap { link } = self.kind {
                return self.record(link).map(Some);
            }
            if let Some(frame) = self.block()? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// A record of pcap: seconds, their fraction, how much was kept, how long the frame was, and what was kept.
    fn record(&mut self, link: u32) -> Result<Captured<'a>, CaptureError> {
        let word = |at| self.order.word(self.rest, at).ok_or(CaptureError::Truncated);
        let (kept, len) = (word(8)? as usize, word(12)?);
        let (bytes, rest) = self.rest[16..].split_at_checked(kept).ok_or(CaptureError::Truncated)?;
        self.rest = rest;
        captured(link, bytes, len)
    }

    /// A block of pcapng; `None` for one that is no frame.
    fn block(&mut self) -> Result<Option<Captured<'a>>, CaptureError> {
        let truncated = CaptureError::Truncated;
        let is_section = self.order.word(self.rest, 0) == Some(block::SECTION_HEADER);
        if is_section {
            self.order = match self.rest.get(8..12).ok_or(truncated)? {
                [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
                [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
                _ => return Err(CaptureError::Unknown),
            };
        }
        let order = self.order;
        let kind = order.word(self.rest, 0).ok_or(truncated)?;
        let len = order.word(self.rest, 4).ok_or(truncated)? as usize;
        if len < 12 || !len.is_multiple_of(4) {
            return Err(CaptureError::Length);
        }
        let (whole, rest) = self.rest.split_at_checked(len).ok_or(truncated)?;
        let body = &whole[8..len - 4];
        self.rest = rest;
        let Kind::Pcapng { interfaces } = &mut self.kind else { return Ok(None) };
        let word = |at| order.word(body, at).ok_or(CaptureError::Length);
        match kind {
            block::SECTION_HEADER => interfaces.clear(),
            block::INTERFACE_DESCRIPTION => interfaces.push(order.half(body, 0).ok_or(CaptureError::Length)?),
            block::ENHANCED_PACKET => {
                let link = *interfaces.get(word(0)? as usize).ok_or(CaptureError::Interface)?;
                let (kept, len) = (word(12)? as usize, word(16)?);
                let bytes = body[20..].get(..kept).ok_or(CaptureError::Length)?;
                return captured(link, bytes, len).map(Some);
            }
            block::SIMPLE_PACKET => {
                let link = *interfaces.first().ok_or(CaptureError::Interface)?;
                let len = word(0)?;
                let kept = &body[4..];
                return captured(link, &kept[..kept.len().min(len as usize)], len).map(Some);
            }
            _ => {}
        }
        Ok(None)
    }
}

fn captured(link: u32, bytes: &[u8], len: u32) -> Result<Captured<'_>, CaptureError> {
    match link {
        ETHERNET => Ok(Captured { bytes, len }),
        other => Err(CaptureError::LinkType(other)),
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Captured<'a>, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read().transpose();
        if let Some(Err(_)) = next {
            self.rest = &[];
        }
        next
    }
}

impl FusedIterator for Frames<'_> {}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::pcapng;

    type Read = Result<Vec<(Vec<u8>, u32)>, CaptureError>;

    fn read(file: &[u8]) -> Read {
        frames(file)?.map(|frame| frame.map(|frame| (frame.bytes.to_vec(), frame.len))).collect()
    }

    /// A pcap file whose numbers are made by `order`.
    fn pcap_file(order: fn(u32) -> [u8; 4], link: u32, frames: &[(&[u8], u32)]) -> Vec<u8> {
        let header = [0xa1b2_c3d4, 0x0002_0004, 0, 0, 65_535, link];
        let mut file: Vec<u8> = header.into_iter().flat_map(order).collect();
        for (bytes, len) in frames {
            file.extend([1, 2, bytes.len() as u32, *len].into_iter().flat_map(order));
            file.extend(*bytes);
        }
        file
    }

    #[test]
    fn pcap_in_both_orders() {
        let frames: [(&[u8], u32); 2] = [(b"abc", 60), (b"defgh", 5)];
        let expected = Ok(frames.map(|(bytes, len)| (bytes.to_vec(), len)).to_vec());
        assert_eq!(read(&pcap_file(u32::to_le_bytes, 1, &frames)), expected);
        assert_eq!(read(&pcap_file(u32::to_be_bytes, 1, &frames)), expected);
        assert_eq!(read(&pcap_file(u32::to_le_bytes, 113, &frames)), Err(CaptureError::LinkType(113)));
        let whole = pcap_file(u32::to_le_bytes, 1, &frames);
        assert_eq!(read(&whole[..whole.len() - 1]), Err(CaptureError::Truncated));
        assert_eq!(read(&whole[..23]), Err(CaptureError::Truncated));
    }

    #[test]
    fn a_simple_packet_of_a_big_endian_section() {
        let word = |word: u32| word.to_be_bytes().to_vec();
        let block = |kind: u32, body: Vec<u8>| {
            let len = body.len() as u32 + 12;
            [word(kind), word(len), body, word(len)].concat()
        };
        let section = block(0x0a0d_0d0a, [word(0x1a2b_3c4d), word(1 << 16), vec![255; 8]].concat());
        let interface = block(1, [vec![0, 1, 0, 0], word(0)].concat());
        let packet = block(3, [word(5), b"hello\0\0\0".to_vec()].concat());
        let file = [section, block(0xbad, vec![0; 4]), interface, packet].concat();
        assert_eq!(read(&file), Ok(vec![(b"hello".to_vec(), 5)]));
    }

    #[test]
    fn what_is_no_capture() {
        let mut section = Vec::new();
        pcapng::section_header(&mut section, "weft");
        let mut orphan = section.clone();
        pcapng::packet(&mut orphan, 0, 0, b"x", 1);
        let mut length = section.clone();
        length.extend([6, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0]);
        for (file, expected) in [
            (&b""[..], Err(CaptureError::Unknown)),
            (b"hello world", Err(CaptureError::Unknown)),
            (&[0x0a, 0x0d, 0x0d, 0x0a], Err(CaptureError::Truncated)),
            (&section[..], Ok(vec![])),
            (&orphan, Err(CaptureError::Interface)),
            (&length, Err(CaptureError::Length)),
        ] {
            assert_eq!(read(file), expected, "{file:?}");
        }
    }

    proptest! {
        #[test]
        fn what_we_write_is_read(all in vec((vec(any::<u8>(), 0..200), 0..65_536u32), 0..9)) {
            let mut file = Vec::new();
            pcapng::section_header(&mut file, "weft");
            pcapng::interface(&mut file, "web-0", 0);
            for (bytes, len) in &all {
                pcapng::packet(&mut file, 0, 7, bytes, *len);
                pcapng::statistics(&mut file, 0, 7, 1);
            }
            prop_assert_eq!(read(&file), Ok(all));
        }

        #[test]
        fn any_bytes_are_read_to_an_end(
            bytes in vec(any::<u8>(), 0..300),
            start in prop::sample::select(vec![&b""[..], b"\x0a\x0d\x0d\x0a", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4"]),
        ) {
            let file = [start, &bytes].concat();
            if let Ok(frames) = frames(&file) {
                prop_assert!(frames.count() <= file.len());
            }
        }
    }
}
