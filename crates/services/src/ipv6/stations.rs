//! Who has which IPv6 address.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use weft_types::{Ipv6Net, MacAddr, VmName};
use weft_wire::ndp;

/// A station whose IPv6 address is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// The address.
    pub ip: Ipv6Addr,
    /// Whether it was configured; otherwise it was seen to be taken, maybe for a while.
    pub is_fixed: bool,
    /// The adapter that has it.
    pub mac: MacAddr,
    /// The machine that the adapter belongs to, under whose name it is found in DNS.
    pub vm: Option<VmName>,
}

/// The stations of a network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stations {
    by_ip: BTreeMap<Ipv6Addr, Option<VmName>>,
    by_mac: BTreeMap<MacAddr, VmName>,
    by_vm: BTreeMap<Box<str>, Vec<Station>>,
}

impl Stations {
    pub(crate) fn new(stations: Vec<Station>) -> Self {
        let mut all = Self::default();
        for station in stations {
            all.by_ip.insert(station.ip, station.vm.clone());
            if let Some(vm) = &station.vm {
                all.by_mac.insert(station.mac, vm.clone());
                all.by_vm.entry(vm.as_str().into()).or_default().push(station);
            }
        }
        all
    }

    /// The machine that the adapter `mac` belongs to.
    pub(crate) fn machine(&self, mac: MacAddr) -> Option<&VmName> {
        self.by_mac.get(&mac)
    }

    /// Whether a machine of this name is there.
    pub(crate) fn has(&self, vm: &VmName) -> bool {
        self.by_vm.contains_key(vm.as_str())
    }

    /// The addresses of a machine in a prefix by which others should look for it. Of an adapter those that stay: the
    /// configured ones, and the one that is made of its hardware address. Only one that has neither is known by all that it
    /// has taken, of which some may be in use no more (RFC 8981).
    pub(crate) fn of(&self, vm: &str, net: Ipv6Net) -> impl Iterator<Item = Ipv6Addr> + '_ {
        let stations = self.by_vm.get(vm).map_or(&[][..], Vec::as_slice);
        let stays = move |it: &Station| it.is_fixed || it.ip == ndp::eui64(net, it.mac);
        let here = stations.iter().filter(move |it| net.contains(&it.ip));
        let has_better = move |it: &Station| {
            stations.iter().any(|other| other.mac == it.mac && net.contains(&other.ip) && stays(other))
        };
        here.filter(move |it| stays(it) || !has_better(it)).map(|it| it.ip)
    }

    /// An address of a machine's adapter in a prefix, one that stays if there is one.
    pub(crate) fn address_of(&self, mac: MacAddr, net: Ipv6Net) -> Option<Ipv6Addr> {
        let stations = self.by_vm.get(self.by_mac.get(&mac)?.as_str())?;
        let here = stations.iter().filter(|it| it.mac == mac && net.contains(&it.ip));
        here.min_by_key(|it| !(it.is_fixed || it.ip == ndp::eui64(net, mac))).map(|it| it.ip)
    }

    /// The machine with an address.
    pub(crate) fn name_of(&self, ip: Ipv6Addr) -> Option<&VmName> {
        self.by_ip.get(&ip)?.as_ref()
    }
}
