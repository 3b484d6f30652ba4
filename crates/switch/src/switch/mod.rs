//! The switch itself: what it knows, and how it becomes another.

mod captures;
mod configure;
mod explanation;
mod rulings;
mod uplinks;

use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::{Instant, MacAddr, PortId};

use self::captures::{copy, selected};
use crate::bindings::{Claim, Place};
use crate::bucket::Bucket;
use crate::cache::{FlowCache, Foreseen};
use crate::counters::Counters;
use crate::drop_log::DropLog;
use crate::filter::{Granted, MAX_FILTER_GROUPS, MAX_FILTER_STATIONS};
use crate::frame::{FlowKey, Frame, MAX_FRAME_BYTES};
use crate::meters::{Meters, Way};
use crate::packet::Packet;
use crate::pipeline::{self, Action, Knowledge, Mirrors};
use crate::rejection::MAX_ANSWER_BYTES;
use crate::table::{PortIndex, Tables};
use crate::{
    Config, Denial, DropReason, DroppedFrame, FilterReport, MAX_MIRRORS, Mirror, MirrorCopy, Output, ReceiveFilter,
    RuleLog, Segment, VSwitchId, Verdict,
};

/// Flows that there is room for at first: about 2 MiB.
const FIRST_FLOWS: usize = 16 << 10;

/// Flows that are remembered at most, when nothing else is asked for: about 120 MiB.
const MOST_FLOWS: usize = 1 << 20;

/// The host's switch: all its vSwitches, each of them a broadcast domain of its own.
///
/// Forwarding never blocks, allocates or logs. It decides on a private copy of a frame's first bytes, so a sender
/// that changes them meanwhile gains nothing.
#[derive(Debug)]
pub struct Switch {
    seed: u64,
    /// In force.
    config: Config,
    tables: Tables,
    knowledge: Knowledge,
    cache: Option<FlowCache>,
    counters: Counters,
    hits: u64,
    misses: u64,
    /// Where the port is by which the last frame came, and most likely the next.
    last_ingress: PortIndex,
    /// By vSwitch and rule: what it decided under the configuration in force.
    rule_counts: Vec<Vec<u64>>,
    rule_log: RuleLog,
    drop_log: DropLog,
    /// How many answers to rejected packets a port may still get.
    answers_left: HashMap<PortId, Bucket, FixedState>,
    /// What answers the frame that was rejected last; empty for nothing.
    answer: Vec<u8>,
    meters: Meters,
    /// By which ways the last frame left. It has room for the most.
    outputs: Vec<Output>,
    /// Who gets a copy of the last frame.
    copies: Vec<MirrorCopy>,
    /// Mirrors that no configuration knows of.
    captures: Vec<(VSwitchId, Mirror)>,
}

/// How the flow cache does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Flows that are cached.
    pub flows: u64,
    /// Frames that the cache answered.
    pub hits: u64,
    /// Frames that ran the pipeline.
    pub misses: u64,
}

impl Switch {
    /// A switch without any port; `seed` keys its tables, because guests choose what is looked up in them.
    pub fn new(seed: u64) -> Self {
        Self::with_cache(seed, FlowCache::new(seed, FIRST_FLOWS..=MOST_FLOWS))
    }

    /// A switch whose cache remembers at least `flows` flows, and no more than twice as many.
    pub fn with_capacity(seed: u64, flows: usize) -> Self {
        Self::with_cache(seed, FlowCache::new(seed, flows..=flows))
    }

    fn with_cache(seed: u64, cache: FlowCache) -> Self {
        Self {
            seed,
            config: Config::default(),
            tables: Tables::new(&[], seed),
            knowledge: Knowledge::new(seed),
            cache: Some(cache),
            counters: Counters::default(),
            hits: 0,
            misses: 0,
            last_ingress: PortIndex::default(),
            rule_counts: Vec::new(),
            rule_log: RuleLog::new(),
            drop_log: DropLog::new(),
            answers_left: HashMap::default(),
            answer: Vec::with_capacity(MAX_ANSWER_BYTES),
            meters: Meters::default(),
            outputs: Vec::new(),
            copies: Vec::with_capacity(MAX_MIRRORS),
            captures: Vec::new(),
        }
    }

