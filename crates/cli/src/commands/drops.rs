//! The frames that were dropped last, and why.

use weft_model::view::{DroppedFrameView, HistoryView};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, Style};
use crate::table::Table;

/// Those of everybody, or of a machine or port.
pub(crate) async fn run(context: &Context, of: Option<&str>) -> Result {
    let world = context.world().await?;
    let mut history = match context.is_dormant() {
        true => HistoryView::default(),
        false => Link::open(&context.paths).await?.ask(async |client| client.history().await).await?,
    };
    if let Some(name) = of {
        let vm = world.vms.iter().find(|vm| vm.name.as_str() == name);
        let ports: Vec<_> = match vm {
            Some(vm) => vm.nics.iter().map(|nic| &nic.port).collect(),
            None => world.ports.iter().map(|port| &port.name).filter(|port| port.as_str() == name).collect(),
        };
        if ports.is_empty() && vm.is_none() {
            let title = format!("there is no machine and no port `{}`", name.escape_debug());
            return Err(Failure::new("no-such-port", title, "`weft vm ls` and `weft port ls` list them"));
        }
        history.drops.retain(|frame| ports.contains(&&frame.port));
    }
    show(context, &history.drops)
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
