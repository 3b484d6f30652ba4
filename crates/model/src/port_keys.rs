//! The keys that say what a port may be and do, whether an adapter of a VM plugs into it or something else.

use std::collections::BTreeSet;
use std::net::IpAddr;

use toml::de::DeValue;
use weft_types::{Allowance, BitRate, Excess, IpNet, MacAddr, MacRange, Native, PortRates, PortVlans, VlanId, VlanSet};

use crate::PortRules;
use crate::problem::Problem;
use crate::read::{Notes, Section, items, list, nearest, parse, wrong_type};

/// The most stations that a port may learn.
pub(crate) const MAX_LEARNED: u32 = 65_536;

/// Reads all of them.
pub(crate) fn read<'a>(notes: &mut Notes, section: &mut Section<'a>) -> PortRules {
    let vlans = vlans(notes, section);
    let addresses = addresses(notes, section);
    let (macs, mac_ranges) = macs(notes, section);
    let learn = section.integer(notes, "learn", 0..=i64::from(MAX_LEARNED)).unwrap_or(0) as u32;
    let allow = allow(notes, section);
    let rates = rates(notes, section);
    PortRules { vlans, addresses, macs, mac_ranges, learn, allow, rates }
}

fn vlans<'a>(notes: &mut Notes, section: &mut Section<'a>) -> PortVlans {
    let number = |raw: i64| u16::try_from(raw).ok().and_then(|raw| VlanId::try_from(raw).ok());
    let access = section.integer(notes, "vlan", 1..=4094).and_then(number);
    let allowed = trunk(notes, section);
    let path = section.path_of("native");
    let native = match section.value(notes, "native") {
        Some(DeValue::String(text)) if &**text == "untagged" => Some(Native::Untagged),
        Some(DeValue::String(text)) => {
            let hint = "write a VLAN's number, or \"untagged\" for the segment that has no VLAN";
            let message = format!("`{}` is no native VLAN", text.escape_debug());
            notes.complain(&path, Problem::new("bad-value", message, hint));
            None
        }
        Some(_) => section.integer(notes, "native", 1..=4094).and_then(number).map(Native::Vlan),
        None => None,
    };
    if section.has("vlan") && section.has("trunk") {
        let message = "a port with `vlan` is an access port, and one with `trunk` is none";
        let hint = "remove one of the two; `native` is the VLAN of a trunk's frames without a tag";
        notes.complain(&section.path_of("trunk"), Problem::new("contradiction", message, hint));
    } else if section.has("native") && !section.has("trunk") {
        let hint = "write `vlan` for a port whose frames have no tag, or add `trunk = [10, 20]`";
        notes.complain(&path, Problem::new("contradiction", "`native` means nothing without `trunk`", hint));
    }
    match (access, allowed) {
        (Some(vlan), _) => PortVlans::Access { vlan },
        (None, Some(allowed)) => PortVlans::Trunk { allowed, native },
        (None, None) => PortVlans::Untagged,
    }
}

/// The VLANs that a trunk carries.
fn trunk<'a>(notes: &mut Notes, section: &mut Section<'a>) -> Option<VlanSet> {
    if section.value(notes, "trunk")?.as_array().is_some_and(|values| values.is_empty()) {
        let hint = "name VLANs, like `trunk = [10, 20]`, or all: `trunk = \"1-4094\"`";
        notes.complain(&section.path_of("trunk"), Problem::new("bad-value", "the trunk carries no VLAN", hint));
        return None;
    }
    vlan_set(notes, section, "trunk")
}

/// Some VLANs: a text like `10-20,30`, or a list of numbers and such texts.
pub(crate) fn vlan_set<'a>(notes: &mut Notes, section: &mut Section<'a>, key: &'static str) -> Option<VlanSet> {
    const EXAMPLE: &str = "[10, 20]";
    let path = section.path_of(key);
    match section.value(notes, key)? {
        DeValue::String(text) => parse(notes, &path, text),
        DeValue::Array(_) => {
            let mut set = VlanSet::none();
            for (path, value) in items(notes, section, key, EXAMPLE) {
                let text = match value {
                    DeValue::String(text) => text.to_string(),
                    DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', ""),
                    other => {
                        wrong_type::<()>(notes, &path, other, "a VLAN's number", "10");
                        continue;
                    }
                };
                set.extend(parse::<VlanSet>(notes, &path, &text).iter().flat_map(VlanSet::iter));
            }
            Some(set)
        }
        other => wrong_type(notes, &path, other, "a list of VLANs", EXAMPLE),
    }
}

fn addresses<'a>(notes: &mut Notes, section: &mut Section<'a>) -> Vec<IpNet> {
    let mut found = Vec::new();
    for (path, text) in texts(notes, section, "addresses", "10.8.0.0/24") {
        found.extend(prefix(text).map_err(|problem| notes.complain(&path, problem)).ok());
    }
    found
}

/// An address or a prefix.
pub(crate) fn prefix(text: &str) -> Result<IpNet, Problem> {
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let Some(prefix) = parsed else {
        let message = format!("`{}` is neither an address nor a prefix", text.escape_debug());
        return Err(Problem::new("bad-value", message, "write it like `10.8.0.5`, `10.8.0.0/24` or `fd00::/64`"));
    };
    if prefix.trunc() != prefix {
        let hint = format!("write `{}`, or `{}` for that address alone", prefix.trunc(), prefix.addr());
        return Err(Problem::new("bad-value", format!("`{text}` is an address inside a prefix"), hint));
    }
    Ok(prefix)
}

