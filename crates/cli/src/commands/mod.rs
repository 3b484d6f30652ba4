//! What each command does, a file for each group.

mod capture;
mod console;
mod doctor;
mod down;
mod drops;
mod enable;
mod events;
mod exec;
mod forward;
mod frames;
mod generate;
mod image;
mod logs;
mod ls;
mod mirrors;
mod names;
mod network;
mod own_addresses;
mod packet;
mod plan;
mod port;
mod roles;
mod router;
mod scratch;
mod screen;
mod shell;
mod switch;
mod switch_talk;
mod top;
mod undo;
mod unit;
mod up;
mod vm;
mod why;

use std::process::ExitCode;

use weft_control::Paths;
use weft_model::view::{AclView, WorldView};
use weft_types::VmName;

use crate::args::{Cli, Command, SwitchCommand};
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output;

/// What every command knows.
pub(crate) struct Context {
    /// Where things are.
    pub(crate) paths: Paths,
    /// Whether data is written as JSON.
    pub(crate) json: bool,
}

impl Context {
    /// Whether there is nothing that a daemon would have to be asked about, or started for.
    fn is_dormant(&self) -> bool {
        weft_control::is_dormant(&self.paths)
    }

    /// The daemon, to ask it about a machine: where nothing is declared there is none.
    async fn link_to_vm(&self, vm: &VmName) -> Result<Link> {
        match Link::to_running(&self.paths).await {
            Some(link) => Ok(link),
            None if self.is_dormant() => {
                let title = format!("there is no VM `{vm}`");
                Err(Failure::new("no-such-vm", title, "`weft up FILE` makes those that a file declares"))
            }
            None => Link::open(&self.paths).await,
        }
    }

    /// The access lists in force; of a world without objects, without starting a daemon.
    async fn rules(&self) -> Result<Vec<AclView>> {
        if Link::to_running(&self.paths).await.is_none() && self.is_dormant() {
            return Ok(Vec::new());
        }
        let mut link = Link::open(&self.paths).await?;
        link.ask(async |client| client.rules().await).await
    }

    /// Everything at once; of a world without objects, without starting a daemon.
    async fn world(&self) -> Result<WorldView> {
        let mut link = match Link::to_running(&self.paths).await {
            Some(link) => link,
            None if self.is_dormant() => return Ok(WorldView::default()),
            None => Link::open(&self.paths).await?,
        };
        link.ask(async |client| client.world().await).await
    }
}

/// Does what the command line asks for.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Completions { shell } => return done(generate::completions(shell)),
        Command::Man { dir } => return done(generate::man(dir.as_deref())),
        Command::Switch(SwitchCommand::Serve { control, state }) => return done(roles::switch(control, state)),
        Command::Keeper { description } => return roles::keeper(&description),
        Command::ShellInside(args) => return done(shell::inside::run(&args)),
        Command::Vmm { description } => return roles::vmm(&description),
        _ => {}
    }
    let context = Context { paths: Paths::discover()?, json: cli.json };
    match cli.command {
        Command::Daemon => done(roles::daemon(&context.paths)),
        Command::Switch(command) => done(switch::run(&context, command)),
        Command::Doctor => doctor::run(&context),
        Command::Shell(args) => shell::run(&context, &args),
        Command::Exec(args) => exec::run(&context, args),
        Command::Console { vm } => done(console::run(&context, &vm)),
        Command::Capture { names, options } => done(capture::run(&context, &names, &options)),
        command => done(block_on(talk(&context, command))?),
    }
}

/// The commands that talk to the daemon and are done.
async fn talk(context: &Context, command: Command) -> Result {
    match command {
        Command::Up(file) => up::run(context, file).await,
        Command::Undo(file) => undo::run(context, file).await,
        Command::Enable(file) => enable::enable(context, file).await,
        Command::Disable(file) => enable::disable(context, file).await,
        Command::Boot => enable::boot(context).await,
        Command::Halt => enable::halt(context).await,
        Command::Plan(file) => plan::run(context, file).await,
        Command::Down { file, all } => down::run(context, file, all).await,
        Command::Ls => ls::everything(context).await,
        Command::Top(args) => top::run(context, args).await,
        Command::Vm(command) => vm::run(context, command).await,
        Command::Network(command) => network::run(context, command).await,
        Command::Port(command) => port::run(context, command).await,
        Command::Forward(command) => forward::run(context, command).await,
        Command::Router(command) => router::run(context, command).await,
        Command::Names => names::run(context).await,
        Command::Lease(_) => ls::leases(context).await,
        Command::Image(command) => image::run(context, command).await,
        Command::Screen { vm, picture: Some(picture), .. } => screen::take_picture(context, &vm, &picture).await,
        Command::Screen { vm, listen, .. } => screen::show(context, &vm, listen.as_deref()).await,
        Command::Logs { vm, follow, lines } => logs::run(context, &vm, follow, lines).await,
        Command::Events { follow } => events::run(context, follow).await,
        Command::Why { from, drops: true, .. } => drops::run(context, from.as_deref()).await,
        Command::Why { from, log: true, .. } => drops::log(context, from.as_deref()).await,
        Command::Why { from, to, packet, .. } => {
            why::run(context, &from.unwrap_or_default(), to.as_deref().unwrap_or_default(), packet).await
        }
        Command::Metrics => output::data(&weft_api::metrics(&context.world().await?, &context.rules().await?)),
        Command::Completions { .. }
        | Command::Man { .. }
        | Command::Switch(_)
        | Command::Daemon
        | Command::Keeper { .. }
        | Command::Shell(_)
        | Command::ShellInside(_)
        | Command::Vmm { .. }
        | Command::Doctor
        | Command::Exec(_)
        | Command::Console { .. }
        | Command::Capture { .. } => unreachable!("these need no conversation"),
    }
}

fn done(result: Result) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

/// Runs a conversation on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::of("runtime", &error, ""))?;
    Ok(runtime.block_on(future))
}
