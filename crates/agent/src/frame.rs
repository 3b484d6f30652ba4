//! Frames in a byte stream that may begin and end anywhere.
//!
//! A frame is a message with its CRC-32 (IEEE 802.3) in front, byte-stuffed so that it contains no zero (COBS: Cheshire
//! and Baker, "Consistent Overhead Byte Stuffing", 1999), and a zero byte at its end. Whoever joins in the middle
//! drops bytes up to the next zero; the checksum catches halves that happen to look whole.

use crate::message::MESSAGE_BYTES_MAX;

const CRC_BYTES: usize = 4;

/// The most that stuffing and checksum can make of a message, without the zero at the end.
const FRAME_BYTES_MAX: usize = {
    let raw = CRC_BYTES + MESSAGE_BYTES_MAX;
    raw + raw / 254 + 1
};

/// Ends whatever frame may lie unfinished in the stream. The first byte that a new speaker sends.
pub const DELIMITER: u8 = 0;

/// Appends `message`, which is not empty, framed, to `out`.
pub fn encode(message: &[u8], out: &mut Vec<u8>) {
    let crc = crc32(message).to_be_bytes();
    let mut code_at = out.len();
    out.push(0);
    for &byte in crc.iter().chain(message) {
        // A code byte counts itself and the bytes up to the next zero, which it stands for; 255 stands for no zero.
        if byte != DELIMITER {
            out.push(byte);
        }
        let code = out.len() - code_at;
        if byte == DELIMITER || code == 0xFF {
            out[code_at] = code as u8;
            code_at = out.len();
            out.push(0);
        }
    }
    out[code_at] = (out.len() - code_at) as u8;
    out.push(DELIMITER);
}

/// Finds messages in a stream, in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The frame so far, still stuffed.
    frame: Vec<u8>,
    /// The frame has become too long to be one: skip to its end.
    overlong: bool,
    /// See [`Decoder::damaged`].
    damaged: u64,
}

impl Decoder {
    /// Takes bytes from the front of `input` until a whole message is found; `None` when `input` is used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Vec<u8>> {
        while let Some(end) = input.iter().position(|&byte| byte == DELIMITER) {
            self.push(&input[..end]);
            *input = &input[end + 1..];
            if let Some(message) = self.finish() {
                return Some(message);
            }
        }
        self.push(input);
        *input = &[];
        None
    }

    /// How many frames were dropped because they were cut, damaged or too long.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn push(&mut self, bytes: &[u8]) {
        self.overlong |= self.frame.len() + bytes.len() > FRAME_BYTES_MAX;
        if !self.overlong {
            self.frame.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self) -> Option<Vec<u8>> {
        let frame = std::mem::take(&mut self.frame);
        let overlong = std::mem::take(&mut self.overlong);
        if frame.is_empty() && !overlong {
            return None; // two delimiters in a row
        }
        let message = (!overlong).then_some(frame).and_then(unstuff).and_then(check);
        self.damaged += u64::from(message.is_none());
        message
    }
}

/// Undoes the stuffing, in place.
fn unstuff(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    let (mut read, mut write) = (0, 0);
    while read < frame.len() {
        let code = usize::from(frame[read]);
        let end = read.checked_add(code).filter(|&end| code > 0 && end <= frame.len())?;
        frame.copy_within(read + 1..end, write);
        write += code - 1;
        if code < 0xFF && end < frame.len() {
            frame[write] = DELIMITER;
            write += 1;
        }
        read = end;
    }
    frame.truncate(write);
    Some(frame)
}

/// Removes the checksum, if it is right. Nothing has the checksum zero, as a torn frame's last zeros would say, and is
/// no message.
fn check(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    let (crc, message) = frame.split_first_chunk::<CRC_BYTES>()?;
    if message.is_empty() || u32::from_be_bytes(*crc) != crc32(message) {
        return None;
    }
    frame.drain(..CRC_BYTES);
    Some(frame)
}

/// IEEE 802.3's CRC-32, a byte at a time.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < table.len() {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (0xEDB8_8320 * (value & 1));
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(message, &mut out);
        out
    }

    fn decoded(mut stream: &[u8]) -> Vec<Vec<u8>> {
        let mut decoder = Decoder::default();
        std::iter::from_fn(|| decoder.next(&mut stream)).collect()
    }

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn lengths_around_every_boundary_survive() {
        for len in [1, 249, 250, 251, 253, 254, 255, 504, 505, 1000, MESSAGE_BYTES_MAX] {
            for byte in [0, 1, 0xFF] {
                let message = vec![byte; len];
                let stream = encoded(&message);
                assert_eq!(stream.iter().position(|&b| b == DELIMITER), Some(stream.len() - 1));
                assert!(stream.len() - 1 <= FRAME_BYTES_MAX);
                assert_eq!(decoded(&stream), [message]);
            }
        }
    }

    #[test]
    fn a_frame_without_end_costs_no_memory() {
        let mut decoder = Decoder::default();
        for _ in 0..100 {
            assert_eq!(decoder.next(&mut &[7_u8; 65536][..]), None);
            assert!(decoder.frame.capacity() <= 4 * FRAME_BYTES_MAX);
        }
        assert_eq!(decoder.next(&mut &[0_u8][..]), None);
        assert_eq!(decoder.damaged(), 1);
        assert_eq!(decoder.next(&mut &encoded(b"on we go")[..]), Some(b"on we go".to_vec()));
    }

    #[test]
    fn the_end_of_a_torn_frame_is_no_message() {
        let mut stream = encoded(&[7, 0, 0, 0, 0, 0, 0]);
        let torn = stream.iter().position(|&code| code == 1).unwrap();
        stream[torn] = DELIMITER;
        assert!(stream.ends_with(&[1, 1, 1, 1, 1, DELIMITER]), "which looks like four zeros, the checksum of nothing");
        assert_eq!(decoded(&stream), [b""; 0]);
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 1..600)
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_messages(
            messages in prop::collection::vec(message(), 0..5),
            cuts in prop::collection::vec(1_usize..300, 1..20),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| encoded(message)).collect();
            let (mut decoder, mut found, mut rest) = (Decoder::default(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                let (mut piece, tail) = rest.split_at((*cut).min(rest.len()));
                found.extend(std::iter::from_fn(|| decoder.next(&mut piece)));
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn after_garbage_and_a_cut_frame_the_next_one_is_found(
            garbage in prop::collection::vec(any::<u8>(), 0..300),
            lost in message(),
            cut in any::<prop::sample::Index>(),
            message in message(),
        ) {
            let mut stream = garbage;
            let lost = encoded(&lost);
            stream.extend(&lost[..cut.index(lost.len())]);
            stream.push(DELIMITER);
            stream.extend(encoded(&message));
            prop_assert_eq!(decoded(&stream).pop(), Some(message));
        }

        #[test]
        fn a_flipped_bit_loses_its_frame_and_no_other(message in message(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut stream = encoded(&message);
            let at = at.index(stream.len() - 1);
            stream[at] ^= 1_u8 << bit;
            stream.extend(encoded(b"next"));
            prop_assert_eq!(decoded(&stream), [b"next"]);
        }
    }
}
