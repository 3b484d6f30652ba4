//! Copies of frames (law 7): to ports as any frame, and out of the process through queues that nobody waits for.

use std::collections::BTreeMap;

use weft_dataplane_protocol::{DataplaneConfig, MirrorConfig, MirrorStatus, MirrorTo};
use weft_port::Frame;
use weft_switch::{MirrorCopy, MirrorTarget, Switch};
use weft_types::{Collector, Instant, NetworkName, PortId, PortName};
use weft_wire::{Headers, Offload};

use crate::captures::Capture;
use crate::collector::{Tunnel, is_for};
use crate::mirror_sink::{Copy, Ended, Outlet, Sink};
use crate::slot::{Delivery, Others};
use crate::validate::Problems;

/// Captures are numbered from here on; what a configuration declares, below.
pub(crate) const FIRST_CAPTURE: u32 = 1 << 31;

/// Everybody who gets copies.
#[derive(Default)]
pub(crate) struct Mirrors {
    /// Those that the configuration declares, by their numbers.
    declared: Vec<Declared>,
    pub(crate) captures: Vec<Capture>,
    /// The names of all ports.
    pub(crate) names: Vec<(PortId, PortName)>,
}

/// What became of copies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) copies: u64,
    pub(crate) lost: u64,
}

impl Tally {
    pub(crate) fn note(&mut self, is_taken: bool) {
        self.copies += u64::from(is_taken);
        self.lost += u64::from(!is_taken);
    }
}

/// A mirror that the configuration declares.
pub(crate) struct Declared {
    network: NetworkName,
    config: MirrorConfig,
    /// The way to its collector, if it has one and that could be opened.
    outlet: Option<Outlet>,
    tally: Tally,
}

impl Mirrors {
    /// Opens the ways to collectors that `config` is the first to declare: one for each mirror, in their order.
    pub(crate) fn open(&self, config: &DataplaneConfig, problems: &mut Problems) -> Vec<Option<Outlet>> {
        let known: BTreeMap<_, _> = self.declared.iter().map(|old| ((&old.network, &old.config.name), old)).collect();
        let mut open = |network: &NetworkName, mirror: &MirrorConfig| {
            let MirrorTo::Collector(collector) = mirror.to else { return None };
            let old = known.get(&(network, &mirror.name)).filter(|old| old.config.to == mirror.to);
            if old.is_some_and(|old| old.outlet.is_some()) {
                return None;
            }
            let opened = Tunnel::open(collector).and_then(|tunnel| Outlet::open(Sink::Collector(tunnel)));
            let hint = match collector {
                Collector::Erspan { .. } => "ERSPAN needs raw sockets (CAP_NET_RAW); `vxlan://` needs nothing",
                Collector::Vxlan { .. } => "is the limit of open files reached? see `ulimit -n`",
            };
            opened
                .map_err(|error| {
                    let (name, place) = (&mirror.name, &mirror.provenance);
                    problems.push(format!("mirror `{name}` ({place}): no way to {collector}: {error}"), hint);
                })
                .ok()
        };
        declarations(config).map(|(network, mirror)| open(network, mirror)).collect()
    }

    /// Becomes what `config` declares, with the outlets that were opened for it. A mirror that stays, by its name and
    /// by who gets its copies, keeps its outlet and its counts.
    pub(crate) fn declare(&mut self, config: &DataplaneConfig, outlets: Vec<Option<Outlet>>) {
        let old = self.declared.drain(..).map(|old| ((old.network.clone(), old.config.name.clone()), old));
        let mut old: BTreeMap<_, _> = old.collect();
        let declared = declarations(config).zip(outlets).map(|((network, mirror), outlet)| {
            let before = old.remove(&(network.clone(), mirror.name.clone())).filter(|old| old.config.to == mirror.to);
            let (kept, tally) = before.map_or((None, Tally::default()), |old| (old.outlet, old.tally));
            Declared { network: network.clone(), config: mirror.clone(), outlet: kept.or(outlet), tally }
        });
        self.declared = declared.collect();
    }

    /// How each mirror and capture does.
    pub(crate) fn status(&self) -> Vec<MirrorStatus> {
        let declared = self.declared.iter().map(Declared::status);
        declared.chain(self.captures.iter().map(Capture::status)).collect()
    }

