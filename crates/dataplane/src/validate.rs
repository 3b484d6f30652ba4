//! Is a configuration one that the data plane can become? Everything that is wrong is said at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use weft_dataplane_protocol::{
    AddressConfig, DataplaneConfig, ErrorCode, ForwardConfig, GatewayConfig, NetworkConfig, NetworkMode, PortConfig,
    PortKind, Refusal,
};
use weft_types::{Ipv4Net, Ipv6Net, PortVlans};

use crate::routers;

/// The smallest MTU that every IPv4 host must take (RFC 791).
const MIN_MTU: u16 = 68;

/// The smallest MTU of a link of IPv6 (RFC 8200, section 5).
const MIN_MTU_V6: u16 = 1280;

/// The most rules that an access list may have: an order of magnitude over what anybody writes.
const MAX_RULES: usize = 100_000;

/// The most stations or addresses that a port may learn.
const MAX_LEARNED: u32 = 65_536;

/// Problems and their ways out, in the order in which they were found.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<(String, Cow<'static, str>)>);

impl Problems {
    pub(crate) fn push(&mut self, message: String, hint: impl Into<Cow<'static, str>>) {
        self.0.push((message, hint.into()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One refusal for all of them; `Ok` when there are none.
    pub(crate) fn refuse(self, code: ErrorCode) -> Result<(), Refusal> {
        let Some((_, first_hint)) = self.0.first() else { return Ok(()) };
        let mut hints: Vec<&str> = vec![first_hint];
        self.0.iter().for_each(|(_, hint)| {
            if !hints.contains(&&**hint) {
                hints.push(hint);
            }
        });
        let hint = hints.join("; ");
        let message = self.0.into_iter().map(|(message, _)| message).collect::<Vec<_>>().join("\n");
        Err(Refusal { code, message, hint })
    }
}

/// What the switch itself does not look at: addresses of services, and the places where ports listen.
pub(crate) fn check(config: &DataplaneConfig, problems: &mut Problems) {
    for network in &config.networks {
        if network.mtu < MIN_MTU {
            let NetworkConfig { name, mtu, provenance, .. } = network;
            problems.push(format!("network `{name}` ({provenance}): an MTU of {mtu} is too small"), "use 1500");
        }
        if let Some(gateway) = &network.gateway {
            check_gateway(network, gateway, problems);
        }
        if let Some(rules) = network.acl.as_ref().map(|acl| acl.rules.len()).filter(|rules| *rules > MAX_RULES) {
            let NetworkConfig { name, provenance, .. } = network;
            let message = format!("network `{name}` ({provenance}): {rules} rules are more than {MAX_RULES}");
            problems.push(message, "say it with prefixes and groups");
        }
    }
    for port in &config.ports {
        check_port(port, problems);
    }
    check_places(config, problems);
    check_forwards(config, problems);
    routers::check(config, problems);
}

fn check_gateway(network: &NetworkConfig, gateway: &GatewayConfig, problems: &mut Problems) {
    if let Some(net) = gateway.subnet6.filter(|net| !is_prefix(*net)) {
        let NetworkConfig { name, provenance, .. } = network;
        let message = format!("network `{name}` ({provenance}): {net} is no prefix for stations");
        problems.push(message, "choose a unicast prefix of 64 bits, which is not link-local");
    }
    if gateway.subnet6.is_some() && network.mtu < MIN_MTU_V6 {
        let NetworkConfig { name, mtu, provenance, .. } = network;
        let message = format!("network `{name}` ({provenance}): an MTU of {mtu} is too small for IPv6");
        problems.push(message, "use 1280 or more");
    }
    let subnet = gateway.subnet;
    let mut outside = |what: &str, ip: Ipv4Addr| {
        if !is_host(subnet, ip) {
            let NetworkConfig { name, provenance, .. } = network;
            let message = format!("network `{name}` ({provenance}): {what} {ip} is no host address of {subnet}");
            problems.push(message, "choose an address inside of the subnet, neither its first nor its last");
        }
    };
    outside("the gateway", gateway.ip);
    if let Some(dhcp) = &gateway.dhcp {
        outside("the DHCP pool's first address", dhcp.first);
        outside("the DHCP pool's last address", dhcp.last);
        for (vm, ip) in dhcp.reservations.iter().filter_map(|kept| Some((&kept.vm, kept.ip?))) {
            outside(&format!("the address of VM `{vm}`,"), ip);
        }
        for (client, ip) in &dhcp.kept {
            outside(&format!("the address that is kept for `{client}`,"), *ip);
        }
        if dhcp.first > dhcp.last {
            let NetworkConfig { name, provenance, .. } = network;
            let message = format!("network `{name}` ({provenance}): the DHCP pool ends before it begins");
            problems.push(message, "swap its ends");
        }
    }
}

fn check_port(port: &PortConfig, problems: &mut Problems) {
    let PortConfig { name, provenance, .. } = port;
    let addresses = match &port.addresses {
        AddressConfig::Any => 0,
        AddressConfig::Known { learn, .. } => *learn,
    };
    let most = port.learn.max(addresses);
    if most > MAX_LEARNED {
        let message = format!("port `{name}` ({provenance}): {most} are more than a port may learn");
        problems.push(message, "choose 65536 or less");
    }
    if let PortVlans::Trunk { allowed, native: None } = &port.vlans
        && allowed.is_empty()
    {
        problems.push(format!("trunk port `{name}` ({provenance}) carries no VLAN"), "name the VLANs that it allows");
    }
    if let PortKind::Tap { host: Some(host), .. } = &port.kind {
        if !is_host(*host, host.addr()) {
            let message =
                format!("port `{name}` ({provenance}): {} is no host address of {}", host.addr(), host.trunc());
            problems.push(message, "choose an address inside of the network, neither its first nor its last");
        }
        if port.macs.is_empty() {
            let message = format!("port `{name}` ({provenance}): the host's adapter has no MAC address");
            problems.push(message, "give the port one");
        }
    }
}

/// Whether a station of `subnet` can have this address.
fn is_host(subnet: Ipv4Net, ip: Ipv4Addr) -> bool {
    let edge = subnet.prefix_len() < 31 && (ip == subnet.network() || ip == subnet.broadcast());
    subnet.contains(&ip) && !edge
}

/// Whether stations can make their addresses from this prefix (RFC 4862).
fn is_prefix(net: Ipv6Net) -> bool {
    let ip = net.addr();
    let has_meaning = ip.octets()[0] == 0 || ip.is_multicast() || ip.is_unicast_link_local();
    net.prefix_len() == 64 && net.trunc() == net && !has_meaning
}

/// No two ports at one socket, interface or address.
fn check_places(config: &DataplaneConfig, problems: &mut Problems) {
    let mut sockets: BTreeMap<&Path, _> = BTreeMap::new();
    let mut interfaces: BTreeMap<&str, _> = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for port in &config.ports {
        let (place, taken) = match &port.kind {
            PortKind::VhostUser { socket, .. }
            | PortKind::UnixStream { socket, .. }
            | PortKind::UnixDatagram { socket, .. } => {
                (format!("socket `{}`", socket.display()), sockets.insert(socket, &port.name))
            }
            PortKind::Tap { name, .. } => (format!("TAP device `{name}`"), interfaces.insert(name, &port.name)),
            PortKind::Packet { name, .. } => {
                (format!("network interface `{name}`"), interfaces.insert(name, &port.name))
            }
            PortKind::Udp { local, .. } => (format!("address {local}"), addresses.insert(local, &port.name)),
        };
        if let Some(other) = taken {
            let message = format!("ports `{other}` and `{}` ({}) have the same {place}", port.name, port.provenance);
            problems.push(message, "give each port its own");
        }
    }
}

/// Forwards lead to machines that the host reaches, and no two are met at one place.
fn check_forwards(config: &DataplaneConfig, problems: &mut Problems) {
    let mut earlier: Vec<&ForwardConfig> = Vec::new();
    for network in &config.networks {
        for forward in &network.forwards {
            let ForwardConfig { listen, to, ip, provenance, .. } = forward;
            let what = format!("the forward {listen} -> {to} ({provenance})");
            let gateway = network.gateway.as_ref().filter(|_| network.mode == NetworkMode::Nat);
            match gateway {
                None => problems.push(
                    format!("{what}: nothing from outside reaches network `{}`", network.name),
                    "give the network the mode `nat`",
                ),
                Some(gateway) => {
                    if let Some(ip) = ip.filter(|ip| !is_host(gateway.subnet, *ip) || *ip == gateway.ip) {
                        let message = format!("{what}: {ip} is no machine's address in {}", gateway.subnet);
                        problems.push(message, "name a machine, or an address of the network");
                    }
                }
            }
            if to.port.checked_add(listen.count() - 1).is_none() {
                problems.push(format!("{what}: there are no ports beyond 65535"), "forward fewer ports");
            }
            if let Some(other) = earlier.iter().find(|other| other.listen.overlaps(listen)) {
                let message = format!("{what}: {} leads to {} already ({})", other.listen, other.to, other.provenance);
                problems.push(message, "choose another port of the host");
            }
            earlier.push(forward);
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_dataplane_protocol::{AccessConfig, DhcpConfig, Reservation, Switching};
    use weft_testkit::mac;
    use weft_types::{DnsNames, PortRates, Provenance};

    use super::*;

    fn network(change: impl Fn(&mut GatewayConfig)) -> NetworkConfig {
        let mut gateway = GatewayConfig {
            mac: mac(1),
            ip: [10, 0, 0, 1].into(),
            subnet: "10.0.0.0/24".parse().unwrap(),
            subnet6: None,
            dhcp6: None,
            dhcp: Some(DhcpConfig {
                first: [10, 0, 0, 2].into(),
                last: [10, 0, 0, 254].into(),
                lease_s: 3600,
                reservations: vec![],
                excluded: vec![],
                kept: BTreeMap::new(),
                options: BTreeMap::new(),
                boot: None,
            }),
            dns: true,
            metadata: BTreeMap::new(),
            host_access: false,
            records: vec![],
            names: DnsNames::default(),
        };
        change(&mut gateway);
        NetworkConfig {
            name: "office".parse().unwrap(),
            mode: NetworkMode::Nat,
            mtu: 1500,
            gateway: Some(gateway),
            switching: Switching::Veb,
            team: None,
            acl: None,
            mirrors: Vec::new(),
            forwards: vec![],
            provenance: Provenance::file("/w.toml", 3),
        }
    }

    fn problems(config: &DataplaneConfig) -> String {
        let mut problems = Problems::default();
        check(config, &mut problems);
        problems.refuse(ErrorCode::BadConfig).map_or_else(|refusal| refusal.message, |()| String::new())
    }

    #[test]
    fn a_prefix_is_one_that_stations_take() {
        for (net, is_good) in [
            ("fd00:1::/64", true),
            ("2001:db8::/64", true),
            ("fd00:1::/48", false),
            ("fd00:1::1/64", false),
            ("fe80::/64", false),
            ("ff02::/64", false),
            ("::/64", false),
        ] {
            let mut problems = Problems::default();
            let network = network(|gateway| gateway.subnet6 = Some(net.parse().unwrap()));
            check_gateway(&network, network.gateway.as_ref().unwrap(), &mut problems);
            assert_eq!(problems.is_empty(), is_good, "{net}");
        }
        let network =
            NetworkConfig { mtu: 1279, ..network(|gateway| gateway.subnet6 = Some("fd00:1::/64".parse().unwrap())) };
        let mut problems = Problems::default();
        check_gateway(&network, network.gateway.as_ref().unwrap(), &mut problems);
        assert!(problems.refuse(ErrorCode::BadConfig).unwrap_err().to_string().contains("too small for IPv6"));
    }

    #[test]
    fn services_stand_inside_of_their_subnet() {
        let check = |change: fn(&mut GatewayConfig), expected: &str| {
            let config = DataplaneConfig { networks: vec![network(change)], ..DataplaneConfig::default() };
            assert_eq!(problems(&config), expected);
        };
        check(|_| (), "");
        check(
            |gateway| gateway.ip = [10, 0, 1, 1].into(),
            "network `office` (/w.toml:3): the gateway 10.0.1.1 is no host address of 10.0.0.0/24",
        );
        check(
            |gateway| gateway.dhcp.as_mut().unwrap().last = [10, 0, 0, 255].into(),
            "network `office` (/w.toml:3): the DHCP pool's last address 10.0.0.255 is no host address of 10.0.0.0/24",
        );
        check(
            |gateway| {
                let dhcp = gateway.dhcp.as_mut().unwrap();
                (dhcp.first, dhcp.last) = (dhcp.last, dhcp.first);
                let (mac, vm) = (mac(9), "web".parse().unwrap());
                dhcp.reservations.push(Reservation { mac, vm, ip: Some([9, 9, 9, 9].into()) });
            },
            "network `office` (/w.toml:3): the address of VM `web`, 9.9.9.9 is no host address of 10.0.0.0/24\n\
             network `office` (/w.toml:3): the DHCP pool ends before it begins",
        );
    }

    #[test]
    fn each_port_has_its_own_place() {
        let port = |name: &str, kind: PortKind| PortConfig {
            name: name.parse().unwrap(),
            network: "office".parse().unwrap(),
            kind,
            macs: vec![],
            mac_ranges: vec![],
            vm: None,
            uplink: false,
            vlans: PortVlans::Untagged,
            learn: 0,
            addresses: AddressConfig::Any,
            access: AccessConfig::default(),
            rates: PortRates::default(),
            provenance: Provenance::command("weft port add"),
        };
        let config = DataplaneConfig {
            ports: vec![
                port("a", PortKind::VhostUser { socket: "/run/x".into(), connect: false }),
                port("b", PortKind::UnixStream { socket: "/run/x".into(), connect: true }),
                port("c", PortKind::Tap { name: "tap0".into(), host: None }),
                port("d", PortKind::Tap { name: "tap0".into(), host: None }),
            ],
            ..DataplaneConfig::default()
        };
        assert_eq!(
            problems(&config),
            "ports `a` and `b` (`weft port add`) have the same socket `/run/x`\n\
             ports `c` and `d` (`weft port add`) have the same TAP device `tap0`"
        );
    }
}
