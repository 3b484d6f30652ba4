use std::net::IpAddr;

use weft_types::IpNet;

/// Which IP addresses are a port's own: it may send from them and say in ARP and neighbour discovery that it has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// It is not known, so any could be.
    #[default]
    Any,
    /// These and no others.
    Known {
        /// Those that were configured, or prefixes behind the port.
        fixed: Vec<IpNet>,
        /// How many more it may get: what a DHCP server gave it, and what it asked for by duplicate address detection
        /// (RFC 4862, RFC 5227) when no other port of its segment had it. Over that, the oldest gives way.
        learn: u32,
    },
}

impl Addresses {
    /// How many addresses may be learned.
    pub(crate) fn learn(&self) -> u32 {
        match self {
            Self::Any => 0,
            Self::Known { learn, .. } => *learn,
        }
    }

    /// Whether `address` was configured.
    pub(crate) fn is_fixed(&self, address: IpAddr) -> bool {
        matches!(self, Self::Known { fixed, .. } if fixed.iter().any(|prefix| prefix.contains(&address)))
    }
}
