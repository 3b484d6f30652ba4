//! The thread behind an [`Agent`](super::Agent): one `poll` over the guest's port and the clients of all its sessions.
//!
//! It reads the port whatever the clients do, so that one client cannot hold up another; what that may cost in memory
//! is bounded by the sessions' windows. What the guest says is hostile.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tracing::{debug, warn};
use weft_agent::frame;
use weft_agent::message::{SessionId, ToGuest, ToHost, VERSION};
use weft_agent::outbox::Outbox;

use super::agent::{Shared, Standing};
use super::pump::{Input, Pump};
use super::{ExecRequest, GuestInfo, Shutdown};

/// How long to wait before connecting again; a starting engine makes its socket within that.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How long an agent may be silent before it is greeted again; its start may have swallowed the first greeting.
const GREET_AGAIN: Duration = Duration::from_secs(1);

/// How much may wait for the guest before clients are not listened to.
const OUTBOX_BYTES_MAX: usize = 256 << 10;

/// How many questions may be open; a guest that does not answer loses the oldest.
const QUESTIONS_MAX: usize = 64;

/// What a caller wants done.
pub(super) enum Order {
    /// Run a command for the client at the other end of the stream.
    Open(ExecRequest, UnixStream),
    /// Ask about the guest.
    Query(SyncSender<GuestInfo>),
    /// End the guest.
    Shutdown(Shutdown, SyncSender<Result<(), String>>),
}

enum Question {
    Query(SyncSender<GuestInfo>),
    Shutdown(SyncSender<Result<(), String>>),
}

/// The state of the thread.
pub(super) struct Link {
    socket: PathBuf,
    shared: Arc<Shared>,
    stream: Option<UnixStream>,
    /// When to connect, or to greet, again.
    due: Option<Instant>,
    retry: Duration,
    decoder: frame::Decoder,
    outbox: Outbox,
    /// Distinguishes this connection from former ones, in what the guest says.
    nonce: u64,
    welcomed: bool,
    sessions: BTreeMap<SessionId, Pump>,
    questions: VecDeque<(u32, Question)>,
    /// The last number given to a session or a question.
    number: u32,
}

/// What `poll` found something to do about.
enum Ready {
    Orders,
    Guest,
    Client(SessionId, PollFlags),
}

impl Link {
    pub(super) fn new(socket: PathBuf, shared: Arc<Shared>) -> Self {
        Self {
            socket,
            shared,
            stream: None,
            due: Some(Instant::now()),
            retry: RETRY,
            decoder: frame::Decoder::default(),
            outbox: Outbox::default(),
            nonce: 0,
            welcomed: false,
            sessions: BTreeMap::new(),
            questions: VecDeque::new(),
            number: 0,
        }
    }

