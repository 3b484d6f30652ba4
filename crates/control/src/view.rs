//! The state of the world as the API shows it.

use std::net::{IpAddr, Ipv6Addr};

use weft_dataplane_protocol::{
    AclStatus, AddressConfig, DroppedFrame, ForwardStatus, History, LeaseStatus, LoggedDecision, MirrorStatus,
    MirrorTo, NeighbourStatus, PortStatus, ReceiveFilter, RuleStatus, SwitchStatus,
};
use weft_model::view::{
    AclView, DaemonView, DropView, DroppedFrameView, ForwardView, HistoryView, LeaseView, ListensView,
    LoggedDecisionView, MirrorView, NeighbourView, NetworkView, NicView, PortView, RuleView, SwitchView, VmState,
    VmView, WorldView,
};
use weft_model::{EngineKind, Forward};
use weft_types::{IpNet, NetworkName, PortName, PortVlans, VlanSet, VmName};

use crate::desired::{Desired, DesiredVm, Records};
use crate::inner::Inner;
use crate::objects::Fate;
use crate::router::router_views;
use crate::state::{Phase, State};
use crate::supervise::NO_ROOM;

impl Inner {
    /// Everything at once.
    pub(crate) fn world_view(&self) -> WorldView {
        let daemon = DaemonView { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let records = match self.records() {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(%error, "the store cannot be read");
                return WorldView { daemon, ..WorldView::default() };
            }
        };
        // Where a switch should be but does not answer, the rest is still worth showing.
        let expected = self.state().switch.is_some();
        let status = if expected { self.host.switch_status().ok() } else { None };
        let Records { revision, desired, .. } = records;
        let leases = status.as_ref().map_or(&[][..], |status| &status.leases);
        let networks = desired.networks.keys().map(|name| network_view(&desired, name)).collect();
        let vms = {
            let state = self.state();
            let present = desired.vms.iter().filter(|(_, vm)| !vm.removed());
            present.map(|(name, vm)| vm_view(&state, &desired, name, vm, status.as_ref())).collect()
        };
        let mut leases: Vec<_> = leases.iter().map(lease_view).collect();
        leases.sort_by_key(|lease| lease.ip);
        let ports = status.as_ref().map_or_else(Vec::new, port_views);
        let mirrors = status.as_ref().map_or_else(Vec::new, mirror_views);
        let statuses = status.as_ref().map_or(&[][..], |status| &status.forwards);
        let forwards = forward_views(&desired, statuses);
        let routers = router_views(&desired, status.as_ref().map_or(&[], |status| &status.routers));
        let shells = desired.shell_views(&self.paths);
        let switch = status.map(switch_view);
        let enabled = desired.enabled.into_iter().collect();
        WorldView {
            revision,
            networks,
            vms,
            ports,
            leases,
            mirrors,
            forwards,
            routers,
            shells,
            enabled,
            daemon,
            switch,
        }
    }
}

fn network_view(desired: &Desired, name: &NetworkName) -> NetworkView {
    let object = &desired.networks[name];
    let on_it = |vm: &DesiredVm| !vm.removed() && vm.spec.nics.iter().any(|nic| nic.network == *name);
    NetworkView {
        name: name.clone(),
        mode: object.spec.mode,
        uplink: object.spec.uplink.clone(),
        subnet: object.spec.subnet,
        gateway: object.spec.gateway,
        subnet6: object.spec.subnet6,
        host_access: object.spec.host_access,
        adapters: object.spec.adapters.clone(),
        vms: desired.vms.iter().filter(|(_, vm)| on_it(vm)).map(|(name, _)| name.clone()).collect(),
        owner: object.owner.clone(),
        provenance: object.spec.provenance.clone(),
    }
}

fn vm_view(state: &State, desired: &Desired, name: &VmName, vm: &DesiredVm, status: Option<&SwitchStatus>) -> VmView {
    let (now, reason) = vm_state(state, name, vm);
    let life = state.lives.get(name).filter(|life| !matches!(life.phase, Phase::Dead(_)));
    let ip = |port: &PortName, nic: &weft_model::Nic| {
        let mut leases = status.into_iter().flat_map(|status| &status.leases);
        let lease = leases.find(|lease| lease.network == nic.network && lease.mac == nic.mac);
        // What a server of the LAN gave it, the switch has seen.
        let seen = || {
            let port = status?.ports.iter().find(|status| status.name == *port)?;
            port.learned.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })
        };
        let fixed = || nic.ip.filter(|_| !desired.leases(nic));
        lease.map(|lease| lease.ip).or_else(fixed).or_else(|| seen().filter(|_| desired.is_bridged(nic)))
    };
    let nic = |(index, nic): (usize, &weft_model::Nic)| NicView {
        network: nic.network.clone(),
        port: PortName::of_vnic(name, index),
        mac: nic.mac,
        ip: ip(&PortName::of_vnic(name, index), nic),
        ipv6: ipv6(status, &PortName::of_vnic(name, index), nic),
    };
    VmView {
        name: name.clone(),
        state: now,
        reason,
        image: vm.spec.image.to_string(),
        engine: life.map(|life| life.running.engine).or(vm.spec.engine).unwrap_or(EngineKind::Qemu),
        accelerator: life.map(|life| life.running.accelerator.as_str().to_owned()),
        pid: life.map(|life| life.running.process.pid),
        memory: vm.spec.memory,
        cpus: vm.spec.cpus,
        nics: vm.spec.nics.iter().enumerate().map(nic).collect(),
        owner: vm.owner.clone(),
        provenance: vm.spec.provenance.clone(),
    }
}

