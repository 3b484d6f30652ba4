//! From one configuration to the next: only the difference is touched.
//!
//! In two steps, with the disk between them: first everything that can fail ([`Worker::prepare`]), then what
//! cannot ([`Worker::commit`]).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use weft_dataplane_protocol::{
    AddressConfig, DataplaneConfig, ErrorCode, NetworkConfig, NetworkMode, PortConfig, PortKind, Refusal,
};
use weft_port::{
    HostAdapter, MacvtapPort, PacketPort, Port, PortError, Side, TapPort, UdpPort, UnixDatagramPort, UnixStreamPort,
    VhostUserPort, open_nic,
};
use weft_services::{DhcpServer, Forward, NetworkId, NetworkServices, Reservation};
use weft_types::{Attach, Instant, Ipv4Net, Ipv4Run, MacAddr, NetworkName, PortId, PortName};

use crate::forwards::StagedForwards;
use crate::law;
use crate::mirror_sink::Outlet;
use crate::routers::routers;
use crate::slot::{About, Plug, Slot};
use crate::validate::{self, Problems};
use crate::worker::Worker;

/// A configuration that is ready to be used.
pub(crate) struct Staged {
    config: DataplaneConfig,
    networks: BTreeMap<NetworkName, NetworkId>,
    /// Numbers and descriptions of all ports, the gateways' among them, and the new ports themselves.
    ports: Vec<(PortId, About, Option<Plug>)>,
    switch: weft_switch::Config,
    /// New ways to collectors, by the numbers of the mirrors.
    outlets: Vec<Option<Outlet>>,
    forwards: StagedForwards,
}

impl Worker {
    /// Checks `config` and opens the ports that are new in it; what stays is not touched.
    ///
    /// # Errors
    /// Everything that is wrong; then nothing has changed.
    pub(crate) fn prepare(&mut self, config: DataplaneConfig, taps: BTreeMap<String, OwnedFd>) -> Result<(), Refusal> {
        self.staged = None;
        if config.revision < self.config.revision {
            return Err(Refusal {
                code: ErrorCode::Stale,
                message: format!(
                    "revision {} is older than {}, which is in force",
                    config.revision, self.config.revision
                ),
                hint: "compute the configuration again from the newest revision".into(),
            });
        }
        let mut staged = self.plan(config)?;
        self.open_ports(&mut staged, taps).refuse(ErrorCode::PortFailed)?;
        self.open_forwards(&mut staged.forwards).refuse(ErrorCode::ForwardFailed)?;
        self.staged = Some(staged);
        Ok(())
    }

    /// Becomes what the last process was. A port that cannot be opened, or the place of a forward, is marked as broken:
    /// the next configuration tries again.
    pub(crate) fn resume(&mut self, snapshot: DataplaneConfig) {
        let mut staged = match self.plan(snapshot) {
            Ok(staged) => staged,
            Err(refusal) => {
                self.start_notes.push(format!("the snapshot of the last switch cannot be used: {refusal}"));
                return;
            }
        };
        let problems = self.open_ports(&mut staged, BTreeMap::new());
        if let Err(refusal) = problems.refuse(ErrorCode::PortFailed) {
            tracing::warn!(target: "weft::dataplane", "{refusal}");
        }
        self.staged = Some(staged);
        self.commit(crate::clock::now());
    }

    /// Numbers everything, and checks all that can be checked without opening anything.
    fn plan(&mut self, config: DataplaneConfig) -> Result<Staged, Refusal> {
        let mut problems = Problems::default();
        validate::check(&config, &mut problems);
        let known = Known::of(&self.slots);
        let mut networks = BTreeMap::new();
        for network in &config.networks {
            networks.insert(network.name.clone(), self.number_for_network(&known, &network.name));
        }
        let mut ports = Vec::new();
        for network in &config.networks {
            if let Some(gateway) = &network.gateway {
                let about = About::of_gateway(network, gateway, networks[&network.name]);
                ports.push((self.number_for(&known, &about), about, None));
            }
        }
        for port in &config.ports {
            match networks.get(&port.network) {
                Some(&network) => {
                    let about = About::of_port(port, network);
                    ports.push((self.number_for(&known, &about), about, None));
                }
                None => problems.push(
                    format!("port `{}` ({}): there is no network `{}`", port.name, port.provenance, port.network),
                    "declare the network, or plug the port into another one",
                ),
            }
        }
        let abouts = ports.iter().map(|(id, about, _)| (*id, about));
        let switch = law::switch_config(self.generation + 1, &config, &networks, abouts);
        // The law is the switch's own to judge.
        for error in self.switch.problems(&switch) {
            problems.push(error.to_string(), error.hint());
        }
        problems.refuse(ErrorCode::BadConfig)?;
        let forwards = self.number_forwards(&config);
        Ok(Staged { config, networks, ports, switch, outlets: Vec::new(), forwards })
    }

