//! What clients say: the DHCPv4 message format (RFC 2131, section 2; options of RFC 2132).
//!
//! Messages come from guests, so the reader is strict, reads each byte once and copies only what the server uses. A long
//! value comes in pieces, which count as one (RFC 3396); so an option that has one length cannot come twice.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use weft_types::MacAddr;

use super::code;

/// The fixed part and the magic cookie.
pub(super) const HEADER_BYTES: usize = 240;
pub(super) const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Where the fixed part has the server's name, which may hold options.
pub(super) const SNAME: std::ops::Range<usize> = 44..108;
/// The same for the boot file's name.
pub(super) const FILE: std::ops::Range<usize> = 108..236;
const BROADCAST_FLAG: u16 = 0x8000;

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

/// What loads the client's boot file, if anything does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// A BIOS, or nobody who would say.
    Bios,
    /// UEFI of a PC.
    Efi,
    /// UEFI of a 64-bit Arm machine.
    EfiArm64,
    /// UEFI that boots over HTTP.
    Http,
    /// iPXE, whatever started it.
    Ipxe,
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
    /// Option 55, the codes of the options that the client wants to hear; `None` when it did not say.
    pub(crate) wanted: Option<Vec<u8>>,
    /// Option 57.
    pub(crate) max_size: Option<u16>,
    /// Option 61; empty when the client sent none.
    pub(crate) client_id: Vec<u8>,
    /// Option 12, cleaned of everything but printable ASCII.
    pub(crate) client_name: Option<String>,
    /// Option 80: an ACK may come at once.
    pub(crate) rapid_commit: bool,
    /// Option 82, what a relay adds for itself; empty when none did.
    pub(crate) relay_info: Vec<u8>,
    /// An address of the subnet that the client is on, if a relay or the client names one.
    pub(crate) subnet: Option<Ipv4Addr>,
    /// What the client boots by.
    pub(crate) firmware: Firmware,
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

    /// Whether a relay passed the message on.
    pub(crate) fn is_relayed(&self) -> bool {
        !self.giaddr.is_unspecified()
    }

    /// Has the relay broadcast the answer: the client's address is in doubt.
    pub(super) fn must_be_broadcast(&mut self) {
        self.flags |= BROADCAST_FLAG;
    }

    /// Reads a UDP payload.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        let (header, options) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(RequestError::Short)?;
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..3] != [1, 1, 6] || header[FILE.end..] != MAGIC {
            return Err(RequestError::NotARequest);
        }
        let mac = MacAddr::new([header[28], header[29], header[30], header[31], header[32], header[33]]);
        if !mac.is_station() {
            return Err(RequestError::NotARequest);
        }

        let mut found = Options::default();
        found.read(options)?;
        let [overload] = found.fixed(code::OVERLOAD)?.unwrap_or([0]);
        // RFC 2131, section 4.1: `file` is read before `sname`, where they hold options.
        for (bit, area) in [(1, FILE), (2, SNAME)] {
            if overload & bit != 0 {
                found.read(&header[area])?;
            }
        }

        let relay_info = found.take(code::RELAY_INFO);
        Ok(Self {
            kind: match found.fixed(code::MESSAGE_TYPE)?.ok_or(RequestError::Bootp)? {
                [1] => RequestKind::Discover,
                [3] => RequestKind::Request,
                [4] => RequestKind::Decline,
                [7] => RequestKind::Release,
                [8] => RequestKind::Inform,
                [other] => return Err(RequestError::Type(other)),
            },
            xid: word(4),
            flags: u16::from_be_bytes([header[10], header[11]]),
            ciaddr: word(12).into(),
            giaddr: word(24).into(),
            mac,
            requested: found.fixed::<4>(code::REQUESTED_IP)?.map(Ipv4Addr::from),
            server: found.fixed::<4>(code::SERVER_ID)?.map(Ipv4Addr::from),
            max_size: found.fixed(code::MAX_SIZE)?.map(u16::from_be_bytes),
            rapid_commit: found.fixed::<0>(code::RAPID_COMMIT)?.is_some(),
            subnet: match link_selection(&relay_info)? {
                Some(link) => Some(link),
                None => found.fixed::<4>(code::SUBNET_SELECTION)?.map(Ipv4Addr::from),
            },
            firmware: found.firmware()?,
            client_id: found.short(code::CLIENT_ID)?,
            client_name: printable(&found.short(code::HOST_NAME)?),
            wanted: found.0.remove(&code::WANTED),
            relay_info,
        })
    }
}

