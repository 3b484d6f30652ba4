//! The world as a whole: look at it, plan a change, make it.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use weft_dataplane_protocol::ExplainRequest;
use weft_model::World;
use weft_model::view::{
    AclView, ApplyRequest, HistoryView, LeaseView, NetworkView, OperationView, PlanView, PortView, WorldView,
};

use crate::Problem;
use crate::app::App;
use crate::extract::{Asked, Body};
use crate::message::{About, ExplainBody, ExplanationView, OwnerQuery};
use crate::routes::operations::Accepted;

/// Who answers.
#[utoipa::path(get, path = "/v1", tag = "world", responses((status = 200, body = About)))]
pub(crate) async fn about() -> Json<About> {
    Json(About { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() })
}

/// Everything at once. The `ETag` is the revision of desired state.
#[utoipa::path(get, path = "/v1/world", tag = "world",
    responses((status = 200, body = WorldView, headers(("ETag" = String, description = "the revision")))))]
pub(crate) async fn world(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let world = app.call(|controller| controller.view()).await?;
    Ok(([(header::ETAG, etag(world.revision))], Json(world)))
}

/// What applying this world would do; changes nothing. The `ETag` guards the application of the same world.
#[utoipa::path(post, path = "/v1/plan", tag = "world", request_body = ApplyRequest,
    responses((status = 200, body = PlanView), (status = "4XX", body = Problem)))]
pub(crate) async fn plan(
    State(app): State<App>,
    Body(request): Body<ApplyRequest>,
) -> Result<impl IntoResponse, Problem> {
    let plan = app.call(move |controller| controller.plan(&request)).await??;
    Ok(([(header::ETAG, etag(plan.revision))], Json(plan)))
}

/// Makes the owner's objects become this world; an empty world removes everything that the owner made.
///
/// `If-Match` (or `if_revision` in the body) refuses if the owner's objects have changed since that revision.
#[utoipa::path(put, path = "/v1/world", tag = "world", request_body = ApplyRequest,
    params(("If-Match" = Option<String>, Header, description = "the revision that was planned with")),
    responses((status = 202, body = OperationView), (status = 409, body = Problem), (status = 412, body = Problem),
        (status = 422, body = Problem)))]
pub(crate) async fn apply(
    State(app): State<App>,
    headers: HeaderMap,
    Body(mut request): Body<ApplyRequest>,
) -> Result<Accepted, Problem> {
    request.if_revision = if_match(&headers)?.or(request.if_revision);
    let begun = app.call(move |controller| controller.apply(request)).await?;
    Accepted::of(&app, begun).await
}

/// What an owner's world was before it was changed last; an empty one where there was none. Applied again, it undoes that.
#[utoipa::path(get, path = "/v1/world/before", tag = "world", params(OwnerQuery),
    responses((status = 200, body = World), (status = 404, body = Problem)))]
pub(crate) async fn before(State(app): State<App>, Asked(query): Asked<OwnerQuery>) -> Result<Json<World>, Problem> {
    Ok(Json(app.call(move |controller| controller.world_before(&query.owner)).await??))
}

/// The networks.
#[utoipa::path(get, path = "/v1/networks", tag = "world", responses((status = 200, body = Vec<NetworkView>)))]
pub(crate) async fn networks(State(app): State<App>) -> Result<Json<Vec<NetworkView>>, Problem> {
    app.call(|controller| Json(controller.view().networks)).await
}

/// The ports of all networks, with their counters.
#[utoipa::path(get, path = "/v1/ports", tag = "world", responses((status = 200, body = Vec<PortView>)))]
pub(crate) async fn ports(State(app): State<App>) -> Result<Json<Vec<PortView>>, Problem> {
    app.call(|controller| Json(controller.view().ports)).await
}

/// The DHCP leases that are held.
#[utoipa::path(get, path = "/v1/leases", tag = "world", responses((status = 200, body = Vec<LeaseView>)))]
pub(crate) async fn leases(State(app): State<App>) -> Result<Json<Vec<LeaseView>>, Problem> {
    app.call(|controller| Json(controller.view().leases)).await
}

/// The access lists of the networks that have one, with how often each rule has decided.
#[utoipa::path(get, path = "/v1/rules", tag = "world",
    responses((status = 200, body = Vec<AclView>), (status = "5XX", body = Problem)))]
pub(crate) async fn rules(State(app): State<App>) -> Result<Json<Vec<AclView>>, Problem> {
    Ok(Json(app.call(|controller| controller.rules()).await??))
}

/// What the switch decided lately: for every reason the last frames that were dropped, and what logged rules decided.
#[utoipa::path(get, path = "/v1/history", tag = "world",
    responses((status = 200, body = HistoryView), (status = "5XX", body = Problem)))]
pub(crate) async fn history(State(app): State<App>) -> Result<Json<HistoryView>, Problem> {
    Ok(Json(app.call(|controller| controller.history()).await??))
}

/// Every counter, in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "world",
    responses((status = 200, body = String, content_type = "text/plain; version=0.0.4")))]
pub(crate) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    // A switch that does not answer has no rules to count; the rest is still worth showing.
    let (world, rules) = app.call(|controller| (controller.view(), controller.rules().unwrap_or_default())).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], crate::metrics(&world, &rules)))
}

/// What the switch would do with a frame, and which declarations make it so. No frame is sent.
#[utoipa::path(post, path = "/v1/explain", tag = "world", request_body = ExplainBody,
    responses((status = 200, body = ExplanationView), (status = "4XX", body = Problem)))]
pub(crate) async fn explain(
    State(app): State<App>,
    Body(body): Body<ExplainBody>,
) -> Result<Json<ExplanationView>, Problem> {
    let frame = from_hex(&body.frame).ok_or_else(|| {
        let title = "`frame` is not hexadecimal";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-frame", title, "write two digits for each byte")
    })?;
    let request = ExplainRequest { port: body.port, frame };
    let explanation = app.call(move |controller| controller.explain(request)).await??;
    Ok(Json(explanation.into()))
}

fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The revision that `If-Match` names.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let revision = value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    revision.map(Some).ok_or_else(|| {
        let hint = "send the ETag of the plan or of the world, like \"17\"";
        Problem::new(StatusCode::BAD_REQUEST, "bad-if-match", "`If-Match` is not a revision", hint)
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal() {
        assert_eq!(from_hex("00ffA5"), Some(vec![0, 255, 0xa5]));
        assert_eq!(from_hex(""), Some(vec![]));
        for bad in ["0", "0g", "+1", "é", "00 0"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn revisions() {
        let check = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, text.parse().unwrap());
            if_match(&headers).ok().flatten()
        };
        assert_eq!(check("\"17\""), Some(17));
        for bad in ["17", "\"\"", "\"", "*", "W/\"17\"", "\"-1\""] {
            assert_eq!(check(bad), None, "{bad}");
        }
    }
}
