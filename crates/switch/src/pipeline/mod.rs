//! The policy pipeline: which frames may pass, and where they go. It runs once per flow; the flow cache remembers.
//!
//! A stage reads a frame only through its [`Context`], which notes the fields that it consulted. For each port it is
//! known which they can be ([`consulted`]); together they are the cache's key, so a frame that differs in nothing
//! that was consulted has the same verdict. The pipeline changes nothing: what a frame teaches is in [`Effects`], which
//! the switch carries out when the frame was meant.

mod acl;
mod guard;
mod mac_table;
pub(crate) mod mirror;
mod source;
pub(crate) mod team;
mod vlan;

use std::net::IpAddr;
use std::ops::ControlFlow::{self, Break, Continue};

use weft_types::{Instant, MacAddr, Provenance};
use weft_wire::TagEdit;
use weft_wire::ethernet::Tag;

use crate::bindings::{Bindings, Claim};
use crate::connections::{Connections, Touch, Tuple};
use crate::frame::Frame;
use crate::learned::{Learned, Station};
use crate::packet::Class;
use crate::table::{Port, PortIndex, Tables, VSwitch};
use crate::{Addresses, DropReason, Output, Permission, PortConfig, Segment, Step};

/// What is to be done with a frame; small, and free of pointers, so that the cache can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It goes nowhere.
    Drop(DropReason),
    /// It goes to one port.
    Send(Output),
    /// It goes to one port, and promiscuous ports of its segment hear it too.
    Overheard { target: PortIndex, segment: Segment, sender: Option<PortIndex> },
    /// It goes to all who listen to its destination in its segment, except the `sender` to whom it is reflected.
    Flood { segment: Segment, sender: Option<PortIndex> },
}

impl Action {
    /// What stands where nothing was decided.
    pub(crate) const BLANK: Self = Self::Drop(DropReason::UnknownPort);
}

/// A set of the fields by which frames can be told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(u16);

impl Fields {
    /// The port by which a frame came in.
    pub(crate) const INGRESS: Self = Self(1);
    /// Its destination.
    pub(crate) const DST: Self = Self(2);
    /// Its source.
    pub(crate) const SRC: Self = Self(4);
    /// Its outermost tag, or that it has none.
    pub(crate) const TAG: Self = Self(8);
    /// What follows that: another tag, or what it carries.
    pub(crate) const ETHERTYPE: Self = Self(16);
    /// What kind of packet that is.
    pub(crate) const CLASS: Self = Self(32);
    /// Who sends the packet.
    pub(crate) const IP_SRC: Self = Self(64);
    /// To whom, and by which transport protocol and ports, and whether it is a fragment.
    pub(crate) const TRANSPORT: Self = Self(128);
    /// All that access lists consult.
    pub(crate) const PACKET: Self = Self::CLASS.and(Self::IP_SRC).and(Self::TRANSPORT);

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

/// The fields that every decision may rest on.
pub(crate) const LINK: Fields =
    Fields::INGRESS.and(Fields::DST).and(Fields::SRC).and(Fields::TAG).and(Fields::ETHERTYPE);

/// All fields of frames from such a port that any stage may consult; `learns` says whether any port learns addresses,
/// `has_fixed` whether the vSwitch has a port with configured ones, `asks_whom` whether it has an access list or an
/// adapter of the host.
pub(crate) fn consulted(port: &PortConfig, learns: bool, has_fixed: bool, asks_whom: bool) -> Fields {
    if asks_whom {
        return LINK.and(Fields::PACKET);
    }
    match (port.is_trusted(), &port.addresses) {
        (true, _) if learns => LINK.and(Fields::CLASS),
        (true, _) => LINK,
        (false, addresses) if !port.policy.forged_ips && (has_fixed || *addresses != Addresses::Any) => {
            LINK.and(Fields::CLASS).and(Fields::IP_SRC)
        }
        (false, _) => LINK.and(Fields::CLASS),
    }
}

/// A step on a frame's way, which may end there.
struct Stage {
    /// Its stable name, which explanations use.
    name: &'static str,
    run: fn(&mut Context<'_>) -> ControlFlow<Action>,
}

/// The stages in order. The last one always ends the frame's way.
const STAGES: [Stage; 6] = [
    Stage { name: "vlan", run: vlan::classify },
    Stage { name: "team", run: team::check },
    Stage { name: "source-mac", run: source::check },
    Stage { name: "port-policy", run: guard::check },
    Stage { name: "reserved-group", run: mac_table::reserved_group },
    Stage { name: "mac-table", run: mac_table::look_up },
];

/// What the switch has learned from frames: it lapses, and every decision that rests on it with it.
#[derive(Debug)]
pub(crate) struct Knowledge {
    /// Law 1's exception.
    pub(crate) learned: Learned,
    /// Law 5's addresses.
    pub(crate) bindings: Bindings,
    /// Law 6's.
    pub(crate) connections: Connections,
}

impl Knowledge {
    /// Nothing; `seed` keys the tables.
    pub(crate) fn new(seed: u64) -> Self {
        Self { learned: Learned::new(seed), bindings: Bindings::new(seed), connections: Connections::new(seed) }
    }
}

/// What a frame teaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// A new station is behind the port by which it came in.
    pub(crate) learn: Option<Station>,
    /// It could not be learned: there was no room.
    pub(crate) no_room: bool,
    /// A port gets an IP address.
    pub(crate) claim: Option<Claim>,
    /// A connection begins or goes on.
    pub(crate) touch: Option<Touch>,
    /// A connection is not allowed any more.
    pub(crate) end: Option<Tuple>,
    /// None could begin: there was no room.
    pub(crate) full: bool,
    /// What the access list said about its one receiver.
    pub(crate) ruling: Option<Ruling>,
    /// It is for a group in this segment: the list says something about each receiver but this one.
    pub(crate) group: Option<(Segment, Option<PortIndex>)>,
}

/// What the pipeline found.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) action: Action,
    /// Until when it counts.
    pub(crate) until: Instant,
    pub(crate) effects: Effects,
}

