use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_types::{
    Attach, Boot, ClientKey, Dhcp6, DnsNames, ForwardTarget, Ipv4Net, Ipv4Run, Ipv6Net, Label, Listen, MacAddr,
    MacRange, Metadata, NetworkName, NicDriver, PortName, PortRates, PortVlans, Provenance, VmName,
};

use crate::{AccessConfig, AclConfig, AddressConfig, MirrorConfig, RouterConfig};

/// Everything one data plane should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataplaneConfig {
    /// The store's revision that this was computed from; an older one than the current is refused.
    pub revision: u64,
    /// The networks, in name order.
    pub networks: Vec<NetworkConfig>,
    /// The ports, in name order.
    pub ports: Vec<PortConfig>,
    /// What joins networks, in name order.
    #[serde(default)]
    pub routers: Vec<RouterConfig>,
    /// The address of the host's loopback at which its programs are answered that ask for names.
    #[serde(default)]
    pub host_names: Option<Ipv4Addr>,
}

/// How a network reaches what lies outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// Through the NAT device, on the host's sockets.
    Nat,
    /// Not at all, but the host stands on it by an adapter of its own.
    HostOnly,
    /// Not at all.
    Internal,
    /// By an uplink, and as part of the LAN behind it.
    Bridged,
}

/// A network: one vSwitch and what stands behind its gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The network's name; its DNS zone is `<name>.weft`.
    pub name: NetworkName,
    /// How it reaches the outside.
    pub mode: NetworkMode,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// The services; `None` for a bare wire.
    pub gateway: Option<GatewayConfig>,
    /// Where frames between its own ports are switched.
    #[serde(default)]
    pub switching: Switching,
    /// How it uses its uplinks, if it has several.
    #[serde(default)]
    pub team: Option<TeamConfig>,
    /// Who may begin what with whom; without one, everybody everything.
    #[serde(default)]
    pub acl: Option<AclConfig>,
    /// Who gets copies of which frames.
    #[serde(default)]
    pub mirrors: Vec<MirrorConfig>,
    /// What of the host's ports leads to its machines (mode `nat` only).
    #[serde(default)]
    pub forwards: Vec<ForwardConfig>,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// Where frames between the ports of a network are switched (IEEE 802.1Qbg).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switching {
    /// Here: a virtual Ethernet bridge.
    #[default]
    Veb,
    /// By the switch at the other end of the uplink, which sends them back.
    Vepa,
}

/// The uplinks of a network that has several: they are one way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeamConfig {
    /// Who of them takes a frame.
    pub mode: TeamMode,
    /// All of them, the preferred one first.
    pub members: Vec<PortName>,
}

/// Who of a team takes a frame, of those whose link is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TeamMode {
    /// The preferred one; the others wait.
    ActiveStandby,
    /// One for each flow.
    Hash,
}

/// The services of a network, which answer at one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// The gateway's MAC address.
    pub mac: MacAddr,
    /// The gateway's address, inside `subnet`.
    pub ip: Ipv4Addr,
    /// The network's addresses.
    pub subnet: Ipv4Net,
    /// Its IPv6 prefix, 64 bits long, of which the gateway has the first address; `None` for no IPv6.
    #[serde(default)]
    pub subnet6: Option<Ipv6Net>,
    /// What of DHCPv6 it has; only with a prefix.
    #[serde(default)]
    pub dhcp6: Option<Dhcp6>,
    /// The DHCP server; `None` when the network brings its own.
    pub dhcp: Option<DhcpConfig>,
    /// Whether names are answered at the gateway's address.
    pub dns: bool,
    /// Whether the host's own loopback services are reachable at the gateway's address (mode `nat` only).
    pub host_access: bool,
    /// Names that do not come from leases: VMs with a fixed address, and the gateway itself.
    pub records: Vec<HostRecord>,
    /// What else its members can ask for.
    #[serde(default)]
    pub names: DnsNames,
    /// What machines are told of themselves at 169.254.169.254, by their adapters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<MacAddr, Metadata>,
}

/// A port forward: what clients of the host's network reach at an address of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardConfig {
    /// Where on the host.
    pub listen: Listen,
    /// To whom it leads, in the user's words, and to which port.
    pub to: ForwardTarget,
    /// The machine's adapter on this network; `None` for whoever has the address.
    pub mac: Option<MacAddr>,
    /// The fixed address; `None` for the one that the adapter leases.
    pub ip: Option<Ipv4Addr>,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// A DHCPv4 server's pool and promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpConfig {
    /// First address of the pool.
    pub first: Ipv4Addr,
    /// Last address of the pool.
    pub last: Ipv4Addr,
    /// Addresses inside of the pool that nobody gets.
    #[serde(default)]
    pub excluded: Vec<Ipv4Run>,
    /// How long a lease lasts, in seconds.
    pub lease_s: u32,
    /// Addresses and names kept for known adapters.
    pub reservations: Vec<Reservation>,
    /// Addresses that are kept for other clients.
    #[serde(default)]
    pub kept: BTreeMap<ClientKey, Ipv4Addr>,
    /// What clients are told besides what follows from the network, by the number of the option, as it is sent.
    #[serde(default)]
    pub options: BTreeMap<u8, Vec<u8>>,
    /// What clients boot that ask the network for it.
    #[serde(default)]
    pub boot: Option<Boot>,
}

