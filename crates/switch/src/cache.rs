//! The flow cache: what was decided for frames that look the same.
//!
//! It is faster than the pipeline and never different: a key holds every field that the pipeline may consult for
//! frames of that port, and an entry counts only in the epoch of its vSwitch in which it was made, and only until the
//! first of the facts that it rests on may have lapsed. Its size is fixed. A full set gives one entry up, so a peer
//! that varies its addresses makes frames miss, and nothing worse; where they fall is keyed by a seed that it does not
//! know. Drops are not kept: frames that go nowhere must not push out those that do.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use weft_types::Instant;

use crate::frame::{FlowKey, PACKET_WORDS};
use crate::pipeline::{Action, Mirrors};

/// How many flows a set holds.
const WAYS: usize = 8;

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
}

impl FlowCache {
    /// An empty cache for at least `flows` flows; `seed` keys it.
    pub(crate) fn new(seed: u64, flows: usize) -> Self {
        let sets = flows.div_ceil(WAYS).max(1).next_power_of_two();
        let blank =
            Entry { key: FlowKey::default(), epoch: 0, until: Instant::ZERO, vswitch: 0, decided: (Action::BLANK, 0) };
        Self {
            tags: vec![[0; WAYS]; sets].into(),
            entries: vec![[blank; WAYS]; sets].into(),
            hasher: FixedState::with_seed(seed),
            epochs: Vec::new(),
            next_epoch: 1,
            turn: 0,
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
        let (set, tag) = self.place(&key);
        let entries = &self.entries[set];
        let lapsed = || entries.iter().position(|entry| entry.key == key && self.is_current(entry));
        let free = || entries.iter().position(|entry| !self.is_current(entry));
        let way = lapsed().or_else(free).unwrap_or_else(|| {
            self.turn = (self.turn + 1) % WAYS;
            self.turn
        });
        let entry = &mut self.entries[set][way];
        if let Some(before) = self.epochs.get_mut(entry.vswitch as usize)
            && before.number == entry.epoch
        {
            before.flows -= 1;
        }
        if let Some(epoch) = self.epochs.get_mut(vswitch) {
            epoch.flows += 1;
            self.tags[set][way] = tag;
            *entry = Entry { key, epoch: epoch.number, until, vswitch: vswitch as u32, decided };
        }
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
        let mut cache = FlowCache::new(7, 1000);
        cache.forget_all(2);
        cache
    }

    #[test]
    fn a_full_cache_forgets_and_never_grows() {
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
