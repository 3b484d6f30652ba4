//! The agent's loop: one thread, one `poll`, nothing that blocks.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_agent::frame;
use weft_agent::message::{ExitStatus, SESSIONS_MAX, SessionId, Shutdown, ToGuest, ToHost, VERSION};
use weft_agent::outbox::Outbox;

use crate::port::{Input, Port};
use crate::process::{Process, SpawnError};
use crate::session::{Fed, Session, Stream};
use crate::{about, power};

/// How much may wait for the host before commands' outputs are left where they are. Small, so that a keystroke's echo
/// does not stand long behind another session's bulk.
const OUTBOX_BYTES: usize = 64 << 10;

/// How much may wait for the host before it is no longer listened to.
const OUTBOX_BYTES_MAX: usize = 256 << 10;

/// How often to look whether a host has opened the port again: its driver has no event for that which `poll` could wait for.
const LOOK_FOR_HOST: Duration = Duration::from_millis(50);

/// How long a command whose client is gone may take to put its things away.
const HANG_UP_GRACE: Duration = Duration::from_secs(1);

/// How long the answer to a shutdown may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the port until its stream ends for good.
pub(crate) fn run(port: Port) -> io::Result<()> {
    let mut agent = Agent {
        port,
        host_is_there: true,
        decoder: frame::Decoder::default(),
        outbox: Outbox::default(),
        nonce: None,
        sessions: BTreeMap::new(),
        leaving: Vec::new(),
        shutdown: None,
    };
    agent.outbox.interrupt();
    agent.say(&ToHost::Ready);
    let ended = loop {
        match agent.turn() {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // Nobody will be there to look after these.
    agent.hang_up_all();
    agent.leaving.iter().for_each(|leaving| leaving.process.kill());
    ended
}

struct Agent {
    port: Port,
    host_is_there: bool,
    decoder: frame::Decoder,
    outbox: Outbox,
    /// The host that we know.
    nonce: Option<u64>,
    sessions: BTreeMap<SessionId, Session>,
    /// Commands whose client is gone.
    leaving: Vec<Leaving>,
    shutdown: Option<(Shutdown, Instant)>,
}

struct Leaving {
    process: Process,
    kill_at: Instant,
    killed: bool,
}

/// What `poll` found something to do about.
#[derive(Clone, Copy)]
enum Ready {
    Port,
    Input(SessionId),
    Output(SessionId, Stream),
    Exit(SessionId),
    Left,
}

impl Agent {
    /// Waits for something to do, and does it. `false`: the stream has ended.
    fn turn(&mut self) -> io::Result<bool> {
        let ready = self.wait()?;
        self.host_is_there = self.host_is_there || self.host_is_back()?;
        let mut goes_on = true;
        for event in ready {
            match event {
                Ready::Port => goes_on = self.serve_port()?,
                Ready::Input(id) => self.pump_input(id),
                Ready::Output(id, stream) => self.pump_output(id, stream),
                Ready::Exit(id) => self.reap(id),
                Ready::Left => {}
            }
        }
        self.bury();
        if self.host_is_there {
            self.outbox.flush(&mut self.port.stream())?;
        }
        if let Some((how, deadline)) = self.shutdown
            && (self.outbox.is_empty() || deadline <= Instant::now())
        {
            eprintln!("weft-agent: the guest does not end: {}", power::end(how));
            self.shutdown = None;
        }
        Ok(goes_on)
    }

    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut events = Vec::new();
        let mut fds = Vec::new();
        if self.host_is_there {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.outbox.len() < OUTBOX_BYTES_MAX);
            flags.set(PollFlags::OUT, !self.outbox.is_empty());
            events.push(Ready::Port);
            fds.push(PollFd::new(&self.port, flags));
        }
        let listening = self.outbox.len() < OUTBOX_BYTES;
        for (&id, session) in &self.sessions {
            if let Some(fd) = session.wants_write() {
                events.push(Ready::Input(id));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            }
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(fd) = session.wants_read(stream).filter(|_| listening) {
                    events.push(Ready::Output(id, stream));
                    fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                }
            }
            if !session.has_ended() {
                events.push(Ready::Exit(id));
                fds.push(PollFd::new(&session.process.pidfd, PollFlags::IN));
            }
        }
        for leaving in self.leaving.iter().filter(|leaving| leaving.killed) {
            events.push(Ready::Left);
            fds.push(PollFd::new(&leaving.process.pidfd, PollFlags::IN));
        }
        let timeout = self.timeout().and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        Ok(events.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(event, _)| event).collect())
    }

    fn timeout(&self) -> Option<Duration> {
        let kills = self.leaving.iter().filter(|leaving| !leaving.killed).map(|leaving| leaving.kill_at);
        let due = kills.chain(self.shutdown.map(|(_, deadline)| deadline)).min();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let look = (!self.host_is_there).then_some(LOOK_FOR_HOST);
        due.into_iter().chain(look).min()
    }

    fn host_is_back(&self) -> io::Result<bool> {
        let mut port = [PollFd::new(&self.port, PollFlags::IN)];
        poll(&mut port, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(!port[0].revents().contains(PollFlags::HUP))
    }

    fn serve_port(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 32 << 10];
        match self.port.read(&mut buffer)? {
            Input::Bytes(count) => {
                let mut bytes = &buffer[..count];
                while let Some(message) = self.decoder.next(&mut bytes) {
                    // What cannot be understood was not said by a host that we know how to obey.
                    if let Ok(message) = ToGuest::decode(&message) {
                        self.obey(message);
                    }
                }
            }
            Input::Nothing => {}
            Input::NoHost => {
                self.host_is_there = false;
                self.forget_host();
            }
            Input::End => return Ok(false),
        }
        Ok(true)
    }

    /// The host is gone: nobody will read what we have to say, nor end what it began.
    fn forget_host(&mut self) {
        self.nonce = None;
        self.outbox.interrupt();
        self.hang_up_all();
    }

    fn obey(&mut self, message: ToGuest) {
        if let ToGuest::Hello { nonce, .. } = message {
            if self.nonce != Some(nonce) {
                self.forget_host();
                self.nonce = Some(nonce);
            }
            return self.say(&ToHost::Welcome { version: VERSION, nonce, info: about::agent_info() });
        }
        if self.nonce.is_none() {
            return; // the tail of a former host's words
        }
        match message {
            ToGuest::Hello { .. } => {}
            ToGuest::Open(id, exec) if !self.sessions.contains_key(&id) => {
                if self.sessions.len() + self.leaving.len() < 2 * SESSIONS_MAX {
                    self.open(id, Session::start(&exec));
                } else {
                    self.say(&ToHost::Error(id, "too many commands run in the guest".to_owned()));
                }
            }
            ToGuest::Query(number) => self.say(&ToHost::Info(number, about::guest_info())),
            ToGuest::Shutdown(number, how) => self.begin_shutdown(number, how),
            ToGuest::Close(id) => self.hang_up(id),
            ToGuest::Open(id, _)
            | ToGuest::Stdin(id, _)
            | ToGuest::StdinEof(id)
            | ToGuest::Resize(id, _)
            | ToGuest::Signal(id, _)
            | ToGuest::Credit(id, _) => self.obey_in_session(id, message),
        }
    }

    fn obey_in_session(&mut self, id: SessionId, message: ToGuest) {
        // A session that has ended may still be spoken to: its end is on the way to the host.
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match message {
            ToGuest::Stdin(_, data) if session.feed(&data) => self.pump_input(id),
            ToGuest::Stdin(..) | ToGuest::Open(..) => {
                self.say(&ToHost::Error(id, "the host broke the protocol".to_owned()));
                self.hang_up(id);
            }
            ToGuest::StdinEof(_) => {
                session.end_input();
                self.pump_input(id);
            }
            ToGuest::Resize(_, size) => session.resize(size),
            ToGuest::Signal(_, number) => session.signal(number),
            ToGuest::Credit(_, bytes) => session.earn(bytes),
            _ => {}
        }
    }

    fn open(&mut self, id: SessionId, started: Result<Session, SpawnError>) {
        match started {
            Ok(session) => {
                self.sessions.insert(id, session);
                self.say(&ToHost::Started(id));
            }
            Err(SpawnError::Command(sentence, code)) => {
                // Bounded, because the sentence quotes what the host sent.
                let end = sentence.floor_char_boundary(4096);
                self.say(&ToHost::Stderr(id, sentence.as_bytes()[..end].to_vec()));
                self.say(&ToHost::Exit(id, ExitStatus::Code(code)));
            }
            Err(SpawnError::Guest(sentence)) => self.say(&ToHost::Error(id, sentence)),
        }
    }

    fn pump_input(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Fed::Credit(bytes) = session.pump_input()
        {
            self.say(&ToHost::Credit(id, bytes));
        }
    }

    fn pump_output(&mut self, id: SessionId, stream: Stream) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(data) = session.read(stream) else { return self.finish(id) };
        self.say(&match stream {
            Stream::Stdout => ToHost::Stdout(id, data),
            Stream::Stderr => ToHost::Stderr(id, data),
        });
        self.finish(id);
    }

    fn reap(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.reap();
        }
        self.finish(id);
    }

    /// Says how the command ended, if it has and nothing else is to be said before.
    fn finish(&mut self, id: SessionId) {
        if let Some(status) = self.sessions.get(&id).and_then(Session::over) {
            self.sessions.remove(&id);
            self.say(&ToHost::Exit(id, status));
        }
    }

    fn hang_up(&mut self, id: SessionId) {
        if let Some(mut process) = self.sessions.remove(&id).and_then(Session::into_process) {
            process.hang_up();
            self.leaving.push(Leaving { process, kill_at: Instant::now() + HANG_UP_GRACE, killed: false });
        }
    }

    fn hang_up_all(&mut self) {
        while let Some(id) = self.sessions.keys().next().copied() {
            self.hang_up(id);
        }
    }

    /// Kills whose grace is over, and forgets who is dead. The first process of a group is not waited for until then:
    /// until then its number, and so the group's, cannot be another's.
    fn bury(&mut self) {
        let now = Instant::now();
        self.leaving.retain_mut(|leaving| {
            if !leaving.killed && leaving.kill_at <= now {
                leaving.process.kill();
                leaving.killed = true;
            }
            !(leaving.killed && leaving.process.try_wait().is_some())
        });
    }

    fn begin_shutdown(&mut self, number: u32, how: Shutdown) {
        if !self.port.is_device() {
            let refusal = Err("this agent does not run in a guest".to_owned());
            return self.say(&ToHost::ShutdownBegun(number, refusal));
        }
        self.say(&ToHost::ShutdownBegun(number, Ok(())));
        self.shutdown = Some((how, Instant::now() + FAREWELL));
    }

    fn say(&mut self, message: &ToHost) {
        frame::encode(&message.encode(), self.outbox.end());
    }
}
