//! A split virtqueue, seen from the device (virtio 1.2, section 2.7). Everything in it is written by the guest
//! at any time and believed never: each index, address and length is checked when it is read, once.

use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_USED_F_NO_NOTIFY,
};

use crate::guest_memory::{GuestMemory, Piece, View};

/// The largest queue that a VMM asks for.
pub(crate) const MAX_QUEUE_SIZE: u16 = 1024;

const DESCRIPTOR_BYTES: usize = 16;
/// Offset of the entries in the available and the used ring, behind `flags` and `idx`.
const ENTRIES_AT: usize = 4;
const IDX_AT: usize = 2;
const USED_ENTRY_BYTES: usize = 8;

/// How a guest broke its ring; the ring is of no use after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingError {
    #[error("a queue of {0} entries was asked for; powers of two from 1 to {MAX_QUEUE_SIZE} are possible")]
    Size(u32),
    #[error("a ring cannot start at index {0}")]
    Base(u32),
    #[error("a ring lies outside of the guest's memory")]
    RingOutside,
    #[error("a ring's address is not aligned")]
    Misaligned,
    #[error("the available index jumped from {from} to {to}")]
    IndexJump { from: u16, to: u16 },
    #[error("descriptor {0} does not exist")]
    NoSuchDescriptor(u16),
    #[error("a descriptor chain is longer than the queue")]
    ChainTooLong,
    #[error("a buffer at {0:#x} lies outside of the guest's memory")]
    BufferOutside(u64),
    #[error("an indirect table has an impossible size or place")]
    BadIndirect,
    #[error("a buffer has the wrong direction")]
    WrongDirection,
    #[error("the VMM took the guest's memory away")]
    MemoryVanished,
}

/// Where a ring is and how it starts, as the VMM says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingLayout {
    pub(crate) size: u16,
    /// Where the guest sees its parts.
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// The next available entry to take.
    pub(crate) base: u16,
    pub(crate) event_idx: bool,
    /// At which address the used ring is noted as written while the guest migrates, if it is.
    pub(crate) used_log: Option<u64>,
}

/// Who writes a chain's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromGuest,
    ToGuest,
}

/// A descriptor chain that was taken and not yet given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its first descriptor, which is its name.
    pub(crate) id: u16,
    /// Its buffers, in the list that it was taken into.
    pub(crate) pieces: Range<usize>,
    /// Their bytes together.
    pub(crate) len: usize,
}

/// A queue's state on our side.
#[derive(Debug)]
pub(crate) struct Ring {
    layout: RingLayout,
    parts: Parts,
    next_available: u16,
    /// The guest's available index when it was last looked at: one look, which costs a trip to another core's cache,
    /// does for a burst.
    seen_available: u16,
    next_used: u16,
    /// `next_used` when the guest was last told; `None` before the first time.
    told: Option<u16>,
}

/// Where a queue's parts are in the guest's memory.
#[derive(Clone, Copy, Debug)]
struct Parts {
    descriptors: Piece,
    available: Piece,
    used: Piece,
}

impl Parts {
    fn find(layout: &RingLayout, memory: &GuestMemory) -> Result<Self, RingError> {
        let size = usize::from(layout.size);
        // Both rings end with an event index, whether it is used or not.
        let part = |addr, len| memory.piece(addr, len).ok_or(RingError::RingOutside);
        Ok(Self {
            descriptors: part(layout.descriptors, size * DESCRIPTOR_BYTES)?,
            available: part(layout.available, ENTRIES_AT + size * 2 + 2)?,
            used: part(layout.used, ENTRIES_AT + size * USED_ENTRY_BYTES + 2)?,
        })
    }
}

impl Ring {
    /// Takes up a queue where its used ring says that it stands.
    pub(crate) fn start(layout: RingLayout, memory: &GuestMemory) -> Result<Self, RingError> {
        if !layout.size.is_power_of_two() || layout.size > MAX_QUEUE_SIZE {
            return Err(RingError::Size(layout.size.into()));
        }
        let parts = Parts::find(&layout, memory)?;
        let base = layout.base;
        let mut ring = Self { layout, parts, next_available: base, seen_available: base, next_used: 0, told: None };
        let queue = ring.open(memory);
        let used = index(&queue.used)?;
        index(&queue.available)?;
        queue.ring.next_used = used;
        Ok(ring)
    }

    /// Finds the queue again in memory that was mapped anew.
    pub(crate) fn move_to(&mut self, memory: &GuestMemory) -> Result<(), RingError> {
        self.parts = Parts::find(&self.layout, memory)?;
        Ok(())
    }

    /// Notes writes to the used ring at another address from now on, or no more.
    pub(crate) fn log_used_at(&mut self, address: Option<u64>) {
        self.layout.used_log = address;
    }

    /// Notes that `len` bytes of the used ring were written, `at` bytes from its start.
    #[inline]
    fn mark_used(&self, memory: &GuestMemory, at: usize, len: usize) {
        if let Some(address) = self.layout.used_log {
            memory.mark_at(address.saturating_add(at as u64), len);
        }
    }

