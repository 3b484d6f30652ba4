//! The DNS message format (RFC 1035, section 4), as far as a gateway needs it: one question in, one answer out.
//!
//! Messages for the outside are not taken apart: they pass as they are, but for the transaction id and the size
//! that a client says it can take.

use std::net::Ipv4Addr;

/// A message's fixed part.
const HEADER_BYTES: usize = 12;
/// The longest name, its length bytes and the root included (RFC 1035, section 2.3.4).
const MAX_NAME_BYTES: usize = 255;
/// What a client without EDNS takes over UDP (RFC 1035, section 4.2.1).
pub(crate) const MIN_PAYLOAD_BYTES: usize = 512;
/// Labels start below this; the two high bits mark a compression pointer (RFC 1035, section 4.1.4).
const POINTER: u8 = 0xc0;

/// Record types (RFC 1035, section 3.2.2; RFC 6891; RFC 8482).
pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const ANY: u16 = 255;
}

/// The class of everything on the Internet (RFC 1035, section 3.2.4).
pub(crate) const CLASS_IN: u16 = 1;
/// Any class (RFC 1035, section 3.2.5).
pub(crate) const CLASS_ANY: u16 = 255;

/// How a query ended (RFC 1035, section 4.1.1; RFC 6891, section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// Header bits.
mod bit {
    pub(super) const RESPONSE: u16 = 0x8000;
    pub(super) const OPCODE: u16 = 0x7800;
    pub(super) const AUTHORITATIVE: u16 = 0x0400;
    pub(super) const TRUNCATED: u16 = 0x0200;
    pub(super) const RECURSION_DESIRED: u16 = 0x0100;
    pub(super) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(super) const CHECKING_DISABLED: u16 = 0x0010;
}

/// A domain name in lower case, its labels from the host to the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(Vec<Box<[u8]>>);

impl Name {
    pub(crate) fn labels(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        self.0.iter().map(|label| &**label)
    }

    /// The labels before `suffix`, if the name ends in it.
    pub(crate) fn below(&self, suffix: &[&[u8]]) -> Option<&[Box<[u8]>]> {
        let at = self.0.len().checked_sub(suffix.len())?;
        let (head, tail) = self.0.split_at(at);
        tail.iter().map(|label| &**label).eq(suffix.iter().copied()).then_some(head)
    }
}

/// The EDNS record of a query (RFC 6891, section 6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest UDP payload that the client takes.
    pub(crate) payload_bytes: u16,
    pub(crate) version: u8,
    /// Where the payload size stands in the message.
    payload_at: usize,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    message: &'a [u8],
    pub(crate) id: u16,
    flags: u16,
    pub(crate) name: Name,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    /// Where the question ends.
    question_end: usize,
    pub(crate) edns: Option<Edns>,
}

/// Why bytes are not a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueryError {
    /// Nothing to answer to: too short, or an answer itself.
    Silent,
    /// Answered with this code and nothing else.
    Refuse(Rcode),
}

