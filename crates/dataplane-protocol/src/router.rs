//! Routers: which networks are joined, and who may begin what with whom across them.

use serde::{Deserialize, Serialize};
use weft_types::{IpNet, Label, MacAddr, NetworkName, Permission, Provenance, Traffic};

use crate::RuleStatus;

/// A router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// Its name, by which it is the same in the next configuration.
    pub name: Label,
    /// The networks that it joins; each has a gateway.
    pub networks: Vec<NetworkName>,
    /// The rules in order: the first that fits decides about a connection.
    pub rules: Vec<RouteRuleConfig>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
    /// How many connections each station may have begun at a time.
    pub connections: u32,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// A rule of a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRuleConfig {
    /// Its name, by which explanations and counters know it.
    pub name: String,
    /// What it says.
    pub permission: Permission,
    /// Who begins.
    pub from: RouteEndConfig,
    /// With whom.
    pub to: RouteEndConfig,
    /// What.
    pub traffic: Traffic,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// One end of a connection across a router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "end", deny_unknown_fields)]
pub enum RouteEndConfig {
    /// Anyone.
    #[default]
    Any,
    /// Everyone on a network.
    Network {
        /// The network.
        name: NetworkName,
    },
    /// One of these adapters.
    Stations {
        /// The adapters.
        stations: Vec<StationConfig>,
    },
    /// Whoever has an address of this prefix.
    Prefix {
        /// The prefix.
        prefix: IpNet,
    },
}

/// An adapter on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StationConfig {
    /// The network.
    pub network: NetworkName,
    /// The adapter.
    pub mac: MacAddr,
}

/// The state of a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Its name.
    pub name: Label,
    /// The networks that it joins.
    pub networks: Vec<NetworkName>,
    /// Its rules in order, with what each has decided.
    pub rules: Vec<RuleStatus>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
    /// How often no rule fitted.
    pub default_hits: u64,
    /// Packets that went across.
    pub packets: u64,
    /// Their bytes, with their Ethernet headers.
    pub bytes: u64,
    /// Connections that are known.
    pub connections: u64,
    /// Where it was declared.
    pub provenance: Provenance,
}
