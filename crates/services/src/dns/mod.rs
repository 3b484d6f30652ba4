//! Names at the gateway (RFC 1035): the machines' own, and, through the host's resolvers, everybody else's.

mod answer;
mod cache;
mod forward;
mod message;
mod stream;
mod writer;
mod zone;

use std::net::SocketAddr;

use weft_types::{Instant, NetworkName};

pub(crate) use forward::{Asker, Forwarder, Way};
pub(crate) use stream::{MAX_FRAMED_BYTES, TooLong, next_query, put_answer};
pub(crate) use zone::{Lookups, View, Zone};

use answer::is_answer_to;
use cache::Cache;
use message::{CLASS_ANY, CLASS_IN, Query, QueryError, Rcode, refuse_unread, rtype, with_id};
use writer::AnswerWriter;
use zone::{Found, Lookup, is_of_ours};

use crate::random::Random;
use crate::{NetworkId, Reason};

/// The port of name servers.
pub(crate) const PORT: u16 = 53;

/// How long answers of ours may be remembered, also that there is no such name. A machine that is made anew may
/// have another address at once and nobody tells the caches; asking again costs one hop inside the host.
const TTL_S: u32 = 5;

/// The longest message over TCP, where two bytes say how long it is.
const MAX_STREAM_ANSWER_BYTES: usize = u16::MAX as usize;

/// A query for the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsForward {
    /// Names the query in [`Services::dns_answer`](crate::Services::dns_answer).
    pub id: u64,
    /// The message, to be sent as it is.
    pub message: Vec<u8>,
    /// Whom to ask, and nobody else; the host's resolvers where it is empty.
    pub servers: Vec<SocketAddr>,
    /// Whether to ask over TCP, because the client did; over UDP otherwise.
    pub is_stream: bool,
}

/// What a message to the gateway's name server leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This goes back, and the reason is counted.
    Answer(Vec<u8>, Option<Reason>),
    /// The answer will come from outside.
    Forwarded,
    /// Nothing goes back.
    Dropped(Reason),
}

/// What came from outside, as it goes back to who asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// This goes back.
    Answer(Asker, Vec<u8>),
    /// It is no answer to the query, which goes on waiting.
    Misfit(Asker),
    /// Nobody waits for it any more.
    TooLate,
}

/// The name server: what waits for the outside and what is remembered of it.
pub(crate) struct Dns {
    pub(crate) forwarder: Forwarder,
    cache: Cache,
}

impl Dns {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let mut random = Random::new(seed, "dns cache");
        let cache_seed = (0..4).fold(0, |bits, _| bits << 16 | u64::from(random.word()));
        let forwarder = Forwarder::new(Random::new(seed, "dns ids"));
        Self { forwarder, cache: Cache::new(cache_seed) }
    }

    /// Answers `message`, or passes it on if the network is `open` to the outside.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        asker: Asker,
        message: &[u8],
        mtu: u16,
        lookups: &Lookups<'_>,
        open: bool,
    ) -> Outcome {
        let query = match read(message) {
            Ok(query) => query,
            Err(outcome) => return outcome,
        };
        let max_bytes = match asker.way {
            Way::Udp { .. } => query.max_answer_bytes(mtu),
            Way::Tcp(_) => MAX_STREAM_ANSWER_BYTES,
        };
        let lookup = lookups.look_up(&query.name);
        if lookup.found != Found::Outside {
            return Outcome::Answer(answer(&query, &lookup, max_bytes), None);
        }
        if !open {
            return Outcome::Answer(query.refuse(Rcode::Refused), Some(Reason::DnsRefused));
        }
        if let Some(known) = self.cache.get(now, asker.network, &query) {
            return Outcome::Answer(if known.len() > max_bytes { query.truncated() } else { known }, None);
        }
        let terms = (max_bytes, self.cache.generation());
        match self.forwarder.forward(now, asker, &query, terms, lookups.servers(&query.name)) {
            true => Outcome::Forwarded,
            false => Outcome::Answer(query.refuse(Rcode::ServFail), Some(Reason::DnsBusy)),
        }
    }

    /// What came from outside for query `id`; `None` when nobody there answered.
    pub(crate) fn hear(&mut self, now: Instant, id: u64, came: Option<&[u8]>) -> Heard {
        let Some(waiting) = self.forwarder.get(id) else { return Heard::TooLate };
        let asker = waiting.asker;
        let Ok(query) = Query::parse(&waiting.message) else { return Heard::TooLate }; // it was read before
        let back = match came {
            None => query.refuse(Rcode::ServFail),
            Some(bytes) if !is_answer_to(bytes, waiting.upstream_id, &query) => return Heard::Misfit(asker),
            Some(bytes) => {
                self.cache.keep(now, asker.network, &query, waiting.generation, bytes);
                if bytes.len() > waiting.max_bytes { query.truncated() } else { with_id(bytes, query.id) }
            }
        };
        self.forwarder.finish(id);
        Heard::Answer(asker, back)
    }

    /// Forgets what is remembered for networks other than these: what they know may not hold any more.
    pub(crate) fn forget_answers(&mut self, but_of: impl Fn(NetworkId) -> bool) {
        self.cache.retain(but_of);
    }
}

