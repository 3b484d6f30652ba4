//! The rules of an access list, one line each:
//!
//! ```text
//! rule     = [ name ":" ] [ "log" ] ( "allow" | "deny" | "reject" ) end "->" end [ traffic ]
//! end      = "any" | "gateway" | a VM, group or port | an address | a prefix
//! traffic  = "any" | protocol [ "/" what ] [ "from" ports ]
//! protocol = "tcp" | "udp" | "icmp" | "icmp6" | "sctp" | "dccp" | "gre" | "esp" | "igmp" | "proto/" number
//! what     = ports | an ICMP type's number or name
//! ports    = number [ "-" number ]
//! ```

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weft_types::{IpNet, Label, MirrorFilter, Permission, PortName, Traffic};

use crate::problem::Problem;
use crate::read::nearest;

/// A rule. Its text is what it is written as, in files and in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// Its name, where it has one.
    pub name: Option<Label>,
    /// Whether its decisions are kept, to be looked at.
    pub log: bool,
    /// What it says.
    pub permission: Permission,
    /// Who begins.
    pub from: End,
    /// With whom.
    pub to: End,
    /// What.
    pub traffic: Traffic,
}

/// One end of what a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Anyone.
    Any,
    /// The network's gateway, and what lies behind it.
    Gateway,
    /// A VM, a group or a port.
    Name(PortName),
    /// Whoever has an address of this prefix.
    Prefix(IpNet),
}

/// What is wrong with a rule, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuleError {
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub hint: String,
    /// Where, in bytes of the rule's text.
    pub at: Range<usize>,
}

/// The ICMP messages that hosts begin with, by the names that people know (IANA, "ICMP Type Numbers" and "ICMPv6").
const ICMP_TYPES: [(u8, &str, u8); 8] = [
    (1, "echo", 8),
    (1, "ping", 8),
    (1, "unreachable", 3),
    (1, "time-exceeded", 11),
    (58, "echo", 128),
    (58, "ping", 128),
    (58, "unreachable", 1),
    (58, "time-exceeded", 3),
];

/// What a rule begins with, for whoever left it out.
const WHAT: &str = "`allow`, `deny` or `reject`";

/// How a whole rule looks, for whoever wrote half of one.
const SHAPE: &str = "write it like `deny web -> db` or `allow any -> db tcp/5432`";

/// How a whole filter looks.
const FILTER_SHAPE: &str = "write it like `tcp/443` or `any -> 10.0.0.5 tcp/443`";

impl Rule {
    /// What explanations and counters call it: its name, or its text.
    pub fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| self.to_string(), ToString::to_string)
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut words = Words { text, at: 0 };
        let mut first = words.next(WHAT)?;
        let name = match first.0.strip_suffix(':') {
            Some(name) => {
                let name =
                    name.parse().map_err(|error| first.error(format!("{error}"), "name it like `db-access:`"))?;
                first = words.next(WHAT)?;
                Some(name)
            }
            None => None,
        };
        let log = first.0 == "log";
        if log {
            first = words.next(WHAT)?;
        }
        let known = Permission::ALL.into_iter().find(|permission| permission.as_str() == first.0);
        let permission = known.ok_or_else(|| {
            let message = format!("`{}` is neither `allow` nor `deny` nor `reject`", first.0.escape_debug());
            let words = Permission::ALL.into_iter().map(Permission::as_str).chain(["log"]);
            let hint = match nearest(first.0, words) {
                Some(word) => format!("did you mean `{word}`?"),
                None => SHAPE.to_owned(),
            };
            first.error(message, hint)
        })?;
        let from = words.next("who begins")?.end()?;
        let arrow = words.next("`->`")?;
        if arrow.0 != "->" {
            let message = format!("`->` is missing before `{}`", arrow.0.escape_debug());
            return Err(arrow.error(message, SHAPE));
        }
        let to = words.next("with whom")?.end()?;
        let traffic = words.traffic()?;
        Ok(Self { name, log, permission, from, to, traffic })
    }
}

/// Reads what kind of traffic is meant, as the end of a rule says it: `tcp/5432`, `icmp/echo`, `udp/53 from 1024-65535`.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse_traffic(text: &str) -> Result<Traffic, RuleError> {
    Words { text, at: 0 }.traffic()
}

