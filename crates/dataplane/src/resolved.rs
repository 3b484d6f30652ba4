//! Has the host find machines by name where systemd-resolved runs: it is told to ask a network's gateway for the names of
//! that network, by the host's own adapter there (resolvectl(1)). It forgets that with the adapter.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use weft_dataplane_protocol::{DataplaneConfig, PortKind};
use weft_types::Ipv4Net;

/// By this programs ask systemd-resolved; it is there while that runs (systemd-resolved.service(8)).
const SOCKET: &str = "/run/systemd/resolve/io.systemd.Resolve";

/// What is asked by an adapter: this server, for names in these domains.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    server: Ipv4Addr,
    domains: Vec<String>,
}

/// What systemd-resolved was told.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    told: BTreeMap<String, Route>,
}

impl Resolved {
    /// Tells it what is new in a configuration; adapters that were made anew have to be told of again. Where it does not
    /// run, or this user may not, nothing happens.
    pub(crate) fn follow(&mut self, config: &DataplaneConfig, made_anew: &BTreeSet<String>) {
        let words = self.news(config, made_anew);
        if !words.is_empty() && Path::new(SOCKET).exists() {
            // It may take its time, and frames do not wait for it.
            let telling = thread::Builder::new().name("resolved".into()).spawn(move || tell(&words));
            if let Err(error) = telling {
                tracing::warn!(target: "weft::dataplane", %error, "systemd-resolved is not told");
            }
        }
    }

    /// What is to be said, each the words of a command.
    fn news(&mut self, config: &DataplaneConfig, made_anew: &BTreeSet<String>) -> Vec<Vec<String>> {
        let wanted = routes(config);
        let is_known = |adapter: &String, route: &Route| {
            !made_anew.contains(adapter) && self.told.get(adapter).is_some_and(|told| told == route)
        };
        let mut words: Vec<Vec<String>> = Vec::new();
        for (adapter, Route { server, domains }) in wanted.iter().filter(|(adapter, route)| !is_known(adapter, route)) {
            words.push(vec!["dns".into(), adapter.clone(), server.to_string()]);
            words.push([vec!["domain".into(), adapter.clone()], domains.clone()].concat());
        }
        // One that is gone is forgotten already.
        let stay = |adapter: &&String| {
            config.ports.iter().any(|port| matches!(&port.kind, PortKind::Tap { name, .. } if name == *adapter))
        };
        let silent = self.told.keys().filter(|adapter| !wanted.contains_key(*adapter)).filter(stay);
        words.extend(silent.map(|adapter| vec!["revert".into(), adapter.clone()]));
        self.told = wanted;
        words
    }
}

fn tell(commands: &[Vec<String>]) {
    for words in commands {
        let said = Command::new("resolvectl").args(words).stdin(Stdio::null()).output().and_then(|output| {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() { Ok(()) } else { Err(io::Error::other(words)) }
        });
        if let Err(error) = said {
            tracing::warn!(target: "weft::dataplane", %error, command = words.join(" "), "systemd-resolved was not told");
            return;
        }
    }
}

/// What is to be asked by which of the host's adapters.
fn routes(config: &DataplaneConfig) -> BTreeMap<String, Route> {
    let route = |port: &weft_dataplane_protocol::PortConfig| {
        let PortKind::Tap { name, host: Some(_) } = &port.kind else { return None };
        let network = config.networks.iter().find(|network| network.name == port.network)?;
        let gateway = network.gateway.as_ref().filter(|gateway| gateway.dns)?;
        let domains = std::iter::once(format!("~{}.weft", network.name)).chain(reverse(gateway.subnet));
        Some((name.clone(), Route { server: gateway.ip, domains: domains.collect() }))
    };
    config.ports.iter().filter_map(route).collect()
}

/// The domain of a subnet's addresses, where it has one of its own (RFC 1035, section 3.5).
fn reverse(subnet: Ipv4Net) -> Option<String> {
    let octets = usize::from(subnet.prefix_len() / 8);
    let has_own = subnet.prefix_len().is_multiple_of(8) && octets > 0;
    has_own.then(|| {
        let labels = subnet.network().octets()[..octets].iter().rev().map(u8::to_string).collect::<Vec<_>>();
        format!("~{}.in-addr.arpa", labels.join("."))
    })
}

