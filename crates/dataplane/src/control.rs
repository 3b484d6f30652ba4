//! The control socket: lines of JSON from the daemon, and a thread for each that talks, so that one which
//! does not go on talking stops nobody.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, accept_with, recvmsg};
use weft_dataplane_protocol::{
    DataplaneConfig, ErrorCode, LineBuffer, LineError, MAX_DESCRIPTORS, Refusal, Request, Response, to_line,
};
use weft_port::{SocketFile, TapPort, listen_at};

use crate::DataplaneError;
use crate::mailbox::{ClientId, Desk, Task};
use crate::state_dir::StateDir;

/// Clients that are served at a time; further ones are sent away at once.
const MAX_CLIENTS: usize = 16;

/// How long a line may take from its first byte to its last, and an answer to be taken.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// A line and its answer need little stack; JSON is parsed into the heap.
const CLIENT_STACK_BYTES: usize = 512 << 10;

/// The control socket and its threads; they end when this is dropped.
pub(crate) struct Control {
    stop: Arc<OwnedFd>,
    acceptor: Option<JoinHandle<()>>,
    _file: SocketFile,
}

/// What every client's thread needs.
struct Office {
    desk: Desk,
    state: Arc<StateDir>,
    stop: Arc<OwnedFd>,
    /// How many clients there have been.
    clients: AtomicU64,
    /// Held while a configuration is applied: one at a time.
    applying: Mutex<()>,
}

impl Control {
    /// Listens at `socket`.
    pub(crate) fn open(socket: &Path, desk: Desk, state: Arc<StateDir>) -> Result<Self, DataplaneError> {
        let (listener, file) = listen_at(socket).map_err(DataplaneError::Control)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?);
        let office =
            Arc::new(Office { desk, state, stop: stop.clone(), clients: AtomicU64::new(0), applying: Mutex::new(()) });
        let acceptor = thread::Builder::new().name("control".into()).spawn(move || accept_all(&listener, &office))?;
        Ok(Self { stop, acceptor: Some(acceptor), _file: file })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept_all(listener: &OwnedFd, office: &Arc<Office>) {
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    while wait(listener, &office.stop, None) == Wake::Ready {
        let stream = match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(stream) => UnixStream::from(stream),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => continue,
            Err(_) => {
                thread::sleep(Duration::from_millis(100)); // out of descriptors: the client stays in the backlog
                continue;
            }
        };
        clients.retain(|client| !client.is_finished());
        if clients.len() < MAX_CLIENTS {
            let office = office.clone();
            let client = thread::Builder::new().name("control-client".into()).stack_size(CLIENT_STACK_BYTES);
            clients.extend(client.spawn(move || serve(stream, &office)));
        }
    }
    for client in clients {
        let _ = client.join();
    }
}

#[derive(PartialEq, Eq)]
enum Wake {
    Ready,
    TimedOut,
    Stopped,
}

/// Waits until `fd` is readable, or everything ends.
fn wait(fd: &impl AsFd, stop: &OwnedFd, timeout: Option<Duration>) -> Wake {
    let timeout = timeout.map(|span| Timespec {
        tv_sec: span.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: span.subsec_nanos().into(),
    });
    loop {
        let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(fd, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            Err(_) => return Wake::Stopped,
            Ok(_) if !fds[0].revents().is_empty() => return Wake::Stopped,
            Ok(0) => return Wake::TimedOut,
            Ok(_) => return Wake::Ready,
        }
    }
}

/// Serves one client until it leaves, or says what cannot be understood.
fn serve(stream: UnixStream, office: &Office) {
    let client = ClientId(office.clients.fetch_add(1, Ordering::Relaxed));
    converse(stream, office, client);
    office.desk.ask(Task::Unheard(client));
}

