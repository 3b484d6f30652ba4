//! A configuration, compiled for looking up.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::{MacAddr, PortId, VlanId};

use crate::{Config, PortConfig, Role, VSwitchConfig, VSwitchId};

/// A port's place in [`Tables::ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortIndex(u32);

/// A vSwitch's place in [`Tables::vswitches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VSwitchIndex(u32);

/// A port, and what every decision needs to know about it.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) config: PortConfig,
    pub(crate) vswitch: VSwitchIndex,
}

/// A vSwitch, and what every decision needs to know about it.
#[derive(Debug)]
pub(crate) struct VSwitch {
    pub(crate) config: VSwitchConfig,
    pub(crate) uplink: Option<PortIndex>,
    /// The ports that hear unicast frames for others.
    pub(crate) promiscuous: Vec<PortId>,
    /// Where its ports stand in [`Tables::ports`], and how many they are.
    first: u32,
    len: u32,
}

/// Some ports: a run of [`Tables::ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    start: u32,
    len: u32,
}

/// What a station is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Station {
    vswitch: VSwitchIndex,
    /// `None` on access ports, which are all there are as yet.
    vlan: Option<VlanId>,
    mac: MacAddr,
}

/// All ports and vSwitches, and who owns which MAC address. Never changes: a new configuration makes new tables.
#[derive(Debug)]
pub(crate) struct Tables {
    /// One vSwitch's ports after the other's.
    ports: Vec<Port>,
    vswitches: Vec<VSwitch>,
    indices: HashMap<PortId, PortIndex, FixedState>,
    /// Law 1: made of registrations, here and nowhere else.
    stations: HashMap<Station, PortIndex, FixedState>,
    /// The ports of each vSwitch, twice in a row. So each list that a verdict can need is a run of it: one port, or
    /// all ports of a vSwitch but one, which are those from the one's right-hand neighbour round to its left-hand one.
    ring: Vec<PortId>,
}

impl Tables {
    /// The tables of a configuration that is right; `seed` keys them.
    pub(crate) fn new(config: Config, seed: u64) -> Self {
        let Config { vswitches, ports, .. } = config;
        let numbers: HashMap<VSwitchId, u32, FixedState> =
            vswitches.iter().map(|vswitch| vswitch.id).zip(0..).collect();
        let mut vswitches: Vec<VSwitch> = vswitches
            .into_iter()
            .map(|config| VSwitch { config, uplink: None, promiscuous: Vec::new(), first: 0, len: 0 })
            .collect();

        let mut ports: Vec<Port> = ports
            .into_iter()
            .filter_map(|config| {
                let vswitch = VSwitchIndex(*numbers.get(&config.vswitch)?);
                Some(Port { config, vswitch })
            })
            .collect();
        ports.sort_by_key(|port| port.vswitch.0);

        let mut indices = HashMap::with_capacity_and_hasher(ports.len(), FixedState::with_seed(seed));
        let mut stations = HashMap::with_capacity_and_hasher(ports.len(), FixedState::with_seed(seed));
        let mut ring = Vec::with_capacity(2 * ports.len());
        for (number, port) in (0..).zip(&ports) {
            let index = PortIndex(number);
            let vswitch = &mut vswitches[port.vswitch.0 as usize];
            if vswitch.len == 0 {
                vswitch.first = number;
            }
            vswitch.len += 1;
            if port.config.role == Role::Uplink {
                vswitch.uplink = Some(index);
            }
            if port.config.policy.promiscuous {
                vswitch.promiscuous.push(port.config.id);
            }
            indices.insert(port.config.id, index);
            for &mac in &port.config.macs {
                stations.insert(Station { vswitch: port.vswitch, vlan: None, mac }, index);
            }
        }
        for members in ports.chunk_by(|a, b| a.vswitch == b.vswitch) {
            ring.extend(members.iter().map(|port| port.config.id));
            ring.extend_from_within(ring.len() - members.len()..);
        }
        Self { ports, vswitches, indices, stations, ring }
    }

    /// The port with this number.
    pub(crate) fn index(&self, id: PortId) -> Option<PortIndex> {
        self.indices.get(&id).copied()
    }

    /// A port.
    pub(crate) fn port(&self, index: PortIndex) -> &Port {
        &self.ports[index.0 as usize]
    }

    /// Every port.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &PortConfig> {
        self.ports.iter().map(|port| &port.config)
    }

    /// Every vSwitch.
    pub(crate) fn vswitches(&self) -> impl Iterator<Item = &VSwitch> {
        self.vswitches.iter()
    }

    /// A vSwitch.
    pub(crate) fn vswitch(&self, index: VSwitchIndex) -> &VSwitch {
        &self.vswitches[index.0 as usize]
    }

    /// The port for which `mac` is registered.
    pub(crate) fn owner(&self, vswitch: VSwitchIndex, vlan: Option<VlanId>, mac: MacAddr) -> Option<PortIndex> {
        self.stations.get(&Station { vswitch, vlan, mac }).copied()
    }

    /// The port alone.
    pub(crate) fn only(&self, port: PortIndex) -> Ports {
        let first = self.vswitch(self.port(port).vswitch).first;
        Ports { start: first + port.0, len: 1 }
    }

    /// All ports of its vSwitch but `port`; `None` when there are no others.
    pub(crate) fn all_but(&self, port: PortIndex) -> Option<Ports> {
        let VSwitch { first, len, .. } = *self.vswitch(self.port(port).vswitch);
        (len > 1).then(|| Ports { start: first + port.0 + 1, len: len - 1 })
    }

    /// The numbers of these ports.
    #[inline]
    pub(crate) fn ids(&self, ports: Ports) -> &[PortId] {
        &self.ring[ports.start as usize..][..ports.len as usize]
    }
}
