//! Access lists, addresses and mirrors, from the words of a file to the ports of a switch.

use std::collections::BTreeMap;

use weft_dataplane_protocol::{AclConfig, AddressConfig, EndConfig, MirrorConfig, RuleConfig};
use weft_model::{Acl, DeclaredRule, End, Mirror, MirrorTo};
use weft_types::{IpNet, Label, PortName};

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

/// Those who are meant by a name: a group's members, or the one who is called so.
fn members<'a>(acl: &'a Acl, name: &'a PortName) -> &'a [PortName] {
    acl.group(name).unwrap_or(std::slice::from_ref(name))
}

/// What the switch is told of a network's access list; nothing where it restricts nothing. `ports_of` says which ports
/// are meant by a name that is no group's.
pub fn acl_config(acl: &Acl, gateway: &PortName, ports_of: impl Fn(&PortName) -> Vec<PortName>) -> Option<AclConfig> {
    let end = |end: &End| match end {
        End::Any => EndConfig::Any,
        End::Gateway => EndConfig::Ports { names: vec![gateway.clone()] },
        End::Prefix(prefix) => EndConfig::Prefix { prefix: *prefix },
        End::Name(name) => EndConfig::Ports { names: members(acl, name).iter().flat_map(&ports_of).collect() },
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

/// What the switch is told of a network's mirrors. `ports_of` says which ports are meant by a name that is no group's.
pub fn mirror_configs(
    mirrors: &BTreeMap<Label, Mirror>,
    acl: &Acl,
    ports_of: impl Fn(&PortName) -> Vec<PortName>,
) -> Vec<MirrorConfig> {
    let mirror = |(name, mirror): (&Label, &Mirror)| MirrorConfig {
        name: name.clone(),
        ports: (!mirror.from.is_empty())
            .then(|| mirror.from.iter().flat_map(|name| members(acl, name)).flat_map(&ports_of).collect()),
        vlans: mirror.vlans.iter().collect(),
        direction: mirror.direction,
        filter: mirror.filter.clone(),
        snap_bytes: mirror.snap,
        to: match &mirror.to {
            // One that has several ports there was refused.
            MirrorTo::Port(port) => {
                weft_dataplane_protocol::MirrorTo::Port(ports_of(port).pop().unwrap_or_else(|| port.clone()))
            }
            MirrorTo::Collector(collector) => weft_dataplane_protocol::MirrorTo::Collector(*collector),
        },
        provenance: mirror.provenance.clone(),
    };
    mirrors.iter().map(mirror).collect()
}
