//! The QEMU guest agent's protocol (QEMU's `qga/qapi-schema.json`): a line of JSON there, a line of JSON back.
//!
//! Only what running a command needs, and what says whether a guest has its addresses. Replies are hostile: their length is bounded before they are parsed.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use super::ExecRequest;

/// The longest reply, in bytes. The agent itself keeps at most 16 MiB of each output, which is a third more in base 64.
pub const REPLY_BYTES_MAX: usize = 48 << 20;

/// What the agent answers to one command.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The command's result.
    Return(Value),
    /// Why there is none.
    Error(String),
}

/// What `guest-exec-status` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecStatus {
    /// Whether the command has ended; before that, the rest says nothing.
    pub exited: bool,
    /// What it returned.
    pub exit_code: Option<u8>,
    /// The signal that killed it.
    pub signal: Option<u8>,
    /// Its output.
    pub stdout: Vec<u8>,
    /// Its error output.
    pub stderr: Vec<u8>,
    /// There was more than the agent keeps.
    pub truncated: bool,
}

/// Reads a reply's line.
pub fn parse_reply(line: &[u8]) -> Result<Reply, String> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(rename = "return")]
        value: Option<Value>,
        error: Option<RawError>,
    }
    #[derive(Deserialize)]
    struct RawError {
        desc: String,
    }
    let raw: Raw = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    match raw {
        Raw { error: Some(error), .. } => Ok(Reply::Error(error.desc)),
        Raw { value: Some(value), .. } => Ok(Reply::Return(value)),
        _ => Err("neither a result nor an error".to_owned()),
    }
}

/// Reads the result of `guest-exec-status`.
pub fn parse_exec_status(value: &Value) -> Result<ExecStatus, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Raw<'a> {
        exited: bool,
        exitcode: Option<i64>,
        signal: Option<i64>,
        out_data: Option<&'a str>,
        err_data: Option<&'a str>,
        #[serde(default)]
        out_truncated: bool,
        #[serde(default)]
        err_truncated: bool,
    }
    let raw = Raw::deserialize(value).map_err(|error| error.to_string())?;
    let bytes = |text: Option<&str>| base64_decode(text.unwrap_or_default()).ok_or("output that is not base 64");
    Ok(ExecStatus {
        exited: raw.exited,
        // POSIX keeps eight bits of what a command returns.
        exit_code: raw.exitcode.map(|code| code as u8),
        signal: raw.signal.map(|signal| signal as u8),
        stdout: bytes(raw.out_data)?,
        stderr: bytes(raw.err_data)?,
        truncated: raw.out_truncated || raw.err_truncated,
    })
}

/// Reads the addresses in the result of `guest-network-get-interfaces`.
pub fn parse_addresses(value: &Value) -> Result<Vec<IpAddr>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Interface {
        #[serde(default)]
        ip_addresses: Vec<Address>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Address {
        ip_address: IpAddr,
    }
    let interfaces = Vec::<Interface>::deserialize(value).map_err(|error| error.to_string())?;
    Ok(interfaces.into_iter().flat_map(|interface| interface.ip_addresses).map(|address| address.ip_address).collect())
}

/// The arguments of `guest-exec` for a request.
pub(super) fn exec_arguments(request: &ExecRequest, input: &[u8]) -> Value {
    let mut argv = request.argv.clone();
    // The agent's own `env` argument would replace the whole environment, PATH included.
    if !request.env.is_empty() {
        let variables = request.env.iter().map(|(name, value)| format!("{name}={value}"));
        argv.splice(0..0, std::iter::once("env".to_owned()).chain(variables));
    }
    if let Some(cwd) = &request.cwd {
        let enter = ["/bin/sh", "-c", r#"cd -- "$0" || exit 126; exec "$@""#, cwd];
        argv.splice(0..0, enter.map(str::to_owned));
    }
    let mut arguments = json!({ "path": argv[0], "arg": argv[1..], "capture-output": true });
    if !input.is_empty() {
        arguments["input-data"] = base64_encode(input).into();
    }
    arguments
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4, with padding.
fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0_u32, |bits, (at, &byte)| bits | u32::from(byte) << (16 - 8 * at));
        for at in 0..4 {
            let digit = char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]);
            text.push(if at <= group.len() { digit } else { '=' });
        }
    }
    text
}

/// RFC 4648, section 4; the padding may be missing.
fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0;
        for (at, &character) in group.iter().enumerate() {
            let digit = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits |= u32::from(digit) << (18 - 6 * at);
        }
        let len = match group.len() {
            1 => return None,
            len => len - 1,
        };
        bytes.extend(&bits.to_be_bytes()[1..=len]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_the_standard_one() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64_encode(bytes.as_bytes()), text);
            assert_eq!(base64_decode(text).unwrap(), bytes.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(base64_decode(&base64_encode(&all)).unwrap(), all);
        for wrong in ["A", "AAAAA", "A=A", "A A=", "\u{e4}"] {
            assert_eq!(base64_decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_request_becomes_a_command_line() {
        let check = |request: &ExecRequest, path: &str, arguments: &[&str]| {
            let sent = exec_arguments(request, b"");
            assert_eq!((&sent["path"], &sent["arg"]), (&json!(path), &json!(arguments)));
        };
        let mut request = ExecRequest { argv: vec!["ls".to_owned(), "-l".to_owned()], ..ExecRequest::default() };
        check(&request, "ls", &["-l"]);
        request.env = vec![("A".to_owned(), "b c".to_owned())];
        check(&request, "env", &["A=b c", "ls", "-l"]);
        request.cwd = Some("/tmp".to_owned());
        let enter = r#"cd -- "$0" || exit 126; exec "$@""#;
        check(&request, "/bin/sh", &["-c", enter, "/tmp", "env", "A=b c", "ls", "-l"]);
        assert_eq!(exec_arguments(&request, b"foo")["input-data"], "Zm9v");
    }

    #[test]
    fn replies_are_read_or_refused() {
        assert_eq!(parse_reply(br#"{"return": {}}"#), Ok(Reply::Return(json!({}))));
        let error = br#"{"error": {"class": "GenericError", "desc": "no"}}"#;
        assert_eq!(parse_reply(error), Ok(Reply::Error("no".to_owned())));
        for nonsense in [&b""[..], b"{}", b"[]", b"{\"error\": 1}", b"\xFF", &[b'['; 4096]] {
            parse_reply(nonsense).unwrap_err();
        }
        let status = json!({ "exited": true, "exitcode": 3, "out-data": "Zm9v", "err-truncated": true });
        let expected = ExecStatus {
            exited: true,
            exit_code: Some(3),
            stdout: b"foo".to_vec(),
            truncated: true,
            ..ExecStatus::default()
        };
        assert_eq!(parse_exec_status(&status), Ok(expected));
        parse_exec_status(&json!({ "exited": true, "out-data": "?" })).unwrap_err();
        parse_exec_status(&json!({ "exited": 1 })).unwrap_err();

        let interfaces = json!([
            { "name": "lo", "ip-addresses": [{ "ip-address": "::1", "ip-address-type": "ipv6", "prefix": 128 }] },
            { "name": "eth0", "hardware-address": "02:00:00:00:00:01" },
            { "name": "eth1", "ip-addresses": [{ "ip-address": "10.0.0.2", "ip-address-type": "ipv4", "prefix": 24 }] },
        ]);
        assert_eq!(parse_addresses(&interfaces).unwrap(), ["::1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        for nonsense in [json!({}), json!([1]), json!([{ "ip-addresses": [{ "ip-address": "10.0.0" }] }])] {
            parse_addresses(&nonsense).unwrap_err();
        }
    }
}
