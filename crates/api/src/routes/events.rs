//! Events: asked for in one piece, or followed.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use weft_model::view::EventView;

use crate::Problem;
use crate::app::{App, MAX_WAIT};
use crate::extract::Asked;
use crate::message::EventsQuery;
use crate::pipe::pipe;

/// How long a stream waits before it looks whether its reader is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The events after a number. Waits up to `wait_ms` until there is one.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventsQuery),
    responses((status = 200, body = Vec<EventView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<EventsQuery>,
) -> Result<Json<Vec<EventView>>, Problem> {
    after(&app, query.after, query.operation, Duration::from_millis(query.wait_ms).min(MAX_WAIT)).await.map(Json)
}

/// The events after a number, and all that follow, one JSON object a line. Ends with the daemon.
#[utoipa::path(get, path = "/v1/events/stream", tag = "events", params(EventsQuery),
    responses((status = 200, body = EventView, content_type = "application/x-ndjson")))]
pub(crate) async fn stream(State(app): State<App>, Asked(query): Asked<EventsQuery>) -> Response {
    let (lines, body) = pipe();
    tokio::spawn(async move {
        let mut last = query.after;
        while !lines.is_closed() {
            let found = tokio::select! {
                found = after(&app, last, query.operation, LOOK_INTERVAL) => found,
                () = lines.closed() => return,
            };
            let Ok(events) = found else { return };
            last = events.last().map_or(last, |event| event.id);
            for event in &events {
                let Ok(mut line) = serde_json::to_vec(event) else { return };
                line.push(b'\n');
                if lines.send(Bytes::from(line)).await.is_err() {
                    return;
                }
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

async fn after(app: &App, after: u64, operation: Option<u64>, wait: Duration) -> Result<Vec<EventView>, Problem> {
    match wait.is_zero() {
        true => app.call(move |controller| controller.events(after, operation, Duration::ZERO)).await,
        false => app.wait(move |controller| controller.events(after, operation, wait)).await,
    }
}
