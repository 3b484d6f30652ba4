//! Which names there are, and who may see them.
//!
//! A machine sees the names of exactly the networks that it is attached to, whichever of their gateways it asks.
//! It is known by its MAC address, which the switch lets no other machine use. An adapter that belongs to no
//! machine of ours sees the network that it is on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_types::{DomainName, Ipv4Net, Ipv6Net, MacAddr, VmName};

use super::message::Name;
use crate::ipv6::{Stations, gateway_address};
use crate::{NetworkId, NetworkServices, dhcp::Leases};

/// The domain that holds every network's zone.
const DOMAIN: &[u8] = b"weft";
/// The name of a network's gateway. No machine's: a machine of that name is not found.
const GATEWAY: &str = "gateway";
/// Every machine itself (RFC 6761, section 6.3).
const LOCALHOST: &str = "localhost";
/// Domains without any name, wherever one asks (RFC 6761, section 6.4; RFC 7686).
const EMPTY_DOMAINS: [&[u8]; 2] = [b"invalid", b"onion"];
/// Addresses that are nobody's, wherever one asks: what RFC 6303, section 4, has a server answer itself. The private ones
/// are not among them: the host's resolvers know whose they are, or that nobody may ask further.
const NOBODYS: [Ipv4Net; 7] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(255, 255, 255, 255), 32),
];
/// How far other names lead to other names.
const MAX_ALIASES: usize = 8;

/// The names of one network.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    /// By name: one label for what stands in the zone, all of the name for what does not.
    hosts: BTreeMap<Box<str>, Host>,
    /// Other names, and what they stand for.
    aliases: BTreeMap<Box<str>, Box<str>>,
    /// The fixed addresses, and whose they are.
    fixed: BTreeMap<IpAddr, Box<str>>,
    /// The machines' adapters on this network.
    adapters: BTreeMap<MacAddr, VmName>,
    /// The machines on this network, by name.
    machines: BTreeSet<Box<str>>,
}

/// What a name stands for.
#[derive(Debug, Default)]
struct Host {
    fixed: BTreeSet<IpAddr>,
    /// Adapters whose address is the one that they lease.
    leasing: Vec<MacAddr>,
}

impl Zone {
    pub(crate) fn new(network: &NetworkServices) -> Self {
        let mut zone = Self::default();
        zone.add_fixed(GATEWAY, network.ip.into());
        network.subnet6.into_iter().for_each(|net| zone.add_fixed(GATEWAY, gateway_address(net).into()));
        for (name, ip) in network.records.iter().filter(|(name, _)| name.as_str() != GATEWAY) {
            zone.machines.insert(name.as_str().into());
            zone.add_fixed(name.as_str(), (*ip).into());
        }
        for reservation in network.dhcp.iter().flat_map(|dhcp| &dhcp.reservations) {
            let name = reservation.vm.as_str();
            zone.adapters.insert(reservation.mac, reservation.vm.clone());
            zone.machines.insert(name.into());
            match reservation.ip {
                _ if name == GATEWAY => {}
                Some(ip) => zone.add_fixed(name, ip.into()),
                None => zone.hosts.entry(name.into()).or_default().leasing.push(reservation.mac),
            }
        }
        // What a machine is called is not for others.
        for (name, addresses) in &network.names.hosts {
            if !zone.knows(name.as_str()) {
                addresses.iter().for_each(|ip| zone.add_fixed(name.as_str(), *ip));
            }
        }
        for (name, target) in &network.names.cnames {
            if !zone.knows(name.as_str()) {
                zone.aliases.insert(name.as_str().into(), target.as_str().into());
            }
        }
        zone
    }

    /// Whether the name is a machine's or the gateway's.
    fn knows(&self, name: &str) -> bool {
        name == GATEWAY || self.machines.contains(name)
    }

    fn add_fixed(&mut self, name: &str, ip: IpAddr) {
        self.hosts.entry(name.into()).or_default().fixed.insert(ip);
        self.fixed.entry(ip).or_insert_with(|| name.into());
    }

    /// The machine that the adapter `mac` belongs to.
    pub(crate) fn machine(&self, mac: MacAddr) -> Option<&VmName> {
        self.adapters.get(&mac)
    }

