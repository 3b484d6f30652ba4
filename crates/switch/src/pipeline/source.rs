//! Who sends (laws 1 and 5).

use std::ops::ControlFlow;

use super::{Action, Context, Continue};
use crate::{DropReason, Role};

/// Stations send as themselves. What stands behind an uplink is not known, so only what no station can be is
/// refused there.
pub(super) fn check(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let src = cx.src();
    if !src.is_station() {
        return cx.drop(DropReason::InvalidSource, None, || format!("{src} cannot be a station's address"));
    }
    let port = cx.ingress();
    let because = Some(&port.config.provenance);
    let name = &port.config.name;
    let owner = cx.tables.owner(port.vswitch, cx.segment, src);
    if port.config.role == Role::Uplink {
        cx.found(because, || format!("`{name}` is an uplink: any station may be behind it"));
    } else if owner == Some(cx.ingress) || port.is_configured(src) {
        cx.found(because, || format!("{src} is registered for `{name}`"));
    } else if port.config.learn > 0 && owner.is_none() {
        return learn(cx);
    } else if port.config.policy.forged_macs {
        cx.found(because, || format!("{src} is not registered for `{name}`, which may send from any address"));
    } else {
        return cx.drop(DropReason::ForgedMac, because, || format!("{src} is not registered for `{name}`"));
    }
    Continue(())
}

/// A station that is nobody else's, at a port that learns.
fn learn(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let src = cx.src();
    let station = cx.station(src);
    let (port, learned, now) = (&cx.ingress().config, &cx.knowledge.learned, cx.now);
    let because = Some(&port.provenance);
    if let Some(seen) = learned.get(now, &station)
        && seen.port == port.id
    {
        cx.until = cx.until.min(seen.until);
        cx.found(because, || format!("{src} was learned behind `{}`", port.name));
    } else if learned.has_room(now, port.id, port.learn) {
        cx.effects.learn = Some(station);
        cx.found(because, || format!("{src} is new: it is learned behind `{}`", port.name));
    } else {
        cx.effects.no_room = true;
        return cx.drop(DropReason::LearnLimit, because, || {
            format!("{src} is new, and `{}` has learned {} stations already", port.name, port.learn)
        });
    }
    Continue(())
}
