//! What must hold of access lists. Rules that never fit are no mistake; rules that cannot mean anything are.

use weft_types::{PortId, Provenance};
use weft_wire::Protocol;

use super::{Map, rival};
use crate::config::MAX_RULES;
use crate::{Acl, Config, ConfigError, Endpoint, Traffic, VSwitchConfig};

/// Everything that is wrong with the lists of `config`.
pub(super) fn check(config: &Config, problems: &mut Vec<ConfigError>) {
    let ports: Map<PortId, ()> = config.ports.iter().map(|port| (port.id, ())).collect();
    for vswitch in &config.vswitches {
        let Some(acl) = &vswitch.acl else { continue };
        if acl.rules.len() > MAX_RULES {
            let (network, provenance) = (vswitch.name.clone(), vswitch.provenance.clone());
            problems.push(ConfigError::TooManyRules { network, rules: acl.rules.len(), provenance });
            continue;
        }
        check_names(vswitch, acl, problems);
        for rule in &acl.rules {
            let subject = || format!("rule `{}`", rule.name);
            check_traffic(&rule.traffic, subject, &rule.provenance, problems);
            for port in [&rule.from, &rule.to].into_iter().filter_map(members).flatten() {
                if !ports.contains_key(port) {
                    let (rule, provenance) = (rule.name.clone(), rule.provenance.clone());
                    problems.push(ConfigError::UnknownRulePort { rule, port: *port, provenance });
                }
            }
        }
    }
}

fn members(end: &Endpoint) -> Option<&Vec<PortId>> {
    match end {
        Endpoint::Ports(ports) => Some(ports),
        Endpoint::Any | Endpoint::Prefix(_) => None,
    }
}

fn check_names(vswitch: &VSwitchConfig, acl: &Acl, problems: &mut Vec<ConfigError>) {
    let mut names = Map::default();
    for rule in &acl.rules {
        if let Some(first) = rival(names.entry(&rule.name), rule) {
            let (network, name) = (vswitch.name.clone(), rule.name.clone());
            let (first, second) = (first.provenance.clone(), rule.provenance.clone());
            problems.push(ConfigError::DuplicateRuleName { network, name, first, second });
        }
    }
}

/// Whether what a rule or mirror, the `subject`, says of packets can be.
pub(super) fn check_traffic(
    traffic: &Traffic,
    subject: impl Fn() -> String,
    provenance: &Provenance,
    problems: &mut Vec<ConfigError>,
) {
    let named = || (subject(), provenance.clone());
    match traffic {
        Traffic::Any | Traffic::Protocol(_) => {}
        Traffic::Ports { protocol, src, dst } => {
            if !matches!(*protocol, Protocol::TCP | Protocol::UDP | Protocol(132 | 33 | 136)) {
                let (subject, provenance) = named();
                problems.push(ConfigError::NoPorts { subject, protocol: protocol.0, provenance });
            }
            for range in [src, dst].into_iter().filter(|range| range.is_empty()) {
                let (subject, provenance) = named();
                let (first, last) = (*range.start(), *range.end());
                problems.push(ConfigError::EmptyPortRange { subject, first, last, provenance });
            }
        }
        Traffic::Icmp { protocol, .. } => {
            if !matches!(*protocol, Protocol::ICMP | Protocol::ICMPV6) {
                let (subject, provenance) = named();
                problems.push(ConfigError::NotIcmp { subject, protocol: protocol.0, provenance });
            }
        }
    }
}
