//! Errors on the wire: problems in the sense of RFC 9457.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_model::view::ProblemView;

/// The media type of a problem (RFC 9457, section 6.1).
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a request was not done: one problem, or several at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable code of the first problem.
    pub code: String,
    /// What is wrong, in a sentence.
    pub title: String,
    /// Every problem, the first among them.
    pub problems: Vec<ProblemView>,
}

impl Problem {
    /// A problem of the request itself.
    pub(crate) fn new(status: StatusCode, code: &str, title: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        let problem = ProblemView { code: code.to_owned(), title: title.into(), detail: None, hint, provenance: None };
        Self { status: status.as_u16(), ..Self::from(problem) }
    }

    /// A defect of ours.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        let title = format!("the daemon failed: {what}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title, "see daemon.log in the state folder")
    }
}

impl From<ProblemView> for Problem {
    fn from(problem: ProblemView) -> Self {
        Self::from(vec![problem])
    }
}

impl From<Vec<ProblemView>> for Problem {
    fn from(problems: Vec<ProblemView>) -> Self {
        let (code, title) = match &problems[..] {
            [] => ("unknown".to_owned(), "the request was refused".to_owned()),
            [one] => (one.code.clone(), one.title.clone()),
            [first, rest @ ..] => (first.code.clone(), format!("{}, and {} more problems", first.title, rest.len())),
        };
        Self { status: status_of(&code).as_u16(), code, title, problems }
    }
}

/// The HTTP status that fits a problem's code.
fn status_of(code: &str) -> StatusCode {
    match code {
        "no-such-vm" | "nothing-to-undo" | "no-such-image" | "no-such-forward" | "no-such-network"
        | "no-such-shell" | "no-console-log" => StatusCode::NOT_FOUND,
        "changed-meanwhile" => StatusCode::PRECONDITION_FAILED,
        "name-taken" | "taken" | "forward-failed" | "declared-by-file" | "vm-not-running" | "vm-died"
        | "superseded" | "image-in-use" | "runs-already" => StatusCode::CONFLICT,
        "disk-full" | "store-full" | "no-memory" => StatusCode::INSUFFICIENT_STORAGE,
        "guest-agent" | "console" | "not-ready" | "switch-absent" | "switch-silent" => StatusCode::SERVICE_UNAVAILABLE,
        "io" | "internal" => StatusCode::INTERNAL_SERVER_ERROR,
        store if store.starts_with("store-") => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response()
    }
}