    /// The adapters that belong to machines.
    pub(crate) fn adapters(&self) -> impl Iterator<Item = MacAddr> + '_ {
        self.adapters.keys().copied()
    }

    fn addresses(&self, name: &str, leases: &Leases, now: u64) -> Vec<IpAddr> {
        self.hosts.get(name).map_or_else(Vec::new, |host| {
            let leased = host.leasing.iter().filter_map(|mac| leases.held_by(*mac, now));
            host.fixed.iter().copied().chain(leased.map(IpAddr::V4)).collect()
        })
    }

    fn name_of(&self, ip: IpAddr, leases: &Leases, now: u64) -> Option<&str> {
        let holder = |ip| leases.holder(ip, now).and_then(|mac| self.adapters.get(&mac)).map(VmName::as_str);
        let leased = || match ip {
            IpAddr::V4(ip) => holder(ip),
            IpAddr::V6(_) => None,
        };
        self.fixed.get(&ip).map(|name| &**name).or_else(leased).filter(|name| self.hosts.contains_key(*name))
    }
}

/// One network, as seen by whoever looks names up.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) id: NetworkId,
    pub(crate) name: &'a str,
    pub(crate) subnet: Ipv4Net,
    pub(crate) subnet6: Option<Ipv6Net>,
    pub(crate) zone: &'a Zone,
    pub(crate) leases: &'a Leases,
    pub(crate) stations: &'a Stations,
    /// Domains of which other servers than the host's know.
    pub(crate) forward: &'a BTreeMap<DomainName, Vec<SocketAddr>>,
}

impl View<'_> {
    /// The addresses of a host of the zone.
    fn addresses(&self, name: &str, now: u64) -> Vec<IpAddr> {
        let mut addresses = self.zone.addresses(name, self.leases, now);
        for net in self.subnet6.into_iter().filter(|_| name != GATEWAY) {
            for ip in self.stations.of(name, net).map(IpAddr::V6) {
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
        }
        addresses
    }

    /// The name of an address.
    fn name_of(&self, ip: IpAddr, now: u64) -> Option<&str> {
        let station = || match ip {
            IpAddr::V6(ip) => self.stations.name_of(ip).filter(|_| self.subnet6.is_some_and(|net| net.contains(&ip))),
            IpAddr::V4(_) => None,
        };
        let known = self.zone.name_of(ip, self.leases, now);
        known.or_else(|| station().map(VmName::as_str).filter(|name| *name != GATEWAY))
    }

    /// The machine that the adapter `mac` belongs to.
    fn machine(&self, mac: MacAddr) -> Option<&VmName> {
        self.zone.machine(mac).or_else(|| self.stations.machine(mac))
    }

    /// Whether a machine is on the network.
    fn has(&self, vm: &VmName) -> bool {
        self.zone.machines.contains(vm.as_str()) || self.stations.has(vm)
    }

    /// A name of its zone as everybody can ask for it.
    fn full_name(&self, name: &str) -> String {
        if name.contains('.') { name.to_owned() } else { format!("{name}.{}.weft", self.name) }
    }

    /// What a name of its zone is; `None` when there is none.
    fn find(&self, name: &str, now: u64) -> Option<(Found, Vec<String>)> {
        let mut aliases = Vec::new();
        let mut name = name;
        while let Some(target) = self.zone.aliases.get(name).filter(|_| aliases.len() < MAX_ALIASES) {
            aliases.push(self.full_name(target));
            name = target;
        }
        match self.addresses(name, now) {
            none if none.is_empty() => (!aliases.is_empty()).then_some((Found::Missing, aliases)),
            addresses => Some((Found::Host(addresses), aliases)),
        }
    }
}

/// What a name turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A host with these addresses, never none.
    Host(Vec<IpAddr>),
    /// An address that has this name.
    Address(String),
    /// A name with nothing of its own, like a network's zone.
    Empty,
    /// No name that the client may know of.
    Missing,
    /// Not ours to say.
    Outside,
}

