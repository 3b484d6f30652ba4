//! Shells that stand on networks.

use axum::Json;
use axum::extract::State;
use weft_model::view::{OperationView, ShellRequest, ShellView};
use weft_types::VmName;

use crate::Problem;
use crate::app::App;
use crate::extract::{Body, Name};
use crate::routes::operations::Accepted;

/// The shells that stand on networks.
#[utoipa::path(get, path = "/v1/shells", tag = "shells", responses((status = 200, body = Vec<ShellView>)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<ShellView>>, Problem> {
    app.call(|controller| Json(controller.view().shells)).await
}

/// Gives a process a place on a network: a port with the policy of any machine's, and a name. It goes when the process
/// does, or the network.
#[utoipa::path(post, path = "/v1/shells", tag = "shells", request_body = ShellRequest,
    responses((status = 202, body = OperationView), (status = "4XX", body = Problem)))]
pub(crate) async fn add(State(app): State<App>, Body(request): Body<ShellRequest>) -> Result<Accepted, Problem> {
    let begun = app.call(move |controller| controller.add_shell(&request)).await?;
    Accepted::of(&app, begun).await
}

/// Takes a shell's port, name and lease away. Its process goes on, without the network.
#[utoipa::path(delete, path = "/v1/shells/{name}", tag = "shells", params(("name" = VmName, Path)),
    responses((status = 202, body = OperationView), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(State(app): State<App>, Name(name): Name<VmName>) -> Result<Accepted, Problem> {
    let begun = app.call(move |controller| controller.remove_shell(&name)).await?;
    Accepted::of(&app, begun).await
}
