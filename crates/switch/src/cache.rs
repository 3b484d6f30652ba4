//! The flow cache: what was decided for frames that look the same.
//!
//! It is faster than the pipeline and never different: a key holds every field that the pipeline may consult, and
//! an entry counts only in the epoch in which it was made. Its size is fixed. A full set gives one entry up, so a
//! peer that varies its addresses makes frames miss, and nothing worse; where they fall is keyed by a seed that it
//! does not know. Drops are not kept: frames that go nowhere must not push out those that do.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::FixedState;
use weft_types::{MacAddr, PortId};
use weft_wire::ethernet::Header;

use crate::pipeline::{Action, Fields};

/// How many flows a set holds.
const WAYS: usize = 4;

/// The fields of a frame that count for its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowKey([u64; 3]);

impl FlowKey {
    /// The fields of a frame from `ingress` that are in `fields`, and zeros for all others.
    #[inline]
    pub(crate) fn new(ingress: PortId, header: &Header, fields: Fields) -> Self {
        let mac = |mac: MacAddr| {
            let [a, b, c, d, e, f] = mac.octets();
            u64::from_be_bytes([a, b, c, d, e, f, 0, 0])
        };
        let (tag_kind, tag_control) = header.tag.map_or((0, 0), |tag| (tag.kind.0, tag.control));
        let keep = |field: Fields, value: u64| if fields.contains(field) { value } else { 0 };
        Self([
            keep(Fields::DST, mac(header.dst)) | keep(Fields::TAG, tag_control.into()),
            keep(Fields::SRC, mac(header.src)) | keep(Fields::ETHERTYPE, header.ethertype.0.into()),
            keep(Fields::INGRESS, u64::from(ingress.0) << 32) | keep(Fields::TAG, tag_kind.into()),
        ])
    }
}

impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.into_iter().for_each(|word| state.write_u64(word));
    }
}

/// A decision, and the epoch in which it was made; epochs count from 1, so a blank entry never counts.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: FlowKey,
    epoch: u64,
    action: Action,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct FlowCache {
    sets: Box<[[Entry; WAYS]]>,
    hasher: FixedState,
    epoch: u64,
    flows: u64,
    /// Chooses who gives way in a full set.
    turn: usize,
}

impl FlowCache {
    /// An empty cache for at least `flows` flows; `seed` keys it.
    pub(crate) fn new(seed: u64, flows: usize) -> Self {
        let sets = flows.div_ceil(WAYS).max(1).next_power_of_two();
        let blank = Entry { key: FlowKey::default(), epoch: 0, action: Action::BLANK };
        Self {
            sets: vec![[blank; WAYS]; sets].into(),
            hasher: FixedState::with_seed(seed),
            epoch: 1,
            flows: 0,
            turn: 0,
        }
    }

    /// Forgets every flow. Entries are not touched: they are of another epoch now, and give way first.
    pub(crate) fn forget(&mut self) {
        self.epoch += 1;
        self.flows = 0;
    }

    /// How many flows are cached.
    pub(crate) fn flows(&self) -> u64 {
        self.flows
    }

    /// What was decided for such a frame.
    #[inline]
    pub(crate) fn get(&self, key: &FlowKey) -> Option<Action> {
        let set = &self.sets[self.place(key)];
        set.iter().find(|entry| entry.key == *key && entry.epoch == self.epoch).map(|entry| entry.action)
    }

    /// Remembers what was decided for such a frame, which was not known.
    pub(crate) fn insert(&mut self, key: FlowKey, action: Action) {
        let set = &mut self.sets[self.place(&key)];
        let way = match set.iter().position(|entry| entry.epoch != self.epoch) {
            Some(stale) => {
                self.flows += 1;
                stale
            }
            None => {
                self.turn = (self.turn + 1) % WAYS;
                self.turn
            }
        };
        set[way] = Entry { key, epoch: self.epoch, action };
    }

    fn place(&self, key: &FlowKey) -> usize {
        self.hasher.hash_one(key) as usize & (self.sets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> FlowKey {
        FlowKey([number, number << 7, 0])
    }

    #[test]
    fn a_full_cache_forgets_and_never_grows() {
        let mut cache = FlowCache::new(7, 1000);
        let capacity = 1024;
        let mut known = 0;
        for number in 0..4 * capacity {
            cache.insert(key(number), Action::BLANK);
            assert!(cache.get(&key(number)).is_some(), "the newest is always there");
        }
        for number in 0..4 * capacity {
            known += u64::from(cache.get(&key(number)).is_some());
        }
        assert_eq!(known, cache.flows());
        assert!(known <= capacity && known > capacity * 9 / 10, "{known} of {capacity}");
    }

    #[test]
    fn a_new_epoch_knows_nothing() {
        let mut cache = FlowCache::new(7, 1000);
        cache.insert(key(1), Action::BLANK);
        cache.forget();
        assert!(cache.get(&key(1)).is_none() && cache.get(&FlowKey::default()).is_none());
        assert_eq!(cache.flows(), 0);
        cache.insert(key(1), Action::BLANK);
        assert_eq!(cache.flows(), 1);
    }

    #[test]
    fn each_consulted_field_counts_and_no_other() {
        let header = |bytes: &[u8; 18]| Header::parse(bytes).unwrap().0;
        let plain = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 8, 0];
        // The last byte of each field in a tagged frame.
        for (field, at) in [(Fields::DST, 5), (Fields::SRC, 11), (Fields::TAG, 15), (Fields::ETHERTYPE, 17)] {
            let mut other = plain;
            other[at] ^= 1;
            for fields in [Fields::DST, Fields::SRC, Fields::TAG, Fields::ETHERTYPE] {
                let is_same = FlowKey::new(PortId(1), &header(&plain), fields)
                    == FlowKey::new(PortId(1), &header(&other), fields);
                assert_eq!(is_same, field != fields, "{field:?} in a key of {fields:?}");
            }
        }
        let [one, two] = [1, 2].map(|port| FlowKey::new(PortId(port), &header(&plain), Fields::INGRESS));
        assert_ne!(one, two);
    }
}