/// An answer to the question for a name, and the zone that it comes from: the last `zone_labels` labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) found: Found,
    pub(crate) zone_labels: usize,
    /// The other names that the name leads to, in that order; what was found is the last one's.
    pub(crate) aliases: Vec<String>,
}

impl Lookup {
    fn new(found: Found, zone_labels: usize) -> Self {
        Self { found, zone_labels, aliases: Vec::new() }
    }
}

/// Everything needed to look names up for one client.
pub(crate) struct Lookups<'a> {
    /// Every network.
    all: Vec<View<'a>>,
    /// Those whose names the client sees; the one that it asks on first.
    visible: Vec<View<'a>>,
    /// Unix time, in seconds.
    now: u64,
}

/// Whether what was found is in our own domain, or an address of a name that is.
pub(crate) fn is_of_ours(name: &Name, lookup: &Lookup) -> bool {
    let is_domain_of = |name: &str| name.rsplit('.').next().is_some_and(|label| label.as_bytes() == DOMAIN);
    match &lookup.found {
        Found::Address(found) => is_domain_of(found),
        _ => name.below(&[DOMAIN]).is_some(),
    }
}

impl<'a> Lookups<'a> {
    /// For the adapter `mac`, which asks on the network `own`.
    pub(crate) fn new(all: Vec<View<'a>>, own: NetworkId, mac: MacAddr, now: u64) -> Self {
        let machine = all.iter().find(|view| view.id == own).and_then(|view| view.machine(mac));
        let attached = |view: &&View<'_>| machine.is_some_and(|vm| view.has(vm));
        let (first, others): (Vec<_>, Vec<_>) = all.iter().copied().partition(|view| view.id == own);
        let visible = first.into_iter().chain(others.iter().filter(attached).copied()).collect();
        Self { all, visible, now }
    }

    /// For the host, which sees every network.
    pub(crate) fn of_host(all: Vec<View<'a>>, now: u64) -> Self {
        Self { visible: all.clone(), all, now }
    }

