//! Captures: copies of frames as they pass.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use weft_dataplane_protocol::CaptureRequest;
use weft_model::parse_filter;

use crate::app::App;
use crate::extract::Body;
use crate::message::CaptureBody;
use crate::routes::vms::Upgrade;
use crate::{Problem, tunnel};

/// Captures frames. With `Upgrade: weft-capture` the connection becomes a stream of pcapng.
///
/// Whoever has shut down its writing half gets what is under way, and for each interface how many frames were lost
/// (interface statistics blocks); then the stream ends. Closing the connection ends the capture at once.
#[utoipa::path(post, path = "/v1/capture", tag = "world", request_body = CaptureBody,
    responses((status = 101, description = "the stream begins"), (status = "4XX", body = Problem)))]
pub(crate) async fn capture(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Upgrade,
    Body(body): Body<CaptureBody>,
) -> Result<Response, Problem> {
    tunnel::check(&headers, tunnel::CAPTURE)?;
    let CaptureBody { ports, networks, vlans, direction, filter, snap } = body;
    let filter = filter.map(|text| {
        let bad = |error: weft_model::RuleError| {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-filter", error.message, error.hint)
        };
        parse_filter(&text).map_err(bad)
    });
    let filter = filter.transpose()?;
    let vlans = vlans.iter().collect();
    let request = CaptureRequest { ports, networks, vlans, direction, filter, snap_bytes: snap };
    let stream = app.call(move |controller| controller.capture(&request)).await??;
    tunnel::accept(upgrade.0, tunnel::CAPTURE, stream, ())
}
