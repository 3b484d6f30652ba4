//! Chains of the receive queue that were taken before the frames for them came. Their buffers were the guest's last:
//! asked for together, and early, they cross from its processor's cache to ours while something else is done, instead
//! of one after the other when each is written.

use std::ops::Range;

use weft_wire::virtio_net::HEADER_BYTES;

use super::ring::{Chain, Direction, Queue, Ring, RingError};
use crate::SendError;
use crate::guest_memory::{CACHE_LINE_BYTES, GuestMemory, Piece};

/// How many chains are ready, while the guest has more.
const AHEAD: usize = 24;

/// So often among frames it is looked whether the guest has more, where it had not enough.
const LOOK_EVERY: usize = 8;

/// So many chains before they are taken, their descriptors are asked for.
const DESCRIPTORS_AHEAD: u16 = 16;

/// Chains that are gone are forgotten when there are so many.
const FORGET_AFTER: usize = 64;

/// Chains, and the pieces among which theirs are.
type Taken<'a> = (&'a [Chain], &'a [Piece]);

/// Chains in the order of the queue, none of them used.
#[derive(Default)]
pub(super) struct Ready {
    chains: Vec<Chain>,
    pieces: Vec<Piece>,
    /// Those before it are gone.
    next: usize,
}

impl Ready {
    /// The next chains that hold `wanted` bytes together, at most `most` of them; they are the caller's to complete.
    #[inline]
    pub(super) fn take(
        &mut self,
        ring: &mut Ring,
        memory: &GuestMemory,
        wanted: usize,
        most: u16,
    ) -> Result<Result<Taken<'_>, SendError>, RingError> {
        self.top_up(ring, memory)?;
        let range = match self.enough(wanted, most) {
            Some(range) => range,
            None => {
                self.refill(ring, memory, most)?;
                match self.enough(wanted, most) {
                    Some(range) => range,
                    None if self.left() < usize::from(most) => return Ok(Err(SendError::Full)),
                    None => return Ok(Err(SendError::TooLong)),
                }
            }
        };
        self.next = range.end;
        // The first lines of the next buffer are on their way; the next frame is most likely as long as this one.
        if wanted > HEADER_BYTES + CACHE_LINE_BYTES
            && let Some(chain) = self.chains.get(self.next)
            && let Some(piece) = self.pieces.get(chain.pieces.start)
        {
            memory.view(*piece).prefetch_all_to_write(wanted);
        }
        Ok(Ok((&self.chains[range], &self.pieces)))
    }

    /// Makes all of them available again.
    pub(super) fn put_back(&mut self, ring: &mut Ring) {
        ring.put_back(self.left() as u16);
        self.clear();
    }

    /// The first chains with room for `wanted` bytes, if there are so many.
    #[inline]
    fn enough(&self, wanted: usize, most: u16) -> Option<Range<usize>> {
        let mut room = 0usize;
        for (chain, end) in self.chains[self.next..].iter().take(most.into()).zip(self.next + 1..) {
            room = room.saturating_add(chain.len);
            if room >= wanted {
                return Some(self.next..end);
            }
        }
        None
    }

    /// Takes a few more, so that their buffers come nearer while others are written: the next for the one that will
    /// be used, and one more until there are enough.
    #[inline(always)]
    fn top_up(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<(), RingError> {
        if self.next >= FORGET_AFTER {
            self.forget();
        }
        let mut queue = ring.open(memory);
        let left = self.left();
        let wanted = u16::from(left < AHEAD && left.is_multiple_of(LOOK_EVERY));
        let count = usize::from(queue.pending(wanted)?).min(2).min(AHEAD.saturating_sub(left));
        for _ in 0..count {
            queue.prefetch_later(DESCRIPTORS_AHEAD);
            self.take_one(&mut queue, memory)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn take_one(&mut self, queue: &mut Queue<'_>, memory: &GuestMemory) -> Result<(), RingError> {
        let first = self.pieces.len();
        queue.take(Direction::ToGuest, &mut self.chains, &mut self.pieces)?;
        if let Some(piece) = self.pieces.get(first) {
            let view = memory.view(*piece);
            view.prefetch(0); // the header, which is written only where it differs
            view.prefetch_to_write(HEADER_BYTES);
            view.prefetch_to_write(HEADER_BYTES + CACHE_LINE_BYTES - 1);
        }
        Ok(())
    }

    /// Takes so many that there are `wanted`, if the guest has them.
    #[cold]
    fn refill(&mut self, ring: &mut Ring, memory: &GuestMemory, wanted: u16) -> Result<(), RingError> {
        self.put_back(ring);
        let mut queue = ring.open(memory);
        let count = queue.pending(wanted)?.min(wanted);
        queue.prefetch(count);
        (0..count).try_for_each(|_| self.take_one(&mut queue, memory))
    }

    /// Lets go of those that are gone.
    fn forget(&mut self) {
        let first = self.chains.get(self.next).map_or(self.pieces.len(), |chain| chain.pieces.start);
        self.chains.drain(..self.next);
        self.pieces.drain(..first);
        for chain in &mut self.chains {
            chain.pieces = chain.pieces.start - first..chain.pieces.end - first;
        }
        self.next = 0;
    }

    fn left(&self) -> usize {
        self.chains.len() - self.next
    }

    fn clear(&mut self) {
        self.chains.clear();
        self.pieces.clear();
        self.next = 0;
    }
}
