//! What vNICs register on top of a configuration: their addresses and groups (law 1).

use weft_types::MacAddr;

use super::{Place, PortIndex, TRUNK, Tables, VSwitchIndex, number};
use crate::filter::Granted;
use crate::{Segment, Vlans};

impl Tables {
    pub(super) fn register(&mut self, index: PortIndex, mac: MacAddr) {
        let port = &self.ports[index.0 as usize];
        match port.config.vlans {
            Vlans::Access(segment) => {
                self.stations.insert(Place::new(port.vswitch, number(segment), mac), index);
            }
            Vlans::Trunk { .. } => {
                self.trunk_stations.entry(Place::new(port.vswitch, TRUNK, mac)).or_default().push(index);
            }
        }
    }

    pub(super) fn unregister(&mut self, index: PortIndex, mac: MacAddr) {
        let port = &self.ports[index.0 as usize];
        match port.config.vlans {
            Vlans::Access(segment) => {
                self.stations.remove(&Place::new(port.vswitch, number(segment), mac));
            }
            Vlans::Trunk { .. } => {
                let place = Place::new(port.vswitch, TRUNK, mac);
                if let Some(owners) = self.trunk_stations.get_mut(&place) {
                    owners.retain(|owner| *owner != index);
                    if owners.is_empty() {
                        self.trunk_stations.remove(&place);
                    }
                }
            }
        }
    }

    /// Whether the vNIC of `index` may register `mac`: it was configured for it, or policy allows and it is nobody
    /// else's.
    pub(crate) fn may_register(&self, index: PortIndex, mac: MacAddr) -> bool {
        let port = self.port(index);
        if port.is_configured(mac) {
            return true;
        }
        let is_free = || !self.rivals(index, mac).any(|rival| rival != index);
        port.config.policy.mac_changes && mac.is_station() && is_free()
    }

    /// The ports that own `mac`, or for which it is configured, in a segment that `index` carries too.
    fn rivals(&self, index: PortIndex, mac: MacAddr) -> impl Iterator<Item = PortIndex> {
        let port = self.port(index);
        let overlaps = move |rival: &PortIndex| self.port(*rival).config.vlans.overlap(&port.config.vlans);
        self.owners(port.vswitch, mac, &port.config.vlans).filter(overlaps)
    }

    /// The ports of a vSwitch for which `mac` is registered in a segment of `vlans`.
    pub(crate) fn owners<'a>(
        &'a self,
        vswitch: VSwitchIndex,
        mac: MacAddr,
        vlans: &'a Vlans,
    ) -> impl Iterator<Item = PortIndex> + 'a {
        let segments: Box<dyn Iterator<Item = Segment>> = match vlans {
            Vlans::Access(segment) => Box::new(std::iter::once(*segment)),
            Vlans::Trunk { allowed, native } => {
                Box::new(allowed.iter().map(Segment::Vlan).chain(native.iter().copied()))
            }
        };
        let access =
            segments.filter_map(move |segment| self.stations.get(&Place::new(vswitch, number(segment), mac)).copied());
        let trunks = self.trunk_stations.get(&Place::new(vswitch, TRUNK, mac)).into_iter().flatten().copied();
        access.chain(trunks).chain(self.range_owner(vswitch, mac))
    }

    pub(super) fn range_owner(&self, vswitch: VSwitchIndex, mac: MacAddr) -> Option<PortIndex> {
        let ranges = &self.vswitch(vswitch).ranges;
        let (range, owner) = ranges[..ranges.partition_point(|(range, _)| range.first() <= mac)].last()?;
        range.contains(mac).then_some(*owner)
    }

    /// Puts `filter` in force at a port, as far as it may still have what it was granted.
    pub(crate) fn set_filter(&mut self, index: PortIndex, mut filter: Granted) {
        self.leave(index);
        filter.stations.retain(|mac| self.may_register(index, *mac));
        self.ports[index.0 as usize].filter = Some(filter);
        self.join(index);
    }

    /// Takes the filter of a port away: it listens to what is configured for it.
    pub(super) fn take_filter(&mut self, index: PortIndex) -> Option<Granted> {
        self.leave(index);
        let filter = self.ports[index.0 as usize].filter.take();
        self.join(index);
        filter
    }

    /// Takes what a port's filter says out of the tables.
    pub(super) fn leave(&mut self, index: PortIndex) {
        for mac in self.port(index).extras().collect::<Vec<_>>() {
            self.unregister(index, mac);
        }
        self.registrants.remove(&self.ports[index.0 as usize].config.id);
        let port = &self.ports[index.0 as usize];
        let vswitch = &mut self.vswitches[port.vswitch.0 as usize];
        vswitch.promiscuous.retain(|port| *port != index);
        match port.groups() {
            Some(groups) => {
                for group in groups {
                    if let Some(listeners) = self.joined.get_mut(&(port.vswitch, *group)) {
                        listeners.retain(|port| *port != index);
                        if listeners.is_empty() {
                            self.joined.remove(&(port.vswitch, *group));
                        }
                    }
                }
            }
            None => {
                let members = match port.config.vlans {
                    Vlans::Access(segment) => self.access.get_mut(&(port.vswitch, segment)),
                    Vlans::Trunk { .. } => Some(&mut vswitch.trunks),
                };
                if let Some(members) = members {
                    members.multicast.retain(|port| *port != index);
                }
            }
        }
    }

    /// Enters what a port's filter says: its addresses, its groups, and whether it hears everything.
    pub(super) fn join(&mut self, index: PortIndex) {
        for mac in self.port(index).extras().collect::<Vec<_>>() {
            self.register(index, mac);
            self.registrants.insert(self.port(index).config.id);
        }
        let port = &self.ports[index.0 as usize];
        let vswitch = &mut self.vswitches[port.vswitch.0 as usize];
        if port.is_promiscuous() {
            vswitch.promiscuous.push(index);
        }
        match port.groups() {
            Some(groups) => {
                for group in groups {
                    self.joined.entry((port.vswitch, *group)).or_default().push(index);
                }
            }
            None => match port.config.vlans {
                Vlans::Access(segment) => {
                    self.access.entry((port.vswitch, segment)).or_default().multicast.push(index);
                }
                Vlans::Trunk { .. } => vswitch.trunks.multicast.push(index),
            },
        }
    }
}
