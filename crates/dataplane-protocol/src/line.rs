use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest line that either side takes, in bytes; far more than a thousand VMs need.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// A line that cannot be used; the connection that it came by ends.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// More bytes than [`MAX_LINE_BYTES`] without an end of line.
    #[error("a line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not the JSON that was expected.
    #[error("a line is not understood")]
    Malformed(#[source] serde_json::Error),
}

/// Cuts a byte stream into lines of JSON; holds at most [`MAX_LINE_BYTES`].
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// How much of `bytes` is known to hold no end of line.
    searched: usize,
}

impl LineBuffer {
    /// Takes what was read from the stream.
    ///
    /// # Errors
    /// [`LineError::TooLong`] when a line does not end.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        if self.bytes.len() + bytes.len() > MAX_LINE_BYTES {
            return Err(LineError::TooLong);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next complete line's value, if there is one.
    ///
    /// # Errors
    /// [`LineError::Malformed`] when the line is not a `T`; the line is gone then.
    pub fn pop<T: DeserializeOwned>(&mut self) -> Option<Result<T, LineError>> {
        let Some(length) = self.bytes[self.searched..].iter().position(|&b| b == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let end = self.searched + length;
        let value = serde_json::from_slice(&self.bytes[..end]).map_err(LineError::Malformed);
        self.bytes.drain(..=end);
        self.searched = 0;
        if self.bytes.is_empty() {
            self.bytes = Vec::new(); // a large configuration is rare: do not keep its room
        }
        Some(value)
    }

    /// Whether a line has begun and not ended.
    pub fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }
}

/// `value` as one line, its end included.
///
/// # Errors
/// When `value` has no JSON form or is longer than [`MAX_LINE_BYTES`].
pub fn to_line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    if line.len() > MAX_LINE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, LineError::TooLong));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_pieces() {
        let mut lines = LineBuffer::default();
        for piece in ["[1", ",2]", "\n3", "\n", "x\n4\n"] {
            lines.push(piece.as_bytes()).unwrap();
        }
        assert_eq!(lines.pop::<Vec<u32>>().unwrap().unwrap(), [1, 2]);
        assert_eq!(lines.pop::<u32>().unwrap().unwrap(), 3);
        assert!(matches!(lines.pop::<u32>(), Some(Err(LineError::Malformed(_)))));
        assert_eq!(lines.pop::<u32>().unwrap().unwrap(), 4);
        assert!(lines.pop::<u32>().is_none() && !lines.is_partial());
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = LineBuffer::default();
        let mebibyte = vec![b' '; 1 << 20];
        assert!((0..16).all(|_| lines.push(&mebibyte).is_ok()));
        assert!(matches!(lines.push(b" "), Err(LineError::TooLong)));
    }
}
