//! Routers: which networks are joined, and who may begin what with whom across them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::de::DeTable;
use utoipa::ToSchema;
use weft_types::{Label, NetworkName, Permission, PortName, Provenance, VmName};

use crate::acl::{self, Cast, check_rules};
use crate::check::HOST;
use crate::port_keys::texts;
use crate::problem::Problem;
use crate::read::{Lines, Notes, Section, list, nearest, parse};
use crate::rule::End;
use crate::{Acl, DeclaredRule, Mode, World};

/// The most rules of a router, which looks at one after the other.
const MAX_RULES: usize = 1024;

/// A router. Without one, networks have nothing to do with each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// The networks that it joins.
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<NetworkName>,
    /// Who may begin what with whom from one network to another. The names in it are those of networks first, then those of
    /// machines and groups.
    pub acl: Acl,
    /// Where it is declared.
    pub provenance: Provenance,
}

impl Router {
    /// The network that a rule means by a name, if it means one.
    pub fn network(&self, name: &PortName) -> Option<&NetworkName> {
        self.networks.iter().find(|network| network.as_str() == name.as_str())
    }
}

/// The routers of a file.
pub(crate) fn read<'a>(
    notes: &mut Notes,
    tables: Vec<(&'a str, Range<usize>, &'a DeTable<'a>)>,
    groups: &BTreeMap<Label, Vec<PortName>>,
    source: &str,
    lines: &Lines,
) -> BTreeMap<Label, Router> {
    let mut found = BTreeMap::new();
    for (name, span, table) in tables {
        let path = format!("router.{name}");
        let mut section = Section::new(table, &path, "a router");
        let mut networks = Vec::new();
        for (at, text) in texts(notes, &mut section, "networks", "web") {
            if let (Some(network), Some(span)) = (parse(notes, &at, text), notes.span(&at)) {
                // By the number that it has among those that could be read.
                notes.place(&format!("{path}.networks[{}]", networks.len()), span);
                networks.push(network);
            }
        }
        if networks.is_empty() && !notes.is_broken(&format!("{path}.networks")) {
            let hint = "write `networks = [\"NAME\", \"NAME\"]`: what it joins";
            notes.complain(&path, Problem::new("missing-key", "the router joins no networks", hint));
        }
        let (has_rules, has_default) = (section.has("rules"), section.has("default"));
        let mut acl = acl::read(notes, &mut section, source, lines);
        section.finish(notes);
        if !has_default {
            acl.default = Permission::Deny;
        }
        if !networks.is_empty() && !has_rules && !has_default {
            let message = "the router has no rules, so nothing would pass it";
            let hint = "write `rules = [\"allow NETWORK -> NETWORK tcp/5432\"]`, or `default = \"allow\"`";
            notes.complain(&path, Problem::new("missing-key", message, hint));
        }
        acl.groups.clone_from(groups);
        if let Some(name) = parse::<Label>(notes, &path, name) {
            found.insert(name, Router { networks, acl, provenance: lines.provenance(span.start) });
        }
    }
    found
}

/// What is wrong with the routers of a world.
pub(crate) fn check(world: &World, mut find: impl FnMut(String, Problem)) {
    let mut routers: Vec<_> = world.routers.iter().collect();
    routers.sort_by_key(|(_, router)| router.provenance.line); // the later one in the file is the one to change
    let mut joined: BTreeMap<(&NetworkName, &NetworkName), &Label> = BTreeMap::new();
    for (name, router) in routers {
        let path = format!("router.{name}");
        check_networks(world, &path, router, &mut find);
        for (first, second) in pairs(&router.networks) {
            if let Some(other) = joined.insert((first, second), name).filter(|other| *other != name) {
                let message = format!("`{first}` and `{second}` are joined by router `{other}` already");
                let hint = "join two networks by one router, and put all rules there";
                find(format!("{path}.networks"), Problem::new("taken", message, hint));
            }
        }
        check_router_rules(world, &path, name, router, &mut find);
    }
}

/// Each two of them, in the order of their names.
fn pairs(networks: &[NetworkName]) -> Vec<(&NetworkName, &NetworkName)> {
    let networks: Vec<_> = networks.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let with_later = |(index, first)| networks[index + 1..].iter().map(move |second| (first, *second));
    networks.iter().copied().enumerate().flat_map(with_later).collect()
}

fn check_networks(world: &World, path: &str, router: &Router, find: &mut impl FnMut(String, Problem)) {
    for (index, network) in router.networks.iter().enumerate() {
        let at = format!("{path}.networks[{index}]");
        if router.networks[..index].contains(network) {
            let message = format!("`{network}` stands here twice");
            find(at, Problem::new("duplicate-network", message, "name each network once"));
            continue;
        }
        match world.networks.get(network).map(|network| network.mode) {
            None => {
                let known: Vec<_> = world.networks.keys().map(NetworkName::as_str).collect();
                let hint = match nearest(network.as_str(), known.iter().copied()) {
                    Some(word) => format!("did you mean `{word}`?"),
                    None => format!("the file declares {}", list(&known)),
                };
                find(at, Problem::new("missing-network", format!("there is no network `{network}`"), hint));
            }
            Some(Mode::Bridged) => {
                let message = format!("`{network}` is the LAN's, which has routers of its own");
                find(
                    at,
                    Problem::new("contradiction", message, "join networks of mode `nat`, `host-only` or `internal`"),
                );
            }
            Some(Mode::Nat | Mode::HostOnly | Mode::Internal) => {}
        }
    }
    if router.networks.len() == 1 {
        let message = "a router joins two networks or more, and here is one";
        find(format!("{path}.networks"), Problem::new("out-of-range", message, "name another network"));
    }
}

fn check_router_rules(
    world: &World,
    path: &str,
    name: &Label,
    router: &Router,
    find: &mut impl FnMut(String, Problem),
) {
    if router.acl.rules.len() > MAX_RULES {
        let message = format!("{} rules are more than {MAX_RULES}", router.acl.rules.len());
        find(format!("{path}.rules"), Problem::new("out-of-range", message, "say it with prefixes and groups"));
        return;
    }
    for (index, DeclaredRule { rule, .. }) in router.acl.rules.iter().enumerate() {
        let at = format!("{path}.rules[{index}]");
        if [&rule.from, &rule.to].contains(&&End::Gateway) {
            let message = "what is for a gateway goes through no router";
            find(at.clone(), Problem::new("no-gateway", message, "name networks, machines, groups or prefixes"));
        }
        if rule.log {
            let message = "the decisions of a router are counted, but not logged";
            find(at, Problem::new("contradiction", message, "remove `log`"));
        }
    }
    let is_joined = |vm: &&VmName| world.vms[*vm].nics.iter().any(|nic| router.networks.contains(&nic.network));
    let vms = world.vms.keys().filter(is_joined).map(ToString::to_string);
    let networks = router.networks.iter().filter_map(|network| world.networks.get(network));
    let has_host = networks.into_iter().any(|network| !network.adapters.is_empty());
    let host = has_host.then(|| HOST.to_owned());
    let cast = Cast {
        all: world.vms.keys().map(VmName::as_str).collect(),
        what: "a network of the router, a VM",
        here: router.networks.iter().map(ToString::to_string).chain(vms).chain(host).collect(),
        place: format!("a network of router `{name}`"),
        gateway: true, // that was told
    };
    check_rules(&router.acl, path, &cast, find);
}