/// The IPv6 addresses of an adapter: those of its file, and what the switch has seen.
fn ipv6(status: Option<&SwitchStatus>, port: &PortName, nic: &weft_model::Nic) -> Vec<Ipv6Addr> {
    let port = status.into_iter().flat_map(|status| &status.ports).find(|status| status.name == *port);
    let fixed = nic.port.addresses.iter().filter(|net| net.prefix_len() == net.max_prefix_len()).map(IpNet::addr);
    let mut all = Vec::new();
    for ip in fixed.chain(port.into_iter().flat_map(|port| port.learned.iter().copied())) {
        if let IpAddr::V6(ip) = ip
            && !ip.is_unicast_link_local()
            && !all.contains(&ip)
        {
            all.push(ip);
        }
    }
    all
}

/// What a machine does now, and why or what it waits for.
fn vm_state(state: &State, name: &VmName, vm: &DesiredVm) -> (VmState, Option<String>) {
    let of_fate = |fate: &Fate| match fate {
        Fate::Off { reason } => (VmState::Stopped, Some(reason.clone())),
        fate => (VmState::Failed, fate.reason().map(str::to_owned)),
    };
    match state.lives.get(name).map(|life| &life.phase) {
        Some(Phase::Stopping) => (VmState::Stopping, None),
        Some(Phase::Dead(fate)) if vm.override_.is_none() => of_fate(fate),
        Some(Phase::Starting(missing)) => (VmState::Starting, Some(format!("waits for {missing}"))),
        Some(Phase::Ready) => (VmState::Ready, state.stuck.contains(name).then(|| NO_ROOM.to_owned())),
        Some(Phase::Late(problem)) => (VmState::Failed, Some(problem.title.clone())),
        Some(Phase::Dead(_)) | None => match (&vm.override_, &vm.fate) {
            (Some(_), _) => (VmState::Stopped, vm.drift()),
            (None, Some(fate)) if fate.reason().is_some() => of_fate(fate),
            _ if state.planning() => (VmState::Starting, Some("waits for its turn".to_owned())),
            _ => (VmState::Failed, Some("it does not run".to_owned())),
        },
    }
}

fn lease_view(lease: &LeaseStatus) -> LeaseView {
    LeaseView {
        network: lease.network.clone(),
        ip: lease.ip,
        mac: lease.mac,
        vm: lease.vm.clone(),
        client_name: lease.client_name.clone(),
        expires_unix_s: lease.expires_unix_s,
    }
}

fn forward_views(desired: &Desired, statuses: &[ForwardStatus]) -> Vec<ForwardView> {
    let view = |(network, owner, forward): (&NetworkName, &str, &Forward)| {
        let status = statuses.iter().find(|status| status.listen == forward.listen);
        ForwardView {
            listen: forward.listen,
            to: forward.to.clone(),
            network: network.clone(),
            up: status.is_some_and(|status| status.reason.is_none()),
            reason: status.map_or_else(|| Some("no switch runs".to_owned()), |status| status.reason.clone()),
            clients: status.map_or(0, |status| status.clients),
            served: status.map_or(0, |status| status.served),
            owner: owner.to_owned(),
            provenance: forward.provenance.clone(),
        }
    };
    desired.all_forwards().map(view).collect()
}

/// The ports of a switch as the API shows them.
pub fn port_views(status: &SwitchStatus) -> Vec<PortView> {
    status.ports.iter().map(|port| port_view(port, &status.mirrors)).collect()
}

/// The mirrors and captures of a switch as the API shows them.
pub fn mirror_views(status: &SwitchStatus) -> Vec<MirrorView> {
    status.mirrors.iter().map(mirror_view).collect()
}

