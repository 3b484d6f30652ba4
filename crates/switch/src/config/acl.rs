use std::ops::RangeInclusive;

use weft_types::{IpNet, Permission, PortId, Provenance};
use weft_wire::Protocol;

/// The most rules that an access list can have.
pub const MAX_RULES: usize = 16_384;

/// The access list of a vSwitch: the first rule that fits a connection decides about all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// The rules in order.
    pub rules: Vec<Rule>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
    /// How many connections each port may have begun at a time.
    pub connections: u32,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// What it says.
    pub permission: Permission,
    /// Who begins.
    pub from: Endpoint,
    /// With whom.
    pub to: Endpoint,
    /// What.
    pub traffic: Traffic,
    /// Whether its decisions are kept in the [log](crate::RuleLog).
    pub log: bool,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// Anyone.
    #[default]
    Any,
    /// What stands behind one of these ports: a VM, or a group of them.
    Ports(Vec<PortId>),
    /// Whoever has an address of this prefix.
    Prefix(IpNet),
}

/// Of what kind a connection is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Traffic {
    /// Any, and what is no IP at all.
    #[default]
    Any,
    /// IP packets of this protocol.
    Protocol(Protocol),
    /// Of this protocol, which has ports (TCP, UDP, SCTP, DCCP), between these ports.
    Ports {
        /// The protocol.
        protocol: Protocol,
        /// The initiator's port.
        src: RangeInclusive<u16>,
        /// The other's port.
        dst: RangeInclusive<u16>,
    },
    /// ICMP messages of this type, for IPv4 or IPv6.
    Icmp {
        /// [`Protocol::ICMP`] or [`Protocol::ICMPV6`].
        protocol: Protocol,
        /// The type.
        kind: u8,
    },
}
