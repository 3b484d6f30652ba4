//! What the switches at the other ends of uplinks say about themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_dataplane_protocol::NeighbourStatus;
use weft_types::{Instant, PortId};
use weft_wire::{EtherType, ethernet, lldp};

/// VLANs of one neighbour that are remembered.
const MAX_VLANS: usize = 256;

/// One neighbour an uplink: the one that spoke last.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    by_uplink: BTreeMap<PortId, Option<Heard>>,
}

#[derive(Debug)]
struct Heard {
    status: NeighbourStatus,
    /// How long it holds, by the neighbour's own word.
    until: Instant,
}

impl Neighbours {
    /// Listens to these from now on. Those that stay are not forgotten.
    pub(crate) fn set_uplinks(&mut self, uplinks: impl Iterator<Item = PortId>) {
        let mut old = std::mem::take(&mut self.by_uplink);
        self.by_uplink = uplinks.map(|port| (port, old.remove(&port).flatten())).collect();
    }

    /// Listens to a frame that is for the switch next to the sender only.
    pub(crate) fn hear(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        let Some(place) = self.by_uplink.get_mut(&port) else { return };
        let Ok(frame) = ethernet::parse(frame) else { return };
        let Some(packet) = (frame.ethertype == EtherType::LLDP).then(|| lldp::parse(frame.payload).ok()).flatten()
        else {
            return;
        };
        if packet.ttl_s == 0 {
            *place = None;
            return;
        }
        let mut vlans: Vec<_> = packet.vlans().map(|(vlan, _)| vlan).take(MAX_VLANS).collect();
        vlans.sort_unstable();
        vlans.dedup();
        let status = NeighbourStatus {
            chassis: packet.chassis.to_string(),
            port: packet.port.to_string(),
            system: packet.system_name.map(|text| text.to_string()),
            port_description: packet.port_description.map(|text| text.to_string()),
            port_vlan: packet.port_vlan,
            vlans,
            max_frame_bytes: packet.max_frame_bytes,
        };
        *place = Some(Heard { status, until: now + Duration::from_secs(packet.ttl_s.into()) });
    }

    /// Who is at the other end of an uplink's cable, if anyone said so and has not fallen silent.
    pub(crate) fn of(&self, now: Instant, port: PortId) -> Option<&NeighbourStatus> {
        let heard = self.by_uplink.get(&port)?.as_ref()?;
        (now < heard.until).then_some(&heard.status)
    }
}

#[cfg(test)]
mod tests {
    use weft_testkit::ethernet;
    use weft_types::MacAddr;

    use super::*;

    #[test]
    fn neighbours_come_and_go() {
        let nearest = MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
        let says = |system: &str, ttl: u8| {
            let name = [&[5 << 1, system.len() as u8], system.as_bytes()].concat();
            let first = [2, 7, 4, 2, 0, 0, 0, 0, 9, 4, 3, 5, b'e', b'1', 6, 2, 0, ttl];
            ethernet(nearest, weft_testkit::mac(9), 0x88cc, &[&first[..], &name, &[0; 30]].concat())
        };
        let (port, other) = (PortId(1), PortId(2));
        let mut neighbours = Neighbours::default();
        neighbours.hear(Instant::ZERO, port, &says("a guest", 120));
        neighbours.set_uplinks([port].into_iter());
        assert!(neighbours.of(Instant::ZERO, port).is_none(), "it was no uplink");
        neighbours.hear(Instant::ZERO, port, &says("leaf-7", 120));
        neighbours.hear(Instant::ZERO, port, b"nonsense, and not even an Ethernet header of some kind");
        let system = |neighbours: &Neighbours, at: u64| {
            let now = Instant::ZERO + Duration::from_secs(at);
            neighbours.of(now, port).map(|status| status.system.clone().unwrap_or_default())
        };
        assert_eq!((system(&neighbours, 119).as_deref(), system(&neighbours, 120)), (Some("leaf-7"), None));
        assert!(neighbours.of(Instant::ZERO, other).is_none());
        neighbours.hear(Instant::ZERO, port, &says("leaf-8", 120));
        assert_eq!(system(&neighbours, 1).as_deref(), Some("leaf-8"));
        neighbours.hear(Instant::ZERO, port, &says("leaf-8", 0));
        assert_eq!(system(&neighbours, 1), None, "it said goodbye");
        neighbours.hear(Instant::ZERO, port, &says("leaf-9", 120));
        neighbours.set_uplinks([port, other].into_iter());
        assert_eq!(system(&neighbours, 1).as_deref(), Some("leaf-9"));
        neighbours.set_uplinks([other].into_iter());
        assert_eq!(system(&neighbours, 1), None);
    }
}