/// The options of a message, each with all its pieces.
#[derive(Default)]
struct Options(BTreeMap<u8, Vec<u8>>);

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
            if is_read(code) {
                self.0.entry(code).or_default().extend_from_slice(value);
            }
            area = rest;
        }
    }

    /// The value of an option that has one length.
    fn fixed<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, RequestError> {
        let Some(value) = self.0.get(&code) else { return Ok(None) };
        value.as_slice().try_into().map(Some).map_err(|_| RequestError::Option(code))
    }

    /// The value of an option that fits into one piece; nothing when it is not there.
    fn short(&mut self, code: u8) -> Result<Vec<u8>, RequestError> {
        let value = self.take(code);
        if value.len() <= usize::from(u8::MAX) { Ok(value) } else { Err(RequestError::Option(code)) }
    }

    fn take(&mut self, code: u8) -> Vec<u8> {
        self.0.remove(&code).unwrap_or_default()
    }

    /// Who will load the boot file: RFC 4578 has the architecture, the rest is custom.
    fn firmware(&mut self) -> Result<Firmware, RequestError> {
        let user_class = self.take(code::USER_CLASS);
        let is_http = self.take(code::VENDOR_CLASS).starts_with(b"HTTPClient");
        // A list; the first is what the client runs as.
        let architectures = self.take(code::ARCHITECTURE);
        let architecture = match architectures.as_slice() {
            [] => 0,
            [high, low, ..] if architectures.len().is_multiple_of(2) => u16::from_be_bytes([*high, *low]),
            _ => return Err(RequestError::Option(code::ARCHITECTURE)),
        };
        Ok(match architecture {
            _ if user_class.windows(4).any(|word| word == b"iPXE") => Firmware::Ipxe,
            _ if is_http => Firmware::Http,
            6 | 7 | 9 => Firmware::Efi,
            11 => Firmware::EfiArm64,
            15 | 16 | 18 | 19 => Firmware::Http,
            _ => Firmware::Bios,
        })
    }
}

/// Whether the server has a use for an option.
fn is_read(code: u8) -> bool {
    matches!(
        code,
        code::HOST_NAME
            | code::REQUESTED_IP
            | code::OVERLOAD
            | code::MESSAGE_TYPE
            | code::SERVER_ID
            | code::WANTED
            | code::MAX_SIZE
            | code::VENDOR_CLASS
            | code::CLIENT_ID
            | code::USER_CLASS
            | code::RAPID_COMMIT
            | code::RELAY_INFO
            | code::ARCHITECTURE
            | code::SUBNET_SELECTION
    )
}

/// The subnet that a relay names in its information (RFC 3527).
fn link_selection(mut relay_info: &[u8]) -> Result<Option<Ipv4Addr>, RequestError> {
    const ERROR: RequestError = RequestError::Option(code::RELAY_INFO);
    while let [code, len, rest @ ..] = relay_info {
        let (value, rest) = rest.split_at_checked((*len).into()).ok_or(ERROR)?;
        if *code == code::LINK_SELECTION {
            return <[u8; 4]>::try_from(value).map(|octets| Some(octets.into())).map_err(|_| ERROR);
        }
        relay_info = rest;
    }
    if relay_info.is_empty() { Ok(None) } else { Err(ERROR) }
}

/// What can be shown to a person of a name that a client gave itself.
fn printable(name: &[u8]) -> Option<String> {
    let text: String = name.iter().filter(|b| b.is_ascii_graphic()).map(|&b| char::from(b)).collect();
    (!text.is_empty()).then_some(text)
}
