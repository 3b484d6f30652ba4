//! Ports that come and go, without a look at those that stay.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_types::PortId;

use super::{Port, PortIndex, Tables, VSwitch, VSwitchIndex};
use crate::filter::Granted;
use crate::pipeline::Fields;
use crate::{Addresses, PortConfig, Role, VSwitchId, Vlans, meters};

/// A port that is to be plugged in.
#[derive(Debug)]
pub(crate) struct Newcomer {
    config: Arc<PortConfig>,
    /// What its vNIC registered before.
    filter: Option<Granted>,
    /// Whether its link is up.
    is_up: bool,
}

impl Newcomer {
    /// A port; it keeps its link, and what its vNIC registered, if it was in `before`.
    pub(crate) fn new(config: Arc<PortConfig>, before: &Tables) -> Self {
        let known = before.index(config.id).map(|index| before.port(index));
        let filter = known.and_then(|port| port.filter.clone());
        Self { config, filter, is_up: known.is_none_or(|port| port.is_up) }
    }
}

impl Tables {
    /// Has ports go and come; a port that changes does both. After that, the configuration is right.
    pub(crate) fn change(&mut self, gone: &[PortId], come: Vec<Newcomer>) {
        let concerns_all = |tables: &Self| -> (bool, Vec<(bool, bool)>) {
            let of = |vswitch: &VSwitch| (vswitch.has_fixed(), vswitch.asks_whom());
            (tables.learns_addresses(), tables.vswitches.iter().map(of).collect())
        };
        let before = concerns_all(self);
        // Configured addresses come before those that vNICs registered, and of these the oldest port's.
        let mut filters: BTreeMap<PortId, Granted> = BTreeMap::new();
        for id in self.registrants.clone() {
            let filter = self.index(id).and_then(|index| self.take_filter(index));
            filters.extend(filter.map(|filter| (id, filter)));
        }
        gone.iter().for_each(|id| self.unplug(*id));
        let staying = self.ports.len();
        let places: BTreeMap<VSwitchId, VSwitchIndex> =
            self.vswitches.iter().map(|vswitch| vswitch.config.id).zip((0..).map(VSwitchIndex)).collect();
        for Newcomer { config, filter, is_up } in come {
            let Some(vswitch) = places.get(&config.vswitch) else { continue };
            let (vswitch, fields) = (*vswitch, Fields::default());
            let mut port = Port { config: PortConfig::clone(&config), vswitch, fields, filter, is_up };
            if port.extras().next().is_some() {
                filters.extend(port.filter.take().map(|filter| (config.id, filter)));
            }
            self.plug(port);
        }
        let unsettled = if concerns_all(self) == before { staying } else { 0 };
        let learns = self.learns_addresses();
        for port in &mut self.ports[unsettled..] {
            port.fields = self.vswitches[port.vswitch.number()].consulted(&port.config, learns);
        }
        for vswitch in &mut self.vswitches {
            vswitch.ranges.sort_unstable_by_key(|(range, _)| range.first());
        }
        for (id, filter) in filters {
            if let Some(index) = self.index(id) {
                self.set_filter(index, filter);
            }
        }
    }

    fn plug(&mut self, port: Port) {
        let index = PortIndex(self.ports.len() as u32);
        self.names.insert(port.config.name.clone(), port.config.id);
        self.census.learning += usize::from(port.config.addresses.learn() > 0);
        self.census.policing += usize::from(meters::polices(&port.config.rates));
        self.ports.push(port);
        self.attach(index);
    }

    /// Takes a port out; the last one gets its place.
    fn unplug(&mut self, id: PortId) {
        let Some(index) = self.index(id) else { return };
        let last = PortIndex(self.ports.len() as u32 - 1);
        self.detach(index);
        if last != index {
            self.detach(last);
        }
        let port = self.ports.swap_remove(index.0 as usize);
        if last != index {
            self.attach(index);
        }
        // Two ports may have changed names.
        if self.names.get(&port.config.name) == Some(&id) {
            self.names.remove(&port.config.name);
        }
        self.census.learning -= usize::from(port.config.addresses.learn() > 0);
        self.census.policing -= usize::from(meters::polices(&port.config.rates));
    }

    /// Enters a port into all tables by its place.
    fn attach(&mut self, index: PortIndex) {
        let Port { config, vswitch: place, .. } = &self.ports[index.0 as usize];
        let (place, vswitch) = (*place, &mut self.vswitches[place.number()]);
        self.indices.insert(config.id, index);
        if config.role == Role::Uplink {
            vswitch.uplinks.push(index);
            if let Some(team) = &vswitch.config.team {
                let id = |uplink: PortIndex| self.ports[uplink.0 as usize].config.id;
                vswitch.uplinks.sort_by_key(|uplink| team.members.iter().position(|member| *member == id(*uplink)));
            }
        }
        vswitch.ranges.extend(config.mac_ranges.iter().map(|range| (*range, index)));
        let members = match config.vlans {
            Vlans::Access(segment) => self.access.entry((place, segment)).or_default(),
            Vlans::Trunk { .. } => &mut vswitch.trunks,
        };
        members.all.push(index);
        vswitch.ends += usize::from(config.is_end());
        for host in fixed_hosts(config) {
            vswitch.fixed_hosts += 1;
            self.fixed.entry((place, host)).or_default().push(index);
        }
        for at in 0..config.macs.len() {
            self.register(index, self.port(index).config.macs[at]);
        }
        self.join(index);
    }

    /// Takes a port out of all tables that know its place.
    fn detach(&mut self, index: PortIndex) {
        self.leave(index);
        for at in 0..self.port(index).config.macs.len() {
            self.unregister(index, self.port(index).config.macs[at]);
        }
        let is_other = |port: &PortIndex| *port != index;
        let Port { config, vswitch: place, .. } = &self.ports[index.0 as usize];
        let (place, vswitch) = (*place, &mut self.vswitches[place.number()]);
        self.indices.remove(&config.id);
        vswitch.ends -= usize::from(config.is_end());
        vswitch.uplinks.retain(is_other);
        vswitch.ranges.retain(|(_, owner)| is_other(owner));
        match config.vlans {
            Vlans::Access(segment) => {
                let members = self.access.entry((place, segment)).or_default();
                members.all.retain(is_other);
                if members.all.is_empty() {
                    self.access.remove(&(place, segment));
                }
            }
            Vlans::Trunk { .. } => vswitch.trunks.all.retain(is_other),
        }
        for host in fixed_hosts(config) {
            vswitch.fixed_hosts -= 1;
            if let Some(owners) = self.fixed.get_mut(&(place, host)) {
                owners.retain(is_other);
                if owners.is_empty() {
                    self.fixed.remove(&(place, host));
                }
            }
        }
    }
}

/// The IP addresses that were configured for a port, prefixes left out.
fn fixed_hosts(config: &PortConfig) -> impl Iterator<Item = IpAddr> {
    let fixed = match &config.addresses {
        Addresses::Any => &[][..],
        Addresses::Known { fixed, .. } => fixed,
    };
    fixed.iter().filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len()).map(|prefix| prefix.addr())
}