    pub(super) fn run(mut self) {
        while !self.is_finished() {
            if let Err(error) = self.turn() {
                warn!(%error, socket = %self.socket.display(), "The guest's port cannot be watched");
                self.lose(&error.to_string());
                return;
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.connect_or_greet();
        }
        for event in self.wait()? {
            match event {
                Ready::Orders => self.take_orders(),
                Ready::Guest => self.listen(),
                Ready::Client(id, flags) => self.serve(id, flags),
            }
        }
        let was_full = self.is_full();
        self.flush();
        if was_full && !self.is_full() {
            // What was withheld from the guest may be said now.
            let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
            ids.into_iter().for_each(|id| self.pump(id));
        }
        self.sweep();
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let state = self.shared.lock();
        state.closed && state.orders.is_empty() && self.sessions.is_empty()
    }

    /// Whether the guest does not listen: then it is told no more than must be.
    fn is_full(&self) -> bool {
        self.outbox.len() >= OUTBOX_BYTES_MAX
    }

    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut events = vec![(None, Ready::Orders)];
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if let Some(stream) = &self.stream {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, !self.outbox.is_empty());
            events.push((None, Ready::Guest));
            fds.push(PollFd::new(stream, flags));
        }
        let listening = !self.is_full();
        for (&id, pump) in &self.sessions {
            let mut flags = PollFlags::empty(); // a client that is gone is always told
            flags.set(PollFlags::IN, listening && pump.wants_input());
            flags.set(PollFlags::OUT, pump.has_output());
            events.push((Some(id), Ready::Client(id, flags)));
            fds.push(PollFd::new(pump.client(), flags));
        }
        let left = self.due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let found = events.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(found.map(|((client, event), fd)| client.map_or(event, |id| Ready::Client(id, fd.revents()))).collect())
    }

    fn connect_or_greet(&mut self) {
        if self.stream.is_some() {
            // Nobody listens as long as the last greeting waits.
            if self.outbox.is_empty() {
                self.greet();
            }
            self.due = Some(Instant::now() + GREET_AGAIN);
            return;
        }
        match self.connect() {
            Ok(stream) => {
                self.stream = Some(stream);
                self.retry = RETRY;
                self.decoder = frame::Decoder::default();
                self.begin();
            }
            Err(error) => {
                self.shared.stand(Standing::Unreachable(error.kind(), error.to_string()));
                self.due = Some(Instant::now() + self.retry);
                self.retry = (self.retry * 2).min(RETRY_MAX);
            }
        }
    }

    /// Never blocks, even where another client has the port and more wait behind it.
    fn connect(&self) -> io::Result<UnixStream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(&self.socket)?)?;
        Ok(socket.into())
    }

    /// Starts the conversation from its beginning.
    fn begin(&mut self) {
        self.welcomed = false;
        self.outbox.interrupt();
        self.nonce = fresh_nonce(self.nonce);
        self.shared.stand(Standing::Silent);
        self.greet();
        self.due = Some(Instant::now() + GREET_AGAIN);
    }

    fn greet(&mut self) {
        self.say(&ToGuest::Hello { version: VERSION, nonce: self.nonce });
    }

    fn say(&mut self, message: &ToGuest) {
        frame::encode(&message.encode(), self.outbox.end());
    }

    fn take_orders(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        let orders = std::mem::take(&mut self.shared.lock().orders);
        for order in orders {
            if !self.welcomed || self.is_full() {
                self.refuse(order);
                continue;
            }
            let number = self.next_number();
            match order {
                Order::Open(exec, client) => {
                    self.sessions.insert(number, Pump::new(client));
                    self.say(&ToGuest::Open(number, exec));
                }
                Order::Query(asked) => self.ask(number, Question::Query(asked), &ToGuest::Query(number)),
                Order::Shutdown(how, asked) => {
                    self.ask(number, Question::Shutdown(asked), &ToGuest::Shutdown(number, how));
                }
            }
        }
    }

    /// The agent was lost between the order and its execution. Who asked a question sees its channel close.
    fn refuse(&mut self, order: Order) {
        if let Order::Open(_, client) = order {
            let mut pump = Pump::new(client);
            pump.fail(LOST);
            let number = self.next_number();
            self.sessions.insert(number, pump);
        }
    }

    fn ask(&mut self, number: u32, question: Question, message: &ToGuest) {
        if self.questions.len() == QUESTIONS_MAX {
            self.questions.pop_front();
        }
        self.questions.push_back((number, question));
        self.say(message);
    }

    fn next_number(&mut self) -> u32 {
        loop {
            self.number = self.number.wrapping_add(1);
            if !self.sessions.contains_key(&self.number) {
                return self.number;
            }
        }
    }

    fn listen(&mut self) {
        let mut buffer = [0; 64 << 10];
        let Some(mut stream) = self.stream.as_ref() else { return };
        match stream.read(&mut buffer) {
            Ok(0) => self.lose("the engine closed the port"),
            Ok(count) => {
                let mut bytes = &buffer[..count];
                while let Some(message) = self.decoder.next(&mut bytes) {
                    match ToHost::decode(&message) {
                        Ok(message) => self.hear(message),
                        Err(error) => debug!(%error, "The guest says what cannot be understood"),
                    }
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.lose(&error.to_string()),
        }
    }

    fn hear(&mut self, message: ToHost) {
        match message {
            ToHost::Ready => {
                self.fail_all("the guest agent has started anew");
                self.begin();
            }
            ToHost::Welcome { version, nonce, info } if nonce == self.nonce && !self.welcomed => {
                self.due = None;
                if version == VERSION {
                    self.welcomed = true;
                    self.shared.stand(Standing::Ready(info));
                } else {
                    self.shared.stand(Standing::Foreign(version));
                }
            }
            // Whatever comes before the welcome was said to somebody else.
            _ if !self.welcomed => {}
            ToHost::Welcome { .. } => {}
            ToHost::Info(number, info) => {
                if let Some(Question::Query(asked)) = self.answered(number) {
                    let _ = asked.try_send(info);
                }
            }
            ToHost::ShutdownBegun(number, begun) => {
                if let Some(Question::Shutdown(asked)) = self.answered(number) {
                    let _ = asked.try_send(begun);
                }
            }
            ToHost::Started(id)
            | ToHost::Stdout(id, _)
            | ToHost::Stderr(id, _)
            | ToHost::Credit(id, _)
            | ToHost::Exit(id, _)
            | ToHost::Error(id, _) => self.hear_in_session(id, message),
        }
    }

    fn hear_in_session(&mut self, id: SessionId, message: ToHost) {
        // A session that is over here may still be spoken of by a guest that does not know.
        let Some(pump) = self.sessions.get_mut(&id).filter(|pump| pump.is_running()) else { return };
        let believed = match message {
            ToHost::Started(_) => pump.start(),
            ToHost::Stdout(_, data) => pump.stdout(data),
            ToHost::Stderr(_, data) => pump.stderr(data),
            ToHost::Credit(_, bytes) => pump.earn(bytes),
            ToHost::Exit(_, status) => pump.exit(status),
            ToHost::Error(_, sentence) => {
                pump.fail(&sentence);
                true
            }
            _ => true,
        };
        if !believed {
            pump.fail("the guest agent broke the protocol");
            self.say(&ToGuest::Close(id));
        }
        self.pump(id);
    }

    fn answered(&mut self, number: u32) -> Option<Question> {
        let at = self.questions.iter().position(|(asked, _)| *asked == number)?;
        self.questions.remove(at).map(|(_, question)| question)
    }

    /// Looks after a client.
    fn serve(&mut self, id: SessionId, flags: PollFlags) {
        let Some(pump) = self.sessions.get_mut(&id) else { return };
        if flags.contains(PollFlags::IN) {
            pump.read();
        } else if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            pump.abandon();
        }
        self.pump(id);
    }

    /// Moves what a session has for the guest and for its client as far as it goes now.
    fn pump(&mut self, id: SessionId) {
        let listening = !self.is_full();
        let Some(pump) = self.sessions.get_mut(&id) else { return };
        pump.flush();
        let mut said = Vec::new();
        while let Some(input) = pump.next_input() {
            said.push(match input {
                Input::Data(data) => ToGuest::Stdin(id, data),
                Input::Eof => ToGuest::StdinEof(id),
                Input::Resize(size) => ToGuest::Resize(id, size),
                Input::Signal(signal) => ToGuest::Signal(id, signal),
                Input::Gone => ToGuest::Close(id),
            });
        }
        if listening && let Some(bytes) = pump.credit() {
            said.push(ToGuest::Credit(id, bytes));
        }
        said.iter().for_each(|message| self.say(message));
    }

    fn flush(&mut self) {
        let Some(mut stream) = self.stream.as_ref() else { return };
        if let Err(error) = self.outbox.flush(&mut stream) {
            self.lose(&error.to_string());
        }
    }

    /// Forgets the sessions of which nothing more is to be said.
    fn sweep(&mut self) {
        let before = self.sessions.len();
        self.sessions.retain(|_, pump| !pump.is_over());
        let ended = before - self.sessions.len();
        if ended > 0 {
            self.shared.lock().sessions -= ended;
        }
    }

    fn lose(&mut self, why: &str) {
        debug!(socket = %self.socket.display(), why, "The connection to the guest's port is lost");
        self.stream = None;
        self.welcomed = false;
        self.shared.stand(Standing::Unreachable(ErrorKind::ConnectionReset, why.to_owned()));
        self.due = Some(Instant::now() + self.retry);
        self.outbox.interrupt();
        self.fail_all(LOST);
    }

    fn fail_all(&mut self, why: &str) {
        self.questions.clear();
        for pump in self.sessions.values_mut() {
            pump.fail(why);
            pump.flush();
        }
    }
}

const LOST: &str = "the connection to the guest agent was lost";

/// A number that no former host has used, as far as chance goes; never 0, nor the last one.
fn fresh_nonce(last: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without randomness, what counts up is still new to this agent.
    let random = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_ok();
    let fresh = if random { u64::from_ne_bytes(bytes) } else { last.wrapping_add(1) };
    if fresh == last { fresh ^ 1 } else { fresh }.max(1)
}
