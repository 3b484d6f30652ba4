//! What Weft and the agent in a guest say to each other. Each side takes the other's messages as hostile.

use std::net::IpAddr;

use crate::codec::{Reader, Writer};

/// Counted up when a message changes its meaning.
pub const VERSION: u16 = 1;

/// The longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The largest piece of a stream in one message, in bytes.
pub const DATA_BYTES_MAX: usize = 16 << 10;

/// How many bytes of one session's input, and of its output, may be on the way without credit.
pub const WINDOW_BYTES: usize = 128 << 10;

/// How many sessions one guest runs at a time.
pub const SESSIONS_MAX: usize = 64;

/// One session's number, chosen by the host; not used again while the agent may still speak of it.
pub type SessionId = u32;

/// What the host says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// A host has opened the port.
    Hello {
        /// The protocol's version that the host speaks.
        version: u16,
        /// This host's number, not zero, to be brought back by `Welcome`.
        nonce: u64,
    },
    /// Run a command.
    Open(SessionId, Exec),
    /// Input for the command, counted against its window; never empty.
    Stdin(SessionId, Vec<u8>),
    /// The command's input ends here.
    StdinEof(SessionId),
    /// The client's terminal has a new size.
    Resize(SessionId, Size),
    /// Send a signal to the command's process group.
    Signal(SessionId, u8),
    /// The client has passed on so many bytes of output.
    Credit(SessionId, u32),
    /// The client is gone: hang up and kill the command.
    Close(SessionId),
    /// Tell about the guest; the number comes back with the answer.
    Query(u32),
    /// End the guest; the number comes back with the answer.
    Shutdown(u32, Shutdown),
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToHost {
    /// The agent has just started and knows of no host.
    Ready,
    /// The answer to `Hello`.
    Welcome {
        /// The protocol's version that the agent speaks.
        version: u16,
        /// The number from `Hello`.
        nonce: u64,
        /// Who answers.
        info: AgentInfo,
    },
    /// The command runs.
    Started(SessionId),
    /// The command's output, counted against its window; never empty.
    Stdout(SessionId, Vec<u8>),
    /// The command's error output, counted against the same window; never empty.
    Stderr(SessionId, Vec<u8>),
    /// The command has taken so many bytes of its input.
    Credit(SessionId, u32),
    /// The command has ended, and all its output has been sent. The session is over.
    Exit(SessionId, ExitStatus),
    /// The session could not begin or go on, and is over.
    Error(SessionId, String),
    /// The answer to `Query`.
    Info(u32, GuestInfo),
    /// The answer to `Shutdown`: it has begun, or why not.
    ShutdownBegun(u32, Result<(), String>),
}

/// A command to run in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// The program, looked up in `PATH`, and its arguments.
    pub argv: Vec<String>,
    /// Variables that are set beyond the agent's own `PATH`, `HOME`, `USER`, `SHELL` and `TERM`, or in their place.
    pub env: Vec<(String, String)>,
    /// Where it runs; the home of root if nothing is said.
    pub cwd: Option<String>,
    /// Whether it gets a terminal instead of pipes.
    pub tty: Option<Tty>,
}

/// The terminal that a command gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tty {
    /// Its size at the beginning.
    pub size: Size,
    /// What the client's terminal understands (`TERM`).
    pub term: String,
}

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its height.
    pub rows: u16,
    /// Its width.
    pub cols: u16,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl ExitStatus {
    /// The exit code by which a shell tells of it: a signal is 128 and its number.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// How a guest is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// The guest powers itself off.
    PowerOff,
    /// The guest starts again.
    Reboot,
}

/// Who answers in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentInfo {
    /// The agent's own version.
    pub version: String,
    /// The number that the guest's kernel gave to this boot.
    pub boot_id: String,
    /// The guest's kernel release.
    pub kernel: String,
    /// The guest's name for itself.
    pub hostname: String,
}

/// What a guest says of itself now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestInfo {
    /// The guest's name for itself.
    pub hostname: String,
    /// How long it has been running, in seconds.
    pub uptime_s: u64,
    /// Its network interfaces, without the loopback.
    pub interfaces: Vec<Interface>,
}

/// A guest's network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the guest.
    pub name: String,
    /// Its hardware address as text.
    pub mac: String,
    /// Whether it is up.
    pub up: bool,
    /// Its IP addresses.
    pub addresses: Vec<Address>,
}

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// How many of its leading bits name the network.
    pub prefix_len: u8,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends too soon.
    #[error("the message ends too soon")]
    Truncated,
    /// The message goes on after its end.
    #[error("the message goes on after its end")]
    Trailing,
    /// A field has a value that it cannot have.
    #[error("a field of the message has an impossible value")]
    Malformed,
    /// No message begins like this.
    #[error("unknown message {0:#04x}")]
    Unknown(u8),
}

