//! What a port may be and do on its vSwitch, and who may talk to whom there. What is absent in a message or a snapshot
//! is as it was before it could be said.

use serde::{Deserialize, Serialize};
use weft_types::{Allowance, IpNet, Permission, PortName, Provenance, Traffic};

/// What a port may do beyond the ordinary; everything is denied by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// Whether it may send from MAC addresses that are not registered for it.
    pub forged_macs: bool,
    /// Whether it may send from IP addresses that are not its own.
    pub forged_ips: bool,
    /// Whether it may say in ARP that it has what is not its own.
    pub forged_arp: bool,
    /// Whether it may say in neighbour discovery that it has what is not its own.
    pub forged_neighbours: bool,
    /// Whether its guest may register other MAC addresses than the configured ones.
    pub mac_changes: bool,
    /// Whether it hears frames for other ports.
    pub promiscuous: bool,
    /// Whether it may be a DHCP server or relay.
    pub dhcp_server: bool,
    /// Whether it may be a router that advertises itself.
    pub router_advertisements: bool,
}

impl AccessConfig {
    fn flag(&mut self, allowance: Allowance) -> &mut bool {
        match allowance {
            Allowance::ForgedMac => &mut self.forged_macs,
            Allowance::ForgedIp => &mut self.forged_ips,
            Allowance::ForgedArp => &mut self.forged_arp,
            Allowance::ForgedNd => &mut self.forged_neighbours,
            Allowance::MacChange => &mut self.mac_changes,
            Allowance::Promiscuous => &mut self.promiscuous,
            Allowance::DhcpServer => &mut self.dhcp_server,
            Allowance::RouterAdvertisement => &mut self.router_advertisements,
        }
    }

    /// What is allowed, as the words that people know.
    pub fn allowances(mut self) -> Vec<Allowance> {
        Allowance::ALL.into_iter().filter(|allowance| *self.flag(*allowance)).collect()
    }
}

impl FromIterator<Allowance> for AccessConfig {
    fn from_iter<T: IntoIterator<Item = Allowance>>(allowed: T) -> Self {
        let mut access = Self::default();
        allowed.into_iter().for_each(|allowance| *access.flag(allowance) = true);
        access
    }
}

/// Which IP addresses are a port's own: it may send from them, and say that it has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "addresses", deny_unknown_fields)]
pub enum AddressConfig {
    /// It is not known, so any could be.
    #[default]
    Any,
    /// These and no others.
    Known {
        /// Those that were configured, and prefixes behind the port.
        fixed: Vec<IpNet>,
        /// How many more it may get from a DHCP server or by duplicate address detection.
        learn: u32,
    },
}

/// A network's access list: the first rule that fits a connection decides about all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclConfig {
    /// The rules in order.
    pub rules: Vec<RuleConfig>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
    /// How many connections each port may have begun at a time.
    pub connections: u32,
}

/// A rule of an access list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Its name, by which explanations and counters know it.
    pub name: String,
    /// What it says.
    pub permission: Permission,
    /// Who begins.
    pub from: EndConfig,
    /// With whom.
    pub to: EndConfig,
    /// What.
    pub traffic: Traffic,
    /// Whether its decisions are kept, to be looked at.
    #[serde(default)]
    pub log: bool,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "end", deny_unknown_fields)]
pub enum EndConfig {
    /// Anyone.
    #[default]
    Any,
    /// What stands behind one of these ports. Ports that do not exist (any more) are nobody's.
    Ports {
        /// The ports; those of gateways are called as [`PortName::of_gateway`] says.
        names: Vec<PortName>,
    },
    /// Whoever has an address of this prefix.
    Prefix {
        /// The prefix.
        prefix: IpNet,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_denied() {
        // As an earlier version wrote it.
        let old = r#"{"forged_macs":true,"promiscuous":false}"#;
        let access: AccessConfig = serde_json::from_str(old).unwrap();
        assert_eq!(access.allowances(), [Allowance::ForgedMac]);
        assert!(serde_json::from_str::<AccessConfig>(r#"{"everything":true}"#).is_err());
    }

    #[test]
    fn words_and_flags_are_the_same() {
        for allowance in Allowance::ALL {
            assert_eq!(AccessConfig::from_iter([allowance]).allowances(), [allowance]);
        }
        assert_eq!(AccessConfig::from_iter(Allowance::ALL).allowances(), Allowance::ALL);
    }
}
