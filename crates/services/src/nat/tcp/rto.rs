//! The retransmission timeout (RFC 6298).

use std::time::Duration;

/// Before anything was measured.
const INITIAL: Duration = Duration::from_secs(1);
/// Less than RFC 6298 asks for, as everybody does; guests acknowledge within milliseconds.
const MINIMUM: Duration = Duration::from_millis(200);
const MAXIMUM: Duration = Duration::from_secs(60);
/// What a timer may be off.
const GRANULARITY: Duration = Duration::from_millis(1);

/// Smoothed round trip time, its variation, and how often the timeout was doubled.
#[derive(Debug, Default)]
pub(super) struct Rto {
    smoothed: Option<Smoothed>,
    doublings: u32,
}

#[derive(Debug)]
struct Smoothed {
    rtt: Duration,
    variation: Duration,
}

impl Rto {
    /// Takes in a round trip of a segment that was sent once (Karn's algorithm).
    pub(super) fn measure(&mut self, rtt: Duration) {
        self.smoothed = Some(match &self.smoothed {
            None => Smoothed { rtt, variation: rtt / 2 },
            Some(old) => {
                Smoothed { rtt: (old.rtt * 7 + rtt) / 8, variation: (old.variation * 3 + old.rtt.abs_diff(rtt)) / 4 }
            }
        });
    }

    /// How long to wait for an acknowledgement.
    pub(super) fn get(&self) -> Duration {
        let base = self
            .smoothed
            .as_ref()
            .map_or(INITIAL, |smoothed| (smoothed.rtt + (smoothed.variation * 4).max(GRANULARITY)).max(MINIMUM));
        (base * (1 << self.doublings)).min(MAXIMUM)
    }

    /// Waits twice as long from now on.
    pub(super) fn back_off(&mut self) {
        self.doublings = (self.doublings + 1).min(16);
    }

    /// The other side answered.
    pub(super) fn restart(&mut self) {
        self.doublings = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_rfc_6298_says() {
        let ms = Duration::from_millis;
        let mut rto = Rto::default();
        assert_eq!(rto.get(), ms(1000));
        rto.measure(ms(200));
        assert_eq!(rto.get(), ms(200 + 4 * 100));
        rto.measure(ms(200));
        assert_eq!(rto.get(), ms(200 + 4 * 75));
        rto.back_off();
        rto.back_off();
        assert_eq!(rto.get(), ms(2000));
        rto.restart();
        for _ in 0..100 {
            rto.measure(Duration::from_micros(50));
        }
        assert_eq!(rto.get(), MINIMUM);
        for _ in 0..100 {
            rto.back_off();
        }
        assert_eq!(rto.get(), MAXIMUM);
    }
}
