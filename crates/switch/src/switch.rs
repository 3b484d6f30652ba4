use foldhash::quality::FixedState;
use hashbrown::HashMap;
use weft_types::{Instant, PortId};
use weft_wire::ethernet::Header;

use crate::cache::{Cache, CacheStats, Fate, Key};
use crate::config::{self, Config, ConfigError};
use crate::counters::Drops;
use crate::explain::{EgressPort, Outcome, Step, Trace};
use crate::pipeline::{self, Deaf};
use crate::table::{Port, PortIndex, Table};
use crate::verdict::Verdict;
use crate::{DropReason, PortConfig};

/// Flows that are remembered when nothing else is asked for: 512 KiB.
const DEFAULT_FLOWS: usize = 16 << 10;

/// Every vSwitch of one data plane.
pub struct Switch {
    table: Table,
    cache: Option<Cache>,
    drops: HashMap<PortId, Drops, FixedState>,
    seed: u64,
}

impl Switch {
    /// A switch without ports. The seed keeps guests from choosing addresses that collide in its tables; it
    /// should be random.
    pub fn new(seed: u64) -> Self {
        Self::with_capacity(seed, DEFAULT_FLOWS)
    }

    /// A switch that remembers at least `flows` flows.
    pub fn with_capacity(seed: u64, flows: usize) -> Self {
        Self { cache: Some(Cache::new(flows, seed)), ..Self::without_cache(seed) }
    }

    /// A switch that decides on every frame anew: slower, and never different.
    pub fn without_cache(seed: u64) -> Self {
        Self { table: Table::default(), cache: None, drops: HashMap::with_hasher(FixedState::with_seed(seed)), seed }
    }

    /// Becomes this. Ports that stay keep their counters; flows that were decided under the old configuration are
    /// decided anew.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration; then nothing has changed.
    pub fn configure(&mut self, config: Config) -> Result<(), Vec<ConfigError>> {
        let errors = config::errors(&config);
        if !errors.is_empty() {
            return Err(errors);
        }
        let wanted = |id: &PortId| config.ports.iter().any(|port: &PortConfig| port.id == *id);
        self.drops.retain(|id, _| wanted(id));
        self.table = Table::compile(config, self.seed);
        for id in self.table.ids() {
            self.drops.entry(id).or_default();
        }
        if let Some(cache) = &mut self.cache {
            cache.renew();
        }
        Ok(())
    }

    /// Decides what happens to a frame that came in by `ingress`. `head` is the frame's beginning (at most
    /// [`crate::HEAD_BYTES`] are looked at), in memory that nobody else changes. Never blocks or allocates.
    #[inline]
    pub fn forward(&mut self, _now: Instant, ingress: PortId, head: &[u8]) -> Verdict<'_> {
        let Some(from) = self.table.find(ingress) else { return Verdict::Drop(DropReason::UnknownPort) };
        let fate = match Header::parse(head) {
            Ok(header) => self.fate(from, ingress, &header),
            Err(_) => Fate::Drop(DropReason::Malformed),
        };
        let reason = match fate {
            Fate::Forward(program) => {
                let egress = self.table.egress(from, program);
                if !egress.is_empty() {
                    return Verdict::Forward(egress);
                }
                DropReason::NoReceiver
            }
            Fate::Drop(reason) => reason,
        };
        self.count_drop(ingress, reason, 1);
        Verdict::Drop(reason)
    }

    #[inline]
    fn fate(&mut self, from: PortIndex, ingress: PortId, header: &Header) -> Fate {
        let cache = self.cache.as_mut().filter(|_| header.tag.is_none());
        let Some(cache) = cache else { return pipeline::decide(&self.table, from, header, &mut Deaf) };
        let key = Key::new(ingress, header);
        if let Some(fate) = cache.get(key) {
            return fate;
        }
        let fate = pipeline::decide(&self.table, from, header, &mut Deaf);
        cache.put(key, fate);
        fate
    }

    /// What would happen to a frame, and why: the same decision, told. Changes nothing.
    pub fn explain(&self, _now: Instant, ingress: PortId, head: &[u8]) -> Trace {
        let dropped = |steps, reason| Trace { steps, outcome: Outcome::Drop(reason), egress: Vec::new() };
        let Some(from) = self.table.find(ingress) else { return dropped(Vec::new(), DropReason::UnknownPort) };
        let Ok(header) = Header::parse(head) else {
            let finding = "the frame ends before its header does".to_owned();
            return dropped(vec![Step { stage: "parse", finding, because: None }], DropReason::Malformed);
        };
        let mut steps: Vec<Step> = Vec::new();
        match pipeline::decide(&self.table, from, &header, &mut steps) {
            Fate::Drop(reason) => dropped(steps, reason),
            Fate::Forward(program) => {
                let ports = self.table.egress(from, program).iter().filter_map(|id| self.table.find(id));
                let describe = |port: &Port| {
                    EgressPort { id: port.id, name: port.name.clone(), provenance: port.provenance.clone() }
                };
                let egress: Vec<_> = ports.map(|index| describe(self.table.port(index))).collect();
                match egress.is_empty() {
                    true => dropped(steps, DropReason::NoReceiver),
                    false => Trace { steps, outcome: Outcome::Forward, egress },
                }
            }
        }
    }

    /// Counts frames that were forwarded and then could not be delivered, or were dropped before they came here.
    /// They are counted on the port by which they came in.
    pub fn count_drop(&mut self, ingress: PortId, reason: DropReason, frames: u64) {
        if let Some(drops) = self.drops.get_mut(&ingress) {
            drops.count(reason, frames);
        }
    }

    /// Why frames that came in by this port were dropped, and how many; only what happened.
    pub fn drops(&self, port: PortId) -> impl Iterator<Item = (DropReason, u64)> {
        self.drops.get(&port).into_iter().flat_map(Drops::iter)
    }

    /// How the flow cache does.
    pub fn stats(&self) -> CacheStats {
        self.cache.as_ref().map(Cache::stats).unwrap_or_default()
    }
}
