//! What the switch tells about itself.

use weft_dataplane_protocol::{
    AclStatus, DropCount, LeaseStatus, NetworkConfig, PortKind, PortStatus, ReceiveFilter, RuleStatus, SwitchStatus,
};
use weft_port::Link;
use weft_services::{NetworkId, Services};
use weft_switch::VSwitchId;
use weft_types::{Attach, Instant, NicDriver};

use crate::slot::{Counters, Plug, Slot};
use crate::worker::Worker;

impl Worker {
    /// Everything there is to tell.
    pub(crate) fn status(&mut self, now: Instant) -> SwitchStatus {
        self.end_idle_captures();
        let stats = self.switch.stats();
        let mut ports: Vec<_> = self.slots.iter().map(|slot| self.port_status(now, slot)).collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        let services = &self.delivery.services;
        let leases = services.leases(now).map(|lease| LeaseStatus {
            network: lease.network,
            ip: lease.ip,
            mac: lease.mac,
            vm: lease.vm,
            client_name: lease.client_name,
            expires_unix_s: lease.expires_unix_s,
        });
        let leases = leases.collect();
        let forwards = self.forward_status();
        let nat_flows = services.nat().flows() as u64;
        let mut notes = self.host.notes();
        notes.extend(self.start_notes.iter().chain(&self.lease_note).cloned());
        notes.extend(services.exhausted_pools(now).map(|network| {
            format!("network `{network}` has no free address: make `dhcp.range` larger, or `dhcp.lease` shorter")
        }));
        SwitchStatus {
            pid: std::process::id(),
            revision: self.config.revision,
            ports,
            leases,
            forwards,
            cached_flows: stats.flows,
            cache_hits: stats.hits,
            cache_misses: stats.misses,
            nat_flows,
            mirrors: self.delivery.mirrors.status(),
            routers: self.router_status(),
            host_names: self.host.names_address(),
            notes,
        }
    }

    /// The access lists in force, with what each rule decided.
    pub(crate) fn rules(&self) -> Vec<AclStatus> {
        let acl = |network: &NetworkConfig| {
            let acl = network.acl.as_ref()?;
            let slot = self.slots.iter().find(|slot| slot.about.network == network.name);
            let hits = slot.map_or(&[][..], |slot| self.switch.rule_counts(VSwitchId(slot.about.network_id.0)));
            let before =
                |rule: &str| self.rule_hits.get(&(network.name.clone(), rule.to_owned())).copied().unwrap_or(0);
            let rules = acl.rules.iter().enumerate().map(|(index, rule)| RuleStatus {
                name: rule.name.clone(),
                permission: rule.permission,
                hits: hits.get(index).copied().unwrap_or(0) + before(&rule.name),
                provenance: rule.provenance.clone(),
            });
            Some(AclStatus { network: network.name.clone(), rules: rules.collect(), default: acl.default })
        };
        self.config.networks.iter().filter_map(acl).collect()
    }

    fn port_status(&self, now: Instant, slot: &Slot) -> PortStatus {
        let (driver, link) = match &slot.plug {
            Plug::Port(port) => (port.driver(), port.link()),
            Plug::Gateway => ("gateway", Link::Up),
            Plug::Broken(why) => (driver_of(slot.about.kind.as_ref()), Link::Down(why.clone().into())),
        };
        let Counters { rx_frames, rx_bytes, tx_frames, tx_bytes } = slot.counters;
        let (drops, denials) = (self.switch.drops(slot.id), self.switch.denials(slot.id));
        PortStatus {
            name: slot.about.name.clone(),
            network: slot.about.network.clone(),
            driver: driver.to_owned(),
            vm: slot.about.vm.clone(),
            macs: slot.about.macs.clone(),
            mac_ranges: slot.about.mac_ranges.clone(),
            uplink: slot.about.uplink,
            active: self.switch.is_active_uplink(slot.id),
            vlans: slot.about.vlans.clone(),
            learn: slot.about.learn,
            addresses: slot.about.addresses.clone(),
            learned: self.switch.learned_addresses(slot.id).collect(),
            access: slot.about.access,
            listens: self.switch.receive_filter(slot.id).map(|filter| {
                let weft_switch::ReceiveFilter { stations, groups, all_multicast, promiscuous } = filter;
                ReceiveFilter { stations, groups, all_multicast, promiscuous }
            }),
            rates: slot.about.rates,
            up: link.is_up(),
            reason: match link {
                Link::Up => None,
                Link::Down(why) => Some(why.into_owned()),
            },
            rx_frames,
            rx_bytes,
            tx_frames,
            tx_bytes,
            drops: drops.map(|(reason, frames)| DropCount { reason: reason.name().to_owned(), frames }).collect(),
            denials: denials
                .map(|(denial, times)| DropCount { reason: denial.name().to_owned(), frames: times })
                .collect(),
            refusals: match slot.plug {
                Plug::Gateway => refusals(&self.delivery.services, slot.about.network_id),
                _ => Vec::new(),
            },
            neighbour: self.delivery.neighbours.of(now, slot.id).cloned(),
            provenance: slot.about.provenance.clone(),
        }
    }
}

/// What the services of a network have counted.
fn refusals(services: &Services, network: NetworkId) -> Vec<DropCount> {
    let of_gateway = services.counters(network).into_iter().flat_map(|counters| counters.iter());
    let of_nat = services.nat().counters(network).into_iter().flat_map(|counters| counters.iter());
    of_gateway
        .map(|(reason, frames)| DropCount { reason: reason.name().to_owned(), frames })
        .chain(of_nat.map(|(cause, frames)| DropCount { reason: format!("nat-{}", cause.name()), frames }))
        .filter(|count| count.frames > 0)
        .collect()
}

/// The driver's name of a port that could not be opened.
fn driver_of(kind: Option<&PortKind>) -> &'static str {
    match kind {
        None => "gateway",
        Some(PortKind::VhostUser { .. }) => "vhost-user",
        Some(PortKind::Tap { .. }) => "tap",
        Some(PortKind::UnixStream { .. }) => "unix-stream",
        Some(PortKind::UnixDatagram { .. }) => "unix-datagram",
        Some(PortKind::Udp { .. }) => "udp",
        Some(PortKind::Packet { attach: Attach::ExistingBridge, .. }) => "tap",
        Some(PortKind::Packet { attach: Attach::Macvtap, .. }) => "macvtap",
        Some(PortKind::Packet { nic_driver: NicDriver::Xdp, .. }) => "xdp",
        Some(PortKind::Packet { .. }) => "packet",
    }
}
