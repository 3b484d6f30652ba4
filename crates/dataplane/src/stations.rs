//! Who has which IPv6 address, from the switch to the services: names rest on it.
//!
//! The switch sees what each port finds free by duplicate address detection, and sees to it that nobody does so for others.
//! So there is one place where that is known, and what was learned before a restart is known after it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_dataplane_protocol::AddressConfig;
use weft_services::{NetworkId, Station};
use weft_switch::Segment;
use weft_types::Instant;

use crate::slot::Slot;
use crate::worker::Worker;

/// Guests can make us look; no more often than this.
const INTERVAL: Duration = Duration::from_millis(20);

/// What of the switch's knowledge the services have.
#[derive(Debug, Default)]
pub(crate) struct StationNotes {
    /// The switch's count of changes when they were told.
    told: u64,
    not_before: Instant,
    /// The networks that speak IPv6.
    networks: Vec<NetworkId>,
}

impl Worker {
    /// When [`Self::note_stations`] wants to be called, if it does.
    pub(crate) fn stations_due(&self) -> Option<Instant> {
        let is_behind = !self.stations.networks.is_empty() && self.switch.address_changes() != self.stations.told;
        is_behind.then_some(self.stations.not_before)
    }

    /// Tells the services, if it is time.
    pub(crate) fn note_stations(&mut self, now: Instant) {
        if self.stations_due().is_some_and(|due| due <= now) {
            self.tell_stations(now);
        }
    }

    /// Tells the services under a new configuration.
    pub(crate) fn renew_stations(&mut self, now: Instant) {
        let networks = self.config.networks.iter();
        let speaking = networks.filter(|it| it.gateway.as_ref().is_some_and(|gateway| gateway.subnet6.is_some()));
        let speaking: Vec<_> = speaking.map(|network| &network.name).collect();
        let gateways = self.slots.iter().filter(|slot| slot.about.kind.is_none());
        let ids = gateways.filter(|slot| speaking.contains(&&slot.about.network)).map(|slot| slot.about.network_id);
        self.stations.networks = ids.collect();
        self.tell_stations(now);
    }

    fn tell_stations(&mut self, now: Instant) {
        self.stations.told = self.switch.address_changes();
        self.stations.not_before = now + INTERVAL;
        let mut stations: BTreeMap<_, Vec<Station>> =
            self.stations.networks.iter().map(|network| (*network, Vec::new())).collect();
        for slot in &self.slots {
            if let Some(stations) = stations.get_mut(&slot.about.network_id) {
                self.stations_at(slot, stations);
            }
        }
        for (network, stations) in stations {
            self.delivery.services.set_stations(network, stations);
        }
    }

    /// The stations behind a port, where it meets the services.
    fn stations_at(&self, slot: &Slot, stations: &mut Vec<Station>) {
        let about = &slot.about;
        let Some(&mac) = about.macs.first().filter(|_| about.kind.is_some() && about.vlans.meets_services()) else {
            return;
        };
        let fixed = match &about.addresses {
            AddressConfig::Any => &[][..],
            AddressConfig::Known { fixed, .. } => fixed,
        };
        let fixed = fixed.iter().filter(|net| net.prefix_len() == net.max_prefix_len()).map(|net| (net.addr(), true));
        let learned = self.switch.learned_in_segments(slot.id);
        let learned = learned.filter(|(segment, _)| *segment == Segment::Untagged).map(|(_, ip)| (ip, false));
        stations.extend(fixed.chain(learned).filter_map(|(ip, is_fixed)| match ip {
            IpAddr::V6(ip) => Some(Station { ip, is_fixed, mac, vm: about.vm.clone() }),
            IpAddr::V4(_) => None,
        }));
    }
}
