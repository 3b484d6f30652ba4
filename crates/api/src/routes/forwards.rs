//! Port forwards.

use axum::Json;
use axum::extract::State;
use weft_model::view::{ForwardRequest, ForwardView, OperationView};
use weft_types::Listen;

use crate::Problem;
use crate::app::App;
use crate::extract::{Body, Name};
use crate::routes::operations::Accepted;

/// The port forwards, those of files and those that commands have added.
#[utoipa::path(get, path = "/v1/forwards", tag = "forwards", responses((status = 200, body = Vec<ForwardView>)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<ForwardView>>, Problem> {
    app.call(|controller| Json(controller.view().forwards)).await
}

/// Adds a port forward. It goes with the machine or the network that it leads to, or when it is removed.
#[utoipa::path(post, path = "/v1/forwards", tag = "forwards", request_body = ForwardRequest,
    responses((status = 202, body = OperationView), (status = "4XX", body = Problem)))]
pub(crate) async fn add(State(app): State<App>, Body(request): Body<ForwardRequest>) -> Result<Accepted, Problem> {
    let begun = app.call(move |controller| controller.add_forward(&request)).await?;
    Accepted::of(&app, begun).await
}

/// Removes a port forward that a command has added; its connections end, and no others.
#[utoipa::path(delete, path = "/v1/forwards/{listen}", tag = "forwards", params(("listen" = Listen, Path)),
    responses((status = 202, body = OperationView), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(State(app): State<App>, Name(listen): Name<Listen>) -> Result<Accepted, Problem> {
    let begun = app.call(move |controller| controller.remove_forward(&listen)).await?;
    Accepted::of(&app, begun).await
}
