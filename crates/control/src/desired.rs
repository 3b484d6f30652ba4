//! What should be: the store's content as one value, and what follows from it purely.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use weft_dataplane_protocol::{
    AccessConfig, AddressConfig, DataplaneConfig, DhcpConfig, ForwardConfig, GatewayConfig, HostRecord, NetworkConfig,
    NetworkMode, PortConfig, PortKind, Reservation, Switching,
};
use weft_machine::{NicSetup, Process};
use weft_model::{Forward, Image, ImageSource, Mode, Network, Nic, Problem, Router, Vm, World};
use weft_store::{Entry, Snapshot};
use weft_types::{
    ByteSize, ForwardHost, Ipv4Net, Label, Listen, MacAddr, Native, NetworkName, NicDriver, PortName, PortRates,
    PortVlans, VlanSet, VmName,
};

use crate::access::{acl_config, known_addresses, mirror_configs};
use crate::launch::{Launch, NicLaunch};
use crate::objects::{self, AddedForward, Fate, Object, OperationRecord, Override, Wish};
use crate::router::router_configs;
use crate::shells::Shell;
use crate::{ControlError, Paths};

/// The name under which a network's gateway is found in DNS.
const GATEWAY: &str = "gateway";
/// The name under which the host is found there, where it has an adapter.
pub(crate) const HOST: &str = "host";

/// Everything that the store holds, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The store's revision.
    pub revision: u64,
    /// What should be.
    pub desired: Desired,
    /// The owners, and the revision at which each has changed last.
    pub owners: BTreeMap<String, u64>,
    /// The configuration that the switch has acknowledged last.
    pub applied: Option<DataplaneConfig>,
    /// Which start of the host the daemon has seen last.
    pub boot: Option<String>,
    /// The operations that are remembered, by number.
    pub operations: BTreeMap<u64, OperationRecord>,
}

/// What should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The revision at which desired state has changed last.
    pub generation: u64,
    /// The networks.
    pub networks: BTreeMap<NetworkName, Object<Network>>,
    /// The images that files describe.
    pub images: BTreeMap<Label, Object<Image>>,
    /// The machines.
    pub vms: BTreeMap<VmName, DesiredVm>,
    /// The owners whose machines come back when the host does.
    pub enabled: BTreeSet<String>,
    /// What joins networks.
    pub routers: BTreeMap<Label, Object<Router>>,
    /// The port forwards that commands have added; those of files are their networks'.
    pub forwards: BTreeMap<Listen, Object<AddedForward>>,
    /// The shells that stand on networks.
    pub shells: BTreeMap<VmName, Shell>,
}

/// A machine, and what commands and accidents have to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredVm {
    /// Who declared it.
    pub owner: String,
    /// What was declared.
    pub spec: Vm,
    /// The command that contradicts the declaration.
    pub override_: Option<Override>,
    /// What became of it.
    pub fate: Option<Fate>,
    /// How often a command has asked for a restart.
    pub restarts: u64,
    /// When the declaration was written last.
    pub mod_revision: u64,
}

impl Records {
    /// Reads them from everything below `/weft/`.
    ///
    /// # Errors
    /// When a record is not understood.
    pub fn read(snapshot: &Snapshot) -> Result<Self, ControlError> {
        let mut records = Self { revision: snapshot.revision, ..Self::default() };
        let mut overrides = BTreeMap::new();
        let mut restarts = BTreeMap::new();
        let mut fates = BTreeMap::new();
        for entry in &snapshot.entries {
            let key = entry.key.as_str();
            if key == objects::GENERATION {
                records.desired.generation = entry.mod_revision;
            } else if key == objects::APPLIED {
                records.applied = Some(objects::get(entry)?);
            } else if key == objects::BOOT {
                records.boot = Some(objects::get(entry)?);
            } else if let Some(owner) = key.strip_prefix(objects::ENABLED) {
                records.desired.enabled.insert(owner.to_owned());
            } else if let Some(owner) = key.strip_prefix(objects::OWNERS) {
                records.owners.insert(owner.to_owned(), entry.mod_revision);
            } else if let Some(name) = name_below(key, objects::NETWORKS) {
                records.desired.networks.insert(name, objects::get(entry)?);
            } else if let Some(name) = name_below(key, objects::ROUTERS) {
                records.desired.routers.insert(name, objects::get(entry)?);
            } else if let Some(listen) = name_below(key, objects::FORWARDS) {
                records.desired.forwards.insert(listen, objects::get(entry)?);
            } else if let Some(name) = name_below(key, objects::SHELLS) {
                records.desired.shells.insert(name, objects::get(entry)?);
            } else if let Some(name) = name_below(key, objects::IMAGES) {
                records.desired.images.insert(name, objects::get(entry)?);
            } else if let Some(name) = name_below::<VmName>(key, objects::VMS) {
                records.desired.vms.insert(name, DesiredVm::read(entry)?);
            } else if let Some(name) = name_below::<VmName>(key, objects::OVERRIDES) {
                overrides.insert(name, objects::get(entry)?);
            } else if let Some(name) = name_below::<VmName>(key, objects::RESTARTS) {
                restarts.insert(name, objects::get(entry)?);
            } else if let Some(name) = name_below::<VmName>(key, objects::FATES) {
                fates.insert(name, objects::get(entry)?);
            } else if key.starts_with(objects::OPERATIONS) {
                let operation: OperationRecord = objects::get(entry)?;
                records.operations.insert(operation.id, operation);
            }
        }
        for (name, vm) in &mut records.desired.vms {
            vm.override_ = overrides.remove(name);
            vm.restarts = restarts.remove(name).unwrap_or(0);
            vm.fate = fates.remove(name);
        }
        Ok(records)
    }
}