    /// Lets go of memory that only made many flows fast. For when no frame came for a while.
    pub fn trim(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.trim();
        }
    }

    /// The same switch without its flow cache: slower, and never different.
    #[must_use]
    pub fn without_cache(self) -> Self {
        Self { cache: None, ..self }
    }

    /// The generation of the configuration in force; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.config.generation
    }

    /// Notes what the vNIC behind `port` listens to: its MAC addresses are registered, as far as policy allows, and
    /// it hears only the groups that it asked for. What it is denied is counted. `None` when there is no such port.
    pub fn set_receive_filter(&mut self, port: PortId, filter: &ReceiveFilter) -> Option<FilterReport> {
        let index = self.tables.index(port)?;
        let stations = filter.stations.get(..MAX_FILTER_STATIONS).unwrap_or(&filter.stations);
        let mut wanted = stations.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let (mut registered, mut denied): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|mac| self.tables.may_register(index, *mac));
        denied.extend_from_slice(&filter.stations[stations.len()..]);
        let is_everything = filter.all_multicast || filter.groups.len() > MAX_FILTER_GROUPS;
        let groups = (!is_everything).then(|| {
            let mut groups: Vec<_> = filter.groups.iter().copied().filter(|mac| mac.is_group()).collect();
            groups.sort_unstable();
            groups.dedup();
            groups
        });
        let before = self.tables.port(index);
        let promiscuous_denied = filter.promiscuous && !before.config.policy.promiscuous;
        let granted = Granted { stations: registered.clone(), groups, promiscuous: filter.promiscuous };
        if before.filter.as_ref() != Some(&granted) {
            let vswitch = before.vswitch.number();
            self.tables.set_filter(index, granted);
            self.forget(vswitch);
        }
        self.counters.deny(port, Denial::MacChange, denied.len() as u64);
        self.counters.deny(port, Denial::Promiscuous, promiscuous_denied.into());
        registered.shrink_to_fit();
        Some(FilterReport { registered, denied, promiscuous_denied })
    }

    /// Notes whether the link of `port` is up; at first every link is. A team fails over at once. `false` when there is
    /// no such port.
    pub fn set_link(&mut self, port: PortId, is_up: bool) -> bool {
        let Some(index) = self.tables.index(port) else { return false };
        if self.tables.set_link(index, is_up) {
            self.forget(self.tables.port(index).vswitch.number());
        }
        true
    }

    /// Whether so many flows are known that forwarding waits for memory, unless all frames of a burst go through
    /// [`Switch::foresee`] and then through [`Switch::fetch`] before.
    #[inline]
    pub fn looks_ahead(&self) -> bool {
        self.cache.as_ref().is_some_and(FlowCache::is_large)
    }

    /// Notes that such a frame comes soon; see [`Switch::forward`] for the arguments.
    #[inline]
    pub fn foresee(&self, ingress: PortId, head: &[u8], frame_len: usize) -> Foreseen {
        let (Some(cache), Some(index)) = (&self.cache, self.tables.index_near(ingress, self.last_ingress)) else {
            return Foreseen::default();
        };
        let fields = self.tables.port(index).fields;
        if let Some(key) = head.first_chunk().and_then(|start| FlowKey::of_plain(ingress, start, fields)) {
            return cache.foresee(&key);
        }
        let mut packet = Packet::default();
        let frame = Frame::admit(head, frame_len, fields, &mut packet);
        frame.map_or_else(|_| Foreseen::default(), |frame| cache.foresee(&FlowKey::new(ingress, &frame, fields)))
    }

    /// Brings near what is known about a frame that was foreseen.
    #[inline]
    pub fn fetch(&self, foreseen: &Foreseen) {
        if let Some(cache) = &self.cache {
            cache.fetch(foreseen);
        }
    }

    /// Decides about a frame of `frame_len` bytes that came in by `ingress`; `head` is a private copy of its first
    /// 128 bytes, or of all when there are fewer. A drop is counted.
    pub fn forward(&mut self, now: Instant, ingress: PortId, head: &[u8], frame_len: usize) -> Verdict<'_> {
        self.copies.clear();
        let Some(index) = self.tables.index_near(ingress, self.last_ingress) else {
            return Verdict::Drop(DropReason::UnknownPort);
        };
        self.last_ingress = index;
        let port = self.tables.port(index);
        // What almost all frames do: they are plain, go to one port, and nobody looks.
        if (head.len()..=MAX_FRAME_BYTES).contains(&frame_len)
            && port.config.learn == 0
            && !self.meters.is_used()
            && let Some(cache) = &mut self.cache
            && let Some(start) = head.first_chunk()
            && let Some((Action::Send(output), 0)) = cache.get_plain(now, ingress, start, port.fields)
        {
            self.hits += 1;
            self.outputs.clear();
            self.outputs.push(*output);
            return Verdict::Forward(&self.outputs[..1]); // a length that is known need not be read back
        }
        self.forward_any(now, index, head, frame_len)
    }

    /// Decides about a frame of any kind.
    #[inline(never)]
    fn forward_any(&mut self, now: Instant, index: PortIndex, head: &[u8], frame_len: usize) -> Verdict<'_> {
        let port = self.tables.port(index);
        let ingress = port.config.id;
        let mut packet = Packet::default();
        let frame = match Frame::admit(head, frame_len, port.fields, &mut packet) {
            Ok(frame) => frame,
            Err((reason, _)) => {
                self.count_dropped(now, ingress, reason, head, frame_len);
                return Verdict::Drop(reason);
            }
        };
        if self.meters.is_used() && !self.meters.pass(now, ingress, Way::From, &port.config.rates, frame_len) {
            self.count_dropped(now, ingress, DropReason::OverRate, head, frame_len);
            return Verdict::Drop(DropReason::OverRate);
        }
        let key = FlowKey::new(ingress, &frame, port.fields);
        let known = self.cache.as_ref().and_then(|cache| cache.get(now, &key)).copied();
        let learns = port.config.learn > 0;
        let (action, mirrors) = match known {
            Some(known) => {
                self.hits += 1;
                if learns {
                    self.refresh(now, index, &frame);
                }
                known
            }
            None => self.miss(now, index, &frame, frame_len, key),
        };
        self.outputs.clear();
        leave(&self.tables, index, &frame, action, &mut self.outputs);
        if mirrors != 0 {
            copy(&self.tables, index, &frame, mirrors, &self.outputs, &mut self.copies);
        }
        if let Action::Drop(reason) = action {
            return Verdict::Drop(reason); // it was counted when that was decided: drops are not cached
        }
        if self.meters.is_used() && !self.police(now, frame_len) {
            self.count_dropped(now, ingress, DropReason::EgressOverRate, frame.head, frame_len);
            return Verdict::Drop(DropReason::EgressOverRate);
        }
        Verdict::Forward(&self.outputs)
    }

    /// Takes those ways out that are too fast already; whether any is left.
    #[inline(never)]
    fn police(&mut self, now: Instant, frame_len: usize) -> bool {
        let (tables, meters) = (&self.tables, &mut self.meters);
        self.outputs.retain(|output| {
            let rates = tables.index(output.port).map(|index| &tables.port(index).config.rates);
            rates.is_some_and(|rates| meters.pass(now, output.port, Way::To, rates, frame_len))
        });
        !self.outputs.is_empty()
    }

    fn miss(
        &mut self,
        now: Instant,
        ingress: PortIndex,
        frame: &Frame<'_>,
        frame_len: usize,
        key: FlowKey,
    ) -> (Action, Mirrors) {
        self.misses += 1;
        let decision = pipeline::decide(&self.tables, &self.knowledge, now, ingress, frame, None);
        self.note_rulings(now, ingress, frame, frame_len, &decision.effects);
        if let Action::Drop(reason) = decision.action {
            let rule = self.denied_by(ingress, frame, &decision.effects);
            let id = self.tables.port(ingress).config.id;
            self.counters.add(id, reason, 1);
            self.drop_log.note(now, id, reason, rule, frame.head, frame_len);
            if reason == DropReason::AclRejected {
                self.answer_rejected(now, ingress, frame, frame_len);
            }
        }
        let port = self.tables.port(ingress);
        let (vswitch, id, learn) = (port.vswitch.number(), port.config.id, port.config.learn);
        match decision.effects.learn {
            Some(station) => {
                self.knowledge.learned.insert(now, id, learn, station);
                self.forget(vswitch);
            }
            None if decision.effects.no_room => self.knowledge.learned.look_again(now, id),
            None if learn > 0 => self.refresh(now, ingress, frame),
            None => {}
        }
        if let Some(claim) = decision.effects.claim
            && self.knowledge.bindings.insert(claim)
        {
            self.forget(vswitch);
        }
        let connections = &mut self.knowledge.connections;
        if let Some(touch) = decision.effects.touch {
            connections.touch(now, touch);
        }
        if let Some(tuple) = decision.effects.end {
            connections.end(&tuple);
        }
        if decision.effects.full {
            connections.look_again(now, id);
        }
        self.outputs.clear();
        let mirrors = selected(&self.tables, ingress, frame, decision.action, &mut self.outputs);
        if let Some(cache) = &mut self.cache
            && !matches!(decision.action, Action::Drop(_))
            && now < decision.until
        {
            cache.insert(key, vswitch, decision.until, (decision.action, mirrors));
        }
        (decision.action, mirrors)
    }

    /// The sender is still there, if it was learned and has not been registered since.
    fn refresh(&mut self, now: Instant, ingress: PortIndex, frame: &Frame<'_>) {
        let (port, src) = (self.tables.port(ingress), frame.link.src);
        let config = &port.config;
        if let Ok(segment) = config.vlans.classify(frame.link.tag, frame.is_double())
            && !port.is_configured(src)
            && self.tables.owner(port.vswitch, segment, src).is_none()
        {
            let station = crate::learned::Station { vswitch: config.vswitch, segment, mac: src };
            self.knowledge.learned.refresh(now, config.id, &station);
        }
    }

    /// A vSwitch is not what it was when its flows were cached.
    fn forget(&mut self, vswitch: usize) {
        if let Some(cache) = &mut self.cache {
            cache.forget(vswitch);
        }
    }

    #[inline(never)]
    fn count_dropped(&mut self, now: Instant, ingress: PortId, reason: DropReason, head: &[u8], frame_len: usize) {
        self.counters.add(ingress, reason, 1);
        self.drop_log.note(now, ingress, reason, None, head, frame_len);
    }

    /// Counts and keeps a frame that came in by `ingress` and was dropped after the verdict.
    pub fn note_drop(&mut self, now: Instant, ingress: PortId, reason: DropReason, head: &[u8], frame_len: usize) {
        if self.tables.index(ingress).is_some() {
            self.count_dropped(now, ingress, reason, head, frame_len);
        }
    }

    /// Counts `frames` that came in by `ingress` and were dropped, and of which nothing is known.
    pub fn count_drop(&mut self, ingress: PortId, reason: DropReason, frames: u64) {
        if self.tables.index(ingress).is_some() {
            self.counters.add(ingress, reason, frames);
        }
    }

    /// The frames that came in by `port` and were dropped, per reason, none of them zero.
    pub fn drops(&self, port: PortId) -> impl Iterator<Item = (DropReason, u64)> {
        self.counters.drops(port)
    }

    /// For every reason the last frames that were dropped for it, the oldest first; of ports that are still there.
    pub fn dropped(&self) -> impl Iterator<Item = &DroppedFrame> {
        self.drop_log.iter()
    }

    /// What the guest behind `port` asked for and was denied, none of them zero.
    pub fn denials(&self, port: PortId) -> impl Iterator<Item = (Denial, u64)> {
        self.counters.denials(port)
    }

    /// How often each rule of a vSwitch's access list decided under the configuration in force, in their order: about
    /// a connection's first packet, or about a packet that belongs to none; of one for a group, for each receiver.
    pub fn rule_counts(&self, vswitch: VSwitchId) -> &[u64] {
        self.tables.number(vswitch).and_then(|number| self.rule_counts.get(number)).map_or(&[], Vec::as_slice)
    }

    /// What rules decided whose decisions are logged.
    pub fn rule_log(&self) -> &RuleLog {
        &self.rule_log
    }

    /// Notes that a DHCP server behind `server` has given `address` to the station `mac`, as its answer would have. Who
    /// was given an address before this switch began need not ask again to be heard.
    pub fn note_lease(&mut self, server: PortId, mac: MacAddr, address: IpAddr) {
        let Some(index) = self.tables.index(server) else { return };
        let port = self.tables.port(index);
        let Ok(segment) = port.config.vlans.classify(None, false) else { return };
        let Some(client) = self.tables.owner(port.vswitch, segment, mac).filter(|client| *client != index) else {
            return;
        };
        let limit = self.tables.port(client).config.addresses.learn();
        if limit == 0 || self.tables.is_fixed(port.vswitch, segment, address, client) {
            return;
        }
        let place = Place { vswitch: port.config.vswitch, segment, address };
        let (vswitch, port) = (port.vswitch.number(), self.tables.port(client).config.id);
        if self.knowledge.bindings.insert(Claim { place, port, limit }) {
            self.forget(vswitch);
        }
    }

    /// Gives a port an address that it had before this switch began, if nobody else has it.
    pub fn restore_address(&mut self, port: PortId, segment: Segment, address: IpAddr) {
        let Some(index) = self.tables.index(port) else { return };
        let port = self.tables.port(index);
        let (limit, place) = (port.config.addresses.learn(), Place { vswitch: port.config.vswitch, segment, address });
        let is_others = self.tables.is_fixed(port.vswitch, segment, address, index)
            || self.knowledge.bindings.owner(&place).is_some();
        if limit == 0 || !port.carries(segment) || is_others {
            return;
        }
        let (vswitch, port) = (port.vswitch.number(), port.config.id);
        self.knowledge.bindings.insert(Claim { place, port, limit });
        self.forget(vswitch);
    }

    /// Counts the changes of what ports got.
    pub fn address_changes(&self) -> u64 {
        self.knowledge.bindings.changes()
    }

    /// What `port` got, with the segment in which each address is its own, oldest first.
    pub fn learned_in_segments(&self, port: PortId) -> impl Iterator<Item = (Segment, IpAddr)> {
        self.knowledge.bindings.of(port).iter().map(|place| (place.segment, place.address))
    }

    /// The addresses that `port` got from DHCP servers and by duplicate address detection, oldest first.
    pub fn learned_addresses(&self, port: PortId) -> impl Iterator<Item = IpAddr> {
        self.knowledge.bindings.of(port).iter().map(|place| place.address)
    }

    /// How the flow cache does.
    pub fn stats(&self) -> CacheStats {
        let flows = self.cache.as_ref().map_or(0, FlowCache::flows);
        CacheStats { flows, hits: self.hits, misses: self.misses }
    }
}

/// Puts the ways that `action` sends a frame into `outputs`.
fn leave(tables: &Tables, ingress: PortIndex, frame: &Frame<'_>, action: Action, outputs: &mut Vec<Output>) {
    let vswitch = tables.port(ingress).vswitch;
    match action {
        Action::Send(output) => outputs.push(output),
        Action::Overheard { target, segment, sender } => {
            // Not as one chain of iterators, which is slower by a half.
            let way = pipeline::way(tables, ingress, frame, segment);
            outputs.extend(way(target));
            for port in tables.listeners(vswitch, segment) {
                if port != target && Some(port) != sender {
                    outputs.extend(way(port));
                }
            }
        }
        Action::Flood { segment, sender } => {
            outputs.extend(pipeline::flooded(tables, ingress, frame, segment, sender));
        }
        Action::Drop(_) => {}
    }
}
