//! The policy pipeline: which frames may pass, and where they go. It runs once per flow; the flow cache remembers.
//!
//! A stage reads a frame only through its [`Context`], which notes the fields that it consulted. Each stage says
//! which they can be; together they are the cache's key, so a frame that differs in nothing that was consulted
//! has the same verdict. A later stage that consults more (an access list, a flow table) adds its fields to its
//! line of [`STAGES`], and that is all.

use std::ops::ControlFlow::{self, Break, Continue};

use weft_types::{MacAddr, PortId, Provenance, VlanId};
use weft_wire::ethernet::{Header, Tag};

use crate::table::{Port, PortIndex, Ports, Tables, VSwitch, VSwitchIndex};
use crate::{DropReason, Role, Step};

/// What is to be done with a frame; small, and free of pointers, so that the cache can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It goes nowhere.
    Drop(DropReason),
    /// It goes to these ports.
    Send(Ports),
    /// It goes to one port, and promiscuous ports of its vSwitch hear it too.
    Overheard { target: PortId, vswitch: VSwitchIndex },
}

impl Action {
    /// What stands where nothing was decided.
    pub(crate) const BLANK: Self = Self::Drop(DropReason::UnknownPort);
}

/// A set of the fields by which frames can be told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(u8);

impl Fields {
    /// The port by which a frame came in.
    pub(crate) const INGRESS: Self = Self(1);
    /// Its destination.
    pub(crate) const DST: Self = Self(2);
    /// Its source.
    pub(crate) const SRC: Self = Self(4);
    /// Its outermost tag, or that it has none.
    pub(crate) const TAG: Self = Self(8);
    /// What it carries.
    pub(crate) const ETHERTYPE: Self = Self(16);

    /// All of both.
    #[must_use]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in it.
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A step on a frame's way, which may end there.
struct Stage {
    /// Its stable name, which explanations use.
    name: &'static str,
    /// The fields that it may consult.
    consults: Fields,
    run: fn(&mut Context<'_>) -> ControlFlow<Action>,
}

/// The stages in order. The last one always ends the frame's way.
const STAGES: [Stage; 4] = [
    Stage { name: "access-vlan", consults: Fields::TAG, run: access_vlan },
    Stage { name: "source-mac", consults: Fields::INGRESS.and(Fields::SRC).and(Fields::TAG), run: source_mac },
    Stage { name: "reserved-group", consults: Fields::DST, run: reserved_group },
    Stage { name: "mac-table", consults: Fields::INGRESS.and(Fields::DST).and(Fields::TAG), run: mac_table },
];

/// All fields that any stage may consult.
pub(crate) const CONSULTED: Fields = {
    let mut fields = Fields(0);
    let mut i = 0;
    while i < STAGES.len() {
        fields = fields.and(STAGES[i].consults);
        i += 1;
    }
    fields
};

/// Decides about a frame; tells what it found to `steps`, if anybody wants to know.
pub(crate) fn decide(tables: &Tables, ingress: PortIndex, header: &Header, steps: Option<&mut Vec<Step>>) -> Action {
    let mut context = Context { tables, ingress, header, consulted: Fields::default(), stage: STAGES[0].name, steps };
    for stage in &STAGES {
        context.stage = stage.name;
        context.consulted = Fields::default();
        let end = (stage.run)(&mut context);
        debug_assert!(stage.consults.contains(context.consulted), "{} consults more than it says", stage.name);
        if let Break(action) = end {
            return action;
        }
    }
    Action::BLANK
}

/// What a stage may know.
struct Context<'a> {
    tables: &'a Tables,
    ingress: PortIndex,
    header: &'a Header,
    consulted: Fields,
    stage: &'static str,
    steps: Option<&'a mut Vec<Step>>,
}

impl<'a> Context<'a> {
    /// The port by which the frame came in.
    fn ingress(&mut self) -> &'a Port {
        self.consulted = self.consulted.and(Fields::INGRESS);
        self.tables.port(self.ingress)
    }

    /// The vSwitch on which the frame is.
    fn vswitch(&mut self) -> &'a VSwitch {
        let index = self.ingress().vswitch;
        self.tables.vswitch(index)
    }

    fn src(&mut self) -> MacAddr {
        self.consulted = self.consulted.and(Fields::SRC);
        self.header.src
    }

    fn dst(&mut self) -> MacAddr {
        self.consulted = self.consulted.and(Fields::DST);
        self.header.dst
    }

    fn tag(&mut self) -> Option<Tag> {
        self.consulted = self.consulted.and(Fields::TAG);
        self.header.tag
    }

    /// The VLAN in which the frame is.
    fn vlan(&mut self) -> Option<VlanId> {
        self.tag().and_then(Tag::vlan)
    }

    /// The port on the frame's vSwitch and VLAN for which `mac` is registered.
    fn owner(&mut self, mac: MacAddr) -> Option<PortIndex> {
        let (vswitch, vlan) = (self.ingress().vswitch, self.vlan());
        self.tables.owner(vswitch, vlan, mac)
    }

    /// Says what was found and which declaration made it so; costs nothing when nobody listens.
    fn found(&mut self, because: Option<&Provenance>, finding: impl FnOnce() -> String) {
        if let Some(steps) = &mut self.steps {
            steps.push(Step { stage: self.stage, finding: finding(), because: because.cloned() });
        }
    }

    /// Ends the frame's way.
    fn drop(
        &mut self,
        reason: DropReason,
        because: Option<&Provenance>,
        finding: impl FnOnce() -> String,
    ) -> ControlFlow<Action> {
        self.found(because, finding);
        Break(Action::Drop(reason))
    }
}

