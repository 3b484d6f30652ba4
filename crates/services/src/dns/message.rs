//! The DNS message format (RFC 1035, section 4), as far as a gateway needs it: one question in, one answer out.
//!
//! Messages for the outside are not taken apart: they pass as they are, but for the transaction id and the size
//! that a client says it can take.

use weft_types::DomainName;

use super::writer::AnswerWriter;

/// A message's fixed part.
pub(super) const HEADER_BYTES: usize = 12;
/// The longest name, its length bytes and the root included (RFC 1035, section 2.3.4).
const MAX_NAME_BYTES: usize = 255;
/// What a client without EDNS takes over UDP (RFC 1035, section 4.2.1).
pub(crate) const MIN_PAYLOAD_BYTES: usize = 512;
/// Labels start below this; the two high bits mark a compression pointer (RFC 1035, section 4.1.4).
pub(super) const POINTER: u8 = 0xc0;

/// Record types (RFC 1035, sections 3.2.2 and 3.2.3; RFC 3596; RFC 6891; RFC 8482).
pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const OPT: u16 = 41;
    /// Keys, signatures and copies of whole zones are asked of a zone's own server, by whoever it knows: 249 to 252.
    pub(crate) const TKEY: u16 = 249;
    pub(crate) const AXFR: u16 = 252;
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
    pub(super) const AUTHENTIC_DATA: u16 = 0x0020;
    pub(super) const CHECKING_DISABLED: u16 = 0x0010;
}

/// The header's bits of a query that pass to the outside.
const PASSED: u16 = bit::RECURSION_DESIRED | bit::AUTHENTIC_DATA | bit::CHECKING_DISABLED;
/// The end of a question.
const TYPE_AND_CLASS_BYTES: usize = 4;
/// The record of EDNS without options.
pub(super) const OPT_BYTES: usize = 11;

/// A domain name in lower case, its labels from the host to the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(Vec<Box<[u8]>>);

impl Name {
    /// The name as text, without the last dot; `None` when a label has a byte that stands in no host's name.
    pub(crate) fn text(&self) -> Option<String> {
        let is_plain = |label: &[u8]| label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        let labels = self.labels().map(|label| std::str::from_utf8(label).ok().filter(|_| is_plain(label)));
        Some(labels.collect::<Option<Vec<_>>>()?.join("."))
    }

    /// Whether the name is `domain`, or a name in it.
    pub(crate) fn is_in(&self, domain: &DomainName) -> bool {
        let mut labels = self.labels().rev();
        domain.labels().rev().all(|label| labels.next() == Some(label.as_bytes()))
    }

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
    /// Whether the client wants the records of DNSSEC (RFC 3225).
    pub(crate) dnssec_ok: bool,
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
    /// Reads a message.
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

    /// Whether `question`, of the same length, is the same one but for the case of its name.
    pub(crate) fn asks(&self, question: &[u8]) -> bool {
        let (name, rest) = self.question().split_at(self.question().len() - TYPE_AND_CLASS_BYTES);
        question
            .split_at_checked(name.len())
            .is_some_and(|theirs| theirs.0.eq_ignore_ascii_case(name) && theirs.1 == rest)
    }

    /// The question with its name in lower case.
    pub(crate) fn folded_question(&self) -> Box<[u8]> {
        let mut question: Box<[u8]> = self.question().into();
        let name_bytes = question.len() - TYPE_AND_CLASS_BYTES;
        question[..name_bytes].make_ascii_lowercase();
        question
    }

    /// What the client says about the answer that it wants: the header's bits that pass to the outside, EDNS, DNSSEC.
    pub(crate) fn wishes(&self) -> u16 {
        const HAS_EDNS: u16 = 1;
        const DNSSEC_OK: u16 = 2;
        let edns = self.edns.map_or(0, |edns| HAS_EDNS | if edns.dnssec_ok { DNSSEC_OK } else { 0 });
        self.flags & PASSED | edns
    }