    /// Opens the ports, and the ways to collectors, that are new, or broken.
    fn open_ports(&self, staged: &mut Staged, mut taps: BTreeMap<String, OwnedFd>) -> Problems {
        let mut problems = Problems::default();
        let mtus: BTreeMap<_, _> = staged.config.networks.iter().map(|network| (&network.name, network.mtu)).collect();
        let adapters = adapters(&staged.config);
        for (id, about, plug) in &mut staged.ports {
            let stays = self.slot(*id).is_some_and(|slot| !matches!(slot.plug, Plug::Broken(_)));
            if stays {
                continue;
            }
            *plug = Some(match &about.kind {
                None => Plug::Gateway,
                Some(kind) => match open(kind, &about.macs, mtus[&about.network], &mut taps, &adapters) {
                    Ok(port) => Plug::Port(port),
                    Err(error) => {
                        let why = with_sources(&error);
                        problems.push(
                            format!("port `{}` ({}): {why}", about.name, about.provenance),
                            error.hint().to_owned(),
                        );
                        Plug::Broken(format!("{why}; {}", error.hint()))
                    }
                },
            });
        }
        staged.outlets = self.delivery.mirrors.open(&staged.config, &mut problems);
        if problems.is_empty() {
            self.move_adapters(staged, &mut problems);
        }
        problems
    }

    /// Gives the adapters of the host that stay what is new about them, when nothing else can fail.
    fn move_adapters(&self, staged: &Staged, problems: &mut Problems) {
        let mtus: BTreeMap<_, _> = staged.config.networks.iter().map(|network| (&network.name, network.mtu)).collect();
        let staying = staged.ports.iter().filter(|(.., plug)| plug.is_none());
        for (about, slot) in staying.filter_map(|(id, about, _)| Some((about, self.slot(*id)?))) {
            let (Some(PortKind::Tap { name, host: Some(host) }), Some(mac)) = (&about.kind, about.macs.first()) else {
                continue;
            };
            let mtu = mtus[&about.network];
            let old_mtu = self.config.networks.iter().find(|it| it.name == slot.about.network).map(|it| it.mtu);
            if about.kind == slot.about.kind && Some(mtu) == old_mtu {
                continue;
            }
            if let Err(error) = host_adapter(*host, *mac, mtu).settle(name, &adapters(&staged.config)) {
                let why = with_sources(&error);
                problems.push(format!("port `{}` ({}): {why}", about.name, about.provenance), error.hint().to_owned());
            }
        }
    }

    /// Becomes what was prepared, if anything was.
    pub(crate) fn commit(&mut self, now: Instant) {
        let Some(Staged { config, networks, ports, switch, outlets, forwards }) = self.staged.take() else { return };
        // The switch counts anew with each configuration.
        let hits = self.rules().into_iter().flat_map(|acl| {
            let network = acl.network;
            acl.rules.into_iter().map(move |rule| ((network.clone(), rule.name), rule.hits))
        });
        self.rule_hits = hits.collect();
        let mut old: BTreeMap<PortId, Slot> = self.slots.drain(..).map(|slot| (slot.id, slot)).collect();
        let mut made_anew = BTreeSet::new();
        for (id, about, plug) in ports {
            if let (Some(PortKind::Tap { name, .. }), Some(Plug::Port(_))) = (&about.kind, &plug) {
                made_anew.insert(name.clone());
            }
            let is_new = plug.is_some();
            let slot = match (old.remove(&id), plug) {
                (Some(slot), None) => Slot { about, ..slot },
                (Some(slot), Some(plug)) => Slot { about, plug, ..slot }, // it was broken
                (None, plug) => Slot::new(id, about, plug.unwrap_or(Plug::Gateway)),
            };
            if is_new {
                // One that cannot be watched is looked at whenever there is work.
                let _ = slot.watch(&self.epoll);
            }
            self.slots.push(slot);
        }
        drop(old); // closes what is gone
        for slot in &mut self.slots {
            slot.pacing.configure(now, &law::rates(&slot.about.rates));
        }
        self.index_slots();
        let uplinks = self.slots.iter().filter(|slot| slot.about.uplink).map(|slot| slot.id);
        self.delivery.neighbours.set_uplinks(uplinks);
        self.generation = switch.generation;
        if let Err(errors) = self.switch.configure(switch) {
            // The same configuration had no problem when it was planned.
            tracing::error!(target: "weft::dataplane", ?errors, "the switch refused what it had accepted");
        }
        self.review_filters();
        self.delivery.mirrors.declare(&config, outlets);
        self.renew_captures();
        // Whose lease ends by this configuration speaks from its old address until it has a new one.
        self.note_leases(now);
        let services = |network: &NetworkConfig| {
            let strangers = config.ports.iter().any(|port| port.network == network.name && may_have_strangers(port));
            let mut services = services_of(network, networks[&network.name], forwards.of(&network.name), strangers)?;
            let dhcp = services.dhcp.iter_mut();
            dhcp.for_each(|dhcp| dhcp.excluded.extend(host_addresses(&config, &network.name)));
            Some(services)
        };
        let services = config.networks.iter().filter_map(services);
        self.delivery.services.configure(now, services.collect());
        self.delivery.services.set_routers(routers(&config, &networks));
        self.commit_forwards(forwards);
        self.host.answer_names(config.host_names);
        self.resolved.follow(&config, &made_anew);
        let unrestored = std::mem::take(&mut self.unrestored);
        self.delivery.services.restore_leases(now, unrestored);
        self.addresses.restore(&mut self.switch, self.slots.iter().map(|slot| (slot.id, &slot.about.name)));
        self.note_leases(now);
        tracing::info!(target: "weft::dataplane", revision = config.revision, ports = self.slots.len(), "configured");
        self.start_notes.clear();
        self.config = config;
        self.renew_stations(now);
    }

