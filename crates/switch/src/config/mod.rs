//! What the switch is told to be.

mod acl;
mod addresses;
mod error;
mod mirror;
mod policy;
mod rates;
mod team;
mod vlans;

use std::sync::Arc;

use weft_types::{MacAddr, MacRange, NetworkName, PortId, PortName, Provenance};

pub use weft_types::{Excess, Permission};

pub use acl::{Acl, Endpoint, MAX_RULES, Rule, Traffic};
pub use addresses::Addresses;
pub use error::ConfigError;
pub use mirror::{Direction, MAX_MIRRORS, Mirror, MirrorFilter, MirrorId, MirrorTarget};
pub use policy::Policy;
pub use rates::{Rate, Rates};
pub use team::{Team, TeamMode};
pub use vlans::{Segment, Vlans};

/// A vSwitch inside the host's switch, unique within one `weft switch` process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VSwitchId(pub u32);

/// Everything the switch should be; it replaces everything it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Counts configurations; an older one than that in force is refused.
    pub generation: u64,
    /// The vSwitches.
    pub vswitches: Vec<VSwitchConfig>,
    /// The ports of all vSwitches. Those that are shared with the configuration in force are known at a glance to be
    /// the same.
    pub ports: Vec<Arc<PortConfig>>,
}

/// A vSwitch: one broadcast domain per VLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VSwitchConfig {
    /// Its number, which ports refer to.
    pub id: VSwitchId,
    /// The network that it carries.
    pub name: NetworkName,
    /// Where frames between its own ports are switched.
    pub mode: Mode,
    /// How it uses its uplinks, if it has several.
    pub team: Option<Team>,
    /// Who may begin what with whom; without one, everybody everything.
    pub acl: Option<Arc<Acl>>,
    /// What is copied to whom.
    pub mirrors: Vec<Mirror>,
    /// Where the network was declared.
    pub provenance: Provenance,
}

impl VSwitchConfig {
    /// A vSwitch with nothing special about it.
    pub fn new(id: VSwitchId, name: NetworkName, provenance: Provenance) -> Self {
        Self { id, name, mode: Mode::Veb, team: None, acl: None, mirrors: Vec::new(), provenance }
    }
}

/// Where frames between the ports of a vSwitch are switched (IEEE 802.1Qbg).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Here: a virtual Ethernet bridge.
    #[default]
    Veb,
    /// By the switch at the other end of the uplink, which sends them back (a virtual Ethernet port aggregator).
    Vepa,
}

/// What stands behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A VM's network adapter.
    Vnic,
    /// The network's services.
    Gateway,
    /// A network adapter of the host itself. Where its addresses are known, it hears IP for those only, so that the host
    /// has nothing to forward.
    HostAdapter,
    /// A pNIC, and behind it stations that nobody registered.
    Uplink,
}

/// A port of a vSwitch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its number, never used again for another port.
    pub id: PortId,
    /// Its name.
    pub name: PortName,
    /// The vSwitch that it belongs to.
    pub vswitch: VSwitchId,
    /// What stands behind it.
    pub role: Role,
    /// The MAC addresses registered for it; usually none for an uplink.
    pub macs: Vec<MacAddr>,
    /// Runs of MAC addresses registered for it, for a nested hypervisor with addresses of its own.
    pub mac_ranges: Vec<MacRange>,
    /// The VLANs of its frames.
    pub vlans: Vlans,
    /// How many stations behind it the switch may learn from the frames that they send; 0: it learns none.
    pub learn: u32,
    /// The IP addresses that are its own.
    pub addresses: Addresses,
    /// What it may do.
    pub policy: Policy,
    /// How fast it may be.
    pub rates: Rates,
    /// Where it was declared.
    pub provenance: Provenance,
}

impl PortConfig {
    /// A port without addresses, VLAN or leave to do anything out of the ordinary.
    pub fn new(id: PortId, name: PortName, vswitch: VSwitchId, role: Role, provenance: Provenance) -> Self {
        Self {
            id,
            name,
            vswitch,
            role,
            macs: Vec::new(),
            mac_ranges: Vec::new(),
            vlans: Vlans::default(),
            learn: 0,
            addresses: Addresses::Any,
            policy: Policy::default(),
            rates: Rates::default(),
            provenance,
        }
    }

    /// Whether what comes by it is for itself only: an adapter of the host, unless it may send for others too.
    pub(crate) fn is_end(&self) -> bool {
        self.role == Role::HostAdapter && self.addresses != Addresses::Any && !self.policy.forged_ips
    }
}
