use weft_types::{MacAddr, MacRange, NetworkName, PortId, PortName, Provenance};

use crate::VSwitchId;

/// Why a configuration was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It was computed before the one in force.
    #[error("the switch is at generation {current}, and was given the older generation {given}")]
    Stale {
        /// The generation that was given.
        given: u64,
        /// The generation in force.
        current: u64,
    },
    /// Two vSwitches with one number.
    #[error("networks `{first}` and `{second}` ({provenance}) have the same number {}", id.0)]
    DuplicateVSwitchId {
        /// The number.
        id: VSwitchId,
        /// The first of its owners.
        first: NetworkName,
        /// The second.
        second: NetworkName,
        /// Where the second was declared.
        provenance: Provenance,
    },
    /// Two vSwitches with one name.
    #[error("network `{name}` is declared twice: at {first} and at {second}")]
    DuplicateVSwitchName {
        /// The name.
        name: NetworkName,
        /// Where it was declared first.
        first: Provenance,
        /// Where it was declared again.
        second: Provenance,
    },
    /// Two ports with one number; so a port cannot belong to two vSwitches (law 2).
    #[error("ports `{first}` and `{second}` ({provenance}) have the same number {id}")]
    DuplicatePortId {
        /// The number.
        id: PortId,
        /// The first of its owners.
        first: PortName,
        /// The second.
        second: PortName,
        /// Where the second was declared.
        provenance: Provenance,
    },
    /// Two ports with one name.
    #[error("port `{name}` is declared twice: at {first} and at {second}")]
    DuplicatePortName {
        /// The name.
        name: PortName,
        /// Where it was declared first.
        first: Provenance,
        /// Where it was declared again.
        second: Provenance,
    },
    /// A port of a vSwitch that does not exist.
    #[error("port `{port}` ({provenance}) belongs to network number {}, which does not exist", vswitch.0)]
    UnknownVSwitch {
        /// The port.
        port: PortName,
        /// The missing vSwitch.
        vswitch: VSwitchId,
        /// Where the port was declared.
        provenance: Provenance,
    },
    /// A MAC address that no station may own.
    #[error("port `{port}` ({provenance}) cannot own {mac}, which is not the address of one station")]
    NotAStation {
        /// The port.
        port: PortName,
        /// The address.
        mac: MacAddr,
        /// Where the port was declared.
        provenance: Provenance,
    },
    /// One MAC address registered twice on a vSwitch.
    #[error("{mac} is registered twice on one network: for port `{first}` and for port `{second}` ({provenance})")]
    DuplicateMac {
        /// The address.
        mac: MacAddr,
        /// The first of its owners.
        first: PortName,
        /// The second; the same when one port names the address twice.
        second: PortName,
        /// Where the second was declared.
        provenance: Provenance,
    },
    /// A run of MAC addresses that holds an address of another port of the vSwitch.
    #[error("{range} of port `{port}` ({provenance}) meets addresses of port `{other}` on one network")]
    RangeTaken {
        /// The run.
        range: MacRange,
        /// Its port.
        port: PortName,
        /// The port that owns some of it.
        other: PortName,
        /// Where the run's port was declared.
        provenance: Provenance,
    },
    /// An access list that is longer than any may be.
    #[error("network `{network}` ({provenance}) has {rules} rules, and {} is the most", crate::MAX_RULES)]
    TooManyRules {
        /// The vSwitch.
        network: NetworkName,
        /// How many rules it has.
        rules: usize,
        /// Where the network was declared.
        provenance: Provenance,
    },
    /// Two rules with one name in one list.
    #[error("network `{network}` has two rules `{name}`: at {first} and at {second}")]
    DuplicateRuleName {
        /// The vSwitch.
        network: NetworkName,
        /// The name.
        name: String,
        /// Where it was declared first.
        first: Provenance,
        /// Where it was declared again.
        second: Provenance,
    },
    /// A rule about a port that does not exist.
    #[error("rule `{rule}` ({provenance}) is about port {port}, which does not exist")]
    UnknownRulePort {
        /// The rule.
        rule: String,
        /// The missing port.
        port: PortId,
        /// Where the rule was declared.
        provenance: Provenance,
    },
    /// A rule or mirror about the ports of a protocol that has none.
    #[error("{subject} ({provenance}) names ports of IP protocol {protocol}, which has none")]
    NoPorts {
        /// What it is, with its name.
        subject: String,
        /// The protocol's number.
        protocol: u8,
        /// Where the rule was declared.
        provenance: Provenance,
    },
    /// A rule or mirror about a range of ports in which there are none.
    #[error("{subject} ({provenance}) names the ports {first} to {last}, which are none")]
    EmptyPortRange {
        /// What it is, with its name.
        subject: String,
        /// The range's first port.
        first: u16,
        /// Its last.
        last: u16,
        /// Where the rule was declared.
        provenance: Provenance,
    },
    /// A rule or mirror about ICMP messages of a protocol that is not ICMP.
    #[error("{subject} ({provenance}) names an ICMP type of IP protocol {protocol}, which is not ICMP")]
    NotIcmp {
        /// What it is, with its name.
        subject: String,
        /// The protocol's number.
        protocol: u8,
        /// Where the rule was declared.
        provenance: Provenance,
    },
    /// More mirrors on one vSwitch than there may be.
    #[error("network `{network}` ({provenance}) has {mirrors} mirrors, and {} is the most", crate::MAX_MIRRORS)]
    TooManyMirrors {
        /// The vSwitch.
        network: NetworkName,
        /// How many mirrors it has.
        mirrors: usize,
        /// Where the network was declared.
        provenance: Provenance,
    },
    /// Two mirrors with one name on one vSwitch, or with one number.
    #[error("mirror `{name}` is declared twice: at {first} and at {second}")]
    DuplicateMirror {
        /// The name of the second.
        name: String,
        /// Where the first was declared.
        first: Provenance,
        /// Where the second was declared.
        second: Provenance,
    },
    /// A mirror of or to a port that its vSwitch does not have.
    #[error("mirror `{mirror}` ({provenance}) is about port {port}, which is not on its network")]
    MirrorElsewhere {
        /// The mirror.
        mirror: String,
        /// The port.
        port: PortId,
        /// Where the mirror was declared.
        provenance: Provenance,
    },
    /// A mirror whose copies would go where they come from, or where they would be forwarded again.
    #[error("mirror `{mirror}` ({provenance}) cannot copy to `{port}`")]
    MirrorTarget {
        /// The mirror.
        mirror: String,
        /// The port.
        port: PortName,
        /// Where the mirror was declared.
        provenance: Provenance,
    },
    /// An uplink that its vSwitch's team does not name, or something else that it does.
    #[error(
        "the team of network `{network}` ({provenance}) must name each of its uplinks once and nothing else, and {port} is wrong"
    )]
    TeamMember {
        /// The vSwitch.
        network: NetworkName,
        /// What is missing, or is there once too often.
        port: PortId,
        /// Where the network was declared.
        provenance: Provenance,
    },
    /// A rate at which nothing, or anything, would pass.
    #[error(
        "port `{port}` ({provenance}) cannot have a rate of {bits_per_s} bits a second with bursts of {burst_bytes} bytes"
    )]
    Rate {
        /// The port.
        port: PortName,
        /// The rate.
        bits_per_s: u64,
        /// Its burst.
        burst_bytes: u64,
        /// Where the port was declared.
        provenance: Provenance,
    },
    /// A second way out of a vSwitch (law 2).
    #[error("network `{vswitch}` has uplink `{first}`, and `{second}` ({provenance}) would be another")]
    SecondUplink {
        /// The vSwitch.
        vswitch: NetworkName,
        /// Its uplink.
        first: PortName,
        /// The one too many.
        second: PortName,
        /// Where the second was declared.
        provenance: Provenance,
    },
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Stale { .. } => "compute the configuration again from the newest revision",
            Self::DuplicateVSwitchId { .. } | Self::DuplicatePortId { .. } => {
                "give every network and every port a number of its own"
            }
            Self::DuplicateVSwitchName { .. } | Self::DuplicatePortName { .. } => "rename or remove one of the two",
            Self::UnknownVSwitch { .. } => "declare the network, or plug the port into another one",
            Self::NotAStation { .. } => {
                "use an address whose first octet is even, and which is not all zero, like 02:00:5e:10:00:01"
            }
            Self::DuplicateMac { .. } => "give one of the two another address, or leave the choice to Weft",
            Self::RangeTaken { .. } => "choose ranges that no other port of the network has addresses in",
            Self::TooManyRules { .. } => "name groups and prefixes instead of one machine and one address a rule",
            Self::DuplicateRuleName { .. } => "give every rule of a network a name of its own",
            Self::UnknownRulePort { .. } => "declare the port, or take it out of the rule",
            Self::NoPorts { .. } => "use tcp, udp, sctp or dccp, or leave the ports out",
            Self::EmptyPortRange { .. } => "write the smaller port first, like 8000-8080",
            Self::NotIcmp { .. } => "use icmp or icmpv6",
            Self::TooManyMirrors { .. } => "mirror several ports or VLANs by one mirror",
            Self::DuplicateMirror { .. } => "give every mirror a name and a number of its own",
            Self::MirrorElsewhere { .. } => {
                "mirror ports of one network, to a port of the same network or to a collector"
            }
            Self::MirrorTarget { .. } => {
                "copy to a machine's port that is not mirrored itself; never to an uplink or a gateway"
            }
            Self::TeamMember { .. } => "list the network's uplinks in the team, the preferred one first",
            Self::Rate { .. } => "choose 1 bit to 1 terabit a second, and a burst of 1 byte to 1 GiB",
            Self::SecondUplink { .. } => "team the pNICs behind one uplink, or give the second its own network",
        }
    }
}
