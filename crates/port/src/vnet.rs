//! Between a frame's virtio-net header and what is left to do on it.

use weft_wire::segment::validate_offload;
use weft_wire::virtio_net::{Author, HEADER_BYTES, VirtioNetHeader};
use weft_wire::{Csum, GsoKind, Offload, tcp, udp};

/// What `header` asks for on a frame of `frame_len` bytes that starts with `head`; `None` when that contradicts
/// the frame, or would change what decisions rest on.
#[inline(always)] // or what it returns would go through memory
pub(crate) fn read_header(
    header: &[u8; HEADER_BYTES],
    author: Author,
    head: &[u8],
    frame_len: usize,
) -> Option<Offload> {
    if asks_for_nothing(header) {
        return Some(Offload::default());
    }
    read_work(header, author, head, frame_len)
}

/// No flag, no segmentation: so it is with nearly every frame.
#[inline]
pub(crate) fn asks_for_nothing(header: &[u8; HEADER_BYTES]) -> bool {
    header[..2] == [0, 0]
}

/// [`read_header`] for a header that asks for something.
fn read_work(header: &[u8; HEADER_BYTES], author: Author, head: &[u8], frame_len: usize) -> Option<Offload> {
    let (header, _) = VirtioNetHeader::parse(header).ok()?;
    let offload = header.offload(author).ok()?;
    if offload != Offload::default() {
        validate_offload(head, frame_len, &offload).ok()?;
    }
    Some(offload)
}

/// Whether a frame is what `offload` says that it is.
pub(crate) fn is_sound(frame: &[u8], offload: &Offload) -> bool {
    *offload == Offload::default() || validate_offload(frame, frame.len(), offload).is_ok()
}

/// The header for a frame that starts with `head`, spread over `num_buffers` buffers of the receiver.
#[inline]
pub(crate) fn write_header(offload: Offload, head: &[u8], num_buffers: u16) -> [u8; HEADER_BYTES] {
    if offload == Offload::default() {
        // In the pieces in which it is copied on: what is written in smaller ones makes the copy wait.
        let mut header = [0; HEADER_BYTES];
        header[8..].copy_from_slice(&(u32::from(num_buffers) << 16).to_le_bytes());
        return header;
    }
    write_work(offload, head, num_buffers)
}

/// [`write_header`] for a frame on which something is left to do.
fn write_work(offload: Offload, head: &[u8], num_buffers: u16) -> [u8; HEADER_BYTES] {
    let headers_len = match (offload.gso, offload.csum) {
        (Some(gso), Csum::Partial { start, .. }) => {
            let start = usize::from(start);
            start
                + match gso.kind {
                    GsoKind::UdpL4 => udp::HEADER_BYTES,
                    GsoKind::Tcp4 { .. } | GsoKind::Tcp6 { .. } => tcp_header_bytes(&head[start.min(head.len())..]),
                }
        }
        _ => 0,
    };
    VirtioNetHeader::new(offload, u16::try_from(headers_len).unwrap_or(0), num_buffers).emit()
}

/// The length of a TCP header, going by its data offset field; the least that it can be when that is cut off.
fn tcp_header_bytes(segment: &[u8]) -> usize {
    let words = segment.get(12).map_or(0, |byte| usize::from(byte >> 4));
    (words * 4).max(tcp::HEADER_BYTES)
}

#[cfg(test)]
mod tests {
    use weft_testkit::{mac, tcp4};

    use super::*;

    #[test]
    fn headers_are_judged_by_their_frames() {
        let frame = tcp4(mac(2), mac(1), [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), &[0; 3000]);
        let head = &frame[..128];
        let tso = [1, 1, 0, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];
        let offload = read_header(&tso, Author::Driver, head, frame.len()).expect("what Linux sends");
        let mut written = tso;
        (written[2], written[10]) = (54, 3); // 14 + 20 + 20 bytes of headers, 3 buffers
        assert_eq!(write_header(offload, head, 3), written);

        for (what, header) in [
            ("a checksum in the destination address", [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]),
            ("a checksum behind the end", [1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0, 0, 0]),
            ("segments of another protocol", [1, 5, 0, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]),
            ("segments of nothing", [1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]),
        ] {
            assert_eq!(read_header(&header, Author::Driver, head, frame.len()), None, "{what}");
        }
    }
}
