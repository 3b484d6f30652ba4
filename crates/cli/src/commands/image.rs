//! `weft image …`: what machines are made from.

use crate::args::ImageCommand;
use crate::commands::Context;
use crate::commands::scratch::Scratch;
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, human_bytes};
use crate::progress;
use crate::table::Table;

pub(crate) async fn run(context: &Context, command: ImageCommand) -> Result {
    match command {
        ImageCommand::Ls => list(context).await,
        ImageCommand::Build { name } => build(context, &name).await,
        ImageCommand::Rm { name } => {
            let mut link = Link::open(&context.paths).await?;
            link.ask(async |client| client.remove_image(&name).await).await?;
            output::say(format!("the image `{name}` is removed from the cache"));
            Ok(())
        }
    }
}

async fn list(context: &Context) -> Result {
    let images = match Link::to_running(&context.paths).await {
        None if context.is_dormant() => {
            let scratch = Scratch::open(&context.paths)?;
            scratch.controller.images().map_err(|problem| Failure::Problems(vec![problem]))?
        }
        link => {
            let mut link = match link {
                Some(link) => link,
                None => Link::open(&context.paths).await?,
            };
            link.ask(async |client| client.images().await).await?
        }
    };
    if context.json {
        return output::json(&images);
    }
    let mut table = Table::new(&["IMAGE", "BUILT", "SIZE", "USED BY", "WHAT"]);
    for image in &images {
        table.row([
            image.name.clone(),
            if image.built { "yes" } else { "no" }.to_owned(),
            image.size.map(|size| human_bytes(size.bytes())).unwrap_or_default(),
            output::list(&image.used_by),
            output::printable(&image.description),
        ]);
    }
    output::data(&table.render())
}

async fn build(context: &Context, name: &str) -> Result {
    let mut link = Link::open(&context.paths).await?;
    let operation = link.ask(async |client| client.build_image(name).await).await?;
    let course = progress::watch(&mut link, operation, &format!("weft image rm {name}")).await?.succeeded()?;
    match context.json {
        true => output::json(&course.operation),
        false => {
            output::say(format!("the image `{name}` is built"));
            Ok(())
        }
    }
}
