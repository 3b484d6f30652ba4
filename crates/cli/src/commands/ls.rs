//! The listings of what there is.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use weft_model::EngineKind;
use weft_model::Mode;
use weft_model::view::{VmState, VmView, WorldView};

use crate::commands::{Context, forward};
use crate::failure::Result;
use crate::output::{self, Style};
use crate::table::Table;

/// `weft ls`
pub(crate) async fn everything(context: &Context) -> Result {
    let world = context.world().await?;
    if context.json {
        return output::json(&world);
    }
    if world.networks.is_empty() && world.vms.is_empty() {
        output::say("there is nothing; `weft up FILE` makes something");
        return Ok(());
    }
    let mut text = String::new();
    if !world.networks.is_empty() {
        text += &network_table(&world).render();
    }
    if !world.vms.is_empty() {
        let space = if text.is_empty() { "" } else { "\n" };
        text += &format!("{space}{}", vm_table(&world).render());
    }
    if !world.forwards.is_empty() {
        text += &format!("\n{}", forward::table(&world).render());
    }
    if !world.shells.is_empty() {
        text += &format!("\n{}", shell_table(&world).render());
    }
    output::data(&text)?;
    for owner in &world.enabled {
        output::say(format!("what {} made comes back with the host", output::printable(owner)));
    }
    say_notes(&world);
    Ok(())
}

/// Says what does not work.
pub(crate) fn say_notes(world: &WorldView) {
    for note in world.switch.iter().flat_map(|switch| &switch.notes) {
        output::say(format!("{}: {}", Style::Warning.paint("note"), output::printable(note)));
    }
}

/// `weft network ls`
pub(crate) async fn networks(context: &Context) -> Result {
    let world = context.world().await?;
    if context.json {
        return output::json(&world.networks);
    }
    output::data(&network_table(&world).render())
}

/// `weft vm ls`
pub(crate) async fn vms(context: &Context) -> Result {
    let world = context.world().await?;
    if context.json {
        return output::json(&world.vms);
    }
    output::data(&vm_table(&world).render())
}

/// `weft lease ls`
pub(crate) async fn leases(context: &Context) -> Result {
    let world = context.world().await?;
    if context.json {
        return output::json(&world.leases);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut table = Table::new(&["NETWORK", "ADDRESS", "MAC", "VM", "CALLS ITSELF", "ENDS IN"]);
    for lease in &world.leases {
        table.row([
            lease.network.to_string(),
            lease.ip.to_string(),
            lease.mac.to_string(),
            lease.vm.as_ref().map(ToString::to_string).unwrap_or_default(),
            output::printable(lease.client_name.as_deref().unwrap_or_default()),
            span(lease.expires_unix_s.saturating_sub(now)),
        ]);
    }
    output::data(&table.render())?;
    say_notes(&world);
    Ok(())
}

/// How a network reaches the outside, in a word.
pub(crate) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Nat => "nat",
        Mode::HostOnly => "host-only",
        Mode::Internal => "internal",
        Mode::Bridged => "bridged",
    }
}

/// Whether others than the stations of its link can reach it by this address.
fn is_for_others(ip: &&IpAddr) -> bool {
    !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// A network's addresses, or by what it reaches those who give them.
fn subnet(network: &weft_model::view::NetworkView) -> String {
    match &network.uplink {
        Some(uplink) => format!("LAN by {}", uplink.nic),
        None => {
            let prefix = network.subnet6.map(|net| format!(" {net}")).unwrap_or_default();
            format!("{}{prefix}", network.subnet)
        }
    }
}

/// The shells that stand on networks, a line each.
fn shell_table(world: &WorldView) -> Table {
    let mut table = Table::new(&["SHELL", "NETWORK", "ADDRESS", "MAC", "PROCESS"]);
    for shell in &world.shells {
        let leased = world.leases.iter().find(|lease| lease.network == shell.network && lease.mac == shell.mac);
        // What a server of the LAN gave it, the switch has seen.
        let seen = || {
            world
                .ports
                .iter()
                .find(|port| port.name == shell.port)?
                .learned
                .iter()
                .find(is_for_others)
                .map(ToString::to_string)
        };
        table.row([
            shell.name.to_string(),
            shell.network.to_string(),
            leased.map(|lease| lease.ip.to_string()).or_else(seen).unwrap_or_default(),
            shell.mac.to_string(),
            shell.pid.to_string(),
        ]);
    }
    table
}

fn network_table(world: &WorldView) -> Table {
    let mut table = Table::new(&["NETWORK", "MODE", "SUBNET", "GATEWAY", "HOST ACCESS", "VMS", "FROM"]);
    for network in &world.networks {
        table.row([
            network.name.to_string(),
            mode(network.mode).to_owned(),
            subnet(network),
            if network.uplink.is_some() { "-".to_owned() } else { network.gateway.to_string() },
            if network.host_access { "yes" } else { "no" }.to_owned(),
            output::list(&network.vms),
            network.provenance.to_string(),
        ]);
    }
    table
}

fn vm_table(world: &WorldView) -> Table {
    let mut table = Table::new(&["VM", "STATE", "ADDRESSES", "IMAGE", "MEMORY", "CPUS", "ENGINE", "FROM", "WHY"]);
    let explained = world.vms.iter().any(|vm| vm.reason.is_some());
    if !explained {
        table = Table::new(&["VM", "STATE", "ADDRESSES", "IMAGE", "MEMORY", "CPUS", "ENGINE", "FROM"]);
    }
    for vm in &world.vms {
        let mut row = vec![
            vm.name.to_string(),
            state(vm.state),
            addresses(vm),
            vm.image.clone(),
            vm.memory.to_string(),
            vm.cpus.to_string(),
            engine(vm),
            vm.provenance.to_string(),
        ];
        if explained {
            row.push(output::printable(vm.reason.as_deref().unwrap_or_default()));
        }
        table.row(row);
    }
    table
}

/// What runs a machine, and how, where that is a question.
pub(crate) fn engine(vm: &VmView) -> String {
    match (vm.engine, &vm.accelerator) {
        (EngineKind::Kvm, _) => "kvm".to_owned(),
        (EngineKind::Uml, _) => "uml".to_owned(),
        (EngineKind::Qemu, Some(accelerator)) => format!("qemu ({accelerator})"),
        (EngineKind::Qemu, None) => "qemu".to_owned(),
    }
}

/// A machine's state in a word.
pub(crate) fn state(state: VmState) -> String {
    match state {
        VmState::Stopped => Style::Dim.paint("stopped"),
        VmState::Starting => Style::Warning.paint("starting"),
        VmState::Ready => Style::Good.paint("ready"),
        VmState::Stopping => Style::Warning.paint("stopping"),
        VmState::Failed => Style::Error.paint("failed"),
    }
}

/// A machine's addresses, each with its network.
pub(crate) fn addresses(vm: &VmView) -> String {
    let address = |nic: &weft_model::view::NicView| {
        // Of several of IPv6 the oldest: the others are for a while, so that their owner is not known by them.
        let known = nic.ip.map(|ip| ip.to_string()).into_iter().chain(nic.ipv6.first().map(|ip| ip.to_string()));
        match known.collect::<Vec<_>>() {
            none if none.is_empty() => format!("none ({})", nic.network),
            known => format!("{} ({})", known.join(" "), nic.network),
        }
    };
    output::list(&vm.nics.iter().map(address).collect::<Vec<_>>())
}

/// A span of time in its largest units.
fn span(seconds: u64) -> String {
    match seconds {
        0 => "ended".to_owned(),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (seconds, text) in [(0, "ended"), (59, "59 s"), (3599, "59 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
