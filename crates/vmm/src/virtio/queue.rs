//! Split virtqueues (virtio 1.2, section 2.7), from the device's side.
//!
//! The driver writes the rings while we read them, and may write anything. So every index is read once, checked,
//! and never trusted to be the same again; every address is looked up in guest memory; a chain is no longer than
//! its queue. What cannot be right ends the queue with an error, and the device asks for a reset.

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryError};

use super::chain::{Chain, Segment};
use crate::memory::GuestMemory;

const DESCRIPTOR_BYTES: u64 = 16;
const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;

/// How a driver broke the rules of a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The rings are misaligned, or not in memory.
    #[error("the rings are not where rings can be")]
    Place,
    /// More was made available than the queue has room for.
    #[error("{0} chains are available in a queue of {1}")]
    Overrun(u16, u16),
    /// A descriptor that is not in the table.
    #[error("descriptor {0} is not in its table")]
    Index(u16),
    /// A chain that does not end.
    #[error("the chain from descriptor {0} is longer than its table, or than 4 GiB")]
    Endless(u16),
    /// A buffer for answers before one with a request.
    #[error("descriptor {0} is to be read after one that is to be written")]
    Order(u16),
    /// A buffer that is empty, or not in memory.
    #[error("the buffer of descriptor {0} is not in memory")]
    Buffer(u16),
    /// An indirect table in a table, or one of a strange length.
    #[error("descriptor {0} leads to no proper table")]
    Indirect(u16),
    /// A request that its device cannot make sense of, down to not knowing how to answer it.
    #[error("the request makes no sense to the device")]
    Request,
    /// The rings' memory is gone.
    #[error(transparent)]
    Memory(#[from] GuestMemoryError),
}

/// A virtqueue: what the driver configured, and how far the device is. Plain data, which says all there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// The largest size that the device can do with; a power of two.
    pub max_size: u16,
    /// The size that the driver chose.
    pub size: u16,
    /// The driver enabled it.
    pub ready: bool,
    /// Where the descriptors are.
    pub descriptors: u64,
    /// Where the driver says what is available.
    pub available: u64,
    /// Where the device says what is used.
    pub used: u64,
    /// The MSI-X vector by which the driver is told.
    pub vector: u16,
    /// Whether both sides say when they want to be told (`VIRTIO_F_EVENT_IDX`).
    pub event_idx: bool,
    /// The next entry of the available ring to be taken.
    pub next_available: u16,
    /// The next entry of the used ring to be written.
    pub next_used: u16,
    /// Where `next_used` was when the driver was told last.
    signalled: u16,
}

