//! Mirrors: copies of frames for an intrusion detection system, or for a collector somewhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::de::DeTable;
use utoipa::ToSchema;
use weft_types::{
    Collector, CollectorError, Direction, Label, LabelError, MirrorFilter, PortName, Provenance, VlanSet,
};

use crate::acl::{Cast, known};
use crate::port_keys::{texts, vlan_set};
use crate::problem::Problem;
use crate::read::{Lines, Notes, Section, parse};
use crate::{Acl, parse_filter};

/// The most mirrors of a network.
const MAX_MIRRORS: usize = 16;

/// The fewest bytes of a frame that say anything: its Ethernet header.
const MIN_SNAP: i64 = 14;

/// Who gets copies of which frames of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Whose frames: VMs, ports or groups; none named: everybody's.
    #[serde(default)]
    pub from: Vec<PortName>,
    /// Only those in these VLANs; none named: in all, and in none.
    #[serde(default)]
    #[schema(value_type = String, example = "10,20-29")]
    pub vlans: VlanSet,
    /// Which of them.
    #[serde(default)]
    pub direction: Direction,
    /// Only packets like this, whoever sends.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub filter: Option<MirrorFilter>,
    /// How many bytes of each at most.
    #[serde(default)]
    pub snap: Option<u32>,
    /// Who gets the copies.
    #[schema(value_type = String, example = "ids")]
    pub to: MirrorTo,
    /// Where it is declared.
    pub provenance: Provenance,
}

/// Who gets a mirror's copies. Its text is what it is written as, in files and in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MirrorTo {
    /// The port of this name, or the only one that the VM of this name has on the network.
    Port(PortName),
    /// Somebody on the host's networks.
    Collector(Collector),
}

/// A text that names nobody who could get copies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorToError {
    /// It should be a URL.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// It should be a name.
    #[error(transparent)]
    Name(#[from] LabelError),
}

impl MirrorTo {
    /// The name of the port, or of the VM with the port.
    pub fn port(&self) -> Option<&PortName> {
        match self {
            Self::Port(name) => Some(name),
            Self::Collector(_) => None,
        }
    }
}

impl FromStr for MirrorTo {
    type Err = MirrorToError;

    fn from_str(text: &str) -> Result<Self, MirrorToError> {
        match text.contains("://") {
            true => Ok(Self::Collector(text.parse()?)),
            false => Ok(Self::Port(text.parse()?)),
        }
    }
}

impl fmt::Display for MirrorTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(name) => name.fmt(f),
            Self::Collector(collector) => collector.fmt(f),
        }
    }
}

impl TryFrom<String> for MirrorTo {
    type Error = MirrorToError;

    fn try_from(text: String) -> Result<Self, MirrorToError> {
        text.parse()
    }
}

impl From<MirrorTo> for String {
    fn from(to: MirrorTo) -> Self {
        to.to_string()
    }
}

