//! Operations: work that goes on while others look.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use weft_model::view::{OperationView, ProblemView};

use crate::Problem;
use crate::app::{App, MAX_WAIT};
use crate::extract::{Asked, Name};
use crate::message::WaitQuery;

/// The answer to a request whose work has only begun: the operation, and where to look after it.
pub(crate) struct Accepted(OperationView);

impl Accepted {
    /// What the controller answered: the operation's number, or why there is none.
    pub(crate) async fn of(app: &App, begun: Result<u64, Vec<ProblemView>>) -> Result<Self, Problem> {
        let id = begun?;
        let operation = app.call(move |controller| controller.operation(id)).await?;
        operation.map(Self).ok_or_else(|| no_such_operation(id))
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let location = format!("/v1/operations/{}", self.0.id);
        (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(self.0)).into_response()
    }
}

fn no_such_operation(id: u64) -> Problem {
    let hint = "operations that ended long ago are forgotten; GET /v1/operations lists the others";
    Problem::new(StatusCode::NOT_FOUND, "no-such-operation", format!("there is no operation {id}"), hint)
}

/// The operations that are remembered, oldest first.
#[utoipa::path(get, path = "/v1/operations", tag = "operations", responses((status = 200, body = Vec<OperationView>)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<Vec<OperationView>>, Problem> {
    app.call(|controller| controller.operations()).await.map(Json)
}

/// One operation: when it has ended, or how far it is after `wait_ms`.
#[utoipa::path(get, path = "/v1/operations/{id}", tag = "operations", params(("id" = u64, Path), WaitQuery),
    responses((status = 200, body = OperationView), (status = 404, body = Problem)))]
pub(crate) async fn show(
    State(app): State<App>,
    Name(id): Name<u64>,
    Asked(query): Asked<WaitQuery>,
) -> Result<Json<OperationView>, Problem> {
    let wait = Duration::from_millis(query.wait_ms).min(MAX_WAIT);
    let found = match wait.is_zero() {
        true => app.call(move |controller| controller.operation(id)).await?,
        false => app.wait(move |controller| controller.wait_operation(id, wait)).await?,
    };
    found.map(Json).ok_or_else(|| no_such_operation(id))
}
