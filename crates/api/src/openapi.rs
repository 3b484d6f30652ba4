//! The API's description, generated from the handlers.

use utoipa::OpenApi;

use crate::routes::{capture, events, forwards, host, images, operations, shells, vms, world};

/// Describes the routes; the schemas follow from them.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Weft",
        description = "Virtual machines and the networks between them. HTTP/1.1 over the Unix socket `daemon.sock`. \
                       Ask for what should be, get an operation, watch its events.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        world::about,
        world::world,
        world::apply,
        world::before,
        host::enable,
        host::disable,
        host::halt,
        host::boot,
        world::plan,
        world::networks,
        world::ports,
        world::leases,
        world::rules,
        world::history,
        capture::capture,
        world::metrics,
        world::explain,
        forwards::list,
        forwards::add,
        forwards::remove,
        shells::list,
        shells::add,
        shells::remove,
        vms::list,
        vms::remove,
        vms::start,
        vms::stop,
        vms::restart,
        vms::exec,
        vms::console,
        vms::screen,
        vms::screenshot,
        vms::log,
        images::list,
        images::remove,
        images::build,
        operations::list,
        operations::show,
        events::list,
        events::stream,
    )
)]
struct Document;

/// The OpenAPI document, as it stands in `docs/openapi.json`.
pub fn openapi_json() -> String {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
