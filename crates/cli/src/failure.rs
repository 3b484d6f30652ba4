//! Why a command did not do what it was asked, and how that is told.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;
use weft_api::ClientError;
use weft_control::{ControlError, PathsError};
use weft_machine::MachineError;
use weft_model::Report;
use weft_model::view::ProblemView;

use crate::output::{self, Style};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It failed, for these reasons.
    Problems(Vec<ProblemView>),
    /// The command line asks for what cannot be.
    Usage(ProblemView),
    /// The file is no good.
    File(Report),
    /// It was told already; only the exit code is left.
    Told(u8),
}

/// What went well, or the failure.
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure for one reason; without a hint if that is empty.
    pub(crate) fn new(code: &str, title: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Problems(vec![problem(code, title, hint)])
    }

    /// A mistake on the command line.
    pub(crate) fn usage(code: &str, title: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage(problem(code, title, hint))
    }

    /// Something that could not be done, with the chain of causes.
    pub(crate) fn of(code: &str, error: &(dyn std::error::Error + 'static), hint: impl Into<String>) -> Self {
        let causes: Vec<_> =
            std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string).collect();
        let detail = Some(causes.join("\n")).filter(|text| !text.is_empty());
        Self::Problems(vec![ProblemView { detail, ..problem(code, error.to_string(), hint) }])
    }

    /// An exit code with this, and nobody to tell any more.
    fn code(&self) -> u8 {
        match self {
            Self::Problems(_) => 1,
            Self::Usage(_) | Self::File(_) => 2,
            Self::Told(code) => *code,
        }
    }

    /// Tells it on stderr.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let text = match self {
            Self::Told(_) => String::new(),
            _ if json => self.json(),
            Self::File(report) => output::paint_report(&report.to_string()),
            Self::Problems(problems) => problems.iter().map(render).collect::<Vec<_>>().join("\n"),
            Self::Usage(problem) => render(problem),
        };
        output::talk(&text);
        ExitCode::from(self.code())
    }

    fn json(&self) -> String {
        let problems = match self {
            Self::Problems(problems) => problems.clone(),
            Self::Usage(problem) => vec![problem.clone()],
            Self::File(report) => report.problems(),
            Self::Told(_) => Vec::new(),
        };
        let first = problems.first();
        let document = json!({
            "code": first.map(|problem| &problem.code),
            "title": first.map(|problem| &problem.title),
            "problems": problems,
        });
        format!("{document:#}\n")
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Problems(error.problems())
    }
}

impl From<PathsError> for Failure {
    fn from(error: PathsError) -> Self {
        Self::of("bad-folder", &error, error.hint())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::of(error.code(), &error, error.hint())
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        Self::of(error.code(), &error, error.hint())
    }
}

/// A problem without deeper causes.
fn problem(code: &str, title: impl Into<String>, hint: impl Into<String>) -> ProblemView {
    let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
    ProblemView { code: code.to_owned(), title: title.into(), detail: None, hint, provenance: None }
}

/// A problem for people.
pub(crate) fn render(problem: &ProblemView) -> String {
    let mut text = format!("{}: {}\n", Style::Error.paint("error"), output::printable(&problem.title));
    for line in problem.detail.iter().flat_map(|detail| detail.lines()) {
        let _ = writeln!(text, "  {}", output::printable(line));
    }
    if let Some(provenance) = &problem.provenance {
        let _ = writeln!(text, " {} {}", Style::Dim.paint("-->"), provenance);
    }
    if let Some(hint) = &problem.hint {
        let _ = writeln!(text, "{}: {}", Style::Hint.paint("hint"), output::printable(hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_with_their_place_and_their_way_out() {
        let told = render(&ProblemView {
            detail: Some("no such file\nor folder\x1b[2J".to_owned()),
            provenance: Some(weft_types::Provenance::file("/lab.toml", 3)),
            ..problem("missing-image", "the kernel cannot be read", "check the path")
        });
        let plain = anstream::adapter::strip_str(&told).to_string();
        expect_test::expect![[r#"
            error: the kernel cannot be read
              no such file
              or folder?[2J
             --> /lab.toml:3
            hint: check the path
        "#]]
        .assert_eq(&plain);
    }
}