fn mirror_view(mirror: &MirrorStatus) -> MirrorView {
    MirrorView {
        name: mirror.name.clone(),
        networks: mirror.networks.clone(),
        to: mirror.to.as_ref().map(|to| match to {
            MirrorTo::Port(port) => port.to_string(),
            MirrorTo::Collector(collector) => collector.to_string(),
        }),
        copies: mirror.copies,
        lost: mirror.lost,
        provenance: mirror.provenance.clone(),
    }
}

/// What was decided lately, as the API shows it.
pub fn history_view(history: History) -> HistoryView {
    let drop = |frame: DroppedFrame| DroppedFrameView {
        port: frame.port,
        reason: frame.reason,
        rule: frame.rule,
        age_ms: frame.age_ms,
        summary: frame.summary,
        len: frame.len,
        head: frame.head.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let logged = |decision: LoggedDecision| LoggedDecisionView {
        network: decision.network,
        rule: decision.rule,
        permission: decision.permission,
        from: decision.from,
        to: decision.to,
        age_ms: decision.age_ms,
        summary: decision.summary,
        len: decision.len,
    };
    HistoryView {
        drops: history.drops.into_iter().map(drop).collect(),
        log: history.log.into_iter().map(logged).collect(),
        log_lost: history.log_lost,
    }
}

/// A port as the API shows it, with those of these mirrors whose copies go to it.
fn port_view(port: &PortStatus, mirrors: &[MirrorStatus]) -> PortView {
    let goes_here = |mirror: &&MirrorStatus| matches!(&mirror.to, Some(MirrorTo::Port(to)) if *to == port.name);
    let drop =
        |drop: &weft_dataplane_protocol::DropCount| DropView { reason: drop.reason.clone(), frames: drop.frames };
    PortView {
        name: port.name.clone(),
        network: port.network.clone(),
        driver: port.driver.clone(),
        vm: port.vm.clone(),
        macs: port.macs.clone(),
        mac_ranges: port.mac_ranges.clone(),
        uplink: port.uplink,
        active: port.active,
        vlans: port.vlans.clone(),
        learn: port.learn,
        addresses: match &port.addresses {
            AddressConfig::Any => None,
            AddressConfig::Known { fixed, .. } => Some(fixed.clone()),
        },
        learned: port.learned.clone(),
        allow: port.access.allowances(),
        listens: port.listens.as_ref().map(listens_view),
        rates: port.rates,
        up: port.up,
        reason: port.reason.clone(),
        rx_frames: port.rx_frames,
        rx_bytes: port.rx_bytes,
        tx_frames: port.tx_frames,
        tx_bytes: port.tx_bytes,
        drops: port.drops.iter().map(drop).collect(),
        denials: port.denials.iter().map(drop).collect(),
        refusals: port.refusals.iter().map(drop).collect(),
        neighbour: port.neighbour.as_ref().map(|neighbour| neighbour_view(neighbour, &port.vlans)),
        mirrors: mirrors.iter().filter(goes_here).map(mirror_view).collect(),
        provenance: port.provenance.clone(),
    }
}

fn listens_view(filter: &ReceiveFilter) -> ListensView {
    ListensView {
        stations: filter.stations.clone(),
        groups: filter.groups.clone(),
        all_multicast: filter.all_multicast,
        promiscuous: filter.promiscuous,
    }
}

/// Who is at the other end of the cable of an uplink that carries these VLANs.
fn neighbour_view(neighbour: &NeighbourStatus, carried: &PortVlans) -> NeighbourView {
    let vlans: VlanSet = neighbour.vlans.iter().copied().collect();
    let missing_vlans = match carried {
        PortVlans::Trunk { allowed, .. } if !vlans.is_empty() => {
            allowed.iter().filter(|vlan| !vlans.contains(*vlan)).collect()
        }
        _ => VlanSet::none(),
    };
    NeighbourView {
        device: neighbour.system.clone().unwrap_or_else(|| neighbour.chassis.clone()),
        port: neighbour.port.clone(),
        vlans,
        missing_vlans,
    }
}

/// An access list as the API shows it.
pub fn acl_view(acl: AclStatus) -> AclView {
    let rule = |rule: RuleStatus| RuleView {
        name: rule.name,
        permission: rule.permission,
        hits: rule.hits,
        provenance: rule.provenance,
    };
    AclView { network: acl.network, rules: acl.rules.into_iter().map(rule).collect(), default: acl.default }
}

/// A switch's process as the API shows it.
pub fn switch_view(status: SwitchStatus) -> SwitchView {
    SwitchView {
        pid: status.pid,
        revision: status.revision,
        cached_flows: status.cached_flows,
        cache_hits: status.cache_hits,
        cache_misses: status.cache_misses,
        nat_flows: status.nat_flows,
        host_names: status.host_names,
        notes: status.notes,
    }
}
