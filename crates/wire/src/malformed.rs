use std::fmt;

/// Why bytes are not what they should be: which header is wrong, and what is wrong with it.
///
/// Written as a stable name, `ipv4-truncated` or `tcp-header-length`, which counters and explanations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Malformed {
    /// The header.
    pub layer: Layer,
    /// What is wrong with it.
    pub problem: Problem,
}

/// The headers that are read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// Ethernet.
    Ethernet,
    /// An 802.1Q or 802.1ad tag.
    Vlan,
    /// ARP.
    Arp,
    /// IPv4.
    Ipv4,
    /// IPv6 and its extension headers.
    Ipv6,
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// ICMP for IPv4.
    Icmpv4,
    /// ICMP for IPv6, neighbour discovery among it.
    Icmpv6,
    /// LLDP.
    Lldp,
    /// The header that virtio-net puts before a frame, and the work it asks for.
    Offload,
}

/// What can be wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Problem {
    /// The bytes end inside of it.
    Truncated,
    /// Its version field names another protocol.
    Version,
    /// It is shorter than its fixed part, by its own word.
    HeaderLength,
    /// It says that more, or less, follows than can.
    Length,
    /// Its checksum is wrong.
    Checksum,
    /// One of its options contradicts itself.
    Options,
    /// It asks for something that is not spoken here.
    Unsupported,
    /// It contradicts the frame that it belongs to.
    Mismatch,
}

impl Layer {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ethernet => "ethernet",
            Self::Vlan => "vlan",
            Self::Arp => "arp",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Icmpv4 => "icmpv4",
            Self::Icmpv6 => "icmpv6",
            Self::Lldp => "lldp",
            Self::Offload => "offload",
        }
    }

    /// This layer with `problem`.
    pub(crate) const fn is(self, problem: Problem) -> Malformed {
        Malformed { layer: self, problem }
    }
}

impl Problem {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Version => "version",
            Self::HeaderLength => "header-length",
            Self::Length => "length",
            Self::Checksum => "checksum",
            Self::Options => "options",
            Self::Unsupported => "unsupported",
            Self::Mismatch => "mismatch",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.layer.name(), self.problem.name())
    }
}

impl std::error::Error for Malformed {}