    /// The query for the outside: under the id `id`, and asking for answers of at most `max_bytes`. What EDNS says is
    /// from one hop to the next (RFC 6891, section 6.2.6), so nothing of it passes but the wish for DNSSEC.
    pub(crate) fn for_upstream(&self, id: u16, max_bytes: usize) -> Vec<u8> {
        let additional = u16::from(self.edns.is_some());
        let mut message = Vec::with_capacity(HEADER_BYTES + self.question().len() + OPT_BYTES);
        for word in [id, self.flags & PASSED, 1, 0, 0, additional] {
            message.extend_from_slice(&word.to_be_bytes());
        }
        message.extend_from_slice(self.question());
        if let Some(edns) = self.edns {
            let size =
                u16::try_from(max_bytes).unwrap_or(u16::MAX).min(edns.payload_bytes.max(MIN_PAYLOAD_BYTES as u16));
            emit_opt(&mut message, size, Rcode::NoError, edns.dnssec_ok);
        }
        message
    }

    /// The first bytes of an answer of ours: the header with `counts`, and the question.
    pub(super) fn answer_head(&self, rcode: Rcode, authoritative: bool, truncated: bool) -> Vec<u8> {
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

/// `answer` under the id that the client asked with.
pub(crate) fn with_id(answer: &[u8], id: u16) -> Vec<u8> {
    let mut answer = answer.to_vec();
    if let Some(bytes) = answer.first_chunk_mut::<2>() {
        *bytes = id.to_be_bytes();
    }
    answer
}

/// `answer`, kept for `age_s` seconds, as one to `query`: its records, which say at `ttl_at` how long they may be
/// remembered, are that much older, and it is nobody's own word any more.
pub(crate) fn answer_again(answer: &[u8], ttl_at: &[u16], age_s: u32, query: &Query<'_>) -> Vec<u8> {
    let mut answer = with_id(answer, query.id);
    answer[2] &= !((bit::AUTHORITATIVE >> 8) as u8);
    answer[HEADER_BYTES..query.question_end].copy_from_slice(query.question());
    for at in ttl_at {
        if let Some(ttl) = answer[usize::from(*at)..].first_chunk_mut::<4>() {
            *ttl = u32::from_be_bytes(*ttl).saturating_sub(age_s).to_be_bytes();
        }
    }
    answer
}

/// Appends the record of EDNS, whose owner is the root: what we take, the code's high bits, version 0, no options.
pub(super) fn emit_opt(message: &mut Vec<u8>, payload_bytes: u16, rcode: Rcode, dnssec_ok: bool) {
    message.push(0);
    message.extend_from_slice(&rtype::OPT.to_be_bytes());
    message.extend_from_slice(&payload_bytes.to_be_bytes());
    message.extend_from_slice(&[(rcode as u16 >> 4) as u8, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
}

/// A record of a message.
pub(super) struct Record<'a> {
    pub(super) owner_is_root: bool,
    pub(super) rtype: u16,
    pub(super) class: u16,
    /// For how long it may be remembered, in seconds; of EDNS, its code, version and flags.
    pub(super) ttl_s: u32,
    /// Where that stands.
    pub(super) ttl_at: usize,
    pub(super) data: &'a [u8],
}

/// Reads a message from its front to its back.
pub(super) struct Reader<'a> {
    pub(super) message: &'a [u8],
    pub(super) at: usize,
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

    /// The next record; names in its data are not looked at.
    pub(super) fn record(&mut self) -> Option<Record<'a>> {
        let owner = self.at;
        self.skip_name()?;
        let owner_is_root = self.at == owner + 1;
        let (rtype, class, ttl_at) = (self.word()?, self.word()?, self.at);
        let ttl_s = u32::from(self.word()?) << 16 | u32::from(self.word()?);
        let data_bytes = self.word()?;
        let data = self.take(data_bytes.into())?;
        Some(Record { owner_is_root, rtype, class, ttl_s, ttl_at, data })
    }

    /// Passes over `count` records and gives the one of EDNS, of which there may be one (RFC 6891, section 6.1.1).
    fn edns(&mut self, count: u32) -> Result<Option<Edns>, ()> {
        const DNSSEC_OK: u32 = 0x8000;
        let mut found = None;
        for _ in 0..count {
            let record = self.record().ok_or(())?;
            if record.rtype == rtype::OPT {
                if !record.owner_is_root || found.is_some() {
                    return Err(());
                }
                let version = (record.ttl_s >> 16) as u8;
                found = Some(Edns { payload_bytes: record.class, version, dnssec_ok: record.ttl_s & DNSSEC_OK != 0 });
            }
        }
        Ok(found)
    }
}