/// The first byte of each message.
mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const OPEN: u8 = 0x02;
    pub(super) const STDIN: u8 = 0x03;
    pub(super) const STDIN_EOF: u8 = 0x04;
    pub(super) const RESIZE: u8 = 0x05;
    pub(super) const SIGNAL: u8 = 0x06;
    pub(super) const CREDIT: u8 = 0x07;
    pub(super) const CLOSE: u8 = 0x08;
    pub(super) const QUERY: u8 = 0x09;
    pub(super) const SHUTDOWN: u8 = 0x0A;

    pub(super) const READY: u8 = 0x81;
    pub(super) const WELCOME: u8 = 0x82;
    pub(super) const STARTED: u8 = 0x83;
    pub(super) const STDOUT: u8 = 0x84;
    pub(super) const STDERR: u8 = 0x85;
    pub(super) const GUEST_CREDIT: u8 = 0x86;
    pub(super) const EXIT: u8 = 0x87;
    pub(super) const ERROR: u8 = 0x88;
    pub(super) const INFO: u8 = 0x89;
    pub(super) const SHUTDOWN_BEGUN: u8 = 0x8A;
}

impl ToGuest {
    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Hello { version, nonce } => {
                out.u8(kind::HELLO);
                out.u16(*version);
                out.u64(*nonce);
            }
            Self::Open(session, exec) => {
                out.about(kind::OPEN, *session);
                exec.write(&mut out);
            }
            Self::Stdin(session, data) => out.stream(kind::STDIN, *session, data),
            Self::StdinEof(session) => out.about(kind::STDIN_EOF, *session),
            Self::Resize(session, size) => {
                out.about(kind::RESIZE, *session);
                size.write(&mut out);
            }
            Self::Signal(session, signal) => {
                out.about(kind::SIGNAL, *session);
                out.u8(*signal);
            }
            Self::Credit(session, bytes) => {
                out.about(kind::CREDIT, *session);
                out.u32(*bytes);
            }
            Self::Close(session) => out.about(kind::CLOSE, *session),
            Self::Query(query) => out.about(kind::QUERY, *query),
            Self::Shutdown(query, shutdown) => {
                out.about(kind::SHUTDOWN, *query);
                out.u8(match shutdown {
                    Shutdown::PowerOff => 0,
                    Shutdown::Reboot => 1,
                });
            }
        }
        out.0
    }

    /// The message in `bytes`, all of them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader(bytes);
        let message = match input.u8()? {
            kind::HELLO => Self::Hello { version: input.u16()?, nonce: input.u64()? },
            kind::OPEN => Self::Open(input.u32()?, Exec::read(&mut input)?),
            kind::STDIN => Self::Stdin(input.u32()?, input.data()?),
            kind::STDIN_EOF => Self::StdinEof(input.u32()?),
            kind::RESIZE => Self::Resize(input.u32()?, Size::read(&mut input)?),
            kind::SIGNAL => Self::Signal(input.u32()?, input.u8()?),
            kind::CREDIT => Self::Credit(input.u32()?, input.u32()?),
            kind::CLOSE => Self::Close(input.u32()?),
            kind::QUERY => Self::Query(input.u32()?),
            kind::SHUTDOWN => Self::Shutdown(
                input.u32()?,
                match input.u8()? {
                    0 => Shutdown::PowerOff,
                    1 => Shutdown::Reboot,
                    _ => return Err(DecodeError::Malformed),
                },
            ),
            other => return Err(DecodeError::Unknown(other)),
        };
        input.end().map(|()| message)
    }
}

