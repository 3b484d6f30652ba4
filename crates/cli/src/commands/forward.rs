//! `weft forward …`: what of the host's ports leads to machines.

use weft_model::view::{ForwardRequest, OperationView, WorldView};
use weft_types::{ForwardTarget, Listen, Transport};

use crate::args::ForwardCommand;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, Style};
use crate::progress;
use crate::table::Table;

pub(crate) async fn run(context: &Context, command: ForwardCommand) -> Result {
    match command {
        ForwardCommand::Ls => list(context).await,
        ForwardCommand::Add { listen, to, udp, network } => {
            let listen = of_protocol(listen, udp);
            let to = ForwardTarget::parse(&to, &listen).map_err(|error| {
                let hint = error.hint();
                Failure::usage("bad-forward", error.to_string(), hint)
            })?;
            let said = format!("{listen} leads to {to}");
            let request = ForwardRequest { listen, to, network };
            let mut link = link(context).await?;
            let operation = link.ask(async |client| client.add_forward(&request).await).await?;
            finish(context, link, operation, &format!("weft forward rm {listen}"), said).await
        }
        ForwardCommand::Rm { listen, udp } => {
            let listen = of_protocol(listen, udp);
            let mut link = link(context).await?;
            let operation = link.ask(async |client| client.remove_forward(&listen).await).await?;
            finish(context, link, operation, "weft forward add", format!("{listen} leads nowhere any more")).await
        }
    }
}

fn of_protocol(listen: Listen, udp: bool) -> Listen {
    if udp { listen.with_transport(Transport::Udp) } else { listen }
}

/// The daemon: where nothing is declared there is none, and nothing to forward to.
async fn link(context: &Context) -> Result<Link> {
    if Link::to_running(&context.paths).await.is_none() && context.is_dormant() {
        let hint = "`weft up FILE` makes the machines that a file declares";
        return Err(Failure::new("no-such-vm", "there is no machine to forward to", hint));
    }
    Link::open(&context.paths).await
}

async fn finish(context: &Context, mut link: Link, operation: OperationView, undo: &str, said: String) -> Result {
    let course = progress::watch(&mut link, operation, undo).await?;
    if context.json {
        output::json(&course.operation)?;
    }
    course.succeeded()?;
    output::say(said);
    Ok(())
}

async fn list(context: &Context) -> Result {
    let world = context.world().await?;
    if context.json {
        return output::json(&world.forwards);
    }
    output::data(&table(&world).render())
}

/// The port forwards, a line each.
pub(crate) fn table(world: &WorldView) -> Table {
    let mut table = Table::new(&["FORWARD", "TO", "NETWORK", "STATE", "CLIENTS", "SERVED", "FROM"]);
    for forward in &world.forwards {
        let state = match &forward.reason {
            None => Style::Good.paint("open"),
            Some(reason) => format!("{}: {}", Style::Error.paint("closed"), output::printable(reason)),
        };
        table.row([
            forward.listen.to_string(),
            forward.to.to_string(),
            forward.network.to_string(),
            state,
            forward.clients.to_string(),
            forward.served.to_string(),
            forward.provenance.to_string(),
        ]);
    }
    table
}
