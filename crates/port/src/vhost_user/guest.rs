//! The guest as the worker sees it: its memory, its rings, and what is lent and taken of them.

use std::os::fd::OwnedFd;

use weft_types::MacAddr;
use weft_wire::virtio_net::{Author, HEADER_BYTES};
use weft_wire::{Csum, Offload};

use super::features::Features;
use super::ready::Ready;
use super::ring::{Chain, Direction, Ring, RingError};
use super::{QUEUES, RX_QUEUE, TX_QUEUE};
use crate::guest_memory::{GuestMemory, Piece};
use crate::vnet::{asks_for_nothing, read_header, write_header};
use crate::{BURST_FRAMES, Frame, HEAD_BYTES, Lent, MAX_FRAME_BYTES, MIN_FRAME_BYTES, SendError};

/// Buffers that one frame may be spread over: enough for the largest frame in buffers of a kibibyte.
const MAX_MERGED_CHAINS: u16 = 68;

/// How many frames are on their way from the guest's processor to ours while one is looked at.
const FETCH_AHEAD: usize = 12;

/// A guest's side of a port.
#[derive(Default)]
pub(super) struct Guest {
    pub(super) features: Features,
    pub(super) memory: GuestMemory,
    pub(super) rings: [RingSlot; QUEUES],
    /// Chains of the send queue that are lent, in order.
    lent_chains: Vec<Chain>,
    /// The frames in them, and where their bytes are; only the first `lent` count.
    lent_frames: Vec<LentFrame>,
    lent: usize,
    lent_pieces: Vec<Piece>,
    /// Chains of the receive queue for the next frames.
    ready: Ready,
    /// Frames were sent since the guest was shown some.
    unflushed: bool,
    /// A station that is here since its guest migrated, of which nobody was told.
    announced: Option<MacAddr>,
}

/// A queue as its VMM set it up.
#[derive(Default)]
pub(super) struct RingSlot {
    pub(super) ring: Option<Ring>,
    pub(super) enabled: bool,
    pub(super) kick: Option<OwnedFd>,
    pub(super) call: Option<OwnedFd>,
    /// Chains were given back since the guest was told.
    untold: bool,
}

impl RingSlot {
    /// A queue that starts.
    pub(super) fn new(ring: Ring, enabled: bool, kick: Option<OwnedFd>, call: Option<OwnedFd>) -> Self {
        Self { ring: Some(ring), enabled, kick, call, untold: false }
    }

    fn is_ready(&self) -> bool {
        self.enabled && self.ring.is_some()
    }