/// Reads which packets are meant: `[ end "->" end ] [ traffic ]`, where the ends are `any`, addresses and prefixes.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse_filter(text: &str) -> Result<MirrorFilter, RuleError> {
    let mut words = Words { text, at: 0 };
    if !text.split_whitespace().any(|word| word == "->") {
        return Ok(MirrorFilter { traffic: words.traffic()?, ..MirrorFilter::default() });
    }
    let mut next = |what: &str| {
        let end = text.trim_end().len();
        let missing = || RuleError {
            message: format!("the filter ends where it should say {what}"),
            hint: FILTER_SHAPE.to_owned(),
            at: end..end,
        };
        words.try_next().ok_or_else(missing)
    };
    let from = next("one end")?.prefix()?;
    let arrow = next("`->`")?;
    if arrow.0 != "->" {
        let message = format!("`->` is missing before `{}`", arrow.0.escape_debug());
        return Err(arrow.error(message, FILTER_SHAPE));
    }
    let to = next("the other end")?.prefix()?;
    Ok(MirrorFilter { from, to, traffic: words.traffic()? })
}

/// One way to say each thing: whatever the ports, it is the protocol.
fn whole(traffic: Traffic) -> Traffic {
    match traffic {
        Traffic::Ports { protocol, src, dst } if src == Traffic::ALL_PORTS && dst == src => {
            Traffic::Protocol { protocol }
        }
        traffic => traffic,
    }
}

/// The words of a rule.
struct Words<'a> {
    text: &'a str,
    at: usize,
}

/// A word, and where it begins.
#[derive(Clone, Copy)]
struct Word<'a>(&'a str, usize);

impl<'a> Words<'a> {
    /// The rest of a rule.
    fn traffic(mut self) -> Result<Traffic, RuleError> {
        let words = &mut self;
        let mut traffic = words.try_next().map_or(Ok(Traffic::Any), Word::traffic)?;
        if let Some(word) = words.try_next() {
            if word.0 != "from" {
                let message =
                    format!("nothing was expected behind the traffic, and here is `{}`", word.0.escape_debug());
                return Err(word.error(message, "write a rule of its own for each kind of traffic"));
            }
            let ports = words.next("the initiator's ports")?;
            match &mut traffic {
                Traffic::Ports { src, .. } => *src = ports.ports(ports.0, ports.1)?,
                other => {
                    return Err(
                        word.error(format!("`{other}` has no ports"), "`from` goes with tcp, udp, sctp and dccp")
                    );
                }
            }
        }
        match words.try_next() {
            Some(word) => {
                let message = format!("nothing was expected behind the rule, and here is `{}`", word.0.escape_debug());
                Err(word.error(message, "write a rule of its own for each kind of traffic"))
            }
            None => Ok(whole(traffic)),
        }
    }

    fn try_next(&mut self) -> Option<Word<'a>> {
        let rest = &self.text[self.at..];
        let start = self.at + rest.find(|c: char| !c.is_whitespace())?;
        let rest = &self.text[start..];
        let word = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
        self.at = start + word.len();
        Some(Word(word, start))
    }

    fn next(&mut self, what: &str) -> Result<Word<'a>, RuleError> {
        let end = self.text.trim_end().len();
        self.try_next().ok_or_else(|| RuleError {
            message: format!("the rule ends where it should say {what}"),
            hint: SHAPE.to_owned(),
            at: end..end,
        })
    }
}

impl<'a> Word<'a> {
    fn error(self, message: impl Into<String>, hint: impl Into<String>) -> RuleError {
        RuleError { message: message.into(), hint: hint.into(), at: self.1..self.1 + self.0.len() }
    }

    /// The same about a part of the word that begins at `at`.
    fn error_at(self, part: &str, at: usize, message: impl Into<String>, hint: impl Into<String>) -> RuleError {
        RuleError { at: at..at + part.len(), ..self.error(message, hint) }
    }

    fn end(self) -> Result<End, RuleError> {
        match self.0 {
            "any" => Ok(End::Any),
            "gateway" => Ok(End::Gateway),
            "->" => Err(self.error("an end of the rule is missing before `->`", SHAPE)),
            text if text.contains(['.', ':', '/']) => match crate::port_keys::prefix(text) {
                Ok(prefix) => Ok(End::Prefix(prefix)),
                Err(Problem { message, hint, .. }) => Err(self.error(message, hint.unwrap_or_default())),
            },
            text => text.parse().map(End::Name).map_err(|error| {
                self.error(format!("{error}"), "name `any`, `gateway`, a VM, a group, a port, an address or a prefix")
            }),
        }
    }

    /// An end that is known by its addresses; `None` for anyone.
    fn prefix(self) -> Result<Option<IpNet>, RuleError> {
        match self.end()? {
            End::Any => Ok(None),
            End::Prefix(prefix) => Ok(Some(prefix)),
            End::Gateway | End::Name(_) => {
                let message = format!("`{}` is neither an address nor a prefix", self.0.escape_debug());
                Err(self.error(message, FILTER_SHAPE))
            }
        }
    }

