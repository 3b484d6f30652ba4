//! The laws of docs/ARCHITECTURE.md, word for word: no tables, no cache, no stages, nothing shared with the switch but
//! what it takes in and gives out.

mod acl;
pub(crate) mod guard;
mod meter;
pub(crate) mod mirror;
mod team;
pub(crate) mod vlan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weft_switch::{Config, DropReason, Mode, PortConfig, ReceiveFilter, Role, VSwitchId};
use weft_types::{Instant, MacAddr, PortId};

use self::mirror::Copies;

/// The ways by which a frame leaves, each with the frame's first bytes as they are there; or why it does not.
pub(crate) type Fate = Result<BTreeSet<(PortId, Vec<u8>)>, DropReason>;

/// A switch that thinks about every frame from the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) config: Config,
    filters: BTreeMap<PortId, ReceiveFilter>,
    learned: Vec<Learned>,
    bindings: Vec<guard::Binding>,
    connections: Vec<acl::Connection>,
    /// How often each rule decided, by its place in its list.
    pub(crate) rule_counts: BTreeMap<(VSwitchId, usize), u64>,
    generation: u64,
    /// Of uplinks whose link is down.
    down: BTreeSet<PortId>,
    meters: BTreeMap<(PortId, bool), meter::Meter>,
}

#[derive(Clone, Debug)]
struct Learned {
    vswitch: VSwitchId,
    segment: u16,
    mac: MacAddr,
    port: PortId,
    last: Instant,
}

const AGEING: Duration = Duration::from_secs(300);

impl Model {
    /// Becomes `config`, which is right.
    pub(crate) fn configure(&mut self, config: Config) {
        self.config = config;
        let mut before = std::mem::take(&mut self.filters);
        // Where two registered one address, it is the older port's.
        let mut ports = self.config.ports.clone();
        ports.sort_by_key(|port| port.id);
        for port in ports {
            let Some(mut filter) = before.remove(&port.id) else { continue };
            filter.stations.retain(|mac| self.may_register(&port, *mac));
            self.filters.insert(port.id, filter);
        }
        let config = &self.config;
        self.learned.retain(|seen| {
            let port = config.ports.iter().find(|port| port.id == seen.port);
            port.is_some_and(|port| {
                port.learn > 0 && port.vswitch == seen.vswitch && vlan::carries(&port.vlans, seen.segment)
            })
        });
        self.keep_bindings();
        let ports = &self.config.ports;
        self.down.retain(|id| ports.iter().any(|port| port.id == *id));
        self.keep_connections();
        self.keep_meters();
    }

    /// What becomes of a receive filter: the unicast addresses that are registered. `None` is one that is not known any
    /// more.
    pub(crate) fn set_filter(&mut self, id: PortId, filter: Option<&ReceiveFilter>) {
        let Some(port) = self.config.ports.iter().find(|port| port.id == id).cloned() else { return };
        let Some(mut filter) = filter.cloned() else {
            self.filters.remove(&id);
            return;
        };
        filter.stations.truncate(64);
        filter.stations.retain(|mac| self.may_register(&port, *mac));
        filter.all_multicast |= filter.groups.len() > 64;
        self.filters.insert(id, filter);
    }

    /// A guest may have the addresses of its port, and where policy lets it change them, what is nobody else's.
    fn may_register(&self, port: &PortConfig, mac: MacAddr) -> bool {
        let rivals = self.config.ports.iter().filter(|rival| {
            rival.id != port.id && rival.vswitch == port.vswitch && vlan::overlap(&rival.vlans, &port.vlans)
        });
        let is_free = rivals.into_iter().all(|rival| {
            let taken = self.filters.get(&rival.id).is_some_and(|filter| filter.stations.contains(&mac));
            !is_configured(rival, mac) && !taken
        });
        is_configured(port, mac) || port.policy.mac_changes && mac.is_station() && is_free
    }

