//! `weft logs`: what a machine's console has said. Its bytes come from a guest: a terminal gets only those that cannot
//! harm it, everybody else gets them all.

use std::io::Write as _;

use serde_json::json;
use weft_api::LogQuery;
use weft_types::VmName;

use crate::commands::Context;
use crate::failure::Result;
use crate::{output, terminal};

pub(crate) async fn run(context: &Context, vm: &VmName, follow: bool, lines: Option<usize>) -> Result {
    let mut link = context.link_to_vm(vm).await?;
    let mut stream = link.ask(async |client| client.log(vm, LogQuery { lines, follow }).await).await?;
    let mut form = match (context.json, terminal::stdout_is_terminal()) {
        (true, _) => Form::Json(Vec::new()),
        (false, true) => Form::Harmless(Filter::default()),
        (false, false) => Form::Raw,
    };
    while let Some(piece) = stream.next().await? {
        write(&form.take(&piece))?;
    }
    write(&form.end())
}

fn write(bytes: &[u8]) -> Result {
    let mut stdout = std::io::stdout().lock();
    output::finish(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// How the log is written.
enum Form {
    /// As it is.
    Raw,
    /// For a terminal.
    Harmless(Filter),
    /// One JSON object a line, with what has come of a line that has not ended.
    Json(Vec<u8>),
}

impl Form {
    fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        match self {
            Self::Raw => piece.to_vec(),
            Self::Harmless(filter) => piece.iter().filter(|byte| filter.passes(**byte)).copied().collect(),
            Self::Json(open) => {
                open.extend_from_slice(piece);
                let ended = open.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                open.drain(..ended)
                    .collect::<Vec<_>>()
                    .split_inclusive(|byte| *byte == b'\n')
                    .flat_map(as_json)
                    .collect()
            }
        }
    }

    fn end(&mut self) -> Vec<u8> {
        match self {
            Self::Json(open) if !open.is_empty() => as_json(open),
            _ => Vec::new(),
        }
    }
}

fn as_json(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    format!("{}\n", json!({ "line": text.trim_end_matches(['\r', '\n']) })).into_bytes()
}

/// Takes control characters and sequences out of a stream (ECMA-48, section 5.4), in pieces of any size.
#[derive(Default)]
struct Filter {
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence, up to its final byte.
    Sequence,
    /// In a control string, up to BEL or ESC.
    String,
}

impl Filter {
    fn passes(&mut self, byte: u8) -> bool {
        let (state, passes) = match (self.state, byte) {
            (_, 0x1b) => (State::Escape, false),
            (State::Escape, b'[') => (State::Sequence, false),
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (State::String, false),
            (State::Escape, 0x20..=0x2f) => (State::Escape, false),
            (State::Escape, _) => (State::Text, false),
            (State::Sequence, 0x40..=0x7e) => (State::Text, false),
            // A sequence has no other bytes: whatever that was, it is over.
            (State::Sequence, 0x20..=0x3f) => (State::Sequence, false),
            (State::String, 0x07) => (State::Text, false),
            (State::String, b'\n') | (State::Sequence, b'\n') => (State::Text, true),
            (State::String, _) => (State::String, false),
            (State::Text | State::Sequence, b'\n' | b'\t') => (State::Text, true),
            (State::Text | State::Sequence, byte) => (State::Text, byte >= 0x20 && byte != 0x7f),
        };
        self.state = state;
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, shown: &str) {
        for pieces in 1..=said.len().max(1) {
            let mut form = Form::Harmless(Filter::default());
            let came: Vec<u8> = said.as_bytes().chunks(pieces).flat_map(|piece| form.take(piece)).collect();
            assert_eq!(String::from_utf8(came).unwrap(), shown, "in pieces of {pieces}");
        }
    }

    #[test]
    fn a_guest_cannot_harm_a_terminal() {
        check("hello\r\nwörld\tx\n", "hello\nwörld\tx\n");
        check("\x1b[2J\x1b[1;31mred\x1b[0m", "red");
        check("\x1b]0;title\x07after", "after");
        check("\x1b]52;c;aGk=\x1b\\after", "after");
        check("\x1bcafter\x1b(B.", "after.");
        check("a\x08\x7f\x00\x0eb", "ab");
        check("\x1b[12\nline", "\nline");
        check("\x1b]no end\nline", "\nline");
        check("\x1b", "");
    }

    #[test]
    fn lines_as_json() {
        let mut form = Form::Json(Vec::new());
        let mut text = String::new();
        for piece in ["a\r\nb", "c\n\"", "d"] {
            text += &String::from_utf8(form.take(piece.as_bytes())).unwrap();
        }
        text += &String::from_utf8(form.end()).unwrap();
        assert_eq!(text, "{\"line\":\"a\"}\n{\"line\":\"bc\"}\n{\"line\":\"\\\"d\"}\n");
    }
}
