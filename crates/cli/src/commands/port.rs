//! `weft port …`: where machines plug into networks, and what passes there.

use weft_model::view::PortView;
use weft_types::{IpNet, PortName, PortRates};

use crate::args::PortCommand;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, Style, human_bytes};
use crate::table::Table;

pub(crate) async fn run(context: &Context, command: PortCommand) -> Result {
    let ports = context.world().await?.ports;
    match command {
        PortCommand::Ls if context.json => output::json(&ports),
        PortCommand::Ls => output::data(&table(&ports)),
        PortCommand::Show { name } => {
            let port = ports.iter().find(|port| port.name == name).ok_or_else(|| no_such_port(&name))?;
            if context.json { output::json(port) } else { output::data(&show(port)) }
        }
    }
}

fn no_such_port(name: &PortName) -> Failure {
    Failure::new("no-such-port", format!("there is no port `{name}`"), "`weft port ls` lists them")
}

/// Ports, a line each.
pub(crate) fn table(ports: &[PortView]) -> String {
    let mut table = Table::new(&["PORT", "NETWORK", "DRIVER", "STATE", "IN", "OUT", "DROPPED"]);
    for port in ports {
        table.row([
            port.name.to_string(),
            port.network.to_string(),
            port.driver.clone(),
            state(port),
            traffic(port.rx_frames, port.rx_bytes),
            traffic(port.tx_frames, port.tx_bytes),
            port.drops.iter().map(|drop| drop.frames).sum::<u64>().to_string(),
        ]);
    }
    table.render()
}

/// Everything about a port.
pub(crate) fn show(port: &PortView) -> String {
    let mut table = Table::plain();
    let mut row = |name: &str, value: String| table.row([Style::Dim.paint(name), value]);
    row("port", port.name.to_string());
    row("network", port.network.to_string());
    row("driver", port.driver.clone());
    row("machine", port.vm.as_ref().map(ToString::to_string).unwrap_or_default());
    let macs = port.macs.iter().map(ToString::to_string);
    row(
        "MAC addresses",
        output::list(&macs.chain(port.mac_ranges.iter().map(ToString::to_string)).collect::<Vec<_>>()),
    );
    row("VLANs", port.vlans.to_string());
    row("IP addresses", addresses(port));
    if port.uplink {
        row("uplink", "yes".to_owned());
        row("neighbour", neighbour(port));
    }
    if port.learn > 0 {
        row("learns", format!("{} stations", port.learn));
    }
    row("may", output::list(&port.allow));
    if port.rates != PortRates::default() {
        row("rate", port.rates.to_string());
    }
    row("state", format!("{}{}", state(port), port.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default()));
    row("in", traffic(port.rx_frames, port.rx_bytes));
    row("out", traffic(port.tx_frames, port.tx_bytes));
    for drop in &port.drops {
        row(&format!("dropped, {}", drop.reason), format!("{} frames", drop.frames));
    }
    for denial in &port.denials {
        row(&format!("denied, {}", denial.reason), denial.frames.to_string());
    }
    for refusal in &port.refusals {
        row(&format!("refused, {}", refusal.reason), refusal.frames.to_string());
    }
    for mirror in &port.mirrors {
        row(&format!("mirror {}", mirror.name), format!("{} copies, {} lost", mirror.copies, mirror.lost));
    }
    row("from", port.provenance.to_string());
    table.render()
}

/// Who is at the other end of the cable.
fn neighbour(port: &PortView) -> String {
    let Some(neighbour) = &port.neighbour else { return "silent: it does not introduce itself (LLDP)".to_owned() };
    let mut text = format!("{}, its port {}", neighbour.device, neighbour.port);
    if !neighbour.vlans.is_empty() {
        text.push_str(&format!(", VLANs {}", neighbour.vlans));
    }
    if !neighbour.missing_vlans.is_empty() {
        let missing = format!("not {}, which this port carries", neighbour.missing_vlans);
        text.push_str(&format!(", {}", Style::Warning.paint(&missing)));
    }
    text
}

/// The addresses that are a port's own: those that were configured, and those that it was seen to get.
fn addresses(port: &PortView) -> String {
    let Some(fixed) = &port.addresses else { return "any".to_owned() };
    let host = |prefix: &IpNet| match prefix.prefix_len() == prefix.max_prefix_len() {
        true => prefix.addr().to_string(),
        false => prefix.to_string(),
    };
    let fixed: Vec<_> = fixed.iter().map(host).collect();
    let learned = port.learned.iter().map(ToString::to_string).filter(|address| !fixed.contains(address));
    let learned: Vec<_> = learned.map(|address| format!("{address} (seen)")).collect();
    output::list(&[fixed, learned].concat())
}

/// Whether a peer is there, and of a team's uplink whether it takes frames.
fn state(port: &PortView) -> String {
    let state = if port.up { Style::Good.paint("up") } else { Style::Warning.paint("down") };
    match port.active {
        Some(true) => format!("{state}, active"),
        Some(false) => format!("{state}, standby"),
        None => state,
    }
}

fn traffic(frames: u64, bytes: u64) -> String {
    format!("{frames} ({})", human_bytes(bytes))
}
