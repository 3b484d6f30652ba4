//! Putting VLAN tags on frames and taking them off (IEEE 802.1Q, clause 6.9.2).

use crate::ethernet::{HEADER_BYTES, Header, TAG_BYTES, Tag};
use crate::{Csum, EtherType, Layer, Malformed, Offload, Problem};

/// What is done to a frame's outermost tag on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TagEdit {
    /// Nothing.
    #[default]
    Keep,
    /// It is taken off.
    Pop,
    /// A customer tag with this control word (priority, drop eligibility, VLAN) is put before what is there.
    Push(u16),
    /// It stays, with this control word.
    Retag(u16),
}

/// A frame's new start: these bytes stand for the first [`replaces`](Self::replaces) of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    bytes: [u8; HEADER_BYTES + TAG_BYTES],
    len: usize,
    /// How many bytes of the frame they stand for.
    pub replaces: usize,
}

impl Start {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl TagEdit {
    /// The new start of a frame that starts with `head`; what follows stays as it is, so nothing has to be moved.
    ///
    /// # Errors
    /// When the frame ends inside its header, or when there is no tag to take off or to change.
    pub fn start(self, head: &[u8]) -> Result<Start, Malformed> {
        let (header, _) = Header::parse(head)?;
        let changed = match (self, header.tag) {
            (Self::Keep, tag) => tag,
            (Self::Pop, Some(_)) => None,
            (Self::Retag(control), Some(tag)) => Some(Tag { control, ..tag }),
            (Self::Push(control), tag) => {
                // The tag that was there is what now follows, so it is left where it is.
                let ethertype = tag.map_or(header.ethertype, |tag| tag.kind);
                let tag = Some(Tag { kind: EtherType::C_TAG, control });
                return Ok(Start::new(&Header { tag, ethertype, ..header }, HEADER_BYTES));
            }
            (Self::Pop | Self::Retag(_), None) => return Err(Layer::Vlan.is(Problem::Mismatch)),
        };
        Ok(Start::new(&Header { tag: changed, ..header }, header.len_bytes()))
    }

    /// What is left to do on the frame once it was changed: its places have moved.
    ///
    /// # Errors
    /// When the sum starts inside the tag that is taken off.
    pub fn offload(self, offload: Offload) -> Result<Offload, Malformed> {
        let Csum::Partial { start, offset } = offload.csum else { return Ok(offload) };
        const TAG: u16 = TAG_BYTES as u16;
        let moved = match self {
            Self::Keep | Self::Retag(_) => Some(start),
            Self::Push(_) => start.checked_add(TAG),
            Self::Pop => start.checked_sub(TAG).filter(|start| usize::from(*start) >= HEADER_BYTES),
        };
        let start = moved.ok_or(Layer::Offload.is(Problem::Mismatch))?;
        Ok(Offload { csum: Csum::Partial { start, offset }, ..offload })
    }

