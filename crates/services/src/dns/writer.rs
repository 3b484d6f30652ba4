//! Answers of our own.

use std::net::IpAddr;

use super::message::{CLASS_IN, HEADER_BYTES, OPT_BYTES, POINTER, Query, Rcode, emit_opt, rtype};

/// The largest UDP payload that the name server takes (what every path carries without fragments).
const PAYLOAD_BYTES: u16 = 1232;

/// An answer of ours under construction.
pub(crate) struct AnswerWriter<'a> {
    query: &'a Query<'a>,
    rcode: Rcode,
    authoritative: bool,
    /// Whose records come next: the name that was asked for, or what it stands for.
    owner: Vec<u8>,
    answers: u16,
    authorities: u16,
    records: Vec<u8>,
}

impl<'a> AnswerWriter<'a> {
    pub(crate) fn new(query: &'a Query<'a>, rcode: Rcode, authoritative: bool) -> Self {
        let owner = suffix(query, usize::MAX).to_vec();
        Self { query, rcode, authoritative, owner, answers: 0, authorities: 0, records: Vec::new() }
    }

    fn record(&mut self, owner: &[u8], rtype: u16, ttl_s: u32, data: &[u8]) {
        self.records.extend_from_slice(owner);
        self.records.extend_from_slice(&rtype.to_be_bytes());
        self.records.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.records.extend_from_slice(&ttl_s.to_be_bytes());
        self.records.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        self.records.extend_from_slice(data);
    }

    fn answer(&mut self, rtype: u16, ttl_s: u32, data: &[u8]) {
        let owner = std::mem::take(&mut self.owner);
        self.record(&owner, rtype, ttl_s, data);
        self.owner = owner;
        self.answers += 1;
    }

    /// An address.
    pub(crate) fn address(&mut self, ip: IpAddr, ttl_s: u32) {
        match ip {
            IpAddr::V4(ip) => self.answer(rtype::A, ttl_s, &ip.octets()),
            IpAddr::V6(ip) => self.answer(rtype::AAAA, ttl_s, &ip.octets()),
        }
    }

    /// A name of the address that was asked for; `name` as text, without the last dot.
    pub(crate) fn ptr(&mut self, name: &str, ttl_s: u32) {
        self.answer(rtype::PTR, ttl_s, &encode_name(name));
    }

    /// The name is another one for `target`, whose records come next.
    pub(crate) fn cname(&mut self, target: &str, ttl_s: u32) {
        let target = encode_name(target);
        self.answer(rtype::CNAME, ttl_s, &target);
        self.owner = target;
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
        self.record(&suffix(self.query, labels), rtype::SOA, ttl_s, &data);
        if is_answer {
            self.answers += 1;
        } else {
            self.authorities += 1;
        }
    }

    /// The message; when it is longer than `max_bytes`, the word that it is.
    pub(crate) fn finish(self, max_bytes: usize) -> Vec<u8> {
        let edns_bytes = if self.query.edns.is_some() { OPT_BYTES } else { 0 };
        let head_bytes = HEADER_BYTES + self.query.question().len();
        let truncated = head_bytes + self.records.len() + edns_bytes > max_bytes;
        let mut bytes = self.query.answer_head(self.rcode, self.authoritative, truncated);
        if !truncated {
            bytes[6..8].copy_from_slice(&self.answers.to_be_bytes());
            bytes[8..10].copy_from_slice(&self.authorities.to_be_bytes());
            bytes.extend_from_slice(&self.records);
        }
        if let Some(edns) = self.query.edns {
            bytes[10..12].copy_from_slice(&1_u16.to_be_bytes());
            emit_opt(&mut bytes, PAYLOAD_BYTES, self.rcode, edns.dnssec_ok);
        }
        bytes
    }
}

/// A pointer to the suffix of `labels` labels of the question's name; to the whole name, if it has no more.
fn suffix(query: &Query<'_>, labels: usize) -> [u8; 2] {
    let skipped = query.name.labels().len().saturating_sub(labels);
    let at = HEADER_BYTES + query.name.labels().take(skipped).map(|label| 1 + label.len()).sum::<usize>();
    let at = u16::try_from(at).unwrap_or(0); // a question's name ends within the first 267 bytes
    (u16::from(POINTER) << 8 | at).to_be_bytes()
}

/// `name`, made of labels that we have checked, as it travels.
pub(crate) fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
