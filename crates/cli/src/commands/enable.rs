//! `weft enable`, `weft disable`, `weft boot` and `weft halt`: machines that come back with the host.

use serde_json::json;

use crate::args::FileArg;
use crate::commands::Context;
use crate::commands::unit::Unit;
use crate::failure::Result;
use crate::file;
use crate::link::Link;
use crate::output;
use crate::progress;

/// `weft enable`
pub(crate) async fn enable(context: &Context, arg: FileArg) -> Result {
    let owner = file::owner(&file::meant(arg.file));
    let mut link = Link::open(&context.paths).await?;
    link.ask(async |client| client.enable(&owner).await).await?;
    // It asks the same daemon, which this connection keeps.
    let unit = Unit::here().map(|unit| unit.install()).transpose()?;
    if context.json {
        return output::json(&json!({ "owner": owner, "enabled": true, "unit": unit }));
    }
    output::say(match unit {
        Some(path) => format!("the machines of {owner} come back when the host does, by {}", path.display()),
        None => format!(
            "the machines of {owner} are enabled; systemd does not run here, so have the host run `weft boot` when it has \
             started and `weft halt` before it goes down"
        ),
    });
    Ok(())
}

/// `weft disable`
pub(crate) async fn disable(context: &Context, arg: FileArg) -> Result {
    let owner = file::owner(&file::meant(arg.file));
    let mut link = Link::open(&context.paths).await?;
    link.ask(async |client| client.disable(&owner).await).await?;
    retire(&mut link).await?;
    if context.json {
        return output::json(&json!({ "owner": owner, "enabled": false }));
    }
    output::say(format!("the machines of {owner} stay down after the host's next start; none is stopped now"));
    Ok(())
}

/// Removes the unit, if nothing is enabled any more.
pub(crate) async fn retire(link: &mut Link) -> Result {
    let world = link.ask(async |client| client.world().await).await?;
    match Unit::here() {
        Some(unit) if world.enabled.is_empty() => unit.remove(),
        _ => Ok(()),
    }
}

/// `weft boot`
pub(crate) async fn boot(context: &Context) -> Result {
    if context.is_dormant() {
        return Ok(());
    }
    let mut link = Link::open(&context.paths).await?;
    let begun = link.ask(async |client| client.boot().await).await?;
    done(context, &mut link, begun, "what is enabled is back").await
}

/// `weft halt`
pub(crate) async fn halt(context: &Context) -> Result {
    if context.is_dormant() {
        return Ok(());
    }
    let mut link = Link::open(&context.paths).await?;
    let begun = link.ask(async |client| client.halt().await).await?;
    done(context, &mut link, begun, "all machines are shut down; `weft boot` starts those that are enabled").await
}

async fn done(context: &Context, link: &mut Link, begun: weft_model::view::OperationView, words: &str) -> Result {
    let course = progress::watch(link, begun, "weft boot").await?.succeeded()?;
    if context.json {
        return output::json(&course.operation);
    }
    output::say(words);
    Ok(())
}