    /// Law 1: what leads to a port.
    fn is_registered(&self, port: &PortConfig, segment: u16, mac: MacAddr) -> bool {
        let listens = match self.filters.get(&port.id) {
            Some(filter) => filter.stations.contains(&mac) || in_ranges(port, mac),
            None => is_configured(port, mac),
        };
        listens && vlan::carries(&port.vlans, segment)
    }

    fn is_promiscuous(&self, port: &PortConfig) -> bool {
        port.policy.promiscuous && self.filters.get(&port.id).is_none_or(|filter| filter.promiscuous)
    }

    fn hears(&self, port: &PortConfig, group: MacAddr) -> bool {
        let Some(filter) = self.filters.get(&port.id) else { return true };
        group == MacAddr::BROADCAST
            || filter.all_multicast
            || filter.groups.contains(&group)
            || self.is_promiscuous(port)
    }

    /// Where a station was seen within the last minutes.
    fn seen(&self, now: Instant, vswitch: VSwitchId, segment: u16, mac: MacAddr) -> Option<PortId> {
        let known = self.learned.iter().find(|seen| (seen.vswitch, seen.segment, seen.mac) == (vswitch, segment, mac));
        known.filter(|seen| now < seen.last + AGEING).map(|seen| seen.port)
    }

    /// A station that is nobody's sends from a port that learns; whether it may.
    fn learn(&mut self, now: Instant, port: &PortConfig, segment: u16, mac: MacAddr) -> bool {
        let is_live = |seen: &&Learned| seen.port == port.id && now < seen.last + AGEING;
        let is_known = self.seen(now, port.vswitch, segment, mac) == Some(port.id);
        if !is_known && self.learned.iter().filter(is_live).count() >= port.learn as usize {
            return false;
        }
        self.learned.retain(|seen| (seen.vswitch, seen.segment, seen.mac) != (port.vswitch, segment, mac));
        self.learned.push(Learned { vswitch: port.vswitch, segment, mac, port: port.id, last: now });
        true
    }

    /// What becomes of a frame, and who is to get a copy.
    pub(crate) fn decide(&mut self, now: Instant, ingress: PortId, frame: &[u8], frame_len: usize) -> (Fate, Copies) {
        if let Err(reason) = self.admit_frame(ingress, frame, frame_len) {
            return (Err(reason), Copies::new());
        }
        // Law 9: first what the port may send, last what others may be sent; mirrors see what is in between.
        if !self.may_pass(now, ingress, true, frame_len) {
            return (Err(DropReason::OverRate), Copies::new());
        }
        let fate = self.switch(now, ingress, frame);
        let copies = self.copies(ingress, frame, &fate);
        let fate = fate.and_then(|mut ways| {
            ways.retain(|(port, _)| self.may_pass(now, *port, false, frame_len));
            if ways.is_empty() { Err(DropReason::EgressOverRate) } else { Ok(ways) }
        });
        (fate, copies)
    }

    /// What is a frame at all.
    fn admit_frame(&self, ingress: PortId, frame: &[u8], frame_len: usize) -> Result<(), DropReason> {
        if self.config.ports.iter().all(|port| port.id != ingress) {
            return Err(DropReason::UnknownPort);
        }
        if frame_len > 18 + 65_535 {
            return Err(DropReason::TooLong);
        }
        if frame.len() < 14 || vlan::is_tag(&frame[12..]) && frame.len() < 18 {
            return Err(DropReason::Malformed);
        }
        Ok(())
    }