/// The mirrors of a file. `more` reads what else a mirror says there.
pub(crate) fn read<'a, T>(
    notes: &mut Notes,
    tables: Vec<(&'a str, Range<usize>, &'a DeTable<'a>)>,
    lines: &Lines,
    mut more: impl FnMut(&mut Notes, &mut Section<'a>) -> T,
) -> Vec<(Label, Mirror, T)> {
    let mut found = Vec::new();
    for (name, span, table) in tables {
        let path = format!("mirror.{name}");
        let mut section = Section::new(table, &path, "a mirror");
        let rest = more(notes, &mut section);
        let mirror = mirror(notes, &mut section, lines.provenance(span.start));
        section.finish(notes);
        if let (Some(name), Some(mirror)) = (parse(notes, &path, name), mirror) {
            found.push((name, mirror, rest));
        }
    }
    found
}

/// Reads a mirror; `None` when it does not say who gets the copies.
fn mirror<'a>(notes: &mut Notes, section: &mut Section<'a>, provenance: Provenance) -> Option<Mirror> {
    let path = section.path_of("from");
    let mut from = Vec::new();
    let named = texts(notes, section, "from", "web");
    let is_empty_list = section.has("from") && named.is_empty() && !notes.is_broken(&path);
    for (at, text) in named {
        if let (Some(name), Some(span)) = (parse(notes, &at, text), notes.span(&at)) {
            notes.place(&format!("{path}[{}]", from.len()), span);
            from.push(name);
        }
    }
    if is_empty_list {
        let hint = "leave `from` out to mirror everybody";
        notes.complain(&path, Problem::new("bad-value", "a mirror of nobody copies nothing", hint));
    }
    let vlans = vlan_set(notes, section, "vlans").unwrap_or_default();
    let direction = section.parsed(notes, "direction", "both").unwrap_or_default();
    let filter = section.string(notes, "filter", "any -> any tcp/443").and_then(|text| {
        let told = |error: crate::RuleError| {
            notes.complain(&section.path_of("filter"), Problem::new("bad-filter", error.message, error.hint));
        };
        parse_filter(text).map_err(told).ok()
    });
    let snap = section.integer(notes, "snap", MIN_SNAP..=65_535).map(|snap| snap as u32);
    let to = section.parsed(notes, "to", "ids");
    if !section.has("to") {
        let hint = "write `to = \"PORT\"`, or `to = \"vxlan://10.0.0.5:4789/42\"` for a collector";
        notes.complain(&section.path_of("to"), Problem::new("missing-key", "nobody gets the mirror's copies", hint));
    }
    Some(Mirror { from, vlans, direction, filter, snap, to: to?, provenance })
}

/// What is wrong with the mirrors of a network. `ports_of` says which ports on it are meant by a name that is no
/// group's, and `outward` are those that lead out of it.
pub(crate) fn check(
    mirrors: &BTreeMap<Label, Mirror>,
    acl: &Acl,
    cast: &Cast<'_>,
    outward: &BTreeSet<&PortName>,
    ports_of: impl Fn(&PortName) -> Vec<PortName>,
    mut find: impl FnMut(String, Problem),
) {
    if let Some((name, _)) = mirrors.iter().nth(MAX_MIRRORS) {
        let message = format!("{} mirrors are more than {MAX_MIRRORS}", mirrors.len());
        find(format!("mirror.{name}"), Problem::new("out-of-range", message, "let one mirror copy for several"));
    }
    for (name, mirror) in mirrors {
        let path = format!("mirror.{name}");
        let mut missing = |path: String, name: &PortName, groups: bool| {
            let (code, message) = if cast.all.contains(name.as_str()) {
                ("not-on-network", format!("`{name}` is not on {}", cast.place))
            } else {
                ("missing-name", format!("there is no {} `{name}`", cast.what.trim_start_matches("a ")))
            };
            let groups = acl.groups.keys().map(Label::as_str).filter(|_| groups);
            let names = cast.here.iter().map(String::as_str).chain(groups).collect();
            find(path, Problem::new(code, message, known(name.as_str(), &names)));
        };
        let mut mirrored = BTreeSet::new();
        for (index, from) in mirror.from.iter().enumerate() {
            match acl.group(from) {
                Some(members) => mirrored.extend(members.iter().flat_map(&ports_of)),
                None if cast.here.contains(from.as_str()) => mirrored.extend(ports_of(from)),
                None => missing(format!("{path}.from[{index}]"), from, true),
            }
        }
        let Some(to) = mirror.to.port() else { continue };
        if !cast.here.contains(to.as_str()) {
            missing(format!("{path}.to"), to, false);
            continue;
        }
        let wrong = match &ports_of(to)[..] {
            [port] if mirrored.contains(port) => {
                Some((format!("`{to}` cannot get copies of its own frames"), "remove it from `from`"))
            }
            [port] if outward.contains(port) => {
                Some((format!("`{to}` leads out of the switch"), "name the port of a listener, or a collector"))
            }
            [_] => None,
            _ => Some((format!("`{to}` has several ports there"), "name one of them, like `ids-0`")),
        };
        if let Some((message, hint)) = wrong {
            find(format!("{path}.to"), Problem::new("bad-mirror", message, hint));
        }
    }
}