    /// Has the switch know who holds which lease: after a restart nobody asks for what he has.
    fn note_leases(&mut self, now: Instant) {
        let gateways = self.slots.iter().filter(|slot| slot.about.kind.is_none());
        let gateways: BTreeMap<_, _> = gateways.map(|slot| (&slot.about.network, slot.id)).collect();
        for lease in self.delivery.services.leases(now) {
            if let Some(gateway) = gateways.get(&lease.network) {
                self.switch.note_lease(*gateway, lease.mac, lease.ip.into());
            }
        }
    }

    fn index_slots(&mut self) {
        self.slot_of.clear();
        self.slot_of.resize(self.next_port as usize, None);
        self.gateway_of.clear();
        self.gateway_of.resize(self.next_network as usize, None);
        let names = self.slots.iter().map(|slot| (slot.id, slot.about.name.clone()));
        self.delivery.mirrors.names = names.collect();
        self.paced.clear();
        self.uplinks.clear();
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.about.uplink {
                self.uplinks.push(index);
            }
            if slot.pacing.is_used() {
                self.paced.push(index);
            }
            self.slot_of[slot.id.0 as usize] = Some(index);
            if slot.about.kind.is_none() {
                self.gateway_of[slot.about.network_id.0 as usize] = Some(index);
            }
        }
    }

    /// The gateway of a network.
    pub(crate) fn gateway(&self, network: NetworkId) -> Option<&Slot> {
        let index = *self.gateway_of.get(usize::try_from(network.0).ok()?)?;
        self.slots.get(index?)
    }

    pub(crate) fn slot(&self, id: PortId) -> Option<&Slot> {
        let index = *self.slot_of.get(id.0 as usize)?;
        self.slots.get(index?)
    }

    /// The number of a port that stays, or a new one. A port stays with its name and its driver; an adapter of the host
    /// also with another address.
    fn number_for(&mut self, known: &Known, about: &About) -> PortId {
        let stays = |id: &PortId| {
            self.slot(*id).is_some_and(|slot| match (&slot.about.kind, &about.kind) {
                (Some(PortKind::Tap { name, host: Some(_) }), Some(PortKind::Tap { name: new, host: Some(_) })) => {
                    name == new && slot.about.macs == about.macs
                }
                (old, new) => old == new,
            })
        };
        if let Some(id) = known.ports.get(&about.name).copied().filter(stays) {
            return id;
        }
        self.next_port += 1;
        PortId(self.next_port - 1)
    }

    /// The number of a network that stays, or a new one. One without ports needs no number that stays.
    fn number_for_network(&mut self, known: &Known, name: &NetworkName) -> NetworkId {
        if let Some(id) = known.networks.get(name) {
            return *id;
        }
        self.next_network += 1;
        NetworkId(self.next_network - 1)
    }
}

/// The host's own addresses on a network, which nobody else gets.
fn host_addresses<'a>(config: &'a DataplaneConfig, network: &'a NetworkName) -> impl Iterator<Item = Ipv4Run> + 'a {
    let ports = config.ports.iter().filter(move |port| port.network == *network);
    ports.filter_map(|port| match port.kind {
        PortKind::Tap { host: Some(host), .. } => Some(Ipv4Run::from(host.addr())),
        _ => None,
    })
}

