//! In which segment a frame is (law 4).

use std::ops::ControlFlow;

use super::{Action, Context, Continue};
use crate::{DropReason, Vlans};

/// The port's VLANs and the frame's tag say where it is.
pub(super) fn classify(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let (tag, is_double) = (cx.tag(), cx.is_double());
    let port = &cx.ingress().config;
    let because = Some(&port.provenance);
    match port.vlans.classify(tag, is_double) {
        Ok(segment) => {
            cx.segment = segment;
            cx.found(because, || match tag {
                None => format!("the frame has no tag, so it is in {segment}"),
                Some(tag) if tag.vlan().is_none() => {
                    format!("the frame's tag only says priority {}, so it is in {segment}", tag.priority())
                }
                Some(_) => format!("by its tag the frame is in {segment}"),
            });
            Continue(())
        }
        Err(reason) => cx.drop(reason, because, || {
            let kind = tag.map_or_else(String::new, |tag| tag.kind.to_string());
            let vlan = tag.map_or(0, |tag| tag.control & 0xfff);
            match (reason, &port.vlans) {
                (DropReason::Untagged, _) => {
                    format!("the frame is in no VLAN, and trunk port `{}` has no native one", port.name)
                }
                (DropReason::VlanNotAllowed, Vlans::Trunk { allowed, .. }) => {
                    format!("trunk port `{}` carries VLANs {allowed}, and not {vlan}", port.name)
                }
                (DropReason::ReservedVlan, _) => "no frame can be in VLAN 4095".to_owned(),
                (DropReason::DoubleTagged, _) => "a tag without a VLAN hides another tag".to_owned(),
                _ => format!("the frame has an {kind} tag, and this is an access port"),
            }
        }),
    }
}
