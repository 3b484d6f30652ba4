//! The QEMU guest agent, for foreign images: a command's input in one piece before it starts, its output in one piece at
//! its end.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_agent::message::SESSIONS_MAX;

use super::qga::{ExecStatus, REPLY_BYTES_MAX, Reply, exec_arguments, parse_addresses, parse_exec_status, parse_reply};
use super::session::{ClientFrame, Decoder, ExitStatus, ServerFrame, write};
use super::{ExecRequest, GuestError, Result};

/// How long the agent may take for a reply.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often to ask again whether an agent answers.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// How often to look whether a command has ended: often at first, because most commands are short.
const LOOK: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(320);

/// How long a client may take to begin with its input before the command is started without any.
const INPUT_BEGINS: Duration = Duration::from_millis(250);

/// How much input a command may have: it travels in one message.
const INPUT_BYTES_MAX: usize = 4 << 20;

/// What people are told before they wonder.
const NOTE: &str =
    "the QEMU guest agent runs this: its input is sent before it starts, its output comes when it has ended";

/// What ends the agent's own words, and with it any half of a message that came before (`guest-sync-delimited`).
const SENTINEL: u8 = 0xFF;

/// The connection to the QEMU guest agent of one guest. Clones share it.
#[derive(Clone)]
pub struct QemuGuestAgent {
    shared: Arc<Shared>,
}

struct Shared {
    socket: PathBuf,
    /// `None` until it is needed, and after each failure: only a new start is sure to find the replies in step.
    channel: Mutex<Option<Channel>>,
    sessions: AtomicUsize,
}

impl QemuGuestAgent {
    /// Begins to talk to the agent behind `socket`, on which the engine listens. Neither need be there yet.
    pub fn connect(socket: &Path) -> Result<Self> {
        let shared = Shared { socket: socket.to_owned(), channel: Mutex::new(None), sessions: AtomicUsize::new(0) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Waits until the agent answers.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = left.clamp(TRY_AGAIN, TIMEOUT);
            match self.call("guest-ping", &Value::Null, patience) {
                Ok(_) => return Ok(()),
                Err(GuestError::NotReady { .. }) if left.is_zero() => {
                    return Err(GuestError::NotReady { waited: timeout });
                }
                Err(error) if left.is_zero() => return Err(error),
                Err(_) => thread::sleep(TRY_AGAIN.min(left)),
            }
        }
    }

    /// Runs a command; its input is taken as a whole before it starts, and its output comes when it has ended.
    ///
    /// A terminal is refused: this agent has none. The stream speaks [`super::session`] frames; dropping it kills the
    /// command.
    pub fn exec(&self, request: ExecRequest) -> Result<UnixStream> {
        if request.tty.is_some() {
            return Err(GuestError::Unsupported(
                "The QEMU guest agent of this image gives no terminal, and shows output only when a command has ended",
            ));
        }
        super::agent::check(&request)?;
        let (client, server) = UnixStream::pair().map_err(GuestError::Host)?;
        let open = self.shared.sessions.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(self.shared.clone());
        if open >= SESSIONS_MAX {
            return Err(GuestError::TooManySessions(open));
        }
        let session = Session { agent: self.clone(), client: server, frames: Decoder::default(), _counted: counted };
        let name = "qemu-guest-exec".to_owned();
        thread::Builder::new().name(name).spawn(move || session.run(&request)).map_err(GuestError::Host)?;
        Ok(client)
    }

    /// The addresses of the guest's adapters.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        let interfaces = self.call("guest-network-get-interfaces", &Value::Null, TIMEOUT)?;
        parse_addresses(&interfaces).map_err(GuestError::Nonsense)
    }

    /// Asks the guest to power itself off; returns when it has been told.
    pub fn shutdown(&self) -> Result<()> {
        // The agent answers only if it refuses.
        match self.call("guest-shutdown", &json!({ "mode": "powerdown" }), Duration::from_secs(1)) {
            Ok(_) | Err(GuestError::NotReady { .. } | GuestError::Lost) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends one command and waits for its reply.
    fn call(&self, command: &str, arguments: &Value, timeout: Duration) -> Result<Value> {
        let deadline = Instant::now() + timeout;
        let mut held = self.shared.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let mut channel = match held.take() {
            Some(channel) => channel,
            None => Channel::open(&self.shared.socket, deadline).map_err(|failure| failure.told(timeout))?,
        };
        match channel.ask(command, arguments, deadline).map_err(|failure| failure.told(timeout))? {
            Reply::Return(value) => {
                *held = Some(channel);
                Ok(value)
            }
            Reply::Error(sentence) => {
                *held = Some(channel);
                Err(GuestError::Refused(sentence))
            }
        }
    }
}

impl fmt::Debug for QemuGuestAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QemuGuestAgent").field("socket", &self.shared.socket).finish_non_exhaustive()
    }
}

