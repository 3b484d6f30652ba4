//! Access lists and addresses, from the words of a file to the ports of a switch.

use weft_dataplane_protocol::{AclConfig, AddressConfig, EndConfig, RuleConfig};
use weft_model::{Acl, DeclaredRule, End};
use weft_types::{IpNet, PortName};

/// How many IP addresses a port may get besides its configured ones, by DHCP and by duplicate address detection: enough
/// for IPv6 with its temporary addresses.
const LEARNED_ADDRESSES: u32 = 16;

/// Which IP addresses are a port's own: the `fixed` ones, and what it is seen to get. Where none are fixed and nobody
/// `leases` it one, that cannot be known.
pub fn known_addresses(fixed: &[IpNet], leases: bool) -> AddressConfig {
    match leases || !fixed.is_empty() {
        true => AddressConfig::Known { fixed: fixed.to_vec(), learn: LEARNED_ADDRESSES },
        false => AddressConfig::Any,
    }
}

/// What the switch is told of a network's access list; nothing where it restricts nothing. `ports_of` says which ports
/// are meant by a name that is no group's.
pub fn acl_config(acl: &Acl, gateway: &PortName, ports_of: impl Fn(&PortName) -> Vec<PortName>) -> Option<AclConfig> {
    let end = |end: &End| match end {
        End::Any => EndConfig::Any,
        End::Gateway => EndConfig::Ports { names: vec![gateway.clone()] },
        End::Prefix(prefix) => EndConfig::Prefix { prefix: *prefix },
        End::Name(name) => {
            let members = acl.group(name).unwrap_or(std::slice::from_ref(name));
            EndConfig::Ports { names: members.iter().flat_map(&ports_of).collect() }
        }
    };
    let rule = |DeclaredRule { rule, provenance }: &DeclaredRule| RuleConfig {
        name: rule.title(),
        permission: rule.permission,
        from: end(&rule.from),
        to: end(&rule.to),
        traffic: rule.traffic.clone(),
        log: rule.log,
        provenance: provenance.clone(),
    };
    (!acl.is_open()).then(|| AclConfig {
        rules: acl.rules.iter().map(rule).collect(),
        default: acl.default,
        connections: acl.connections,
    })
}