/// Decides about a frame; tells what it found to `steps`, if anybody wants to know.
pub(crate) fn decide(
    tables: &Tables,
    knowledge: &Knowledge,
    now: Instant,
    ingress: PortIndex,
    frame: &Frame<'_>,
    steps: Option<&mut Vec<Step>>,
) -> Decision {
    let mut context = Context {
        tables,
        knowledge,
        now,
        ingress,
        frame,
        segment: Segment::Untagged,
        until: Instant::MAX,
        effects: Effects::default(),
        consulted: Fields::default(),
        stage: STAGES[0].name,
        steps,
    };
    let mut action = Action::BLANK;
    for stage in &STAGES {
        context.stage = stage.name;
        if let Break(end) = (stage.run)(&mut context) {
            action = end;
            break;
        }
    }
    let is_keyed = tables.port(ingress).fields.contains(context.consulted);
    debug_assert!(is_keyed || context.until <= now, "{:?} are not in the key", context.consulted);
    Decision { action, until: context.until, effects: context.effects }
}

/// What a stage may know.
struct Context<'a> {
    tables: &'a Tables,
    knowledge: &'a Knowledge,
    now: Instant,
    ingress: PortIndex,
    frame: &'a Frame<'a>,
    /// Where the frame is: what the first stage found.
    segment: Segment,
    /// When the first of the facts may lapse on which the decision rests.
    until: Instant,
    effects: Effects,
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
        self.frame.link.src
    }

    fn dst(&mut self) -> MacAddr {
        self.consulted = self.consulted.and(Fields::DST);
        self.frame.link.dst
    }

    fn tag(&mut self) -> Option<Tag> {
        self.consulted = self.consulted.and(Fields::TAG);
        self.frame.link.tag
    }

    /// Whether another tag follows the outermost.
    fn is_double(&mut self) -> bool {
        self.consulted = self.consulted.and(Fields::TAG).and(Fields::ETHERTYPE);
        self.frame.is_double()
    }

    /// What kind of packet it carries.
    fn class(&mut self) -> Class {
        self.consulted = self.consulted.and(Fields::CLASS);
        self.frame.packet.class
    }

    /// Who sends the packet.
    fn ip_src(&mut self) -> Option<IpAddr> {
        self.consulted = self.consulted.and(Fields::IP_SRC);
        self.frame.packet.src()
    }

    /// To whom the packet is.
    fn ip_dst(&mut self) -> Option<IpAddr> {
        self.consulted = self.consulted.and(Fields::TRANSPORT);
        self.frame.packet.dst()
    }

    /// What `mac` is known by where the frame is.
    fn station(&mut self, mac: MacAddr) -> Station {
        Station { vswitch: self.vswitch().config.id, segment: self.segment, mac }
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

pub(crate) use acl::{Ruling, TCP_CONTROL};
pub(crate) use mirror::Mirrors;

/// The ways of a frame for a group: to all who listen and may.
pub(crate) fn flooded<'a>(
    tables: &'a Tables,
    ingress: PortIndex,
    frame: &'a Frame<'_>,
    segment: Segment,
    sender: Option<PortIndex>,
) -> impl Iterator<Item = Output> + 'a {
    let rulings = rulings(tables, ingress, frame, segment, sender);
    rulings.filter(|(_, ruling)| ruling.permission == Permission::Allow).map(|(output, _)| output)
}

/// What the access list says about each receiver of a frame for a group.
pub(crate) fn rulings<'a>(
    tables: &'a Tables,
    ingress: PortIndex,
    frame: &'a Frame<'_>,
    segment: Segment,
    sender: Option<PortIndex>,
) -> impl Iterator<Item = (Output, Ruling)> + 'a {
    let audience = tables.audience(tables.port(ingress).vswitch, segment, frame.link.dst);
    let may_leave = team::may_leave(tables, ingress, segment, frame);
    let others = audience.filter(move |port| *port != ingress && Some(*port) != sender && may_leave(*port));
    others.filter_map(move |port| {
        let way = output(tables, frame, segment, port)?;
        Some((way, acl::ruling(tables, ingress, frame, port)))
    })
}

/// The frame's way out of a port, if it has one: not back to where it came from, nor where the tag below its outermost
/// would carry it into another VLAN.
#[inline]
pub(crate) fn way<'a>(
    tables: &'a Tables,
    ingress: PortIndex,
    frame: &'a Frame<'a>,
    segment: Segment,
) -> impl Fn(PortIndex) -> Option<Output> + 'a {
    let may_leave = team::may_leave(tables, ingress, segment, frame);
    move |port| {
        let is_way = port != ingress && may_leave(port);
        if is_way { output(tables, frame, segment, port) } else { None }
    }
}

/// The frame's way out of `port`, if it may take it.
#[inline]
fn output(tables: &Tables, frame: &Frame<'_>, segment: Segment, port: PortIndex) -> Option<Output> {
    let config = &tables.port(port).config;
    let edit = config.vlans.edit(segment, frame.link.tag);
    let hops = edit == TagEdit::Pop && frame.is_double();
    (!hops).then_some(Output { port: config.id, edit })
}