/// Gives a session's place back.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on which every reply belongs to the last command.
struct Channel {
    stream: UnixStream,
    /// What was read beyond the last line.
    rest: Vec<u8>,
}

enum Failure {
    Connect(io::Error),
    Timeout,
    Closed,
    Nonsense(String),
}

impl Failure {
    fn told(self, waited: Duration) -> GuestError {
        match self {
            Self::Connect(error) => GuestError::Unreachable(error),
            Self::Timeout => GuestError::NotReady { waited },
            Self::Closed => GuestError::Lost,
            Self::Nonsense(what) => GuestError::Nonsense(what),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Closed,
        }
    }
}

impl Channel {
    fn open(socket: &Path, deadline: Instant) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket).map_err(Failure::Connect)?;
        let mut channel = Self { stream, rest: Vec::new() };
        // Distinguishes the answer to this greeting from answers to earlier ones.
        let mut id = [0; 4];
        let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
        let id = u32::from_ne_bytes(id);
        channel.send(&[&[SENTINEL]], deadline)?;
        channel.send_command("guest-sync-delimited", &json!({ "id": id }), deadline)?;
        loop {
            channel.read_until(SENTINEL, deadline)?;
            if matches!(channel.reply(deadline), Ok(Reply::Return(answered)) if answered == id) {
                return Ok(channel);
            }
        }
    }

    fn ask(&mut self, command: &str, arguments: &Value, deadline: Instant) -> Result<Reply, Failure> {
        self.send_command(command, arguments, deadline)?;
        self.reply(deadline)
    }

    fn send_command(&mut self, command: &str, arguments: &Value, deadline: Instant) -> Result<(), Failure> {
        let message = match arguments {
            Value::Null => json!({ "execute": command }),
            arguments => json!({ "execute": command, "arguments": arguments }),
        };
        self.send(&[message.to_string().as_bytes(), b"\n"], deadline)
    }

    fn send(&mut self, pieces: &[&[u8]], deadline: Instant) -> Result<(), Failure> {
        self.stream.set_write_timeout(Some(left(deadline)?))?;
        pieces.iter().try_for_each(|piece| self.stream.write_all(piece)).map_err(Failure::from)
    }

    fn reply(&mut self, deadline: Instant) -> Result<Reply, Failure> {
        let line = self.read_until(b'\n', deadline)?;
        parse_reply(&line).map_err(Failure::Nonsense)
    }

    /// Reads up to the next `end`, which is taken too but not returned.
    fn read_until(&mut self, end: u8, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.rest[searched..].iter().position(|&byte| byte == end) {
                let tail = self.rest.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.rest, tail);
                line.pop();
                return Ok(line);
            }
            searched = self.rest.len();
            if searched > REPLY_BYTES_MAX {
                return Err(Failure::Nonsense(format!("a reply of more than {REPLY_BYTES_MAX} bytes")));
            }
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Failure::Closed),
                Ok(count) => self.rest.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What is left until `deadline`; never nothing, which would mean for ever.
fn left(deadline: Instant) -> Result<Duration, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Failure::Timeout) } else { Ok(left) }
}

/// A command and its client.
struct Session {
    agent: QemuGuestAgent,
    client: UnixStream,
    frames: Decoder<ClientFrame>,
    _counted: Counted,
}

