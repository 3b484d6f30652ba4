//! Declared routers: what carries IP packets from one network's gateway to another's, and nothing else does.
//!
//! A router is no station and has no port: machines reach it at their own gateway, and what passes its rules leaves by
//! the other network's gateway, with one hop less to live. It knows the networks that it joins and no others, so a packet
//! passes one router at most, and there is nothing that could go in a circle. Rules decide about a connection's first
//! packet, and what belongs to the connection passes, with ICMP errors about it.

mod connections;
mod cut;
mod forward;
mod packet;
mod pieces;
mod rules;
mod trace;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use weft_types::{Instant, IpNet, Label, MacAddr, Permission, Provenance, Traffic};

use self::connections::{Connections, Touch, Tuple};
use self::packet::{Packet, What};
use self::pieces::Pieces;
use self::rules::{Query, Station};
pub use self::trace::{RouterStep, RouterTrace};
use crate::nat::neighbours::Neighbours;
use crate::random::Random;
use crate::{NetworkId, OutFrame, Reason};

/// The bytes of frames that may wait for the switch.
const MAX_QUEUED_BYTES: usize = 16 << 20;

/// A router: which networks it joins, and who may begin what with whom across it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Its name. Connections and counts follow it from one configuration to the next.
    pub name: Label,
    /// What it joins.
    pub networks: Vec<JoinedNetwork>,
    /// The first rule that fits decides.
    pub rules: Vec<RouteRule>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
    /// How many connections each station may have begun at a time.
    pub connections: u32,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// A network that a router joins with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedNetwork {
    /// The network.
    pub id: NetworkId,
    /// Whose address is known without a lease, and the adapter that has it.
    pub stations: BTreeMap<IpAddr, MacAddr>,
}

/// A rule of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// What explanations and counters call it.
    pub name: String,
    /// What it says.
    pub permission: Permission,
    /// Who begins.
    pub from: RouteEnd,
    /// With whom.
    pub to: RouteEnd,
    /// What.
    pub traffic: Traffic,
    /// Where it was declared.
    pub provenance: Provenance,
}

/// One end of a connection across a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteEnd {
    /// Anyone.
    Any,
    /// Everyone on a network.
    Network(NetworkId),
    /// One of these adapters, each on its network.
    Stations(Vec<(NetworkId, MacAddr)>),
    /// Whoever has an address of this prefix.
    Prefix(IpNet),
}

/// A router, with what it knows and what it has counted.
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    connections: Connections,
    pieces: Pieces,
    hits: Vec<u64>,
    default_hits: u64,
    packets: u64,
    bytes: u64,
}

impl Router {
    fn new(config: RouterConfig, seed: u64) -> Self {
        let hits = vec![0; config.rules.len()];
        let connections = Connections::new(seed);
        Self { config, connections, pieces: Pieces::default(), hits, default_hits: 0, packets: 0, bytes: 0 }
    }

    /// The same router with another configuration. Its connections have to show that the new rules would let them begin.
    fn reconfigured(mut self, config: RouterConfig) -> Self {
        if self.config == config {
            return self;
        }
        let names = self.config.rules.iter().map(|rule| rule.name.as_str());
        let before: BTreeMap<_, _> = names.zip(self.hits).collect();
        let hits = config.rules.iter().map(|rule| before.get(rule.name.as_str()).copied().unwrap_or(0)).collect();
        self.connections.begin_generation();
        Self { config, hits, ..self }
    }

    /// What it is.
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// How often each rule has decided, in the order of the rules.
    pub fn hits(&self) -> &[u64] {
        &self.hits
    }

    /// How often no rule fitted.
    pub fn default_hits(&self) -> u64 {
        self.default_hits
    }

    /// The packets that went across, and their bytes.
    pub fn traffic(&self) -> (u64, u64) {
        (self.packets, self.bytes)
    }