    /// Whom to ask for `name`, if not the host's resolvers: those of the longest domain that it is in.
    pub(crate) fn servers(&self, name: &Name) -> &'a [SocketAddr] {
        let own = self.visible.first().into_iter().flat_map(|view| view.forward);
        let domains = own.filter(|(domain, _)| name.is_in(domain));
        domains.max_by_key(|(domain, _)| domain.labels().count()).map_or(&[], |(_, servers)| servers)
    }

    pub(crate) fn look_up(&self, name: &Name) -> Lookup {
        if let Some(head) = name.below(&[DOMAIN]) {
            return self.in_domain(head);
        }
        if let Some(head) = name.below(&[b"in-addr", b"arpa"])
            && let Some(lookup) = self.reverse(head)
        {
            return lookup;
        }
        if let Some(head) = name.below(&[b"ip6", b"arpa"])
            && let Some(lookup) = self.reverse_ipv6(head)
        {
            return lookup;
        }
        if name.below(&[LOCALHOST.as_bytes()]).is_some() {
            return Lookup::new(Found::Host(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]), 1);
        }
        if EMPTY_DOMAINS.iter().any(|domain| name.below(&[domain]).is_some()) {
            return Lookup::new(Found::Missing, 1);
        }
        let labels = name.labels().len();
        let found = name.text().and_then(|text| self.nearest(&text));
        match (labels, found) {
            // A name without a dot is asked of nobody outside, but for a domain with servers of its own.
            (1, None) if self.servers(name).is_empty() => Lookup::new(Found::Missing, 0),
            (_, None) => Lookup::new(Found::Outside, 0),
            (1, Some((found, aliases))) => Lookup { found, zone_labels: 0, aliases },
            (_, Some((found, aliases))) => Lookup { found, zone_labels: labels, aliases },
        }
    }

    /// A name under `weft`, which is not in `head`.
    fn in_domain(&self, head: &[Box<[u8]>]) -> Lookup {
        let network = |label: &[u8]| self.visible.iter().find(|view| view.name.as_bytes() == label);
        let (found, aliases) = match head {
            [] => (Found::Empty, Vec::new()),
            [zone] if network(zone).is_some() => (Found::Empty, Vec::new()),
            [host, zone] => {
                let host = std::str::from_utf8(host).ok().filter(|host| !host.contains('.'));
                let found = host.zip(network(zone)).and_then(|(host, view)| view.find(host, self.now));
                found.unwrap_or((Found::Missing, Vec::new()))
            }
            _ => (Found::Missing, Vec::new()),
        };
        Lookup { found, zone_labels: 1, aliases }
    }

    /// The nearest host of this name, which is one label, or all of the name of a host in no zone of ours.
    fn nearest(&self, name: &str) -> Option<(Found, Vec<String>)> {
        self.visible.iter().find_map(|view| view.find(name, self.now))
    }

    /// A name under `in-addr.arpa`, `head` being what stands before; `None` when it is not ours to say.
    fn reverse(&self, head: &[Box<[u8]>]) -> Option<Lookup> {
        let octets: Vec<u8> = head.iter().rev().map_while(|label| octet(label)).take(4).collect();
        let mut address = [0; 4];
        address[..octets.len()].copy_from_slice(&octets);
        let address = Ipv4Addr::from(address);
        let asked = Ipv4Net::new(address, 8 * u8::try_from(octets.len()).ok()?).ok()?;
        let is_whole = (octets.len(), head.len()) == (4, 4);
        let name = is_whole.then(|| self.name_of(address.into())).flatten();
        let subnets = self.all.iter().map(|view| &view.subnet);
        let zone = subnets.chain(&NOBODYS).find(|zone| zone.contains(&asked));
        let zone_labels = match (zone, &name) {
            (Some(zone), _) => 2 + usize::from(zone.prefix_len() / 8),
            (None, Some(_)) => 6, // a zone of its own
            (None, None) => return None,
        };
        let found = match name {
            Some(name) => Found::Address(name),
            None if is_whole && address == Ipv4Addr::LOCALHOST => Found::Address(LOCALHOST.to_owned()),
            None if octets.len() == head.len() && !is_whole => Found::Empty,
            None => Found::Missing,
        };
        Some(Lookup::new(found, zone_labels))
    }

    /// The same under `ip6.arpa`.
    fn reverse_ipv6(&self, head: &[Box<[u8]>]) -> Option<Lookup> {
        const NIBBLES: usize = 32;
        let nibbles: Vec<u8> = head.iter().rev().map_while(|label| nibble(label)).take(NIBBLES).collect();
        let bits = nibbles.iter().zip(0..).fold(0, |bits, (nibble, at)| bits | u128::from(*nibble) << (124 - 4 * at));
        let address = Ipv6Addr::from_bits(bits);
        let asked = Ipv6Net::new(address, 4 * u8::try_from(nibbles.len()).ok()?).ok()?;
        let is_whole = (nibbles.len(), head.len()) == (NIBBLES, NIBBLES);
        let name = is_whole.then(|| self.name_of(address.into())).flatten();
        let zone = self.all.iter().filter_map(|view| view.subnet6).find(|zone| zone.contains(&asked));
        let is_nobodys = is_whole && (address.is_unspecified() || address.is_unicast_link_local());
        let zone_labels = 2 + zone.map_or(NIBBLES, |zone| usize::from(zone.prefix_len() / 4));
        let found = match name {
            Some(name) => Found::Address(name),
            None if is_whole && address.is_loopback() => Found::Address(LOCALHOST.to_owned()),
            None if is_nobodys => Found::Missing,
            None => match zone? {
                _ if nibbles.len() == head.len() && !is_whole => Found::Empty,
                _ => Found::Missing,
            },
        };
        Some(Lookup::new(found, zone_labels))
    }

    fn name_of(&self, ip: IpAddr) -> Option<String> {
        let name = |view: &View<'_>| Some(view.full_name(view.name_of(ip, self.now)?));
        self.visible.iter().find_map(name)
    }
}

/// A label of an IPv6 address' reverse name: one hexadecimal digit.
fn nibble(label: &[u8]) -> Option<u8> {
    match label {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        [digit @ b'a'..=b'f'] => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A label of a reverse name: a number below 256 without leading zeros.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let value: u8 = text.parse().ok()?;
    (text == value.to_string()).then_some(value)
}