impl<'a> Query<'a> {
    /// Reads a UDP payload.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, QueryError> {
        let header = message.first_chunk::<HEADER_BYTES>().ok_or(QueryError::Silent)?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let flags = word(2);
        if flags & bit::RESPONSE != 0 {
            return Err(QueryError::Silent);
        }
        if flags & bit::OPCODE != 0 {
            return Err(QueryError::Refuse(Rcode::NotImp));
        }
        let malformed = QueryError::Refuse(Rcode::FormErr);
        if word(4) != 1 {
            return Err(malformed);
        }
        let mut reader = Reader { message, at: HEADER_BYTES };
        let name = reader.name().ok_or(malformed)?;
        let rtype = reader.word().ok_or(malformed)?;
        let class = reader.word().ok_or(malformed)?;
        let question_end = reader.at;
        let records = u32::from(word(6)) + u32::from(word(8)) + u32::from(word(10));
        let edns = reader.edns(records).map_err(|()| malformed)?;
        Ok(Self { message, id: word(0), flags, name, rtype, class, question_end, edns })
    }

    /// The whole message.
    pub(crate) fn message(&self) -> &'a [u8] {
        self.message
    }

    /// The question as it stands in the message: name, type and class.
    pub(crate) fn question(&self) -> &'a [u8] {
        &self.message[HEADER_BYTES..self.question_end]
    }

    /// The largest answer that the client takes, of those that fit into packets of `mtu` bytes.
    pub(crate) fn max_answer_bytes(&self, mtu: u16) -> usize {
        let client = self.edns.map_or(0, |edns| usize::from(edns.payload_bytes)).max(MIN_PAYLOAD_BYTES);
        client.min(usize::from(mtu).saturating_sub(28))
    }

    /// The query for the outside: under the id `id`, and asking for answers of at most `max_bytes`.
    pub(crate) fn for_upstream(&self, id: u16, max_bytes: usize) -> Vec<u8> {
        let mut message = self.message.to_vec();
        message[..2].copy_from_slice(&id.to_be_bytes());
        if let Some(edns) = self.edns {
            let size = u16::try_from(max_bytes).unwrap_or(u16::MAX).min(edns.payload_bytes);
            message[edns.payload_at..edns.payload_at + 2].copy_from_slice(&size.to_be_bytes());
        }
        message
    }

    /// The first bytes of an answer of ours: the header with `counts`, and the question.
    fn answer_head(&self, rcode: Rcode, authoritative: bool, truncated: bool) -> Vec<u8> {
        let kept = self.flags & (bit::RECURSION_DESIRED | bit::CHECKING_DISABLED);
        let mut flags = bit::RESPONSE | bit::RECURSION_AVAILABLE | kept | (rcode as u16 & 0xf);
        if authoritative {
            flags |= bit::AUTHORITATIVE;
        }
        if truncated {
            flags |= bit::TRUNCATED;
        }
        let mut bytes = Vec::with_capacity(MIN_PAYLOAD_BYTES);
        for word in [self.id, flags, 1, 0, 0, 0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(self.question());
        bytes
    }

    /// An answer without records.
    pub(crate) fn refuse(&self, rcode: Rcode) -> Vec<u8> {
        AnswerWriter::new(self, rcode, false).finish(MIN_PAYLOAD_BYTES)
    }

    /// The word that the answer from outside is too long for UDP.
    pub(crate) fn truncated(&self) -> Vec<u8> {
        AnswerWriter::new(self, Rcode::NoError, false).finish(0)
    }
}

/// The answer to a message that cannot be read beyond its header.
pub(crate) fn refuse_unread(message: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let header = message.first_chunk::<HEADER_BYTES>()?;
    let asked = u16::from_be_bytes([header[2], header[3]]);
    let flags = bit::RESPONSE | (asked & (bit::OPCODE | bit::RECURSION_DESIRED)) | rcode as u16;
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..2].copy_from_slice(&header[..2]);
    bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    Some(bytes)
}

/// Whether `answer` is one to the question `question` asked under `id`. The name may come back in another case.
pub(crate) fn is_answer_to(answer: &[u8], id: u16, question: &[u8]) -> bool {
    let Some((header, rest)) = answer.split_first_chunk::<HEADER_BYTES>() else { return false };
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if word(0) != id || word(2) & (bit::RESPONSE | bit::OPCODE) != bit::RESPONSE {
        return false;
    }
    match word(4) {
        1 => rest.get(..question.len()).is_some_and(|theirs| theirs.eq_ignore_ascii_case(question)),
        // Some servers send back nothing but the header with their refusal.
        0 => rest.is_empty() && word(2) & 0xf != 0,
        _ => false,
    }
}

/// `answer` under the id that the client asked with.
pub(crate) fn with_id(answer: &[u8], id: u16) -> Vec<u8> {
    let mut answer = answer.to_vec();
    if let Some(bytes) = answer.first_chunk_mut::<2>() {
        *bytes = id.to_be_bytes();
    }
    answer
}

/// An answer of ours under construction.
pub(crate) struct AnswerWriter<'a> {
    query: &'a Query<'a>,
    rcode: Rcode,
    authoritative: bool,
    answers: u16,
    authorities: u16,
    records: Vec<u8>,
}

impl<'a> AnswerWriter<'a> {
    pub(crate) fn new(query: &'a Query<'a>, rcode: Rcode, authoritative: bool) -> Self {
        Self { query, rcode, authoritative, answers: 0, authorities: 0, records: Vec::new() }
    }

    /// A pointer to the suffix of `labels` labels of the question's name; to the whole name, if it has no more.
    fn suffix(&self, labels: usize) -> [u8; 2] {
        let skipped = self.query.name.labels().len().saturating_sub(labels);
        let at = HEADER_BYTES + self.query.name.labels().take(skipped).map(|label| 1 + label.len()).sum::<usize>();
        let at = u16::try_from(at).unwrap_or(0); // a question's name ends within the first 267 bytes
        (u16::from(POINTER) << 8 | at).to_be_bytes()
    }

    fn record(&mut self, owner: [u8; 2], rtype: u16, ttl_s: u32, data: &[u8]) {
        self.records.extend_from_slice(&owner);
        self.records.extend_from_slice(&rtype.to_be_bytes());
        self.records.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.records.extend_from_slice(&ttl_s.to_be_bytes());
        self.records.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        self.records.extend_from_slice(data);
    }

