//! The table `options` of a DHCP server: values as people write them, and as they are sent (RFC 2132 and those after it).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use toml::de::DeValue;
use weft_types::{Ipv4Net, parse_hex};

use crate::problem::Problem;
use crate::read::{Notes, Section, nearest, wrong_type};

/// The longest value: with others it has to fit into a packet.
const MAX_VALUE_BYTES: usize = 1024;

/// What a value consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// IPv4 addresses, at least one.
    Ips,
    /// One IPv4 address.
    Ip,
    /// A text.
    Text,
    /// True or false, as one byte.
    Flag,
    /// A whole number of so many bytes, with a sign or without.
    Number { bytes: usize, signed: bool },
    /// Routes (RFC 3442): `10.8.0.0/16 via 10.20.0.5`.
    Routes,
    /// Domains (RFC 3397).
    Domains,
    /// Bytes, of which a text is one way to write them.
    Bytes,
}

const BYTE: Kind = Kind::Number { bytes: 1, signed: false };
const WORD: Kind = Kind::Number { bytes: 2, signed: false };
const LONG: Kind = Kind::Number { bytes: 4, signed: false };

/// The options that have a name here, which is the registry's, and what they hold.
const KNOWN: &[(u8, &str, Kind)] = &[
    (2, "time-offset", Kind::Number { bytes: 4, signed: true }),
    (3, "routers", Kind::Ips),
    (4, "time-servers", Kind::Ips),
    (6, "dns-servers", Kind::Ips),
    (7, "log-servers", Kind::Ips),
    (9, "lpr-servers", Kind::Ips),
    (13, "boot-file-size", WORD),
    (15, "domain-name", Kind::Text),
    (16, "swap-server", Kind::Ip),
    (17, "root-path", Kind::Text),
    (19, "ip-forwarding", Kind::Flag),
    (23, "default-ttl", BYTE),
    (26, "mtu", WORD),
    (37, "tcp-ttl", BYTE),
    (38, "tcp-keepalive", LONG),
    (40, "nis-domain", Kind::Text),
    (41, "nis-servers", Kind::Ips),
    (42, "ntp-servers", Kind::Ips),
    (43, "vendor", Kind::Bytes),
    (44, "netbios-servers", Kind::Ips),
    (46, "netbios-node-type", BYTE),
    (47, "netbios-scope", Kind::Text),
    (60, "vendor-class", Kind::Text),
    (66, "tftp-server", Kind::Text),
    (67, "boot-file", Kind::Text),
    (69, "smtp-servers", Kind::Ips),
    (72, "www-servers", Kind::Ips),
    (100, "posix-timezone", Kind::Text),
    (101, "timezone", Kind::Text),
    (108, "ipv6-only", LONG),
    (114, "captive-portal", Kind::Text),
    (119, "domain-search", Kind::Domains),
    (121, "routes", Kind::Routes),
    (125, "vendor-options", Kind::Bytes),
    (150, "tftp-servers", Kind::Ips),
    (252, "proxy", Kind::Text),
];

/// What the server says itself, and why the file cannot.
const OWN: &[(u8, &str)] = &[
    (0, "it is padding"),
    (1, "it follows from `subnet`"),
    (12, "it is the machine's name"),
    (28, "it follows from `subnet`"),
    (50, "only clients send it"),
    (51, "`lease` says it"),
    (52, "the server sees to it"),
    (53, "it is the kind of a message"),
    (54, "it is the gateway's address"),
    (55, "only clients send it"),
    (56, "it is for refusals"),
    (57, "only clients send it"),
    (58, "it follows from `lease`"),
    (59, "it follows from `lease`"),
    (61, "it is the client's own"),
    (80, "clients ask for it"),
    (82, "it is for relays"),
    (118, "only clients send it"),
    (255, "it is the end of a message"),
];

/// Reads the table: values by the number of their option, as they are sent.
pub(crate) fn read(notes: &mut Notes, keys: &mut Section<'_>) -> BTreeMap<u8, Vec<u8>> {
    let mut options = BTreeMap::new();
    let table_path = keys.path_of("options");
    let Some(value) = keys.value(notes, "options") else { return options };
    let Some(table) = value.as_table() else {
        wrong_type::<()>(notes, &table_path, value, "a table", "{ ntp-servers = [\"10.20.0.1\"] }");
        return options;
    };
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let path = format!("{table_path}.{name}");
        notes.place(&path, value.span());
        let (code, kind) = match option(name) {
            Ok(option) => option,
            Err(problem) => {
                notes.complain_at(key.span(), problem);
                continue;
            }
        };
        match encode(kind, value.get_ref()) {
            Ok(bytes) if bytes.len() > MAX_VALUE_BYTES => {
                let message = format!("{} bytes are more than an option holds", bytes.len());
                let hint = format!("use {MAX_VALUE_BYTES} or less: it has to fit into a packet with the others");
                notes.complain(&path, Problem::new("too-long", message, hint));
            }
            Ok(bytes) => {
                if options.insert(code, bytes).is_some() {
                    let message = format!("`{name}` is option {code}, which stands here already");
                    notes.complain_at(key.span(), Problem::new("contradiction", message, "write it once"));
                }
            }
            Err(wanted) => {
                let message = format!("this is no value of DHCP option `{name}`");
                notes.complain(&path, Problem::new("bad-value", message, format!("write {wanted}")));
            }
        }
    }
    options
}

