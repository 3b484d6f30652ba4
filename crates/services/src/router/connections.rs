//! The connections that a router let begin: what answers them passes too.
//!
//! Each station may have begun only so many, so that nobody fills the table for others. One that has lapsed counts until
//! the next sweep.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use weft_types::Instant;
use weft_wire::{Protocol, tcp};

use super::packet::{Packet, What};
use super::rules::Station;

/// All connections of a router, whoever began them.
const MAX_CONNECTIONS: usize = 1 << 18;

/// A connection, as one end's packets say it. Ports are those of its protocol, the identifier of echoes, or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) protocol: u8,
    pub(super) src: (IpAddr, u16),
    pub(super) dst: (IpAddr, u16),
}

impl Tuple {
    /// The same, as the other end says it.
    pub(super) fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody has answered.
    Opening,
    /// Both sides have spoken.
    Open,
    /// One side has ended it (TCP: FIN or RST).
    Closing,
}

impl Phase {
    /// The phase after a packet.
    fn after(self, packet: &Packet, is_answer: bool) -> Self {
        let flags = match packet.what {
            What::Ports { flags, .. } if packet.protocol == Protocol::TCP.0 => flags,
            _ => tcp::Flags::default(),
        };
        match self {
            _ if flags.contains(tcp::Flags::FIN) || flags.contains(tcp::Flags::RST) => Self::Closing,
            _ if flags.contains(tcp::Flags::SYN) && !is_answer => Self::Opening,
            Self::Opening if is_answer => Self::Open,
            phase => phase,
        }
    }

    /// How long it may be idle.
    fn idle(self, protocol: u8) -> Duration {
        Duration::from_secs(match (self, Protocol(protocol)) {
            (Self::Opening | Self::Closing, _) | (_, Protocol::ICMP | Protocol::ICMPV6) => 30,
            (Self::Open, Protocol::TCP) => 7440, // RFC 5382, REQ-5
            (Self::Open, _) => 300,              // RFC 4787, REQ-5
        })
    }
}

/// What is known about a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    owner: Station,
    phase: Phase,
    until: Instant,
    generation: u64,
}

/// What a packet does to a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    tuple: Tuple,
    owner: Station,
    phase: Phase,
}

impl Touch {
    /// A packet that begins one.
    pub(super) fn first(tuple: Tuple, owner: Station, packet: &Packet) -> Self {
        Self { tuple, owner, phase: Phase::Opening.after(packet, false) }
    }

    /// A packet of one that is `known`, which began as `tuple`.
    pub(super) fn next(tuple: Tuple, known: &Connection, packet: &Packet, is_answer: bool) -> Self {
        Self { tuple, owner: known.owner, phase: known.phase.after(packet, is_answer) }
    }
}

/// All of them, as their first packets say. Stations choose ports and addresses, so the hash is seeded.
#[derive(Debug)]
pub(super) struct Connections {
    table: HashMap<Tuple, Connection, SeedableRandomState>,
    begun: HashMap<Station, u32, SeedableRandomState>,
    generation: u64,
}

impl Connections {
    /// None yet; `seed` keys the tables.
    pub(super) fn new(seed: u64) -> Self {
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_fixed());
        Self { table: HashMap::with_hasher(hasher.clone()), begun: HashMap::with_hasher(hasher), generation: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// From now on connections have to show that the rules let them begin.
    pub(super) fn begin_generation(&mut self) {
        self.generation += 1;
    }

    /// The connection of a packet: what is known, how it began, whether the packet answers, and whether the rules in force
    /// have let it begin.
    pub(super) fn find(&self, now: Instant, tuple: &Tuple) -> Option<(Connection, Tuple, bool, bool)> {
        let ways = [(*tuple, false), (tuple.reversed(), true)];
        ways.into_iter().find_map(|(tuple, is_answer)| {
            let known = *self.table.get(&tuple).filter(|known| now < known.until)?;
            Some((known, tuple, is_answer, known.generation == self.generation))
        })
    }

    /// Whether a station may begin one more.
    pub(super) fn has_room(&self, station: Station, limit: u32) -> bool {
        self.table.len() < MAX_CONNECTIONS && self.begun.get(&station).is_none_or(|begun| *begun < limit)
    }

    /// Begins a connection, or notes that it goes on.
    pub(super) fn touch(&mut self, now: Instant, touch: &Touch) {
        let Touch { tuple, owner, phase } = *touch;
        let until = now + phase.idle(tuple.protocol);
        let connection = Connection { owner, phase, until, generation: self.generation };
        let before = self.table.insert(tuple, connection);
        if before.is_none_or(|before| before.owner != owner) {
            *self.begun.entry(owner).or_default() += 1;
            before.into_iter().for_each(|before| self.leave(before.owner));
        }
    }

    /// Forgets a connection.
    pub(super) fn end(&mut self, tuple: &Tuple) {
        if let Some(connection) = self.table.remove(tuple) {
            self.leave(connection.owner);
        }
    }

    fn leave(&mut self, owner: Station) {
        if let Some(begun) = self.begun.get_mut(&owner) {
            *begun -= 1;
            if *begun == 0 {
                self.begun.remove(&owner);
            }
        }
    }

    /// Forgets what has lapsed.
    pub(super) fn sweep(&mut self, now: Instant) {
        let lapsed: Vec<Tuple> =
            self.table.iter().filter(|(_, known)| known.until <= now).map(|(tuple, _)| *tuple).collect();
        lapsed.iter().for_each(|tuple| self.end(tuple));
    }
}