    /// An address of the name that was asked for.
    pub(crate) fn a(&mut self, ip: Ipv4Addr, ttl_s: u32) {
        self.record(self.suffix(usize::MAX), rtype::A, ttl_s, &ip.octets());
        self.answers += 1;
    }

    /// A name of the address that was asked for; `name` as text, without the last dot.
    pub(crate) fn ptr(&mut self, name: &str, ttl_s: u32) {
        self.record(self.suffix(usize::MAX), rtype::PTR, ttl_s, &encode_name(name));
        self.answers += 1;
    }

    /// The zone's SOA record as an answer, or, beside a negative answer, how long that may be remembered
    /// (RFC 2308, section 3). The zone is the last `labels` labels of the name.
    pub(crate) fn soa(&mut self, labels: usize, ttl_s: u32, is_answer: bool) {
        let mut data = encode_name("gateway.weft");
        data.extend_from_slice(&encode_name("hostmaster.weft"));
        // Serial, refresh, retry, expire, minimum: nobody transfers the zone, only the last matters.
        for value in [1, 3600, 600, 86_400, ttl_s] {
            data.extend_from_slice(&value.to_be_bytes());
        }
        self.record(self.suffix(labels), rtype::SOA, ttl_s, &data);
        if is_answer {
            self.answers += 1;
        } else {
            self.authorities += 1;
        }
    }

    /// The message; when it is longer than `max_bytes`, the word that it is.
    pub(crate) fn finish(self, max_bytes: usize) -> Vec<u8> {
        const OPT_BYTES: usize = 11;
        let edns_bytes = if self.query.edns.is_some() { OPT_BYTES } else { 0 };
        let head_bytes = HEADER_BYTES + self.query.question().len();
        let truncated = head_bytes + self.records.len() + edns_bytes > max_bytes;
        let mut bytes = self.query.answer_head(self.rcode, self.authoritative, truncated);
        if !truncated {
            bytes[6..8].copy_from_slice(&self.answers.to_be_bytes());
            bytes[8..10].copy_from_slice(&self.authorities.to_be_bytes());
            bytes.extend_from_slice(&self.records);
        }
        if self.query.edns.is_some() {
            // The root's name, OPT, our payload size, the high bits of the code, version 0, no flags, no options.
            bytes[10..12].copy_from_slice(&1_u16.to_be_bytes());
            bytes.push(0);
            bytes.extend_from_slice(&rtype::OPT.to_be_bytes());
            bytes.extend_from_slice(&1232_u16.to_be_bytes());
            bytes.extend_from_slice(&[(self.rcode as u16 >> 4) as u8, 0, 0, 0, 0, 0]);
        }
        bytes
    }
}

/// `name`, made of labels that we have checked, as it travels.
fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// Reads a message from its front to its back.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..)?.get(..count)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn word(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A name that is written out: nothing stands before a question that it could point to.
    fn name(&mut self) -> Option<Name> {
        let mut labels = Vec::new();
        let mut bytes = 1;
        loop {
            let len = self.byte()?;
            if len == 0 {
                return Some(Name(labels));
            }
            bytes += usize::from(len) + 1;
            if len >= 64 || bytes > MAX_NAME_BYTES {
                return None;
            }
            labels.push(self.take(len.into())?.to_ascii_lowercase().into());
        }
    }

    /// Passes over a name, which a pointer may end.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.byte()? {
                0 => return Some(()),
                len if len >= POINTER => return self.byte().map(drop),
                len if len >= 64 => return None,
                len => self.take(len.into()).map(drop)?,
            }
        }
    }

    /// Passes over `count` records and gives the one of EDNS, of which there may be one (RFC 6891, section 6.1.1).
    fn edns(&mut self, count: u32) -> Result<Option<Edns>, ()> {
        let mut found = None;
        for _ in 0..count {
            let owner = self.at;
            self.skip_name().ok_or(())?;
            let is_root = self.at == owner + 1;
            let rtype = self.word().ok_or(())?;
            let payload_at = self.at;
            let payload_bytes = self.word().ok_or(())?;
            let flags = self.take(4).ok_or(())?;
            let data_bytes = self.word().ok_or(())?;
            self.take(data_bytes.into()).ok_or(())?;
            if rtype == rtype::OPT {
                if !is_root || found.is_some() {
                    return Err(());
                }
                found = Some(Edns { payload_bytes, version: flags[1], payload_at });
            }
        }
        Ok(found)
    }
}
