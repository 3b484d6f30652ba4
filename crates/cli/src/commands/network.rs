//! `weft network …`: networks, and who may talk to whom there.

use serde::Serialize;
use weft_model::view::{AclView, NetworkView};
use weft_types::NetworkName;

use crate::args::NetworkCommand;
use crate::commands::{Context, ls, mirrors};
use crate::failure::{Failure, Result};
use crate::output::{self, Style};
use crate::table::Table;

/// A network with its access list.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    network: &'a NetworkView,
    /// `None` where everybody may begin everything.
    acl: Option<&'a AclView>,
}

pub(crate) async fn run(context: &Context, command: NetworkCommand) -> Result {
    match command {
        NetworkCommand::Ls => ls::networks(context).await,
        NetworkCommand::Show { name } => show(context, &name).await,
    }
}

async fn show(context: &Context, name: &NetworkName) -> Result {
    let world = context.world().await?;
    let Some(network) = world.networks.iter().find(|network| network.name == *name) else {
        let title = format!("there is no network `{name}`");
        return Err(Failure::new("no-such-network", title, "`weft network ls` lists them"));
    };
    let acls = context.rules().await?;
    let acl = acls.iter().find(|acl| acl.network == *name);
    if context.json {
        return output::json(&Shown { network, acl });
    }
    let mut table = Table::plain();
    let mut row = |name: &str, value: String| table.row([Style::Dim.paint(name), value]);
    row("network", network.name.to_string());
    row("mode", ls::mode(network.mode).to_owned());
    match &network.uplink {
        Some(uplink) => row("uplink", format!("{} ({})", uplink.nic, uplink.attach.as_str())),
        None => {
            row("subnet", network.subnet.to_string());
            row("gateway", network.gateway.to_string());
            network.subnet6.into_iter().for_each(|net| row("IPv6", net.to_string()));
            for (adapter, ip) in &network.adapters {
                row("host", format!("{ip} by {adapter}"));
            }
            row("host access", if network.host_access { "yes" } else { "no" }.to_owned());
        }
    }
    row("machines", output::list(&network.vms));
    row("from", network.provenance.to_string());
    let rules = acl
        .map_or_else(|| "\nno rules: everybody may begin everything\n".to_owned(), |acl| format!("\n{}", rules(acl)));
    let mirrors: Vec<_> = world.mirrors.iter().filter(|mirror| mirror.networks.contains(name)).cloned().collect();
    output::data(&format!("{}{rules}{}", table.render(), mirrors::table(&mirrors)))?;
    ls::say_notes(&world);
    Ok(())
}

/// The rules of an access list, a line each, and its default below them.
pub(crate) fn rules(acl: &AclView) -> String {
    let mut table = Table::new(&["RULE", "SAYS", "DECIDED", "FROM"]);
    for rule in &acl.rules {
        let says = rule.permission.to_string();
        table.row([rule.name.clone(), says, rule.hits.to_string(), rule.provenance.to_string()]);
    }
    table.row(["the default".to_owned(), acl.default.to_string(), String::new(), String::new()]);
    table.render()
}
