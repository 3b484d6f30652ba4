//! The connections that access lists let begin: what answers them passes too.
//!
//! Each port may have begun only so many, so that nobody fills the table for others. A connection's idle time is
//! measured from its last refreshment, and frames refresh it at most every [`REFRESH`]; a cached flow lapses then, so
//! that a connection costs the cached path nothing.

use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::{Instant, PortId};
use weft_wire::Protocol;

use crate::{Segment, VSwitchId};

/// How often a connection that is used is refreshed; shorter than any idle time.
pub(crate) const REFRESH: Duration = Duration::from_secs(5);

/// A connection, as its first packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    pub(crate) vswitch: VSwitchId,
    pub(crate) segment: Segment,
    pub(crate) protocol: u8,
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
}

impl Tuple {
    /// The same, as an answer says it.
    #[must_use]
    pub(crate) fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody has answered.
    Opening,
    /// Both sides have spoken.
    Open,
    /// One side has ended it (TCP: FIN or RST).
    Closing,
}

impl Phase {
    /// How long it may be idle.
    fn idle(self, protocol: u8) -> Duration {
        let seconds = match (self, Protocol(protocol)) {
            (Self::Opening | Self::Closing, _) | (_, Protocol::ICMP | Protocol::ICMPV6) => 30,
            (Self::Open, Protocol::TCP) => 7440, // RFC 5382, REQ-5
            (Self::Open, _) => 300,              // RFC 4787, REQ-5
        };
        Duration::from_secs(seconds)
    }
}

/// What is known about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) owner: PortId,
    pub(crate) phase: Phase,
    /// When it was refreshed last.
    pub(crate) refreshed: Instant,
    pub(crate) until: Instant,
    /// The configuration whose rules let it pass.
    pub(crate) generation: u64,
}

/// What a frame does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) tuple: Tuple,
    pub(crate) owner: PortId,
    pub(crate) phase: Phase,
    pub(crate) limit: u32,
}

/// What a port began.
#[derive(Debug, Default)]
struct Room {
    tuples: Vec<Tuple>,
    /// None of them lapses before this.
    earliest: Instant,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Connections {
    table: HashMap<Tuple, Connection, FixedState>,
    rooms: HashMap<PortId, Room, FixedState>,
    /// Counts configurations.
    pub(crate) generation: u64,
}

impl Connections {
    /// None; `seed` keys the tables.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            table: HashMap::with_hasher(FixedState::with_seed(seed)),
            rooms: HashMap::with_hasher(FixedState::with_seed(seed)),
            generation: 0,
        }
    }

    /// The connection that began like this.
    pub(crate) fn get(&self, now: Instant, tuple: &Tuple) -> Option<Connection> {
        self.table.get(tuple).copied().filter(|connection| now < connection.until)
    }

    /// Whether `port` may begin one more.
    pub(crate) fn has_room(&self, now: Instant, port: PortId, limit: u32) -> bool {
        let Some(room) = self.rooms.get(&port) else { return limit > 0 };
        let is_live = |tuple: &&Tuple| self.get(now, tuple).is_some();
        room.tuples.len() < limit as usize
            || room.earliest <= now && room.tuples.iter().filter(is_live).count() < limit as usize
    }

    /// Begins a connection, or notes that it goes on. When it is to be refreshed next.
    pub(crate) fn touch(&mut self, now: Instant, touch: Touch) -> Instant {
        let Touch { tuple, owner, phase, limit } = touch;
        let idle = phase.idle(tuple.protocol);
        let fresh = Connection { owner, phase, refreshed: now, until: now + idle, generation: self.generation };
        if let Some(known) = self.table.get_mut(&tuple)
            && now < known.until
        {
            known.generation = self.generation;
            if known.phase != phase || now.since(known.refreshed) >= REFRESH {
                *known = Connection { owner: known.owner, ..fresh };
                if let Some(room) = self.rooms.get_mut(&known.owner) {
                    room.earliest = room.earliest.min(now + idle);
                }
            }
            return known.refreshed + REFRESH;
        }
        if let Some(lapsed) = self.table.remove(&tuple)
            && let Some(room) = self.rooms.get_mut(&lapsed.owner)
        {
            room.tuples.retain(|known| *known != tuple);
        }
        if self.rooms.get(&owner).is_some_and(|room| room.tuples.len() >= limit as usize) {
            self.look_again(now, owner);
        }
        let room = self.rooms.entry(owner).or_default();
        room.earliest = if room.tuples.is_empty() { fresh.until } else { room.earliest.min(fresh.until) };
        room.tuples.push(tuple);
        self.table.insert(tuple, fresh);
        now + REFRESH
    }

    /// Takes out what has lapsed of what `port` began, after there was no room.
    pub(crate) fn look_again(&mut self, now: Instant, port: PortId) {
        let Some(room) = self.rooms.get_mut(&port).filter(|room| room.earliest <= now) else { return };
        let mut earliest = Instant::MAX;
        room.tuples.retain(|tuple| {
            let until = self.table.get(tuple).map_or(Instant::ZERO, |connection| connection.until);
            if until <= now {
                self.table.remove(tuple);
            } else {
                earliest = earliest.min(until);
            }
            now < until
        });
        room.earliest = earliest;
    }

    /// Ends a connection that rules do not allow any more.
    pub(crate) fn end(&mut self, tuple: &Tuple) {
        if let Some(connection) = self.table.remove(tuple)
            && let Some(room) = self.rooms.get_mut(&connection.owner)
        {
            room.tuples.retain(|known| known != tuple);
        }
    }

    /// The ports that began some.
    pub(crate) fn owners(&self) -> Vec<PortId> {
        self.rooms.keys().copied().collect()
    }

    /// Ends those connections of these ports for which `may_keep` does not hold.
    pub(crate) fn retain(&mut self, owners: &[PortId], may_keep: impl Fn(PortId, &Tuple) -> bool) {
        for owner in owners {
            let Some(room) = self.rooms.get_mut(owner) else { continue };
            room.tuples.retain(|tuple| {
                let stays = may_keep(*owner, tuple);
                if !stays {
                    self.table.remove(tuple);
                }
                stays
            });
            if room.tuples.is_empty() {
                self.rooms.remove(owner);
            }
        }
    }
}
