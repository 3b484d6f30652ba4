//! Who gets a copy (law 7).

use std::net::IpAddr;

use weft_types::{IpNet, PortId};

use super::Fields;
use crate::frame::Frame;
use crate::packet::{Packet, Piece};
use crate::table::VSwitch;
use crate::{Direction, Mirror, MirrorFilter, Output, Segment, Traffic};

/// Some of the mirrors of a vSwitch: a bit for each, in their order.
pub(crate) type Mirrors = u32;

const _: () = assert!(crate::MAX_MIRRORS == Mirrors::BITS as usize);

/// The fields of a frame that mirrors consult, besides those that every decision may rest on.
pub(crate) fn consulted(mirrors: &[Mirror]) -> Fields {
    let has_filter = mirrors.iter().any(|mirror| mirror.filter.is_some());
    if has_filter { Fields::PACKET } else { Fields::default() }
}

/// The mirrors that get a copy of a frame, which came in by `ingress` into `segment`, if it is in one, and leaves by
/// `outputs`.
pub(crate) fn select(
    vswitch: &VSwitch,
    ingress: PortId,
    frame: &Frame<'_>,
    segment: Option<Segment>,
    outputs: &[Output],
) -> Mirrors {
    let wanted = |mirror: &Mirror| {
        let is_of = |port: PortId| mirror.ports.is_empty() || mirror.ports.binary_search(&port).is_ok();
        let comes_in = || is_of(ingress);
        let goes_out = || outputs.iter().any(|output| is_of(output.port));
        let passes = match mirror.direction {
            Direction::In => comes_in(),
            Direction::Out => goes_out(),
            Direction::Both => comes_in() || goes_out(),
        };
        let is_there = mirror.segments.is_empty() || segment.is_some_and(|segment| mirror.segments.contains(&segment));
        passes && is_there && mirror.filter.as_ref().is_none_or(|filter| filter.fits(frame.packet))
    };
    let bits = vswitch.mirrors().iter().zip(0..).filter(|(mirror, _)| wanted(mirror));
    bits.fold(0, |all, (_, bit)| all | 1 << bit)
}

impl MirrorFilter {
    fn fits(&self, packet: &Packet) -> bool {
        let Some((src, dst)) = packet.src().zip(packet.dst()) else {
            return self.from.is_none() && self.to.is_none() && self.traffic == Traffic::Any;
        };
        let holds = |net: Option<IpNet>, address: IpAddr| net.is_none_or(|net| net.contains(&address));
        let (src_port, dst_port) = ((packet.ports >> 16) as u16, packet.ports as u16);
        let is_hidden = packet.fragment == Piece::Later || packet.transport_at == 0;
        // Where ports cannot be seen, a copy too many is better than one too few.
        let is_kind = |from: u16, to: u16| match &self.traffic {
            Traffic::Any => true,
            Traffic::Protocol(protocol) => protocol.0 == packet.protocol,
            Traffic::Ports { protocol, src, dst } => {
                protocol.0 == packet.protocol && (is_hidden || src.contains(&from) && dst.contains(&to))
            }
            Traffic::Icmp { protocol, kind } => {
                protocol.0 == packet.protocol && (is_hidden || packet.ports >> 8 == u32::from(*kind))
            }
        };
        let forth = holds(self.from, src) && holds(self.to, dst) && is_kind(src_port, dst_port);
        forth || holds(self.from, dst) && holds(self.to, src) && is_kind(dst_port, src_port)
    }
}