    /// Interrupts the guest. A counter that is full has an interrupt pending, which will do.
    pub(super) fn interrupt(&self) {
        if let Some(call) = &self.call {
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
    }

    /// Tells the guest of what was given back, if it wants to know.
    #[inline]
    fn tell(&mut self, memory: &GuestMemory) {
        if std::mem::take(&mut self.untold)
            && let Some(ring) = &mut self.ring
            && ring.open(memory).wants_telling()
        {
            self.interrupt();
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

impl Guest {
    pub(super) fn is_ready(&self) -> bool {
        self.rings.iter().all(RingSlot::is_ready)
    }

    /// Goes on in memory that was mapped anew; nothing is lent meanwhile.
    pub(super) fn move_to(&mut self, memory: GuestMemory) -> Result<(), RingError> {
        self.put_back_ready();
        self.memory = memory;
        let mut rings = self.rings.iter_mut().filter_map(|slot| slot.ring.as_mut());
        let moved = rings.try_for_each(|ring| ring.move_to(&self.memory));
        if moved.is_err() {
            self.rings.iter_mut().for_each(|slot| slot.ring = None);
        }
        moved
    }

    /// Takes a ring down; it stands where the guest was shown that it does.
    pub(super) fn close_ring(&mut self, index: usize) -> RingSlot {
        if index == RX_QUEUE {
            self.flush();
            self.put_back_ready();
        }
        self.rings[index].tell(&self.memory);
        let slot = std::mem::take(&mut self.rings[index]);
        self.rings[index].enabled = slot.enabled;
        slot
    }

    fn put_back_ready(&mut self) {
        if let Some(ring) = &mut self.rings[RX_QUEUE].ring {
            self.ready.put_back(ring);
        }
    }

    /// Takes the next chains of the send queue and copies their frames' heads.
    pub(super) fn recv(&mut self) -> Result<Lent, RingError> {
        if self.memory.has_vanished() {
            return Err(RingError::MemoryVanished);
        }
        if let Some(mac) = self.announced.take() {
            self.lent_frames.splice(..self.lent_frames.len().min(1), [LentFrame::announcement(mac)]);
            self.lent = 1;
            return Ok(Lent { frames: 1, malformed: 0 });
        }
        let slot = &mut self.rings[TX_QUEUE];
        slot.tell(&self.memory);
        let Some(ring) = slot.ring.as_mut().filter(|_| slot.enabled) else { return Ok(Lent::default()) };
        let mut queue = ring.open(&self.memory);
        let count = usize::from(queue.pending(1)?).min(BURST_FRAMES);
        queue.prefetch(count as u16);
        let mut malformed = 0;
        // Chains are taken a little ahead of what is looked at: so frames are on their way when they are looked at, and
        // no more of them than a processor can wait for at a time.
        for step in 0..count + FETCH_AHEAD {
            if step < count {
                queue.take(Direction::FromGuest, &mut self.lent_chains, &mut self.lent_pieces)?;
                if let Some(last) = self.lent_pieces.last() {
                    self.memory.view(*last).prefetch_all();
                }
            }
            let Some(chain) = step.checked_sub(FETCH_AHEAD).and_then(|index| self.lent_chains.get(index)) else {
                continue;
            };
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

    /// Has a frame come from the guest that tells the network where it is now. What policy says about frames from
    /// this address holds for it.
    pub(super) fn announce(&mut self, mac: MacAddr) {
        self.announced = Some(mac);
    }

    pub(super) fn frame(&self, index: usize) -> Frame<'_> {
        let LentFrame { head, head_len, tail, tail_len, offload } = &self.lent_frames[..self.lent][index];
        Frame::in_guest(&head[..*head_len], &self.memory, &self.lent_pieces[tail.clone()], *tail_len, *offload)
    }

    /// Gives the lent chains back. The guest is told when the queue is looked at next: so frames go on to where they
    /// are awaited before that is done.
    pub(super) fn release(&mut self) {
        let slot = &mut self.rings[TX_QUEUE];
        if let Some(ring) = &mut slot.ring
            && !self.lent_chains.is_empty()
        {
            match &self.lent_chains[..] {
                [.., last] if self.features.in_order() => {
                    ring.complete_batch(&self.memory, self.lent_chains.len() as u16, last.id, 0);
                }
                chains => chains.iter().for_each(|chain| ring.complete(&self.memory, chain.id, 0)),
            }
            ring.open(&self.memory).publish();
            slot.untold = true;
        }
        self.lent_chains.clear();
        self.lent_pieces.clear();
        self.lent = 0;
    }

    /// Copies a frame into buffers of the receive queue.
    pub(super) fn send(&mut self, frame: &Frame<'_>) -> Result<Result<(), SendError>, RingError> {
        let slot = &mut self.rings[RX_QUEUE];
        let Some(ring) = slot.ring.as_mut().filter(|_| slot.enabled) else { return Ok(Err(SendError::Down)) };
        let header_bytes = self.features.header_bytes();
        let wanted = header_bytes + frame.len();
        let most = if self.features.mergeable() { MAX_MERGED_CHAINS } else { 1 };
        let (chains, pieces) = match self.ready.take(ring, &self.memory, wanted, most)? {
            Ok(taken) => taken,
            Err(error) => return Ok(Err(error)),
        };
        // A driver that asked for no checksum work must not be told of any, be it done.
        let offload = if self.features.caps().csum { frame.offload() } else { Offload::default() };
        let header = write_header(offload, frame.head(), chains.len() as u16);
        let mut cursor = frame.cursor();
        self.unflushed = true;
        if let [chain] = chains
            && let [only] = pieces[chain.pieces.clone()]
            && header_bytes == HEADER_BYTES
        {
            let target = self.memory.view(only);
            target.update(&header); // nearly all are alike
            cursor.copy_to(target.skip(HEADER_BYTES));
            self.memory.mark(only, wanted);
            ring.complete(&self.memory, chain.id, wanted);
            return Ok(Ok(()));
        }
        let mut header = &header[..header_bytes];
        for chain in chains {
            let mut written = 0;
            for piece in &pieces[chain.pieces.clone()] {
                let target = self.memory.view(*piece);
                let (now, later) = header.split_at(header.len().min(target.len()));
                target.write(now);
                header = later;
                let count = now.len() + cursor.copy_to(target.skip(now.len()));
                self.memory.mark(*piece, count);
                written += count;
            }
            ring.complete(&self.memory, chain.id, written);
        }
        Ok(Ok(()))
    }

    /// Shows the guest what was sent, and tells it.
    pub(super) fn flush(&mut self) {
        let slot = &mut self.rings[RX_QUEUE];
        if std::mem::take(&mut self.unflushed)
            && let Some(ring) = &mut slot.ring
        {
            ring.open(&self.memory).publish();
            slot.untold = true;
            slot.tell(&self.memory);
        }
    }

    /// Asks for kicks; `false` when there is work already.
    pub(super) fn want_kicks(&mut self) -> Result<bool, RingError> {
        let slot = &mut self.rings[TX_QUEUE];
        slot.tell(&self.memory);
        let Some(ring) = slot.ring.as_mut().filter(|_| slot.enabled) else { return Ok(true) };
        ring.open(&self.memory).want_kicks()
    }

    /// Asks to be spared kicks.
    pub(super) fn spare_kicks(&mut self) -> Result<(), RingError> {
        self.rings[TX_QUEUE].ring.as_mut().map_or(Ok(()), |ring| ring.open(&self.memory).spare_kicks())
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

    /// A reverse ARP request (RFC 903) by which a station asks for its own address: switches on the way learn where it
    /// is, and nobody answers.
    fn announcement(mac: MacAddr) -> Self {
        let mac = mac.octets();
        let parts: [&[u8]; 9] = [
            &[0xff; 6],
            &mac,
            &[0x80, 0x35],
            &[0, 1, 8, 0, 6, 4, 0, 3], // Ethernet and IPv4; the request
            &mac,
            &[0; 4],
            &mac,
            &[0; 4],
            &[0; 18], // the shortest frame
        ];
        let mut lent = Self { head_len: parts.iter().map(|part| part.len()).sum(), ..Self::EMPTY };
        let mut rest = &mut lent.head[..];
        for part in parts {
            let (now, later) = rest.split_at_mut(part.len());
            now.copy_from_slice(part);
            rest = later;
        }
        lent
    }

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
            if asks_for_nothing(&header) {
                self.offload = Offload::default();
                return Some(());
            }
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
