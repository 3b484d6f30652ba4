//! What the outside answered, for as long as it said that this may be remembered (RFC 1035, section 7.4; RFC 2308).
//!
//! Whole answers are kept, for exactly the question that was asked and for the network whose member asked it: nothing
//! that came along in an answer becomes an answer to another question, and no network learns what another has asked.

use std::collections::{HashMap, VecDeque};

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use weft_types::Instant;

use super::answer::Memorable;
use super::message::{Query, answer_again};
use crate::NetworkId;

/// What all answers may take.
const MAX_BYTES: usize = 4 << 20;
/// A longer answer is not kept: a few of them would take the room of all others.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// What an answer takes beyond its bytes and its question's.
const OVERHEAD_BYTES: usize = 192;

/// A question, and all that its answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    network: NetworkId,
    /// What the client said about the answer that it wants.
    wishes: u16,
    question: Box<[u8]>,
}

/// An answer.
#[derive(Debug)]
struct Kept {
    message: Box<[u8]>,
    memorable: Memorable,
    since: Instant,
    /// Asked for since room was looked for last.
    is_used: bool,
}

impl Kept {
    fn bytes(&self, key: &Key) -> usize {
        OVERHEAD_BYTES + self.message.len() + 2 * (self.memorable.ttl_at.len() + key.question.len())
    }
}

/// The answers. Guests choose the questions, so the hash is seeded.
#[derive(Debug)]
pub(crate) struct Cache {
    answers: HashMap<Key, Kept, SeedableRandomState>,
    /// The same keys, in the order in which they are looked at when room is needed: who was asked for since the last
    /// time stays, and comes last.
    order: VecDeque<Key>,
    bytes: usize,
    /// Ends what is under way: answers to questions of an earlier generation are not kept.
    generation: u64,
}

impl Cache {
    pub(crate) fn new(seed: u64) -> Self {
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_fixed());
        Self { answers: HashMap::with_hasher(hasher), order: VecDeque::new(), bytes: 0, generation: 0 }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    fn key(network: NetworkId, query: &Query<'_>) -> Key {
        Key { network, wishes: query.wishes(), question: query.folded_question() }
    }

    /// The answer to `query`, aged by the time that it was kept.
    pub(crate) fn get(&mut self, now: Instant, network: NetworkId, query: &Query<'_>) -> Option<Vec<u8>> {
        let kept = self.answers.get_mut(&Self::key(network, query))?;
        let age_s = now.since(kept.since).as_secs();
        let age_s = u32::try_from(age_s).ok().filter(|age| *age < kept.memorable.ttl_s)?;
        kept.is_used = true;
        Some(answer_again(&kept.message, &kept.memorable.ttl_at, age_s, query))
    }

    /// Keeps `message`, the answer to `query`, which was asked in `generation`.
    pub(crate) fn keep(
        &mut self,
        now: Instant,
        network: NetworkId,
        query: &Query<'_>,
        generation: u64,
        message: &[u8],
    ) {
        if generation != self.generation || message.len() > MAX_ANSWER_BYTES {
            return;
        }
        let Some(memorable) = Memorable::find(message, query) else { return };
        let key = Self::key(network, query);
        let kept = Kept { message: message.into(), memorable, since: now, is_used: false };
        self.bytes += kept.bytes(&key);
        match self.answers.insert(key.clone(), kept) {
            Some(before) => self.bytes -= before.bytes(&key),
            None => self.order.push_back(key),
        }
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.bytes > MAX_BYTES
            && let Some(key) = self.order.pop_front()
        {
            let Some(kept) = self.answers.get_mut(&key) else { continue };
            if std::mem::take(&mut kept.is_used) {
                self.order.push_back(key);
            } else {
                self.bytes -= kept.bytes(&key);
                self.answers.remove(&key);
            }
        }
    }

    /// Forgets what networks other than these asked, and what is under way.
    pub(crate) fn retain(&mut self, stays: impl Fn(NetworkId) -> bool) {
        self.generation += 1;
        self.order.retain(|key| stays(key.network));
        self.answers.retain(|key, kept| {
            let stays = stays(key.network);
            if !stays {
                self.bytes -= kept.bytes(key);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OFFICE: NetworkId = NetworkId(1);

    /// A query for an address of `<number>.example`.
    fn query(number: u32) -> Vec<u8> {
        let label = format!("{number:06}");
        let mut message = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 6];
        message.extend_from_slice(label.as_bytes());
        message.extend_from_slice(b"\x07example\0\0\x01\0\x01");
        message
    }

    /// Its answer.
    fn answer(query: &[u8], ttl_s: u32) -> Vec<u8> {
        let mut message = query.to_vec();
        (message[2], message[7]) = (0x81, 1);
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        message.extend_from_slice(&ttl_s.to_be_bytes());
        message.extend_from_slice(&[0, 4, 192, 0, 2, 1]);
        message
    }

    fn keep(cache: &mut Cache, number: u32) {
        let query = query(number);
        let parsed = Query::parse(&query).unwrap();
        cache.keep(Instant::ZERO, OFFICE, &parsed, cache.generation(), &answer(&query, 300));
    }

    fn knows(cache: &mut Cache, number: u32) -> bool {
        let query = query(number);
        cache.get(Instant::ZERO, OFFICE, &Query::parse(&query).unwrap()).is_some()
    }

    #[test]
    fn room_is_bounded_and_who_is_asked_for_stays() {
        let mut cache = Cache::new(1);
        for number in 0..50_000 {
            keep(&mut cache, number);
            assert!(cache.bytes <= MAX_BYTES);
            assert!(knows(&mut cache, 0), "{number}");
        }
        assert_eq!(cache.order.len(), cache.answers.len());
        assert!(cache.answers.len() > 10_000 && !knows(&mut cache, 1) && knows(&mut cache, 49_999));
        // The same question again takes no more room.
        let (bytes, count) = (cache.bytes, cache.order.len());
        keep(&mut cache, 49_999);
        assert_eq!((cache.bytes, cache.order.len()), (bytes, count));
        cache.retain(|_| false);
        assert_eq!((cache.bytes, cache.order.len(), cache.answers.len()), (0, 0, 0));
    }

    #[test]
    fn answers_of_an_earlier_generation_come_too_late() {
        let mut cache = Cache::new(1);
        let asked = query(1);
        let generation = cache.generation();
        cache.retain(|_| true);
        cache.keep(Instant::ZERO, OFFICE, &Query::parse(&asked).unwrap(), generation, &answer(&asked, 300));
        assert!(!knows(&mut cache, 1));
    }

    #[test]
    fn answers_age_and_end() {
        let mut cache = Cache::new(1);
        keep(&mut cache, 1);
        let again = [&[0xab, 0xcd], &query(1)[2..]].concat();
        let mut at = |seconds| {
            let now = Instant::ZERO + Duration::from_secs(seconds);
            cache.get(now, OFFICE, &Query::parse(&again).unwrap())
        };
        for (seconds, left_s) in [(0, 300), (7, 293), (299, 1)] {
            assert_eq!(at(seconds), Some(answer(&again, left_s)), "{seconds} s");
        }
        assert_eq!(at(300), None);
    }
}
