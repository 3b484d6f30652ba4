//! How a port's session thread, which talks to the VMM, and the worker, which moves frames, meet: the session
//! puts one command at a time into a mailbox and waits; the worker looks into it between two bursts, at the
//! price of one load while it is empty. So no lock is ever held while frames move, and nothing that a VMM
//! sends, or leaves unsent, can make the worker wait.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use weft_types::MacAddr;

use super::features::Features;
use super::ring::{RingError, RingLayout};
use crate::guest_memory::GuestMemory;

/// The worker answers between two bursts. When it takes this long, it has other troubles.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the session asks of the worker.
pub(crate) enum Command {
    /// The driver accepted these.
    Features(Features),
    /// The guest's memory is this from now on.
    Memory(GuestMemory),
    /// A ring was set up.
    Start { index: usize, layout: RingLayout, kick: Option<OwnedFd>, call: Option<OwnedFd> },
    /// A ring ends; answered with its base.
    Stop { index: usize },
    /// Writes to a ring's used part are noted at this address from now on.
    LogUsed { index: usize, address: Option<u64> },
    /// The network is to learn that this station is here now.
    Announce(MacAddr),
    /// A ring's interrupts go there from now on.
    Call { index: usize, call: Option<OwnedFd> },
    /// A ring may be used, or not.
    Enable { index: usize, enabled: bool },
    /// The VMM is gone; nothing of it may be kept.
    Detach { reason: String },
}

/// What the worker answers: the ring's base for [`Command::Stop`], otherwise 0.
pub(crate) type Answer = Result<u16, RingError>;

/// A command and where its answer goes.
pub(crate) struct Letter {
    pub(crate) command: Command,
    pub(crate) answer: SyncSender<Answer>,
}

/// What both sides share.
pub(crate) struct Shared {
    /// Wakes the worker.
    pub(crate) doorbell: OwnedFd,
    rung: AtomicBool,
    /// Wakes the session thread.
    pub(crate) bell: OwnedFd,
    /// The port is closed.
    closed: AtomicBool,
    /// The guest broke a ring.
    broken: AtomicBool,
}

impl Shared {
    /// Whether letters may have come since this was asked last.
    pub(crate) fn was_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::Acquire)
    }

    /// Has the VMM sent away whose guest has the port.
    pub(crate) fn hang_up(&self) {
        self.broken.store(true, Ordering::Release);
        self.ring_bell();
    }

    /// Whether that was asked for since this was asked last.
    pub(crate) fn take_broken(&self) -> bool {
        self.broken.swap(false, Ordering::Acquire)
    }

    /// Tells the session thread to end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring_bell();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn ring_bell(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// The session's side.
pub(crate) struct Handover {
    pub(crate) shared: Arc<Shared>,
    letters: Sender<Letter>,
}

impl Handover {
    /// Both sides: the session's, and the worker's.
    pub(crate) fn new() -> io::Result<(Self, Receiver<Letter>)> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shared = Shared {
            doorbell: event()?,
            rung: AtomicBool::new(false),
            bell: event()?,
            closed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        };
        let (letters, mailbox) = channel();
        Ok((Self { shared: Arc::new(shared), letters }, mailbox))
    }

    /// Has the worker do `command`, and waits until it is done; `None` when the port is closed.
    pub(crate) fn ask(&self, command: Command) -> Option<Answer> {
        let (answer, answered) = sync_channel(1);
        self.letters.send(Letter { command, answer }).ok()?;
        self.shared.rung.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.doorbell, &1u64.to_ne_bytes());
        answered.recv_timeout(ANSWER_TIMEOUT).ok()
    }
}