    /// The next available entry to take: what `GET_VRING_BASE` answers.
    pub(crate) fn base(&self) -> u16 {
        self.next_available
    }

    /// Makes the last `count` chains that were taken available again.
    pub(crate) fn put_back(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_sub(count);
    }

    /// Gives a chain back, `written` bytes of which are new; the guest sees it with [`Queue::publish`].
    #[inline]
    pub(crate) fn complete(&mut self, memory: &GuestMemory, id: u16, written: usize) {
        self.complete_batch(memory, 1, id, written);
    }

    /// Gives `count` chains back, of which only the last one's `id` is said: for a driver that knows that they are
    /// given back in order (virtio 1.2, section 2.7.9).
    #[inline]
    pub(crate) fn complete_batch(&mut self, memory: &GuestMemory, count: u16, id: u16, written: usize) {
        let slot = usize::from(self.next_used & (self.layout.size - 1)); // a power of two
        let entry = u64::from(id) | (written as u64) << 32;
        let used = memory.view(self.parts.used);
        // It often stands there, where a guest uses its chains in a circle and frames are of one length.
        let at = ENTRIES_AT + slot * USED_ENTRY_BYTES;
        used.skip(at).update(&entry.to_le_bytes());
        self.mark_used(memory, at, USED_ENTRY_BYTES);
        self.next_used = self.next_used.wrapping_add(count);
    }

    /// The queue with the memory in which it was found.
    #[inline]
    pub(crate) fn open<'a>(&'a mut self, memory: &'a GuestMemory) -> Queue<'a> {
        let Parts { descriptors, available, used } = self.parts;
        Queue {
            descriptors: memory.view(descriptors),
            available: memory.view(available),
            used: memory.view(used),
            ring: self,
            memory,
        }
    }
}

/// A queue and the guest's memory that it lies in.
pub(crate) struct Queue<'a> {
    ring: &'a mut Ring,
    memory: &'a GuestMemory,
    descriptors: View<'a>,
    available: View<'a>,
    used: View<'a>,
}

