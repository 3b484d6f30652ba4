use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use weft_types::{
    Boot, ClientKey, Dhcp6, DnsNames, Ipv4Net, Ipv4Run, Ipv6Net, Label, MacAddr, Metadata, NetworkName, VmName,
};

use crate::nat::ForwardId;

/// A network, as the services and whoever drives them call it; chosen by the driver, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId(pub u32);

/// What stands behind one network's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkServices {
    /// How frames name the network.
    pub id: NetworkId,
    /// Its name; its DNS zone is `<name>.weft`. Leases follow the name, not the id.
    pub name: NetworkName,
    /// Whether packets for the outside go through the NAT device; otherwise nothing leaves the network.
    pub nat: bool,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// The gateway's MAC address.
    pub mac: MacAddr,
    /// The gateway's address, inside `subnet`.
    pub ip: Ipv4Addr,
    /// The network's addresses.
    pub subnet: Ipv4Net,
    /// Its IPv6 prefix, 64 bits long; `None` for a network without IPv6.
    pub subnet6: Option<Ipv6Net>,
    /// What of DHCPv6 it has (only with a prefix).
    pub dhcp6: Option<Dhcp6>,
    /// The DHCP server; `None` when the network has none of ours.
    pub dhcp: Option<DhcpServer>,
    /// Whether names are answered at the gateway's address.
    pub dns: bool,
    /// Whether the host's own services are reachable at the gateway's address (only with `nat`).
    pub host_access: bool,
    /// Names of the zone that come neither from leases nor from reservations.
    pub records: Vec<(Label, Ipv4Addr)>,
    /// What else its members can ask for.
    pub names: DnsNames,
    /// What machines are told of themselves, by their adapters.
    pub metadata: BTreeMap<MacAddr, Metadata>,
    /// Port forwards to its machines (only with `nat`).
    pub forwards: Vec<Forward>,
}

impl NetworkServices {
    /// Whether any machine is told of itself here.
    pub(crate) fn tells_machines(&self) -> bool {
        !self.metadata.is_empty()
    }

    /// Whether what the outside answered to the members of this network, it would answer to those of `other`.
    pub(crate) fn asks_as(&self, other: &Self) -> bool {
        (self.id, self.nat, &self.names.forward) == (other.id, other.nat, &other.names.forward)
    }
}

/// A port forward: what clients of the host's network reach at ports of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// How the driver of the host's sockets calls it.
    pub id: ForwardId,
    /// The adapter that it leads to; `None` for whoever has the address.
    pub mac: Option<MacAddr>,
    /// The fixed address; `None` for the one that the adapter leases.
    pub ip: Option<Ipv4Addr>,
    /// The port that stands for the first one of the host's.
    pub port: u16,
}

/// A DHCPv4 server's pool and promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpServer {
    /// First address of the pool.
    pub first: Ipv4Addr,
    /// Last address of the pool.
    pub last: Ipv4Addr,
    /// Addresses inside of the pool that nobody gets.
    pub excluded: Vec<Ipv4Run>,
    /// How long a lease lasts, in seconds.
    pub lease_s: u32,
    /// Addresses and names kept for known adapters.
    pub reservations: Vec<Reservation>,
    /// Addresses that are kept for other clients.
    pub kept: BTreeMap<ClientKey, Ipv4Addr>,
    /// What clients are told, by the number of the option, as it is sent; before what they would be told of the network.
    pub options: BTreeMap<u8, Vec<u8>>,
    /// What clients boot that ask the network for it.
    pub boot: Option<Boot>,
    /// Whether the network may have stations with addresses that nobody gave them: then an address is asked for before it
    /// is offered.
    pub probe: bool,
}

/// What is kept for one adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The adapter.
    pub mac: MacAddr,
    /// Its VM, under whose name it is found in DNS; the guest has no say in it.
    pub vm: VmName,
    /// Its fixed address; `None` for one from the pool.
    pub ip: Option<Ipv4Addr>,
}