/// The name that follows `prefix` in `key`.
fn name_below<T: std::str::FromStr>(key: &str, prefix: &str) -> Option<T> {
    key.strip_prefix(prefix)?.parse().ok()
}

impl DesiredVm {
    /// A machine as its owner wants it: nothing contradicts.
    pub fn declared(owner: &str, spec: Vm) -> Self {
        Self { owner: owner.to_owned(), spec, override_: None, fate: None, restarts: 0, mod_revision: 0 }
    }

    fn read(entry: &Entry) -> Result<Self, ControlError> {
        let object: Object<Vm> = objects::get(entry)?;
        Ok(Self { mod_revision: entry.mod_revision, ..Self::declared(&object.owner, object.spec) })
    }

    /// Whether a command has removed it.
    pub fn removed(&self) -> bool {
        matches!(self.override_, Some(Override { wish: Wish::Removed, .. }))
    }

    /// Whether it was stopped because the host went down.
    pub fn halted(&self) -> bool {
        matches!(self.override_, Some(Override { wish: Wish::Halted, .. }))
    }

    /// Whether a command has stopped it without asking its guest.
    pub fn stopped_by_force(&self) -> bool {
        matches!(self.override_, Some(Override { wish: Wish::Stopped { force: true }, .. }))
    }

    /// Whether its process should be there. A machine that has died is not started again by itself.
    pub fn should_run(&self) -> bool {
        self.override_.is_none() && self.fate.as_ref().is_none_or(|fate| fate.reason().is_none())
    }

    /// Whether this very process was ready once.
    pub fn was_ready(&self, process: Process) -> bool {
        self.fate == Some(Fate::Ready { process })
    }

    /// What commands and accidents have made of it against its declaration, in words.
    pub fn drift(&self) -> Option<String> {
        match (&self.override_, &self.fate) {
            (Some(Override { wish: Wish::Stopped { .. }, by }), _) => Some(format!("stopped by {by}")),
            (Some(Override { wish: Wish::Halted, .. }), _) => Some("stopped when the host went down".to_owned()),
            (Some(Override { wish: Wish::Removed, by }), _) => Some(format!("removed by {by}")),
            (None, fate) => fate.as_ref()?.reason().map(str::to_owned),
        }
    }
}

