//! Who has an address of a network: asked by ARP (RFC 826) where no lease tells.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use weft_types::{Instant, MacAddr};

use crate::NetworkId;

/// Between two questions for the same address (RFC 1122, section 2.3.2.1).
const INTERVAL: Duration = Duration::from_secs(1);
/// Questions until nobody counts as there.
const TRIES: u32 = 3;
/// How long an answer is believed.
const BELIEVED: Duration = Duration::from_secs(60);

type Address = (NetworkId, Ipv4Addr);

/// What is known of stations that forwards or routers lead to, and what waits for them. Whoever asks for stations sees to
/// it that they are not too many.
#[derive(Debug)]
pub(crate) struct Neighbours<W>(BTreeMap<Address, Neighbour<W>>);

#[derive(Debug)]
enum Neighbour<W> {
    Known { mac: MacAddr, until: Instant },
    Asked { tries: u32, due: Instant, waiting: Vec<W> },
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due<W> {
    /// Ask (again) who has the address.
    Ask(Address),
    /// Nobody has it: these wait in vain.
    Nobody(NetworkId, Vec<W>),
}

impl<W> Default for Neighbours<W> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<W> Neighbours<W> {
    /// How many stations are known or asked for.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How much waits for the station with this address.
    pub(crate) fn waiting(&self, at: Address) -> usize {
        match self.0.get(&at) {
            Some(Neighbour::Asked { waiting, .. }) => waiting.len(),
            Some(Neighbour::Known { .. }) | None => 0,
        }
    }

    /// The station with this address, if it was heard of lately.
    pub(crate) fn find(&self, now: Instant, at: Address) -> Option<MacAddr> {
        match self.0.get(&at)? {
            Neighbour::Known { mac, until } => (now < *until).then_some(*mac),
            Neighbour::Asked { .. } => None,
        }
    }

    /// Lets something wait for the station with this address; [`Self::next`] tells to ask.
    pub(crate) fn wait(&mut self, now: Instant, at: Address, what: W) {
        if let Some(Neighbour::Asked { waiting, .. }) = self.0.get_mut(&at) {
            waiting.push(what);
        } else {
            self.0.insert(at, Neighbour::Asked { tries: 0, due: now, waiting: vec![what] });
        }
    }

    /// The station said who it is: what waited for that. What nobody asked for is not believed.
    pub(crate) fn hear(&mut self, now: Instant, at: Address, mac: MacAddr) -> Option<Vec<W>> {
        let neighbour = self.0.get_mut(&at).filter(|neighbour| matches!(neighbour, Neighbour::Asked { .. }))?;
        match std::mem::replace(neighbour, Neighbour::Known { mac, until: now + BELIEVED }) {
            Neighbour::Asked { waiting, .. } => Some(waiting),
            Neighbour::Known { .. } => None,
        }
    }

    /// When [`Self::next`] has something.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let due = self.0.values().map(|neighbour| match neighbour {
            Neighbour::Known { until, .. } => *until,
            Neighbour::Asked { due, .. } => *due,
        });
        due.min()
    }

    /// What is due, one thing after the other.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Due<W>> {
        loop {
            let is_due = |neighbour: &Neighbour<W>| match neighbour {
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
    pub(crate) fn retain(&mut self, stays: impl Fn(NetworkId) -> bool) {
        self.0.retain(|(network, _), _| stays(*network));
    }
}
