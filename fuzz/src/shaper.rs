//! Frames that wait for their time: bytes decode into senders, lengths, rates and a clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weft_switch::{Excess, Rate, Shaper};
use weft_types::{Instant, PortId};

/// The longest frame that there can be, in bytes.
const MAX_LEN: u64 = 65_553;

/// So many bytes wait at most, whatever the rate.
const MAX_WAITING_BYTES: u64 = 8 << 20;

/// A frame: its number, and its length in bytes.
type Frame = (u32, u64);

/// A shaper, and what must be in it.
struct Life {
    shaper: Shaper<Frame>,
    rate: Rate,
    now: Instant,
    /// What waits, by sender, the oldest first.
    waiting: BTreeMap<u8, VecDeque<Frame>>,
    /// Since when the rate is as it is, and what has passed since, in bits.
    since: Instant,
    passed: u128,
}

/// Whoever sends what: frames leave once, each sender's in order, not faster than they may, and none is forgotten.
pub(crate) fn shaper_life(bytes: &[u8]) {
    let Some((head, mut rest)) = bytes.split_first_chunk() else { return };
    let rate = rate(*head);
    let mut life = Life {
        shaper: Shaper::new(Instant::ZERO, rate),
        rate,
        now: Instant::ZERO,
        waiting: BTreeMap::new(),
        since: Instant::ZERO,
        passed: 0,
    };
    let mut number = 0;
    while let Some(([action, a, b, c], others)) = rest.split_first_chunk() {
        rest = others;
        number += 1;
        match action % 8 {
            0 => life.now += Duration::from_micros(u64::from(u16::from_be_bytes([*a, *b])) << (c % 8)),
            1 => life.leave(),
            2 => life.set_rate(self::rate([*a, *b, *c])),
            _ => life.come(*a, (number, (u64::from(u16::from_be_bytes([*b, *c])) + 18).min(MAX_LEN))),
        }
        life.check();
    }
    life.drain();
}

/// Any rate: from 64 kbit/s to 1 Tbit/s, with bursts from 1 byte to 1 GiB.
fn rate([mantissa, exponent, burst]: [u8; 3]) -> Rate {
    let bits_per_s = (64_000 + u64::from(mantissa) * 1000) << (exponent % 24);
    Rate {
        bits_per_s: bits_per_s.min(Rate::MAX_BITS_PER_S),
        burst_bytes: (1u64 << (burst % 31)).min(Rate::MAX_BURST_BYTES),
        excess: Excess::Wait,
    }
}

impl Life {
    fn come(&mut self, sender: u8, frame: Frame) {
        let len = frame.1 as usize;
        if self.shaper.pass(self.now, len) {
            assert!(self.waiting.is_empty(), "nobody overtakes");
            return self.count(frame);
        }
        let mut pushed_out = Vec::new();
        let waits =
            self.shaper.wait(PortId(sender.into()), len, || frame, |loser, lost| pushed_out.push((loser, lost)));
        for (loser, lost) in pushed_out {
            assert_ne!(loser, PortId(sender.into()), "who comes pushes nothing of its own out");
            let loser = loser.0 as u8;
            let queue = self.waiting.get_mut(&loser).expect("it waited");
            assert_eq!(queue.pop_back(), Some(lost), "the newest gives way");
            if queue.is_empty() {
                self.waiting.remove(&loser);
            }
        }
        if waits {
            self.waiting.entry(sender).or_default().push_back(frame);
        }
    }

    fn leave(&mut self) {
        while let Some((sender, frame)) = self.shaper.next(self.now) {
            let sender = sender.0 as u8;
            let queue = self.waiting.get_mut(&sender).expect("it waits");
            assert_eq!(queue.pop_front(), Some(frame), "the oldest goes first");
            if queue.is_empty() {
                self.waiting.remove(&sender);
            }
            self.count(frame);
        }
        assert!(self.shaper.due().is_none_or(|due| due > self.now), "what is due has gone");
    }

    fn set_rate(&mut self, rate: Rate) {
        self.shaper.set_rate(rate);
        (self.rate, self.since, self.passed) = (rate, self.now, 0);
    }

    /// Notes that a frame has passed, which must not be too much.
    fn count(&mut self, frame: Frame) {
        self.passed += u128::from(frame.1) * 8;
        let Rate { bits_per_s, burst_bytes, .. } = self.rate;
        let given = u128::from((self.now - self.since).as_nanos() as u64) * u128::from(bits_per_s) / 1_000_000_000;
        // What may come at once, what is made good for when nobody looked for 10 ms, and a frame that goes into debt.
        let burst = u128::from((burst_bytes * 8).max(bits_per_s / 100).max(MAX_LEN * 8) + MAX_LEN * 8);
        assert!(self.passed <= given + burst, "{} > {given} + {burst}", self.passed);
    }

    fn check(&self) {
        let bytes: u64 = self.waiting.values().flatten().map(|(_, len)| len).sum();
        assert_eq!(self.shaper.waiting_bytes(), bytes);
        assert_eq!(self.shaper.is_empty(), self.waiting.is_empty());
        assert_eq!(self.shaper.due().is_some(), !self.waiting.is_empty());
        assert!(bytes <= MAX_WAITING_BYTES.max(4 * MAX_LEN), "{bytes} bytes wait");
    }

    /// All that waits goes once its time has come.
    fn drain(&mut self) {
        while let Some(due) = self.shaper.due() {
            self.now = self.now.max(due);
            let before = self.shaper.waiting_bytes();
            self.leave();
            assert!(self.shaper.waiting_bytes() < before, "what is due goes");
        }
        self.check();
    }
}