    /// Hands over a copy of a frame that goes out of the process.
    fn send(&mut self, now: Instant, copy: &MirrorCopy, ingress: PortId, frame: &Frame<'_>) -> Result<(), Ended> {
        if copy.mirror.0 < FIRST_CAPTURE {
            if let Some(declared) = self.declared.get_mut(copy.mirror.0 as usize) {
                declared.send(copy, frame);
            }
            return Ok(());
        }
        let capture = self.captures.iter_mut().find(|capture| capture.has(copy.mirror));
        capture.ok_or(Ended)?.send(now, copy.snap_bytes, ingress, frame, &self.names)
    }
}

/// The mirrors of a configuration, by their numbers.
pub(crate) fn declarations(config: &DataplaneConfig) -> impl Iterator<Item = (&NetworkName, &MirrorConfig)> {
    config.networks.iter().flat_map(|network| network.mirrors.iter().map(move |mirror| (&network.name, mirror)))
}

impl Declared {
    /// Hands over a copy for its collector.
    fn send(&mut self, copy: &MirrorCopy, frame: &Frame<'_>) {
        let MirrorTo::Collector(collector) = &self.config.to else { return };
        if Headers::parse(frame.head(), frame.len()).is_ok_and(|headers| is_for(collector, &headers)) {
            return;
        }
        let outlet = self.outlet.as_ref().filter(|outlet| !outlet.is_full());
        let is_taken = outlet.is_some_and(|outlet| outlet.send(copied(frame, copy.snap_bytes)) == Ok(true));
        self.tally.note(is_taken);
    }

    fn status(&self) -> MirrorStatus {
        let unsent = self.outlet.as_ref().map_or(0, Outlet::unsent);
        MirrorStatus {
            name: self.config.name.to_string(),
            networks: vec![self.network.clone()],
            to: Some(self.config.to.clone()),
            copies: self.tally.copies.saturating_sub(unsent),
            lost: self.tally.lost + unsent,
            provenance: self.config.provenance.clone(),
        }
    }
}

/// A copy of a frame, of which nobody asks where and when it came in.
pub(crate) fn copied(frame: &Frame<'_>, snap_bytes: Option<u32>) -> Copy {
    let mut bytes = Vec::new();
    let is_whole = cut(frame, snap_bytes, &mut bytes);
    let offload = if is_whole { frame.offload() } else { Offload::default() };
    Copy { interface: 0, unix_nanos: 0, len: frame.len() as u32, bytes, offload }
}

/// Appends what is to be copied of a frame to `bytes`; whether that is all of it.
fn cut(frame: &Frame<'_>, snap_bytes: Option<u32>, bytes: &mut Vec<u8>) -> bool {
    let room = snap_bytes.map_or(usize::MAX, |snap| snap as usize);
    if room <= frame.head().len() {
        bytes.extend_from_slice(&frame.head()[..room]);
    } else {
        frame.append_to(bytes);
        bytes.truncate(room);
    }
    room >= frame.len()
}

impl Delivery {
    /// Hands out the copies of the frame that was decided about last. Whoever has no room loses its copy.
    pub(crate) fn mirror(
        &mut self,
        now: Instant,
        ingress: PortId,
        frame: &Frame<'_>,
        switch: &mut Switch,
        others: &mut Others<'_>,
        slot_of: &[Option<usize>],
    ) {
        let mut ended = None;
        for copy in switch.copies() {
            match copy.to {
                MirrorTarget::Outside => {
                    if self.mirrors.send(now, copy, ingress, frame) == Err(Ended) {
                        ended = Some(copy.mirror);
                    }
                }
                MirrorTarget::Port(port) => {
                    let index = slot_of.get(port.0 as usize).copied().flatten();
                    let Some(target) = index.and_then(|index| others.get_mut(index)) else { continue };
                    let delivered = if copy.snap_bytes.is_some_and(|snap| (snap as usize) < frame.len()) {
                        let mut bytes = Vec::new();
                        cut(frame, copy.snap_bytes, &mut bytes);
                        target.deliver(now, None, &Frame::new(&bytes, Offload::default()), copy.edit, self)
                    } else {
                        target.deliver(now, None, frame, copy.edit, self)
                    };
                    if let Some(mirror) = self.mirrors.declared.get_mut(copy.mirror.0 as usize) {
                        mirror.tally.note(delivered.is_ok());
                    }
                }
            }
        }
        if let Some(id) = ended {
            self.mirrors.end_captures(switch, |capture| capture.has(id));
        }
    }
}

impl Mirrors {
    /// Takes captures away.
    pub(crate) fn end_captures(&mut self, switch: &mut Switch, is_over: impl Fn(&Capture) -> bool) {
        for capture in self.captures.extract_if(.., |capture| is_over(capture)) {
            capture.mirrors().for_each(|id| switch.stop_capture(id));
        }
    }
}
