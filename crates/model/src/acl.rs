//! Access lists: who may begin what with whom on a network.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::de::DeTable;
use utoipa::ToSchema;
use weft_types::{Label, Permission, PortName, Provenance};

use crate::port_keys::texts;
use crate::problem::Problem;
use crate::read::{Lines, Notes, Section, list, nearest, parse};
use crate::rule::{End, Rule};

/// How many connections a port may have begun at a time, if the file does not say.
const DEFAULT_CONNECTIONS: u32 = 16_384;

/// The most rules of a network.
const MAX_RULES: usize = 16_384;

/// Words that mean something else than a group.
const RESERVED: [&str; 2] = ["any", "gateway"];

/// A network's access list: the first rule that fits a connection decides about all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Acl {
    /// The rules in order.
    pub rules: Vec<DeclaredRule>,
    /// What becomes of that which no rule fits.
    pub default: Permission,
    /// How many connections each port may have begun at a time, where there are rules.
    pub connections: u32,
    /// The groups that rules can name, each with its members: VMs, or ports of a switch on its own.
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub groups: BTreeMap<Label, Vec<PortName>>,
}

/// A rule, and where it is declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredRule {
    /// The rule, as it is written in a file.
    #[schema(value_type = String, example = "deny web -> db")]
    pub rule: Rule,
    /// Where it is declared.
    pub provenance: Provenance,
}

impl Default for Acl {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            default: Permission::Allow,
            connections: DEFAULT_CONNECTIONS,
            groups: BTreeMap::new(),
        }
    }
}

impl Acl {
    /// Whether it restricts nothing, so that nothing need be watched.
    pub fn is_open(&self) -> bool {
        self.rules.is_empty() && self.default == Permission::Allow
    }

    /// The members of the group of this name.
    pub fn group(&self, name: &PortName) -> Option<&[PortName]> {
        self.groups.iter().find(|(group, _)| group.as_str() == name.as_str()).map(|(_, members)| members.as_slice())
    }
}

/// The keys of an access list; `rules` are texts in the file's `source`.
pub(crate) fn read<'a>(notes: &mut Notes, section: &mut Section<'a>, source: &str, lines: &Lines) -> Acl {
    let mut rules = Vec::new();
    for (path, text) in texts(notes, section, "rules", "deny web -> db") {
        let span = notes.span(&path).unwrap_or_default();
        match text.parse::<Rule>() {
            Ok(rule) => {
                // By the number that it has among those that could be read.
                notes.place(&format!("{}[{}]", section.path_of("rules"), rules.len()), span.clone());
                rules.push(DeclaredRule { rule, provenance: lines.provenance(span.start) });
            }
            Err(error) => {
                // Between its quotes, unless what stands there is escaped.
                let inner = span.start + 1..span.end.saturating_sub(1);
                let at = match source.get(inner.clone()) == Some(text) {
                    true => inner.start + error.at.start..inner.start + error.at.end,
                    false => span,
                };
                notes.complain_at(at, Problem::new("bad-rule", error.message, error.hint));
            }
        }
    }
    let default = section.string(notes, "default", "deny").and_then(|text| {
        let found = Permission::ALL.into_iter().find(|known| known.as_str() == text);
        if found.is_none() {
            let message = format!("`{}` is not a value of `default`", text.escape_debug());
            let hint = "choose from `allow`, `deny` and `reject`: what becomes of that which no rule fits";
            notes.complain(&section.path_of("default"), Problem::new("bad-value", message, hint));
        }
        found
    });
    let connections = section.integer(notes, "connections", 1..=1_000_000);
    Acl {
        rules,
        default: default.unwrap_or_default(),
        connections: connections.map_or(DEFAULT_CONNECTIONS, |connections| connections as u32),
        groups: BTreeMap::new(),
    }
}

/// The groups of a file. `what` their members are is said where they are missing.
pub(crate) fn read_groups<'a>(
    notes: &mut Notes,
    groups: Vec<(&'a str, Range<usize>, &'a DeTable<'a>)>,
    what: &str,
) -> BTreeMap<Label, Vec<PortName>> {
    let mut found = BTreeMap::new();
    for (name, _, table) in groups {
        let path = format!("group.{name}");
        let mut section = Section::new(table, &path, "a group");
        let members = texts(notes, &mut section, "members", "web");
        let has_members = section.has("members");
        section.finish(notes);
        let Some(name) = parse::<Label>(notes, &path, name) else { continue };
        if members.is_empty() && !notes.is_broken(&format!("{path}.members")) {
            let message = format!("group `{name}` has no members, so no rule that names it ever fits");
            let at = if has_members { format!("{path}.members") } else { path.clone() };
            notes.complain(&at, Problem::new("empty-group", message, format!("write `members = [\"NAME\"]`: {what}")));
        }
        let mut known = Vec::new();
        for (at, text) in members {
            if let (Some(member), Some(span)) = (parse(notes, &at, text), notes.span(&at)) {
                notes.place(&format!("{path}.members[{}]", known.len()), span);
                known.push(member);
            }
        }
        found.insert(name, known);
    }
    found
}

