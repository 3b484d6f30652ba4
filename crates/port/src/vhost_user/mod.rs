//! A vhost-user back end for one virtio-net device with one pair of queues.
//!
//! A VMM connects, lends its guest's memory and rings, and may leave and come back at any time. A thread of
//! the port's own talks to it ([`session`]); the worker only touches rings and memory ([`handover`]).

mod features;
mod handover;
mod message;
mod probe;
mod regions;
mod ring;
mod session;

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};

use rustix::event::epoll::EventFlags;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use weft_wire::Offload;
use weft_wire::virtio_net::{Author, HEADER_BYTES};

use crate::epoll::Epoll;
use crate::frame::Piece;
use crate::socket::{SocketFile, listen_at};
use crate::vnet::{read_header, write_header};
use crate::{
    BURST_FRAMES, Caps, Frame, HEAD_BYTES, Lent, Link, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Port, PortError, SendError,
};
use features::Features;
use handover::{Answer, Command, Handover, Letter, Shared};
pub use probe::probe_guest;
use ring::{Chain, Direction, Ring, RingError};

/// The guest receives by the first queue and sends by the second (virtio 1.2, section 5.1.2).
const RX_QUEUE: usize = 0;
const TX_QUEUE: usize = 1;
const QUEUES: usize = 2;

/// Buffers that one frame may be spread over: enough for the largest frame in buffers of a kibibyte.
const MAX_MERGED_CHAINS: u16 = 68;

/// The session thread's stack: it parses messages of at most 4 KiB.
const SESSION_STACK_BYTES: usize = 256 << 10;

/// Listens for a VMM at a Unix socket.
pub struct VhostUserPort {
    epoll: Epoll,
    shared: Arc<Shared>,
    mailbox: Option<Receiver<Letter>>,
    session: Option<JoinHandle<()>>,
    _file: SocketFile,
    guest: Guest,
    absence: Cow<'static, str>,
    /// The guest broke a ring; that is said until the next VMM comes.
    faulty: bool,
}

/// The guest as the worker sees it.
#[derive(Default)]
struct Guest {
    features: Features,
    memory: GuestMemoryMmap,
    rings: [RingSlot; QUEUES],
    /// Chains of the send queue that are lent, in order.
    lent_chains: Vec<u16>,
    /// The frames in them, and where their bytes are.
    lent_frames: Vec<LentFrame>,
    lent_pieces: Vec<Piece>,
    /// Chains and buffers of the receive queue that take one frame.
    target_chains: Vec<Chain>,
    target_pieces: Vec<Piece>,
    /// Frames were sent since the guest was told.
    unflushed: bool,
}

#[derive(Default)]
struct RingSlot {
    ring: Option<Ring>,
    enabled: bool,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
}

impl RingSlot {
    fn is_ready(&self) -> bool {
        self.enabled && self.ring.is_some()
    }