impl Desired {
    /// Whether nobody wants anything.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.images.is_empty() && self.vms.is_empty()
    }

    /// Whether a switch is needed.
    pub fn needs_switch(&self) -> bool {
        !self.networks.is_empty()
    }

    /// The same, with `owner`'s objects replaced by `world`, and what commands and accidents did to them forgotten.
    pub fn with_world(&self, owner: &str, world: &World) -> Self {
        let mut next = self.clone();
        objects::replace(&mut next.networks, owner, &world.networks);
        objects::replace(&mut next.images, owner, &world.images);
        objects::replace(&mut next.routers, owner, &world.routers);
        next.vms.retain(|_, vm| vm.owner != owner);
        let own = |name: &VmName| self.vms.get(name).filter(|vm| vm.owner == owner);
        next.vms.extend(world.vms.iter().map(|(name, spec)| {
            let mut vm = DesiredVm::declared(owner, spec.clone());
            if let Some(old) = own(name) {
                vm.restarts = old.restarts;
                vm.mod_revision = old.mod_revision;
                vm.fate = old.fate.clone().filter(|fate| fate.reason().is_none());
            }
            (name.clone(), vm)
        }));
        next.drop_dangling_forwards();
        next.drop_dangling_shells();
        next
    }

    /// Forgets what commands have forwarded to machines and networks that are no more.
    fn drop_dangling_forwards(&mut self) {
        let mut forwards = std::mem::take(&mut self.forwards);
        forwards.retain(|_, object| self.forward_problem(&object.spec).is_none());
        self.forwards = forwards;
    }

    /// Why a forward cannot lead where it should, if so.
    pub fn forward_problem(&self, added: &AddedForward) -> Option<Problem> {
        let AddedForward { network: name, forward } = added;
        match self.networks.get(name) {
            Some(network) => forward.problem(name, &network.spec, |vm| self.vms.get(vm).map(|vm| &vm.spec)),
            None => {
                let hint = "`weft network ls` lists the networks";
                Some(Problem::new("no-such-network", format!("there is no network `{name}`"), hint))
            }
        }
    }

    /// Every forward with its network and its owner, those of a network together.
    pub fn all_forwards(&self) -> impl Iterator<Item = (&NetworkName, &str, &Forward)> {
        self.networks.iter().flat_map(|(name, network)| {
            let declared = network.spec.forwards.iter().map(move |forward| (name, network.owner.as_str(), forward));
            let added = self.forwards.values().filter(move |object| object.spec.network == *name);
            declared.chain(added.map(move |object| (name, object.owner.as_str(), &object.spec.forward)))
        })
    }

    /// What `vm` is to be started as.
    pub fn launch(&self, vm: &DesiredVm) -> Launch {
        let spec = &vm.spec;
        let nic = |nic: &Nic| {
            let network = self.networks.get(&nic.network).map(|object| &object.spec);
            let meets_services = nic.port.vlans.meets_services();
            let setup = match (network, nic.ip) {
                _ if self.leases(nic) || self.is_bridged(nic) => NicSetup::Dhcp,
                (Some(network), Some(address)) => NicSetup::Static {
                    address,
                    prefix_len: network.subnet.prefix_len(),
                    router: (meets_services && network.mode == Mode::Nat).then_some(network.gateway),
                    dns: (meets_services && network.dns).then(|| (network.gateway, format!("{}.weft", nic.network))),
                },
                _ => NicSetup::Nothing,
            };
            let mtu = network.map_or(1500, |network| network.mtu);
            NicLaunch { network: nic.network.clone(), mac: nic.mac, mtu, setup }
        };
        Launch {
            image: spec.image.clone(),
            source: self.source(spec).cloned(),
            engine: spec.engine,
            memory: spec.memory,
            cpus: spec.cpus,
            nics: spec.nics.iter().map(nic).collect(),
            cmdline: spec.cmdline.clone(),
            ssh_key: spec.ssh_key.clone(),
            user_data: spec.user_data.clone(),
            disk_size: spec.disk_size,
            display: spec.display,
            shares: spec.shares.clone(),
            restarts: vm.restarts,
        }
    }

    /// What a VM's image is; `None` for one that Weft builds itself.
    pub fn source<'a>(&'a self, vm: &'a Vm) -> Option<&'a ImageSource> {
        vm.kept_image.as_ref().or_else(|| self.images.get(&vm.image).map(|object| &object.spec.source))
    }

    /// The networks on which `vm` must hold a lease to be ready, with the adapter that holds it.
    pub fn lease_needs(&self, vm: &Vm) -> BTreeSet<(NetworkName, MacAddr)> {
        vm.nics.iter().filter(|nic| self.leases(nic)).map(|nic| (nic.network.clone(), nic.mac)).collect()
    }

    /// Whether an adapter gets its address from Weft's DHCP server: its network has one, and it is not in another VLAN.
    pub fn leases(&self, nic: &Nic) -> bool {
        let network = self.networks.get(&nic.network).map(|object| &object.spec);
        nic.port.vlans.meets_services() && network.is_some_and(|network| network.dhcp.is_some())
    }

    /// Whether an adapter stands on the LAN, where addresses are given by others.
    pub fn is_bridged(&self, nic: &Nic) -> bool {
        self.networks.get(&nic.network).is_some_and(|object| object.spec.mode == Mode::Bridged)
    }

    /// What the machines of `names` take together.
    pub fn memory_of<'a>(&self, names: impl IntoIterator<Item = &'a VmName>) -> ByteSize {
        let bytes = names.into_iter().filter_map(|name| self.vms.get(name)).map(|vm| vm.spec.memory.bytes());
        ByteSize::from_bytes(bytes.fold(0, u64::saturating_add))
    }
}

