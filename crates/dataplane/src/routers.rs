//! Routers, in the words of the services, and what they have to tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_dataplane_protocol::{
    AddressConfig, DataplaneConfig, PortConfig, PortKind, RouteEndConfig, RouterConfig, RouterStatus, RuleStatus,
    StationConfig,
};
use weft_services::{JoinedNetwork, NetworkId, RouteEnd, RouteRule};
use weft_types::{IpNet, MacAddr, NetworkName};

use crate::validate::Problems;
use crate::worker::Worker;

/// The most rules that a router may have: it looks at one after the other.
const MAX_RULES: usize = 4096;

type Numbers = BTreeMap<NetworkName, NetworkId>;

/// The routers of a configuration, as the services know them.
pub(crate) fn routers(config: &DataplaneConfig, networks: &Numbers) -> Vec<weft_services::RouterConfig> {
    config.routers.iter().map(|it| router(config, it, networks)).collect()
}

fn router(config: &DataplaneConfig, router: &RouterConfig, networks: &Numbers) -> weft_services::RouterConfig {
    let joined =
        |name: &NetworkName| Some(JoinedNetwork { id: *networks.get(name)?, stations: stations(config, name) });
    let end = |end: &RouteEndConfig| match end {
        RouteEndConfig::Any => RouteEnd::Any,
        RouteEndConfig::Prefix { prefix } => RouteEnd::Prefix(*prefix),
        RouteEndConfig::Network { name } => match networks.get(name) {
            Some(network) => RouteEnd::Network(*network),
            None => RouteEnd::Stations(Vec::new()),
        },
        RouteEndConfig::Stations { stations } => {
            let station = |station: &StationConfig| Some((*networks.get(&station.network)?, station.mac));
            RouteEnd::Stations(stations.iter().filter_map(station).collect())
        }
    };
    let rules = router.rules.iter().map(|rule| RouteRule {
        name: rule.name.clone(),
        permission: rule.permission,
        from: end(&rule.from),
        to: end(&rule.to),
        traffic: rule.traffic.clone(),
        provenance: rule.provenance.clone(),
    });
    weft_services::RouterConfig {
        name: router.name.clone(),
        networks: router.networks.iter().filter_map(joined).collect(),
        rules: rules.collect(),
        default: router.default,
        connections: router.connections,
        provenance: router.provenance.clone(),
    }
}

/// Whose address on a network is configured.
fn stations(config: &DataplaneConfig, network: &NetworkName) -> BTreeMap<IpAddr, MacAddr> {
    let ports = config.ports.iter().filter(|port| port.network == *network && port.vlans.meets_services());
    ports.flat_map(|port| port.macs.first().into_iter().flat_map(|mac| own(port).map(move |ip| (ip, *mac)))).collect()
}

/// The addresses, not the prefixes, that are a port's own.
fn own(port: &PortConfig) -> impl Iterator<Item = IpAddr> {
    let fixed = match &port.addresses {
        AddressConfig::Any => &[][..],
        AddressConfig::Known { fixed, .. } => fixed,
    };
    let host = match &port.kind {
        PortKind::Tap { host: Some(host), .. } => Some(IpAddr::V4(host.addr())),
        _ => None,
    };
    let is_address = |prefix: &&IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    fixed.iter().filter(is_address).map(IpNet::addr).chain(host)
}

/// Routers join networks that exist and have gateways, and two of them are joined once.
pub(crate) fn check(config: &DataplaneConfig, problems: &mut Problems) {
    let mut joined: BTreeMap<_, &RouterConfig> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for router in &config.routers {
        let RouterConfig { name, provenance, rules, networks, .. } = router;
        let what = format!("router `{name}` ({provenance})");
        if !names.insert(name) {
            problems.push(format!("{what}: there is another one of this name"), "give each router its own name");
        }
        if rules.len() > MAX_RULES {
            let message = format!("{what}: {} rules are more than {MAX_RULES}", rules.len());
            problems.push(message, "say it with prefixes and networks");
        }
        for network in networks {
            match config.networks.iter().find(|it| it.name == *network) {
                None => problems.push(format!("{what}: there is no network `{network}`"), "declare the network"),
                Some(it) if it.gateway.is_none() => {
                    let message = format!("{what}: network `{network}` has no gateway at which it could be reached");
                    problems.push(message, "join networks with services of their own");
                }
                Some(_) => {}
            }
        }
        let networks: Vec<_> = networks.iter().collect::<BTreeSet<_>>().into_iter().collect();
        for (index, first) in networks.iter().enumerate() {
            for second in &networks[index + 1..] {
                if let Some(other) = joined.insert((*first, *second), router) {
                    let message = format!("{what}: `{first}` and `{second}` are joined by `{}` already", other.name);
                    problems.push(message, "join two networks by one router");
                }
            }
        }
    }
}

impl Worker {
    /// What the routers have to tell.
    pub(crate) fn router_status(&self) -> Vec<RouterStatus> {
        let routers = self.config.routers.iter().zip(self.delivery.services.routers());
        routers.map(|(config, router)| status(config, router)).collect()
    }
}

fn status(config: &RouterConfig, router: &weft_services::Router) -> RouterStatus {
    let rules = config.rules.iter().zip(router.hits()).map(|(rule, hits)| RuleStatus {
        name: rule.name.clone(),
        permission: rule.permission,
        hits: *hits,
        provenance: rule.provenance.clone(),
    });
    let (packets, bytes) = router.traffic();
    RouterStatus {
        name: config.name.clone(),
        networks: config.networks.clone(),
        rules: rules.collect(),
        default: config.default,
        default_hits: router.default_hits(),
        packets,
        bytes,
        connections: router.connections() as u64,
        provenance: config.provenance.clone(),
    }
}
