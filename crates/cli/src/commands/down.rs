//! `weft down`: nothing of a file's world stays.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use weft_machine::Process;
use weft_model::World;
use weft_model::view::{ApplyRequest, OperationView, WorldView};

use crate::args::FileArg;
use crate::commands::{Context, enable};
use crate::failure::{Failure, Result};
use crate::file;
use crate::link::Link;
use crate::output;
use crate::progress;

/// How long the daemon of an empty world may take to leave.
const FAREWELL: Duration = Duration::from_secs(3);

pub(crate) async fn run(context: &Context, arg: FileArg, all: bool) -> Result {
    let mut link = match Link::to_running(&context.paths).await {
        Some(link) => link,
        None if context.is_dormant() => return nothing(context, &[]),
        None => Link::open(&context.paths).await?,
    };
    let world = link.ask(async |client| client.world().await).await?;
    let known = owners(&world);
    let chosen = match (all, arg.file) {
        (true, _) => known.iter().cloned().collect(),
        (false, Some(path)) => vec![file::owner(&path)],
        (false, None) => vec![default_owner(&known)?],
    };
    let mut operations = Vec::new();
    for owner in chosen {
        let request = ApplyRequest { owner, world: World::default(), if_revision: None };
        let begun = link.ask(async |client| client.apply(&request).await).await?;
        let undo = format!("weft up {}", request.owner);
        let course = progress::watch(&mut link, begun, &undo).await?.succeeded()?;
        operations.push(course.operation);
    }
    if !world.enabled.is_empty() {
        enable::retire(&mut link).await?;
    }
    farewell(link).await?;
    nothing(context, &operations)
}

/// Who owns something.
fn owners(world: &WorldView) -> BTreeSet<String> {
    world.vms.iter().map(|vm| &vm.owner).chain(world.networks.iter().map(|network| &network.owner)).cloned().collect()
}

/// The owner that is meant where no file is named.
fn default_owner(known: &BTreeSet<String>) -> Result<String> {
    let owner = file::owner(Path::new(file::DEFAULT));
    if known.is_empty() || known.contains(&owner) || Path::new(file::DEFAULT).exists() {
        return Ok(owner);
    }
    let title = format!("there is no {} here, and nothing was made from one", file::DEFAULT);
    let names: Vec<_> = known.iter().map(|owner| format!("`weft down {owner}`")).collect();
    let hint = format!("name the file: {}; or `weft down --all`", names.join(", "));
    Err(Failure::usage("no-file", title, hint))
}

/// Waits until the daemon has left, if there is nothing to keep it.
async fn farewell(mut link: Link) -> Result {
    let world = link.ask(async |client| client.world().await).await?;
    let daemon = Process::of_pid(link.client().about().pid);
    drop(link);
    if let Some(daemon) = daemon.filter(|_| owners(&world).is_empty()) {
        let wait = move || daemon.wait_exit(FAREWELL);
        let _ = tokio::task::spawn_blocking(wait).await;
    }
    Ok(())
}

fn nothing(context: &Context, operations: &[OperationView]) -> Result {
    if context.json {
        return output::json(&json!({ "operations": operations }));
    }
    match operations {
        [] => output::say("nothing to do: there is nothing that a file made"),
        _ => output::say("everything is removed; the image cache and the history stay"),
    }
    Ok(())
}
