//! Problems of a file: what, where, and the way out, all in one go.

use std::fmt;
use std::ops::Range;

use weft_types::Provenance;

use crate::view::ProblemView;

/// One problem: what is wrong and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable code, like `unknown-key`.
    pub code: &'static str,
    /// What is wrong, naming the value.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with a way out.
    pub fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: Some(hint.into()) }
    }

    /// A problem whose message already says the way out.
    pub fn plain(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }
}

/// Everything that is wrong with a file, in the order of its lines. Its text shows each place with the line's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    file: String,
    source: String,
    places: Vec<(Option<Range<usize>>, Problem)>,
}

impl std::error::Error for Report {}

impl Report {
    /// A report on `file` with this text.
    pub(crate) fn new(
        file: impl Into<String>,
        source: impl Into<String>,
        mut places: Vec<(Option<Range<usize>>, Problem)>,
    ) -> Self {
        places.sort_by_key(|(span, _)| span.as_ref().map_or(0, |span| span.start));
        Self { file: file.into(), source: source.into(), places }
    }

    /// A report on a file that could not be read at all.
    pub(crate) fn of_file(file: impl Into<String>, problem: Problem) -> Self {
        Self::new(file, "", vec![(None, problem)])
    }

    /// The problems as the API shows them, each with its line.
    pub fn problems(&self) -> Vec<ProblemView> {
        let view = |(span, problem): &(Option<Range<usize>>, Problem)| {
            let place = span.as_ref().map(|span| Place::find(&self.source, span));
            ProblemView {
                code: problem.code.to_owned(),
                title: problem.message.clone(),
                detail: place.as_ref().map(|p| format!("line {}, column {}", p.line, p.column)),
                hint: problem.hint.clone(),
                provenance: place.map(|p| Provenance::file(&self.file, p.line as u32)),
            }
        };
        self.places.iter().map(view).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (span, problem)) in self.places.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "error: {}", problem.message)?;
            match span {
                Some(span) => Place::find(&self.source, span).render(f, &self.file)?,
                None => writeln!(f, " --> {}", self.file)?,
            }
            if let Some(hint) = &problem.hint {
                writeln!(f, "hint: {hint}")?;
            }
        }
        if let [_, _, ..] = self.places[..] {
            writeln!(f, "\n{} problems in {}; nothing was changed", self.places.len(), self.file)?;
        }
        Ok(())
    }
}

/// A span's place for people: line and column from 1, columns in characters.
struct Place<'a> {
    line: usize,
    column: usize,
    text: &'a str,
    width: usize,
}

impl<'a> Place<'a> {
    fn find(source: &'a str, span: &Range<usize>) -> Self {
        let floor = |at: usize| (0..=at.min(source.len())).rev().find(|&at| source.is_char_boundary(at)).unwrap_or(0);
        let (start, end) = (floor(span.start), floor(span.end).max(floor(span.start)));
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let marked = &source[start..end.min(line_end).max(start)];
        Self {
            line: source[..line_start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            text: source[line_start..line_end].trim_end_matches('\r'),
            width: marked.trim_end().chars().count().max(1),
        }
    }

    fn render(&self, f: &mut fmt::Formatter<'_>, file: &str) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the marks stand under what they mark in every terminal.
        let lead: String =
            self.text.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let text: String = self.text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
        writeln!(f, "{margin}--> {file}:{}:{}", self.line, self.column)?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {text}")?;
        writeln!(f, "{margin} | {lead}{}", "^".repeat(self.width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_any_span() {
        let source = "a = 1\nä = \"ö\"\n";
        for start in 0..=source.len() + 2 {
            for end in 0..=source.len() + 2 {
                let report = Report::new("f", source, vec![(Some(start..end), Problem::plain("x", "y"))]);
                assert!(report.to_string().contains("--> f:"));
            }
        }
    }
}
