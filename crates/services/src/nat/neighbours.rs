//! Who has an address of a network: asked by ARP (RFC 826) where no lease tells.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use weft_types::{Instant, MacAddr};

use super::flows::FlowId;
use crate::NetworkId;

/// Between two questions for the same address (RFC 1122, section 2.3.2.1).
const INTERVAL: Duration = Duration::from_secs(1);
/// Questions until nobody counts as there.
const TRIES: u32 = 3;
/// How long an answer is believed.
const BELIEVED: Duration = Duration::from_secs(60);

type Address = (NetworkId, Ipv4Addr);

/// What is known of stations that forwards lead to. There are no more entries than forwards have targets.
#[derive(Debug, Default)]
pub(super) struct Neighbours(BTreeMap<Address, Neighbour>);

#[derive(Debug)]
enum Neighbour {
    Known { mac: MacAddr, until: Instant },
    Asked { tries: u32, due: Instant, waiting: Vec<FlowId> },
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Ask (again) who has the address.
    Ask(Address),
    /// Nobody has it: these wait in vain.
    Nobody(NetworkId, Vec<FlowId>),
}

impl Neighbours {
    /// The station with this address, if it was heard of lately.
    pub(super) fn find(&self, now: Instant, at: Address) -> Option<MacAddr> {
        match self.0.get(&at)? {
            Neighbour::Known { mac, until } => (now < *until).then_some(*mac),
            Neighbour::Asked { .. } => None,
        }
    }

    /// Lets a flow wait for the station with this address; [`Self::next`] tells to ask.
    pub(super) fn wait(&mut self, now: Instant, at: Address, flow: FlowId) {
        if let Some(Neighbour::Asked { waiting, .. }) = self.0.get_mut(&at) {
            waiting.push(flow);
        } else {
            self.0.insert(at, Neighbour::Asked { tries: 0, due: now, waiting: vec![flow] });
        }
    }

    /// The station said who it is: the flows that waited for that. What nobody asked for is not believed.
    pub(super) fn hear(&mut self, now: Instant, at: Address, mac: MacAddr) -> Option<Vec<FlowId>> {
        let neighbour = self.0.get_mut(&at).filter(|neighbour| matches!(neighbour, Neighbour::Asked { .. }))?;
        match std::mem::replace(neighbour, Neighbour::Known { mac, until: now + BELIEVED }) {
            Neighbour::Asked { waiting, .. } => Some(waiting),
            Neighbour::Known { .. } => None,
        }
    }

    /// When [`Self::next`] has something.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let due = self.0.values().map(|neighbour| match neighbour {
            Neighbour::Known { until, .. } => *until,
            Neighbour::Asked { due, .. } => *due,
        });
        due.min()
    }

    /// What is due, one thing after the other.
    pub(super) fn next(&mut self, now: Instant) -> Option<Due> {
        loop {
            let is_due = |neighbour: &Neighbour| match neighbour {
                Neighbour::Known { until, .. } => *until <= now,
                Neighbour::Asked { due, .. } => *due <= now,
            };
            let at = *self.0.iter().find(|(_, neighbour)| is_due(neighbour))?.0;
            if let Some(Neighbour::Asked { tries, due, .. }) = self.0.get_mut(&at)
                && *tries < TRIES
            {
                *tries += 1;
                *due = now + INTERVAL;
                return Some(Due::Ask(at));
            }
            if let Some(Neighbour::Asked { waiting, .. }) = self.0.remove(&at) {
                return Some(Due::Nobody(at.0, waiting));
            }
        }
    }

    /// Forgets everything about networks that are gone.
    pub(super) fn retain(&mut self, stays: impl Fn(NetworkId) -> bool) {
        self.0.retain(|(network, _), _| stays(*network));
    }
}
