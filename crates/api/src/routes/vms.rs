//! Machines: what commands do to one of them, and the ways into it.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use hyper::upgrade::OnUpgrade;
use weft_control::VmAction;
use weft_model::view::{OperationView, VmView};
use weft_types::VmName;

use crate::app::App;
use crate::extract::{Asked, Body, Name};
use crate::message::{ExecBody, LogQuery, StopQuery};
use crate::routes::log;
use crate::routes::operations::Accepted;
use crate::{Problem, tunnel};

/// The machines.
#[utoipa::path(get, path = "/v1/vms", tag = "vms", responses((status = 200, body = Vec<VmView>)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<VmView>>, Problem> {
    app.call(|controller| Json(controller.view().vms)).await
}

/// Lets a machine run again.
#[utoipa::path(post, path = "/v1/vms/{name}/start", tag = "vms", params(("name" = VmName, Path)),
    responses((status = 202, body = OperationView), (status = 404, body = Problem)))]
pub(crate) async fn start(State(app): State<App>, Name(vm): Name<VmName>) -> Result<Accepted, Problem> {
    act(app, vm, VmAction::Start).await
}

/// Ends a machine, and keeps its disk.
#[utoipa::path(post, path = "/v1/vms/{name}/stop", tag = "vms", params(("name" = VmName, Path), StopQuery),
    responses((status = 202, body = OperationView), (status = 404, body = Problem)))]
pub(crate) async fn stop(
    State(app): State<App>,
    Name(vm): Name<VmName>,
    Asked(StopQuery { force }): Asked<StopQuery>,
) -> Result<Accepted, Problem> {
    act(app, vm, VmAction::Stop { force }).await
}

/// Ends a machine and starts it.
#[utoipa::path(post, path = "/v1/vms/{name}/restart", tag = "vms", params(("name" = VmName, Path)),
    responses((status = 202, body = OperationView), (status = 404, body = Problem)))]
pub(crate) async fn restart(State(app): State<App>, Name(vm): Name<VmName>) -> Result<Accepted, Problem> {
    act(app, vm, VmAction::Restart).await
}

/// Ends a machine and forgets its disk. Its owner still declares it: the next `up` makes it anew.
#[utoipa::path(delete, path = "/v1/vms/{name}", tag = "vms", params(("name" = VmName, Path)),
    responses((status = 202, body = OperationView), (status = 404, body = Problem)))]
pub(crate) async fn remove(State(app): State<App>, Name(vm): Name<VmName>) -> Result<Accepted, Problem> {
    act(app, vm, VmAction::Remove).await
}

async fn act(app: App, vm: VmName, action: VmAction) -> Result<Accepted, Problem> {
    let begun = app.call(move |controller| controller.vm_action(&vm, action)).await?;
    Accepted::of(&app, begun).await
}

/// Runs a command in a machine. With `Upgrade: weft-exec` the connection becomes a stream of frames: kind (1 byte),
/// length (4 bytes, big-endian), payload.
///
/// Client: 1 stdin, 2 end of stdin, 3 resize (rows, columns: 2 bytes each), 4 signal (1 byte). Server: 0x81 started,
/// 0x82 stdout, 0x83 stderr, 0x84 exit (0 and the code, or 1 and the signal), 0x85 error (text), 0x86 note (text for
/// people, before anything else). Closing the connection kills the command.
#[utoipa::path(post, path = "/v1/vms/{name}/exec", tag = "vms", request_body = ExecBody, params(("name" = VmName, Path)),
    responses((status = 101, description = "the stream begins"), (status = "4XX", body = Problem),
        (status = 503, body = Problem, description = "the guest's agent does not answer")))]
pub(crate) async fn exec(
    State(app): State<App>,
    Name(vm): Name<VmName>,
    headers: HeaderMap,
    upgrade: Upgrade,
    Body(body): Body<ExecBody>,
) -> Result<Response, Problem> {
    tunnel::check(&headers, tunnel::EXEC)?;
    let session = app.call(move |controller| controller.exec(&vm, body.into())).await??;
    tunnel::accept(upgrade.0, tunnel::EXEC, session, ())
}

/// A machine's serial console: with `Upgrade: weft-console` the connection becomes its line. One at a time.
#[utoipa::path(post, path = "/v1/vms/{name}/console", tag = "vms", params(("name" = VmName, Path)),
    responses((status = 101, description = "the stream begins"), (status = "4XX", body = Problem)))]
pub(crate) async fn console(
    State(app): State<App>,
    Name(vm): Name<VmName>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    tunnel::check(&headers, tunnel::CONSOLE)?;
    let seat = app.seats.take(vm.clone())?;
    let line = app.call(move |controller| controller.console(&vm)).await??;
    tunnel::accept(upgrade.0, tunnel::CONSOLE, line, seat)
}

/// A machine's screen: with `Upgrade: weft-screen` the connection speaks VNC (RFC 6143), the machine first.
#[utoipa::path(post, path = "/v1/vms/{name}/screen", tag = "vms", params(("name" = VmName, Path)),
    responses((status = 101, description = "the stream begins"), (status = "4XX", body = Problem)))]
pub(crate) async fn screen(
    State(app): State<App>,
    Name(vm): Name<VmName>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    tunnel::check(&headers, tunnel::SCREEN)?;
    let screen = app.call(move |controller| controller.screen(&vm)).await??;
    tunnel::accept(upgrade.0, tunnel::SCREEN, screen, ())
}

/// A picture of a machine's screen as it is now.
#[utoipa::path(get, path = "/v1/vms/{name}/screen", tag = "vms", params(("name" = VmName, Path)),
    responses((status = 200, content_type = "image/png"), (status = "4XX", body = Problem)))]
pub(crate) async fn screenshot(State(app): State<App>, Name(vm): Name<VmName>) -> Result<Response, Problem> {
    let picture = app.call(move |controller| controller.screenshot(&vm)).await??;
    Ok(([(header::CONTENT_TYPE, "image/png")], picture).into_response())
}

/// What a machine's serial console has said since its last start.
#[utoipa::path(get, path = "/v1/vms/{name}/log", tag = "vms", params(("name" = VmName, Path), LogQuery),
    responses((status = 200, content_type = "application/octet-stream"), (status = 404, body = Problem)))]
pub(crate) async fn log(
    State(app): State<App>,
    Name(vm): Name<VmName>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, Problem> {
    let path = app.call(move |controller| controller.console_log(&vm)).await??;
    log::stream(path, query).await
}

/// The right to turn the connection into a stream.
pub(crate) struct Upgrade(pub(crate) Option<OnUpgrade>);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Upgrade {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.remove()))
    }
}
