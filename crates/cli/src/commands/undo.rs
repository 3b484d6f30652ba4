//! `weft undo`: what a file made becomes what it was before.

use weft_model::World;
use weft_model::view::ApplyRequest;

use crate::args::FileArg;
use crate::commands::{Context, down, up};
use crate::failure::Result;
use crate::file;
use crate::link::Link;
use crate::output;

pub(crate) async fn run(context: &Context, arg: FileArg) -> Result {
    let path = file::meant(arg.file.clone());
    let owner = file::owner(&path);
    let mut link = Link::open(&context.paths).await?;
    let world = link.ask(async |client| client.world_before(&owner).await).await?;
    if world == World::default() {
        drop(link);
        return down::run(context, arg, false).await;
    }
    up::become_world(context, link, ApplyRequest { owner, world, if_revision: None }, &path).await?;
    if !context.json {
        output::say(format!("{} itself is as it was: `weft undo {0}` once more follows it again", path.display()));
    }
    Ok(())
}
