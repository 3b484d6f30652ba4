//! The host's side of Weft's own agent: what callers hold. The work is done by [`super::link`], on a thread.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use weft_agent::message::{ExitStatus, MESSAGE_BYTES_MAX, SESSIONS_MAX, VERSION};
use weft_agent::session::{self, ServerFrame};
use weft_types::MacAddr;

use super::link::{Link, Order};
use super::{AgentInfo, ExecRequest, GuestError, GuestInfo, Result, Shutdown};

/// How long an agent that has answered before may take for a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection to the agent of one guest.
///
/// Clones share it. With the last of them it ends, as soon as the sessions that were begun through it are over.
#[derive(Clone)]
pub struct Agent {
    held: Arc<Held>,
}

/// Ends the connection when the last clone goes.
struct Held(Arc<Shared>);

/// What callers and the link's thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the thread to look at the orders.
    pub(super) wake: OwnedFd,
}

pub(super) struct State {
    /// How things stand with the agent.
    pub(super) standing: Standing,
    /// What callers want done.
    pub(super) orders: Vec<Order>,
    /// How many sessions are open or ordered.
    pub(super) sessions: usize,
    /// Nobody will give orders any more.
    pub(super) closed: bool,
}

/// How things stand with the agent.
pub(super) enum Standing {
    /// The engine's socket cannot be reached: the error's kind and words.
    Unreachable(std::io::ErrorKind, String),
    /// Nobody has answered yet.
    Silent,
    /// The agent speaks this version of the protocol, which is not ours.
    Foreign(u16),
    /// The agent answers.
    Ready(AgentInfo),
}

