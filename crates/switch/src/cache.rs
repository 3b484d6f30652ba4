//! The flow cache: what was decided for frames that look the same.
//!
//! It is faster than the pipeline and never different: a key holds every field that the pipeline may consult for
//! frames of that port, and an entry counts only in the epoch of its vSwitch in which it was made, and only until the
//! first of the facts that it rests on may have lapsed. A full set gives one entry up. When as many were given up as
//! there is room for, it grows fourfold, up to a bound: a peer that varies its addresses makes frames miss, and nothing
//! worse; where they fall is keyed by a seed that it does not know. Drops are not kept: frames that go nowhere must not push out those that do.

use std::hash::{BuildHasher, Hasher};
use std::ops::RangeInclusive;

use foldhash::fast::FixedState;
use weft_types::Instant;

use crate::frame::{FlowKey, PACKET_WORDS};
use crate::pipeline::{Action, Mirrors};

/// How many flows a set holds.
const WAYS: usize = 8;
/// How much larger it becomes at a time.
const GROWTH: usize = 4;

/// A decision, and when it counts.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: FlowKey,
    epoch: u64,
    until: Instant,
    vswitch: u32,
    /// What was decided, and who gets a copy.
    decided: (Action, Mirrors),
}

impl Entry {
    const BLANK: Self =
        Self { key: FlowKey([0; 8]), epoch: 0, until: Instant::ZERO, vswitch: 0, decided: (Action::BLANK, 0) };
}

const _: () = assert!(size_of::<Entry>() + size_of::<u16>() < 128, "memory per cached flow");

/// Since when a vSwitch is as it is, and how many of its flows are cached.
#[derive(Clone, Copy, Debug, Default)]
struct Epoch {
    number: u64,
    flows: u64,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct FlowCache {
    /// A few bits of each entry's hash, so that a look-up reads one entry and not eight; 0 where there is none.
    tags: Box<[[u16; WAYS]]>,
    entries: Box<[[Entry; WAYS]]>,
    hasher: FixedState,
    /// One per vSwitch.
    epochs: Vec<Epoch>,
    next_epoch: u64,
    /// Chooses who gives way in a full set.
    turn: usize,
    /// How many did since there is so much room.
    given_up: usize,
    /// The room in sets, at first and at most.
    sets: RangeInclusive<usize>,
}

impl FlowCache {
    /// An empty cache, with room for at least so many flows at first and at most; `seed` keys it.
    pub(crate) fn new(seed: u64, flows: RangeInclusive<usize>) -> Self {
        let sets = |flows: usize| flows.div_ceil(WAYS).max(1).next_power_of_two();
        let (first, most) = (sets(*flows.start()), sets(*flows.end()));
        Self {
            tags: vec![[0; WAYS]; first].into(),
            entries: vec![[Entry::BLANK; WAYS]; first].into(),
            hasher: FixedState::with_seed(seed),
            epochs: Vec::new(),
            next_epoch: 1,
            turn: 0,
            given_up: 0,
            sets: first..=most,
        }
    }

    /// Takes so many sets, and what is current along.
    fn resize(&mut self, sets: usize) {
        self.tags = vec![[0; WAYS]; sets].into();
        let old = std::mem::replace(&mut self.entries, vec![[Entry::BLANK; WAYS]; sets].into());
        self.epochs.iter_mut().for_each(|epoch| epoch.flows = 0);
        for entry in old.iter().flatten() {
            if self.is_current(entry) {
                self.put(*entry);
            }
        }
        self.given_up = 0;
    }

    /// Gives back what it has grown by.
    pub(crate) fn trim(&mut self) {
        if self.tags.len() > *self.sets.start() {
            self.resize(*self.sets.start());
        }
    }

    /// Forgets every flow, for a switch of so many vSwitches. Entries are not touched: they are of another epoch now,
    /// and give way first.
    pub(crate) fn forget_all(&mut self, vswitches: usize) {
        let number = self.next_epoch;
        self.next_epoch += 1;
        self.epochs.clear();
        self.epochs.resize(vswitches, Epoch { number, flows: 0 });
    }

    /// Forgets the flows of one vSwitch.
    pub(crate) fn forget(&mut self, vswitch: usize) {
        if let Some(epoch) = self.epochs.get_mut(vswitch) {
            *epoch = Epoch { number: self.next_epoch, flows: 0 };
            self.next_epoch += 1;
        }
    }

    /// How many flows are cached.
    pub(crate) fn flows(&self) -> u64 {
        self.epochs.iter().map(|epoch| epoch.flows).sum()
    }

    /// What was decided for such a frame, and who gets a copy.
    #[inline]
    pub(crate) fn get(&self, now: Instant, key: &FlowKey) -> Option<&(Action, Mirrors)> {
        let (set, tag) = self.place(key);
        for (way, _) in self.tags[set].iter().enumerate().filter(|(_, known)| **known == tag) {
            let entry = &self.entries[set][way];
            if entry.key.is(key) && self.is_current(entry) && now < entry.until {
                return Some(&entry.decided);
            }
        }
        None
    }

    /// Remembers until when what was decided for such a frame, which was not known.
    pub(crate) fn insert(&mut self, key: FlowKey, vswitch: usize, until: Instant, decided: (Action, Mirrors)) {
        let Some(epoch) = self.epochs.get(vswitch).map(|epoch| epoch.number) else { return };
        if self.given_up >= self.tags.len() * WAYS && self.tags.len() < *self.sets.end() {
            self.resize((self.tags.len() * GROWTH).min(*self.sets.end()));
        }
        self.put(Entry { key, epoch, until, vswitch: vswitch as u32, decided });
    }

