//! The REST API: server and typed client.
//!
//! Ask for what should be (`PUT /v1/world`), get an operation, watch its events. Handlers never touch the host or the
//! data plane: they validate, call the [`weft_control::Controller`] on a thread that may block, and translate what it
//! says. Errors are problems in the sense of RFC 9457, each with a stable code and a way out.
//!
//! ```text
//! Client --HTTP/1.1 over a Unix socket--> serve --> routes --> Controller
//!        --Upgrade: weft-exec, weft-console, weft-screen …--> tunnel --> the guest's agent, its console, the switch
//! ```
//!
//! The document in `docs/openapi.json` is generated from the handlers.

#![allow(clippy::result_large_err, reason = "a problem is told to a person, and costs a move once")]

mod app;
mod attendance;
mod client;
mod daemon;
mod extract;
mod message;
mod metrics;
mod openapi;
mod pipe;
mod problem;
mod routes;
mod seats;
mod tunnel;

pub use app::router;
pub use client::{Client, ClientError, LogStream, Refused};
pub use daemon::{DaemonError, run, serve};
pub use message::{About, CaptureBody, ExecBody, ExplainBody, ExplainStepView, ExplanationView, LogQuery, TtyBody};
pub use metrics::metrics;
pub use openapi::openapi_json;
pub use problem::Problem;
pub use tunnel::{CAPTURE, CONSOLE, EXEC, SCREEN, Tunnel, accept};
