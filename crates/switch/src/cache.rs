//! The flow cache: what was decided for frames that look the same.
//!
//! It is faster than the pipeline and never different: a key holds every field that the pipeline may consult for
//! frames of that port, and an entry counts only in the epoch of its vSwitch in which it was made, and only until the
//! first of the facts that it rests on may have lapsed. Drops are not kept: frames that go nowhere must not push out
//! those that do.
//!
//! Entries lie side by side in the order in which they were made, and an index of small sets finds them: flows that
//! began together are used together, so most of a large cache is read as the processor likes it best. When there is
//! no room, the oldest gives way; in a full set, any. When many gave way, the cache grows fourfold, up to a bound, and
//! begins anew, for moving what it knows would hold up frames. A peer that varies its addresses makes frames miss, and
//! nothing worse; where they fall is keyed by a seed that it does not know.

use std::hash::{BuildHasher, Hasher};
use std::ops::RangeInclusive;

use foldhash::fast::FixedState;
use weft_types::{Instant, PortId};

use crate::frame::{FlowKey, PACKET_WORDS, PlainStart, plain_mask};
use crate::pipeline::{Action, Fields, Mirrors};

/// How many flows a set of the index finds.
const WAYS: usize = 8;
/// How many ways there are for each flow that there is room for, so that few sets are full.
const WAYS_PER_FLOW: usize = 2;
/// How much larger the cache becomes at a time.
const GROWTH: usize = 4;
/// What a processor reads from memory at once.
const LINE_BYTES: usize = 64;

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

/// Where entries are whose hashes begin alike. One line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Set {
    /// A few more bits of each hash, so that a look-up reads one entry and not eight; 0 where there is none.
    tags: [u16; WAYS],
    at: [u32; WAYS],
}

impl Set {
    /// The ways with such a tag, one bit each. Without a branch, for where a flow is cannot be guessed.
    #[inline]
    fn ways(&self, tag: u16) -> u32 {
        self.tags.iter().enumerate().fold(0, |ways, (way, known)| ways | u32::from(*known == tag) << way)
    }
}

const _: () = assert!(size_of::<Set>() == LINE_BYTES);
const _: () = assert!(size_of::<Entry>() + WAYS_PER_FLOW * LINE_BYTES / WAYS < 128, "memory per cached flow");

/// What a plain frame was like, and where its entry is.
#[derive(Debug)]
struct Last {
    ingress: PortId,
    /// How it began: what counts of that, and which bits count.
    start: [u64; PLAIN_WORDS],
    mask: [u64; PLAIN_WORDS],
    at: usize,
}

impl Last {
    /// Like no frame.
    const NONE: Self =
        Self { ingress: PortId(u32::MAX), start: [0; PLAIN_WORDS], mask: [0; PLAIN_WORDS], at: usize::MAX };

    #[cold]
    fn new(ingress: PortId, start: &PlainStart, at: usize) -> Self {
        let mask = words(&plain_mask(start));
        let start = words(start);
        Self { ingress, start: std::array::from_fn(|word| start[word] & mask[word]), mask, at }
    }

    /// Whether a frame that begins so has the same key, given that its port is as it was.
    #[inline(always)]
    fn is_like(&self, ingress: PortId, start: &PlainStart) -> bool {
        let start = words(start);
        let differs = (0..PLAIN_WORDS).fold(0, |bits, word| bits | (start[word] & self.mask[word] ^ self.start[word]));
        ingress == self.ingress && differs == 0
    }
}

/// So many words are compared.
const PLAIN_WORDS: usize = size_of::<PlainStart>() / size_of::<u64>();

#[inline(always)]
fn words(start: &PlainStart) -> [u64; PLAIN_WORDS] {
    let (words, _) = start.as_chunks();
    std::array::from_fn(|word| u64::from_ne_bytes(words[word]))
}

/// Where a frame that comes soon will be looked up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Foreseen {
    set: u32,
    tag: u16,
}

/// Since when a vSwitch is as it is, and how many of its flows are cached.
#[derive(Clone, Copy, Debug, Default)]
struct Epoch {
    number: u64,
    flows: u64,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct FlowCache {
    index: Box<[Set]>,
    /// No more than there is room for.
    entries: Vec<Entry>,
    hasher: FixedState,
    /// A plain frame that was found twice in a row: most are of the same flow as the one before them.
    last: Last,
    /// The entry of the plain frame that was looked up last.
    found: usize,
    /// One per vSwitch.
    epochs: Vec<Epoch>,
    next_epoch: u64,
    /// The entry that gives way next, when there is no room; the oldest.
    hand: usize,
    /// How many gave way that counted, since there is so much room.
    given_up: usize,
    /// The room in entries: now, at first and at most.
    room: usize,
    rooms: RangeInclusive<usize>,
}

impl FlowCache {
    /// An empty cache, with room for so many flows at first and at most; `seed` keys it.
    pub(crate) fn new(seed: u64, flows: RangeInclusive<usize>) -> Self {
        let mut cache = Self {
            index: Box::default(),
            entries: Vec::new(),
            hasher: FixedState::with_seed(seed),
            last: Last::NONE,
            found: usize::MAX,
            epochs: Vec::new(),
            next_epoch: 1,
            hand: 0,
            given_up: 0,
            room: 0,
            rooms: flows,
        };
        cache.begin(*cache.rooms.start());
        cache
    }

