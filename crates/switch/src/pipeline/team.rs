//! Which of several uplinks (law 8).

use std::ops::ControlFlow;

use super::{Action, Context, Continue, Fields};
use crate::frame::Frame;
use crate::packet::Piece;
use crate::table::{PortIndex, Tables, VSwitchIndex};
use crate::{DropReason, Mode, Role, Segment, TeamMode};

/// What comes in by an uplink of a team: only by one that is active, and nothing that was sent from here.
pub(super) fn check(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let (vswitch, port) = (cx.vswitch(), &cx.ingress().config);
    let Some(team) = vswitch.config.team.as_ref().filter(|_| port.role == Role::Uplink) else { return Continue(()) };
    let because = Some(&port.provenance);
    if team.mode == TeamMode::ActiveStandby && cx.way_out() != Some(cx.ingress) {
        return cx.drop(DropReason::StandbyUplink, because, || format!("`{}` is not the active uplink", port.name));
    }
    let (src, index) = (cx.src(), cx.ingress().vswitch);
    let owner = cx.tables.owner(index, cx.segment, src).map(|owner| &cx.tables.port(owner).config);
    if let Some(owner) = owner.filter(|owner| owner.role != Role::Uplink && vswitch.config.mode == Mode::Veb) {
        return cx.drop(DropReason::Returned, Some(&owner.provenance), || {
            format!("{src} is registered for `{}`: what it sent comes back", owner.name)
        });
    }
    Continue(())
}

/// All fields besides those of every decision that the choice of an uplink rests on.
pub(crate) fn consulted(mode: Option<TeamMode>) -> Fields {
    if mode == Some(TeamMode::FlowHash) { Fields::PACKET } else { Fields::default() }
}

/// The uplink by which a frame of `segment` leaves a vSwitch.
pub(super) fn choose(tables: &Tables, vswitch: VSwitchIndex, segment: Segment, frame: &Frame<'_>) -> Option<PortIndex> {
    let vswitch = tables.vswitch(vswitch);
    let mut carrying = vswitch.uplinks.iter().copied().filter(|uplink| tables.port(*uplink).carries(segment));
    let Some(team) = &vswitch.config.team else { return carrying.next() };
    let mut live = carrying.clone().filter(|uplink| tables.port(*uplink).is_up);
    let chosen = match team.mode {
        TeamMode::ActiveStandby => live.next(),
        // The highest score wins, so that only the flows of a link that goes or comes change theirs.
        TeamMode::FlowHash => live.max_by_key(|uplink| score(frame, tables.port(*uplink).config.id.0)),
    };
    chosen.or_else(|| carrying.next())
}

/// Whether a frame may leave by `port`: by any that is no uplink, and by one uplink, if it did not come in by one.
#[inline]
pub(super) fn may_leave(
    tables: &Tables,
    ingress: PortIndex,
    segment: Segment,
    frame: &Frame<'_>,
) -> impl Fn(PortIndex) -> bool {
    let from = tables.port(ingress);
    let is_uplink = |port: PortIndex| tables.port(port).config.role == Role::Uplink;
    // One uplink alone is neither chosen nor, where the frame comes from, left by.
    let has_team = tables.vswitch(from.vswitch).uplinks.len() > 1;
    let way = if has_team && !is_uplink(ingress) { choose(tables, from.vswitch, segment, frame) } else { None };
    move |port| !has_team || !is_uplink(port) || way == Some(port)
}

/// How much a flow likes an uplink (FNV-1a of all that tells flows apart). Fragments show no ports, so that all of a
/// packet takes one way.
fn score(frame: &Frame<'_>, uplink: u32) -> u64 {
    let packet = &frame.packet;
    let (src, dst, _) = packet.numbers();
    let ports = if packet.fragment == Piece::Whole { packet.ports } else { 0 };
    let bytes = uplink.to_be_bytes().into_iter();
    let bytes = bytes.chain(frame.link.src.octets()).chain(frame.link.dst.octets());
    let bytes = bytes.chain(src.to_be_bytes()).chain(dst.to_be_bytes());
    let bytes = bytes.chain([packet.protocol]).chain(ports.to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Context<'_> {
    /// The uplink by which the frame would leave.
    pub(super) fn way_out(&mut self) -> Option<PortIndex> {
        let (index, mode) = (self.ingress().vswitch, self.vswitch().config.team.as_ref().map(|team| team.mode));
        self.consulted = self.consulted.and(consulted(mode)).and(Fields::SRC).and(Fields::DST);
        choose(self.tables, index, self.segment, self.frame)
    }
}
