//! Byte queues that cost nothing while they are empty.

/// The largest a ring gets: the socket is read, and the guest may send, while a good part is under way.
pub(super) const RING_BYTES: usize = 1024 * 1024;
/// What a ring takes at least: most flows carry a few short messages, and thousands of them may be idle.
const FIRST_BYTES: usize = 512;
/// What a ring may take however little is left: two or three segments.
pub(super) const GRANTED_BYTES: usize = 4 * 1024;
/// How much a ring grows at a time.
const GROWTH: usize = 4;

/// What all rings together may take. Every ring may take [`GRANTED_BYTES`]; only more is refused, so the number of flows is
/// a bound too.
#[derive(Debug)]
pub(super) struct Memory {
    used: usize,
    limit: usize,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Self { used: 0, limit }
    }

    /// Whether a ring may still become as large as rings get.
    pub(super) fn is_ample(&self) -> bool {
        self.used + RING_BYTES <= self.limit
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }
}

/// A byte queue of bounded size.
#[derive(Debug, Default)]
pub(super) struct Ring {
    buffer: Box<[u8]>,
    head: usize,
    len: usize,
    /// How far behind the queue's end bytes were written that came too early.
    ahead: usize,
}

impl Ring {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether so much is free that it is worth a system call to fill it.
    pub(super) fn is_half_empty(&self) -> bool {
        self.len <= self.buffer.len() / 2
    }

    /// Whether nothing would be lost with its memory.
    pub(super) fn is_unused(&self) -> bool {
        self.len == 0 && self.ahead == 0
    }

    /// Whether it holds memory.
    pub(super) fn has_buffer(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// How many bytes it may hold, given what all rings use.
    pub(super) fn limit(&self, memory: &Memory) -> usize {
        if memory.is_ample() { RING_BYTES } else { self.buffer.len().max(GRANTED_BYTES) }
    }

    /// Grows, if it may, until there is room for `more` bytes.
    pub(super) fn reserve(&mut self, more: usize, memory: &mut Memory) {
        let wanted = self.len + more;
        let mut capacity = self.buffer.len();
        while capacity < wanted.min(RING_BYTES) {
            let next = match (capacity * GROWTH).clamp(FIRST_BYTES, RING_BYTES) {
                over if capacity < GRANTED_BYTES && over > GRANTED_BYTES => GRANTED_BYTES,
                next => next,
            };
            if next > GRANTED_BYTES && memory.used + (next - self.buffer.len()) > memory.limit {
                break;
            }
            capacity = next;
        }
        if capacity > self.buffer.len() {
            memory.used += capacity - self.buffer.len();
            let mut grown = vec![0; capacity].into_boxed_slice();
            let (back, front) = self.buffer.split_at(self.head);
            grown[..front.len()].copy_from_slice(front);
            grown[front.len()..self.buffer.len()].copy_from_slice(back);
            (self.buffer, self.head) = (grown, 0);
        }
    }

    /// Gives the memory back.
    pub(super) fn release(&mut self, memory: &mut Memory) {
        memory.used -= self.buffer.len();
        *self = Self::default();
    }

    /// Appends what fits, and says how much that was.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        for space in self.space() {
            let (now, later) = rest.split_at(rest.len().min(space.len()));
            space[..now.len()].copy_from_slice(now);
            rest = later;
        }
        let pushed = bytes.len() - rest.len();
        self.fill(pushed);
        pushed
    }

    /// Writes what fits behind a gap of `gap` bytes, and says how much that was. It joins the queue when the gap is
    /// filled and [`Self::fill`] says so.
    pub(super) fn write_ahead(&mut self, gap: usize, bytes: &[u8]) -> usize {
        let mut skip = gap;
        let mut rest = bytes;
        for space in self.space() {
            let skipped = skip.min(space.len());
            skip -= skipped;
            let space = &mut space[skipped..];
            let (now, later) = rest.split_at(rest.len().min(space.len()));
            space[..now.len()].copy_from_slice(now);
            rest = later;
        }
        let written = bytes.len() - rest.len();
        if written > 0 {
            self.ahead = self.ahead.max(gap + written);
        }
        written
    }

    /// The free part, in order.
    pub(super) fn space(&mut self) -> [&mut [u8]; 2] {
        let capacity = self.buffer.len();
        let tail = self.head + self.len;
        if tail < capacity {
            let (front, back) = self.buffer.split_at_mut(tail);
            [back, &mut front[..self.head]]
        } else {
            [&mut self.buffer[tail - capacity..self.head], &mut []]
        }
    }

    /// Tells that `count` bytes were written to [`Self::space`].
    pub(super) fn fill(&mut self, count: usize) {
        self.len = (self.len + count).min(self.buffer.len());
        self.ahead = self.ahead.saturating_sub(count);
    }

    /// `count` bytes from `from` on; less where there are less.
    pub(super) fn slices(&self, from: usize, count: usize) -> [&[u8]; 2] {
        let from = from.min(self.len);
        let count = count.min(self.len - from);
        let start = self.head + from;
        let capacity = self.buffer.len();
        if start >= capacity {
            let start = start - capacity;
            [&self.buffer[start..start + count], &[]]
        } else if start + count <= capacity {
            [&self.buffer[start..start + count], &[]]
        } else {
            [&self.buffer[start..], &self.buffer[..start + count - capacity]]
        }
    }

    /// Drops the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.head = if self.is_unused() { 0 } else { (self.head + count) % self.buffer.len() };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        Write(usize),
        Consume(usize),
        Release,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let count = prop_oneof![0usize..200, 0usize..100_000];
        prop_oneof![
            count.clone().prop_map(Op::Push),
            count.clone().prop_map(Op::Write),
            count.prop_map(Op::Consume),
            Just(Op::Release)
        ]
    }

    proptest! {
        /// A ring is a queue of bytes.
        #[test]
        fn ring_is_a_queue(ops in proptest::collection::vec(any_op(), 1..40)) {
            let (mut ring, mut model, mut memory) = (Ring::default(), VecDeque::new(), Memory::new(RING_BYTES));
            let mut next = (0..=250u8).cycle();
            for op in ops {
                match op {
                    Op::Push(count) => {
                        let bytes: Vec<u8> = next.by_ref().take(count).collect();
                        ring.reserve(bytes.len(), &mut memory);
                        let pushed = ring.push(&bytes);
                        model.extend(&bytes[..pushed]);
                        prop_assert!(pushed == count || ring.len() == RING_BYTES);
                    }
                    Op::Write(count) => {
                        ring.reserve(count, &mut memory);
                        let mut written = 0;
                        for space in ring.space() {
                            for byte in space.iter_mut().take(count - written) {
                                *byte = next.next().unwrap();
                                model.push_back(*byte);
                                written += 1;
                            }
                        }
                        ring.fill(written);
                    }
                    Op::Consume(count) => {
                        ring.consume(count);
                        model.drain(..count.min(model.len()));
                    }
                    Op::Release => {
                        if ring.is_empty() {
                            ring.release(&mut memory);
                            prop_assert_eq!(memory.used(), 0);
                        }
                    }
                }
                prop_assert_eq!(ring.len(), model.len());
                let at = model.len() / 3;
                let [front, back] = ring.slices(at, RING_BYTES);
                prop_assert!(front.iter().chain(back).eq(model.iter().skip(at)));
            }
        }
    }
}