    fn traffic(self) -> Result<Traffic, RuleError> {
        let (name, what) = match self.0.split_once('/') {
            Some((name, what)) => (name, Some((what, self.1 + name.len() + 1))),
            None => (self.0, None),
        };
        if self.0 == "any" {
            return Ok(Traffic::Any);
        }
        if name == "proto" {
            let (text, at) = what.unwrap_or(("", self.1 + name.len()));
            let protocol = number::<u8>(text).ok_or_else(|| {
                let message = format!("`{}` is no protocol's number", text.escape_debug());
                self.error_at(text, at, message, "write 0 to 255, like `proto/89`")
            })?;
            return Ok(match Traffic::has_ports(protocol) {
                true => Traffic::Ports { protocol, src: Traffic::ALL_PORTS, dst: Traffic::ALL_PORTS },
                false => Traffic::Protocol { protocol },
            });
        }
        let Some((_, protocol)) = Traffic::PROTOCOLS.into_iter().find(|(known, _)| *known == name) else {
            let known = Traffic::PROTOCOLS.map(|(known, _)| known);
            let hint = match nearest(name, known.into_iter()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("choose from {}, `proto/NUMBER` and `any`", crate::read::list(&known)),
            };
            let message = format!("`{}` is no protocol", name.escape_debug());
            return Err(self.error_at(name, self.1, message, hint));
        };
        match what {
            _ if Traffic::has_ports(protocol) => {
                let dst = what.map_or(Ok(Traffic::ALL_PORTS), |(text, at)| self.ports(text, at))?;
                Ok(Traffic::Ports { protocol, src: Traffic::ALL_PORTS, dst })
            }
            None => Ok(Traffic::Protocol { protocol }),
            Some((text, at)) if Traffic::is_icmp(protocol) => {
                let named = ICMP_TYPES.into_iter().find(|(of, name, _)| *of == protocol && *name == text);
                match named.map(|(.., kind)| kind).or_else(|| number(text)) {
                    Some(kind) => Ok(Traffic::Icmp { protocol, kind }),
                    None => {
                        let message = format!("`{}` is no type of ICMP messages", text.escape_debug());
                        let hint = "write its number, 0 to 255, or `echo`, `unreachable` or `time-exceeded`";
                        Err(self.error_at(text, at, message, hint))
                    }
                }
            }
            Some((text, at)) => {
                let hint = format!("write `{name}`: it has no ports");
                Err(self.error_at(text, at, format!("`{}` means nothing for {name}", text.escape_debug()), hint))
            }
        }
    }

    /// One port, or a range of them.
    fn ports(self, text: &str, at: usize) -> Result<RangeInclusive<u16>, RuleError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (number::<u16>(first), number::<u16>(last)) {
            (Some(first), Some(last)) if first <= last => Ok(first..=last),
            (Some(first), Some(last)) => {
                let message = format!("the range {first}-{last} ends before it begins");
                Err(self.error_at(text, at, message, format!("write `{last}-{first}`")))
            }
            _ => {
                let message = format!("`{}` is neither a port nor a range of them", text.escape_debug());
                let hint = match text.contains(',') {
                    true => "write a rule for each port",
                    false => "write 0 to 65535, like `5432` or `8000-8999`",
                };
                Err(self.error_at(text, at, message, hint))
            }
        }
    }
}

