//! Law 9: how fast ports may be.

use weft_switch::{Excess, Rate};
use weft_types::{Instant, PortId};

use super::Model;

/// What a port may still send or be sent, in billionths of a bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    left: i128,
    at: Instant,
    longest: usize,
}

impl Model {
    fn rate(&self, port: PortId, is_from: bool) -> Option<Rate> {
        let port = self.config.ports.iter().find(|known| known.id == port)?;
        let rate = if is_from { port.rates.from_port } else { port.rates.to_port };
        rate.filter(|rate| rate.excess == Excess::Drop) // what waits is no matter of verdicts
    }

    pub(super) fn keep_meters(&mut self) {
        let mut meters = std::mem::take(&mut self.meters);
        meters.retain(|(port, is_from), _| self.rate(*port, *is_from).is_some());
        self.meters = meters;
    }

    /// Whether a frame may pass; then it has.
    pub(super) fn may_pass(&mut self, now: Instant, port: PortId, is_from: bool, frame_len: usize) -> bool {
        let Some(rate) = self.rate(port, is_from) else { return true };
        let nano_bits = |bytes: u64| i128::from(bytes) * 8 * 1_000_000_000;
        let full = Meter { left: nano_bits(rate.burst_bytes), at: now, longest: 0 };
        let meter = self.meters.entry((port, is_from)).or_insert(full);
        meter.longest = meter.longest.max(frame_len);
        let most = nano_bits(rate.burst_bytes.max(meter.longest as u64));
        let gained = now.since(meter.at).as_nanos() as i128 * i128::from(rate.bits_per_s);
        let left = most.min(meter.left + gained);
        if left > 0 {
            (meter.left, meter.at) = (left - nano_bits(frame_len as u64), now);
        }
        left > 0
    }
}