/// What the switch should be. A VM that is stopped by command has no port; one that has died keeps its own, down.
pub fn dataplane_config(desired: &Desired, paths: &Paths) -> DataplaneConfig {
    let networks = desired.networks.iter().map(|(name, object)| network_config(desired, name, &object.spec)).collect();
    let plugged = desired.vms.iter().filter(|(_, vm)| vm.override_.is_none());
    let mut ports: Vec<_> = plugged
        .flat_map(|(name, vm)| {
            vm.spec.nics.iter().enumerate().map(|(index, nic)| PortConfig {
                name: PortName::of_vnic(name, index),
                network: nic.network.clone(),
                kind: PortKind::VhostUser { socket: paths.port_socket(name, index), connect: false },
                macs: std::iter::once(nic.mac).chain(nic.port.macs.iter().copied()).collect(),
                mac_ranges: nic.port.mac_ranges.clone(),
                vm: Some(name.clone()),
                uplink: false,
                vlans: nic.port.vlans.clone(),
                learn: nic.port.learn,
                addresses: addresses(desired, nic),
                access: nic.port.allow.iter().copied().collect(),
                rates: nic.port.rates,
                provenance: nic.provenance.clone(),
            })
        })
        .collect();
    ports.extend(desired.networks.iter().flat_map(|(name, object)| adapter_ports(name, &object.spec)));
    ports.extend(desired.networks.iter().filter_map(|(name, object)| uplink_config(desired, name, &object.spec)));
    ports.extend(desired.shell_ports(paths));
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    let host_names = desired.networks.values().any(|network| network.spec.dns).then(|| names_address(paths));
    DataplaneConfig { revision: desired.generation, networks, ports, routers: router_configs(desired), host_names }
}

/// Where the host asks for names: an address of its loopback that no other home has, unless by a rare chance.
fn names_address(paths: &Paths) -> Ipv4Addr {
    let [.., a, b] = MacAddr::derive(&format!("names/{}", paths.state.display())).octets();
    Ipv4Addr::new(127, 87, a, b)
}

/// The ports of the host's own adapters on a network.
fn adapter_ports(name: &NetworkName, network: &Network) -> impl Iterator<Item = PortConfig> {
    // Which of several the host answers by is its kernel's choice.
    let own: Vec<_> = network.adapters.values().map(|ip| IpAddr::V4(*ip).into()).collect();
    network.adapters.iter().filter_map(move |(adapter, ip)| {
        let host = Ipv4Net::new(*ip, network.subnet.prefix_len()).ok()?;
        Some(PortConfig {
            name: PortName::of_adapter(adapter),
            network: name.clone(),
            kind: PortKind::Tap { name: adapter.to_string(), host: Some(host) },
            macs: vec![MacAddr::derive(&format!("host/{adapter}"))],
            mac_ranges: Vec::new(),
            vm: None,
            uplink: false,
            vlans: PortVlans::default(),
            learn: 0,
            addresses: AddressConfig::Known { fixed: own.clone(), learn: 0 },
            access: AccessConfig::default(),
            rates: PortRates::default(),
            provenance: network.provenance.clone(),
        })
    })
}

/// The port by which a bridged network reaches the LAN, which carries every VLAN that one of its adapters is in.
fn uplink_config(desired: &Desired, name: &NetworkName, network: &Network) -> Option<PortConfig> {
    let uplink = network.uplink.as_ref()?;
    let adapters = desired.vms.values().flat_map(|vm| &vm.spec.nics).filter(|nic| nic.network == *name);
    let mut allowed = VlanSet::none();
    for vlan in adapters.flat_map(|nic| nic.port.vlans.tagged_elsewhere()) {
        allowed.insert(vlan);
    }
    let vlans = match allowed.is_empty() {
        true => PortVlans::Untagged,
        false => PortVlans::Trunk { allowed, native: Some(Native::Untagged) },
    };
    Some(PortConfig {
        name: PortName::of_uplink(name),
        network: name.clone(),
        kind: PortKind::Packet { name: uplink.nic.clone(), attach: uplink.attach, nic_driver: NicDriver::Packet },
        macs: Vec::new(),
        mac_ranges: Vec::new(),
        vm: None,
        uplink: true,
        vlans,
        learn: 0,
        addresses: AddressConfig::Any,
        access: AccessConfig::default(),
        rates: PortRates::default(),
        provenance: network.provenance.clone(),
    })
}

