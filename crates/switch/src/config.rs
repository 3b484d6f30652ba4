//! What the switch should be, and what it may not be.

use std::collections::{BTreeMap, BTreeSet};

use weft_types::{MacAddr, NetworkName, PortId, PortName, Provenance};

/// A vSwitch: one broadcast domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VSwitchId(pub u32);

/// Everything that the switch should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The vSwitches.
    pub vswitches: Vec<VSwitchConfig>,
    /// The ports of all of them.
    pub ports: Vec<PortConfig>,
}

/// A vSwitch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VSwitchConfig {
    /// By what its ports name it.
    pub id: VSwitchId,
    /// The network that it carries.
    pub name: NetworkName,
    /// Where the network is declared.
    pub provenance: Provenance,
}

/// A port of a vSwitch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// By what frames and verdicts name it.
    pub id: PortId,
    /// What people call it.
    pub name: PortName,
    /// The vSwitch that it belongs to.
    pub vswitch: VSwitchId,
    /// What plugs into it.
    pub role: Role,
    /// The addresses that are behind it.
    pub macs: Vec<MacAddr>,
    /// What it may do beyond the ordinary.
    pub policy: Policy,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// What plugs into a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A VM's adapter.
    Vnic,
    /// The services of the network.
    Gateway,
    /// A virtual adapter of the host.
    HostAdapter,
    /// The way to a physical network. What is unknown goes here.
    Uplink,
}

/// What a port may do beyond the ordinary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// It may send from addresses that are not registered for it.
    pub forged_macs: bool,
    /// It also hears unicast frames for other ports.
    pub promiscuous: bool,
}

/// What a configuration may not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two vSwitches with one number.
    #[error("vSwitch number {0:?} is given twice")]
    VSwitchTwice(VSwitchId),
    /// Two ports with one number.
    #[error("port number {id} is given to `{first}` and to `{second}`")]
    PortTwice {
        /// The number.
        id: PortId,
        /// Who has it.
        first: PortName,
        /// Who wants it too.
        second: PortName,
    },
    /// Two ports with one name.
    #[error("two ports are called `{0}`")]
    NameTwice(PortName),
    /// A port of no vSwitch.
    #[error("port `{port}` names a vSwitch that does not exist")]
    NoSuchVSwitch {
        /// The port.
        port: PortName,
    },
    /// A group address, or no address, where a station's belongs.
    #[error("port `{port}` cannot have the MAC address {mac}: it is not a single station's")]
    NotAStation {
        /// The port.
        port: PortName,
        /// The address.
        mac: MacAddr,
    },
    /// One address behind two ports of a vSwitch.
    #[error("the MAC address {mac} is registered for `{first}` and for `{second}` of one network")]
    MacTwice {
        /// The address.
        mac: MacAddr,
        /// Who has it.
        first: PortName,
        /// Who wants it too.
        second: PortName,
    },
    /// Two ways out, which would be a loop (law 2).
    #[error("`{first}` and `{second}` are uplinks of one network, and may form a loop")]
    TwoUplinks {
        /// One of them.
        first: PortName,
        /// The other.
        second: PortName,
    },
}

/// Everything that is wrong with a configuration.
pub(crate) fn errors(config: &Config) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut vswitches = BTreeSet::new();
    for vswitch in &config.vswitches {
        if !vswitches.insert(vswitch.id) {
            errors.push(ConfigError::VSwitchTwice(vswitch.id));
        }
    }
    let mut ids: BTreeMap<PortId, &PortName> = BTreeMap::new();
    let mut names = BTreeSet::new();
    let mut macs: BTreeMap<(VSwitchId, MacAddr), &PortName> = BTreeMap::new();
    let mut uplinks: BTreeMap<VSwitchId, &PortName> = BTreeMap::new();
    for port in &config.ports {
        if let Some(first) = ids.insert(port.id, &port.name) {
            errors.push(ConfigError::PortTwice { id: port.id, first: first.clone(), second: port.name.clone() });
        }
        if !names.insert(&port.name) {
            errors.push(ConfigError::NameTwice(port.name.clone()));
        }
        if !vswitches.contains(&port.vswitch) {
            errors.push(ConfigError::NoSuchVSwitch { port: port.name.clone() });
        }
        for &mac in &port.macs {
            if !mac.is_station() {
                errors.push(ConfigError::NotAStation { port: port.name.clone(), mac });
            }
            if let Some(first) = macs.insert((port.vswitch, mac), &port.name) {
                errors.push(ConfigError::MacTwice { mac, first: first.clone(), second: port.name.clone() });
            }
        }
        if port.role == Role::Uplink
            && let Some(first) = uplinks.insert(port.vswitch, &port.name)
        {
            errors.push(ConfigError::TwoUplinks { first: first.clone(), second: port.name.clone() });
        }
    }
    errors
}
