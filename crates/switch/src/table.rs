//! A configuration compiled for lookups. Immutable: a new configuration is a new table.

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use weft_types::{MacAddr, PortId, PortName, Provenance};

use crate::config::{Config, Policy, Role, VSwitchId};
use crate::verdict::Egress;

/// A port's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortIndex(u32);

/// What a frame's copies go to, small enough to be kept with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// One port, and the promiscuous ones of its vSwitch.
    Unicast(PortIndex),
    /// Every port of the vSwitch.
    Flood,
}

/// A compiled port.
pub(crate) struct Port {
    pub(crate) id: PortId,
    pub(crate) name: PortName,
    pub(crate) role: Role,
    pub(crate) policy: Policy,
    pub(crate) macs: Vec<MacAddr>,
    pub(crate) provenance: Provenance,
    vswitch: usize,
    /// The port's place among its vSwitch's ports.
    seat: usize,
}

/// A compiled vSwitch.
struct VSwitch {
    /// Its ports, the promiscuous ones first.
    ports: Vec<PortId>,
    promiscuous: usize,
    uplink: Option<PortIndex>,
}

/// A compiled configuration.
#[derive(Default)]
pub(crate) struct Table {
    ports: Vec<Port>,
    vswitches: Vec<VSwitch>,
    by_id: HashMap<PortId, PortIndex, FixedState>,
    by_mac: HashMap<(u32, MacAddr), PortIndex, FixedState>,
}

impl Table {
    /// Compiles a configuration that was found right. Guests choose addresses, so the hashes are seeded.
    pub(crate) fn compile(config: Config, seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        let mut vswitch_of: HashMap<VSwitchId, usize, FixedState> = HashMap::with_hasher(hasher);
        let mut vswitches = Vec::with_capacity(config.vswitches.len());
        for (index, vswitch) in config.vswitches.iter().enumerate() {
            vswitch_of.insert(vswitch.id, index);
            vswitches.push(VSwitch { ports: Vec::new(), promiscuous: 0, uplink: None });
        }
        let mut configs = config.ports;
        configs.sort_by_key(|port| !port.policy.promiscuous); // stable: otherwise in the order given
        let mut table = Self {
            ports: Vec::with_capacity(configs.len()),
            vswitches,
            by_id: HashMap::with_capacity_and_hasher(configs.len(), hasher),
            by_mac: HashMap::with_capacity_and_hasher(configs.len(), hasher),
        };
        for port in configs {
            let Some(&vswitch) = vswitch_of.get(&port.vswitch) else { continue };
            let index = PortIndex(table.ports.len() as u32);
            let home = &mut table.vswitches[vswitch];
            let seat = home.ports.len();
            home.ports.push(port.id);
            home.promiscuous += usize::from(port.policy.promiscuous);
            if port.role == Role::Uplink {
                home.uplink = Some(index);
            }
            table.by_id.insert(port.id, index);
            for &mac in &port.macs {
                table.by_mac.insert((vswitch as u32, mac), index);
            }
            let crate::PortConfig { id, name, role, macs, policy, provenance, .. } = port;
            table.ports.push(Port { id, name, role, policy, macs, provenance, vswitch, seat });
        }
        table
    }

    pub(crate) fn find(&self, id: PortId) -> Option<PortIndex> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn port(&self, index: PortIndex) -> &Port {
        &self.ports[index.0 as usize]
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = PortId> {
        self.ports.iter().map(|port| port.id)
    }

    /// Where the address is, seen from a port's vSwitch.
    pub(crate) fn locate(&self, from: &Port, mac: MacAddr) -> Option<PortIndex> {
        self.by_mac.get(&(from.vswitch as u32, mac)).copied()
    }

    /// The uplink of a port's vSwitch.
    pub(crate) fn uplink(&self, from: &Port) -> Option<PortIndex> {
        self.vswitches[from.vswitch].uplink
    }

    /// The ports that a frame from `from` leaves by: never the one that it came from.
    pub(crate) fn egress(&self, from: PortIndex, program: Program) -> Egress<'_> {
        let from = self.port(from);
        let home = &self.vswitches[from.vswitch];
        let without = |range: &'_ [PortId], start: usize| -> (usize, usize) {
            // The seats before and after the sender's, as lengths of the two halves.
            let cut = from.seat.saturating_sub(start).min(range.len());
            (cut, (cut + usize::from(from.seat >= start && cut < range.len())).min(range.len()))
        };
        match program {
            Program::Flood => {
                let (before, after) = without(&home.ports, 0);
                Egress::new([&home.ports[..before], &home.ports[after..], &[]])
            }
            Program::Unicast(target) => {
                let target = self.port(target);
                let listeners = &home.ports[..home.promiscuous];
                let (before, after) = without(listeners, 0);
                let own: &[PortId] = if target.policy.promiscuous || target.seat == from.seat {
                    &[]
                } else {
                    &home.ports[target.seat..=target.seat]
                };
                Egress::new([&listeners[..before], &listeners[after..], own])
            }
        }
    }
}
