//! What came from outside: whether it answers what was asked, and for how long it may be remembered.
//!
//! Names in it are passed over and never followed, so no pointer can lead anywhere.

use super::message::{HEADER_BYTES, Query, Reader, rtype};

/// The longest that an answer is remembered, in seconds.
const MAX_TTL_S: u32 = 86_400;
/// The same for the answer that there is no such thing (RFC 2308, section 5, recommends one to three hours; who works on
/// names waits for them).
const MAX_NEGATIVE_TTL_S: u32 = 900;
/// The last five words of a SOA record's data, of which the last says how long its zone lacks what it lacks.
const SOA_NUMBERS_BYTES: usize = 20;

const TRUNCATED: u16 = 0x0200;

/// Whether `answer` is one to `query`, asked under `id`. The name may come back in another case.
pub(crate) fn is_answer_to(answer: &[u8], id: u16, query: &Query<'_>) -> bool {
    const RESPONSE: u16 = 0x8000;
    const OPCODE: u16 = 0x7800;
    let Some((header, rest)) = answer.split_first_chunk::<HEADER_BYTES>() else { return false };
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if word(0) != id || word(2) & (RESPONSE | OPCODE) != RESPONSE {
        return false;
    }
    match word(4) {
        1 => rest.get(..query.question().len()).is_some_and(|theirs| query.asks(theirs)),
        // Some servers send back nothing but the header with their refusal.
        0 => rest.is_empty() && word(2) & 0xf != 0,
        _ => false,
    }
}

/// An answer that may be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memorable {
    /// For how long, in seconds.
    pub(crate) ttl_s: u32,
    /// Where each record says how long it may be remembered.
    pub(crate) ttl_at: Box<[u16]>,
}

impl Memorable {
    /// Looks at `message`, an answer to `query`; `None` when it is not whole, or not to be remembered: a failure, a
    /// part of an answer, or a negative answer that names no time (RFC 2308, section 5).
    pub(crate) fn find(message: &[u8], query: &Query<'_>) -> Option<Self> {
        let header = message.first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        const NO_ERROR: u16 = 0;
        const NX_DOMAIN: u16 = 3;
        let rcode = word(2) & 0xf;
        if word(2) & TRUNCATED != 0 || ![NO_ERROR, NX_DOMAIN].contains(&rcode) || word(4) != 1 {
            return None;
        }
        let mut reader = Reader { message, at: HEADER_BYTES + query.question().len() };
        let mut ttl_s = MAX_TTL_S;
        let mut ttl_at = Vec::new();
        let mut is_answered = false;
        let mut negative_s = None;
        for (section, count) in [word(6), word(8), word(10)].into_iter().enumerate() {
            for _ in 0..count {
                let record = reader.record()?;
                if record.rtype == rtype::OPT {
                    // What does not fit into the four bits of the header is no success either.
                    if record.ttl_s >> 24 != 0 {
                        return None;
                    }
                    continue;
                }
                ttl_at.push(u16::try_from(record.ttl_at).ok()?);
                ttl_s = ttl_s.min(record.ttl_s);
                is_answered |= section == 0 && (record.rtype == query.rtype || query.rtype == rtype::ANY);
                if section == 1 && record.rtype == rtype::SOA {
                    let numbers = record.data.len().checked_sub(SOA_NUMBERS_BYTES)?;
                    let minimum_s = record.data[numbers..].last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))?;
                    negative_s = Some(minimum_s.min(record.ttl_s).min(MAX_NEGATIVE_TTL_S));
                }
            }
        }
        if reader.at != message.len() {
            return None; // what stands behind an answer is not a part of it
        }
        if rcode != NO_ERROR || !is_answered {
            ttl_s = ttl_s.min(negative_s?);
        }
        (ttl_s > 0).then(|| Self { ttl_s, ttl_at: ttl_at.into() })
    }
}