    /// The connections that are known.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn network(&self, id: NetworkId) -> Option<&JoinedNetwork> {
        self.config.networks.iter().find(|network| network.id == id)
    }

    /// What becomes of a packet. Changes nothing: see [`Self::settle`].
    fn judge(&self, now: Instant, passage: &Passage) -> Judgement {
        let Passage { packet, from, to } = passage;
        let query = Query { from: *from, to: *to, packet };
        let begins = match packet.what {
            // A piece is worth what the first one was.
            What::LaterPiece => {
                let (permission, by) = match self.pieces.passed(now, packet) {
                    true => (Permission::Allow, By::FirstPiece),
                    false => (Permission::Deny, By::NoFirstPiece),
                };
                return Judgement { permission, by, effect: Effect::None };
            }
            What::Error(quoted) => {
                // It is for the one who sent what it quotes, and nobody else.
                let quoted = quoted.filter(|tuple| tuple.src.0 == packet.dst);
                let known = quoted.and_then(|tuple| self.connections.find(now, &tuple));
                return match known.is_some_and(|(.., is_current)| is_current) {
                    true => Judgement { permission: Permission::Allow, by: By::Related, effect: Effect::None },
                    false => Judgement { effect: Effect::None, ..self.rule(&query) },
                };
            }
            What::Icmp(_) => return Judgement { effect: Effect::None, ..self.rule(&query) },
            What::Echo { is_reply, .. } => !is_reply,
            What::Ports { .. } | What::Bare => true,
        };
        let tuple = packet.tuple();
        let known = self.connections.find(now, &tuple).filter(|(_, _, is_answer, _)| packet.may_be(*is_answer));
        let Some((known, tuple, is_answer, is_current)) = known else {
            let judgement = self.rule(&query);
            let has_room = || self.connections.has_room(*from, self.config.connections);
            return match judgement.permission == Permission::Allow && begins {
                true if !has_room() => Judgement { permission: Permission::Deny, by: By::Full, effect: Effect::None },
                true => Judgement { effect: Effect::Touch(Touch::first(tuple, *from, packet)), ..judgement },
                false => judgement,
            };
        };
        let touch = Effect::Touch(Touch::next(tuple, &known, packet, is_answer));
        if is_current {
            return Judgement { permission: Permission::Allow, by: By::Connection, effect: touch };
        }
        let original = packet.answered();
        let judgement = match is_answer {
            true => self.rule(&Query { from: *to, to: *from, packet: &original }),
            false => self.rule(&query),
        };
        let effect = if judgement.permission == Permission::Allow { touch } else { Effect::End(tuple) };
        Judgement { effect, ..judgement }
    }

    fn rule(&self, query: &Query<'_>) -> Judgement {
        let rule = self.config.rules.iter().position(|rule| query.fits(rule));
        let permission = rule.map_or(self.config.default, |rule| self.config.rules[rule].permission);
        Judgement { permission, by: By::Rule(rule), effect: Effect::None }
    }

    /// Notes what was decided.
    fn settle(&mut self, now: Instant, passage: &Passage, judgement: &Judgement) {
        match judgement.by {
            By::Rule(Some(rule)) => self.hits[rule] += 1,
            By::Rule(None) => self.default_hits += 1,
            By::Connection | By::Related | By::FirstPiece | By::NoFirstPiece | By::Full => {}
        }
        match &judgement.effect {
            Effect::None => {}
            Effect::Touch(touch) => self.connections.touch(now, touch),
            Effect::End(tuple) => self.connections.end(tuple),
        }
        if judgement.permission == Permission::Allow && passage.packet.is_first_piece {
            self.pieces.note(now, &passage.packet);
        }
    }
}

/// A packet on its way across a router.
#[derive(Clone, Debug)]
struct Passage {
    packet: Packet,
    from: Station,
    to: Station,
}

/// What becomes of a packet, and why.
#[derive(Clone, Debug)]
struct Judgement {
    permission: Permission,
    by: By,
    effect: Effect,
}

/// What decided about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A rule, or the default.
    Rule(Option<usize>),
    /// It belongs to a connection that may be.
    Connection,
    /// It is an ICMP error about one.
    Related,
    /// It is a piece of a packet whose first piece passed.
    FirstPiece,
    /// It is a piece of a packet whose first piece did not pass.
    NoFirstPiece,
    /// Its sender has begun too many connections.
    Full,
}

/// What a packet does to the connections.
#[derive(Clone, Debug)]
enum Effect {
    None,
    Touch(Touch),
    End(Tuple),
}

/// A frame that waits until the station is found that it is for.
#[derive(Debug)]
struct Held {
    network: NetworkId,
    frame: OutFrame,
}

/// Every router of a data plane, and what they share.
#[derive(Debug)]
pub(crate) struct Routers {
    /// Keys the tables of connections.
    seed: u64,
    all: Vec<Router>,
    neighbours: Neighbours<Held>,
    queue: VecDeque<(NetworkId, OutFrame)>,
    queued_bytes: usize,
    /// When connections and pieces that have lapsed are forgotten next.
    sweep_at: Option<Instant>,
}

impl Routers {
    /// None yet; `seed` feeds what stations must not guess.
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let mut random = Random::new(seed, "routers");
        let seed = (0..4).fold(0, |seed, _| seed << 16 | u64::from(random.word()));
        let (neighbours, queue) = Default::default();
        Self { seed, all: Vec::new(), neighbours, queue, queued_bytes: 0, sweep_at: None }
    }

    fn configure(&mut self, configs: Vec<RouterConfig>) {
        let mut old: BTreeMap<_, _> =
            std::mem::take(&mut self.all).into_iter().map(|router| (router.config.name.clone(), router)).collect();
        self.all = configs
            .into_iter()
            .map(|config| match old.remove(&config.name) {
                Some(router) => router.reconfigured(config),
                None => Router::new(config, self.seed),
            })
            .collect();
        let all = &self.all;
        let is_joined = |network| all.iter().any(|router| router.network(network).is_some());
        self.neighbours.retain(is_joined);
        self.queue.retain(|(network, _)| is_joined(*network));
        self.queued_bytes = self.queue.iter().map(|(_, frame)| frame.bytes.len()).sum();
    }

    /// The router that joins two networks.
    fn joining(&self, from: NetworkId, to: NetworkId) -> Option<usize> {
        let joins = |router: &Router| router.network(from).is_some() && router.network(to).is_some();
        self.all.iter().position(joins).filter(|_| from != to)
    }

    /// The networks that are joined with this one.
    fn beside(&self, network: NetworkId) -> impl Iterator<Item = NetworkId> {
        let of_it = self.all.iter().filter(move |router| router.network(network).is_some());
        of_it.flat_map(|router| router.config.networks.iter().map(|it| it.id)).filter(move |id| *id != network)
    }

    fn send(&mut self, network: NetworkId, frame: OutFrame) -> Result<(), Reason> {
        if self.queued_bytes + frame.bytes.len() > MAX_QUEUED_BYTES {
            return Err(Reason::QueueFull);
        }
        self.queued_bytes += frame.bytes.len();
        self.queue.push_back((network, frame));
        Ok(())
    }

    /// The next frame for the switch.
    pub(crate) fn poll_frame(&mut self) -> Option<(NetworkId, OutFrame)> {
        let (network, frame) = self.queue.pop_front()?;
        self.queued_bytes -= frame.bytes.len();
        Some((network, frame))
    }
}
