//! Messages of DHCPv6 (RFC 8415, sections 8 and 21), as far as clients send them to servers.

/// The longest identifier of a client or a server, its type included (section 11.1).
const MAX_DUID_BYTES: usize = 130;

/// The messages' numbers (section 7.3).
pub(super) mod kind {
    pub(crate) const REPLY: u8 = 7;
    pub(crate) const INFORMATION_REQUEST: u8 = 11;
    /// From a relay, whose messages have another header.
    pub(crate) const RELAY_FORWARD: u8 = 12;
}

/// The options' numbers (section 21; RFC 3646).
pub(super) mod option {
    pub(crate) const CLIENT_ID: u16 = 1;
    pub(crate) const SERVER_ID: u16 = 2;
    /// Addresses, addresses for a while, and prefixes.
    pub(crate) const IDENTITIES: [u16; 3] = [3, 4, 25];
    pub(crate) const REQUEST: u16 = 6;
    pub(crate) const DNS_SERVERS: u16 = 23;
    pub(crate) const DOMAIN_LIST: u16 = 24;
    pub(crate) const REFRESH_TIME: u16 = 32;
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(super) kind: u8,
    pub(super) transaction: [u8; 3],
    pub(super) client: Option<&'a [u8]>,
    pub(super) server: Option<&'a [u8]>,
    /// The options that it asks for, two bytes each; `None` where it says nothing of that.
    wanted: Option<&'a [u8]>,
    /// Whether it is about addresses or prefixes.
    pub(super) has_identity: bool,
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
            has_identity: false,
        };
        while !rest.is_empty() {
            let ([a, b, c, d], tail) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
            let (code, len) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            let (value, tail) = tail.split_at_checked(len.into()).ok_or(Malformed)?;
            rest = tail;
            let is_duid = (3..=MAX_DUID_BYTES).contains(&value.len());
            let (place, is_right) = match code {
                option::CLIENT_ID => (&mut request.client, is_duid),
                option::SERVER_ID => (&mut request.server, is_duid),
                option::REQUEST => (&mut request.wanted, value.len().is_multiple_of(2)),
                _ => {
                    request.has_identity |= option::IDENTITIES.contains(&code);
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

/// A message of ours under construction.
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

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}
