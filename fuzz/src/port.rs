//! What peers of ports send.

use weft_port::{FrameSplitter, MAX_FRAME_BYTES, MIN_FRAME_BYTES, probe_guest};

/// A stream is cut into the same frames, whatever the pieces that it comes in. The first byte says how long
/// the pieces are.
pub(crate) fn frame_stream(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else { return };
    let cut = |piece: usize| {
        let (mut splitter, mut frames, mut rest) = (FrameSplitter::default(), Vec::new(), stream);
        loop {
            match splitter.cut() {
                Ok(Some(place)) => {
                    assert!((MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&place.len()));
                    frames.push(splitter.bytes(place).to_vec());
                }
                Ok(None) if rest.is_empty() => return (frames, None),
                Ok(None) => {
                    let room = splitter.room();
                    let count = piece.min(rest.len()).min(room.len());
                    assert!(count > 0, "there is always room for the frame that is being read");
                    room[..count].copy_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    splitter.fill(count);
                }
                Err(error) => return (frames, Some(error)),
            }
        }
    };
    assert_eq!(cut(usize::from(piece).max(1)), cut(stream.len().max(1)));
}

/// A guest's memory, rings included, is any bytes.
pub(crate) fn guest_rings(data: &[u8]) {
    probe_guest(data);
}
