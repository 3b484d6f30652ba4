//! How many frames were dropped, per port and reason.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::PortId;

use crate::DropReason;

/// One port's counts, by reason.
type Counts = [u64; DropReason::ALL.len()];

/// The drop counters of every port.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    ports: HashMap<PortId, Counts, FixedState>,
}

impl Counters {
    /// Keeps the counts of `ports`, starts those that are new at zero, and forgets all others.
    pub(crate) fn keep(&mut self, ports: impl Iterator<Item = PortId>) {
        let old = std::mem::take(&mut self.ports);
        self.ports = ports.map(|port| (port, old.get(&port).copied().unwrap_or_default())).collect();
    }

    /// Counts `frames` that came in by `port`; nowhere when it is no port.
    pub(crate) fn add(&mut self, port: PortId, reason: DropReason, frames: u64) {
        if let Some(counts) = self.ports.get_mut(&port) {
            let count = &mut counts[reason as usize];
            *count = count.saturating_add(frames);
        }
    }

    /// The counts of `port` that are not zero.
    pub(crate) fn of(&self, port: PortId) -> impl Iterator<Item = (DropReason, u64)> {
        let counts = self.ports.get(&port).copied().unwrap_or_default();
        DropReason::ALL.into_iter().zip(counts).filter(|(_, count)| *count != 0)
    }
}
