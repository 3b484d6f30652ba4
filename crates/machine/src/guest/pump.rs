//! One session, between the client's stream and the guest's windows. Does not know of other sessions or of the port.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

use weft_agent::message::{DATA_BYTES_MAX, WINDOW_BYTES};
use weft_agent::outbox::Outbox;
use weft_agent::session::{ClientFrame, Decoder, ExitStatus, Frame, ServerFrame, Size};

/// What a session has to say to the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A piece of input, within the window.
    Data(Vec<u8>),
    /// The end of the input.
    Eof,
    /// The terminal's new size.
    Resize(Size),
    /// A signal.
    Signal(u8),
    /// The client is gone.
    Gone,
}

/// A session's state on the host.
pub(super) struct Pump {
    client: UnixStream,
    frames: Decoder<ClientFrame>,
    /// Input that waits for the guest's credit, and how much of it was sent.
    stalled: (Vec<u8>, usize),
    /// How much input the guest takes now.
    credit: usize,
    outbox: Outbox,
    /// How much output the guest may still send.
    window: usize,
    started: bool,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The command runs, or will.
    Running,
    /// The client is gone, which the guest does not know yet.
    Abandoned,
    /// The last word stands in the outbox.
    Ended,
    /// Nothing more is to be said to anybody.
    Over,
}

impl Pump {
    /// A session for the client at the other end of `client`, which never blocks.
    pub(super) fn new(client: UnixStream) -> Self {
        Self {
            client,
            frames: Decoder::default(),
            stalled: (Vec::new(), 0),
            credit: WINDOW_BYTES,
            outbox: Outbox::default(),
            window: WINDOW_BYTES,
            started: false,
            phase: Phase::Running,
        }
    }

    pub(super) fn client(&self) -> &UnixStream {
        &self.client
    }

    /// Whether reading the client makes sense: there is nothing left of what was read before.
    pub(super) fn wants_input(&self) -> bool {
        self.phase == Phase::Running && self.stalled.0.is_empty()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether the guest may still say something that matters.
    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Takes a piece from the client.
    pub(super) fn read(&mut self) {
        if !self.wants_input() {
            return;
        }
        let mut buffer = [0; 16 << 10];
        match (&self.client).read(&mut buffer) {
            Ok(0) => self.abandon(),
            Ok(count) => self.frames.push(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.abandon(),
        }
    }

    /// The client is gone.
    pub(super) fn abandon(&mut self) {
        self.phase = match self.phase {
            Phase::Running => Phase::Abandoned,
            Phase::Ended => Phase::Over,
            other => other,
        };
    }

    /// What to say to the guest next, if anything.
    pub(super) fn next_input(&mut self) -> Option<Input> {
        match self.phase {
            Phase::Running => {}
            Phase::Abandoned => {
                self.phase = Phase::Over;
                return Some(Input::Gone);
            }
            Phase::Ended | Phase::Over => return None,
        }
        loop {
            if !self.stalled.0.is_empty() {
                return self.next_piece();
            }
            match self.frames.next() {
                Ok(None) => return None,
                Ok(Some(ClientFrame::Stdin(data))) => self.stalled = (data, 0),
                Ok(Some(ClientFrame::StdinEof)) => return Some(Input::Eof),
                Ok(Some(ClientFrame::Resize(size))) => return Some(Input::Resize(size)),
                Ok(Some(ClientFrame::Signal(signal))) => return Some(Input::Signal(signal)),
                Err(error) => {
                    self.fail(&format!("the client broke the protocol: {error}"));
                    self.flush();
                    return Some(Input::Gone);
                }
            }
        }
    }

    fn next_piece(&mut self) -> Option<Input> {
        let (data, sent) = &mut self.stalled;
        let len = (data.len() - *sent).min(self.credit).min(DATA_BYTES_MAX);
        if len == 0 {
            return None; // until the guest gives credit
        }
        let piece = data[*sent..*sent + len].to_vec();
        *sent += len;
        self.credit -= len;
        if *sent == data.len() {
            self.stalled = (Vec::new(), 0);
        }
        Some(Input::Data(piece))
    }

    /// The guest takes so much more input. `false`, here and below: the guest says what it cannot mean.
    #[must_use]
    pub(super) fn earn(&mut self, bytes: u32) -> bool {
        self.credit = self.credit.saturating_add(bytes as usize);
        self.credit <= WINDOW_BYTES
    }

    #[must_use]
    pub(super) fn start(&mut self) -> bool {
        self.tell(&ServerFrame::Started);
        !std::mem::replace(&mut self.started, true)
    }

    #[must_use]
    pub(super) fn stdout(&mut self, data: Vec<u8>) -> bool {
        self.output(data, ServerFrame::Stdout)
    }

    #[must_use]
    pub(super) fn stderr(&mut self, data: Vec<u8>) -> bool {
        self.output(data, ServerFrame::Stderr)
    }

    fn output(&mut self, data: Vec<u8>, frame: fn(Vec<u8>) -> ServerFrame) -> bool {
        let Some(window) = self.window.checked_sub(data.len()) else { return false };
        self.window = window;
        self.tell(&frame(data));
        true
    }

    #[must_use]
    pub(super) fn exit(&mut self, status: ExitStatus) -> bool {
        self.end(&ServerFrame::Exit(status));
        true
    }

    /// Ends the session with a sentence for the client.
    pub(super) fn fail(&mut self, sentence: &str) {
        self.end(&ServerFrame::Error(sentence.to_owned()));
    }

    fn end(&mut self, last: &ServerFrame) {
        match self.phase {
            Phase::Running => {
                self.tell(last);
                self.phase = Phase::Ended;
            }
            Phase::Abandoned => self.phase = Phase::Over,
            Phase::Ended | Phase::Over => {}
        }
    }

    fn tell(&mut self, frame: &ServerFrame) {
        if self.phase == Phase::Running {
            frame.encode(self.outbox.end());
        }
    }

    /// Gives the client what it takes.
    pub(super) fn flush(&mut self) {
        if self.outbox.flush(&mut &self.client).is_err() {
            self.abandon();
        }
        if self.phase == Phase::Ended && self.outbox.is_empty() {
            self.phase = Phase::Over;
        }
    }

    /// How much more the guest may send, if it is worth a message. So at most one and a half windows ever wait.
    pub(super) fn credit(&mut self) -> Option<u32> {
        let passed = WINDOW_BYTES - self.window;
        if self.phase != Phase::Running || passed < WINDOW_BYTES / 4 || self.outbox.len() > WINDOW_BYTES / 2 {
            return None;
        }
        self.window = WINDOW_BYTES;
        Some(passed as u32)
    }
}
