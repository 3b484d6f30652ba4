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
use weft_wire::virtio_net::{Author, HEADER_BYTES};
use weft_wire::{Csum, Offload};

use crate::epoll::Epoll;
use crate::guest_memory::{GuestMemory, Piece};
use crate::socket::{Side, SocketFile, listen_at};
use crate::vnet::{read_header, write_header};
use crate::{
    BURST_FRAMES, Caps, Frame, HEAD_BYTES, Lent, Link, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Port, PortError, SendError,
};
use features::Features;
use handover::{Answer, Command, Handover, Letter, Shared};
pub use probe::probe_guest;
use ring::{Chain, Direction, Ring, RingError};
use session::Door;

/// The guest receives by the first queue and sends by the second (virtio 1.2, section 5.1.2).
const RX_QUEUE: usize = 0;
const TX_QUEUE: usize = 1;
const QUEUES: usize = 2;

/// Buffers that one frame may be spread over: enough for the largest frame in buffers of a kibibyte.
const MAX_MERGED_CHAINS: u16 = 68;

/// What comes near at once when a byte is asked for.
const CACHE_LINE_BYTES: usize = 64;

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

/// The guest as the worker sees it.
#[derive(Default)]
struct Guest {
    features: Features,
    memory: GuestMemory,
    rings: [RingSlot; QUEUES],
    /// Chains of the send queue that are lent, in order.
    lent_chains: Vec<Chain>,
    /// The frames in them, and where their bytes are; only the first `lent` count.
    lent_frames: Vec<LentFrame>,
    lent: usize,
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
    /// The pieces of the rest, and how many bytes they have.
    tail: std::ops::Range<usize>,
    tail_len: usize,
    offload: Offload,
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
            .spawn(move || session::serve(&door, &handover))?;
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

    /// Goes on in memory that was mapped anew; nothing is lent meanwhile.
    fn move_to(&mut self, memory: GuestMemory) -> Result<(), RingError> {
        self.memory = memory;
        let mut rings = self.rings.iter_mut().filter_map(|slot| slot.ring.as_mut());
        let moved = rings.try_for_each(|ring| ring.move_to(&self.memory));
        if moved.is_err() {
            self.rings.iter_mut().for_each(|slot| slot.ring = None);
        }
        moved
    }

    /// Takes the next chains of the send queue and copies their frames' heads.
    fn recv(&mut self) -> Result<Lent, RingError> {
        if self.memory.has_vanished() {
            return Err(RingError::MemoryVanished);
        }
        let slot = &mut self.rings[TX_QUEUE];
        let Some(ring) = slot.ring.as_mut().filter(|_| slot.enabled) else { return Ok(Lent::default()) };
        let mut queue = ring.open(&self.memory);
        // Every chain first, then what is in them: so the frames are on their way when they are looked at.
        for _ in 0..queue.pending()?.min(BURST_FRAMES as u16) {
            queue.take(Direction::FromGuest, &mut self.lent_chains, &mut self.lent_pieces)?;
            if let Some(last) = self.lent_pieces.last() {
                let view = self.memory.view(*last);
                view.prefetch(0);
                view.prefetch(CACHE_LINE_BYTES);
            }
        }
        let mut malformed = 0;
        for chain in &self.lent_chains {
            if self.lent == self.lent_frames.len() {
                self.lent_frames.push(LentFrame::EMPTY);
            }
            let pieces = &mut self.lent_pieces[chain.pieces.clone()];
            match self.lent_frames[self.lent].look(&self.memory, self.features.header_bytes(), pieces, chain) {
                Some(()) => self.lent += 1,
                None => malformed += 1,
            }
        }
        Ok(Lent { frames: self.lent, malformed })
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        let LentFrame { head, head_len, tail, tail_len, offload } = &self.lent_frames[..self.lent][index];
        Frame::in_guest(&head[..*head_len], &self.memory, &self.lent_pieces[tail.clone()], *tail_len, *offload)
    }

