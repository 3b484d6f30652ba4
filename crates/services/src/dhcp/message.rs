//! The DHCPv4 message format (RFC 2131, section 2; options of RFC 2132).
//!
//! Requests come from guests, so the reader is strict, reads each byte once and copies only what the server
//! uses. Replies are written by us alone, so the writer cannot fail: an option for which the client has no
//! room is left out, and the ones that matter most are written first.

use std::net::Ipv4Addr;

use weft_types::MacAddr;

/// The fixed part and the magic cookie.
const HEADER_BYTES: usize = 240;
/// What every BOOTP implementation is prepared to receive, and expects (RFC 1542, section 2.1).
const MIN_REPLY_BYTES: usize = 300;
/// The largest message that a client has to accept unasked: 576 bytes with the IP and UDP headers.
const DEFAULT_REPLY_BYTES: usize = 576 - 28;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const BROADCAST_FLAG: u16 = 0x8000;
/// A name that a client gives itself is worth no more than a host name's length.
const MAX_CLIENT_NAME_BYTES: usize = 255;

mod code {
    pub(super) const PAD: u8 = 0;
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS_SERVER: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const DOMAIN_NAME: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const BROADCAST: u8 = 28;
    pub(super) const REQUESTED_IP: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const MESSAGE_TYPE: u8 = 53;
    pub(super) const SERVER_ID: u8 = 54;
    pub(super) const MESSAGE: u8 = 56;
    pub(super) const MAX_SIZE: u8 = 57;
    pub(super) const T1: u8 = 58;
    pub(super) const T2: u8 = 59;
    pub(super) const CLIENT_ID: u8 = 61;
    pub(super) const DOMAIN_SEARCH: u8 = 119;
    pub(super) const END: u8 = 255;
}

/// What a client wants (RFC 2132, section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Looks for servers.
    Discover,
    /// Takes an offer, or wants to keep an address.
    Request,
    /// Found the address in use.
    Decline,
    /// Gives the address back.
    Release,
    /// Has an address and wants the rest.
    Inform,
}

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: RequestKind,
    pub(crate) xid: u32,
    pub(crate) flags: u16,
    /// The address the client has and answers at, unspecified when it has none.
    pub(crate) ciaddr: Ipv4Addr,
    /// The relay that passed the message on, unspecified when none did.
    pub(crate) giaddr: Ipv4Addr,
    pub(crate) mac: MacAddr,
    /// Option 50.
    pub(crate) requested: Option<Ipv4Addr>,
    /// Option 54.
    pub(crate) server: Option<Ipv4Addr>,
    /// Option 57.
    pub(crate) max_size: Option<u16>,
    /// Option 61; empty when the client sent none.
    pub(crate) client_id: Vec<u8>,
    /// Option 12, cleaned of everything but printable ASCII.
    pub(crate) client_name: Option<String>,
}

/// Why bytes are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("shorter than its fixed part")]
    Short,
    #[error("not a request of an Ethernet station")]
    NotARequest,
    #[error("plain BOOTP")]
    Bootp,
    #[error("option {0} is cut, doubled or of a wrong length")]
    Option(u8),
    #[error("message type {0} is none that a client sends")]
    Type(u8),
}

impl Request {
    /// Whether the answer has to be broadcast, because the client cannot yet receive unicast.
    pub(crate) fn wants_broadcast(&self) -> bool {
        self.flags & BROADCAST_FLAG != 0
    }

    /// Reads a UDP payload.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        let (header, options) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(RequestError::Short)?;
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..3] != [1, 1, 6] || header[236..] != MAGIC {
            return Err(RequestError::NotARequest);
        }
        let mac = MacAddr::new([header[28], header[29], header[30], header[31], header[32], header[33]]);
        if !mac.is_station() {
            return Err(RequestError::NotARequest);
        }

        let mut found = Options::default();
        found.read(options)?;
        // RFC 2131, section 4.1: `file` is read before `sname`, where they hold options.
        let overload = found.overload;
        if overload & 1 != 0 {
            found.read(&header[108..236])?;
        }
        if overload & 2 != 0 {
            found.read(&header[44..108])?;
        }

        Ok(Self {
            kind: found.kind.ok_or(RequestError::Bootp)?,
            xid: word(4),
            flags: u16::from_be_bytes([header[10], header[11]]),
            ciaddr: word(12).into(),
            giaddr: word(24).into(),
            mac,
            requested: found.requested,
            server: found.server,
            max_size: found.max_size,
            client_id: found.client_id,
            client_name: printable(&found.client_name),
        })
    }
}

