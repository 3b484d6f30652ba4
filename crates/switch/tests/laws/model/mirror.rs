//! Law 7: who gets a copy.

use std::collections::BTreeSet;

use weft_switch::{Direction, MirrorFilter, MirrorId, MirrorTarget, Traffic};
use weft_types::{MacAddr, PortId};

use super::acl::ports;
use super::guard::{be16, is_end, packet};
use super::{Fate, Model, is_configured, vlan};

/// The copies of a frame: for which mirror, to which port if to one, and the frame's first bytes as they are there.
pub(crate) type Copies = BTreeSet<(MirrorId, Option<PortId>, Vec<u8>)>;

fn fits(filter: &MirrorFilter, frame: &[u8]) -> bool {
    let at = if vlan::is_tag(&frame[12..]) { 16 } else { 12 };
    let Some(packet) = packet(be16(&frame[at..]), &frame[at + 2..]) else {
        return *filter == MirrorFilter::default();
    };
    let seen = ports(&packet);
    let one_way = |is_back: bool| {
        let (src, dst) = (packet.src.unwrap(), packet.dst);
        let (a, b) = if is_back { (dst, src) } else { (src, dst) };
        let traffic = match &filter.traffic {
            Traffic::Any => true,
            Traffic::Protocol(protocol) => protocol.0 == packet.protocol,
            Traffic::Ports { protocol, src, dst } => {
                let fits = |(a, b)| {
                    if is_back { src.contains(&b) && dst.contains(&a) } else { src.contains(&a) && dst.contains(&b) }
                };
                protocol.0 == packet.protocol && seen.is_none_or(fits)
            }
            Traffic::Icmp { protocol, kind } => {
                protocol.0 == packet.protocol && seen.is_none_or(|(_, message)| message >> 8 == u16::from(*kind))
            }
        };
        traffic && filter.from.is_none_or(|net| net.contains(&a)) && filter.to.is_none_or(|net| net.contains(&b))
    };
    one_way(false) || one_way(true)
}

impl Model {
    /// Who gets a copy of a frame that had this fate.
    pub(super) fn copies(&self, ingress: PortId, frame: &[u8], fate: &Fate) -> Copies {
        let ports = &self.config.ports;
        let from = ports.iter().find(|port| port.id == ingress).unwrap();
        let vswitch = self.config.vswitches.iter().find(|vswitch| vswitch.id == from.vswitch).unwrap();
        let out: Vec<PortId> = fate.iter().flatten().map(|(port, _)| *port).collect();
        let segment = vlan::classify(&from.vlans, frame).ok();
        let mut copies = Copies::new();
        for mirror in &vswitch.mirrors {
            let is_of = |port: &PortId| mirror.ports.is_empty() || mirror.ports.contains(port);
            let passes = mirror.direction != Direction::Out && is_of(&ingress)
                || mirror.direction != Direction::In && out.iter().any(is_of);
            let is_there = mirror.segments.is_empty()
                || mirror.segments.iter().any(|wanted| Some(vlan::number(*wanted)) == segment);
            if !passes || !is_there || mirror.filter.as_ref().is_some_and(|filter| !fits(filter, frame)) {
                continue;
            }
            match mirror.to {
                MirrorTarget::Outside => drop(copies.insert((mirror.id, None, frame.to_vec()))),
                MirrorTarget::Port(target) if target == ingress || out.contains(&target) => {}
                MirrorTarget::Port(target) => {
                    let port = ports.iter().find(|port| port.id == target).unwrap();
                    if is_end(port) && is_configured(port, MacAddr::new(frame[..6].try_into().unwrap())) {
                        continue;
                    }
                    let vlans = &port.vlans;
                    let carried = segment.filter(|segment| vlan::carries(vlans, *segment));
                    let copy = carried.and_then(|segment| vlan::leaves(vlans, segment, frame));
                    copies.insert((mirror.id, Some(target), copy.unwrap_or_else(|| frame.to_vec())));
                }
            }
        }
        copies
    }
}
