//! `weft events`: what happened.

use std::time::Duration;

use weft_model::view::EventView;

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::link::Link;
use crate::output::{self, Style};

/// How long one question waits for events.
const WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(context: &Context, follow: bool) -> Result {
    let mut link = match Link::to_running(&context.paths).await {
        Some(link) => link,
        None if !follow && !context.paths.store().exists() => return show(context, &[]),
        None => Link::open(&context.paths).await?,
    };
    let mut events = link.ask(async |client| client.events(0, None, Duration::ZERO).await).await?;
    if !follow {
        return show(context, &events);
    }
    let mut last = 0;
    loop {
        last = events.last().map_or(last, |event| event.id);
        let line = |event| if context.json { json_line(event) } else { Ok(line(event)) };
        output::data(&events.iter().map(line).collect::<Result<String>>()?)?;
        events = link.ask(async |client| client.events(last, None, WAIT).await).await?;
    }
}

fn show(context: &Context, events: &[EventView]) -> Result {
    match context.json {
        true => output::json(&events),
        false => output::data(&events.iter().map(line).collect::<String>()),
    }
}

fn json_line(event: &EventView) -> Result<String> {
    let text = serde_json::to_string(event).map_err(|error| Failure::of("output", &error, ""))?;
    Ok(text + "\n")
}

fn line(event: &EventView) -> String {
    format!("{}  {}\n", Style::Dim.paint(utc(event.unix_ms)), output::printable(&event.message))
}

/// A point in time as RFC 3339 writes it, in UTC.
fn utc(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400_001, "2100-03-01T00:00:00.001Z"),
        ] {
            assert_eq!(utc(unix_ms), text);
        }
    }
}