/// What is kept for one adapter. The name comes from the file, never from the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// The adapter.
    pub mac: MacAddr,
    /// Its VM, under whose name it is found in DNS.
    pub vm: VmName,
    /// Its fixed address; `None` for one from the pool.
    pub ip: Option<Ipv4Addr>,
}

/// A fixed name of a network's zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRecord {
    /// The name inside the zone.
    pub name: Label,
    /// Its address.
    pub ip: Ipv4Addr,
}

/// A port of a network's vSwitch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// The port's name, unique in the data plane.
    pub name: PortName,
    /// The network whose vSwitch it belongs to.
    pub network: NetworkName,
    /// What plugs into it.
    pub kind: PortKind,
    /// The MAC addresses registered for it, the first being the adapter's own.
    pub macs: Vec<MacAddr>,
    /// Runs of MAC addresses registered for it, for a nested hypervisor.
    #[serde(default)]
    pub mac_ranges: Vec<MacRange>,
    /// The VM whose vNIC it is, if it is one.
    pub vm: Option<VmName>,
    /// Whether it leads out of the switch, to stations that nobody registered.
    #[serde(default)]
    pub uplink: bool,
    /// The VLANs of its frames.
    #[serde(default)]
    pub vlans: PortVlans,
    /// How many stations behind it may be learned from the frames that they send; 0: none are.
    #[serde(default)]
    pub learn: u32,
    /// The IP addresses that are its own.
    #[serde(default)]
    pub addresses: AddressConfig,
    /// What the port may do.
    pub access: AccessConfig,
    /// How fast it may be.
    #[serde(default)]
    pub rates: PortRates,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// The drivers that a port can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "driver", deny_unknown_fields)]
pub enum PortKind {
    /// A vhost-user back end at `socket`; either side may go away and come back.
    VhostUser {
        /// The socket's path.
        socket: PathBuf,
        /// Whether the VMM listens there, rather than the switch.
        #[serde(default)]
        connect: bool,
    },
    /// A TAP device of this name in the switch's network namespace; made, with the network's MTU, if it does not
    /// exist.
    Tap {
        /// The interface's name.
        name: String,
        /// The host's address there, and the network's prefix: the device is an adapter of the host, with the port's first
        /// MAC address, and is made for it.
        #[serde(default)]
        host: Option<Ipv4Net>,
    },
    /// A pNIC (or a bridge) of this name in the switch's network namespace, which exists: the vSwitch's uplink.
    Packet {
        /// The interface's name.
        name: String,
        /// How it is used.
        #[serde(default)]
        attach: Attach,
        /// How frames get to and from one that is used apart.
        #[serde(default)]
        nic_driver: NicDriver,
    },
    /// One peer that sends frames behind a 32-bit big-endian length (what QEMU's `-netdev stream` speaks).
    UnixStream {
        /// The socket's path.
        socket: PathBuf,
        /// Whether the peer listens there, rather than the switch.
        #[serde(default)]
        connect: bool,
    },
    /// One frame a datagram: bound at `socket`, talks to `peer` (what QEMU's `-netdev dgram` speaks).
    UnixDatagram {
        /// Our own path.
        socket: PathBuf,
        /// The peer's path; `None` for whoever sent last.
        #[serde(default)]
        peer: Option<PathBuf>,
    },
    /// One frame a datagram of UDP, to and from one peer only (what QEMU's `-netdev dgram` speaks, too).
    Udp {
        /// Our own address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_of_an_earlier_version_restricts_nothing_new() {
        let old = r#"{"revision":7,
            "networks":[{"name":"lab","mode":"internal","mtu":1500,"gateway":null,"provenance":{"source":"/w.toml","line":1}}],
            "ports":[{"name":"web-0","network":"lab","kind":{"driver":"vhost-user","socket":"/run/x"},
                "macs":["02:00:00:00:00:01"],"vm":"web","access":{"forged_macs":false,"promiscuous":false},
                "provenance":{"source":"/w.toml","line":3}}]}"#;
        let config: DataplaneConfig = serde_json::from_str(old).unwrap();
        let (network, port) = (&config.networks[0], &config.ports[0]);
        assert_eq!((network.switching, &network.acl), (Switching::Veb, &None));
        assert_eq!((&port.vlans, &port.addresses, port.learn), (&PortVlans::Untagged, &AddressConfig::Any, 0));
        assert_eq!(port.rates, PortRates::default());
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DataplaneConfig>(&text).unwrap(), config);
        let later = old.replace("\"mtu\"", "\"quantum\":true,\"mtu\"");
        assert!(serde_json::from_str::<DataplaneConfig>(&later).is_err(), "what is not understood is not followed");
    }
}