    /// Puts a current entry into its set.
    fn put(&mut self, new: Entry) {
        let (set, tag) = self.place(&new.key);
        let entries = &self.entries[set];
        let lapsed = || entries.iter().position(|entry| entry.key == new.key && self.is_current(entry));
        let free = || entries.iter().position(|entry| !self.is_current(entry));
        let way = lapsed().or_else(free).unwrap_or_else(|| {
            self.turn = (self.turn + 1) % WAYS;
            self.given_up += 1;
            self.turn
        });
        let entry = &mut self.entries[set][way];
        if let Some(before) = self.epochs.get_mut(entry.vswitch as usize)
            && before.number == entry.epoch
        {
            before.flows -= 1;
        }
        if let Some(epoch) = self.epochs.get_mut(new.vswitch as usize) {
            epoch.flows += 1;
        }
        self.tags[set][way] = tag;
        *entry = new;
    }

    /// Whether its vSwitch is as it was.
    #[inline]
    fn is_current(&self, entry: &Entry) -> bool {
        self.epochs.get(entry.vswitch as usize).is_some_and(|epoch| epoch.number == entry.epoch)
    }

    /// The set of a key, and its tag there.
    #[inline]
    fn place(&self, key: &FlowKey) -> (usize, u16) {
        let mut hasher = self.hasher.build_hasher();
        key.hash(&mut hasher);
        let hash = hasher.finish();
        (hash as usize & (self.tags.len() - 1), (hash >> 48) as u16 | 1)
    }
}

impl FlowKey {
    /// Whether they are the same; word by word, for the words of one are in registers still.
    #[inline]
    fn is(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |differs, (ours, theirs)| differs | (ours ^ theirs)) == 0
    }

    #[inline]
    fn hash(&self, state: &mut impl Hasher) {
        let (link, packet) = self.0.split_at(PACKET_WORDS.start);
        link.iter().for_each(|word| state.write_u64(*word));
        // Where nobody looks at addresses, there are none in any key.
        if packet.iter().any(|word| *word != 0) {
            packet.iter().for_each(|word| state.write_u64(*word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLANK: (Action, Mirrors) = (Action::BLANK, 0);
    const NOW: Instant = Instant::ZERO;
    const LATER: Instant = Instant::from_millis(1);

    fn key(number: u64) -> FlowKey {
        let mut key = FlowKey::default();
        key.0[0] = number;
        key.0[1] = number << 7;
        key
    }

    fn cache() -> FlowCache {
        let mut cache = FlowCache::new(7, 1000..=1000);
        cache.forget_all(2);
        cache
    }

    #[test]
    fn a_full_cache_forgets_and_grows_no_further() {
        let mut cache = cache();
        let capacity = 1024;
        let mut known = 0;
        for number in 0..4 * capacity {
            cache.insert(key(number), number as usize % 2, LATER, BLANK);
            assert!(cache.get(NOW, &key(number)).is_some(), "the newest is always there");
        }
        for number in 0..4 * capacity {
            known += u64::from(cache.get(NOW, &key(number)).is_some());
        }
        assert_eq!(known, cache.flows());
        assert!(known <= capacity && known > capacity * 9 / 10, "{known} of {capacity}");
    }

    #[test]
    fn a_cache_grows_with_its_flows_and_gives_back() {
        let mut cache = FlowCache::new(7, 64..=8000);
        cache.forget_all(2);
        let known = |cache: &FlowCache| (0..6000).filter(|number| cache.get(NOW, &key(*number)).is_some()).count();
        for round in 0..5 {
            for number in 0..6000 {
                if cache.get(NOW, &key(number)).is_none() {
                    cache.insert(key(number), number as usize % 2, LATER, BLANK);
                }
            }
            assert_eq!(known(&cache) as u64, cache.flows(), "round {round}");
        }
        assert!(known(&cache) > 5500 && cache.tags.len() * WAYS == 8192, "{}", known(&cache));
        cache.trim();
        assert_eq!((cache.tags.len() * WAYS, known(&cache) as u64), (64, cache.flows()));
        assert!((48..=64).contains(&cache.flows()));
    }

    #[test]
    fn a_new_epoch_knows_nothing() {
        let mut cache = cache();
        cache.insert(key(1), 0, LATER, BLANK);
        cache.insert(key(2), 1, LATER, BLANK);
        cache.forget(0);
        assert!(cache.get(NOW, &key(1)).is_none() && cache.get(NOW, &key(2)).is_some());
        assert_eq!(cache.flows(), 1);
        cache.forget_all(2);
        assert!(cache.get(NOW, &key(2)).is_none() && cache.get(NOW, &FlowKey::default()).is_none());
        assert_eq!(cache.flows(), 0);
        cache.insert(key(1), 0, LATER, BLANK);
        assert_eq!(cache.flows(), 1);
    }

    #[test]
    fn what_has_lapsed_is_decided_anew() {
        let mut cache = cache();
        cache.insert(key(1), 0, LATER, BLANK);
        assert!(cache.get(LATER, &key(1)).is_none());
        cache.insert(key(1), 0, Instant::from_millis(2), BLANK);
        assert!(cache.get(LATER, &key(1)).is_some());
        assert_eq!(cache.flows(), 1);
    }
}
