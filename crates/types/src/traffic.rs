use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// What a rule of an access list says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// It may pass, and what answers it.
    #[default]
    Allow,
    /// It may not.
    Deny,
    /// It may not, and its sender is told: by a TCP reset, or by ICMP; about groups, nobody is.
    Reject,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Reject];

    /// The word by which files and listings know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Of what kind a connection is, as a rule of an access list says it. Protocols are IANA's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Traffic {
    /// Any.
    #[default]
    Any,
    /// IP packets of this protocol.
    Protocol {
        /// The protocol.
        protocol: u8,
    },
    /// Of this protocol, which has ports, between these ports.
    Ports {
        /// The protocol.
        protocol: u8,
        /// The initiator's port.
        src: RangeInclusive<u16>,
        /// The other's port.
        dst: RangeInclusive<u16>,
    },
    /// ICMP messages of this type, for IPv4 or IPv6.
    Icmp {
        /// The protocol.
        protocol: u8,
        /// The type.
        #[serde(rename = "type")]
        kind: u8,
    },
}

impl Traffic {
    /// Every port.
    pub const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

    /// The protocols that have a name, each with its number (IANA, "Protocol Numbers").
    pub const PROTOCOLS: [(&'static str, u8); 9] = [
        ("tcp", 6),
        ("udp", 17),
        ("icmp", 1),
        ("icmp6", 58),
        ("sctp", 132),
        ("dccp", 33),
        ("gre", 47),
        ("esp", 50),
        ("igmp", 2),
    ];

    /// Whether packets of a protocol have ports that rules can see.
    pub const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, 6 | 17 | 33 | 132)
    }

    /// Whether a protocol is ICMP, for IPv4 or IPv6.
    pub const fn is_icmp(protocol: u8) -> bool {
        matches!(protocol, 1 | 58)
    }
}

impl fmt::Display for Traffic {
    /// As rules are written: `tcp/5432`, `udp/1000-2000 from 53`, `icmp/8`, `proto/89`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self {
            Self::Any => return f.write_str("any"),
            Self::Protocol { protocol } | Self::Ports { protocol, .. } | Self::Icmp { protocol, .. } => *protocol,
        };
        match Self::PROTOCOLS.iter().find(|(_, number)| *number == protocol) {
            Some((name, _)) => f.write_str(name)?,
            None => write!(f, "proto/{protocol}")?,
        }
        match self {
            Self::Ports { src, dst, .. } => {
                if *dst != Self::ALL_PORTS {
                    write!(f, "/{}", Span(dst))?;
                }
                if *src != Self::ALL_PORTS {
                    write!(f, " from {}", Span(src))?;
                }
                Ok(())
            }
            Self::Icmp { kind, .. } => write!(f, "/{kind}"),
            Self::Any | Self::Protocol { .. } => Ok(()),
        }
    }
}

/// Some ports: one, or from one to another.
struct Span<'a>(&'a RangeInclusive<u16>);

impl fmt::Display for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}