impl Queue {
    /// A queue that the driver has not configured.
    pub fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
            vector: super::transport::NO_VECTOR,
            event_idx: false,
            next_available: 0,
            next_used: 0,
            signalled: 0,
        }
    }

    /// Whether all of the rings can be used as they are configured.
    ///
    /// # Errors
    /// When they cannot.
    pub fn check(&self, memory: &GuestMemory) -> Result<(), QueueError> {
        let size = u64::from(self.size);
        let good_size = self.size.is_power_of_two() && self.size <= self.max_size;
        // The last two bytes of each ring are there for `VIRTIO_F_EVENT_IDX`, wanted or not.
        let rings = [
            (self.descriptors, 16, DESCRIPTOR_BYTES * size),
            (self.available, 2, 6 + 2 * size),
            (self.used, 4, 6 + 8 * size),
        ];
        let good = |(at, align, bytes): (u64, u64, u64)| {
            at % align == 0 && memory.get_slice(GuestAddress(at), bytes as usize).is_ok()
        };
        if good_size && rings.into_iter().all(good) { Ok(()) } else { Err(QueueError::Place) }
    }

    /// Takes the next chain that the driver made available.
    ///
    /// # Errors
    /// When the driver broke the rules; the queue cannot go on then.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, QueueError> {
        let index: u16 = memory.load(GuestAddress(self.available + 2), Ordering::Acquire)?;
        let index = u16::from_le(index);
        let waiting = index.wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(QueueError::Overrun(waiting, self.size));
        }
        let entry = self.available + 4 + 2 * u64::from(self.next_available % self.size);
        let head = u16::from_le(memory.load(GuestAddress(entry), Ordering::Relaxed)?);
        let chain = self.walk(memory, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Gives a chain back, of which `written` bytes were written.
    ///
    /// # Errors
    /// When the ring's memory is gone.
    pub fn push(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), QueueError> {
        let entry = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        memory.write_obj(u32::from(head).to_le(), GuestAddress(entry))?;
        memory.write_obj(written.to_le(), GuestAddress(entry + 4))?;
        self.next_used = self.next_used.wrapping_add(1);
        memory.store(self.next_used.to_le(), GuestAddress(self.used + 2), Ordering::Release)?;
        Ok(())
    }

    /// Whether the driver wants to be told about what was given back since it was told last.
    ///
    /// # Errors
    /// When the ring's memory is gone.
    pub fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if self.next_used == self.signalled {
            return Ok(false);
        }
        fence(Ordering::SeqCst); // what was given back is seen before we see whether it is wanted
        let wanted = if self.event_idx {
            let event = self.available + 4 + 2 * u64::from(self.size);
            let event = u16::from_le(memory.load(GuestAddress(event), Ordering::Relaxed)?);
            passed(event, self.signalled, self.next_used)
        } else {
            let flags = u16::from_le(memory.load(GuestAddress(self.available), Ordering::Relaxed)?);
            flags & NO_INTERRUPT == 0
        };
        self.signalled = self.next_used;
        Ok(wanted)
    }

    /// Asks the driver to tell about the next chain, after all were taken; whether one came meanwhile.
    ///
    /// # Errors
    /// When the ring's memory is gone.
    pub fn listen(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if self.event_idx {
            let event = self.used + 4 + 8 * u64::from(self.size);
            memory.store(self.next_available.to_le(), GuestAddress(event), Ordering::Relaxed)?;
            fence(Ordering::SeqCst);
        }
        let index: u16 = memory.load(GuestAddress(self.available + 2), Ordering::Acquire)?;
        Ok(u16::from_le(index) != self.next_available)
    }

    /// Reads how far a device that kept no record of its own was: what it gave back is in the ring.
    ///
    /// # Errors
    /// When the ring's memory is gone.
    pub fn used_index(&self, memory: &GuestMemory) -> Result<u16, QueueError> {
        Ok(u16::from_le(memory.load(GuestAddress(self.used + 2), Ordering::Acquire)?))
    }

    fn walk(&self, memory: &GuestMemory, head: u16) -> Result<Chain, QueueError> {
        let mut chain = Chain { head, ..Chain::default() };
        let (mut table, mut size) = (self.descriptors, self.size);
        let (mut index, mut left, mut bytes, mut nested) = (head, self.size, 0_u32, false);
        loop {
            if index >= size {
                return Err(QueueError::Index(index));
            }
            left = left.checked_sub(1).ok_or(QueueError::Endless(head))?;
            let descriptor = Descriptor::read(memory, table + DESCRIPTOR_BYTES * u64::from(index))?;
            if descriptor.flags & FLAG_INDIRECT != 0 {
                let count = u64::from(descriptor.bytes) / DESCRIPTOR_BYTES;
                let whole =
                    u64::from(descriptor.bytes) % DESCRIPTOR_BYTES == 0 && (1..=u64::from(self.size)).contains(&count);
                let plain = !nested && descriptor.flags & FLAG_NEXT == 0;
                if !whole || !plain || Segment::checked(memory, descriptor.at, descriptor.bytes).is_none() {
                    return Err(QueueError::Indirect(index));
                }
                (table, size, index, nested) = (descriptor.at, count as u16, 0, true);
                left = size;
                continue;
            }
            let segment = Segment::checked(memory, descriptor.at, descriptor.bytes).ok_or(QueueError::Buffer(index))?;
            bytes = bytes.checked_add(segment.bytes).ok_or(QueueError::Endless(head))?;
            if descriptor.flags & FLAG_WRITE != 0 {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(QueueError::Order(index));
            }
            if descriptor.flags & FLAG_NEXT == 0 {
                return Ok(chain);
            }
            index = descriptor.next;
        }
    }
}

struct Descriptor {
    at: u64,
    bytes: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(memory: &GuestMemory, at: u64) -> Result<Self, QueueError> {
        let mut words = [0; 2];
        for (word, offset) in words.iter_mut().zip([0, 8]) {
            *word = u64::from_le(memory.read_obj(GuestAddress(at + offset))?);
        }
        let [at, rest] = words;
        Ok(Self { at, bytes: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 })
    }
}

