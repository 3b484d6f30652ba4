//! How the fate of a frame is decided: an ordered list of stages, each of which may end it.
//!
//! The fast path runs it once a flow and keeps the result; `explain` runs it with a [`Recorder`] that listens.

use std::fmt;
use std::ops::ControlFlow;

use weft_types::Provenance;
use weft_wire::ethernet::Header;

use crate::DropReason;
use crate::cache::Fate;
use crate::config::Role;
use crate::explain::Step;
use crate::table::{Port, PortIndex, Program, Table};

/// Listens to a decision. The fast path's listener does nothing, and compiles to nothing.
pub(crate) trait Recorder {
    fn note(&mut self, stage: &'static str, finding: fmt::Arguments<'_>, because: Option<&Provenance>);
}

/// Nobody listens.
pub(crate) struct Deaf;

impl Recorder for Deaf {
    #[inline(always)]
    fn note(&mut self, _: &'static str, _: fmt::Arguments<'_>, _: Option<&Provenance>) {}
}

impl Recorder for Vec<Step> {
    fn note(&mut self, stage: &'static str, finding: fmt::Arguments<'_>, because: Option<&Provenance>) {
        self.push(Step { stage, finding: finding.to_string(), because: because.cloned() });
    }
}

/// A frame on its way through the stages.
struct Passage<'a> {
    table: &'a Table,
    ingress: &'a Port,
    header: &'a Header,
}

type Stage<R> = fn(&Passage<'_>, &mut R) -> ControlFlow<Fate>;

/// Decides what happens to a frame that came in by `ingress`.
pub(crate) fn decide<R: Recorder>(table: &Table, ingress: PortIndex, header: &Header, recorder: &mut R) -> Fate {
    let stages: [Stage<R>; 3] = [tags, ingress_policy, mac_table];
    let passage = Passage { table, ingress: table.port(ingress), header };
    for stage in stages {
        if let ControlFlow::Break(fate) = stage(&passage, recorder) {
            return fate;
        }
    }
    unreachable!("the MAC table decides on every frame")
}

fn drop(reason: DropReason) -> ControlFlow<Fate> {
    ControlFlow::Break(Fate::Drop(reason))
}

/// Ports are access ports of an untagged network: a tag would carry a frame where nobody said it may go.
fn tags<R: Recorder>(passage: &Passage<'_>, recorder: &mut R) -> ControlFlow<Fate> {
    let Some(tag) = passage.header.tag else { return ControlFlow::Continue(()) };
    let because = Some(&passage.ingress.provenance);
    recorder.note("tags", format_args!("tagged with VLAN {}, on a port that carries no tags", tag.vid()), because);
    drop(DropReason::Tagged)
}

/// A port sends from its own addresses only, unless it may forge.
fn ingress_policy<R: Recorder>(passage: &Passage<'_>, recorder: &mut R) -> ControlFlow<Fate> {
    const STAGE: &str = "ingress-policy";
    let (port, source) = (passage.ingress, passage.header.source);
    let because = Some(&port.provenance);
    if !source.is_station() {
        recorder.note(STAGE, format_args!("the source {source} is not a station's address"), None);
        return drop(DropReason::BadSource);
    }
    if port.macs.contains(&source) {
        recorder.note(STAGE, format_args!("the source {source} is registered for `{}`", port.name), because);
        return ControlFlow::Continue(());
    }
    if port.policy.forged_macs || port.role == Role::Uplink {
        recorder.note(STAGE, format_args!("`{}` may send from any address, here {source}", port.name), because);
        return ControlFlow::Continue(());
    }
    recorder.note(STAGE, format_args!("the source {source} is not registered for `{}`", port.name), because);
    drop(DropReason::ForgedMac)
}

/// Law 3: a known address to its port, an unknown one to the uplink if it may, a group to all.
fn mac_table<R: Recorder>(passage: &Passage<'_>, recorder: &mut R) -> ControlFlow<Fate> {
    const STAGE: &str = "mac-table";
    let Passage { table, ingress, header } = passage;
    let destination = header.destination;
    let forward = |program| ControlFlow::Break(Fate::Forward(program));
    if destination.is_group() {
        if let [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f] = destination.octets() {
            recorder.note(STAGE, format_args!("{destination} is for the next bridge only"), None);
            return drop(DropReason::LinkLocalGroup);
        }
        let who = if destination.is_broadcast() { "everybody" } else { "a group" };
        recorder.note(STAGE, format_args!("{destination} is for {who} on the network"), None);
        return forward(Program::Flood);
    }
    if let Some(index) = table.locate(ingress, destination) {
        let target = table.port(index);
        let because = Some(&target.provenance);
        recorder.note(STAGE, format_args!("{destination} is behind `{}`", target.name), because);
        return match target.id == ingress.id {
            true => drop(DropReason::NotForOthers),
            false => forward(Program::Unicast(index)),
        };
    }
    match table.uplink(ingress) {
        Some(uplink) if ingress.role != Role::Uplink => {
            let port = table.port(uplink);
            let because = Some(&port.provenance);
            recorder.note(
                STAGE,
                format_args!("{destination} is unknown, so it goes to the uplink `{}`", port.name),
                because,
            );
            forward(Program::Unicast(uplink))
        }
        _ => {
            recorder.note(STAGE, format_args!("nobody on the network has {destination}"), None);
            drop(DropReason::UnknownUnicast)
        }
    }
}
