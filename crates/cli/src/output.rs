//! Data on stdout, talk on stderr. Colours only for terminals; a reader that has left is no error.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// How a word looks on a terminal. Elsewhere `anstream` takes the colour off again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    Bold,
    Dim,
    Good,
    Warning,
    Error,
    Hint,
}

impl Style {
    /// The text in this style (ECMA-48, section 8.3.117).
    pub(crate) fn paint(self, text: impl std::fmt::Display) -> String {
        let code = match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Error => "1;31",
            Self::Hint => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Writes data.
pub(crate) fn data(text: &str) -> Result {
    let mut stdout = anstream::stdout().lock();
    finish(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Writes data as JSON, one document.
pub(crate) fn json(value: &impl Serialize) -> Result {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Failure::of("output", &error, ""))?;
    text.push('\n');
    data(&text)
}

/// What the end of writing data means for the command.
pub(crate) fn finish(written: io::Result<()>) -> Result {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Told(0)),
        Err(error) => {
            let title = format!("cannot write the output: {error}");
            Err(Failure::new("output", title, "is the disk full on which it goes?"))
        }
        Ok(()) => Ok(()),
    }
}

/// Talks. Whoever does not listen misses nothing that a program needs.
pub(crate) fn talk(text: &str) {
    let mut stderr = anstream::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// A line of talk.
pub(crate) fn say(line: impl std::fmt::Display) {
    talk(&format!("{line}\n"));
}

/// A text that cannot harm a terminal: control characters become question marks.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
}

/// A report on a file, with its marks in colour.
pub(crate) fn paint_report(text: &str) -> String {
    let paint = |line: &str| match line.split_once(':') {
        Some(("error", rest)) => format!("{}:{rest}\n", Style::Error.paint("error")),
        Some(("hint", rest)) => format!("{}:{rest}\n", Style::Hint.paint("hint")),
        _ => format!("{line}\n"),
    };
    text.lines().map(paint).collect()
}

/// An amount of bytes for people: three digits and a unit.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 || unit == "TiB" {
            let decimals = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    unreachable!("the last unit takes everything")
}

/// Names after each other.
pub(crate) fn list(names: &[impl ToString]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (123_456, "121 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
