//! A client of QEMU's machine protocol, QMP (QEMU's `docs/interop/qmp-spec.txt`).
//!
//! The protocol is one JSON object per line: a greeting, then for each command a `return` or an `error`, and `event`s
//! in between. The peer is trusted to be QEMU but not to be sane: a guest may have taken it over. So lines are bounded,
//! events are bounded, and every wait has an end.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

/// The longest line that is read, in bytes. What is asked here is answered with a few hundred.
const MAX_LINE_BYTES: usize = 256 * 1024;
/// How many events are kept until somebody asks for them; older ones are dropped.
const MAX_EVENTS: usize = 64;

/// Why a monitor's word could not be had.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket failed.
    #[error("the monitor's socket failed")]
    Io(#[from] io::Error),
    /// The monitor said nothing in time.
    #[error("the monitor did not answer in time")]
    TimedOut,
    /// The monitor closed the connection.
    #[error("the monitor closed the connection")]
    Closed,
    /// A line was longer than any that the protocol needs.
    #[error("the monitor sent a line of more than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// A line was none of the protocol's.
    #[error("the monitor sent what is not QMP: {0}")]
    Garbage(String),
    /// The command was refused.
    #[error("`{command}` was refused: {description} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// The error's class, like `GenericError`.
        class: String,
        /// QEMU's own words.
        description: String,
    },
}

/// One line of the protocol, as the monitor may send it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// The first line.
    Greeting,
    /// A command's success, with the id that the command bore.
    Return { id: Option<u64>, value: Value },
    /// A command's failure.
    Error { id: Option<u64>, class: String, description: String },
    /// Something happened.
    Event { name: String, data: Value },
}

/// Every member that a line may have. What else stands in it is of no interest.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Failure>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Failure {
    class: String,
    desc: String,
}

/// Reads one line.
pub(crate) fn decode(line: &[u8]) -> Result<Message, QmpError> {
    let garbage = || QmpError::Garbage(excerpt(line));
    let line: Line = serde_json::from_slice(line).map_err(|_| garbage())?;
    match line {
        Line { greeting: Some(_), .. } => Ok(Message::Greeting),
        Line { event: Some(name), data, .. } => Ok(Message::Event { name, data }),
        Line { error: Some(failure), id, .. } => {
            Ok(Message::Error { id, class: failure.class, description: failure.desc })
        }
        Line { value: Some(value), id, .. } => Ok(Message::Return { id, value }),
        _ => Err(garbage()),
    }
}

/// The beginning of a line, fit for a message.
fn excerpt(line: &[u8]) -> String {
    line.iter().take(60).flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect()
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// How much of `buffer` was searched already and holds no newline.
    searched: usize,
}

impl Lines {
    /// Takes what was read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its end; empty ones are passed over.
    pub(crate) fn pop(&mut self) -> Result<Option<Vec<u8>>, QmpError> {
        while let Some(found) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.buffer.drain(..=self.searched + found).collect();
            self.searched = 0;
            line.truncate(line.trim_ascii_end().len());
            if line.len() > MAX_LINE_BYTES {
                return Err(QmpError::TooLong);
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
        self.searched = self.buffer.len();
        if self.searched > MAX_LINE_BYTES { Err(QmpError::TooLong) } else { Ok(None) }
    }
}

/// Something that the monitor reported.
#[derive(Clone, Debug, PartialEq)]
pub struct QmpEvent {
    /// Its name, like `SHUTDOWN`.
    pub name: String,
    /// What belongs to it.
    pub data: Value,
}

/// A connection to a monitor, ready for commands.
///
/// A QMP socket serves one connection at a time: hold one only as long as it is needed.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: Lines,
    events: VecDeque<QmpEvent>,
    next_id: u64,
}

impl Qmp {
    /// Connects to the monitor at `socket`, and leaves the negotiation of capabilities behind.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Self, QmpError> {
        let deadline = Instant::now() + timeout;
        let stream = UnixStream::connect(socket)?;
        let mut qmp = Self { stream, lines: Lines::default(), events: VecDeque::new(), next_id: 0 };
        match qmp.receive(deadline)? {
            Message::Greeting => {}
            other => return Err(QmpError::Garbage(format!("no greeting but {other:?}"))),
        }
        qmp.execute_until("qmp_capabilities", json!({}), deadline)?;
        Ok(qmp)
    }

    /// Runs a command and waits for what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value, timeout: Duration) -> Result<Value, QmpError> {
        self.execute_until(command, arguments, Instant::now() + timeout)
    }

    fn execute_until(&mut self, command: &str, arguments: Value, deadline: Instant) -> Result<Value, QmpError> {
        self.next_id += 1;
        let mine = Some(self.next_id);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": mine }).to_string();
        line.push('\n');
        self.stream.set_write_timeout(Some(left(deadline)?))?;
        self.stream.write_all(line.as_bytes()).map_err(timed_out)?;
        loop {
            match self.receive(deadline)? {
                Message::Return { id, value } if id == mine => return Ok(value),
                Message::Error { id, class, description } if id == mine || id.is_none() => {
                    return Err(QmpError::Refused { command: command.to_owned(), class, description });
                }
                Message::Event { name, data } => self.keep(QmpEvent { name, data }),
                _ => {} // the late answer to a command that was given up
            }
        }
    }

    /// The next event; `None` if none comes in time.
    pub fn event(&mut self, timeout: Duration) -> Result<Option<QmpEvent>, QmpError> {
        let deadline = Instant::now() + timeout;
        while self.events.is_empty() {
            match self.receive(deadline) {
                Ok(Message::Event { name, data }) => self.keep(QmpEvent { name, data }),
                Ok(_) => {}
                Err(QmpError::TimedOut) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.events.pop_front())
    }

    fn keep(&mut self, event: QmpEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message, QmpError> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(line) = self.lines.pop()? {
                return decode(&line);
            }
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(QmpError::Closed),
                Ok(count) => self.lines.push(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(timed_out(error)),
            }
        }
    }
}

