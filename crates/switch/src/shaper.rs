//! Frames that wait for their time at a port that may not be faster (law 9).
//!
//! A bucket like those of [`crate::Rates`] that drop, and before it a queue for each sender, which are served in turn by
//! bytes: deficit round robin (Shreedhar and Varghese, 1995). So senders get equal shares of the rate, whatever the size
//! and the number of their frames, and who sends less than its share waits for nobody's backlog but one round.
//!
//! This decides which frame goes when; the frames themselves are the caller's, who also has the clock. So it is as
//! deterministic as the switch, and the same for what comes in by a port and what leaves by it.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::{Instant, PortId};

use crate::Rate;
use crate::bucket::{Bucket, Limit};

/// How long a frame waits at most, while frames are not longer than a quarter of what the rate gives in that time.
const MAX_WAIT_MS: u64 = 50;

/// As many of the longest frames fit at least, however slow the port is.
const MIN_LONGEST_FRAMES: u64 = 4;

/// The most bytes that wait, however fast the port is.
const MAX_WAITING_BYTES: u64 = 8 << 20;

/// What the shortest frame counts as, where room is concerned: about what it costs to keep one.
const MIN_FRAME_COST: u64 = 256;

/// By how much a sender's turn is worth more each time: two full frames of Ethernet.
const QUANTUM_BYTES: u64 = 2 * 1514;

/// While frames wait, so much of the rate is not lost when nobody looks in time.
const MAX_LATENESS_MS: u64 = 10;

/// The waiting room of one port and way. `T` is a frame.
#[derive(Debug)]
pub struct Shaper<T> {
    rate: Rate,
    bucket: Bucket,
    /// The longest frame since nothing waited, in bytes.
    longest: u64,
    queues: HashMap<PortId, Queue<T>, FixedState>,
    /// Who has frames waiting, in the order of their turns.
    turns: VecDeque<PortId>,
    /// What all that waits costs.
    cost: u64,
}

/// What one sender has waiting.
#[derive(Debug)]
struct Queue<T> {
    /// With their lengths in bytes.
    frames: VecDeque<(u64, T)>,
    cost: u64,
    /// How many bytes it may still send in its turn.
    credit: u64,
}

impl<T> Shaper<T> {
    /// An empty one, whose burst may come at once.
    pub fn new(now: Instant, rate: Rate) -> Self {
        let bucket = Bucket::full(now, Limit { per_s: rate.bits_per_s, burst: rate.burst_bytes * 8 });
        let (queues, turns) = (HashMap::default(), VecDeque::new());
        Self { rate, bucket, longest: 0, queues, turns, cost: 0 }
    }

    /// Is as fast as `rate` says from now on; what waits goes on waiting.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether a frame would pass at once.
    pub fn is_open(&self, now: Instant) -> bool {
        self.is_empty() && self.bucket.is_open(now, self.limit())
    }

    /// How many bytes wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.queues.values().flat_map(|queue| &queue.frames).map(|(len, _)| len).sum()
    }

    /// Lets a frame of so many bytes pass at once, if none waits and it is not too fast. Who does not pass can
    /// [`wait`](Self::wait).
    pub fn pass(&mut self, now: Instant, len: usize) -> bool {
        let limit = self.limit();
        let passes = self.is_empty() && self.bucket.is_open(now, limit);
        if passes {
            self.bucket.take(now, limit, len as u64 * 8);
        }
        passes
    }

    /// Takes a frame of so many bytes from `sender` into the queue, if there is room; whether there was. Who has no more
    /// than its share of the room always gets some: then the newest frames of whoever has most go to `pushed_out`.
    #[must_use]
    pub fn wait(
        &mut self,
        sender: PortId,
        len: usize,
        frame: impl FnOnce() -> T,
        mut pushed_out: impl FnMut(PortId, T),
    ) -> bool {
        let (len, cost) = (len as u64, cost(len as u64));
        self.longest = self.longest.max(len);
        let room = self.room();
        let own = self.queues.get(&sender).map_or(0, |queue| queue.cost);
        let senders = self.turns.len() as u64 + u64::from(own == 0);
        while self.cost + cost > room && !self.is_empty() {
            if own + cost > room / senders && own > 0 {
                return false;
            }
            let Some(fattest) = self.fattest().filter(|fattest| *fattest != sender) else { return false };
            if let Some(frame) = self.drop_newest(fattest) {
                pushed_out(fattest, frame);
            }
        }
        let queue = self.queues.entry(sender).or_insert_with(|| {
            self.turns.push_back(sender);
            Queue { frames: VecDeque::new(), cost: 0, credit: QUANTUM_BYTES }
        });
        queue.frames.push_back((len, frame()));
        queue.cost += cost;
        self.cost += cost;
        true
    }

    /// The next frame whose time has come, and who sent it.
    pub fn next(&mut self, now: Instant) -> Option<(PortId, T)> {
        let limit = self.limit();
        if self.is_empty() || !self.bucket.is_open(now, limit) {
            return None;
        }
        loop {
            let sender = *self.turns.front()?;
            let queue = self.queues.get_mut(&sender)?;
            let (len, _) = queue.frames.front()?;
            if *len > queue.credit {
                queue.credit += QUANTUM_BYTES;
                self.turns.rotate_left(1);
                continue;
            }
            let (len, frame) = queue.frames.pop_front()?;
            queue.credit -= len;
            queue.cost -= cost(len);
            self.cost -= cost(len);
            if queue.frames.is_empty() {
                self.queues.remove(&sender);
                self.turns.pop_front();
            }
            self.bucket.take(now, limit, len * 8);
            if self.is_empty() {
                self.longest = 0;
            }
            return Some((sender, frame));
        }
    }

    /// When [`next`](Self::next) has a frame; `None` while none waits.
    pub fn due(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| self.bucket.opens_at(self.limit()))
    }

    /// What the bucket holds at most: the burst; while frames wait, also what is made good for.
    fn limit(&self) -> Limit {
        let Rate { bits_per_s, burst_bytes, .. } = self.rate;
        let late = if self.is_empty() { 0 } else { bits_per_s / 1000 * MAX_LATENESS_MS };
        Limit { per_s: bits_per_s, burst: late.max(burst_bytes.max(self.longest) * 8) }
    }

    fn room(&self) -> u64 {
        let in_time = (self.rate.bits_per_s / 8 / 1000 * MAX_WAIT_MS).min(MAX_WAITING_BYTES);
        in_time.max(self.longest.max(MIN_FRAME_COST) * MIN_LONGEST_FRAMES)
    }

    /// Who has most waiting; of several the first.
    fn fattest(&self) -> Option<PortId> {
        let mut fattest: Option<(PortId, u64)> = None;
        for sender in &self.turns {
            let cost = self.queues.get(sender).map_or(0, |queue| queue.cost);
            if fattest.is_none_or(|(_, most)| cost > most) {
                fattest = Some((*sender, cost));
            }
        }
        fattest.map(|(sender, _)| sender)
    }

    fn drop_newest(&mut self, sender: PortId) -> Option<T> {
        let queue = self.queues.get_mut(&sender)?;
        let (len, frame) = queue.frames.pop_back()?;
        queue.cost -= cost(len);
        self.cost -= cost(len);
        if queue.frames.is_empty() {
            self.queues.remove(&sender);
            self.turns.retain(|other| *other != sender);
        }
        Some(frame)
    }
}

fn cost(len: u64) -> u64 {
    len.max(MIN_FRAME_COST)
}
