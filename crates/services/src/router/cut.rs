//! Cutting a packet that is larger than the next network takes (RFC 791, section 3.2).

use weft_wire::{checksum, ethernet, ipv4};

/// In the word with the offset: more pieces follow.
const MORE_FRAGMENTS: u16 = 0x2000;
/// In the first byte of an option: it goes into every piece.
const COPIED: u8 = 0x80;
/// An option that says nothing.
const NO_OPERATION: u8 = 1;

/// Hands the pieces of a frame's packet to `emit`: each a frame whose packet has at most `mtu` bytes. Nothing is left to
/// do on the frame, and its IPv4 header is right.
pub(super) fn cut(frame: &[u8], mtu: u16, emit: &mut dyn FnMut(Vec<u8>)) {
    let Some((link, packet)) = frame.split_at_checked(ethernet::HEADER_BYTES) else { return };
    let Ok(packet) = ipv4::parse(packet) else { return };
    let room = usize::from(mtu).saturating_sub(packet.header.len());
    if packet.payload.len() <= room {
        return emit(frame.to_vec());
    }
    let piece_bytes = (room & !7).max(8);
    let count = packet.payload.len().div_ceil(piece_bytes);
    for (index, piece) in packet.payload.chunks(piece_bytes).enumerate() {
        let at = usize::from(packet.fragment_offset) + index * piece_bytes;
        let more = if index + 1 < count || packet.more_fragments { MORE_FRAGMENTS } else { 0 };
        let mut out = Vec::with_capacity(link.len() + packet.header.len() + piece.len());
        out.extend_from_slice(link);
        out.extend_from_slice(packet.header);
        let header = &mut out[link.len()..];
        if index > 0 {
            silence_options(&mut header[ipv4::HEADER_BYTES..]);
        }
        header[2..4].copy_from_slice(&((packet.header.len() + piece.len()) as u16).to_be_bytes());
        header[6..8].copy_from_slice(&(more | (at / 8) as u16).to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend_from_slice(piece);
        emit(out);
    }
}

/// Takes out the options that only the first piece has.
fn silence_options(mut options: &mut [u8]) {
    while let [kind, rest @ ..] = options {
        let len = match (*kind, rest.first()) {
            (0, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(len)) => usize::from(*len).max(2),
            (_, None) => 1,
        };
        let Some((option, behind)) = std::mem::take(&mut options).split_at_mut_checked(len) else { return };
        if option[0] & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = behind;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use weft_types::MacAddr;
    use weft_wire::{EtherType, Protocol};

    use super::*;

    proptest! {
        /// Pieces fit, say where they belong, and are the packet when they are put together.
        #[test]
        fn pieces_are_the_packet(
            payload in vec(any::<u8>(), 1..4000), mtu in 68..2000u16, options in 0..4usize, first in 0..100u16, more: bool,
        ) {
            let mut frame = Vec::new();
            ethernet::emit(&mut frame, MacAddr::BROADCAST, MacAddr::ZERO, EtherType::IPV4);
            let payload_len = (payload.len() + options * 4) as u16;
            let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 1, 1].into());
            let repr =
                ipv4::Repr { src, dst, protocol: Protocol::UDP, ttl: 9, ident: 7, dont_fragment: false, payload_len };
            let mut header = repr.header().to_vec();
            header[0] += options as u8;
            for option in 0..options {
                header.extend([if option % 2 == 0 { 0x94 } else { 7 }, 4, 0, 0]);
            }
            let word = first | if more { MORE_FRAGMENTS } else { 0 };
            header[6..8].copy_from_slice(&word.to_be_bytes());
            header[10..12].fill(0);
            let sum = checksum::checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(&header);
            frame.extend(&payload);
            let mut together: Vec<u8> = Vec::new();
            let mut ended = false;
            cut(&frame, mtu, &mut |piece| {
                let packet = ipv4::parse(&piece[14..]).unwrap();
                assert!(packet.bytes.len() <= usize::from(mtu) && packet.bytes.len() + 14 == piece.len() && !ended);
                assert_eq!(usize::from(packet.fragment_offset), usize::from(first) * 8 + together.len());
                assert_eq!((packet.ident, packet.ttl, packet.src, packet.dst), (7, 9, src, dst));
                assert_eq!(packet.header.len(), header.len());
                together.extend(packet.payload);
                ended = !packet.more_fragments;
            });
            prop_assert_eq!(together, payload);
            prop_assert_eq!(ended, !more);
        }

        #[test]
        fn any_frame_is_survived(frame in vec(any::<u8>(), 0..200), mtu: u16) {
            cut(&frame, mtu, &mut |_| ());
        }
    }
}
