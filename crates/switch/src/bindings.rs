//! The IP addresses that ports were seen to get: from a DHCP server, or by asking whether anybody else has them.

use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::PortId;

use crate::{Segment, VSwitchId};

/// What an address is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) vswitch: VSwitchId,
    pub(crate) segment: Segment,
    pub(crate) address: IpAddr,
}

/// An address that a port gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) place: Place,
    pub(crate) port: PortId,
    /// How many addresses the port may have; the oldest gives way.
    pub(crate) limit: u32,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Bindings {
    owners: HashMap<Place, PortId, FixedState>,
    /// Oldest first.
    places: HashMap<PortId, Vec<Place>, FixedState>,
    /// How often something has changed.
    changes: u64,
}

impl Bindings {
    /// None; `seed` keys the tables.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            owners: HashMap::with_hasher(FixedState::with_seed(seed)),
            places: HashMap::with_hasher(FixedState::with_seed(seed)),
            changes: 0,
        }
    }

    /// Whose address it is.
    pub(crate) fn owner(&self, place: &Place) -> Option<PortId> {
        self.owners.get(place).copied()
    }

    /// How often something has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The addresses of a port, oldest first.
    pub(crate) fn of(&self, port: PortId) -> &[Place] {
        self.places.get(&port).map_or(&[], Vec::as_slice)
    }

    /// Gives an address to a port; whether somebody lost one.
    pub(crate) fn insert(&mut self, claim: Claim) -> bool {
        let Claim { place, port, limit } = claim;
        let before = self.owners.insert(place, port);
        if before == Some(port) {
            return false;
        }
        self.changes += 1;
        if let Some(places) = before.and_then(|before| self.places.get_mut(&before)) {
            places.retain(|known| *known != place);
        }
        let places = self.places.entry(port).or_default();
        places.push(place);
        let is_full = places.len() > limit as usize;
        if is_full {
            let oldest = places.remove(0);
            self.owners.remove(&oldest);
        }
        is_full || before.is_some()
    }

    /// Forgets the addresses for which `may_keep` does not hold, and the oldest of each port over its `limit`.
    pub(crate) fn retain(&mut self, may_keep: impl Fn(PortId, &Place) -> bool, limit: impl Fn(PortId) -> u32) {
        let owners = &mut self.owners;
        self.places.retain(|port, places| {
            places.retain(|place| may_keep(*port, place));
            places.drain(..places.len().saturating_sub(limit(*port) as usize));
            !places.is_empty()
        });
        let (places, before) = (&self.places, owners.len());
        owners.retain(|place, port| places.get(port).is_some_and(|places| places.contains(place)));
        self.changes += u64::from(owners.len() != before);
    }
}
