//! What was decided last: the frames that were dropped and why, and what rules decided that say so.

use weft_model::view::{DroppedFrameView, HistoryView, LoggedDecisionView, WorldView};
use weft_types::{Permission, PortName};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, Style};
use crate::table::Table;

/// The dropped frames of everybody, or of a machine or port.
pub(crate) async fn run(context: &Context, of: Option<&str>) -> Result {
    let (mut history, ports) = history(context, of).await?;
    history.drops.retain(|frame| ports.as_ref().is_none_or(|ports| ports.contains(&frame.port)));
    show(context, &history.drops)
}

/// What rules decided about everybody, or about what a machine or port sent or was sent.
pub(crate) async fn log(context: &Context, of: Option<&str>) -> Result {
    let (mut history, ports) = history(context, of).await?;
    if let Some(ports) = ports {
        history.log.retain(|decision| ports.contains(&decision.from) || ports.contains(&decision.to));
    }
    show_log(context, &history)
}

/// What happened lately, and the ports of whom is meant.
async fn history(context: &Context, of: Option<&str>) -> Result<(HistoryView, Option<Vec<PortName>>)> {
    let world = context.world().await?;
    let history = match context.is_dormant() {
        true => HistoryView::default(),
        false => Link::open(&context.paths).await?.ask(async |client| client.history().await).await?,
    };
    Ok((history, of.map(|name| ports_of(&world, name)).transpose()?))
}

fn ports_of(world: &WorldView, name: &str) -> Result<Vec<PortName>> {
    if let Some(vm) = world.vms.iter().find(|vm| vm.name.as_str() == name) {
        return Ok(vm.nics.iter().map(|nic| nic.port.clone()).collect());
    }
    match world.ports.iter().find(|port| port.name.as_str() == name) {
        Some(port) => Ok(vec![port.name.clone()]),
        None => {
            let title = format!("there is no machine and no port `{}`", name.escape_debug());
            Err(Failure::new("no-such-port", title, "`weft vm ls` and `weft port ls` list them"))
        }
    }
}

/// A table of dropped frames, the last of all at its end.
pub(crate) fn show(context: &Context, drops: &[DroppedFrameView]) -> Result {
    if context.json {
        return output::json(&drops);
    }
    if drops.is_empty() {
        output::say("no frame was dropped that is still remembered");
        return Ok(());
    }
    let mut drops: Vec<_> = drops.iter().collect();
    drops.sort_by_key(|frame| std::cmp::Reverse(frame.age_ms));
    let mut table = Table::new(&["AGO", "PORT", "REASON", "FRAME"]);
    for frame in drops {
        let rule = frame.rule.as_ref().map(|rule| format!(" {}", Style::Dim.paint(format!("(rule: {rule})"))));
        let reason = Style::Warning.paint(&frame.reason);
        let words = format!("{}{}", output::printable(&frame.summary), rule.unwrap_or_default());
        table.row([ago(frame.age_ms), frame.port.to_string(), reason, words]);
    }
    output::data(&table.render())
}

/// A table of what rules decided, the last of all at its end.
pub(crate) fn show_log(context: &Context, history: &HistoryView) -> Result {
    if context.json {
        return output::json(&history.log);
    }
    if history.log.is_empty() {
        output::say("no rule that says `log` has decided anything that is still remembered");
        return Ok(());
    }
    if history.log_lost > 0 {
        output::say(format!("{} earlier decisions are not remembered", history.log_lost));
    }
    let mut table = Table::new(&["AGO", "RULE", "SAID", "FROM", "TO", "PACKET"]);
    for LoggedDecisionView { rule, permission, from, to, age_ms, summary, .. } in &history.log {
        let style = if *permission == Permission::Allow { Style::Good } else { Style::Warning };
        let said = style.paint(permission.as_str());
        let (rule, packet) = (output::printable(rule), output::printable(summary));
        table.row([ago(*age_ms), rule, said, from.to_string(), to.to_string(), packet]);
    }
    output::data(&table.render())
}

/// How long ago, in a unit that suits.
fn ago(millis: u64) -> String {
    match millis / 1000 {
        0 => format!("{millis} ms"),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let ages =
            [(0, "0 ms"), (999, "999 ms"), (1000, "1 s"), (119_999, "119 s"), (120_000, "2 min"), (7_200_000, "2 h")];
        for (millis, text) in ages.into_iter().chain([(172_800_000, "2 d"), (u64::MAX, "213503982334 d")]) {
            assert_eq!(ago(millis), text);
        }
    }
}
