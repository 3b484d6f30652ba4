//! `weft up`: from a file to machines that are ready.

use std::path::Path;

use serde_json::json;
use weft_model::MICRO;
use weft_model::view::{ApplyRequest, OperationView, PlanView, VmState, WorldView};

use crate::args::FileArg;
use crate::commands::{Context, ls, plan};
use crate::failure::{Failure, Result};
use crate::file;
use crate::link::Link;
use crate::output::{self, Style};
use crate::progress::{self, Course};
use crate::table::Table;

/// How often somebody else may change our objects between our plan and its application before we give up.
const MAX_RACES: usize = 5;

pub(crate) async fn run(context: &Context, arg: FileArg) -> Result {
    let path = file::meant(arg.file);
    let request =
        ApplyRequest { owner: file::owner(&path), world: file::load(&path, &context.paths)?, if_revision: None };
    let link = Link::open(&context.paths).await?;
    become_world(context, link, request, &path).await
}

/// Has the request carried out, and waits until every machine is ready.
pub(crate) async fn become_world(context: &Context, mut link: Link, request: ApplyRequest, path: &Path) -> Result {
    let (plan, operation) = propose(&mut link, request.clone()).await?;
    let undo = format!("weft down {}", path.display());
    let course = progress::watch(&mut link, operation, &undo).await?;
    let world = link.ask(async |client| client.world().await).await?;
    if context.json {
        let vms: Vec<_> = world.vms.iter().filter(|vm| vm.owner == request.owner).collect();
        output::json(&json!({ "plan": plan, "operation": course.operation, "vms": vms }))?;
    } else {
        output::data(&machines(&world, &request.owner, &course))?;
    }
    course.succeeded()?;
    if !context.json {
        hints(&world, &request.owner, &undo);
    }
    Ok(())
}

/// Plans, shows the plan and begins with it; if somebody else was faster, again from the beginning.
async fn propose(link: &mut Link, mut request: ApplyRequest) -> Result<(PlanView, OperationView)> {
    for race in 1.. {
        request.if_revision = None;
        let plan = link.ask(async |client| client.plan(&request).await).await?;
        match plan.steps.is_empty() && plan.drift.is_empty() {
            true => output::say("nothing to do"),
            false => output::talk(&plan::render(&plan)),
        }
        request.if_revision = Some(plan.revision);
        match link.ask(async |client| client.apply(&request).await).await {
            Err(Failure::Problems(problems))
                if race < MAX_RACES && problems.iter().any(|problem| problem.code == "changed-meanwhile") =>
            {
                output::say("somebody else was faster; here is the new plan:");
            }
            begun => return Ok((plan, begun?)),
        }
    }
    unreachable!("the last race is lost or won")
}

/// The owner's machines, and how long each took.
fn machines(world: &WorldView, owner: &str, course: &Course) -> String {
    let mut table = Table::new(&["VM", "STATE", "ADDRESSES", "READY AFTER"]);
    for vm in world.vms.iter().filter(|vm| vm.owner == owner) {
        let took = course.ready_after.get(vm.name.as_str());
        let took = took.map_or_else(String::new, |took| format!("{:.1} s", took.as_secs_f64()));
        table.row([vm.name.to_string(), ls::state(vm.state), ls::addresses(vm), took]);
    }
    if table.is_empty() { String::new() } else { table.render() }
}

fn hints(world: &WorldView, owner: &str, undo: &str) {
    let ready = world.vms.iter().filter(|vm| vm.owner == owner && vm.state == VmState::Ready);
    let ready = ready.min_by_key(|vm| vm.image != MICRO);
    let hint = Style::Hint.paint("hint");
    match ready {
        Some(vm) => {
            // Only our own image surely has an agent that gives a terminal.
            let way = match vm.image == MICRO {
                true => format!("`weft exec {}` opens a shell", vm.name),
                false => format!("`weft console {}` is its console", vm.name),
            };
            output::say(format!("{hint}: {way}, `{undo}` removes everything"));
        }
        None => output::say(format!("{hint}: `{undo}` removes everything")),
    }
}