    fn switch(&mut self, now: Instant, ingress: PortId, frame: &[u8]) -> Fate {
        let ports = self.config.ports.clone();
        let from = ports.iter().find(|port| port.id == ingress).ok_or(DropReason::UnknownPort)?;
        let mac = |at: usize| MacAddr::new(frame[at..at + 6].try_into().expect("six octets"));
        let (dst, src) = (mac(0), mac(6));
        let segment = vlan::classify(&from.vlans, frame)?;

        self.check_team(from, segment, frame, src)?;
        if src.is_group() || src == MacAddr::ZERO {
            return Err(DropReason::InvalidSource);
        }
        if from.role != Role::Uplink && !self.is_registered(from, segment, src) && !is_configured(from, src) {
            let is_anothers =
                ports.iter().any(|port| port.vswitch == from.vswitch && self.is_registered(port, segment, src));
            if from.learn > 0 && !is_anothers {
                if !self.learn(now, from, segment, src) {
                    return Err(DropReason::LearnLimit);
                }
            } else if !from.policy.forged_macs {
                return Err(DropReason::ForgedMac);
            }
        }
        self.guard(from, segment, frame)?;
        if frame[..5] == [0x01, 0x80, 0xc2, 0, 0] && frame[5] < 0x10 {
            return Err(DropReason::ReservedGroup);
        }

        let members = || ports.iter().filter(|port| port.vswitch == from.vswitch);
        let uplink = self.uplink(from.vswitch, segment, frame);
        let is_way =
            |port: &PortConfig| port.role != Role::Uplink || from.role != Role::Uplink && Some(port.id) == uplink;
        let others =
            || members().filter(|port| port.id != ingress && vlan::carries(&port.vlans, segment) && is_way(port));
        let leaves = |port: &Arc<PortConfig>| vlan::leaves(&port.vlans, segment, frame).map(|frame| (port.id, frame));
        let is_vepa = self.config.vswitches.iter().any(|it| it.id == from.vswitch && it.mode == Mode::Vepa);
        let uplink = others().find(|port| port.role == Role::Uplink);
        if is_vepa && from.role != Role::Uplink {
            // Law 8: the adjacent switch decides.
            let uplink = uplink.ok_or(DropReason::NoUplink)?;
            let way = leaves(uplink).ok_or(DropReason::DoubleTagged)?;
            self.admit(now, from, uplink, segment, frame)?;
            return Ok([way].into());
        }
        let owner_of = |model: &Self, mac: MacAddr| {
            let registered = members().find(|port| model.is_registered(port, segment, mac)).map(|port| port.id);
            registered.or_else(|| model.seen(now, from.vswitch, segment, mac))
        };
        let sender = owner_of(self, src).filter(|_| is_vepa);
        let others = || others().filter(|port| Some(port.id) != sender);
        if dst.is_group() {
            let hearers: Vec<_> = others().filter(|port| self.hears(port, dst) && leaves(port).is_some()).collect();
            if hearers.is_empty() {
                return Err(DropReason::NoReceiver);
            }
            let allowed = hearers.into_iter().filter(|port| self.may_hear(from, port, frame));
            let all: BTreeSet<_> = allowed.filter_map(leaves).collect();
            return if all.is_empty() { Err(DropReason::AclDenied) } else { Ok(all) };
        }
        let owner = owner_of(self, dst).and_then(|id| members().find(|port| port.id == id));
        let is_same = |owner: &Arc<PortConfig>| owner.role == Role::Uplink && from.role == Role::Uplink;
        if owner.is_some_and(is_same) {
            return Err(DropReason::SamePort);
        }
        if owner.is_some_and(|owner| owner.id == ingress || Some(owner.id) == sender) {
            return Err(DropReason::SamePort);
        }
        let target = owner.filter(|owner| owner.role != Role::Uplink).or(uplink).ok_or(DropReason::UnknownUnicast)?;
        self.hears_ip(target, segment, dst, frame)?;
        let way = leaves(target).ok_or(DropReason::DoubleTagged)?;
        self.admit(now, from, target, segment, frame)?;
        let listeners = others().filter(|port| self.is_promiscuous(port)).filter_map(leaves);
        Ok(listeners.chain([way]).collect())
    }
}

fn in_ranges(port: &PortConfig, mac: MacAddr) -> bool {
    port.mac_ranges.iter().any(|range| range.first() <= mac && mac <= range.last())
}

pub(crate) fn is_configured(port: &PortConfig, mac: MacAddr) -> bool {
    port.macs.contains(&mac) || in_ranges(port, mac)
}