    /// Begins anew, with room for so many flows. The memory is taken by and by.
    fn begin(&mut self, room: usize) {
        let room = room.max(1);
        let sets = (room * WAYS_PER_FLOW).div_ceil(WAYS).next_power_of_two();
        self.index = vec![Set { tags: [0; WAYS], at: [0; WAYS] }; sets].into();
        self.entries = Vec::with_capacity(room);
        self.epochs.iter_mut().for_each(|epoch| epoch.flows = 0);
        (self.hand, self.given_up, self.room) = (0, 0, room);
    }

    /// Gives back what it has grown by.
    pub(crate) fn trim(&mut self) {
        if self.is_large() {
            self.begin(*self.rooms.start());
        }
    }

    /// Forgets every flow, for a switch of so many vSwitches. Entries are not touched: they are of another epoch now.
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
        self.look_up(now, key).map(|at| &self.entries[at].decided)
    }

    /// The same for a frame that begins so, if it is plain; where it is of the same flow as the last ones, nothing is
    /// looked up.
    #[inline(always)]
    pub(crate) fn get_plain(
        &mut self,
        now: Instant,
        ingress: PortId,
        start: &PlainStart,
        fields: Fields,
    ) -> Option<&(Action, Mirrors)> {
        if self.last.is_like(ingress, start)
            && self.entries.get(self.last.at).is_some_and(|entry| self.counts(entry, now))
        {
            return Some(&self.entries[self.last.at].decided);
        }
        let at = self.look_up(now, &FlowKey::of_plain(ingress, start, fields)?)?;
        // Two in a row: there will be more.
        if std::mem::replace(&mut self.found, at) == at {
            self.last = Last::new(ingress, start, at);
        }
        Some(&self.entries[at].decided)
    }

    /// Where the entry of a key is, if it counts.
    #[inline(always)] // or the key would be passed on through memory, in words, and read in pairs of them
    fn look_up(&self, now: Instant, key: &FlowKey) -> Option<usize> {
        let (set, tag) = self.place(key);
        self.find(now, key, set, tag).or_else(|| self.find_in_other(now, key, set, tag))
    }

    #[cold]
    fn find_in_other(&self, now: Instant, key: &FlowKey, set: usize, tag: u16) -> Option<usize> {
        self.find(now, key, self.other(set), tag)
    }

    #[inline(always)]
    fn find(&self, now: Instant, key: &FlowKey, set: usize, tag: u16) -> Option<usize> {
        let set = &self.index[set];
        let mut ways = set.ways(tag);
        while ways != 0 {
            let at = set.at[ways.trailing_zeros() as usize % WAYS] as usize;
            if self.entries.get(at).is_some_and(|entry| entry.key.is(key) && self.counts(entry, now)) {
                return Some(at);
            }
            ways &= ways - 1;
        }
        None
    }

    /// Whether an entry counts now.
    #[inline(always)]
    fn counts(&self, entry: &Entry, now: Instant) -> bool {
        self.is_current(entry) && now < entry.until
    }

    /// Whether it has grown beyond what a processor keeps near, so that it pays to [`FlowCache::foresee`].
    #[inline]
    pub(crate) fn is_large(&self) -> bool {
        self.room > *self.rooms.start()
    }

    /// Asks the processor for the part of the index that [`FlowCache::get`] will read.
    #[inline]
    pub(crate) fn foresee(&self, key: &FlowKey) -> Foreseen {
        let (set, tag) = self.place(key);
        prefetch(&self.index, set);
        Foreseen { set: set as u32, tag }
    }

    /// Asks for the entry that the index names. Nothing waits for memory here: no branch depends on it.
    #[inline]
    pub(crate) fn fetch(&self, foreseen: &Foreseen) {
        let Some(set) = self.index.get(foreseen.set as usize) else { return };
        prefetch(&self.entries, set.at[set.ways(foreseen.tag).trailing_zeros() as usize % WAYS] as usize);
    }

    /// Remembers until when what was decided for such a frame, which was not known.
    pub(crate) fn insert(&mut self, key: FlowKey, vswitch: usize, until: Instant, decided: (Action, Mirrors)) {
        let Some(epoch) = self.epochs.get(vswitch).map(|epoch| epoch.number) else { return };
        self.last = Last::NONE; // its entry may become another's
        if self.given_up > self.room / GROWTH && self.room < *self.rooms.end() {
            self.begin((self.room * GROWTH).min(*self.rooms.end()));
        }
        let (first, tag) = self.place(&key);
        let (set, way) = self.way_for(first, tag, &key);
        let is_free = self.index[set].tags[way] == 0;
        let at = if is_free { self.next_place() } else { self.index[set].at[way] as usize };
        let entry = Entry { key, epoch, until, vswitch: vswitch as u32, decided };
        if let Some(before) = self.entries.get(at).copied() {
            if self.is_current(&before) {
                self.epochs[before.vswitch as usize].flows -= 1;
                self.given_up += usize::from(before.key != key);
            }
            self.entries[at] = entry;
        } else {
            self.entries.push(entry);
        }
        self.epochs[vswitch].flows += 1;
        self.index[set].tags[way] = tag;
        self.index[set].at[way] = at as u32;
    }