/// The option that `name` means: a name, or a number, whose value is then what its name would say, or bytes.
fn option(name: &str) -> Result<(u8, Kind), Problem> {
    let known = KNOWN.iter().find(|(code, known, _)| *known == name || code.to_string() == name);
    if let Some((code, _, kind)) = known {
        return Ok((*code, *kind));
    }
    match name.parse::<u8>() {
        Ok(code) => match OWN.iter().find(|(own, _)| *own == code) {
            None => Ok((code, Kind::Bytes)),
            Some((_, why)) => {
                let message = format!("DHCP option {code} cannot be set: {why}");
                Err(Problem::new("reserved-option", message, "leave it out"))
            }
        },
        Err(_) => {
            let hint = match nearest(name, KNOWN.iter().map(|(_, known, _)| *known)) {
                Some(known) => format!("did you mean `{known}`?"),
                None => "write its number, 1 to 254, or a name like `ntp-servers` or `routes`".to_owned(),
            };
            Err(Problem::new("unknown-key", format!("`{name}` is no DHCP option"), hint))
        }
    }
}

/// A value as it is sent; or how it is to be written.
fn encode(kind: Kind, value: &DeValue<'_>) -> Result<Vec<u8>, &'static str> {
    // Whatever the option is, its bytes can be written.
    if let Some(digits) = value.as_str().and_then(|text| text.strip_prefix("hex:")) {
        return parse_hex(digits).ok_or("two hexadecimal digits for each byte, like `hex:0102`");
    }
    match kind {
        Kind::Ips => join(value, "an address, or a list of addresses, like `[\"10.20.0.1\"]`", ip),
        Kind::Ip => value.as_str().and_then(ip).ok_or("an address, like `\"10.20.0.1\"`"),
        Kind::Text => {
            let text = value.as_str().filter(|text| !text.is_empty());
            text.map(|text| text.as_bytes().to_vec()).ok_or("a text that is not empty")
        }
        Kind::Flag => value.as_bool().map(|flag| vec![flag.into()]).ok_or("true or false"),
        Kind::Number { bytes, signed } => number(value, bytes, signed).ok_or("a whole number that fits"),
        Kind::Routes => join(value, "routes, like `[\"10.8.0.0/16 via 10.20.0.5\"]`", route),
        Kind::Domains => join(value, "domains, like `[\"lab.example\", \"example\"]`", domain),
        Kind::Bytes => {
            let text = value.as_str().map(|text| text.as_bytes().to_vec());
            text.ok_or("a text, or its bytes: `\"hex:0102\"`")
        }
    }
}

/// The values of one text, or of a list of texts, one behind the other; never of none.
fn join(
    value: &DeValue<'_>,
    wanted: &'static str,
    encode: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, &'static str> {
    let texts: Option<Vec<&str>> = match value {
        DeValue::Array(items) => items.iter().map(|item| item.get_ref().as_str()).collect(),
        other => other.as_str().map(|text| vec![text]),
    };
    let bytes: Option<Vec<Vec<u8>>> = texts.unwrap_or_default().into_iter().map(encode).collect();
    bytes.map(|bytes| bytes.concat()).filter(|bytes| !bytes.is_empty()).ok_or(wanted)
}

fn ip(text: &str) -> Option<Vec<u8>> {
    text.trim().parse::<Ipv4Addr>().ok().map(|ip| ip.octets().to_vec())
}

fn number(value: &DeValue<'_>, bytes: usize, signed: bool) -> Option<Vec<u8>> {
    let number = value.as_integer()?;
    let number = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()?;
    let bits = 8 * u32::try_from(bytes).ok()?;
    let range = match signed {
        true => -(1 << (bits - 1))..1 << (bits - 1),
        false => 0..1_i64 << bits,
    };
    range.contains(&number).then(|| number.to_be_bytes()[8 - bytes..].to_vec())
}

/// A route as RFC 3442 sends it: the prefix's length, the bytes of the prefix that matter, the router.
fn route(text: &str) -> Option<Vec<u8>> {
    let (prefix, router) = text.split_once(" via ")?;
    let prefix: Ipv4Net = prefix.trim().parse().ok()?;
    if prefix.trunc() != prefix {
        return None;
    }
    let length = prefix.prefix_len();
    let mut bytes = vec![length];
    bytes.extend_from_slice(&prefix.network().octets()[..usize::from(length).div_ceil(8)]);
    bytes.extend(ip(router)?);
    Some(bytes)
}

/// A domain as RFC 3397 sends it, not compressed.
fn domain(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut bytes = Vec::new();
    for label in text.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        if !label.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        bytes.push(length);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= 255).then_some(bytes)
}
