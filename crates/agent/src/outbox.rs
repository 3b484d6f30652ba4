//! Bytes that wait until a stream that never blocks takes them.

use std::io::{self, ErrorKind, Write};

use crate::frame;

/// How much may have been sent before what is left is moved to the front.
const COMPACT_BYTES: usize = 64 << 10;

/// A queue in front of a stream. It has no limit of its own: whoever fills it looks at [`Outbox::len`] first.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where to append.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Forgets all that waits, and ends the frame of which a part may have left already.
    pub fn interrupt(&mut self) {
        self.bytes.clear();
        self.sent = 0;
        self.bytes.push(frame::DELIMITER);
    }

    /// Hands over as much as `stream` takes without blocking.
    pub fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        // Not after each write: moving what is left costs more than keeping what was sent.
        if self.is_empty() || self.sent >= COMPACT_BYTES {
            self.bytes.drain(..std::mem::take(&mut self.sent));
        }
        Ok(())
    }
}