/// Every port is an access port as yet: its frames have no tag.
fn access_vlan(cx: &mut Context<'_>) -> ControlFlow<Action> {
    match cx.tag() {
        None => {
            cx.found(None, || "the frame has no tag".to_owned());
            Continue(())
        }
        Some(tag) => cx.drop(DropReason::Tagged, None, || {
            format!("the frame has an {} tag, and this is an access port", tag.kind)
        }),
    }
}

/// Stations send as themselves. What stands behind an uplink is not known, so only what no station can be is
/// refused there.
fn source_mac(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let src = cx.src();
    if !src.is_station() {
        return cx.drop(DropReason::InvalidSource, None, || format!("{src} cannot be a station's address"));
    }
    let port = cx.ingress();
    let because = Some(&port.config.provenance);
    let name = &port.config.name;
    if port.config.role == Role::Uplink {
        cx.found(because, || format!("`{name}` is an uplink: any station may be behind it"));
    } else if cx.owner(src) == Some(cx.ingress) {
        cx.found(because, || format!("{src} is registered for `{name}`"));
    } else if port.config.policy.forged_macs {
        cx.found(because, || format!("{src} is not registered for `{name}`, which may send from any address"));
    } else {
        return cx.drop(DropReason::ForgedMac, because, || format!("{src} is not registered for `{name}`"));
    }
    Continue(())
}

/// A bridge forwards nothing that is for the bridges themselves (IEEE 802.1Q, table 8-1).
fn reserved_group(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let dst = cx.dst();
    if let [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f] = dst.octets() {
        return cx.drop(DropReason::ReservedGroup, None, || format!("{dst} is for the bridge next to the sender only"));
    }
    Continue(())
}

/// Law 3.
fn mac_table(cx: &mut Context<'_>) -> ControlFlow<Action> {
    let dst = cx.dst();
    if dst.is_group() { flood(cx, dst) } else { unicast(cx, dst) }
}

/// Frames for a group go to all ports: which groups a port listens to is not known (law 1).
fn flood(cx: &mut Context<'_>, dst: MacAddr) -> ControlFlow<Action> {
    let vswitch = cx.vswitch();
    let (name, because) = (&vswitch.config.name, Some(&vswitch.config.provenance));
    match cx.tables.all_but(cx.ingress) {
        Some(others) => {
            cx.found(because, || format!("{dst} is a group: all other ports of `{name}` hear it"));
            Break(Action::Send(others))
        }
        None => {
            cx.drop(DropReason::NoReceiver, because, || format!("{dst} is a group, and `{name}` has no other port"))
        }
    }
}

/// Frames for a station go to its port, or to where it could be.
fn unicast(cx: &mut Context<'_>, dst: MacAddr) -> ControlFlow<Action> {
    let vswitch = cx.vswitch();
    match (cx.owner(dst), vswitch.uplink) {
        (Some(owner), _) if owner == cx.ingress => {
            let port = &cx.ingress().config;
            let because = Some(&port.provenance);
            cx.drop(DropReason::SamePort, because, || format!("{dst} is registered for `{}` itself", port.name))
        }
        (Some(owner), _) => {
            let port = &cx.tables.port(owner).config;
            cx.found(Some(&port.provenance), || format!("{dst} is registered for `{}`", port.name));
            deliver(cx, owner)
        }
        (None, Some(uplink)) if uplink != cx.ingress => {
            let port = &cx.tables.port(uplink).config;
            cx.found(Some(&port.provenance), || format!("{dst} is not known, so it may be behind `{}`", port.name));
            deliver(cx, uplink)
        }
        (None, uplink) => {
            let why = if uplink.is_some() { "comes from the uplink" } else { "has no uplink to take" };
            let (name, because) = (&vswitch.config.name, Some(&vswitch.config.provenance));
            cx.drop(DropReason::UnknownUnicast, because, || {
                format!("{dst} is registered for no port of `{name}`, and the frame {why}")
            })
        }
    }
}

/// To `target`, and to those who may listen.
fn deliver(cx: &mut Context<'_>, target: PortIndex) -> ControlFlow<Action> {
    let (ingress, vswitch) = (cx.ingress(), cx.vswitch());
    let target_id = cx.tables.port(target).config.id;
    let listeners = vswitch.listeners(ingress.config.id, target_id).count();
    if listeners == 0 {
        return Break(Action::Send(cx.tables.only(target)));
    }
    cx.found(None, || format!("{listeners} promiscuous port(s) hear it too"));
    Break(Action::Overheard { target: target_id, vswitch: ingress.vswitch })
}

impl VSwitch {
    /// The promiscuous ports that hear a frame from `ingress` besides its `target`.
    pub(crate) fn listeners(&self, ingress: PortId, target: PortId) -> impl Iterator<Item = PortId> {
        self.promiscuous.iter().copied().filter(move |port| *port != ingress && *port != target)
    }
}
