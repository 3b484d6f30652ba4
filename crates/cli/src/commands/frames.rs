//! A frame that a user shows us: in hexadecimal, or in a file that was captured.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use weft_wire::capture_file::{self, Captured};

use crate::failure::{Failure, Result};

/// More of a file is not read.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The longest frame that there can be: a large segment with its headers.
const MAX_FRAME_BYTES: u32 = 65_553;

/// The frame, from its destination MAC address on; of a file, the one of this number, from 1.
pub(crate) fn read(text: &str, number: usize) -> Result<Vec<u8>> {
    if let Some(bytes) = from_hex(text).filter(|_| !Path::new(text).exists()) {
        return Ok(bytes);
    }
    let cannot = |why: &dyn std::fmt::Display, hint: &str| Failure::new("bad-frame", format!("{text}: {why}"), hint);
    let mut file = Vec::new();
    let read = File::open(text).and_then(|source| source.take(MAX_FILE_BYTES).read_to_end(&mut file));
    read.map_err(|error| cannot(&error, "name a file of tcpdump's or Wireshark's, or write the frame in hexadecimal"))?;
    let hint = "save it as pcapng or pcap";
    let mut frames = capture_file::frames(&file).map_err(|error| cannot(&error, hint))?;
    match frames.by_ref().take(number.max(1)).last() {
        Some(Ok(Captured { bytes, len })) if len <= MAX_FRAME_BYTES => {
            // What was not kept is not looked at either, but the frame must be as long as its headers say.
            let mut frame = bytes.to_vec();
            frame.resize(frame.len().max(len as usize), 0);
            Ok(frame)
        }
        Some(Ok(Captured { len, .. })) => Err(cannot(&format!("a frame of {len} bytes cannot be"), "")),
        Some(Err(error)) => Err(cannot(&error, hint)),
        None => Err(cannot(&"there is no frame in it", "")),
    }
}

/// Bytes in hexadecimal, as tools print them: with or without colons and spaces between.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !matches!(c, ':' | '-' | ' ' | '\n'))
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits.filter(|digits| !digits.is_empty())?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_as_tools_print_it() {
        for text in ["0200ff", "02:00:FF", "02 00 ff\n", "02-00-ff"] {
            assert_eq!(from_hex(text), Some(vec![2, 0, 255]), "{text}");
        }
        for bad in ["", "020", "frame", "web.pcap", "0x02"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_frame_of_a_file() {
        let mut file = Vec::new();
        weft_wire::pcapng::section_header(&mut file, "test");
        weft_wire::pcapng::interface(&mut file, "web-0", 2);
        weft_wire::pcapng::packet(&mut file, 0, 0, &[1, 2], 4);
        weft_wire::pcapng::packet(&mut file, 0, 0, &[3, 4], 2);
        weft_wire::pcapng::packet(&mut file, 0, 0, &[], 70_000);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.pcapng");
        std::fs::write(&path, file).unwrap();
        let frame = |number| read(path.to_str().unwrap(), number).map_err(|failure| format!("{failure:?}"));
        assert_eq!(frame(1), Ok(vec![1, 2, 0, 0]));
        assert_eq!(frame(2), Ok(vec![3, 4]));
        assert!(frame(3).unwrap_err().contains("70000 bytes cannot be"));
    }
}