    /// Gives the lent chains back; an error shows again at the next [`Self::recv`].
    fn release(&mut self) {
        let slot = &mut self.rings[TX_QUEUE];
        if let Some(ring) = &mut slot.ring
            && !self.lent_chains.is_empty()
        {
            let mut queue = ring.open(&self.memory);
            for chain in &self.lent_chains {
                queue.complete(chain.id, 0);
            }
            if queue.publish() {
                slot.interrupt();
            }
        }
        self.lent_chains.clear();
        self.lent_pieces.clear();
        self.lent = 0;
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
        let mut queue = ring.open(&self.memory);
        let (mut room, mut taken) = (0usize, 0);
        while room < wanted {
            if taken == most || queue.pending()? == 0 {
                queue.put_back(taken);
                return Ok(Err(if taken == most { SendError::TooLong } else { SendError::Full }));
            }
            let len = queue.take(Direction::ToGuest, &mut self.target_chains, &mut self.target_pieces)?;
            room = room.saturating_add(len);
            taken += 1;
        }
        // A driver that asked for no checksum work must not be told of any, be it done.
        let offload = if self.features.caps().csum { frame.offload() } else { Offload::default() };
        let header = write_header(offload, frame.head(), taken);
        let mut cursor = frame.cursor();
        if let ([chain], [only]) = (&self.target_chains[..], &self.target_pieces[..])
            && header_bytes == HEADER_BYTES
        {
            let target = self.memory.view(*only);
            target.write(&header);
            cursor.copy_to(target.skip(HEADER_BYTES));
            queue.complete(chain.id, wanted);
            self.unflushed = true;
            return Ok(Ok(()));
        }
        let mut header = &header[..header_bytes];
        for chain in &self.target_chains {
            let mut written = 0;
            for piece in &self.target_pieces[chain.pieces.clone()] {
                let target = self.memory.view(*piece);
                let (now, later) = header.split_at(header.len().min(target.len()));
                target.write(now);
                header = later;
                written += now.len() + cursor.copy_to(target.skip(now.len()));
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
            && ring.open(&self.memory).publish()
        {
            slot.interrupt();
        }
    }
}

impl LentFrame {
    const EMPTY: Self = Self {
        head: [0; HEAD_BYTES],
        head_len: 0,
        tail: 0..0,
        tail_len: 0,
        offload: Offload { csum: Csum::Unverified, gso: None },
    };

    /// Copies the header and the head of the frame in `chain`, and cuts them off its pieces. `None` for what is no
    /// frame.
    #[inline(always)]
    fn look(&mut self, memory: &GuestMemory, header_bytes: usize, pieces: &mut [Piece], chain: &Chain) -> Option<()> {
        let len = chain.len.checked_sub(header_bytes)?;
        if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&len) {
            return None;
        }
        let mut header = [0; HEADER_BYTES];
        self.head_len = len.min(HEAD_BYTES);
        self.tail_len = len - self.head_len;
        // Nearly every frame lies in one piece, behind a header of today's length.
        if let [only] = pieces
            && header_bytes == HEADER_BYTES
        {
            let view = memory.view(*only);
            header = view.bytes(0)?;
            view.skip(HEADER_BYTES).read(&mut self.head[..self.head_len])?;
            only.advance(HEADER_BYTES + self.head_len);
            self.tail = chain.pieces.clone();
            self.offload = read_header(&header, Author::Driver, &self.head[..self.head_len], len)?;
            return Some(());
        }
        let mut first = 0;
        for part in [&mut header[..header_bytes], &mut self.head[..self.head_len]] {
            let mut filled = 0;
            while filled < part.len() {
                let piece = pieces.get_mut(first)?;
                let count = piece.len().min(part.len() - filled);
                memory.view(*piece).read(&mut part[filled..filled + count])?;
                piece.advance(count);
                filled += count;
                first += usize::from(piece.len() == 0);
            }
        }
        self.tail = chain.pieces.start + first..chain.pieces.end;
        self.offload = read_header(&header, Author::Driver, &self.head[..self.head_len], len)?;
        Some(())
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
        let slot = &mut self.guest.rings[TX_QUEUE];
        let Some(ring) = slot.ring.as_mut().filter(|_| slot.enabled) else { return true };
        match ring.open(&self.guest.memory).want_kicks() {
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
            && let Err(error) = ring.open(&self.guest.memory).spare_kicks()
        {
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
        self.shared.stop();
        if let Some(session) = self.session.take() {
            let _ = session.join();
        }
    }
}
