use weft_types::{Instant, PortId};
use weft_wire::ethernet::Header;
use weft_wire::{Headers, Malformed};

use crate::cache::{FlowCache, FlowKey};
use crate::counters::Counters;
use crate::pipeline::{self, Action};
use crate::table::Tables;
use crate::{Config, ConfigError, DropReason, EgressPort, Outcome, Step, Trace, Verdict, validate};

/// The longest frame, in bytes: the largest IP packet behind an Ethernet header with one tag, which is what a
/// segmentation offload can hold.
pub const MAX_FRAME_BYTES: usize = 18 + 65_535;

/// Flows that are remembered when nothing else is asked for: 768 KiB.
const DEFAULT_FLOWS: usize = 16 << 10;

/// The host's switch: all its vSwitches, each of them a broadcast domain of its own.
///
/// Forwarding never blocks, allocates or logs. It decides on a private copy of a frame's first bytes, so a sender
/// that changes them meanwhile gains nothing.
#[derive(Debug)]
pub struct Switch {
    seed: u64,
    generation: u64,
    tables: Tables,
    cache: Option<FlowCache>,
    counters: Counters,
    hits: u64,
    misses: u64,
    /// The receivers of the last overheard frame: the only list that is made per frame. It has room for the longest.
    receivers: Vec<PortId>,
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
        Self::with_capacity(seed, DEFAULT_FLOWS)
    }

    /// A switch whose cache remembers at least `flows` flows.
    pub fn with_capacity(seed: u64, flows: usize) -> Self {
        Self {
            seed,
            generation: 0,
            tables: Tables::new(Config::default(), seed),
            cache: Some(FlowCache::new(seed, flows)),
            counters: Counters::default(),
            hits: 0,
            misses: 0,
            receivers: Vec::new(),
        }
    }

    /// The same switch without its flow cache: slower, and never different.
    #[must_use]
    pub fn without_cache(self) -> Self {
        Self { cache: None, ..self }
    }

    /// Becomes `config`, whole. Ports that stay keep their counters; what was cached counts no more.
    ///
    /// # Errors
    /// Every problem of the configuration; then nothing has changed.
    pub fn configure(&mut self, config: Config) -> Result<(), Vec<ConfigError>> {
        let problems = validate::problems(&config, self.generation);
        if !problems.is_empty() {
            return Err(problems);
        }
        self.generation = config.generation;
        self.tables = Tables::new(config, self.seed);
        self.counters.keep(self.tables.ports().map(|port| port.id));
        if let Some(cache) = &mut self.cache {
            cache.forget();
        }
        let most_receivers = self.tables.vswitches().map(|vswitch| vswitch.promiscuous.len() + 1).max().unwrap_or(0);
        self.receivers = Vec::with_capacity(most_receivers);
        Ok(())
    }

    /// The generation of the configuration in force; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Decides about a frame of `frame_len` bytes that came in by `ingress`; `head` is a private copy of its first
    /// 128 bytes, or of all when there are fewer. A drop is counted.
    ///
    /// No stage measures time as yet; those that will (meters, idle flows) find it here.
    pub fn forward(&mut self, _now: Instant, ingress: PortId, head: &[u8], frame_len: usize) -> Verdict<'_> {
        let action = match admit(head, frame_len) {
            Ok(header) => self.decide(ingress, &header),
            Err((reason, _)) => Action::Drop(reason),
        };
        match action {
            Action::Send(ports) => Verdict::Forward(self.tables.ids(ports)),
            Action::Overheard { target, vswitch } => {
                self.receivers.clear();
                self.receivers.push(target);
                self.receivers.extend(self.tables.vswitch(vswitch).listeners(ingress, target));
                Verdict::Forward(&self.receivers)
            }
            Action::Drop(reason) => {
                self.counters.add(ingress, reason, 1);
                Verdict::Drop(reason)
            }
        }
    }

    fn decide(&mut self, ingress: PortId, header: &Header) -> Action {
        let key = FlowKey::new(ingress, header, pipeline::CONSULTED);
        if let Some(action) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
            self.hits += 1;
            return action;
        }
        self.misses += 1;
        let Some(port) = self.tables.index(ingress) else { return Action::Drop(DropReason::UnknownPort) };
        let action = pipeline::decide(&self.tables, port, header, None);
        match (&mut self.cache, action) {
            (Some(cache), Action::Send(_) | Action::Overheard { .. }) => cache.insert(key, action),
            (None, _) | (_, Action::Drop(_)) => {}
        }
        action
    }

    /// What [`forward`](Self::forward) would decide, and why, told by the very code that decides. Changes nothing
    /// and counts nothing.
    pub fn explain(&self, _now: Instant, ingress: PortId, head: &[u8], frame_len: usize) -> Trace {
        let mut steps = Vec::new();
        let mut tell = |stage, finding| steps.push(Step { stage, finding, because: None });
        let header = match admit(head, frame_len) {
            Ok(header) => {
                let headers =
                    Headers::parse(head, frame_len).map_or_else(|problem| problem.to_string(), |h| h.to_string());
                tell("frame", format!("{headers}, {frame_len} bytes"));
                header
            }
            Err((reason, problem)) => {
                let problem = problem.map_or_else(String::new, |problem| format!(" ({problem})"));
                tell("frame", format!("{frame_len} bytes, which is no frame that can be forwarded{problem}"));
                return Trace { steps, outcome: Outcome::Drop(reason), egress: Vec::new() };
            }
        };
        let Some(port) = self.tables.index(ingress) else {
            tell("ingress", format!("the switch has no port {ingress}"));
            return Trace { steps, outcome: Outcome::Drop(DropReason::UnknownPort), egress: Vec::new() };
        };
        let action = pipeline::decide(&self.tables, port, &header, Some(&mut steps));
        let receivers: Vec<PortId> = match action {
            Action::Drop(reason) => return Trace { steps, outcome: Outcome::Drop(reason), egress: Vec::new() },
            Action::Send(ports) => self.tables.ids(ports).to_vec(),
            Action::Overheard { target, vswitch } => {
                std::iter::once(target).chain(self.tables.vswitch(vswitch).listeners(ingress, target)).collect()
            }
        };
        let egress = receivers.iter().filter_map(|id| self.tables.index(*id)).map(|index| {
            let port = &self.tables.port(index).config;
            EgressPort { id: port.id, name: port.name.clone(), provenance: port.provenance.clone() }
        });
        Trace { steps, outcome: Outcome::Forward, egress: egress.collect() }
    }

    /// Counts `frames` that came in by `ingress` and were dropped after the verdict.
    pub fn count_drop(&mut self, ingress: PortId, reason: DropReason, frames: u64) {
        self.counters.add(ingress, reason, frames);
    }

    /// The frames that came in by `port` and were dropped, per reason, none of them zero.
    pub fn drops(&self, port: PortId) -> impl Iterator<Item = (DropReason, u64)> {
        self.counters.of(port)
    }

    /// How the flow cache does.
    pub fn stats(&self) -> CacheStats {
        let flows = self.cache.as_ref().map_or(0, FlowCache::flows);
        CacheStats { flows, hits: self.hits, misses: self.misses }
    }
}

/// The header of what can be forwarded at all.
fn admit(head: &[u8], frame_len: usize) -> Result<Header, (DropReason, Option<Malformed>)> {
    if frame_len > MAX_FRAME_BYTES {
        return Err((DropReason::TooLong, None));
    }
    if frame_len < head.len() {
        return Err((DropReason::Malformed, None));
    }
    let (header, _) = Header::parse(head).map_err(|problem| (DropReason::Malformed, Some(problem)))?;
    Ok(header)
}
