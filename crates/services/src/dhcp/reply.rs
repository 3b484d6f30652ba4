//! What the server says.
//!
//! Replies are written by us alone, so the writer cannot fail: an option for which the client has no room is left out,
//! and the ones that matter most are written first. What finds no room among the options goes where the names of server
//! and boot file would stand (RFC 2132, section 9.3); a long value goes in pieces (RFC 3396).

use std::net::Ipv4Addr;

use super::code;
use super::request::{FILE, HEADER_BYTES, MAGIC, Request, SNAME};

/// What every BOOTP implementation is prepared to receive, and expects (RFC 1542, section 2.1).
const MIN_REPLY_BYTES: usize = 300;
/// The largest message that a client has to accept unasked: 576 bytes with the IP and UDP headers.
const DEFAULT_REPLY_BYTES: usize = 576 - PACKET_HEADER_BYTES;
/// The headers of IPv4 and UDP.
const PACKET_HEADER_BYTES: usize = 28;
/// What is kept free for the end: the option that says where more options are, and the end mark.
const TAIL_BYTES: usize = 3 + 1;
/// The message type and the server's identifier: without them it is no answer.
const MIN_OPTIONS_BYTES: usize = 3 + 6;
/// The longest value of an option; a longer one comes in pieces.
const MAX_PIECE_BYTES: usize = 255;

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
    /// So long may `bytes` become, the tail and `relay_info` not included.
    capacity: usize,
    /// What a relay wants to have back, the last of all options.
    relay_info: Vec<u8>,
    /// Options in the place of the boot file's name, unless that is there.
    file: Option<Vec<u8>>,
    /// Options in the place of the server's name.
    sname: Vec<u8>,
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
        bytes.extend_from_slice(&[0; 4]); // filled where there is something to boot
        bytes.extend_from_slice(&request.giaddr.octets());
        bytes.extend_from_slice(&request.mac.octets());
        bytes.resize(HEADER_BYTES - MAGIC.len(), 0);
        bytes.extend_from_slice(&MAGIC);

        let room = |packet: u16| usize::from(packet).saturating_sub(PACKET_HEADER_BYTES);
        let mut relay_info = Vec::new();
        if !request.relay_info.is_empty() {
            send(&mut relay_info, code::RELAY_INFO, &request.relay_info);
        }
        // A relay takes off what it put there, so the client's limit does not count it (RFC 3046, section 2.1).
        let client = request.max_size.map_or(0, room).max(DEFAULT_REPLY_BYTES);
        let whole = (client + relay_info.len()).min(room(mtu)).max(MIN_REPLY_BYTES);
        if HEADER_BYTES + MIN_OPTIONS_BYTES + relay_info.len() + TAIL_BYTES > whole {
            relay_info.clear();
        }
        let capacity = whole - relay_info.len() - TAIL_BYTES;
        let mut reply = Self { bytes, capacity, relay_info, file: Some(Vec::new()), sname: Vec::new() };
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

    /// That this ACK ends what a DISCOVER began (RFC 4039).
    pub(crate) fn rapid_commit(&mut self) {
        self.option(code::RAPID_COMMIT, &[]);
    }

    /// Why a request was refused, for the client's log.
    pub(crate) fn message(&mut self, text: &str) {
        self.option(code::MESSAGE, text.as_bytes());
    }

    /// The server to boot from.
    pub(crate) fn boot_server(&mut self, ip: Ipv4Addr) {
        self.bytes[20..24].copy_from_slice(&ip.octets());
    }

    /// What to load: in its own place where it fits there with the zero behind it, else as an option.
    pub(crate) fn boot_file(&mut self, name: &str) {
        if name.len() < FILE.len() {
            self.bytes[FILE][..name.len()].copy_from_slice(name.as_bytes());
            self.file = None;
        } else {
            self.option(code::BOOT_FILE, name.as_bytes());
        }
    }

    /// One option, whole or not at all.
    pub(crate) fn option(&mut self, code: u8, value: &[u8]) {
        let len = sent_bytes(value);
        if self.bytes.len() + len <= self.capacity {
            send(&mut self.bytes, code, value);
            return;
        }
        let file = self.file.as_mut().map(|area| (area, FILE.len()));
        let mut areas = file.into_iter().chain([(&mut self.sname, SNAME.len())]);
        // Each area needs an end mark.
        if let Some((area, _)) = areas.find(|(area, room)| area.len() + len < *room) {
            send(area, code, value);
        }
    }

    fn ip(&mut self, code: u8, ip: Ipv4Addr) {
        self.option(code, &ip.octets());
    }

    /// The message, padded to BOOTP's smallest size.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let mut overload = 0;
        for (bit, place, mut area) in [(1, FILE, self.file.unwrap_or_default()), (2, SNAME, self.sname)] {
            if !area.is_empty() {
                overload |= bit;
                area.push(code::END);
                self.bytes[place][..area.len()].copy_from_slice(&area);
            }
        }
        if overload != 0 {
            self.bytes.extend_from_slice(&[code::OVERLOAD, 1, overload]);
        }
        self.bytes.extend_from_slice(&self.relay_info);
        self.bytes.push(code::END);
        if self.bytes.len() < MIN_REPLY_BYTES {
            self.bytes.resize(MIN_REPLY_BYTES, code::PAD);
        }
        self.bytes
    }
}

/// How long an option with this value is when it is sent: in pieces where it is longer than one can be.
fn sent_bytes(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(MAX_PIECE_BYTES).max(1)
}

/// Appends an option to `out`.
fn send(out: &mut Vec<u8>, code: u8, mut value: &[u8]) {
    loop {
        let (piece, rest) = value.split_at(value.len().min(MAX_PIECE_BYTES));
        out.extend_from_slice(&[code, piece.len() as u8]); // MAX_PIECE_BYTES is what fits
        out.extend_from_slice(piece);
        if rest.is_empty() {
            return;
        }
        value = rest;
    }
}
