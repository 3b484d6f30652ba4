//! `weft vm …`: what is done to single machines.

use weft_api::ClientError;
use weft_model::view::OperationView;
use weft_types::VmName;

use crate::args::{VmCommand, VmNames};
use crate::commands::{Context, ls};
use crate::failure::{Failure, Result};
use crate::output;
use crate::progress;

pub(crate) async fn run(context: &Context, command: VmCommand) -> Result {
    match command {
        VmCommand::Ls => ls::vms(context).await,
        VmCommand::Start(vms) => act(context, &vms, Action::Start).await,
        VmCommand::Stop { vms, force } => act(context, &vms, Action::Stop { force }).await,
        VmCommand::Restart(vms) => act(context, &vms, Action::Restart).await,
        VmCommand::Rm(vms) => act(context, &vms, Action::Remove).await,
    }
}

#[derive(Clone, Copy)]
enum Action {
    Start,
    Stop { force: bool },
    Restart,
    Remove,
}

impl Action {
    async fn begin(self, client: &weft_api::Client, vm: &VmName) -> Result<OperationView, ClientError> {
        match self {
            Self::Start => client.start(vm).await,
            Self::Stop { force } => client.stop(vm, force).await,
            Self::Restart => client.restart(vm).await,
            Self::Remove => client.remove(vm).await,
        }
    }

    /// What it has made of a machine.
    fn outcome(self) -> &'static str {
        match self {
            Self::Start | Self::Restart => "is ready",
            Self::Stop { .. } => "is stopped",
            Self::Remove => "is removed; the next `weft up` of its file makes it anew",
        }
    }

    /// The command that takes it back.
    fn undo(self, vm: &VmName) -> String {
        match self {
            Self::Start | Self::Restart => format!("weft vm stop {vm}"),
            Self::Stop { .. } => format!("weft vm start {vm}"),
            Self::Remove => "weft up".to_owned(),
        }
    }
}

/// Begins with all machines at once, then waits for each; all that failed is told at the end.
async fn act(context: &Context, vms: &VmNames, action: Action) -> Result {
    let Some(first) = vms.names.first() else { return Ok(()) };
    let mut link = context.link_to_vm(first).await?;
    let (mut begun, mut problems) = (Vec::new(), Vec::new());
    for vm in &vms.names {
        match link.ask(async |client| action.begin(client, vm).await).await {
            Err(Failure::Problems(found)) => problems.extend(found),
            operation => begun.push((vm, operation?)),
        }
    }
    let mut operations = Vec::new();
    for (vm, operation) in begun {
        let course = progress::watch(&mut link, operation, &action.undo(vm)).await?;
        operations.push(course.operation.clone());
        match course.succeeded() {
            Err(Failure::Problems(found)) => problems.extend(found),
            course => {
                course?;
                output::say(format!("{vm} {}", action.outcome()));
            }
        }
    }
    if context.json {
        output::json(&operations)?;
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::Problems(problems)) }
}