    /// Interrupts the guest. A counter that is full has an interrupt pending, which will do.
    fn interrupt(&self) {
        if let Some(call) = &self.call {
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
    }
}

/// A frame of the guest whose head was copied.
struct LentFrame {
    head: [u8; HEAD_BYTES],
    head_len: usize,
    tail: std::ops::Range<usize>,
    offload: Offload,
}

impl VhostUserPort {
    /// Listens at `socket`.
    ///
    /// # Errors
    /// When the socket cannot be made there.
    pub fn open(socket: &Path) -> Result<Self, PortError> {
        let (listener, file) = listen_at(socket)?;
        let (handover, mailbox) = Handover::new()?;
        let shared = handover.shared.clone();
        let epoll = Epoll::new()?;
        epoll.add(&shared.doorbell, EventFlags::IN | EventFlags::ET)?;
        let session = thread::Builder::new()
            .name("vhost-user".into())
            .stack_size(SESSION_STACK_BYTES)
            .spawn(move || session::serve(&listener, &handover))?;
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
            Command::Memory(memory) => self.guest.memory = memory,
            Command::Start { index, layout, kick, call } => {
                let mut ring = Ring::start(layout, &self.guest.memory)?;
                ring.open(&self.guest.memory)?.spare_kicks()?;
                if index == TX_QUEUE
                    && let Some(kick) = &kick
                {
                    // By edges: so the counter need not be read, which a VMM could make us wait for.
                    let _ = self.epoll.add(kick, EventFlags::IN | EventFlags::ET);
                }
                let slot = &mut self.guest.rings[index];
                *slot = RingSlot { ring: Some(ring), enabled: slot.enabled, kick, call };
                slot.interrupt(); // what the last back end left behind may need it
                self.absence = "the guest has not set up its driver".into();
            }
            Command::Stop { index } => return Ok(self.close_ring(index)),
            Command::Call { index, call } => {
                let slot = &mut self.guest.rings[index];
                slot.call = call;
                slot.interrupt();
            }
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
        let slot = std::mem::take(&mut self.guest.rings[index]);
        if let Some(kick) = &slot.kick {
            self.epoll.remove(kick);
        }
        if index == RX_QUEUE {
            self.guest.unflushed = false;
        }
        self.guest.rings[index].enabled = slot.enabled;
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

impl Guest {
    fn is_ready(&self) -> bool {
        self.rings.iter().all(RingSlot::is_ready)
    }

    /// Takes the next chains of the send queue and copies their frames' heads.
    fn recv(&mut self) -> Result<Lent, RingError> {
        let slot = &mut self.rings[TX_QUEUE];
        let Some(ring) = slot.ring.as_mut().filter(|_| slot.enabled) else { return Ok(Lent::default()) };
        let mut queue = ring.open(&self.memory)?;
        let mut malformed = 0;
        for _ in 0..queue.pending()?.min(BURST_FRAMES as u16) {
            let chain = queue.take(Direction::FromGuest, &mut self.lent_pieces)?;
            self.lent_chains.push(chain.id);
            match look(&self.memory, self.features.header_bytes(), &mut self.lent_pieces, &chain) {
                Some(frame) => self.lent_frames.push(frame),
                None => malformed += 1,
            }
        }
        Ok(Lent { frames: self.lent_frames.len(), malformed })
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        let LentFrame { head, head_len, tail, offload } = &self.lent_frames[index];
        Frame::in_guest(&head[..*head_len], &self.memory, &self.lent_pieces[tail.clone()], *offload)
    }

    /// Gives the lent chains back; an error shows again at the next [`Self::recv`].
    fn release(&mut self) {
        let slot = &mut self.rings[TX_QUEUE];
        if let Some(ring) = &mut slot.ring
            && !self.lent_chains.is_empty()
            && let Ok(mut queue) = ring.open(&self.memory)
        {
            for &id in &self.lent_chains {
                queue.complete(id, 0);
            }
            if queue.publish() {
                slot.interrupt();
            }
        }
        self.lent_chains.clear();
        self.lent_frames.clear();
        self.lent_pieces.clear();
    }

    /// Copies a frame into buffers of the receive queue.
    fn send(&mut self, frame: &Frame<'_>) -> Result<Result<(), SendError>, RingError> {
        let slot = &mut self.rings[RX_QUEUE];
        let Some(ring) = slot.ring.as_mut().filter(|_| slot.enabled) else { return Ok(Err(SendError::Down)) };
        let header_bytes = self.features.header_bytes();
        let wanted = header_bytes + frame.len();
        let most = if self.features.mergeable() { MAX_MERGED_CHAINS } else { 1 };
        self.target_chains.clear();
        self.target_pieces.clear();
        let mut queue = ring.open(&self.memory)?;
        let pending = queue.pending()?;
        let (mut room, mut taken) = (0usize, 0);
        while room < wanted {
            if taken == most || taken == pending {
                queue.put_back(taken);
                return Ok(Err(if taken == most { SendError::TooLong } else { SendError::Full }));
            }
            let chain = queue.take(Direction::ToGuest, &mut self.target_pieces)?;
            room = room.saturating_add(chain.len);
            taken += 1;
            self.target_chains.push(chain);
        }
        // A driver that asked for no checksum work must not be told of any, be it done.
        let offload = if self.features.caps().csum { frame.offload() } else { Offload::default() };
        let header = write_header(offload, frame.head(), taken);
        let mut header = &header[..header_bytes];
        let mut cursor = frame.cursor();
        for chain in &self.target_chains {
            let mut written = 0;
            for piece in &self.target_pieces[chain.pieces.clone()] {
                let target = self.memory.get_slice(piece.addr, piece.len);
                let target = target.map_err(|_| RingError::BufferOutside(piece.addr.0))?;
                let count = header.len().min(piece.len);
                target.copy_from(&header[..count]);
                header = &header[count..];
                written += count;
                if let Ok(rest) = target.offset(count) {
                    written += cursor.copy_to(&rest);
                }
            }
            queue.complete(chain.id, written);
        }
        self.unflushed = true;
        Ok(Ok(()))
    }

    fn flush(&mut self) {
        let slot = &mut self.rings[RX_QUEUE];
        if std::mem::take(&mut self.unflushed)
            && let Some(ring) = &mut slot.ring
            && ring.open(&self.memory).is_ok_and(|mut queue| queue.publish())
        {
            slot.interrupt();
        }
    }
}

/// Copies the header and the head of the frame in `chain`, and cuts them off the chain's pieces. `None`, and
/// no pieces, for what is no frame.
fn look(memory: &GuestMemoryMmap, header_bytes: usize, pieces: &mut Vec<Piece>, chain: &Chain) -> Option<LentFrame> {
    let len = chain.len.checked_sub(header_bytes).filter(|len| (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(len));
    let parsed = len.and_then(|len| {
        let mut header = [0; HEADER_BYTES];
        let mut head = [0; HEAD_BYTES];
        let head_len = len.min(HEAD_BYTES);
        let mut first = chain.pieces.start;
        for part in [&mut header[..header_bytes], &mut head[..head_len]] {
            let mut filled = 0;
            while filled < part.len() {
                let piece = pieces.get_mut(first)?;
                let count = piece.len.min(part.len() - filled);
                memory.get_slice(piece.addr, count).ok()?.copy_to(&mut part[filled..filled + count]);
                piece.addr = GuestAddress(piece.addr.0 + count as u64);
                piece.len -= count;
                filled += count;
                first += usize::from(piece.len == 0);
            }
        }
        let offload = read_header(&header, Author::Driver, &head[..head_len], len)?;
        Some(LentFrame { head, head_len, tail: first..chain.pieces.end, offload })
    });
    if parsed.is_none() {
        pieces.truncate(chain.pieces.start);
    }
    parsed
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
        let slot = &mut self.guest.rings[TX_QUEUE];
        let Some(ring) = slot.ring.as_mut().filter(|_| slot.enabled) else { return true };
        match ring.open(&self.guest.memory).and_then(|mut queue| queue.want_kicks()) {
            Ok(idle) => idle,
            Err(error) => {
                self.fault(error);
                true
            }
        }
    }

    fn wake(&mut self) {
        self.epoll.clear_edges();
        let slot = &mut self.guest.rings[TX_QUEUE];
        if let Some(ring) = &mut slot.ring
            && let Err(error) = ring.open(&self.guest.memory).and_then(|mut queue| queue.spare_kicks())
        {
            self.fault(error);
        }
    }

    fn trim(&mut self) {
        regions::untouch(&self.guest.memory);
    }
}

impl Drop for VhostUserPort {
    fn drop(&mut self) {
        self.mailbox = None; // a session that waits for an answer stops waiting
        self.shared.stop();
        if let Some(session) = self.session.take() {
            let _ = session.join();
        }
    }
}