#[cfg(test)]
mod tests {
    use weft_dataplane_protocol::{
        AccessConfig, AddressConfig, GatewayConfig, NetworkConfig, NetworkMode, PortConfig, Switching,
    };
    use weft_types::{DnsNames, MacAddr, PortRates, PortVlans, Provenance};

    use super::*;

    /// The host on a network by the adapter `weft-lab`.
    fn lab(gateway: Ipv4Addr, dns: bool) -> DataplaneConfig {
        let gateway = GatewayConfig {
            mac: MacAddr::derive("gateway"),
            ip: gateway,
            subnet: Ipv4Net::new_assert(gateway, 24),
            subnet6: None,
            dhcp6: None,
            dhcp: None,
            dns,
            host_access: false,
            records: Vec::new(),
            names: DnsNames::default(),
            metadata: BTreeMap::new(),
        };
        let network = NetworkConfig {
            name: "lab".parse().unwrap(),
            mode: NetworkMode::HostOnly,
            mtu: 1500,
            gateway: Some(gateway),
            switching: Switching::Veb,
            team: None,
            acl: None,
            mirrors: Vec::new(),
            forwards: Vec::new(),
            provenance: Provenance::file("/w.toml", 1),
        };
        let port = PortConfig {
            name: "host-weft-lab".parse().unwrap(),
            network: "lab".parse().unwrap(),
            kind: PortKind::Tap { name: "weft-lab".into(), host: Some("10.91.0.254/24".parse().unwrap()) },
            macs: vec![MacAddr::derive("host")],
            mac_ranges: Vec::new(),
            vm: None,
            uplink: false,
            vlans: PortVlans::Untagged,
            learn: 0,
            addresses: AddressConfig::Any,
            access: AccessConfig::default(),
            rates: PortRates::default(),
            provenance: Provenance::file("/w.toml", 1),
        };
        DataplaneConfig { networks: vec![network], ports: vec![port], ..DataplaneConfig::default() }
    }

    #[test]
    fn what_is_new_is_said_once() {
        let mut resolved = Resolved::default();
        let mut news = |config: &DataplaneConfig, made_anew: &[&str]| -> Vec<String> {
            let made_anew = made_anew.iter().map(ToString::to_string).collect();
            resolved.news(config, &made_anew).iter().map(|words| words.join(" ")).collect()
        };
        let lab_at = |octet: u8| lab(Ipv4Addr::new(10, octet, 0, 1), true);
        let all = |octet: u8| {
            vec![
                format!("dns weft-lab 10.{octet}.0.1"),
                format!("domain weft-lab ~lab.weft ~0.{octet}.10.in-addr.arpa"),
            ]
        };
        let nothing: [&str; 0] = [];
        assert_eq!(news(&lab_at(91), &["weft-lab"]), all(91));
        assert_eq!(news(&lab_at(91), &[]), nothing);
        assert_eq!(news(&lab_at(92), &[]), all(92), "another address");
        assert_eq!(news(&lab_at(92), &["weft-lab"]), all(92), "another adapter of the same name");
        assert_eq!(news(&lab(Ipv4Addr::new(10, 92, 0, 1), false), &[]), ["revert weft-lab"], "no names any more");
        assert_eq!(news(&lab_at(92), &[]), all(92));
        assert_eq!(news(&DataplaneConfig::default(), &[]), nothing, "it went with its adapter");
    }

    #[test]
    fn domains_of_addresses() {
        for (subnet, expected) in [
            ("10.20.0.0/24", Some("~0.20.10.in-addr.arpa")),
            ("172.16.0.0/16", Some("~16.172.in-addr.arpa")),
            ("10.0.0.0/8", Some("~10.in-addr.arpa")),
            ("10.20.4.0/22", None),
            ("10.20.0.8/29", None),
        ] {
            assert_eq!(reverse(subnet.parse().unwrap()).as_deref(), expected, "{subnet}");
        }
    }
}