impl Queue<'_> {
    /// How many chains are known to be available; looks at the guest's index when those are fewer than `wanted`.
    #[inline]
    pub(crate) fn pending(&mut self, wanted: u16) -> Result<u16, RingError> {
        match self.ring.seen_available.wrapping_sub(self.ring.next_available) {
            known if known < wanted => self.look(),
            known => Ok(known),
        }
    }

    /// How many chains the guest has made available by now.
    fn look(&mut self) -> Result<u16, RingError> {
        let (from, to) = (self.ring.next_available, index(&self.available)?);
        match to.wrapping_sub(from) {
            count if count <= self.ring.layout.size => {
                self.ring.seen_available = to;
                Ok(count)
            }
            _ => Err(RingError::IndexJump { from, to }),
        }
    }

    /// Asks for the descriptors of the next `count` chains, so that they come together and not one after the other.
    #[inline]
    pub(crate) fn prefetch(&self, count: u16) {
        (0..count).for_each(|ahead| self.prefetch_later(ahead));
    }

    /// Asks for the descriptor of the chain that comes `ahead` chains after the next. It is a guess where none is there.
    #[inline]
    pub(crate) fn prefetch_later(&self, ahead: u16) {
        let slot = self.slot(self.ring.next_available.wrapping_add(ahead));
        if let Ok(id) = load_u16(&self.available, ENTRIES_AT + 2 * slot) {
            self.descriptors.prefetch(usize::from(id) * DESCRIPTOR_BYTES);
        }
    }

    /// Takes the next chain, which must be pending: appends it to `chains` and its buffers to `pieces`. Returns the
    /// bytes that they have.
    #[inline]
    pub(crate) fn take(
        &mut self,
        direction: Direction,
        chains: &mut Vec<Chain>,
        pieces: &mut Vec<Piece>,
    ) -> Result<usize, RingError> {
        let slot = self.slot(self.ring.next_available);
        let id = load_u16(&self.available, ENTRIES_AT + 2 * slot)?;
        // Nearly every chain is one buffer in one region.
        let only = load_descriptor(&self.descriptors, id)?;
        let wanted = if direction == Direction::ToGuest { VRING_DESC_F_WRITE as u16 } else { 0 };
        match self.memory.piece(only.addr, only.len as usize) {
            Some(piece) if only.flags == wanted => {
                let start = pieces.len();
                pieces.push(piece);
                self.ring.next_available = self.ring.next_available.wrapping_add(1);
                chains.push(Chain { id, pieces: start..start + 1, len: piece.len() });
                Ok(piece.len())
            }
            _ => {
                let chain = self.take_chained(id, direction, pieces)?;
                let len = chain.len;
                chains.push(chain);
                Ok(len)
            }
        }
    }

    /// [`Self::take`] for a chain of any form. What was read of it before does not count.
    #[cold]
    fn take_chained(&mut self, id: u16, direction: Direction, pieces: &mut Vec<Piece>) -> Result<Chain, RingError> {
        let first_piece = pieces.len();
        let mut table = self.descriptors;
        let mut indirect = false;
        let mut next = id;
        let mut len = 0usize;
        // A loop is a chain that is longer than the queue.
        for _ in 0..self.ring.layout.size {
            let descriptor = load_descriptor(&table, next)?;
            if descriptor.flags & VRING_DESC_F_INDIRECT as u16 != 0 {
                if indirect || descriptor.flags & VRING_DESC_F_NEXT as u16 != 0 {
                    return Err(RingError::BadIndirect);
                }
                table = self.indirect_table(&descriptor)?;
                indirect = true;
                next = 0;
                continue;
            }
            let written_by_us = descriptor.flags & VRING_DESC_F_WRITE as u16 != 0;
            if written_by_us != (direction == Direction::ToGuest) {
                return Err(RingError::WrongDirection);
            }
            let outside = RingError::BufferOutside(descriptor.addr);
            self.memory.pieces(descriptor.addr, descriptor.len as usize, pieces).ok_or(outside)?;
            len = len.saturating_add(descriptor.len as usize);
            if descriptor.flags & VRING_DESC_F_NEXT as u16 == 0 {
                self.ring.next_available = self.ring.next_available.wrapping_add(1);
                return Ok(Chain { id, pieces: first_piece..pieces.len(), len });
            }
            next = descriptor.next;
        }
        Err(RingError::ChainTooLong)
    }

    /// Shows the guest all that was given back; it may want to be told, see [`Self::wants_telling`].
    #[inline]
    pub(crate) fn publish(&mut self) {
        // The guest publishes its wish and then looks at the index; we the other way. A swap orders the two at a
        // lower price than a fence.
        self.used.swap(IDX_AT, self.ring.next_used);
        self.ring.mark_used(self.memory, IDX_AT, size_of::<u16>());
    }

    /// Whether the guest wants to be told of what was published since this was asked last. It need not be asked at
    /// once: what it reads lies beside the available index, and coming together they cost one trip and not two.
    #[inline]
    pub(crate) fn wants_telling(&mut self) -> bool {
        let new = self.ring.next_used;
        let old = self.ring.told.replace(new);
        let wish = |at| self.available.load(at, Ordering::SeqCst);
        if self.ring.layout.event_idx {
            let (Some(wish), Some(old)) = (wish(ENTRIES_AT + 2 * self.size()), old) else { return true };
            new.wrapping_sub(wish).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            wish(0).is_some_and(|flags| flags & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0)
        }
    }

    /// Asks the guest to kick when it makes chains available; `false` when some are already.
    pub(crate) fn want_kicks(&mut self) -> Result<bool, RingError> {
        if self.ring.layout.event_idx {
            let wish_at = ENTRIES_AT + USED_ENTRY_BYTES * self.size();
            self.wish(wish_at, self.ring.next_available)?;
        } else {
            self.wish(0, 0)?;
        }
        fence(Ordering::SeqCst);
        Ok(self.look()? == 0)
    }

    /// Asks the guest to spare its kicks. With event indices there is nothing to do: the wish that lies
    /// behind us comes true once in 65,536 chains.
    pub(crate) fn spare_kicks(&mut self) -> Result<(), RingError> {
        if self.ring.layout.event_idx { Ok(()) } else { self.wish(0, VRING_USED_F_NO_NOTIFY as u16) }
    }

    /// Writes what we ask of the guest into the used ring.
    fn wish(&self, at: usize, value: u16) -> Result<(), RingError> {
        self.used.store(at, value, Ordering::Relaxed).ok_or(RingError::Misaligned)?;
        self.ring.mark_used(self.memory, at, size_of::<u16>());
        Ok(())
    }

    fn size(&self) -> usize {
        self.ring.layout.size.into()
    }

    /// Where the entry of an index is.
    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.ring.layout.size - 1)) // a power of two
    }

    fn indirect_table(&self, descriptor: &Descriptor) -> Result<View<'_>, RingError> {
        let len = descriptor.len as usize;
        if len == 0 || !len.is_multiple_of(DESCRIPTOR_BYTES) || len > usize::from(MAX_QUEUE_SIZE) * DESCRIPTOR_BYTES {
            return Err(RingError::BadIndirect);
        }
        let piece = self.memory.piece(descriptor.addr, len).ok_or(RingError::BadIndirect)?;
        Ok(self.memory.view(piece))
    }
}

/// A descriptor, read once.
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

#[inline]
fn load_descriptor(table: &View<'_>, index: u16) -> Result<Descriptor, RingError> {
    let at = usize::from(index) * DESCRIPTOR_BYTES;
    match (table.word(at), table.word(at + 8)) {
        (Some(addr), Some(rest)) => {
            Ok(Descriptor { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 })
        }
        _ => Err(RingError::NoSuchDescriptor(index)),
    }
}

/// The index of an available or used ring.
fn index(part: &View<'_>) -> Result<u16, RingError> {
    part.load(IDX_AT, Ordering::Acquire).ok_or(RingError::Misaligned)
}

#[inline]
fn load_u16(part: &View<'_>, at: usize) -> Result<u16, RingError> {
    part.load(at, Ordering::Relaxed).ok_or(RingError::Misaligned)
}