/// The name of a network's zone, as messages carry it.
pub(crate) fn zone_name(network: &NetworkName) -> Vec<u8> {
    writer::encode_name(&format!("{network}.weft"))
}

/// The query in a message; what the message leads to if there is none that can be answered.
fn read(message: &[u8]) -> Result<Query<'_>, Outcome> {
    let query = Query::parse(message).map_err(|error| {
        let refusal = match error {
            QueryError::Silent => None,
            QueryError::Refuse(rcode) => refuse_unread(message, rcode),
        };
        refusal.map_or(Outcome::Dropped(Reason::DnsMalformed), |refusal| {
            Outcome::Answer(refusal, Some(Reason::DnsMalformed))
        })
    })?;
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return Err(Outcome::Answer(query.refuse(Rcode::BadVers), None));
    }
    let is_of_names = [CLASS_IN, CLASS_ANY].contains(&query.class);
    if !is_of_names || (rtype::TKEY..=rtype::AXFR).contains(&query.rtype) {
        return Err(Outcome::Answer(query.refuse(Rcode::Refused), Some(Reason::DnsRefused)));
    }
    Ok(query)
}

/// The answer to a program of the host, by a datagram: about names in our own domain and addresses that have one.
pub(crate) fn answer_host(message: &[u8], lookups: &Lookups<'_>) -> Option<Vec<u8>> {
    let query = match read(message) {
        Ok(query) => query,
        Err(Outcome::Answer(refusal, _)) => return Some(refusal),
        Err(_) => return None,
    };
    let lookup = lookups.look_up(&query.name);
    Some(match is_of_ours(&query.name, &lookup) {
        true => answer(&query, &lookup, query.max_answer_bytes(u16::MAX)),
        false => query.refuse(Rcode::Refused),
    })
}

/// The answer to a query about a name of ours.
fn answer(query: &Query<'_>, lookup: &Lookup, max_bytes: usize) -> Vec<u8> {
    let asks_for_alias = query.rtype == rtype::CNAME || query.rtype == rtype::ANY;
    let is_alias = !lookup.aliases.is_empty();
    let is_missing = lookup.found == Found::Missing && !(is_alias && asks_for_alias);
    let rcode = if is_missing { Rcode::NxDomain } else { Rcode::NoError };
    let mut answer = AnswerWriter::new(query, rcode, true);
    if is_alias && asks_for_alias {
        answer.cname(&lookup.aliases[0], TTL_S);
        return answer.finish(max_bytes);
    }
    lookup.aliases.iter().for_each(|target| answer.cname(target, TTL_S));
    let wants = |ip: &std::net::IpAddr| match query.rtype {
        rtype::A => ip.is_ipv4(),
        rtype::AAAA => ip.is_ipv6(),
        other => other == rtype::ANY,
    };
    let is_apex = query.name.labels().len() == lookup.zone_labels && !is_missing && !is_alias;
    match (&lookup.found, query.rtype) {
        (Found::Host(addresses), _) if addresses.iter().any(wants) => {
            addresses.iter().copied().filter(wants).for_each(|ip| answer.address(ip, TTL_S));
        }
        (Found::Address(name), rtype::PTR | rtype::ANY) => answer.ptr(name, TTL_S),
        (_, rtype::SOA | rtype::ANY) if is_apex => answer.soa(lookup.zone_labels, TTL_S, true),
        _ => answer.soa(lookup.zone_labels, TTL_S, false),
    }
    answer.finish(max_bytes)
}
