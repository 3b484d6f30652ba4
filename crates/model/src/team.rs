//! Several uplinks of a switch that are one way out.

use std::collections::BTreeSet;

use toml::de::DeValue;
use weft_types::PortName;

use crate::port_keys::texts;
use crate::problem::Problem;
use crate::read::{Notes, Section, list, nearest, wrong_type};

/// The uplinks of a switch that has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    /// Who of them takes a frame.
    pub mode: TeamMode,
    /// All of them, the preferred one first.
    pub members: Vec<PortName>,
}

/// Who of a team takes a frame, of those whose link is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TeamMode {
    /// The preferred one; the others wait.
    #[default]
    ActiveStandby,
    /// One for each flow. The adjacent switch must take the links for one.
    Hash,
}

/// What the key `team` says, before it is known which ports are uplinks.
pub(crate) struct Wanted {
    path: String,
    mode: TeamMode,
    /// Names with their paths.
    order: Option<Vec<(String, String)>>,
}

/// Reads the key `team`: a mode, or a table with one and an order.
pub(crate) fn read<'a>(notes: &mut Notes, section: &mut Section<'a>) -> Option<Wanted> {
    let path = section.path_of("team");
    let table = match section.value(notes, "team")? {
        DeValue::String(text) => {
            let mode = mode(notes, &path, text);
            return Some(Wanted { path, mode, order: None });
        }
        DeValue::Table(table) => table,
        other => return wrong_type(notes, &path, other, "a mode or a table", "\"active-standby\""),
    };
    let mut section = Section::new(table, path.clone(), "a team");
    let text = section.string(notes, "mode", "active-standby");
    let mode = text.map_or_else(TeamMode::default, |text| mode(notes, &section.path_of("mode"), text));
    let order = texts(notes, &mut section, "order", "uplink").into_iter();
    let order = section.has("order").then(|| order.map(|(path, name)| (path, name.to_owned())).collect());
    section.finish(notes);
    Some(Wanted { path, mode, order })
}

fn mode(notes: &mut Notes, path: &str, text: &str) -> TeamMode {
    match text {
        "active-standby" => TeamMode::ActiveStandby,
        "hash" => TeamMode::Hash,
        other => {
            let message = format!("`{}` is no mode of a team", other.escape_debug());
            let hint = "choose `active-standby`, or `hash` where the switch at the other end takes the links for one";
            notes.complain(path, Problem::new("bad-value", message, hint));
            TeamMode::default()
        }
    }
}

impl Wanted {
    /// The team of these uplinks, which stand in the order in which they were declared.
    pub(crate) fn of_uplinks(self, notes: &mut Notes, uplinks: &[&PortName]) -> Team {
        if uplinks.is_empty() {
            let hint = "write `uplink = true` in the ports that lead out, or give them `nic`";
            notes.complain(&self.path, Problem::new("contradiction", "a team is of uplinks, and there is none", hint));
        }
        let Some(order) = self.order else {
            return Team { mode: self.mode, members: uplinks.iter().map(|name| (*name).clone()).collect() };
        };
        let names: Vec<_> = uplinks.iter().map(|name| name.as_str()).collect();
        let (mut members, mut seen) = (Vec::new(), BTreeSet::new());
        for (path, name) in order {
            let problem = match uplinks.iter().find(|uplink| uplink.as_str() == name) {
                None => {
                    let hint = match nearest(&name, names.iter().copied()) {
                        Some(word) => format!("did you mean `{word}`?"),
                        None => format!("the uplinks are {}", list(&names)),
                    };
                    Problem::new("no-uplink", format!("there is no uplink `{}`", name.escape_debug()), hint)
                }
                Some(_) if !seen.insert(name.clone()) => {
                    Problem::new("taken", format!("`{name}` is in the team twice"), "name each uplink once")
                }
                Some(uplink) => {
                    members.push((*uplink).clone());
                    continue;
                }
            };
            notes.complain(&path, problem);
        }
        let missing: Vec<_> = names.into_iter().filter(|name| !seen.contains(*name)).collect();
        if !missing.is_empty() {
            let message = format!("the order leaves out {}", list(&missing));
            let problem = Problem::new("missing-uplink", message, "name every uplink, the preferred one first");
            notes.complain(&format!("{}.order", self.path), problem);
        }
        Team { mode: self.mode, members }
    }
}
