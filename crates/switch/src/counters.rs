//! How many frames were dropped and how many wishes were denied, per port and reason.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::PortId;

use crate::{Denial, DropReason};

/// One port's counts, by reason.
#[derive(Clone, Copy, Debug)]
struct Counts {
    drops: [u64; DropReason::ALL.len()],
    denials: [u64; Denial::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        Self { drops: [0; DropReason::ALL.len()], denials: [0; Denial::ALL.len()] }
    }
}

/// The counters of every port.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    ports: HashMap<PortId, Box<Counts>, FixedState>,
}

impl Counters {
    /// Forgets the counts of ports that are gone.
    pub(crate) fn retain(&mut self, is_port: impl Fn(PortId) -> bool) {
        self.ports.retain(|port, _| is_port(*port));
    }

    /// Counts `frames` that came in by `port`, which is one of the switch's.
    pub(crate) fn add(&mut self, port: PortId, reason: DropReason, frames: u64) {
        let count = &mut self.ports.entry(port).or_default().drops[reason as usize];
        *count = count.saturating_add(frames);
    }

    /// Counts what the guest behind `port` was denied.
    pub(crate) fn deny(&mut self, port: PortId, denial: Denial, times: u64) {
        if times > 0 {
            let count = &mut self.ports.entry(port).or_default().denials[denial as usize];
            *count = count.saturating_add(times);
        }
    }

    /// The drops of `port` that are not zero.
    pub(crate) fn drops(&self, port: PortId) -> impl Iterator<Item = (DropReason, u64)> {
        let counts = self.ports.get(&port).map(|counts| counts.drops);
        let counts = counts.unwrap_or([0; DropReason::ALL.len()]);
        DropReason::ALL.into_iter().zip(counts).filter(|(_, count)| *count != 0)
    }

    /// The denials of `port` that are not zero.
    pub(crate) fn denials(&self, port: PortId) -> impl Iterator<Item = (Denial, u64)> {
        let counts = self.ports.get(&port).map(|counts| counts.denials);
        let counts = counts.unwrap_or([0; Denial::ALL.len()]);
        Denial::ALL.into_iter().zip(counts).filter(|(_, count)| *count != 0)
    }
}
