//! Routers, from the words of a file to the adapters of a switch, and back to what people see of them.

use std::collections::BTreeMap;

use weft_dataplane_protocol::{
    DataplaneConfig, RouteEndConfig, RouteRuleConfig, RouterConfig, RouterStatus, StationConfig,
};
use weft_model::view::{Impact, RouterView, RuleView, StepAction, StepView};
use weft_model::{DeclaredRule, End, Router};
use weft_types::{Label, MacAddr, PortName, Provenance, VmName};

use crate::desired::{Desired, HOST};
use crate::plan::step;

/// What the switch is told of the routers.
pub(crate) fn router_configs(desired: &Desired) -> Vec<RouterConfig> {
    desired.routers.iter().map(|(name, object)| router_config(desired, name, &object.spec)).collect()
}

fn router_config(desired: &Desired, name: &Label, router: &Router) -> RouterConfig {
    let end = |end: &End| match end {
        End::Any => RouteEndConfig::Any,
        End::Prefix(prefix) => RouteEndConfig::Prefix { prefix: *prefix },
        End::Name(name) => match router.network(name) {
            Some(network) => RouteEndConfig::Network { name: network.clone() },
            None => {
                let members = router.acl.group(name).unwrap_or(std::slice::from_ref(name));
                let stations = members.iter().flat_map(|member| stations(desired, router, member));
                RouteEndConfig::Stations { stations: stations.collect() }
            }
        },
        // Refused where it is declared: it is nobody.
        End::Gateway => RouteEndConfig::Stations { stations: Vec::new() },
    };
    let rule = |DeclaredRule { rule, provenance }: &DeclaredRule| RouteRuleConfig {
        name: rule.title(),
        permission: rule.permission,
        from: end(&rule.from),
        to: end(&rule.to),
        traffic: rule.traffic.clone(),
        provenance: provenance.clone(),
    };
    RouterConfig {
        name: name.clone(),
        networks: router.networks.clone(),
        rules: router.acl.rules.iter().map(rule).collect(),
        default: router.acl.default,
        connections: router.acl.connections,
        provenance: router.provenance.clone(),
    }
}

/// The adapters by which a machine, or the host, stands on the networks of a router.
fn stations(desired: &Desired, router: &Router, member: &PortName) -> Vec<StationConfig> {
    let joined = |network| router.networks.contains(network);
    if member.as_str() == HOST {
        let networks = desired.networks.iter().filter(|(name, _)| joined(name));
        let adapters = networks.flat_map(|(name, network)| network.spec.adapters.keys().map(move |it| (name, it)));
        let station = |(network, adapter): (&_, &Label)| StationConfig {
            network: Clone::clone(network),
            mac: MacAddr::derive(&format!("host/{adapter}")),
        };
        return adapters.map(station).collect();
    }
    let vm = member.as_str().parse::<VmName>().ok().and_then(|vm| desired.vms.get(&vm));
    let nics = vm.into_iter().flat_map(|vm| &vm.spec.nics).filter(|nic| joined(&nic.network));
    nics.map(|nic| StationConfig { network: nic.network.clone(), mac: nic.mac }).collect()
}

/// A step for each router that comes, goes or lets something else pass. No port is touched by any of them.
pub(crate) fn router_steps(old: Option<&DataplaneConfig>, new: &DataplaneConfig) -> Vec<StepView> {
    type Routers<'a> = BTreeMap<&'a Label, &'a RouterConfig>;
    let all = |config: Option<&'_ DataplaneConfig>| -> BTreeMap<Label, RouterConfig> {
        let routers = config.into_iter().flat_map(|config| &config.routers);
        routers.map(|router| (router.name.clone(), router.clone())).collect()
    };
    let (old, new) = (all(old), all(Some(new)));
    let (old, new): (Routers<'_>, Routers<'_>) = (old.iter().collect(), new.iter().collect());
    let make = |action, router: &RouterConfig, detail: String| {
        step(action, "router", router.name.as_str(), detail, Impact::Hitless, Some(router.provenance.clone()))
    };
    let mut steps = Vec::new();
    for (name, router) in &new {
        match old.get(name) {
            None => steps.push(make(StepAction::Create, router, format!("{}, {}", joins(router), rules(router)))),
            Some(before) => {
                let mut words = Vec::new();
                if joins(before) != joins(router) {
                    words.push(format!("{} -> {}", joins(before), joins(router)));
                }
                if rules(before) != rules(router) {
                    words.push(format!("{} -> {}", rules(before), rules(router)));
                } else if sense(before) != sense(router) {
                    words.push("rules changed".to_owned());
                }
                if !words.is_empty() {
                    steps.push(make(StepAction::Update, router, words.join(", ")));
                }
            }
        }
    }
    let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
    steps.extend(gone.map(|(_, router)| make(StepAction::Remove, router, format!("{} no more", joins(router)))));
    steps
}

fn joins(router: &RouterConfig) -> String {
    let networks: Vec<_> = router.networks.iter().map(ToString::to_string).collect();
    format!("joins {}", networks.join(" "))
}

fn rules(router: &RouterConfig) -> String {
    match router.rules.len() {
        1 => format!("1 rule, else {}", router.default),
        count => format!("{count} rules, else {}", router.default),
    }
}

/// A router without the places where it is declared.
fn sense(router: &RouterConfig) -> RouterConfig {
    let nowhere = Provenance::command("");
    let mut router = RouterConfig { provenance: nowhere.clone(), ..router.clone() };
    router.rules.iter_mut().for_each(|rule| rule.provenance = nowhere.clone());
    router
}

/// The routers as the API shows them; where no switch tells, nothing has passed.
pub(crate) fn router_views(desired: &Desired, statuses: &[RouterStatus]) -> Vec<RouterView> {
    let view = |(name, object): (&Label, &crate::objects::Object<Router>)| {
        let router = &object.spec;
        let status = statuses.iter().find(|status| status.name == *name);
        let hits = |title: &str| {
            let rules = status.into_iter().flat_map(|status| &status.rules);
            rules.into_iter().find(|rule| rule.name == title).map_or(0, |rule| rule.hits)
        };
        let rule = |declared: &DeclaredRule| {
            let name = declared.rule.title();
            let hits = hits(&name);
            RuleView { name, permission: declared.rule.permission, hits, provenance: declared.provenance.clone() }
        };
        RouterView {
            name: name.clone(),
            networks: router.networks.clone(),
            rules: router.acl.rules.iter().map(rule).collect(),
            default: router.acl.default,
            default_hits: status.map_or(0, |status| status.default_hits),
            packets: status.map_or(0, |status| status.packets),
            bytes: status.map_or(0, |status| status.bytes),
            connections: status.map_or(0, |status| status.connections),
            owner: object.owner.clone(),
            provenance: router.provenance.clone(),
        }
    };
    desired.routers.iter().map(view).collect()
}
