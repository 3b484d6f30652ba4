//! Which names there are, and who may see them.
//!
//! A machine sees the names of exactly the networks that it is attached to, whichever of their gateways it asks.
//! It is known by its MAC address, which the switch lets no other machine use. An adapter that belongs to no
//! machine of ours sees the network that it is on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use weft_types::{Ipv4Net, MacAddr, VmName};

use super::message::Name;
use crate::{NetworkId, NetworkServices, dhcp::Leases};

/// The domain that holds every network's zone.
const DOMAIN: &[u8] = b"weft";
/// The name of a network's gateway. No machine's: a machine of that name is not found.
const GATEWAY: &str = "gateway";

/// The names of one network.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    hosts: BTreeMap<Box<str>, Host>,
    /// The fixed addresses, and whose they are.
    fixed: BTreeMap<Ipv4Addr, Box<str>>,
    /// The machines' adapters on this network.
    adapters: BTreeMap<MacAddr, VmName>,
    /// The machines on this network, by name.
    machines: BTreeSet<Box<str>>,
}

/// What a name stands for.
#[derive(Debug, Default)]
struct Host {
    fixed: BTreeSet<Ipv4Addr>,
    /// Adapters whose address is the one that they lease.
    leasing: Vec<MacAddr>,
}

impl Zone {
    pub(crate) fn new(network: &NetworkServices) -> Self {
        let mut zone = Self::default();
        zone.add_fixed(GATEWAY, network.ip);
        for (name, ip) in network.records.iter().filter(|(name, _)| name.as_str() != GATEWAY) {
            zone.machines.insert(name.as_str().into());
            zone.add_fixed(name.as_str(), *ip);
        }
        for reservation in network.dhcp.iter().flat_map(|dhcp| &dhcp.reservations) {
            let name = reservation.vm.as_str();
            zone.adapters.insert(reservation.mac, reservation.vm.clone());
            zone.machines.insert(name.into());
            match reservation.ip {
                _ if name == GATEWAY => {}
                Some(ip) => zone.add_fixed(name, ip),
                None => zone.hosts.entry(name.into()).or_default().leasing.push(reservation.mac),
            }
        }
        zone
    }

    fn add_fixed(&mut self, name: &str, ip: Ipv4Addr) {
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

    fn addresses(&self, label: &[u8], leases: &Leases, now: u64) -> Vec<Ipv4Addr> {
        let host = std::str::from_utf8(label).ok().and_then(|name| self.hosts.get(name));
        host.map_or_else(Vec::new, |host| {
            let leased = host.leasing.iter().filter_map(|mac| leases.held_by(*mac, now));
            host.fixed.iter().copied().chain(leased).collect()
        })
    }

    fn name_of(&self, ip: Ipv4Addr, leases: &Leases, now: u64) -> Option<&str> {
        let leased = || leases.holder(ip, now).and_then(|mac| self.adapters.get(&mac)).map(VmName::as_str);
        self.fixed.get(&ip).map(|name| &**name).or_else(leased).filter(|name| self.hosts.contains_key(*name))
    }
}

/// One network, as seen by whoever looks names up.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) id: NetworkId,
    pub(crate) name: &'a str,
    pub(crate) subnet: Ipv4Net,
    pub(crate) zone: &'a Zone,
    pub(crate) leases: &'a Leases,
}

/// What a name turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A host with these addresses, never none.
    Host(Vec<Ipv4Addr>),
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

impl<'a> Lookups<'a> {
    /// For the adapter `mac`, which asks on the network `own`.
    pub(crate) fn new(all: Vec<View<'a>>, own: NetworkId, mac: MacAddr, now: u64) -> Self {
        let machine = all.iter().find(|view| view.id == own).and_then(|view| view.zone.machine(mac));
        let attached = |view: &&View<'_>| machine.is_some_and(|vm| view.zone.machines.contains(vm.as_str()));
        let (first, others): (Vec<_>, Vec<_>) = all.iter().copied().partition(|view| view.id == own);
        let visible = first.into_iter().chain(others.iter().filter(attached).copied()).collect();
        Self { all, visible, now }
    }

    pub(crate) fn look_up(&self, name: &Name) -> Lookup {
        if let Some(head) = name.below(&[DOMAIN]) {
            return Lookup { found: self.in_domain(head), zone_labels: 1 };
        }
        if let Some(head) = name.below(&[b"in-addr", b"arpa"])
            && let Some(lookup) = self.reverse(head)
        {
            return lookup;
        }
        let mut labels = name.labels();
        match (labels.next(), labels.next()) {
            (Some(bare), None) => Lookup { found: self.bare(bare), zone_labels: 0 },
            _ => Lookup { found: Found::Outside, zone_labels: 0 },
        }
    }

    /// A name under `weft`, which is not in `head`.
    fn in_domain(&self, head: &[Box<[u8]>]) -> Found {
        let network = |label: &[u8]| self.visible.iter().find(|view| view.name.as_bytes() == label);
        match head {
            [] => Found::Empty,
            [zone] if network(zone).is_some() => Found::Empty,
            [host, zone] => network(zone).map_or(Found::Missing, |view| self.host(view, host)),
            _ => Found::Missing,
        }
    }

    /// A name without a dot: the nearest host that has it.
    fn bare(&self, label: &[u8]) -> Found {
        let mut hosts = self.visible.iter().map(|view| self.host(view, label));
        hosts.find(|found| *found != Found::Missing).unwrap_or(Found::Missing)
    }

    fn host(&self, view: &View<'_>, label: &[u8]) -> Found {
        match view.zone.addresses(label, view.leases, self.now) {
            none if none.is_empty() => Found::Missing,
            addresses => Found::Host(addresses),
        }
    }

    /// A name under `in-addr.arpa`, `head` being what stands before; `None` when it is not about our subnets.
    fn reverse(&self, head: &[Box<[u8]>]) -> Option<Lookup> {
        let octets: Vec<u8> = head.iter().rev().map_while(|label| octet(label)).take(4).collect();
        let mut address = [0; 4];
        address[..octets.len()].copy_from_slice(&octets);
        let address = Ipv4Addr::from(address);
        let asked = Ipv4Net::new(address, 8 * u8::try_from(octets.len()).ok()?).ok()?;
        let zone_labels =
            2 + usize::from(self.all.iter().find(|view| view.subnet.contains(&asked))?.subnet.prefix_len() / 8);
        let found = match (octets.len(), head.len()) {
            (4, 4) => self.name_of(address),
            (parsed, all) if parsed == all => Found::Empty,
            _ => Found::Missing,
        };
        Some(Lookup { found, zone_labels })
    }

    fn name_of(&self, ip: Ipv4Addr) -> Found {
        let name =
            |view: &View<'_>| Some(format!("{}.{}.weft", view.zone.name_of(ip, view.leases, self.now)?, view.name));
        self.visible.iter().find_map(name).map_or(Found::Missing, Found::Address)
    }
}

/// A label of a reverse name: a number below 256 without leading zeros.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let value: u8 = text.parse().ok()?;
    (text == value.to_string()).then_some(value)
}
