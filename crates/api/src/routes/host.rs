//! The host that goes down and comes back.

use axum::extract::State;
use axum::http::StatusCode;
use weft_model::view::OperationView;

use crate::Problem;
use crate::app::App;
use crate::extract::Asked;
use crate::message::OwnerQuery;
use crate::routes::operations::Accepted;

/// Has an owner's machines come back when the host does.
#[utoipa::path(put, path = "/v1/world/enabled", tag = "host", params(OwnerQuery),
    responses((status = 204, description = "it is so"), (status = 404, body = Problem)))]
pub(crate) async fn enable(State(app): State<App>, Asked(query): Asked<OwnerQuery>) -> Result<StatusCode, Problem> {
    app.call(move |controller| controller.enable(&query.owner, true)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Has them come back no more.
#[utoipa::path(delete, path = "/v1/world/enabled", tag = "host", params(OwnerQuery),
    responses((status = 204, description = "it is so")))]
pub(crate) async fn disable(State(app): State<App>, Asked(query): Asked<OwnerQuery>) -> Result<StatusCode, Problem> {
    app.call(move |controller| controller.enable(&query.owner, false)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Shuts all machines down, because the host goes down.
#[utoipa::path(post, path = "/v1/host/halt", tag = "host",
    responses((status = 202, body = OperationView), (status = "5XX", body = Problem)))]
pub(crate) async fn halt(State(app): State<App>) -> Result<Accepted, Problem> {
    let begun = app.call(|controller| controller.halt()).await?;
    Accepted::of(&app, begun).await
}

/// Starts those that went down with the host, and whose owner is enabled.
#[utoipa::path(post, path = "/v1/host/boot", tag = "host",
    responses((status = 202, body = OperationView), (status = "4XX", body = Problem)))]
pub(crate) async fn boot(State(app): State<App>) -> Result<Accepted, Problem> {
    let begun = app.call(|controller| controller.boot()).await?;
    Accepted::of(&app, begun).await
}
