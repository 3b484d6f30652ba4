//! Token buckets: so much in a second, and so much at once.

use std::time::Duration;

use weft_types::Instant;

/// What a bucket lets pass, in units of the caller's choosing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What it gets in a second.
    pub(crate) per_s: u64,
    /// What it holds at most.
    pub(crate) burst: u64,
}

const NANOS: i128 = 1_000_000_000;

/// A bucket. What it holds is kept in billionths of a unit, so that nothing is lost however often it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    nano_units: i128,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn full(now: Instant, limit: Limit) -> Self {
        Self { nano_units: i128::from(limit.burst) * NANOS, at: now }
    }

    /// Whether something may pass: the bucket is not empty. So what passes may cost more than there is, once: then
    /// the debt is paid before anything else passes, and the rate stays what it is.
    pub(crate) fn is_open(&self, now: Instant, limit: Limit) -> bool {
        self.filled(now, limit) > 0
    }

    /// When something may pass next, if nothing passes until then.
    pub(crate) fn opens_at(&self, limit: Limit) -> Instant {
        if self.nano_units > 0 {
            return self.at;
        }
        let nanos = -self.nano_units / i128::from(limit.per_s.max(1)) + 1;
        self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes out what something costs, which passes.
    pub(crate) fn take(&mut self, now: Instant, limit: Limit, cost: u64) {
        self.nano_units = self.filled(now, limit) - i128::from(cost) * NANOS;
        self.at = self.at.max(now);
    }

    fn filled(&self, now: Instant, limit: Limit) -> i128 {
        let gained = i128::from(now.as_nanos().saturating_sub(self.at.as_nanos())) * i128::from(limit.per_s);
        (self.nano_units + gained).min(i128::from(limit.burst) * NANOS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let limit = Limit { per_s: 1000, burst: 10 };
        let mut bucket = Bucket::full(Instant::ZERO, limit);
        let mut passed = 0;
        for micros in 0..100_000 {
            let now = Instant::from_nanos(micros * 1000);
            if bucket.is_open(now, limit) {
                bucket.take(now, limit, 1);
                passed += 1;
            }
        }
        assert_eq!(passed, 10 + 100);
    }

    #[test]
    fn a_debt_is_paid_first() {
        let limit = Limit { per_s: 1000, burst: 10 };
        let mut bucket = Bucket::full(Instant::ZERO, limit);
        bucket.take(Instant::ZERO, limit, 510);
        assert!(!bucket.is_open(Instant::from_millis(500), limit));
        assert!(bucket.is_open(Instant::from_millis(501), limit));
        assert_eq!(bucket.opens_at(limit), Instant::from_nanos(500_000_001));
        assert!(bucket.is_open(bucket.opens_at(limit), limit));
        bucket.take(Instant::ZERO, limit, 1); // a clock that goes back gains nothing
        assert!(!bucket.is_open(Instant::from_millis(501), limit) || limit.burst == 0);
    }
}
