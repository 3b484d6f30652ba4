//! Where frames go (law 3).

use std::ops::ControlFlow;

use weft_types::{Instant, MacAddr};

use super::{Action, Break, Context, Continue, acl, guard, output, rulings, way};
use crate::table::PortIndex;
use crate::{DropReason, Mode, Output, Permission, Role};

/// A bridge forwards nothing that is for the bridges themselves (IEEE 802.1Q, table 8-1).
pub(super) fn reserved_group(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let dst = cx.dst();
    if let [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f] = dst.octets() {
        return cx.drop(DropReason::ReservedGroup, None, || format!("{dst} is for the bridge next to the sender only"));
    }
    Continue(())
}

/// The ports that the destination leads to.
pub(super) fn look_up(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let dst = cx.dst();
    if cx.vswitch().config.mode == Mode::Vepa && cx.ingress().config.role != Role::Uplink {
        return hand_over(cx);
    }
    if dst.is_group() { flood(cx, dst) } else { unicast(cx, dst) }
}

/// The switch at the other end of the uplink decides (law 8).
fn hand_over(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let (segment, config) = (cx.segment, &cx.vswitch().config);
    let Some(uplink) = cx.way_out() else {
        return cx.drop(DropReason::NoUplink, Some(&config.provenance), || {
            format!("all frames of `{}` leave by its uplink, and none carries {segment}", config.name)
        });
    };
    let port = &cx.tables.port(uplink).config;
    cx.found(Some(&config.provenance), || format!("all frames of `{}` leave by `{}`", config.name, port.name));
    let output = way_out(cx, uplink)?;
    Break(Action::Send(output))
}

/// The port that sent a frame which the adjacent switch reflects: it does not hear itself.
fn reflected_sender(cx: &mut Context<'_>) -> Option<PortIndex> {
    if cx.vswitch().config.mode != Mode::Vepa {
        return None;
    }
    let (src, index) = (cx.src(), cx.ingress().vswitch);
    cx.tables.owner(index, cx.segment, src).or_else(|| learned(cx, src))
}

/// Frames for a group go to all ports that listen to it; where that is not known, they do (law 1).
fn flood(cx: &mut Context<'_>, dst: MacAddr) -> ControlFlow<Action> {
    let segment = cx.segment;
    cx.way_out(); // rests on what the uplink does
    let sender = reflected_sender(cx);
    let config = &cx.vswitch().config;
    let (mut others, mut listeners) = (0, 0);
    for (_, ruling) in rulings(cx.tables, cx.ingress, cx.frame, segment, sender) {
        others += 1;
        listeners += usize::from(ruling.permission == Permission::Allow);
    }
    cx.effects.group = Some((segment, sender));
    if cx.vswitch().rules.is_some() {
        // Each receiver has a verdict of its own, which no cached flow has room for.
        cx.until = Instant::ZERO;
    }
    let (name, because) = (&config.name, Some(&config.provenance));
    if listeners == 0 && others > 0 {
        return cx.drop(DropReason::AclDenied, because, || format!("no rule lets any other port of `{name}` hear it"));
    }
    if listeners == 0 {
        return cx.drop(DropReason::NoReceiver, because, || {
            format!("{dst} is a group, and no other port of `{name}` hears it in {segment}")
        });
    }
    cx.found(because, || format!("{dst} is a group: {listeners} other port(s) of `{name}` hear it in {segment}"));
    Break(Action::Flood { segment, sender })
}

/// Frames for a station go to its port, or to where it could be.
fn unicast(cx: &mut Context<'_>, dst: MacAddr) -> ControlFlow<Action> {
    let (vswitch, segment, index) = (cx.vswitch(), cx.segment, cx.ingress().vswitch);
    let uplink = cx.way_out();
    let is_uplink = |port: PortIndex| cx.tables.port(port).config.role == Role::Uplink;
    let from_uplink = is_uplink(cx.ingress);
    let registered = cx.tables.owner(index, segment, dst);
    let owner = registered.or_else(|| learned(cx, dst));
    // A team is one way out, and one way in.
    let owner = match owner {
        Some(owner) if is_uplink(owner) => {
            if from_uplink {
                Some(cx.ingress)
            } else {
                uplink
            }
        }
        owner => owner,
    };
    let how = if registered.is_some() { "is registered for" } else { "was learned behind" };
    match (owner, uplink) {
        (Some(owner), _) if owner == cx.ingress => {
            let port = &cx.ingress().config;
            let because = Some(&port.provenance);
            cx.drop(DropReason::SamePort, because, || format!("{dst} {how} `{}` itself", port.name))
        }
        (Some(owner), _) => {
            let port = &cx.tables.port(owner).config;
            cx.found(Some(&port.provenance), || format!("{dst} {how} `{}`", port.name));
            deliver(cx, owner)
        }
        (None, Some(uplink)) if !from_uplink => {
            let port = &cx.tables.port(uplink).config;
            cx.found(Some(&port.provenance), || format!("{dst} is not known, so it may be behind `{}`", port.name));
            deliver(cx, uplink)
        }
        (None, uplink) => {
            let why = if uplink.is_some() { "comes from the uplink" } else { "has no uplink to take" };
            let (name, because) = (&vswitch.config.name, Some(&vswitch.config.provenance));
            cx.drop(DropReason::UnknownUnicast, because, || {
                format!("{dst} is registered for no port of `{name}` in {segment}, and the frame {why}")
            })
        }
    }
}

/// The port behind which `mac` was seen.
fn learned(cx: &mut Context<'_>, mac: MacAddr) -> Option<PortIndex> {
    let station = cx.station(mac);
    if cx.effects.learn == Some(station) {
        return Some(cx.ingress);
    }
    let seen = cx.knowledge.learned.get(cx.now, &station)?;
    cx.until = cx.until.min(seen.until);
    cx.tables.index(seen.port)
}

/// The frame's way out of `target`, where it may go.
fn way_out(cx: &mut Context<'_>, target: PortIndex) -> ControlFlow<Action, Output> {
    cx.tag();
    cx.is_double();
    let Some(output) = output(cx.tables, cx.frame, cx.segment, target) else {
        let port = &cx.tables.port(target).config;
        let Break(end) = cx.drop(DropReason::DoubleTagged, Some(&port.provenance), || {
            format!("`{}` would get the frame without its outer tag, and below it is another", port.name)
        }) else {
            return Break(Action::BLANK);
        };
        return Break(end);
    };
    match acl::check(cx, target) {
        Continue(()) => Continue(output),
        Break(end) => Break(end),
    }
}

/// To `target`, and to those who may listen.
fn deliver(cx: &mut Context<'_>, target: PortIndex) -> ControlFlow<Action> {
    let sender = reflected_sender(cx);
    if sender == Some(target) {
        let port = &cx.tables.port(target).config;
        return cx.drop(DropReason::SamePort, Some(&port.provenance), || {
            format!("`{}` sent it to itself, and the adjacent switch reflects it", port.name)
        });
    }
    guard::hears(cx, target)?;
    let (segment, ingress) = (cx.segment, cx.ingress().vswitch);
    let output = way_out(cx, target)?;
    let others = cx.tables.listeners(ingress, segment).filter(|port| *port != target && Some(*port) != sender);
    let listeners = others.filter_map(way(cx.tables, cx.ingress, cx.frame, segment)).count();
    if listeners == 0 {
        return Break(Action::Send(output));
    }
    cx.found(None, || format!("{listeners} promiscuous port(s) hear it too"));
    Break(Action::Overheard { target, segment, sender })
}