/// A number in plain digits.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Gateway => f.write_str("gateway"),
            Self::Name(name) => name.fmt(f),
            Self::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => prefix.addr().fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}: ")?;
        }
        if self.log {
            f.write_str("log ")?;
        }
        write!(f, "{} {} -> {}", self.permission, self.from, self.to)?;
        match &self.traffic {
            Traffic::Any => Ok(()),
            traffic => write!(f, " {traffic}"),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_their_text() {
        for text in [
            "deny web -> db",
            "db-access: allow any -> db tcp/5432",
            "allow 10.0.0.0/24 -> web icmp/8",
            "deny any -> any udp/1000-2000",
            "allow fd00::/64 -> 10.0.0.5 tcp from 1024-65535",
            "allow web -> gateway udp/53 from 53",
            "deny any -> gateway gre",
            "deny web-0 -> db-1 proto/89",
            "allow any -> any icmp6",
            "reject web -> db tcp",
            "log allow web -> db",
            "watched: log reject any -> db",
        ] {
            let rule: Rule = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rule.to_string(), text);
            assert_eq!(serde_json::from_str::<Rule>(&serde_json::to_string(&rule).unwrap()).unwrap(), rule);
        }
        for (text, same) in [
            ("  allow\tany  ->  any any ", "allow any -> any"),
            ("allow any -> any icmp/echo", "allow any -> any icmp/8"),
            ("allow any -> any icmp6/ping", "allow any -> any icmp6/128"),
            ("deny 10.0.0.5/32 -> any proto/6", "deny 10.0.0.5 -> any tcp"),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), same);
        }
    }

    #[test]
    fn filters_are_their_text() {
        for text in ["tcp/5432", "any", "10.0.0.5 -> any", "any -> fd00::/64 udp/53", "10.0.0.0/8 -> 10.0.0.5 icmp/8"] {
            assert_eq!(parse_filter(text).unwrap().to_string(), text);
        }
        for (bad, message) in [
            ("web -> any", "`web` is neither an address nor a prefix"),
            ("any ->", "the filter ends where it should say the other end"),
            ("any any -> any", "`->` is missing before `any`"),
            ("tcp/5432 udp", "nothing was expected behind the traffic, and here is `udp`"),
        ] {
            assert_eq!(parse_filter(bad).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn every_mistake_has_its_place_and_a_way_out() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Rule>().expect_err(text);
            assert!(text.get(error.at.clone()).is_some(), "{text}: {error:?}");
            let marks = format!("{}{}", " ".repeat(error.at.start), "^".repeat(error.at.len().max(1)));
            assert_eq!(format!("{text}\n{marks} {error}: {}", error.hint), expected);
        };
        check(
            "",
            "\n^ the rule ends where it should say `allow`, `deny` or `reject`: write it like `deny web -> db` or `allow any -> db tcp/5432`",
        );
        check(
            "denny web -> db",
            "denny web -> db\n^^^^^ `denny` is neither `allow` nor `deny` nor `reject`: did you mean `deny`?",
        );
        check(
            "deny web db",
            "deny web db\n         ^^ `->` is missing before `db`: write it like `deny web -> db` or `allow any -> db tcp/5432`",
        );
        check(
            "deny -> db",
            "deny -> db\n     ^^ an end of the rule is missing before `->`: write it like `deny web -> db` or `allow any -> db tcp/5432`",
        );
        check(
            "deny web -> ",
            "deny web -> \n           ^ the rule ends where it should say with whom: write it like `deny web -> db` or `allow any -> db tcp/5432`",
        );
        check(
            "deny web -> 10.0.0.5/24",
            "deny web -> 10.0.0.5/24\n            ^^^^^^^^^^^ `10.0.0.5/24` is an address inside a prefix: write `10.0.0.0/24`, or `10.0.0.5` for that address alone",
        );
        check(
            "deny web -> db tpc/1",
            "deny web -> db tpc/1\n               ^^^ `tpc` is no protocol: did you mean `tcp`?",
        );
        check(
            "deny web -> db tcp/9-1",
            "deny web -> db tcp/9-1\n                   ^^^ the range 9-1 ends before it begins: write `1-9`",
        );
        check(
            "deny web -> db tcp/80,443",
            "deny web -> db tcp/80,443\n                   ^^^^^^ `80,443` is neither a port nor a range of them: write a rule for each port",
        );
        check(
            "deny web -> db udp/65536",
            "deny web -> db udp/65536\n                   ^^^^^ `65536` is neither a port nor a range of them: write 0 to 65535, like `5432` or `8000-8999`",
        );
        check(
            "deny web -> db icmp/eco",
            "deny web -> db icmp/eco\n                    ^^^ `eco` is no type of ICMP messages: write its number, 0 to 255, or `echo`, `unreachable` or `time-exceeded`",
        );
        check(
            "deny web -> db gre/4",
            "deny web -> db gre/4\n                   ^ `4` means nothing for gre: write `gre`: it has no ports",
        );
        check(
            "deny web -> db proto/256",
            "deny web -> db proto/256\n                     ^^^ `256` is no protocol's number: write 0 to 255, like `proto/89`",
        );
        check(
            "deny web -> db icmp from 1",
            "deny web -> db icmp from 1\n                    ^^^^ `icmp` has no ports: `from` goes with tcp, udp, sctp and dccp",
        );
        check(
            "deny web -> db tcp/80 tcp/81",
            "deny web -> db tcp/80 tcp/81\n                      ^^^^^^ nothing was expected behind the traffic, and here is `tcp/81`: write a rule of its own for each kind of traffic",
        );
        check(
            "My: deny web -> db",
            "My: deny web -> db\n^^^ `My` is not a host name: use a-z, 0-9 and `-` inside, for example `my`: name it like `db-access:`",
        );
    }
}