fn converse(mut stream: UnixStream, office: &Office, client: ClientId) {
    let _ = stream.set_write_timeout(Some(LINE_TIMEOUT));
    let mut lines = LineBuffer::default();
    let mut descriptors = Vec::new();
    let mut begun: Option<Instant> = None;
    loop {
        while let Some(request) = lines.pop() {
            begun = None;
            let taps = std::mem::take(&mut descriptors);
            let ending = matches!(request, Ok(Request::Shutdown { .. }));
            let (response, task) = match request {
                Ok(Request::Shutdown { forget }) => (Response::Done, Some(Task::End { forget })),
                Ok(request) => (office.answer(request, taps, client), None),
                Err(error) => (not_understood(&error), None),
            };
            let line = to_line(&response).or_else(|error| to_line(&not_understood_answer(&error)));
            let sent = line.and_then(|line| stream.write_all(&line));
            if let Some(task) = task {
                office.desk.ask(task);
            }
            if sent.is_err() || ending {
                return;
            }
        }
        let left = if lines.is_partial() {
            let deadline = *begun.get_or_insert_with(Instant::now) + LINE_TIMEOUT;
            Some(deadline.saturating_duration_since(Instant::now()))
        } else {
            None
        };
        if wait(&stream, &office.stop, left) != Wake::Ready {
            return;
        }
        match read(&stream, &mut lines, &mut descriptors) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let _ = to_line(&not_understood(&error)).and_then(|line| stream.write_all(&line));
                return;
            }
        }
    }
}

/// Reads once, descriptors included; `false` when the client left.
fn read(stream: &UnixStream, lines: &mut LineBuffer, descriptors: &mut Vec<OwnedFd>) -> Result<bool, LineError> {
    let mut chunk = [0; 64 << 10];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut room);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let count = match recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, flags) {
        Ok(received) => received.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
        Err(_) => return Ok(false),
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
            descriptors.truncate(MAX_DESCRIPTORS);
        }
    }
    lines.push(&chunk[..count])?;
    Ok(count > 0)
}

impl Office {
    fn answer(&self, request: Request, descriptors: Vec<OwnedFd>, client: ClientId) -> Response {
        match request {
            Request::Apply(config) => self.apply(config, descriptors),
            Request::Status => self.desk.ask(Task::Status),
            Request::Rules => self.desk.ask(Task::Rules),
            Request::History => self.desk.ask(Task::History),
            Request::Capture(request) => match <[OwnedFd; 1]>::try_from(descriptors) {
                Ok([descriptor]) => self.desk.ask(Task::Capture { request, descriptor }),
                Err(others) => Response::Refused(Refusal {
                    code: ErrorCode::BadRequest,
                    message: format!("a capture goes into one descriptor, and {} came with it", others.len()),
                    hint: "hand over the writing end of a pipe".into(),
                }),
            },
            Request::Explain(request) => self.desk.ask(Task::Explain(request)),
            Request::Listens(request) => self.desk.ask(Task::Listens { request, client }),
            Request::Shutdown { .. } => Response::Done, // its caller does it
        }
    }

    /// Checks and opens on the worker, makes durable here, and only then comes into force.
    fn apply(&self, config: DataplaneConfig, descriptors: Vec<OwnedFd>) -> Response {
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |device: OwnedFd| Some((TapPort::interface_of(device.as_fd()).ok()?, device));
        let taps: BTreeMap<_, _> = descriptors.into_iter().filter_map(named).collect();
        match self.desk.ask(Task::Prepare { config: Box::new(config.clone()), taps }) {
            Response::Done => {}
            refused => return refused,
        }
        if let Err(error) = self.state.save(&config) {
            self.desk.ask(Task::Abort);
            return Response::Refused(Refusal {
                code: ErrorCode::DiskFailed,
                message: format!("the configuration cannot be written to disk: {error}"),
                hint: "make room on the disk of the state folder, and see that the folder is writable".into(),
            });
        }
        self.desk.ask(Task::Commit)
    }
}

fn not_understood(error: &LineError) -> Response {
    let detail = match error {
        LineError::Malformed(source) => format!(": {source}"),
        LineError::TooLong => String::new(),
    };
    Response::Refused(Refusal {
        code: ErrorCode::BadRequest,
        message: format!("{error}{detail}"),
        hint: "the daemon and the switch may be of different versions: end both and run `weft up`".into(),
    })
}

fn not_understood_answer(error: &io::Error) -> Response {
    Response::Refused(Refusal {
        code: ErrorCode::BadRequest,
        message: format!("the answer cannot be sent: {error}"),
        hint: "ask for less".into(),
    })
}