/// The options that the server reads.
#[derive(Default)]
struct Options {
    kind: Option<RequestKind>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    max_size: Option<u16>,
    overload: u8,
    client_id: Vec<u8>,
    client_name: Vec<u8>,
}

impl Options {
    /// Reads one area of options, up to its end mark or its last byte.
    fn read(&mut self, mut area: &[u8]) -> Result<(), RequestError> {
        loop {
            let (code, rest) = match area {
                [] | [code::END, ..] => return Ok(()),
                [code::PAD, rest @ ..] => {
                    area = rest;
                    continue;
                }
                [code, rest @ ..] => (*code, rest),
            };
            let (&len, rest) = rest.split_first().ok_or(RequestError::Option(code))?;
            let (value, rest) = rest.split_at_checked(len.into()).ok_or(RequestError::Option(code))?;
            self.take(code, value)?;
            area = rest;
        }
    }

    fn take(&mut self, code: u8, value: &[u8]) -> Result<(), RequestError> {
        let error = RequestError::Option(code);
        match code {
            code::MESSAGE_TYPE => {
                let [kind] = fixed(value, self.kind.is_some(), error)?;
                self.kind = Some(match kind {
                    1 => RequestKind::Discover,
                    3 => RequestKind::Request,
                    4 => RequestKind::Decline,
                    7 => RequestKind::Release,
                    8 => RequestKind::Inform,
                    other => return Err(RequestError::Type(other)),
                });
            }
            code::REQUESTED_IP => {
                self.requested = Some(Ipv4Addr::from(fixed::<4>(value, self.requested.is_some(), error)?));
            }
            code::SERVER_ID => self.server = Some(Ipv4Addr::from(fixed::<4>(value, self.server.is_some(), error)?)),
            code::MAX_SIZE => self.max_size = Some(u16::from_be_bytes(fixed(value, self.max_size.is_some(), error)?)),
            code::OVERLOAD => {
                let [overload] = fixed(value, self.overload != 0, error)?;
                self.overload = overload;
            }
            // A long value comes in pieces (RFC 3396); these two need not be longer than one.
            code::CLIENT_ID if self.client_id.len() + value.len() <= 255 => self.client_id.extend_from_slice(value),
            code::HOST_NAME if self.client_name.len() + value.len() <= MAX_CLIENT_NAME_BYTES => {
                self.client_name.extend_from_slice(value);
            }
            code::CLIENT_ID | code::HOST_NAME => return Err(error),
            _ => {}
        }
        Ok(())
    }
}

/// The value of an option that has one length and comes once.
fn fixed<const N: usize>(value: &[u8], seen: bool, error: RequestError) -> Result<[u8; N], RequestError> {
    match value.try_into() {
        Ok(array) if !seen => Ok(array),
        _ => Err(error),
    }
}

/// What can be shown to a person of a name that a client gave itself.
fn printable(name: &[u8]) -> Option<String> {
    let text: String = name.iter().filter(|b| b.is_ascii_graphic()).map(|&b| char::from(b)).collect();
    (!text.is_empty()).then_some(text)
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    Offer = 2,
    Ack = 5,
    Nak = 6,
}

/// An answer under construction.
pub(crate) struct ReplyWriter {
    bytes: Vec<u8>,
    /// The end mark not included.
    capacity: usize,
}

