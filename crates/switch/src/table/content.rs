//! What tables say, wherever ports stand in them: so that those of a history can be compared with those of one piece.

use weft_types::PortId;

use super::{Members, PortIndex, Tables};

impl Tables {
    /// Everything in it, in lines; ports by their numbers.
    pub(crate) fn content(&self) -> Vec<String> {
        let id = |index: &PortIndex| self.port(*index).config.id;
        let ids = |indices: &[PortIndex]| {
            let mut ids: Vec<PortId> = indices.iter().map(id).collect();
            ids.sort_unstable();
            ids
        };
        let members = |members: &Members| (ids(&members.all), ids(&members.multicast));
        let mut lines = Vec::new();
        lines.extend(self.ports.iter().map(|port| format!("{port:?}")));
        lines.extend(self.vswitches.iter().map(|vswitch| {
            let uplinks: Vec<_> = vswitch.uplinks.iter().map(id).collect();
            let ranges: Vec<_> = vswitch.ranges.iter().map(|(range, owner)| (range, id(owner))).collect();
            let (config, mirrors, fixed) = (&vswitch.config, &vswitch.mirrors, (vswitch.fixed_hosts, vswitch.ends));
            let (promiscuous, trunks) = (ids(&vswitch.promiscuous), members(&vswitch.trunks));
            format!("{config:?} {uplinks:?} {promiscuous:?} {mirrors:?} {trunks:?} {fixed:?} {ranges:?}")
        }));
        lines.extend(self.indices.iter().map(|(port, index)| format!("{port:?} is {:?}", id(index))));
        lines.extend(self.stations.iter().map(|(place, owner)| format!("{place:?} {:?}", id(owner))));
        lines.extend(self.trunk_stations.iter().map(|(place, owners)| format!("{place:?} {:?}", ids(owners))));
        lines.extend(self.access.iter().map(|(segment, all)| format!("{segment:?} {:?}", members(all))));
        lines.extend(self.joined.iter().map(|(group, listeners)| format!("{group:?} {:?}", ids(listeners))));
        lines.extend(self.fixed.iter().map(|(host, owners)| format!("{host:?} {:?}", ids(owners))));
        lines.extend(self.names.iter().map(|(name, port)| format!("{name} {port:?}")));
        lines.extend(self.named.iter().map(|port| format!("{port:?} is named")));
        lines.push(format!("{:?} {:?}", self.registrants, self.census));
        lines.sort_unstable();
        lines
    }
}