/// The time until `deadline`, if any is left.
fn left(deadline: Instant) -> Result<Duration, QmpError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(QmpError::TimedOut) } else { Ok(left) }
}

/// A socket's timeout shows as one of two errors.
fn timed_out(error: io::Error) -> QmpError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => QmpError::TimedOut,
        _ => QmpError::Io(error),
    }
}

/// Cuts hostile bytes into lines, as they would arrive in pieces, and reads each.
pub fn fuzz(bytes: &[u8]) {
    let mut lines = Lines::default();
    for piece in bytes.chunks(7) {
        lines.push(piece);
        while let Ok(Some(line)) = lines.pop() {
            let _ = decode(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}"#;

    /// Plays `script` to a client that runs `status` twice: `>` lines are sent,
    /// a `<` waits for a line of the client, and a `~` says nothing for too long.
    fn check(script: &str, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let script = script.to_owned();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for line in script.lines() {
                let sent = match line.trim().split_at(1) {
                    ("~", _) => {
                        thread::sleep(Duration::from_millis(400));
                        Ok(())
                    }
                    ("<", _) => {
                        let mut byte = [0];
                        while byte != *b"\n" && stream.read(&mut byte).is_ok_and(|count| count == 1) {}
                        Ok(())
                    }
                    (_, "huge") => stream.write_all(&vec![b'x'; MAX_LINE_BYTES + 8192]),
                    (_, text) => stream.write_all(format!("{}\r\n", text.replace("GREETING", GREETING)).as_bytes()),
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        let outcome = (|| {
            let mut qmp = Qmp::connect(&path, Duration::from_millis(300))?;
            let value = qmp.execute("status", json!({}), Duration::from_millis(300))?;
            let event = qmp.event(Duration::from_millis(10))?.map(|event| event.name);
            Ok::<_, QmpError>(format!("{value} {event:?}"))
        })();
        assert_eq!(outcome.unwrap_or_else(|error| error.to_string()), expected);
        server.join().unwrap();
    }

    #[test]
    fn transcripts() {
        check(
            "> GREETING\n<\n>{\"return\": {}, \"id\": 1}\n<\n>{\"event\": \"RESUME\", \"timestamp\": {}}\n\
             >{\"return\": 0, \"id\": 1}\n>{\"return\": {\"running\": true}, \"id\": 2}\n>",
            "{\"running\":true} Some(\"RESUME\")",
        );
        check(
            "> GREETING\n<\n>{\"return\": {}, \"id\": 1}\n<\n>{\"event\": \"RESUME\"}\n>{\"return\": 7, \"id\": 2}\n>",
            "7 Some(\"RESUME\")",
        );
        check(
            "> GREETING\n<\n>{\"return\": {}, \"id\": 1}\n<\n\
             >{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such thing\"}, \"id\": 2}",
            "`status` was refused: no such thing (CommandNotFound)",
        );
    }

    #[test]
    fn a_monitor_that_misbehaves() {
        check(">hello", "the monitor sent what is not QMP: hello");
        check(">{\"QMP\"", "the monitor sent what is not QMP: {\\\"QMP\\\"");
        check(">{}", "the monitor sent what is not QMP: {}");
        check(
            ">{\"return\": 1}",
            "the monitor sent what is not QMP: no greeting but Return { id: None, value: Number(1) }",
        );
        check(">huge", "the monitor sent a line of more than 262144 bytes");
        check("> GREETING\n<\n~", "the monitor did not answer in time");
        check("> GREETING\n<", "the monitor closed the connection");
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_fall() {
        let mut lines = Lines::default();
        lines.push(b"one\r\n\n tw");
        assert_eq!(lines.pop().unwrap().unwrap(), b"one");
        assert_eq!(lines.pop().unwrap(), None);
        lines.push(b"o\nthree");
        assert_eq!(lines.pop().unwrap().unwrap(), b" two");
        assert_eq!(lines.pop().unwrap(), None);
    }
}
