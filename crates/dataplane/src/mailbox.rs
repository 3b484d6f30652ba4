//! How the control socket's threads have the worker do things between two bursts.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use weft_dataplane_protocol::{
    CaptureRequest, DataplaneConfig, ErrorCode, ExplainRequest, ListensRequest, Refusal, Response,
};

/// The worker answers between two bursts; opening hundreds of ports takes a moment longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// One connection to the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientId(pub(crate) u64);

/// What the worker can be asked to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// Check a configuration and open its new ports, without using any of it.
    Prepare {
        config: Box<DataplaneConfig>,
        /// TAP devices that were handed over, by their names.
        taps: BTreeMap<String, OwnedFd>,
    },
    /// Become what was prepared.
    Commit,
    /// Let go of what was prepared.
    Abort,
    /// Tell everything.
    Status,
    /// Tell the access lists.
    Rules,
    /// Tell what rules decided and which frames were dropped.
    History,
    /// Copy frames into a descriptor.
    Capture { request: CaptureRequest, descriptor: OwnedFd },
    /// Tell what would happen to a frame.
    Explain(ExplainRequest),
    /// Note what a vNIC listens to, and which client says so.
    Listens { request: ListensRequest, client: ClientId },
    /// This client has gone, and tells no more what vNICs listen to.
    Unheard(ClientId),
    /// End.
    End { forget: bool },
}

/// A task and where its answer goes.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) task: Task,
    answer: SyncSender<Response>,
}

impl Letter {
    /// Answers; nobody may wait any more.
    pub(crate) fn answer(answer: SyncSender<Response>, response: Response) {
        let _ = answer.send(response);
    }

    pub(crate) fn open(self) -> (Task, SyncSender<Response>) {
        (self.task, self.answer)
    }
}

/// The worker's side.
pub(crate) struct Mailbox {
    letters: Receiver<Letter>,
    bell: Arc<OwnedFd>,
}

/// The other side.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    letters: Sender<Letter>,
    bell: Arc<OwnedFd>,
}

/// Both sides.
pub(crate) fn open() -> io::Result<(Desk, Mailbox)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = channel();
    Ok((Desk { letters: sender, bell: bell.clone() }, Mailbox { letters: receiver, bell }))
}

impl Desk {
    /// Has the worker do `task`, and waits for its answer.
    pub(crate) fn ask(&self, task: Task) -> Response {
        let (answer, answered) = sync_channel(1);
        let ended = || {
            Response::Refused(Refusal {
                code: ErrorCode::BadRequest,
                message: "the switch is ending".into(),
                hint: "start it again".into(),
            })
        };
        if self.letters.send(Letter { task, answer }).is_err() {
            return ended();
        }
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        answered.recv_timeout(ANSWER_TIMEOUT).unwrap_or_else(|_| ended())
    }
}

impl Mailbox {
    /// The next letter, if there is one.
    pub(crate) fn next(&self) -> Option<Letter> {
        self.letters.try_recv().ok()
    }

    /// Acknowledges the wake-up.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
