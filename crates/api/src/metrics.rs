//! Counters in the text format of Prometheus (exposition format 0.0.4).

use std::fmt::{Display, Write as _};

use weft_model::view::{AclView, MirrorView, PortView, RouterView, WorldView};

/// Every counter of a world, and of the access lists of its networks.
pub fn metrics(world: &WorldView, acls: &[AclView]) -> String {
    let mut text = Text::default();
    let states = world.vms.iter().map(|vm| {
        let state = serde_json::to_value(vm.state).ok().and_then(|state| state.as_str().map(str::to_owned));
        (vec![("vm", vm.name.to_string()), ("state", state.unwrap_or_default())], 1)
    });
    text.family("weft_vm_state", "gauge", "The state in which a machine is.", states);
    let mut ports = |name, kind, help, value: fn(&PortView) -> u64| {
        text.family(name, kind, help, world.ports.iter().map(|port| (labels(port), value(port))));
    };
    ports("weft_port_up", "gauge", "Whether a peer is connected.", |port| port.up.into());
    ports("weft_port_receive_frames_total", "counter", "Frames that came in.", |port| port.rx_frames);
    ports("weft_port_receive_bytes_total", "counter", "Bytes that came in.", |port| port.rx_bytes);
    ports("weft_port_transmit_frames_total", "counter", "Frames that went out.", |port| port.tx_frames);
    ports("weft_port_transmit_bytes_total", "counter", "Bytes that went out.", |port| port.tx_bytes);
    let active = world.ports.iter().filter_map(|port| Some((labels(port), port.active?.into())));
    text.family("weft_uplink_active", "gauge", "Whether an uplink of a team takes frames.", active);
    let mut reasons = |name, help, counts: fn(&PortView) -> &[weft_model::view::DropView]| {
        let samples = world.ports.iter().flat_map(|port| {
            counts(port)
                .iter()
                .map(|count| ([labels(port), vec![("reason", count.reason.clone())]].concat(), count.frames))
        });
        text.family(name, "counter", help, samples);
    };
    reasons("weft_port_dropped_frames_total", "Frames that came in and were dropped.", |port| &port.drops);
    reasons("weft_port_denials_total", "What a guest asked for and was denied.", |port| &port.denials);
    reasons("weft_gateway_refusals_total", "What the services behind a gateway dropped or refused.", |port| {
        &port.refusals
    });
    let rules = acls.iter().flat_map(|acl| {
        acl.rules.iter().map(|rule| {
            let labels = [("network", acl.network.to_string()), ("rule", rule.name.clone())];
            ([&labels[..], &[("permission", rule.permission.to_string())]].concat(), rule.hits)
        })
    });
    text.family("weft_rule_hits_total", "counter", "Decisions of a rule.", rules);
    let decided = world.routers.iter().flat_map(|router| {
        router.rules.iter().map(|rule| {
            let labels = [("router", router.name.to_string()), ("rule", rule.name.clone())];
            ([&labels[..], &[("permission", rule.permission.to_string())]].concat(), rule.hits)
        })
    });
    text.family("weft_router_rule_hits_total", "counter", "Decisions of a router's rule.", decided);
    let mut routers = |name, kind, help, value: fn(&RouterView) -> u64| {
        let routers = world.routers.iter();
        let samples = routers.map(|router| (vec![("router", router.name.to_string())], value(router)));
        text.family(name, kind, help, samples);
    };
    routers("weft_router_packets_total", "counter", "Packets that went across a router.", |router| router.packets);
    routers("weft_router_bytes_total", "counter", "Bytes that went across a router.", |router| router.bytes);
    routers("weft_router_connections", "gauge", "Connections that a router knows.", |router| router.connections);
    // Captures come and go; their readers learn what they lost.
    let mut mirrors = |name, help, value: fn(&MirrorView) -> u64| {
        let declared = world.mirrors.iter().filter_map(|mirror| {
            let to = mirror.to.clone()?;
            let network = mirror.networks.first()?.to_string();
            let labels = [("mirror", mirror.name.clone()), ("network", network), ("to", to)];
            Some((labels.to_vec(), value(mirror)))
        });
        text.family(name, "counter", help, declared);
    };
    mirrors("weft_mirror_copies_total", "Copies of frames that a mirror handed over.", |mirror| mirror.copies);
    mirrors("weft_mirror_lost_copies_total", "Copies for which whoever takes them had no room.", |mirror| mirror.lost);
    let leases = world.networks.iter().map(|network| {
        let held = world.leases.iter().filter(|lease| lease.network == network.name).count();
        (vec![("network", network.name.to_string())], held as u64)
    });
    text.family("weft_leases", "gauge", "DHCP leases that are held.", leases);
    let mut switch = |name, kind, help, value: fn(&weft_model::view::SwitchView) -> u64| {
        text.family(name, kind, help, world.switch.iter().map(|switch| (Vec::new(), value(switch))));
    };
    switch("weft_flow_cache_flows", "gauge", "Flows in the cache.", |switch| switch.cached_flows);
    switch("weft_flow_cache_hits_total", "counter", "Frames that the cache answered.", |switch| switch.cache_hits);
    switch("weft_flow_cache_misses_total", "counter", "Frames that ran the policy.", |switch| switch.cache_misses);
    switch("weft_nat_flows", "gauge", "Open flows of the NAT device.", |switch| switch.nat_flows);
    text.0
}

type Labels = Vec<(&'static str, String)>;

fn labels(port: &PortView) -> Labels {
    let vm = port.vm.as_ref().map(|vm| ("vm", vm.to_string()));
    let own = [("port", port.name.to_string()), ("network", port.network.to_string()), ("driver", port.driver.clone())];
    own.into_iter().chain(vm).collect()
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// Writes a metric with its samples; one without samples is not worth its lines.
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: impl Iterator<Item = (Labels, u64)>) {
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return;
        }
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        for (labels, value) in samples {
            let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
            match labels.is_empty() {
                true => self.line(format_args!("{name} {value}")),
                false => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
            }
        }
    }

    fn line(&mut self, line: impl Display) {
        // Into a string, that always works.
        let _ = writeln!(self.0, "{line}");
    }
}

/// A label's value between its quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use weft_model::view::{RuleView, SwitchView};
    use weft_types::{Permission, Provenance};

    use super::*;

    #[test]
    fn each_metric_has_its_head_and_each_label_its_quotes() {
        let rule = RuleView {
            name: "a \"b\" \\ c".to_owned(),
            permission: Permission::Deny,
            hits: 7,
            provenance: Provenance::command("test"),
        };
        let acl = AclView { network: "lab".parse().unwrap(), rules: vec![rule], default: Permission::Allow };
        let switch = Some(SwitchView { cached_flows: 3, ..SwitchView::default() });
        let text = metrics(&WorldView { switch, ..WorldView::default() }, &[acl]);
        let expected = r#"# TYPE weft_rule_hits_total counter
weft_rule_hits_total{network="lab",rule="a \"b\" \\ c",permission="deny"} 7
# HELP weft_flow_cache_flows Flows in the cache.
# TYPE weft_flow_cache_flows gauge
weft_flow_cache_flows 3
"#;
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("weft_port_up"), "there is no port");
    }
}
