//! Untrusted becomes typed here, once: bodies, names in paths, queries. What does not becomes a problem.

use std::fmt::Display;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::Problem;

/// The longest body, in bytes. A file of a world has at most 4 MiB.
pub(crate) const MAX_BODY_BYTES: usize = 8 << 20;

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => {
                let title = format!("the body is longer than {} MiB", MAX_BODY_BYTES >> 20);
                Problem::new(status, "body-too-large", title, "send less at once")
            }
            status => Problem::new(status, "bad-body", rejection.body_text(), ""),
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let (status, code) = match error.is_data() {
                true => (StatusCode::UNPROCESSABLE_ENTITY, "bad-body"),
                false => (StatusCode::BAD_REQUEST, "bad-json"),
            };
            let title = format!("the body is not what this route takes: {error}");
            Problem::new(status, code, title, "docs/openapi.json describes it")
        })
    }
}

/// The only variable segment of the path: a name or a number.
pub(crate) struct Name<T>(pub(crate) T);

impl<S: Send + Sync, T: FromStr<Err: Display>> FromRequestParts<S> for Name<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let bad = |title: String| Problem::new(StatusCode::BAD_REQUEST, "bad-name", title, "");
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|error| bad(error.body_text()))?;
        text.parse().map(Self).map_err(|error: T::Err| bad(format!("`{}`: {error}", text.escape_debug())))
    }
}

/// The query.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(query) = Query::from_request_parts(parts, state).await.map_err(|error| {
            let hint = "docs/openapi.json describes the parameters";
            Problem::new(StatusCode::BAD_REQUEST, "bad-query", error.body_text(), hint)
        })?;
        Ok(Self(query))
    }
}