    /// Where else a flow may be whose set is full: in the next line.
    #[inline]
    fn other(&self, set: usize) -> usize {
        (set ^ 1).min(self.index.len() - 1)
    }

    /// Which way of which set such a flow takes: its own, a free one, that of an entry that counts no more, or any.
    fn way_for(&self, first: usize, tag: u16, key: &FlowKey) -> (usize, usize) {
        let entry = |(set, way): (usize, usize)| &self.entries[self.index[set].at[way] as usize];
        let tag_of = |(set, way): (usize, usize)| self.index[set].tags[way];
        let ways = || [first, self.other(first)].into_iter().flat_map(|set| (0..WAYS).map(move |way| (set, way)));
        let own = ways().find(|way| tag_of(*way) == tag && entry(*way).key == *key);
        let free = || ways().find(|way| tag_of(*way) == 0);
        let old = || ways().find(|way| !self.is_current(entry(*way)));
        own.or_else(free).or_else(old).unwrap_or((first, usize::from(tag >> 8) % WAYS))
    }

    /// Where the next entry goes: to the end, or, when there is no room, where the oldest is.
    fn next_place(&mut self) -> usize {
        if self.entries.len() < self.room {
            return self.entries.len();
        }
        let at = self.hand;
        self.hand = (at + 1) % self.room;
        let (first, tag) = self.place(&self.entries[at].key);
        for set in [first, self.other(first)] {
            let Set { tags, at: places } = &mut self.index[set];
            for (known, _) in
                tags.iter_mut().zip(places).filter(|(known, place)| **known == tag && **place as usize == at)
            {
                *known = 0;
            }
        }
        at
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
        (hash as usize & (self.index.len() - 1), (hash >> 48) as u16 | 1)
    }
}

/// Asks the processor for the lines of one of `values`, if it is there.
#[inline]
#[expect(unsafe_code, reason = "there is no safe way to ask yet (rust-lang/rust#146941)")]
fn prefetch<T>(values: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of::<T>() + LINE_BYTES - 1).step_by(LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let byte = values.as_ptr().wrapping_add(at).cast::<i8>().wrapping_add(offset.min(size_of::<T>() - 1));
        // SAFETY: a prefetch changes nothing and never faults (Intel SDM, PREFETCHh); SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(byte) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, at);
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
    use weft_wire::Protocol;

    use super::*;
    use crate::pipeline;

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
        let capacity = 1000;
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
        assert!(known(&cache) > 5500 && cache.room == 8000, "{}", known(&cache));
        cache.trim();
        assert_eq!((cache.room, known(&cache), cache.flows()), (64, 0, 0));
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
    fn what_was_found_twice_in_a_row_counts_no_longer_than_its_entry() {
        let mut start = [0; 48];
        start[12..15].copy_from_slice(&[8, 0, 0x45]);
        start[23] = Protocol::TCP.0;
        let (ingress, fields) = (PortId(3), pipeline::LINK);
        let key = FlowKey::of_plain(ingress, &start, fields).unwrap();
        let remembers = |cache: &mut FlowCache| {
            (0..3).for_each(|_| assert!(cache.get_plain(NOW, ingress, &start, fields).is_some()));
            cache.last.is_like(ingress, &start)
        };
        let mut cache = cache();
        cache.insert(key, 0, LATER, BLANK);
        assert!(remembers(&mut cache));
        assert!(cache.get_plain(LATER, ingress, &start, fields).is_none(), "it has lapsed");
        assert!(cache.get_plain(NOW, PortId(4), &start, fields).is_none(), "another port");
        let mut other = start;
        other[0] ^= 2;
        assert!(cache.get_plain(NOW, ingress, &other, fields).is_none(), "another station");
        cache.forget(0);
        assert!(cache.get_plain(NOW, ingress, &start, fields).is_none(), "the vSwitch is another");
        cache.insert(key, 0, LATER, BLANK);
        assert!(remembers(&mut cache));
        cache.begin(1000);
        assert!(cache.get_plain(NOW, ingress, &start, fields).is_none(), "all is forgotten");
        // Its entry becomes another's.
        let mut cache = FlowCache::new(7, 1..=1);
        cache.forget_all(1);
        cache.insert(key, 0, LATER, BLANK);
        assert!(remembers(&mut cache));
        cache.insert(FlowKey::of_plain(ingress, &other, fields).unwrap(), 0, LATER, BLANK);
        assert!(cache.get_plain(NOW, ingress, &start, fields).is_none(), "it gave way");
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
