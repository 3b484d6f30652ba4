//! A vhost-user back end for one virtio-net device with one pair of queues.
//!
//! A VMM connects, lends its guest's memory and rings, and may leave and come back at any time; while its guest
//! migrates there are two of them ([`door`]). A thread of the port's own talks to them ([`session`]); the worker only
//! touches rings and memory ([`handover`]).

mod door;
mod features;
mod guest;
mod handover;
mod message;
mod probe;
mod ready;
mod regions;
mod ring;
mod session;

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};

use rustix::event::epoll::EventFlags;

use crate::epoll::Epoll;
use crate::socket::{Side, SocketFile, listen_at};
use crate::{Caps, Frame, Lent, Link, Port, PortError, SendError};
use door::Door;
use guest::{Guest, RingSlot};
use handover::{Answer, Command, Handover, Letter, Shared};
pub use probe::probe_guest;
use ring::{Ring, RingError};

/// The guest receives by the first queue and sends by the second (virtio 1.2, section 5.1.2).
const RX_QUEUE: usize = 0;
const TX_QUEUE: usize = 1;
const QUEUES: usize = 2;

/// The session thread's stack: it parses messages of at most 4 KiB.
const SESSION_STACK_BYTES: usize = 256 << 10;

/// Serves a VMM at a Unix socket.
pub struct VhostUserPort {
    epoll: Epoll,
    shared: Arc<Shared>,
    mailbox: Option<Receiver<Letter>>,
    session: Option<JoinHandle<()>>,
    _file: Option<SocketFile>,
    guest: Guest,
    absence: Cow<'static, str>,
    /// The guest broke a ring; that is said until the next VMM comes.
    faulty: bool,
}

impl VhostUserPort {
    /// Listens at `socket`, or connects to the VMM that does.
    ///
    /// # Errors
    /// When the socket cannot be made there.
    pub fn open(socket: &Path, side: Side) -> Result<Self, PortError> {
        let (door, file) = match side {
            Side::Listen => {
                let (listener, file) = listen_at(socket)?;
                (Door::Listener(listener), Some(file))
            }
            Side::Connect => (Door::Peer(socket.to_owned()), None),
        };
        let (handover, mailbox) = Handover::new()?;
        let shared = handover.shared.clone();
        let epoll = Epoll::new()?;
        epoll.add(&shared.doorbell, EventFlags::IN | EventFlags::ET)?;
        let session = thread::Builder::new()
            .name("vhost-user".into())
            .stack_size(SESSION_STACK_BYTES)
            .spawn(move || door::serve(&door, &handover))?;
        Ok(Self {
            epoll,
            shared,
            mailbox: Some(mailbox),
            session: Some(session),
            _file: file,
            guest: Guest::default(),
            absence: "waits for the VMM to connect".into(),
            faulty: false,
        })
    }

    fn read_mail(&mut self) {
        while let Some(letter) = self.mailbox.as_ref().and_then(|mailbox| mailbox.try_recv().ok()) {
            let answer = self.obey(letter.command);
            let _ = letter.answer.send(answer);
        }
    }

    fn obey(&mut self, command: Command) -> Answer {
        match command {
            Command::Features(features) => self.guest.features = features,
            Command::Memory(memory) => self.guest.move_to(memory)?,
            Command::Start { index, layout, kick, call } => {
                let mut ring = Ring::start(layout, &self.guest.memory)?;
                ring.open(&self.guest.memory).spare_kicks()?;
                if index == TX_QUEUE
                    && let Some(kick) = &kick
                {
                    // By edges: so the counter need not be read, which a VMM could make us wait for.
                    let _ = self.epoll.add(kick, EventFlags::IN | EventFlags::ET);
                }
                let slot = &mut self.guest.rings[index];
                *slot = RingSlot::new(ring, slot.enabled, kick, call);
                slot.interrupt(); // what the last back end left behind may need it
                self.absence = "the guest has not set up its driver".into();
            }
            Command::Stop { index } => return Ok(self.close_ring(index)),
            Command::Call { index, call } => {
                let slot = &mut self.guest.rings[index];
                slot.call = call;
                slot.interrupt();
            }
            Command::LogUsed { index, address } => {
                if let Some(ring) = &mut self.guest.rings[index].ring {
                    ring.log_used_at(address);
                }
            }
            Command::Announce(mac) => self.guest.announce(mac),
            Command::Enable { index, enabled } => self.guest.rings[index].enabled = enabled,
            Command::Detach { reason } => {
                self.detach();
                if !std::mem::take(&mut self.faulty) {
                    self.absence = reason.into();
                }
            }
        }
        Ok(0)
    }

    /// Takes a ring down and says where it stood.
    fn close_ring(&mut self, index: usize) -> u16 {
        let slot = self.guest.close_ring(index);
        if let Some(kick) = &slot.kick {
            self.epoll.remove(kick);
        }
        slot.ring.map_or(0, |ring| ring.base())
    }

    /// Lets go of everything that belongs to the guest.
    fn detach(&mut self) {
        self.close_ring(RX_QUEUE);
        self.close_ring(TX_QUEUE);
        self.guest = Guest::default();
    }

    /// The guest broke a ring: its VMM is sent away, and may come back.
    fn fault(&mut self, error: RingError) {
        tracing::debug!(target: "weft::port", %error, "a guest broke its ring");
        self.detach();
        self.faulty = true;
        self.absence = format!("the guest broke its ring: {error}").into();
        self.shared.hang_up();
    }
}

impl Port for VhostUserPort {
    fn driver(&self) -> &'static str {
        "vhost-user"
    }

    fn caps(&self) -> Caps {
        self.guest.features.caps()
    }

    fn link(&self) -> Link {
        if self.guest.is_ready() { Link::Up } else { Link::Down(self.absence.clone()) }
    }

    fn recv(&mut self) -> Lent {
        if self.shared.was_rung() {
            self.read_mail();
        }
        match self.guest.recv() {
            Ok(lent) => {
                if lent.frames == 0 {
                    self.guest.release();
                }
                lent
            }
            Err(error) => {
                self.fault(error);
                Lent { frames: 0, malformed: 1 }
            }
        }
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        self.guest.frame(index)
    }

    fn release(&mut self) {
        self.guest.release();
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        self.guest.send(frame).unwrap_or_else(|error| {
            self.fault(error);
            Err(SendError::Down)
        })
    }

    fn flush(&mut self) {
        self.guest.flush();
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn sleep(&mut self) -> bool {
        self.guest.want_kicks().unwrap_or_else(|error| {
            self.fault(error);
            true
        })
    }

    fn wake(&mut self) {
        self.epoll.clear_edges();
        if let Err(error) = self.guest.spare_kicks() {
            self.fault(error);
        }
    }

    fn trim(&mut self) {
        self.guest.memory.untouch();
    }
}

impl Drop for VhostUserPort {
    fn drop(&mut self) {
        self.mailbox = None; // a session that waits for an answer stops waiting
        self.shared.close();
        if let Some(session) = self.session.take() {
            let _ = session.join();
        }
    }
}
