use std::time::Duration;

use weft_types::Instant;

/// Answers saved up while nobody asks.
const BURST: u32 = 50;
/// The time in which one more may be sent.
const REFILL: Duration = Duration::from_millis(10);

/// How many ICMP errors may be sent: a token bucket (RFC 1812, section 4.3.2.8).
#[derive(Debug)]
pub(crate) struct Budget {
    left: u32,
    refilled: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: BURST, refilled: now }
    }

    /// Takes one, if one is left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let steps = u32::try_from(now.since(self.refilled).as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if steps > 0 {
            self.left = self.left.saturating_add(steps).min(BURST);
            self.refilled = now;
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }
}
