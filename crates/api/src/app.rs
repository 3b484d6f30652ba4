//! The routes, and how handlers reach the controller.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{delete, get, post, put};
use tokio::sync::Semaphore;
use weft_control::Controller;

use crate::Problem;
use crate::extract::MAX_BODY_BYTES;
use crate::routes::{capture, events, forwards, host, images, operations, shells, vms, world};
use crate::seats::Seats;

/// How many requests wait for something to happen at a time; more wait for their turn. Each holds a thread.
const MAX_WAITERS: usize = 64;
/// How long one request may wait; its client asks again.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    controller: Controller,
    waiters: Arc<Semaphore>,
    pub(crate) seats: Seats,
}

impl App {
    /// Calls the controller on a thread that may block.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Controller) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let controller = self.controller.clone();
        tokio::task::spawn_blocking(move || work(&controller)).await.map_err(Problem::internal)
    }

    /// The same for calls that wait for something to happen, so that they never take the last thread.
    pub(crate) async fn wait<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Controller) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = self.waiters.clone().acquire_owned().await.map_err(Problem::internal)?;
        self.call(move |controller| {
            let _permit = permit;
            work(controller)
        })
        .await
    }
}

/// The whole API over this controller.
pub fn router(controller: Controller) -> Router {
    let app = App { controller, waiters: Arc::new(Semaphore::new(MAX_WAITERS)), seats: Seats::default() };
    Router::new()
        .route("/v1", get(world::about))
        .route("/v1/world", get(world::world).put(world::apply))
        .route("/v1/world/before", get(world::before))
        .route("/v1/world/enabled", put(host::enable).delete(host::disable))
        .route("/v1/host/halt", post(host::halt))
        .route("/v1/host/boot", post(host::boot))
        .route("/v1/plan", post(world::plan))
        .route("/v1/networks", get(world::networks))
        .route("/v1/ports", get(world::ports))
        .route("/v1/leases", get(world::leases))
        .route("/v1/rules", get(world::rules))
        .route("/v1/history", get(world::history))
        .route("/v1/capture", post(capture::capture))
        .route("/v1/forwards", get(forwards::list).post(forwards::add))
        .route("/v1/forwards/{listen}", delete(forwards::remove))
        .route("/v1/shells", get(shells::list).post(shells::add))
        .route("/v1/shells/{name}", delete(shells::remove))
        .route("/metrics", get(world::metrics))
        .route("/v1/explain", post(world::explain))
        .route("/v1/vms", get(vms::list))
        .route("/v1/vms/{name}", delete(vms::remove))
        .route("/v1/vms/{name}/start", post(vms::start))
        .route("/v1/vms/{name}/stop", post(vms::stop))
        .route("/v1/vms/{name}/restart", post(vms::restart))
        .route("/v1/vms/{name}/exec", post(vms::exec))
        .route("/v1/vms/{name}/console", post(vms::console))
        .route("/v1/vms/{name}/screen", get(vms::screenshot).post(vms::screen))
        .route("/v1/vms/{name}/log", get(vms::log))
        .route("/v1/images", get(images::list))
        .route("/v1/images/{name}", delete(images::remove))
        .route("/v1/images/{name}/build", post(images::build))
        .route("/v1/operations", get(operations::list))
        .route("/v1/operations/{id}", get(operations::show))
        .route("/v1/events", get(events::list))
        .route("/v1/events/stream", get(events::stream))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

async fn no_such_route(uri: Uri) -> Problem {
    let title = format!("there is no `{}`", uri.path().escape_debug());
    Problem::new(StatusCode::NOT_FOUND, "no-such-route", title, "docs/openapi.json lists the routes")
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let title = format!("`{}` does not take {method}", uri.path().escape_debug());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no-such-method", title, "docs/openapi.json lists the methods")
}