/// Why a session ends before its command.
enum Cut {
    /// The client is gone.
    Gone,
    /// There is something to tell the client.
    Failed(String),
}

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<GuestError> for Cut {
    fn from(error: GuestError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Session {
    fn run(mut self, request: &ExecRequest) {
        if let Err(Cut::Failed(sentence)) = self.carry_out(request) {
            // Nobody is left to tell if this fails too.
            let _ = write(&mut self.client, &ServerFrame::Error(sentence));
        }
    }

    fn carry_out(&mut self, request: &ExecRequest) -> Result<(), Cut> {
        self.tell(&ServerFrame::Note(NOTE.to_owned()))?;
        let input = self.input()?;
        let started = match self.agent.call("guest-exec", &exec_arguments(request, &input), TIMEOUT) {
            Err(GuestError::Refused(sentence)) => return self.refused(&sentence),
            started => started?,
        };
        let pid = started["pid"].as_i64().filter(|&pid| pid > 1);
        let pid = pid.ok_or_else(|| Cut::Failed("the guest agent started a command without a number".to_owned()))?;
        self.tell(&ServerFrame::Started)?;
        match self.wait(pid) {
            Err(Cut::Gone) => {
                self.kill(pid, 9);
                Err(Cut::Gone)
            }
            status => self.report(status?),
        }
    }

    /// The input, if the client begins with it soon.
    fn input(&mut self) -> Result<Vec<u8>, Cut> {
        let mut input = Vec::new();
        loop {
            let patience = if input.is_empty() { Some(INPUT_BEGINS) } else { None };
            match self.next(patience)? {
                None | Some(ClientFrame::StdinEof) => return Ok(input),
                Some(ClientFrame::Stdin(data)) if input.len() + data.len() > INPUT_BYTES_MAX => {
                    return Err(Cut::Failed(format!(
                        "the QEMU guest agent takes at most {INPUT_BYTES_MAX} bytes of input"
                    )));
                }
                Some(ClientFrame::Stdin(data)) => input.extend(data),
                Some(ClientFrame::Resize(_) | ClientFrame::Signal(_)) => {}
            }
        }
    }

    /// Waits for the command's end, and passes signals on meanwhile.
    fn wait(&mut self, pid: i64) -> Result<ExecStatus, Cut> {
        let mut look = LOOK;
        loop {
            match self.next(Some(look))? {
                None => look = (look * 2).min(LOOK_MAX),
                Some(ClientFrame::Signal(signal)) => self.kill(pid, signal),
                Some(ClientFrame::Stdin(_)) => {
                    return self.too_late(pid);
                }
                Some(ClientFrame::StdinEof | ClientFrame::Resize(_)) => {}
            }
            let status = self.agent.call("guest-exec-status", &json!({ "pid": pid }), TIMEOUT)?;
            let status = parse_exec_status(&status).map_err(GuestError::Nonsense)?;
            if status.exited {
                return Ok(status);
            }
        }
    }

    fn too_late(&self, pid: i64) -> Result<ExecStatus, Cut> {
        self.kill(pid, 9);
        Err(Cut::Failed("the QEMU guest agent takes input only before the command starts".to_owned()))
    }

    fn report(&mut self, status: ExecStatus) -> Result<(), Cut> {
        self.tell(&ServerFrame::Stdout(status.stdout))?;
        self.tell(&ServerFrame::Stderr(status.stderr))?;
        if status.truncated {
            let sentence = "weft: the QEMU guest agent has cut the output short\n";
            self.tell(&ServerFrame::Stderr(sentence.into()))?;
        }
        let exit = match (status.signal, status.exit_code) {
            (Some(signal), _) => ExitStatus::Signal(signal),
            (None, code) => ExitStatus::Code(code.unwrap_or(0)),
        };
        self.tell(&ServerFrame::Exit(exit))
    }

    /// The agent's words for a command that cannot be run are GLib's; a shell's exit codes say the same.
    fn refused(&mut self, sentence: &str) -> Result<(), Cut> {
        let code = match sentence {
            _ if sentence.contains("No such file or directory") => 127,
            _ if sentence.contains("Permission denied") => 126,
            _ => return Err(GuestError::Refused(sentence.to_owned()).into()),
        };
        self.tell(&ServerFrame::Stderr(format!("weft: {sentence}\n").into_bytes()))?;
        self.tell(&ServerFrame::Exit(ExitStatus::Code(code)))
    }

    fn kill(&self, pid: i64, signal: u8) {
        let arguments = json!({ "path": "kill", "arg": [format!("-{signal}"), pid.to_string()] });
        // A command that has ended meanwhile cannot be killed, nor need it be.
        let _ = self.agent.call("guest-exec", &arguments, TIMEOUT);
    }

    fn tell(&mut self, frame: &ServerFrame) -> Result<(), Cut> {
        Ok(write(&mut self.client, frame)?)
    }

    /// The client's next frame; `None` if there is none within `patience`.
    fn next(&mut self, patience: Option<Duration>) -> Result<Option<ClientFrame>, Cut> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            match self.frames.next() {
                Ok(None) => {}
                Ok(frame) => return Ok(frame),
                Err(error) => return Err(Cut::Failed(format!("the client broke the protocol: {error}"))),
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.client.set_read_timeout(left)?;
            let mut buffer = [0; 64 << 10];
            match self.client.read(&mut buffer) {
                Ok(0) => return Err(Cut::Gone),
                Ok(count) => self.frames.push(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(_) => return Err(Cut::Gone),
            }
        }
    }
}