/// Whether a port may have stations with addresses that neither the file names nor a DHCP server of ours gave.
fn may_have_strangers(port: &PortConfig) -> bool {
    let may_claim = port.access.forged_ips || port.access.forged_arp || port.addresses == AddressConfig::Any;
    port.vlans.meets_services() && (port.uplink || port.learn > 0 || may_claim)
}

/// The numbers in use, by name.
struct Known {
    ports: BTreeMap<PortName, PortId>,
    networks: BTreeMap<NetworkName, NetworkId>,
}

impl Known {
    fn of(slots: &[Slot]) -> Self {
        Self {
            ports: slots.iter().map(|slot| (slot.about.name.clone(), slot.id)).collect(),
            networks: slots.iter().map(|slot| (slot.about.network.clone(), slot.about.network_id)).collect(),
        }
    }
}

fn services_of(network: &NetworkConfig, id: NetworkId, forwards: Vec<Forward>, probe: bool) -> Option<NetworkServices> {
    let gateway = network.gateway.as_ref()?;
    Some(NetworkServices {
        id,
        name: network.name.clone(),
        nat: network.mode == NetworkMode::Nat,
        mtu: network.mtu,
        mac: gateway.mac,
        ip: gateway.ip,
        subnet: gateway.subnet,
        subnet6: gateway.subnet6,
        dhcp6: gateway.dhcp6.filter(|_| gateway.subnet6.is_some()),
        dhcp: gateway.dhcp.as_ref().map(|dhcp| DhcpServer {
            first: dhcp.first,
            last: dhcp.last,
            lease_s: dhcp.lease_s,
            reservations: dhcp
                .reservations
                .iter()
                .map(|kept| Reservation { mac: kept.mac, vm: kept.vm.clone(), ip: kept.ip })
                .collect(),
            excluded: dhcp.excluded.clone(),
            kept: dhcp.kept.clone(),
            options: dhcp.options.clone(),
            boot: dhcp.boot.clone(),
            probe,
        }),
        dns: gateway.dns,
        host_access: gateway.host_access,
        records: gateway.records.iter().map(|record| (record.name.clone(), record.ip)).collect(),
        names: gateway.names.clone(),
        metadata: gateway.metadata.clone(),
        forwards,
    })
}

/// Opens a port of any kind; a TAP device that was handed over is used instead of opening one.
fn open(
    kind: &PortKind,
    macs: &[MacAddr],
    mtu: u16,
    taps: &mut BTreeMap<String, OwnedFd>,
    adapters: &BTreeSet<&str>,
) -> Result<Box<dyn Port>, PortError> {
    let side = |connect: bool| if connect { Side::Connect } else { Side::Listen };
    Ok(match kind {
        PortKind::VhostUser { socket, connect } => Box::new(VhostUserPort::open(socket, side(*connect))?),
        PortKind::Tap { name, host } => Box::new(match (taps.remove(name), host, macs.first()) {
            (Some(device), ..) => TapPort::from_device(device)?,
            (None, Some(host), Some(mac)) => {
                TapPort::open_host_adapter(name, host_adapter(*host, *mac, mtu), adapters)?
            }
            (None, ..) => TapPort::open(name, mtu)?,
        }),
        PortKind::UnixStream { socket, connect } => Box::new(UnixStreamPort::open(socket, side(*connect))?),
        PortKind::UnixDatagram { socket, peer } => Box::new(UnixDatagramPort::open(socket, peer.as_deref())?),
        PortKind::Packet { name, attach: Attach::Apart, nic_driver } => open_nic(name, *nic_driver)?,
        PortKind::Packet { name, attach: Attach::Shared, .. } => Box::new(PacketPort::open_shared(name)?),
        PortKind::Packet { name, attach: Attach::Macvtap, .. } => Box::new(MacvtapPort::open(name)?),
        PortKind::Packet { name, attach: Attach::ExistingBridge, .. } => Box::new(TapPort::open_at_bridge(name)?),
        PortKind::Udp { local, peer } => Box::new(UdpPort::open(*local, *peer)?),
    })
}

/// The names of the host's own adapters.
fn adapters(config: &DataplaneConfig) -> BTreeSet<&str> {
    let names = config.ports.iter().filter_map(|port| match &port.kind {
        PortKind::Tap { name, host: Some(_) } => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

fn host_adapter(host: Ipv4Net, mac: MacAddr, mtu: u16) -> HostAdapter {
    HostAdapter { mac, ip: host.addr(), prefix_len: host.prefix_len(), mtu }
}

/// An error and what caused it, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
