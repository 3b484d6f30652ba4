//! Messages of DHCPv6 (RFC 8415, sections 8 and 21), as far as clients send them to servers.

use std::net::Ipv6Addr;

/// The longest identifier of a client or a server, its type included (section 11.1).
const MAX_DUID_BYTES: usize = 130;
/// The most addresses and prefixes that a message may be about.
const MAX_IDENTITIES: usize = 8;

/// The messages' numbers (section 7.3).
pub(super) mod kind {
    pub(crate) const SOLICIT: u8 = 1;
    pub(crate) const ADVERTISE: u8 = 2;
    pub(crate) const REQUEST: u8 = 3;
    pub(crate) const CONFIRM: u8 = 4;
    pub(crate) const RENEW: u8 = 5;
    pub(crate) const REBIND: u8 = 6;
    pub(crate) const REPLY: u8 = 7;
    pub(crate) const RELEASE: u8 = 8;
    pub(crate) const DECLINE: u8 = 9;
    pub(crate) const INFORMATION_REQUEST: u8 = 11;
    /// From a relay, whose messages have another header.
    pub(crate) const RELAY_FORWARD: u8 = 12;
}

/// The options' numbers (section 21; RFC 3646).
pub(super) mod option {
    pub(crate) const CLIENT_ID: u16 = 1;
    pub(crate) const SERVER_ID: u16 = 2;
    /// An address.
    pub(crate) const IA_NA: u16 = 3;
    /// An address for a while.
    pub(crate) const IA_TA: u16 = 4;
    /// In the one or the other.
    pub(crate) const ADDRESS: u16 = 5;
    pub(crate) const REQUEST: u16 = 6;
    pub(crate) const PREFERENCE: u16 = 7;
    pub(crate) const STATUS: u16 = 13;
    pub(crate) const RAPID_COMMIT: u16 = 14;
    /// A prefix.
    pub(crate) const IA_PD: u16 = 25;
    pub(crate) const DNS_SERVERS: u16 = 23;
    pub(crate) const DOMAIN_LIST: u16 = 24;
    pub(crate) const REFRESH_TIME: u16 = 32;
}

/// How something went (section 21.13).
pub(super) mod status {
    pub(crate) const SUCCESS: u16 = 0;
    pub(crate) const NO_ADDRESSES: u16 = 2;
    pub(crate) const NOT_ON_LINK: u16 = 4;
    pub(crate) const NO_PREFIXES: u16 = 6;
}

/// What a client asks for: an address or a prefix, with those that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The option.
    pub(super) code: u16,
    /// The client's number for it.
    pub(super) association: [u8; 4],
    /// The addresses.
    pub(super) addresses: Vec<Ipv6Addr>,
}

impl Identity {
    fn parse(code: u16, value: &[u8]) -> Result<Self, Malformed> {
        let times = if code == option::IA_TA { 0 } else { 8 };
        let (association, rest) = value.split_first_chunk::<4>().ok_or(Malformed)?;
        let mut rest = rest.get(times..).ok_or(Malformed)?;
        let mut addresses = Vec::new();
        while !rest.is_empty() {
            let (inner, value, tail) = split_option(rest)?;
            rest = tail;
            if inner == option::ADDRESS && code != option::IA_PD {
                // The address, two times and options.
                let octets = value.first_chunk::<16>().filter(|_| value.len() >= 24).ok_or(Malformed)?;
                addresses.push(Ipv6Addr::from(*octets));
            }
        }
        Ok(Self { code, association: *association, addresses })
    }
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(super) kind: u8,
    pub(super) transaction: [u8; 3],
    pub(super) client: Option<&'a [u8]>,
    pub(super) server: Option<&'a [u8]>,
    /// The options that it asks for, two bytes each; `None` where it says nothing of that.
    wanted: Option<&'a [u8]>,
    /// The addresses and prefixes that it is about.
    pub(super) identities: Vec<Identity>,
    /// Whether the client wants to have its address at once.
    pub(super) is_rapid: bool,
}

impl<'a> Request<'a> {
    /// Reads a message.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let ([kind, transaction @ ..], mut rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
        if *kind >= kind::RELAY_FORWARD {
            return Err(Malformed);
        }
        let mut request = Self {
            kind: *kind,
            transaction: *transaction,
            client: None,
            server: None,
            wanted: None,
            identities: Vec::new(),
            is_rapid: false,
        };
        while !rest.is_empty() {
            let (code, value, tail) = split_option(rest)?;
            rest = tail;
            let is_duid = (3..=MAX_DUID_BYTES).contains(&value.len());
            let (place, is_right) = match code {
                option::CLIENT_ID => (&mut request.client, is_duid),
                option::SERVER_ID => (&mut request.server, is_duid),
                option::REQUEST => (&mut request.wanted, value.len().is_multiple_of(2)),
                option::IA_NA | option::IA_TA | option::IA_PD if request.identities.len() == MAX_IDENTITIES => {
                    return Err(Malformed);
                }
                option::IA_NA | option::IA_TA | option::IA_PD => {
                    request.identities.push(Identity::parse(code, value)?);
                    continue;
                }
                _ => {
                    request.is_rapid |= code == option::RAPID_COMMIT;
                    continue;
                }
            };
            if !is_right || place.replace(value).is_some() {
                return Err(Malformed);
            }
        }
        Ok(request)
    }

    /// Whether the client wants to know an option's value; who says nothing of that wants to know all.
    pub(super) fn wants(&self, code: u16) -> bool {
        self.wanted.is_none_or(|wanted| wanted.as_chunks::<2>().0.contains(&code.to_be_bytes()))
    }
}

/// An option's number, its value, and what stands behind it.
fn split_option(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), Malformed> {
    let ([a, b, c, d], tail) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
    let (value, tail) = tail.split_at_checked(u16::from_be_bytes([*c, *d]).into()).ok_or(Malformed)?;
    Ok((u16::from_be_bytes([*a, *b]), value, tail))
}

/// A message of ours under construction.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(kind: u8, transaction: [u8; 3]) -> Self {
        let [a, b, c] = transaction;
        Self(vec![kind, a, b, c])
    }

    pub(super) fn option(&mut self, code: u16, value: &[u8]) {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&code.to_be_bytes());
        self.0.extend_from_slice(&len.to_be_bytes());
        self.0.extend_from_slice(&value[..len.into()]);
    }

    /// How something went, with a word for people.
    pub(super) fn status(&mut self, code: u16, words: &str) {
        self.option(option::STATUS, &[&code.to_be_bytes(), words.as_bytes()].concat());
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}