    /// Changes a whole frame.
    ///
    /// # Errors
    /// As [`start`](Self::start); then nothing was changed.
    pub fn apply(self, frame: &mut Vec<u8>) -> Result<(), Malformed> {
        if self != Self::Keep {
            let start = self.start(frame)?;
            frame.splice(..start.replaces, start.bytes().iter().copied());
        }
        Ok(())
    }
}

impl Start {
    fn new(header: &Header, replaces: usize) -> Self {
        let mut bytes = [0; HEADER_BYTES + TAG_BYTES];
        bytes[..6].copy_from_slice(&header.dst.octets());
        bytes[6..12].copy_from_slice(&header.src.octets());
        let mut len = 12;
        let mut put = |word: u16| {
            bytes[len..len + 2].copy_from_slice(&word.to_be_bytes());
            len += 2;
        };
        if let Some(tag) = header.tag {
            put(tag.kind.0);
            put(tag.control);
        }
        put(header.ethertype.0);
        Self { bytes, len, replaces }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::Headers;
    use crate::segment::segment;
    use crate::{Gso, GsoKind};

    fn check(edit: TagEdit, frame: &[u8], expected: &[u8]) {
        let mut edited = frame.to_vec();
        edit.apply(&mut edited).unwrap();
        assert_eq!(edited, expected, "{edit:?}");
    }

    #[test]
    fn tags_come_and_go() {
        let with = |tags: &[u8]| [&[2; 12][..], tags, &[8, 0, 1, 2, 3]].concat();
        let (plain, tagged) = (with(&[]), with(&[0x81, 0, 0x60, 10]));
        let double = with(&[0x81, 0, 0, 7, 0x81, 0, 0x60, 10]);
        let service = with(&[0x88, 0xa8, 0, 7]);
        check(TagEdit::Keep, &tagged, &tagged);
        check(TagEdit::Pop, &tagged, &plain);
        check(TagEdit::Push(0x600a), &plain, &tagged);
        check(TagEdit::Push(7), &tagged, &double);
        check(TagEdit::Pop, &double, &tagged);
        check(TagEdit::Retag(0x600a), &with(&[0x81, 0, 0x60, 0]), &tagged);
        check(TagEdit::Retag(7), &with(&[0x88, 0xa8, 0, 0]), &service);
        for edit in [TagEdit::Pop, TagEdit::Retag(1)] {
            assert_eq!(edit.apply(&mut plain.clone()).unwrap_err().to_string(), "vlan-mismatch");
        }
    }

    /// A TCP segment of 3000 bytes payload over IPv4 that two frames stand for.
    fn large() -> (Vec<u8>, Offload) {
        let mut frame = [&[2; 12][..], &[8, 0]].concat();
        let repr = crate::ipv4::Repr {
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            protocol: crate::Protocol::TCP,
            ttl: 64,
            ident: 1,
            dont_fragment: true,
            payload_len: 3020,
        };
        repr.emit(&mut frame);
        frame.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        frame.extend((0..3000).map(|byte| byte as u8));
        let csum = Csum::Partial { start: 34, offset: 16 };
        (frame, Offload { csum, gso: Some(Gso { kind: GsoKind::Tcp4 { ecn: false }, size: 1460 }) })
    }

    #[test]
    fn tagging_and_segmenting_commute() {
        let (frame, offload) = large();
        let mut expected = Vec::new();
        segment(&frame, offload, &mut |piece| expected.push(piece.to_vec())).unwrap();
        let edit = TagEdit::Push(0x200a);
        expected.iter_mut().for_each(|piece| edit.apply(piece).unwrap());

        let mut tagged = frame.clone();
        edit.apply(&mut tagged).unwrap();
        let mut pieces = Vec::new();
        segment(&tagged, edit.offload(offload).unwrap(), &mut |piece| pieces.push(piece.to_vec())).unwrap();
        assert_eq!(pieces, expected);

        let back = TagEdit::Pop.offload(edit.offload(offload).unwrap());
        assert_eq!(back, Ok(offload));
    }

    #[test]
    fn sums_that_start_in_a_tag_are_refused() {
        let offload = |start| Offload { csum: Csum::Partial { start, offset: 6 }, gso: None };
        assert!(TagEdit::Pop.offload(offload(17)).is_err() && TagEdit::Pop.offload(offload(18)).is_ok());
        assert!(TagEdit::Push(1).offload(offload(u16::MAX)).is_err());
    }

    proptest! {
        #[test]
        fn what_was_pushed_can_be_popped(frame in vec(any::<u8>(), 18..60), control: u16) {
            let mut edited = frame.clone();
            TagEdit::Push(control).apply(&mut edited).unwrap();
            let tag = Headers::parse(&edited, edited.len()).unwrap().link.tag;
            prop_assert_eq!(tag, Some(Tag { kind: EtherType::C_TAG, control }));
            TagEdit::Pop.apply(&mut edited).unwrap();
            prop_assert_eq!(edited, frame);
        }
    }
}