/// The ports of a network that rules and mirrors mean by a name: a machine's, or the one that is called so.
fn ports_of(desired: &Desired, network: &NetworkName, member: &PortName) -> Vec<PortName> {
    let adapters = |(vm, spec): (&VmName, &DesiredVm)| -> Vec<_> {
        let here = spec.spec.nics.iter().enumerate().filter(|(_, nic)| nic.network == *network);
        here.map(|(index, _)| PortName::of_vnic(vm, index)).collect()
    };
    match member.as_str().parse::<VmName>().ok().and_then(|vm| desired.vms.get_key_value(&vm)) {
        Some(vm) => adapters(vm),
        None => match desired.networks.get(network).filter(|_| member.as_str() == HOST) {
            Some(network) => network.spec.adapters.keys().map(PortName::of_adapter).collect(),
            None => vec![member.clone()],
        },
    }
}

/// Which IP addresses are an adapter's own: what its file says, and what Weft's DHCP server gives it.
fn addresses(desired: &Desired, nic: &Nic) -> AddressConfig {
    let fixed: Vec<_> = nic.ip.map(|ip| IpAddr::V4(ip).into()).into_iter().chain(nic.port.addresses.clone()).collect();
    known_addresses(&fixed, desired.leases(nic) || desired.is_bridged(nic))
}

/// A forward as the switch is told of it; nothing where it leads nowhere.
fn forward_config(desired: &Desired, network: &NetworkName, forward: &Forward) -> Option<ForwardConfig> {
    let Forward { listen, to, provenance } = forward.clone();
    let (mac, ip) = match &to.host {
        ForwardHost::Ip(ip) => (None, Some(*ip)),
        ForwardHost::Vm(vm) => {
            let nic = Forward::adapter(&desired.vms.get(vm)?.spec, network)?;
            (Some(nic.mac), nic.ip)
        }
    };
    Some(ForwardConfig { listen, to, mac, ip, provenance })
}

fn network_config(desired: &Desired, name: &NetworkName, network: &Network) -> NetworkConfig {
    let adapters = || {
        let present = desired.vms.iter().filter(|(_, vm)| !vm.removed());
        present
            .flat_map(|(vm, object)| object.spec.nics.iter().map(move |nic| (vm, nic)))
            .filter(|(_, nic)| nic.network == *name && nic.port.vlans.meets_services())
    };
    let dhcp = network.dhcp.as_ref().map(|dhcp| DhcpConfig {
        first: dhcp.first,
        last: dhcp.last,
        lease_s: u32::try_from(dhcp.lease.as_secs()).unwrap_or(u32::MAX),
        reservations: adapters()
            .map(|(vm, nic)| Reservation { mac: nic.mac, vm: vm.clone(), ip: nic.ip })
            .chain(desired.shell_reservations(name))
            .collect(),
        excluded: dhcp.excluded.clone(),
        kept: dhcp.kept.clone(),
        options: dhcp.options.clone(),
        boot: dhcp.boot.clone(),
    });
    let fixed = adapters().filter_map(|(vm, nic)| Some((vm.as_str(), nic.ip?)));
    let host = network.adapters.values().next().map(|ip| (HOST, *ip));
    let names = std::iter::once((GATEWAY, network.gateway)).chain(host).chain(fixed);
    NetworkConfig {
        name: name.clone(),
        mode: match network.mode {
            Mode::Nat => NetworkMode::Nat,
            Mode::HostOnly => NetworkMode::HostOnly,
            Mode::Internal => NetworkMode::Internal,
            Mode::Bridged => NetworkMode::Bridged,
        },
        mtu: network.mtu,
        gateway: (network.mode != Mode::Bridged).then(|| GatewayConfig {
            mac: MacAddr::derive(&format!("gateway/{name}")),
            ip: network.gateway,
            subnet: network.subnet,
            subnet6: network.subnet6,
            dhcp6: network.dhcp6,
            dhcp,
            dns: network.dns,
            host_access: network.host_access,
            records: names.filter_map(|(name, ip)| Some(HostRecord { name: name.parse().ok()?, ip })).collect(),
            names: network.names.clone(),
            metadata: crate::metadata::of_network(desired, name),
        }),
        switching: Switching::Veb,
        team: None,
        acl: acl_config(&network.acl, &PortName::of_gateway(name), |member| ports_of(desired, name, member)),
        mirrors: mirror_configs(&network.mirrors, &network.acl, |member| ports_of(desired, name, member)),
        forwards: desired
            .all_forwards()
            .filter(|(on, ..)| *on == name)
            .filter_map(|(.., it)| forward_config(desired, name, it))
            .collect(),
        provenance: network.provenance.clone(),
    }
}