/// Whether a ring's index passed `event` on its way from `before` to `now` (section 2.7.10).
fn passed(event: u16, before: u16, now: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const MEMORY_BYTES: usize = 1 << 20;
    const DESCRIPTORS: u64 = 0x1000;
    const AVAILABLE: u64 = 0x2000;
    const USED: u64 = 0x3000;

    pub(crate) fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory")
    }

    /// A queue of eight that is configured, from the driver's side.
    pub(crate) fn queue() -> Queue {
        Queue { size: 8, ready: true, descriptors: DESCRIPTORS, available: AVAILABLE, used: USED, ..Queue::new(8) }
    }

    /// Writes a descriptor of the table at `table`.
    pub(crate) fn describe(memory: &GuestMemory, table: u64, index: u16, at: u64, bytes: u32, flags: u16, next: u16) {
        let rest = u64::from(bytes) | u64::from(flags) << 32 | u64::from(next) << 48;
        let place = table + 16 * u64::from(index);
        memory.write_obj(at, GuestAddress(place)).expect("memory");
        memory.write_obj(rest, GuestAddress(place + 8)).expect("memory");
    }

    /// Makes chains available.
    pub(crate) fn offer(memory: &GuestMemory, heads: &[u16]) {
        let index: u16 = memory.read_obj(GuestAddress(AVAILABLE + 2)).expect("memory");
        for (offset, head) in heads.iter().enumerate() {
            let entry = AVAILABLE + 4 + 2 * ((u64::from(index) + offset as u64) % 8);
            memory.write_obj(*head, GuestAddress(entry)).expect("memory");
        }
        memory.write_obj(index.wrapping_add(heads.len() as u16), GuestAddress(AVAILABLE + 2)).expect("memory");
    }

    /// Buffers, by place and length: those to be read, and those to be written.
    type Buffers<'a> = (&'a [(u64, u32)], &'a [(u64, u32)]);

    /// Takes the one chain that begins with descriptor 0, which the table says.
    fn check(table: &[(u64, u32, u16, u16)], expected: Result<Buffers<'_>, &str>) {
        let memory = memory();
        for (index, &(at, bytes, flags, next)) in table.iter().enumerate() {
            describe(&memory, DESCRIPTORS, index as u16, at, bytes, flags, next);
        }
        // An indirect table: one to be read, one to be written.
        describe(&memory, 0x8000, 0, 0x9000, 4, FLAG_NEXT, 1);
        describe(&memory, 0x8000, 1, 0xa000, 8, FLAG_WRITE, 0);
        offer(&memory, &[0]);
        let plain = |segments: &[Segment]| segments.iter().map(|s| (s.at, s.bytes)).collect::<Vec<_>>();
        match (queue().pop(&memory), expected) {
            (Ok(Some(chain)), Ok((readable, writable))) => {
                assert_eq!((plain(&chain.readable), plain(&chain.writable)), (readable.to_vec(), writable.to_vec()));
            }
            (Err(error), Err(expected)) => assert_eq!(format!("{error:?}"), expected),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn chains_are_walked() {
        check(&[(0x4000, 16, 0, 0)], Ok((&[(0x4000, 16)], &[])));
        check(
            &[(0x4000, 16, FLAG_NEXT, 2), (0, 0, 0, 0), (0x5000, 1, FLAG_WRITE, 0)],
            Ok((&[(0x4000, 16)], &[(0x5000, 1)])),
        );
        check(&[(0x8000, 32, FLAG_INDIRECT, 0)], Ok((&[(0x9000, 4)], &[(0xa000, 8)])));
        check(
            &[(0x4000, 2, FLAG_NEXT, 1), (0x8000, 32, FLAG_INDIRECT, 0)],
            Ok((&[(0x4000, 2), (0x9000, 4)], &[(0xa000, 8)])),
        );
    }

    #[test]
    fn chains_that_cannot_be_right_are_errors() {
        check(&[(0x4000, 16, FLAG_NEXT, 8)], Err("Index(8)"));
        check(&[(0x4000, 16, FLAG_NEXT, 0)], Err("Endless(0)"));
        check(&[(0x4000, 16, FLAG_NEXT, 1), (0x4000, 16, FLAG_NEXT, 0)], Err("Endless(0)"));
        check(&[(0x4000, 16, FLAG_WRITE | FLAG_NEXT, 1), (0x4000, 16, 0, 0)], Err("Order(1)"));
        check(&[(0x4000, 0, 0, 0)], Err("Buffer(0)"));
        check(&[(MEMORY_BYTES as u64 - 1, 2, 0, 0)], Err("Buffer(0)"));
        check(&[(u64::MAX, 2, 0, 0)], Err("Buffer(0)"));
        check(&[(0x8000, 33, FLAG_INDIRECT, 0)], Err("Indirect(0)"));
        check(&[(0x8000, 0, FLAG_INDIRECT, 0)], Err("Indirect(0)"));
        check(&[(0x8000, 16 * 9, FLAG_INDIRECT, 0)], Err("Indirect(0)"));
        check(&[(0x8000, 32, FLAG_INDIRECT | FLAG_NEXT, 1)], Err("Indirect(0)"));
        check(&[(u64::MAX - 15, 32, FLAG_INDIRECT, 0)], Err("Indirect(0)"));
        check(&[(DESCRIPTORS, 16, FLAG_INDIRECT, 0)], Err("Indirect(0)"));
    }

    #[test]
    fn no_more_is_available_than_there_is_room_for() {
        let memory = memory();
        memory.write_obj(9_u16, GuestAddress(AVAILABLE + 2)).expect("memory");
        assert!(matches!(queue().pop(&memory), Err(QueueError::Overrun(9, 8))));
    }

    #[test]
    fn rings_must_be_aligned_and_in_memory() {
        let memory = memory();
        assert!(queue().check(&memory).is_ok());
        for broken in [
            Queue { size: 0, ..queue() },
            Queue { size: 6, ..queue() },
            Queue { size: 16, ..queue() },
            Queue { descriptors: 8, ..queue() },
            Queue { available: 1, ..queue() },
            Queue { used: 2, ..queue() },
            Queue { used: MEMORY_BYTES as u64 - 64, ..queue() },
            Queue { descriptors: u64::MAX - 15, ..queue() },
        ] {
            assert!(matches!(broken.check(&memory), Err(QueueError::Place)), "{broken:?}");
        }
    }

    #[test]
    fn what_is_given_back_is_in_the_used_ring() {
        let (memory, mut queue) = (memory(), queue());
        queue.next_used = u16::MAX;
        queue.push(&memory, 5, 77).expect("memory");
        assert_eq!(memory.read_obj::<[u32; 2]>(GuestAddress(USED + 4 + 8 * 7)).expect("memory"), [5, 77]);
        assert_eq!(queue.used_index(&memory).expect("memory"), 0);
    }

    #[test]
    fn drivers_are_told_when_they_want_to() {
        let (memory, mut queue) = (memory(), queue());
        assert!(!queue.wants_interrupt(&memory).expect("memory"), "nothing was given back");
        queue.push(&memory, 0, 0).expect("memory");
        assert!(queue.wants_interrupt(&memory).expect("memory"));
        assert!(!queue.wants_interrupt(&memory).expect("memory"), "once");
        memory.write_obj(NO_INTERRUPT, GuestAddress(AVAILABLE)).expect("memory");
        queue.push(&memory, 0, 0).expect("memory");
        assert!(!queue.wants_interrupt(&memory).expect("memory"));
        queue.event_idx = true;
        memory.write_obj(3_u16, GuestAddress(AVAILABLE + 4 + 16)).expect("memory");
        queue.push(&memory, 0, 0).expect("memory");
        assert!(!queue.wants_interrupt(&memory).expect("memory"), "not before the fourth");
        queue.push(&memory, 0, 0).expect("memory");
        assert!(queue.wants_interrupt(&memory).expect("memory"));
    }

    proptest! {
        /// Whatever a driver writes, taking chains ends, and each buffer lies in memory.
        #[test]
        fn no_driver_leads_astray(
            rings in proptest::collection::vec(any::<u16>(), 3 * 2048),
            index in any::<u16>(),
        ) {
            let (memory, mut queue) = (memory(), queue());
            let bytes: Vec<u8> = rings.iter().flat_map(|word| word.to_le_bytes()).collect();
            memory.write_slice(&bytes, GuestAddress(DESCRIPTORS)).expect("memory");
            memory.write_obj(index % 9, GuestAddress(AVAILABLE + 2)).expect("memory");
            for _ in 0..16 {
                match queue.pop(&memory) {
                    Ok(Some(chain)) => {
                        for segment in chain.readable.iter().chain(&chain.writable) {
                            prop_assert!(segment.at + u64::from(segment.bytes) <= MEMORY_BYTES as u64);
                        }
                        prop_assert!(chain.readable.len() + chain.writable.len() <= 2 * 8);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}
