//! Names at the gateway (RFC 1035): the machines' own, and, through the host's resolvers, everybody else's.

mod forward;
mod message;
mod zone;

use weft_types::Instant;

pub(crate) use forward::{Asker, Forwarder};
pub(crate) use zone::{Lookups, View, Zone};

use message::{
    AnswerWriter, CLASS_ANY, CLASS_IN, Query, QueryError, Rcode, is_answer_to, refuse_unread, rtype, with_id,
};
use zone::{Found, Lookup};

use crate::Reason;

/// The UDP port of name servers.
pub(crate) const PORT: u16 = 53;

/// How long answers of ours may be remembered, also that there is no such name. A machine that is made anew may
/// have another address at once and nobody tells the caches; asking again costs one hop inside the host.
const TTL_S: u32 = 5;

/// A query for one of the host's resolvers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsForward {
    /// Names the query in [`Services::dns_answer`](crate::Services::dns_answer).
    pub id: u64,
    /// The message, to be sent over UDP as it is.
    pub message: Vec<u8>,
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

/// Answers `payload`, or passes it on when `outside` gives the way.
pub(crate) fn handle(
    now: Instant,
    asker: Asker,
    payload: &[u8],
    mtu: u16,
    lookups: &Lookups<'_>,
    outside: Option<&mut Forwarder>,
) -> Outcome {
    let query = match Query::parse(payload) {
        Ok(query) => query,
        Err(QueryError::Silent) => return Outcome::Dropped(Reason::DnsMalformed),
        Err(QueryError::Refuse(rcode)) => {
            let answer = refuse_unread(payload, rcode);
            return answer.map_or(Outcome::Dropped(Reason::DnsMalformed), |answer| {
                Outcome::Answer(answer, Some(Reason::DnsMalformed))
            });
        }
    };
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return Outcome::Answer(query.refuse(Rcode::BadVers), None);
    }
    if ![CLASS_IN, CLASS_ANY].contains(&query.class) {
        return Outcome::Answer(query.refuse(Rcode::Refused), Some(Reason::DnsRefused));
    }
    let max_bytes = query.max_answer_bytes(mtu);
    let lookup = lookups.look_up(&query.name);
    if lookup.found != Found::Outside {
        return Outcome::Answer(answer(&query, &lookup, max_bytes), None);
    }
    match outside.map(|forwarder| forwarder.forward(now, asker, &query, max_bytes)) {
        None => Outcome::Answer(query.refuse(Rcode::Refused), Some(Reason::DnsRefused)),
        Some(true) => Outcome::Forwarded,
        Some(false) => Outcome::Answer(query.refuse(Rcode::ServFail), Some(Reason::DnsBusy)),
    }
}

/// The answer to a query about a name of ours.
fn answer(query: &Query<'_>, lookup: &Lookup, max_bytes: usize) -> Vec<u8> {
    let rcode = if lookup.found == Found::Missing { Rcode::NxDomain } else { Rcode::NoError };
    let mut answer = AnswerWriter::new(query, rcode, true);
    let is_apex = query.name.labels().len() == lookup.zone_labels && rcode == Rcode::NoError;
    match (&lookup.found, query.rtype) {
        (Found::Host(addresses), rtype::A | rtype::ANY) => addresses.iter().for_each(|ip| answer.a(*ip, TTL_S)),
        (Found::Address(name), rtype::PTR | rtype::ANY) => answer.ptr(name, TTL_S),
        (_, rtype::SOA | rtype::ANY) if is_apex => answer.soa(lookup.zone_labels, TTL_S, true),
        _ => answer.soa(lookup.zone_labels, TTL_S, false),
    }
    answer.finish(max_bytes)
}

/// What a client gets of what came from outside for its query `id`; `None` when that is no answer to it.
pub(crate) fn pass_back(query: &[u8], upstream_id: u16, max_bytes: usize, came: Option<&[u8]>) -> Option<Vec<u8>> {
    let query = Query::parse(query).ok()?;
    match came {
        None => Some(query.refuse(Rcode::ServFail)),
        Some(bytes) if !is_answer_to(bytes, upstream_id, query.question()) => None,
        Some(bytes) if bytes.len() > max_bytes => Some(query.truncated()),
        Some(bytes) => Some(with_id(bytes, query.id)),
    }
}
