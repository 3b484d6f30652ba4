//! Stations that were learned from the frames that they sent, at ports that ask for it.
//!
//! Learning is for what nobody can register: guests of a nested hypervisor, a foreign segment. It is bounded per
//! port, never takes an address from a port for which it is registered, and forgets.

use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weft_types::{Instant, MacAddr, PortId};

use crate::{Segment, VSwitchId};

/// How long a silent station is remembered (IEEE 802.1Q, table 8-6: the recommended ageing time).
pub(crate) const AGEING: Duration = Duration::from_secs(300);

/// What a station is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Station {
    pub(crate) vswitch: VSwitchId,
    pub(crate) segment: Segment,
    pub(crate) mac: MacAddr,
}

/// Where a station was seen last, and until when that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) port: PortId,
    pub(crate) until: Instant,
}

/// What a port has learned.
#[derive(Debug, Default)]
struct Room {
    stations: Vec<Station>,
    /// No station of it is forgotten before this.
    earliest: Instant,
}

/// The table of all ports.
#[derive(Debug)]
pub(crate) struct Learned {
    stations: HashMap<Station, Seen, FixedState>,
    rooms: HashMap<PortId, Room, FixedState>,
}

impl Learned {
    /// An empty table; `seed` keys it.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            stations: HashMap::with_hasher(FixedState::with_seed(seed)),
            rooms: HashMap::with_hasher(FixedState::with_seed(seed)),
        }
    }

    /// Where `station` is.
    pub(crate) fn get(&self, now: Instant, station: &Station) -> Option<Seen> {
        self.stations.get(station).copied().filter(|seen| now < seen.until)
    }

    /// Whether `port`, which may learn `limit` stations, has room for one more.
    pub(crate) fn has_room(&self, now: Instant, port: PortId, limit: u32) -> bool {
        let Some(room) = self.rooms.get(&port) else { return limit > 0 };
        let limit = limit as usize;
        room.stations.len() < limit || (room.earliest <= now && self.live(now, port, room).count() < limit)
    }

    /// Notes that `station`, which is new at `port`, sent something there.
    pub(crate) fn insert(&mut self, now: Instant, port: PortId, limit: u32, station: Station) {
        let mut room = self.rooms.remove(&port).unwrap_or_default();
        if room.stations.len() >= limit as usize {
            self.sweep(now, port, &mut room);
        }
        if let Some(before) = self.stations.get(&station)
            && let Some(left) = self.rooms.get_mut(&before.port)
        {
            left.stations.retain(|known| *known != station);
        }
        let until = now + AGEING;
        room.earliest = if room.stations.is_empty() { until } else { room.earliest.min(until) };
        if !room.stations.contains(&station) {
            room.stations.push(station);
        }
        self.rooms.insert(port, room);
        self.stations.insert(station, Seen { port, until });
    }

    /// Looks anew which stations of `port` are silent, after it had no room.
    pub(crate) fn look_again(&mut self, now: Instant, port: PortId) {
        if let Some(mut room) = self.rooms.remove(&port) {
            if room.earliest <= now {
                self.sweep(now, port, &mut room);
            }
            self.rooms.insert(port, room);
        }
    }

    /// Notes that `station` is still there.
    pub(crate) fn refresh(&mut self, now: Instant, port: PortId, station: &Station) {
        if let Some(seen) = self.stations.get_mut(station)
            && seen.port == port
        {
            seen.until = now + AGEING;
        }
    }

    /// Forgets the stations of ports for which `may_keep` does not hold.
    pub(crate) fn retain(&mut self, may_keep: impl Fn(PortId, &Station) -> bool) {
        self.stations.retain(|station, seen| may_keep(seen.port, station));
        let stations = &self.stations;
        self.rooms.retain(|_, room| {
            room.stations.retain(|station| stations.contains_key(station));
            !room.stations.is_empty()
        });
    }

    fn live<'a>(&'a self, now: Instant, port: PortId, room: &'a Room) -> impl Iterator<Item = Instant> + 'a {
        let seen = room.stations.iter().filter_map(|station| self.stations.get(station));
        seen.filter(move |seen| seen.port == port && now < seen.until).map(|seen| seen.until)
    }

    /// Makes room: takes out what has been silent for too long.
    fn sweep(&mut self, now: Instant, port: PortId, room: &mut Room) {
        let stations = &mut self.stations;
        room.stations.retain(|station| {
            let is_live = stations.get(station).is_some_and(|seen| seen.port == port && now < seen.until);
            if !is_live {
                stations.remove(station);
            }
            is_live
        });
        room.earliest = self.live(now, port, room).min().unwrap_or(now);
    }
}