impl ReplyWriter {
    /// An answer to `request` from the server at `server`, in a packet of at most `mtu` bytes.
    pub(crate) fn new(request: &Request, kind: ReplyKind, server: Ipv4Addr, yiaddr: Ipv4Addr, mtu: u16) -> Self {
        let mut bytes = Vec::with_capacity(DEFAULT_REPLY_BYTES);
        bytes.extend_from_slice(&[2, 1, 6, 0]);
        bytes.extend_from_slice(&request.xid.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&request.flags.to_be_bytes());
        // Table 3 of RFC 2131: an OFFER and a NAK carry no `ciaddr`.
        let ciaddr = if kind == ReplyKind::Ack { request.ciaddr } else { Ipv4Addr::UNSPECIFIED };
        bytes.extend_from_slice(&ciaddr.octets());
        bytes.extend_from_slice(&yiaddr.octets());
        bytes.extend_from_slice(&[0; 4]); // nobody boots from us
        bytes.extend_from_slice(&request.giaddr.octets());
        bytes.extend_from_slice(&request.mac.octets());
        bytes.resize(HEADER_BYTES - MAGIC.len(), 0);
        bytes.extend_from_slice(&MAGIC);

        let room = |packet: u16| usize::from(packet).saturating_sub(28);
        let client = request.max_size.map_or(0, room).max(DEFAULT_REPLY_BYTES);
        let mut reply = Self { bytes, capacity: client.min(room(mtu)).max(MIN_REPLY_BYTES) - 1 };
        reply.option(code::MESSAGE_TYPE, &[kind as u8]);
        reply.ip(code::SERVER_ID, server);
        // RFC 6842: the identifier comes back in every answer, or a strict client ignores the answer.
        if !request.client_id.is_empty() {
            reply.option(code::CLIENT_ID, &request.client_id);
        }
        reply
    }

    /// How long the lease lasts, and the times at which the client starts to renew and to rebind it.
    pub(crate) fn lease_time(&mut self, lease_s: u32) {
        self.option(code::LEASE_TIME, &lease_s.to_be_bytes());
        self.option(code::T1, &(lease_s / 2).to_be_bytes());
        self.option(code::T2, &(lease_s - lease_s / 8).to_be_bytes());
    }

    pub(crate) fn subnet(&mut self, mask: Ipv4Addr, broadcast: Ipv4Addr) {
        self.ip(code::SUBNET_MASK, mask);
        self.ip(code::BROADCAST, broadcast);
    }

    pub(crate) fn router(&mut self, router: Ipv4Addr) {
        self.ip(code::ROUTER, router);
    }

    pub(crate) fn mtu(&mut self, mtu: u16) {
        self.option(code::MTU, &mtu.to_be_bytes());
    }

    /// The name server, and the domain in which names without a dot are looked up.
    pub(crate) fn dns(&mut self, server: Ipv4Addr, domain: &str) {
        self.ip(code::DNS_SERVER, server);
        self.option(code::DOMAIN_NAME, domain.as_bytes());
        let mut search = Vec::with_capacity(domain.len() + 2);
        for label in domain.split('.') {
            search.push(u8::try_from(label.len()).unwrap_or(0));
            search.extend_from_slice(label.as_bytes());
        }
        search.push(0);
        self.option(code::DOMAIN_SEARCH, &search);
    }

    pub(crate) fn host_name(&mut self, name: &str) {
        self.option(code::HOST_NAME, name.as_bytes());
    }

    /// Why a request was refused, for the client's log.
    pub(crate) fn message(&mut self, text: &str) {
        self.option(code::MESSAGE, text.as_bytes());
    }

    fn ip(&mut self, code: u8, ip: Ipv4Addr) {
        self.option(code, &ip.octets());
    }

    fn option(&mut self, code: u8, value: &[u8]) {
        let Ok(len) = u8::try_from(value.len()) else { return };
        if self.bytes.len() + 2 + value.len() <= self.capacity {
            self.bytes.extend_from_slice(&[code, len]);
            self.bytes.extend_from_slice(value);
        }
    }

    /// The message, padded to BOOTP's smallest size.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(code::END);
        if self.bytes.len() < MIN_REPLY_BYTES {
            self.bytes.resize(MIN_REPLY_BYTES, code::PAD);
        }
        self.bytes
    }
}