fn macs<'a>(notes: &mut Notes, section: &mut Section<'a>) -> (Vec<MacAddr>, Vec<MacRange>) {
    let (mut macs, mut ranges) = (Vec::new(), Vec::new());
    for (path, text) in texts(notes, section, "macs", "02:00:5e:10:00:01") {
        if let Ok(mac) = text.parse::<MacAddr>() {
            match mac.is_station() {
                true => macs.push(mac),
                false => {
                    let message = format!("{mac} is no address that an adapter can have");
                    let hint = "use one whose first octet is even, like 02:00:5e:10:00:01";
                    notes.complain(&path, Problem::new("bad-value", message, hint));
                }
            }
        } else if text.contains(" to ") || text.matches('-').count() == 1 {
            ranges.extend(parse::<MacRange>(notes, &path, text));
        } else {
            parse::<MacAddr>(notes, &path, text);
        }
    }
    (macs, ranges)
}

/// MAC addresses that somebody has: one, or a run of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run<T> {
    first: MacAddr,
    last: MacAddr,
    is_range: bool,
    /// Who.
    pub(crate) owner: T,
}

impl<T> Run<T> {
    /// One address.
    pub(crate) fn of(mac: MacAddr, owner: T) -> Self {
        Self { first: mac, last: mac, is_range: false, owner }
    }

    /// A range of them.
    pub(crate) fn of_range(range: MacRange, owner: T) -> Self {
        Self { first: range.first(), last: range.last(), is_range: true, owner }
    }
}

/// Ranges that meet other ranges, or addresses of others: the owner of each, the range in words, and the other owner.
pub(crate) fn meetings<T: Copy + Ord>(mut runs: Vec<Run<T>>) -> Vec<(T, String, T)> {
    runs.sort();
    let mut found = Vec::new();
    let mut widest: Option<Run<T>> = None;
    for run in runs {
        if let Some(before) = widest.filter(|before| run.first <= before.last) {
            let both = before.is_range && run.is_range;
            // Two single addresses that are one are somebody else's business.
            if both || (before.is_range || run.is_range) && before.owner != run.owner {
                let (at, other) = if run.is_range { (run, before) } else { (before, run) };
                found.push((at.owner, format!("{} to {}", at.first, at.last), other.owner));
            }
        }
        if widest.is_none_or(|before| before.last < run.last) {
            widest = Some(run);
        }
    }
    found
}

fn allow<'a>(notes: &mut Notes, section: &mut Section<'a>) -> BTreeSet<Allowance> {
    let mut allowed = BTreeSet::new();
    for (path, text) in texts(notes, section, "allow", "promiscuous") {
        match text.parse::<Allowance>() {
            Ok(allowance) => {
                allowed.insert(allowance);
            }
            Err(error) => {
                let known = Allowance::ALL.map(Allowance::as_str);
                let hint = match nearest(text, known.into_iter()) {
                    Some(word) => format!("did you mean `{word}`?"),
                    None => format!("choose from {}", list(&known)),
                };
                notes.complain(&path, Problem::new("bad-value", error.to_string(), hint));
            }
        }
    }
    allowed
}

/// How fast the port may be: both ways, or a table that says it for each.
fn rates<'a>(notes: &mut Notes, section: &mut Section<'a>) -> PortRates {
    const EXAMPLE: &str = "100Mbit/s";
    let path = section.path_of("rate");
    let table = match section.value(notes, "rate") {
        None => return PortRates::default(),
        Some(DeValue::String(text)) => {
            let rate = parse::<BitRate>(notes, &path, text);
            return PortRates { inward: rate, outward: rate, ..PortRates::default() };
        }
        Some(DeValue::Table(table)) => table,
        Some(other) => {
            let example = "\"100Mbit/s\"` or `rate = { in = \"100Mbit/s\", out = \"1Gbit/s\" }";
            wrong_type::<()>(notes, &path, other, "a text or a table", example);
            return PortRates::default();
        }
    };
    let mut section = Section::new(table, path.clone(), "a rate");
    let rates = PortRates {
        inward: section.parsed(notes, "in", EXAMPLE),
        outward: section.parsed(notes, "out", EXAMPLE),
        burst: section.parsed(notes, "burst", "64KiB"),
        excess: match section.string(notes, "excess", "wait") {
            None | Some("wait") => Excess::Wait,
            Some("drop") => Excess::Drop,
            Some(other) => {
                let message = format!("`{}` is nothing that becomes of what is too fast", other.escape_debug());
                let hint = "choose `wait` (shaping), or `drop` (policing)";
                notes.complain(&section.path_of("excess"), Problem::new("bad-value", message, hint));
                Excess::default()
            }
        },
    };
    if !section.has("in") && !section.has("out") {
        let hint = "write `in` (how fast what is behind the port may send), `out` (how fast it is sent to), or both";
        notes.complain(&path, Problem::new("missing-rate", "the rate is for neither way", hint));
    } else if let Some(problem) = rates_problem(&rates) {
        notes.complain(&section.path_of("burst"), problem);
    }
    section.finish(notes);
    rates
}

/// What is wrong with rates that could be read.
pub(crate) fn rates_problem(rates: &PortRates) -> Option<Problem> {
    let burst = rates.burst.filter(|burst| burst.bytes() == 0 || *burst > PortRates::MAX_BURST)?;
    let hint = format!("choose 1B to {}, or leave it out", PortRates::MAX_BURST);
    Some(Problem::new("out-of-range", format!("a burst cannot be {burst}"), hint))
}

/// The texts of a list, each with its path.
pub(crate) fn texts<'a>(
    notes: &mut Notes,
    section: &mut Section<'a>,
    key: &'static str,
    example: &str,
) -> Vec<(String, &'a str)> {
    let mut found = Vec::new();
    for (path, value) in items(notes, section, key, &format!("[\"{example}\"]")) {
        match value.as_str() {
            Some(text) => found.push((path, text)),
            None => {
                wrong_type::<()>(notes, &path, value, "a text", example);
            }
        }
    }
    found
}
