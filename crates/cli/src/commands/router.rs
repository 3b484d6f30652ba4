//! `weft router …`: what joins networks, and what passes there.

use weft_model::view::RouterView;
use weft_types::Label;

use crate::args::RouterCommand;
use crate::commands::{Context, ls};
use crate::failure::{Failure, Result};
use crate::output::{self, Style, human_bytes};
use crate::table::Table;

pub(crate) async fn run(context: &Context, command: RouterCommand) -> Result {
    let world = context.world().await?;
    match command {
        RouterCommand::Ls if context.json => return output::json(&world.routers),
        RouterCommand::Ls => output::data(&table(&world.routers))?,
        RouterCommand::Show { name } => {
            let router =
                world.routers.iter().find(|router| router.name == name).ok_or_else(|| no_such_router(&name))?;
            if context.json {
                return output::json(router);
            }
            output::data(&show(router))?;
        }
    }
    ls::say_notes(&world);
    Ok(())
}

fn no_such_router(name: &Label) -> Failure {
    Failure::new("no-such-router", format!("there is no router `{name}`"), "`weft router ls` lists them")
}

/// Routers, a line each.
fn table(routers: &[RouterView]) -> String {
    let mut table = Table::new(&["ROUTER", "JOINS", "PASSED", "CONNECTIONS", "FROM"]);
    for router in routers {
        table.row([
            router.name.to_string(),
            output::list(&router.networks),
            traffic(router),
            router.connections.to_string(),
            router.provenance.to_string(),
        ]);
    }
    table.render()
}

/// Everything about a router.
fn show(router: &RouterView) -> String {
    let mut about = Table::plain();
    let mut row = |name: &str, value: String| about.row([Style::Dim.paint(name), value]);
    row("router", router.name.to_string());
    row("joins", output::list(&router.networks));
    row("passed", traffic(router));
    row("connections", router.connections.to_string());
    row("from", router.provenance.to_string());
    let mut rules = Table::new(&["RULE", "SAYS", "DECIDED", "FROM"]);
    for rule in &router.rules {
        let says = rule.permission.to_string();
        rules.row([rule.name.clone(), says, rule.hits.to_string(), rule.provenance.to_string()]);
    }
    let says = router.default.to_string();
    rules.row(["the default".to_owned(), says, router.default_hits.to_string(), String::new()]);
    format!("{}\n{}", about.render(), rules.render())
}

fn traffic(router: &RouterView) -> String {
    format!("{} ({})", router.packets, human_bytes(router.bytes))
}
