//! How fast ports may send and be sent to, where what is faster is dropped (law 9); [`crate::Shaper`] is for the rest.
//!
//! A bucket for each port and way (RFC 2697's committed bucket alone, with debt): a frame passes while the bucket is
//! not empty, however long it is, so a segmentation offload of 64 KiB passes at any rate, and what it takes too much is
//! waited for before anything else passes. While long frames come, the bucket holds one of them, also when its burst is
//! less: else time would be lost between them, and the rate with it.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::{Instant, PortId};

use crate::bucket::{Bucket, Limit};
use crate::{Excess, Rate, Rates};

/// Which way a frame goes at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// It comes from what stands behind it.
    From,
    /// It goes there.
    To,
}

impl Way {
    fn rate(self, rates: &Rates) -> Option<Rate> {
        let rate = match self {
            Self::From => rates.from_port,
            Self::To => rates.to_port,
        };
        rate.filter(|rate| rate.excess == Excess::Drop)
    }
}

/// A bucket, and the longest frame that came to it.
#[derive(Clone, Copy, Debug)]
struct Meter {
    bucket: Bucket,
    longest_bytes: usize,
}

/// Whether a port drops what is too fast, either way.
pub(crate) fn polices(rates: &Rates) -> bool {
    [Way::From, Way::To].iter().any(|way| way.rate(rates).is_some())
}

/// The meters of all ports that have a rate and were used.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    meters: HashMap<(PortId, Way), Meter, FixedState>,
    is_used: bool,
}

impl Meters {
    /// Notes whether any port drops what is too fast.
    pub(crate) fn set_used(&mut self, is_used: bool) {
        self.is_used = is_used;
    }

    /// Forgets the meters of ports that have no such rate now; the others keep what is in their buckets.
    pub(crate) fn retain<'a>(&mut self, rates: impl Fn(PortId) -> Option<&'a Rates>) {
        self.meters.retain(|(port, way), _| rates(*port).is_some_and(|rates| way.rate(rates).is_some()));
    }

    /// Whether any port drops what is too fast.
    #[inline]
    pub(crate) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Whether a frame would pass at a port.
    pub(crate) fn is_open(&self, now: Instant, port: PortId, way: Way, rates: &Rates, frame_len: usize) -> bool {
        let Some((rate, meter)) = way.rate(rates).zip(self.meters.get(&(port, way))) else { return true };
        meter.bucket.is_open(now, limit(rate, meter.longest_bytes.max(frame_len)))
    }

    /// Lets a frame of so many bytes pass at a port, or not.
    pub(crate) fn pass(&mut self, now: Instant, port: PortId, way: Way, rates: &Rates, frame_len: usize) -> bool {
        let Some(rate) = way.rate(rates) else { return true };
        let full = || Meter { bucket: Bucket::full(now, limit(rate, 0)), longest_bytes: 0 };
        let meter = self.meters.entry((port, way)).or_insert_with(full);
        meter.longest_bytes = meter.longest_bytes.max(frame_len);
        let limit = limit(rate, meter.longest_bytes);
        let is_open = meter.bucket.is_open(now, limit);
        if is_open {
            meter.bucket.take(now, limit, frame_len as u64 * 8);
        }
        is_open
    }
}

fn limit(rate: Rate, longest_bytes: usize) -> Limit {
    Limit { per_s: rate.bits_per_s, burst: rate.burst_bytes.max(longest_bytes as u64) * 8 }
}
