//! One session between a client and Weft, over a stream of its own (a Unix socket, an upgraded HTTP connection).
//!
//! A frame is one byte of kind, four of length (big-endian), and at most [`PAYLOAD_BYTES_MAX`] of payload. The client
//! ends the session by closing the stream, which kills the command. The server ends it with [`ServerFrame::Exit`] or
//! [`ServerFrame::Error`] and closes the stream after it.
//!
//! ```
//! use weft_agent::session::{ClientFrame, Decoder, Frame};
//!
//! let mut stream = Vec::new();
//! ClientFrame::Stdin(b"hello".to_vec()).encode(&mut stream);
//!
//! let mut decoder = Decoder::<ClientFrame>::default();
//! decoder.push(&stream);
//! assert_eq!(decoder.next()?, Some(ClientFrame::Stdin(b"hello".to_vec())));
//! assert_eq!(decoder.next()?, None);
//! # Ok::<(), weft_agent::message::DecodeError>(())
//! ```

use std::io::{self, Read, Write};
use std::marker::PhantomData;

use crate::codec::{Reader, Writer};
use crate::message::DecodeError;

pub use crate::message::{ExitStatus, Size};

/// The longest payload of a frame, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Kind and length.
const HEADER_BYTES: usize = 5;

/// What the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// Input for the command.
    Stdin(Vec<u8>),
    /// The command's input ends here.
    StdinEof,
    /// The client's terminal has a new size.
    Resize(Size),
    /// Send this signal to the command.
    Signal(u8),
}

/// What Weft says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// The command runs.
    Started,
    /// The command's output; all of it, if it has a terminal.
    Stdout(Vec<u8>),
    /// The command's error output.
    Stderr(Vec<u8>),
    /// The command has ended; nothing follows.
    Exit(ExitStatus),
    /// The session could not begin or go on; nothing follows.
    Error(String),
    /// What people should know about this session; comes before anything else.
    Note(String),
}

/// A frame of either direction.
pub trait Frame: Sized {
    /// Appends the frame to `out`; a stream's piece that is longer than a frame may be becomes several.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a frame's payload.
    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError>;
}

mod kind {
    pub(super) const STDIN: u8 = 0x01;
    pub(super) const STDIN_EOF: u8 = 0x02;
    pub(super) const RESIZE: u8 = 0x03;
    pub(super) const SIGNAL: u8 = 0x04;

    pub(super) const STARTED: u8 = 0x81;
    pub(super) const STDOUT: u8 = 0x82;
    pub(super) const STDERR: u8 = 0x83;
    pub(super) const EXIT: u8 = 0x84;
    pub(super) const ERROR: u8 = 0x85;
    pub(super) const NOTE: u8 = 0x86;
}

fn put(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
}

fn put_stream(kind: u8, data: &[u8], out: &mut Vec<u8>) {
    data.chunks(PAYLOAD_BYTES_MAX).for_each(|piece| put(kind, piece, out));
}

fn put_text(kind: u8, text: &str, out: &mut Vec<u8>) {
    put(kind, &text.as_bytes()[..text.floor_char_boundary(PAYLOAD_BYTES_MAX)], out);
}

impl Frame for ClientFrame {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stdin(data) => put_stream(kind::STDIN, data, out),
            Self::StdinEof => put(kind::STDIN_EOF, &[], out),
            Self::Resize(size) => {
                let mut payload = Writer::default();
                size.write(&mut payload);
                put(kind::RESIZE, &payload.0, out);
            }
            Self::Signal(signal) => put(kind::SIGNAL, &[*signal], out),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader(payload);
        let frame = match kind {
            kind::STDIN => return Ok(Self::Stdin(payload.to_vec())),
            kind::STDIN_EOF => Self::StdinEof,
            kind::RESIZE => Self::Resize(Size::read(&mut input)?),
            kind::SIGNAL => Self::Signal(input.u8()?),
            other => return Err(DecodeError::Unknown(other)),
        };
        input.end().map(|()| frame)
    }
}

impl Frame for ServerFrame {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Started => put(kind::STARTED, &[], out),
            Self::Stdout(data) => put_stream(kind::STDOUT, data, out),
            Self::Stderr(data) => put_stream(kind::STDERR, data, out),
            Self::Exit(ExitStatus::Code(code)) => put(kind::EXIT, &[0, *code], out),
            Self::Exit(ExitStatus::Signal(signal)) => put(kind::EXIT, &[1, *signal], out),
            Self::Error(message) => put_text(kind::ERROR, message, out),
            Self::Note(message) => put_text(kind::NOTE, message, out),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(match (kind, payload) {
            (kind::STARTED, []) => Self::Started,
            (kind::STDOUT, data) => Self::Stdout(data.to_vec()),
            (kind::STDERR, data) => Self::Stderr(data.to_vec()),
            (kind::EXIT, [0, code]) => Self::Exit(ExitStatus::Code(*code)),
            (kind::EXIT, [1, signal]) => Self::Exit(ExitStatus::Signal(*signal)),
            (kind::ERROR, text) => Self::Error(String::from_utf8_lossy(text).into_owned()),
            (kind::NOTE, text) => Self::Note(String::from_utf8_lossy(text).into_owned()),
            (kind::STARTED | kind::EXIT, _) => return Err(DecodeError::Malformed),
            (other, _) => return Err(DecodeError::Unknown(other)),
        })
    }
}

/// Finds frames in a stream, in pieces of any size.
#[derive(Debug)]
pub struct Decoder<F> {
    buffer: Vec<u8>,
    /// Where the next frame begins in `buffer`.
    start: usize,
    frame: PhantomData<F>,
}

impl<F> Default for Decoder<F> {
    fn default() -> Self {
        Self { buffer: Vec::new(), start: 0, frame: PhantomData }
    }
}

impl<F: Frame> Decoder<F> {
    /// Takes in a piece of the stream. Call [`Decoder::next`] until it gives nothing before the next piece: then no more
    /// than a frame and a piece are ever held.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.start));
        self.buffer.extend_from_slice(piece);
    }

    /// The next frame, or `None` if it is not whole yet. After an error the stream is of no more use.
    #[expect(clippy::should_implement_trait, reason = "an iterator would not go on after nothing was there")]
    pub fn next(&mut self) -> Result<Option<F>, DecodeError> {
        let rest = &self.buffer[self.start..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let (kind, len) = split(*header)?;
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        let frame = F::decode(kind, payload)?;
        self.start += HEADER_BYTES + len;
        Ok(Some(frame))
    }

    /// Whether the stream so far ends between two frames.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }
}

fn split([kind, len @ ..]: [u8; HEADER_BYTES]) -> Result<(u8, usize), DecodeError> {
    let len = u32::from_be_bytes(len) as usize;
    if len <= PAYLOAD_BYTES_MAX { Ok((kind, len)) } else { Err(DecodeError::Malformed) }
}

/// Reads one frame, blocking; `None` where the stream ends between two frames.
pub fn read<F: Frame>(stream: &mut impl Read) -> io::Result<Option<F>> {
    let mut header = [0; HEADER_BYTES];
    let first = loop {
        match stream.read(&mut header[..1]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            first => break first?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..])?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let (kind, len) = split(header).map_err(invalid)?;
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    F::decode(kind, &payload).map(Some).map_err(invalid)
}

/// Writes one frame, blocking.
pub fn write<F: Frame>(stream: &mut impl Write, frame: &F) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    stream.write_all(&bytes)
}
