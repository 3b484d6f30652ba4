//! The flow cache: exact match, fixed size, no allocation after it was made.
//!
//! Sets of four ways, found by a seeded hash, because guests choose the keys. An entry carries the generation of the
//! configuration that it was decided under; entries of older ones are not found, and are the first to be replaced.
//! When a set is full the way that is replaced walks round, so a flood of flows costs its own misses and no more.

use weft_wire::ethernet::Header;

use weft_types::PortId;

use crate::DropReason;
use crate::table::Program;

const WAYS: usize = 4;

/// The fields that decisions consult, packed. Two frames with one key have one fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key([u64; 2]);

impl Key {
    /// The key of an untagged frame; tagged ones are decided without the cache.
    #[inline]
    pub(crate) fn new(ingress: PortId, header: &Header) -> Self {
        let word = |octets: [u8; 6], rest: [u8; 2]| {
            let [a, b, c, d, e, f] = octets;
            u64::from_ne_bytes([a, b, c, d, e, f, rest[0], rest[1]])
        };
        let [p0, p1, p2, p3] = ingress.0.to_ne_bytes();
        Self([word(header.destination.octets(), [p0, p1]), word(header.source.octets(), [p2, p3])])
    }
}

/// What was decided for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Forward(Program),
    Drop(DropReason),
}

#[derive(Clone, Copy)]
struct Way {
    key: Key,
    /// 0 is no generation: the way is empty.
    generation: u32,
    fate: Fate,
}

const EMPTY: Way = Way { key: Key([0; 2]), generation: 0, fate: Fate::Drop(DropReason::Malformed) };

/// How the cache does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Flows of the configuration in force that are in it.
    pub flows: u64,
    /// Lookups that it answered.
    pub hits: u64,
    /// Lookups that it could not answer.
    pub misses: u64,
}

pub(crate) struct Cache {
    sets: Box<[[Way; WAYS]]>,
    seed: u64,
    generation: u32,
    turn: usize,
    stats: CacheStats,
}

impl Cache {
    /// A cache for at least `flows` flows.
    pub(crate) fn new(flows: usize, seed: u64) -> Self {
        let sets = flows.div_ceil(WAYS).next_power_of_two();
        Self {
            sets: vec![[EMPTY; WAYS]; sets].into(),
            seed: seed | 1,
            generation: 1,
            turn: 0,
            stats: CacheStats::default(),
        }
    }

    /// Makes every entry stale. Costs nothing but, once in 2^32 times, a sweep.
    pub(crate) fn renew(&mut self) {
        self.stats.flows = 0;
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.sets.fill([EMPTY; WAYS]);
            self.generation = 1;
        }
    }

    #[inline]
    pub(crate) fn get(&mut self, key: Key) -> Option<Fate> {
        let set = &self.sets[self.set_of(key)];
        let found = set.iter().find(|way| way.key == key && way.generation == self.generation);
        match found {
            Some(way) => {
                self.stats.hits += 1;
                Some(way.fate)
            }
            None => {
                self.stats.misses += 1;
                None
            }
        }
    }

    pub(crate) fn put(&mut self, key: Key, fate: Fate) {
        let generation = self.generation;
        let set = &mut self.sets[self.set_of(key)];
        let stale = set.iter().position(|way| way.generation != generation);
        let way = stale.unwrap_or_else(|| {
            self.turn = self.turn.wrapping_add(1);
            self.turn % WAYS
        });
        set[way] = Way { key, generation, fate };
        self.stats.flows += u64::from(stale.is_some());
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.stats
    }

    /// A multiply-and-fold hash, as in wyhash: two multiplications, keyed at both ends.
    #[inline]
    fn set_of(&self, key: Key) -> usize {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            (product as u64) ^ (product >> 64) as u64
        };
        let [a, b] = key.0;
        let mixed = fold(a ^ self.seed, b ^ 0x9e37_79b9_7f4a_7c15);
        let hash = fold(mixed ^ self.seed.rotate_left(32), 0xd6e8_feb8_6659_fd93);
        hash as usize & (self.sets.len() - 1)
    }
}