impl Agent {
    /// Begins to talk to the agent behind `socket`, on which the engine listens.
    ///
    /// Neither socket nor agent need be there yet, and the connection is made again whenever it breaks:
    /// see [`Agent::wait_ready`].
    pub fn connect(socket: &Path) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let state = State { standing: Standing::Silent, orders: Vec::new(), sessions: 0, closed: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake: wake.map_err(|error| GuestError::Host(error.into()))?,
        });
        let link = Link::new(socket.to_owned(), shared.clone());
        thread::Builder::new().name("guest-agent".to_owned()).spawn(|| link.run()).map_err(GuestError::Host)?;
        Ok(Self { held: Arc::new(Held(shared)) })
    }

    /// Waits until the agent answers, and says who it is.
    ///
    /// An agent of another protocol version is an error at once; a socket that cannot be reached, or an agent that says
    /// nothing, is one after `timeout`.
    pub fn wait_ready(&self, timeout: Duration) -> Result<AgentInfo> {
        let began = Instant::now();
        let mut state = self.shared().lock();
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            match &state.standing {
                Standing::Ready(info) => return Ok(info.clone()),
                Standing::Foreign(_) => return Err(state.standing.refusal(timeout)),
                _ if left.is_zero() => return Err(state.standing.refusal(timeout)),
                _ => {}
            }
            state = self.shared().changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks the guest about itself.
    pub fn info(&self) -> Result<GuestInfo> {
        let (asked, answer) = sync_channel(1);
        self.order(Order::Query(asked))?;
        wait(&answer)
    }

    /// Runs a command in the guest.
    ///
    /// The stream speaks [`super::session`] frames. Dropping it, or shutting down its writing half, kills the command.
    pub fn exec(&self, request: ExecRequest) -> Result<UnixStream> {
        check(&request)?;
        let (client, server) = UnixStream::pair().map_err(GuestError::Host)?;
        server.set_nonblocking(true).map_err(GuestError::Host)?;
        self.order(Order::Open(request, server))?;
        Ok(client)
    }

    /// Lets adapters of a guest of Weft's own image, by their MAC addresses, ask for new leases.
    pub fn renew_leases(&self, adapters: impl IntoIterator<Item = MacAddr>) -> Result<()> {
        self.run("renew-leases", adapters)
    }

    /// Lets them ask what the leases that they have say now; their addresses stay.
    pub fn refresh_leases(&self, adapters: impl IntoIterator<Item = MacAddr>) -> Result<()> {
        self.run("refresh-leases", adapters)
    }

    /// Runs a program of the guest's that takes MAC addresses, to its end.
    fn run(&self, program: &str, adapters: impl IntoIterator<Item = MacAddr>) -> Result<()> {
        let argv = std::iter::once(program.to_owned()).chain(adapters.into_iter().map(|mac| mac.to_string()));
        let mut session = self.exec(ExecRequest { argv: argv.collect(), ..ExecRequest::default() })?;
        loop {
            match session::read(&mut session) {
                Ok(Some(ServerFrame::Exit(ExitStatus::Code(0)))) => return Ok(()),
                Ok(Some(
                    ServerFrame::Started | ServerFrame::Note(_) | ServerFrame::Stdout(_) | ServerFrame::Stderr(_),
                )) => {}
                Ok(Some(ServerFrame::Exit(status))) => return Err(GuestError::Refused(format!("{status:?}"))),
                Ok(Some(ServerFrame::Error(why))) => return Err(GuestError::Refused(why)),
                Ok(None) | Err(_) => return Err(GuestError::Lost),
            }
        }
    }

    /// Asks the guest to end itself; returns when it has begun to.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        let (asked, answer) = sync_channel(1);
        self.order(Order::Shutdown(how, asked))?;
        wait(&answer)?.map_err(GuestError::Refused)
    }

    fn order(&self, order: Order) -> Result<()> {
        let mut state = self.shared().lock();
        if !matches!(state.standing, Standing::Ready(_)) {
            return Err(state.standing.refusal(Duration::ZERO));
        }
        if let Order::Open(..) = order {
            if state.sessions >= SESSIONS_MAX {
                return Err(GuestError::TooManySessions(state.sessions));
            }
            state.sessions += 1;
        }
        state.orders.push(order);
        drop(state);
        self.shared().wake();
        Ok(())
    }

    fn shared(&self) -> &Shared {
        &self.held.0
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake();
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all who wait how things stand now.
    pub(super) fn stand(&self, standing: Standing) {
        self.lock().standing = standing;
        self.changed.notify_all();
    }

    fn wake(&self) {
        // The only way to fail is a counter at its end, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Standing {
    /// The error for a caller who wanted the agent to be ready.
    fn refusal(&self, waited: Duration) -> GuestError {
        match self {
            Self::Unreachable(kind, words) => GuestError::Unreachable(std::io::Error::new(*kind, words.clone())),
            Self::Foreign(guest) => GuestError::Version { guest: *guest, host: VERSION },
            Self::Silent | Self::Ready(_) => GuestError::NotReady { waited },
        }
    }
}

fn wait<T>(answer: &Receiver<T>) -> Result<T> {
    answer.recv_timeout(ANSWER_TIMEOUT).map_err(|error| match error {
        std::sync::mpsc::RecvTimeoutError::Timeout => GuestError::NotReady { waited: ANSWER_TIMEOUT },
        std::sync::mpsc::RecvTimeoutError::Disconnected => GuestError::Lost,
    })
}

/// Refuses what no guest could run, in words that are better than the guest's.
pub(super) fn check(request: &ExecRequest) -> Result<()> {
    let invalid = |what: &str| Err(GuestError::Invalid(what.to_owned()));
    let variables = || request.env.iter().flat_map(|(name, value)| [name, value]);
    if request.argv.first().is_none_or(String::is_empty) {
        return invalid("no program is named");
    }
    if request.argv.iter().chain(variables()).chain(&request.cwd).any(|text| text.contains('\0')) {
        return invalid("an argument, a variable or the folder contains a zero byte");
    }
    if let Some((name, _)) = request.env.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
        return Err(GuestError::Invalid(format!("`{name}` cannot be the name of a variable")));
    }
    match request.encoded_len() {
        len if len > MESSAGE_BYTES_MAX => Err(GuestError::Invalid(format!(
            "arguments and variables take {len} bytes; the limit is {MESSAGE_BYTES_MAX}"
        ))),
        _ => Ok(()),
    }
}
