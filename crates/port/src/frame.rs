use weft_wire::Offload;

use crate::guest_memory::{GuestMemory, Piece, View};

/// How much of a frame is copied before anything is decided on it: enough for Ethernet with two tags, IPv6
/// and TCP with all options.
pub const HEAD_BYTES: usize = 128;

/// An Ethernet header; less is no frame.
pub const MIN_FRAME_BYTES: usize = 14;

/// The largest IP packet behind an Ethernet header with one tag: what a segmentation offload can hold.
pub const MAX_FRAME_BYTES: usize = 18 + 65_535;

/// A frame in its sender's memory, without preamble and FCS.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    head: &'a [u8],
    tail: Tail<'a>,
    offload: Offload,
}

/// What follows a frame's head.
#[derive(Clone, Copy, Debug)]
enum Tail<'a> {
    /// In our own memory.
    Bytes(&'a [u8]),
    /// In a guest's, where it may change at any time.
    Guest { memory: &'a GuestMemory, pieces: &'a [Piece], len: usize },
}

impl Tail<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Guest { len, .. } => *len,
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> Frame<'a> {
    /// A frame that lies in one piece in our own memory.
    pub fn new(bytes: &'a [u8], offload: Offload) -> Self {
        let (head, tail) = bytes.split_at(bytes.len().min(HEAD_BYTES));
        Self { head, tail: Tail::Bytes(tail), offload }
    }

    /// A frame whose head was copied and whose rest lies in a guest's memory, at `pieces`.
    #[inline]
    pub(crate) fn in_guest(
        head: &'a [u8],
        memory: &'a GuestMemory,
        pieces: &'a [Piece],
        len: usize,
        offload: Offload,
    ) -> Self {
        Self { head, tail: Tail::Guest { memory, pieces, len }, offload }
    }

    /// The private copy of the first [`HEAD_BYTES`], or of all when there are fewer. Decide on this only.
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// All bytes of the frame.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// What is left to do on it.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The frame's bytes in two parts, where they lie in our own memory: for who can write them without a copy.
    pub(crate) fn slices(&self) -> Option<[&'a [u8]; 2]> {
        match self.tail {
            Tail::Bytes(bytes) => Some([self.head, bytes]),
            Tail::Guest { len: 0, .. } => Some([self.head, &[]]),
            Tail::Guest { .. } => None,
        }
    }

    /// Appends the frame's bytes to `buffer`.
    pub fn append_to(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.head);
        match self.tail {
            Tail::Bytes(bytes) => buffer.extend_from_slice(bytes),
            Tail::Guest { memory, pieces, .. } => {
                for piece in pieces {
                    let start = buffer.len();
                    buffer.resize(start + piece.len(), 0);
                    memory.view(*piece).read(&mut buffer[start..]);
                }
            }
        }
    }

    /// Copies the frame's bytes to `room`, which is as long as the frame.
    pub(crate) fn copy_to(&self, room: &mut [u8]) {
        let (head, mut rest) = room.split_at_mut(self.head.len());
        head.copy_from_slice(self.head);
        match self.tail {
            Tail::Bytes(bytes) => rest.copy_from_slice(bytes),
            Tail::Guest { memory, pieces, .. } => {
                for piece in pieces {
                    let (now, later) = rest.split_at_mut(piece.len());
                    memory.view(*piece).read(now);
                    rest = later;
                }
            }
        }
    }

    /// Reads the frame from its start, into guest memory for example.
    pub(crate) fn cursor(&self) -> FrameCursor<'a> {
        FrameCursor { head: self.head, tail: self.tail, skipped: 0 }
    }
}

/// A place in a frame.
pub(crate) struct FrameCursor<'a> {
    head: &'a [u8],
    tail: Tail<'a>,
    /// Bytes of the tail's first piece that were read already.
    skipped: usize,
}

impl FrameCursor<'_> {
    /// Fills `target` with the next bytes; returns how many there were.
    #[inline]
    pub(crate) fn copy_to(&mut self, target: View<'_>) -> usize {
        let mut copied = self.head.len().min(target.len());
        let (now, later) = self.head.split_at(copied);
        target.write(now);
        self.head = later;
        while copied < target.len() && !self.tail.is_empty() {
            match self.copy_piece(target.skip(copied)) {
                0 => break,
                count => copied += count,
            }
        }
        copied
    }

    /// Copies from the tail's first piece; 0 at the end.
    fn copy_piece(&mut self, room: View<'_>) -> usize {
        match &mut self.tail {
            Tail::Bytes(bytes) => {
                let (now, later) = bytes.split_at(bytes.len().min(room.len()));
                room.write(now);
                *bytes = later;
                now.len()
            }
            Tail::Guest { memory, pieces, .. } => {
                let Some((piece, later)) = pieces.split_first() else { return 0 };
                let count = memory.view(*piece).skip(self.skipped).copy_to(room);
                self.skipped += count;
                if self.skipped == piece.len() {
                    *pieces = later;
                    self.skipped = 0;
                }
                count
            }
        }
    }
}