/// Whom the rules of a network can name.
pub(crate) struct Cast<'a> {
    /// Everyone who can be a member of a group, on this network or not: `VM`s or `port`s.
    pub(crate) all: BTreeSet<&'a str>,
    /// What they are, with its article.
    pub(crate) what: &'static str,
    /// Those who are on the network, and its ports.
    pub(crate) here: BTreeSet<String>,
    /// Where they are, in words.
    pub(crate) place: String,
    /// Whether there is a gateway.
    pub(crate) gateway: bool,
}

/// What is wrong with the groups of a file: they are known by the names of nobody else, and have members that exist.
pub(crate) fn check_groups(
    groups: &BTreeMap<Label, Vec<PortName>>,
    all: &BTreeSet<&str>,
    what: &str,
    mut find: impl FnMut(String, Problem),
) {
    for (group, members) in groups {
        let path = format!("group.{group}");
        if RESERVED.contains(&group.as_str()) {
            let message = format!("`{group}` means something else in rules");
            find(path.clone(), Problem::new("reserved-name", message, "call the group something else"));
        } else if all.contains(group.as_str()) {
            let message = format!("`{group}` is the name of {what} already");
            find(path.clone(), Problem::new("taken", message, "call the group something else"));
        }
        for (index, member) in members.iter().enumerate().filter(|(_, member)| !all.contains(member.as_str())) {
            let message = format!("there is no {} `{member}`", bare(what));
            find(
                format!("{path}.members[{index}]"),
                Problem::new("missing-member", message, known(member.as_str(), all)),
            );
        }
    }
}

/// What is wrong with the rules of the network at `path`.
pub(crate) fn check_rules(acl: &Acl, path: &str, cast: &Cast<'_>, mut find: impl FnMut(String, Problem)) {
    if acl.rules.len() > MAX_RULES {
        let message = format!("{} rules are more than {MAX_RULES}", acl.rules.len());
        find(format!("{path}.rules"), Problem::new("out-of-range", message, "say it with prefixes and groups"));
        return;
    }
    let mut titles = BTreeMap::new();
    for (index, DeclaredRule { rule, .. }) in acl.rules.iter().enumerate() {
        let path = format!("{path}.rules[{index}]");
        for end in [&rule.from, &rule.to] {
            if let Some(problem) = check_end(end, acl, cast) {
                find(path.clone(), problem);
            }
        }
        let title = rule.title();
        if let Some(first) = titles.insert(title.clone(), index) {
            let message = match rule.name {
                Some(_) => format!("two rules are called `{title}`"),
                None => format!("`{title}` stands here twice, first as rule {}", first + 1),
            };
            find(path, Problem::new("duplicate-rule", message, "remove or rename one of the two"));
        }
    }
}

fn check_end(end: &End, acl: &Acl, cast: &Cast<'_>) -> Option<Problem> {
    match end {
        End::Gateway if !cast.gateway => {
            let message = format!("{} has no gateway", cast.place);
            Some(Problem::new("no-gateway", message, "name ports, groups or prefixes"))
        }
        End::Name(name) if acl.group(name).is_none() && !cast.here.contains(name.as_str()) => {
            if cast.all.contains(name.as_str()) {
                let message = format!("`{name}` is not on {}, so the rule would never fit", cast.place);
                let hint = "give it an adapter there, or remove the rule";
                return Some(Problem::new("not-on-network", message, hint));
            }
            let message = format!("there is neither {} nor a group `{name}`", cast.what);
            let groups = acl.groups.keys().map(Label::as_str);
            let names = cast.here.iter().map(String::as_str).chain(groups).collect();
            Some(Problem::new("missing-name", message, known(name.as_str(), &names)))
        }
        _ => None,
    }
}

/// The way out for who named nobody.
pub(crate) fn known(name: &str, names: &BTreeSet<&str>) -> String {
    match nearest(name, names.iter().copied()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("there are {}", list(&names.iter().take(20).collect::<Vec<_>>())),
    }
}

/// A thing without its article.
fn bare(what: &str) -> &str {
    what.split_once(' ').map_or(what, |(_, bare)| bare)
}
