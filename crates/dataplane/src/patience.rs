//! Whether polling for a while before sleeping pays.

use std::time::Duration;

use weft_types::Instant;

/// How long the worker polls after the last frame before it sleeps: about what waking up would cost.
const SPIN: Duration = Duration::from_micros(40);

/// A round of polling takes less. After more, somebody else had our processor, and may have waited for it.
const ROUND: Duration = Duration::from_micros(10);

/// So often in a row polling may have been in vain.
const MISSES: u32 = 4;

/// While polling is in vain, it is tried again once in so many times.
const TRIAL: u32 = 256;

/// Decides between polling and sleeping, from what polling was worth of late.
///
/// A worker that polls on a processor of its own is spared the cost of sleeping and waking up. One that shares its
/// processor with who would send the next frame only keeps them from sending it; and where frames are few, all it does
/// is use power. Neither can be told beforehand, so what came of it decides.
#[derive(Debug)]
pub(crate) struct Patience {
    last_work: Instant,
    last_round: Instant,
    /// The processor was taken from us since the last work.
    is_shared: bool,
    /// How often in a row no work came while we polled.
    misses: u32,
}

impl Patience {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last_work: now, last_round: now, is_shared: false, misses: 0 }
    }

    /// When there was work last.
    pub(crate) fn last_work(&self) -> Instant {
        self.last_work
    }

    /// There was work in the round that began `now`.
    pub(crate) fn worked(&mut self, now: Instant) {
        if self.has_polled() {
            self.look_back(now);
            self.misses = if self.is_shared { self.misses.saturating_add(1) } else { 0 };
        }
        (self.last_work, self.last_round, self.is_shared) = (now, now, false);
    }

    /// Whether to poll once more, after the round that began `now` and had no work.
    pub(crate) fn polls_on(&mut self, now: Instant) -> bool {
        self.look_back(now);
        self.last_round = now;
        let is_worth_it = self.misses < MISSES || self.misses.is_multiple_of(TRIAL);
        is_worth_it && now.since(self.last_work) < SPIN
    }

    /// We slept: who comes next was not polled for.
    pub(crate) fn slept(&mut self) {
        self.misses = self.misses.saturating_add(1);
        self.last_round = self.last_work;
    }

    /// Whether there was a round without work since the last with.
    fn has_polled(&self) -> bool {
        self.last_round > self.last_work
    }

    /// Sees whether the last round of polling took too long. (One with work may take as long as it does.)
    fn look_back(&mut self, now: Instant) {
        self.is_shared |= self.has_polled() && now.since(self.last_round) > ROUND;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker in a world where work comes `every` so many nanoseconds after the last was done, and a round takes
    /// `round`; how often it slept while `times` works came.
    fn sleeps(every: u64, round: u64, times: usize) -> usize {
        let mut now = 1_000_000;
        let mut patience = Patience::new(Instant::from_nanos(now));
        let mut count = 0;
        for _ in 0..times {
            let due = now + every;
            now += 500; // the round with work
            while now < due {
                if patience.polls_on(Instant::from_nanos(now)) {
                    now += round;
                } else {
                    patience.slept();
                    count += 1;
                    now = due;
                }
            }
            patience.worked(Instant::from_nanos(now));
        }
        count
    }

    #[test]
    fn it_polls_while_that_pays() {
        assert_eq!(sleeps(5_000, 300, 1000), 0, "work comes soon");
        assert_eq!(sleeps(39_000, 300, 1000), 0, "work comes just in time");
        assert_eq!(sleeps(1_000_000, 300, 1000), 1000, "work comes seldom");
        assert_eq!(sleeps(400, 300, 1000), 0, "there is always work");
    }

    #[test]
    fn who_shares_the_processor_with_the_sender_sleeps() {
        let slept = sleeps(5_000, 15_000, 2000);
        assert!(slept > 1900, "rounds of polling take longer than the work needs: slept {slept} times");
    }

    #[test]
    fn in_vain_it_is_tried_seldom_and_taken_up_again() {
        let mut patience = Patience::new(Instant::ZERO);
        let mut now = 1_000_000;
        let mut work = |patience: &mut Patience, after: u64| {
            now += after;
            patience.worked(Instant::from_nanos(now));
            now += 500;
            patience.polls_on(Instant::from_nanos(now))
        };
        let mut polled = 0;
        for _ in 0..1024 {
            polled += u32::from(work(&mut patience, 500_000));
            patience.slept();
        }
        assert!((4..=4 + 1024 / TRIAL).contains(&polled), "polled {polled} times");
        while !work(&mut patience, 500_000) {
            patience.slept();
        }
        assert!(work(&mut patience, 2_000), "the trial was worth it, so it goes on");
        assert!(work(&mut patience, 2_000));
    }
}
