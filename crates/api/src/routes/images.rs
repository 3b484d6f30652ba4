//! Images: those in the cache, and those that can be built.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use weft_model::view::{ImageView, OperationView};

use crate::Problem;
use crate::app::App;
use crate::extract::Name;
use crate::routes::operations::Accepted;

/// The images in the cache, those that are built in, and those that files describe.
#[utoipa::path(get, path = "/v1/images", tag = "images", responses((status = 200, body = Vec<ImageView>)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<ImageView>>, Problem> {
    let images = app.call(|controller| controller.images()).await??;
    Ok(Json(images))
}

/// Builds an image if it is not there.
#[utoipa::path(post, path = "/v1/images/{name}/build", tag = "images", params(("name" = String, Path)),
    responses((status = 202, body = OperationView), (status = 404, body = Problem)))]
pub(crate) async fn build(State(app): State<App>, Name(name): Name<String>) -> Result<Accepted, Problem> {
    let begun = app.call(move |controller| controller.build_image(&name)).await?;
    Accepted::of(&app, begun).await
}

/// Removes an image from the cache.
#[utoipa::path(delete, path = "/v1/images/{name}", tag = "images", params(("name" = String, Path)),
    responses((status = 204, description = "it is gone"), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn remove(State(app): State<App>, Name(name): Name<String>) -> Result<StatusCode, Problem> {
    app.call(move |controller| controller.remove_image(&name)).await??;
    Ok(StatusCode::NO_CONTENT)
}