impl ToHost {
    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Ready => out.u8(kind::READY),
            Self::Welcome { version, nonce, info } => {
                out.u8(kind::WELCOME);
                out.u16(*version);
                out.u64(*nonce);
                info.write(&mut out);
            }
            Self::Started(session) => out.about(kind::STARTED, *session),
            Self::Stdout(session, data) => out.stream(kind::STDOUT, *session, data),
            Self::Stderr(session, data) => out.stream(kind::STDERR, *session, data),
            Self::Credit(session, bytes) => {
                out.about(kind::GUEST_CREDIT, *session);
                out.u32(*bytes);
            }
            Self::Exit(session, status) => {
                out.about(kind::EXIT, *session);
                let (how, number) = match status {
                    ExitStatus::Code(code) => (0, *code),
                    ExitStatus::Signal(signal) => (1, *signal),
                };
                out.u8(how);
                out.u8(number);
            }
            Self::Error(session, message) => {
                out.about(kind::ERROR, *session);
                out.string(message);
            }
            Self::Info(query, info) => {
                out.about(kind::INFO, *query);
                info.write(&mut out);
            }
            Self::ShutdownBegun(query, begun) => {
                out.about(kind::SHUTDOWN_BEGUN, *query);
                out.option(begun.as_ref().err(), |out, message| out.string(message));
            }
        }
        out.0
    }

    /// The message in `bytes`, all of them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader(bytes);
        let message = match input.u8()? {
            kind::READY => Self::Ready,
            kind::WELCOME => {
                let (version, nonce) = (input.u16()?, input.u64()?);
                Self::Welcome { version, nonce, info: AgentInfo::read(&mut input)? }
            }
            kind::STARTED => Self::Started(input.u32()?),
            kind::STDOUT => Self::Stdout(input.u32()?, input.data()?),
            kind::STDERR => Self::Stderr(input.u32()?, input.data()?),
            kind::GUEST_CREDIT => Self::Credit(input.u32()?, input.u32()?),
            kind::EXIT => Self::Exit(
                input.u32()?,
                match (input.u8()?, input.u8()?) {
                    (0, code) => ExitStatus::Code(code),
                    (1, signal) => ExitStatus::Signal(signal),
                    _ => return Err(DecodeError::Malformed),
                },
            ),
            kind::ERROR => Self::Error(input.u32()?, input.string()?),
            kind::INFO => Self::Info(input.u32()?, GuestInfo::read(&mut input)?),
            kind::SHUTDOWN_BEGUN => {
                Self::ShutdownBegun(input.u32()?, input.option(Reader::string)?.map_or(Ok(()), Err))
            }
            other => return Err(DecodeError::Unknown(other)),
        };
        input.end().map(|()| message)
    }
}

impl Writer {
    /// A message's kind and the session or query that it is about.
    fn about(&mut self, kind: u8, number: u32) {
        self.u8(kind);
        self.u32(number);
    }

    fn stream(&mut self, kind: u8, session: SessionId, data: &[u8]) {
        debug_assert!(!data.is_empty() && data.len() <= DATA_BYTES_MAX);
        self.about(kind, session);
        self.0.extend(data);
    }
}

impl Exec {
    /// How long the command is as a message; it must not exceed [`MESSAGE_BYTES_MAX`].
    pub fn encoded_len(&self) -> usize {
        ToGuest::Open(0, self.clone()).encode().len()
    }

    fn write(&self, out: &mut Writer) {
        out.list(&self.argv, |out, argument| out.string(argument));
        out.list(&self.env, |out, (name, value)| {
            out.string(name);
            out.string(value);
        });
        out.option(self.cwd.as_ref(), |out, cwd| out.string(cwd));
        out.option(self.tty.as_ref(), |out, tty| {
            tty.size.write(out);
            out.string(&tty.term);
        });
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            argv: input.list(Reader::string)?,
            env: input.list(|input| Ok((input.string()?, input.string()?)))?,
            cwd: input.option(Reader::string)?,
            tty: input.option(|input| Ok(Tty { size: Size::read(input)?, term: input.string()? }))?,
        })
    }
}

impl Size {
    pub(crate) fn write(self, out: &mut Writer) {
        out.u16(self.rows);
        out.u16(self.cols);
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { rows: input.u16()?, cols: input.u16()? })
    }
}

impl AgentInfo {
    fn write(&self, out: &mut Writer) {
        for field in [&self.version, &self.boot_id, &self.kernel, &self.hostname] {
            out.string(field);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            version: input.string()?,
            boot_id: input.string()?,
            kernel: input.string()?,
            hostname: input.string()?,
        })
    }
}

impl GuestInfo {
    fn write(&self, out: &mut Writer) {
        out.string(&self.hostname);
        out.u64(self.uptime_s);
        out.list(&self.interfaces, |out, interface| {
            out.string(&interface.name);
            out.string(&interface.mac);
            out.u8(u8::from(interface.up));
            out.list(&interface.addresses, |out, address| {
                out.ip(address.ip);
                out.u8(address.prefix_len);
            });
        });
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let address = |input: &mut Reader<'_>| Ok(Address { ip: input.ip()?, prefix_len: input.u8()? });
        let interface = |input: &mut Reader<'_>| {
            Ok(Interface {
                name: input.string()?,
                mac: input.string()?,
                up: input.flag()?,
                addresses: input.list(address)?,
            })
        };
        Ok(Self { hostname: input.string()?, uptime_s: input.u64()?, interfaces: input.list(interface)? })
    }
}
