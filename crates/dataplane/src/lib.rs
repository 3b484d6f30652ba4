//! The data plane process: workers that join ports, switch and services.
//!
//! One worker thread moves every frame, run to completion: from a port's burst through the switch's verdict
//! straight into the receivers ([`worker`]). It polls while there is work and sleeps when there is none. All
//! that may wait waits elsewhere: for the daemon on the control socket's threads ([`control`]), for the disk on
//! the lease log's, for a VMM on its port's own.
//!
//! What the switch is, it keeps on its own disk: the configuration in force, and the leases. So a switch that
//! was killed is complete again when it starts, with or without a daemon.

mod address_book;
mod apply;
mod captures;
mod clock;
mod collector;
mod control;
mod error;
mod explain;
mod forwards;
mod history;
mod host;
mod law;
mod lease_log;
mod listens;
mod mailbox;
mod mirror_sink;
mod mirrors;
mod neighbours;
mod pacing;
mod patience;
mod replies;
mod resolved;
mod routers;
mod signals;
mod slot;
mod standalone;
mod state_dir;
mod stations;
mod status;
mod validate;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use control::Control;
pub use error::DataplaneError;
pub use host::HostSockets;
use signals::Signals;
pub use standalone::Standalone;
use state_dir::StateDir;
use worker::Worker;

/// Where a switch process works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where it listens for the daemon.
    pub control_socket: PathBuf,
    /// What must last; made if it is missing. One switch process works on it at a time.
    pub state_dir: PathBuf,
}

/// Runs the switch until it is told to end, on its control socket or by SIGTERM.
///
/// # Errors
/// When it cannot start. Once it runs, nothing that peers, guests or disks do ends it.
pub fn run(options: &Options) -> Result<(), DataplaneError> {
    let state = Arc::new(StateDir::open(&options.state_dir)?);
    let signals = Signals::catch()?;
    let (desk, mailbox) = mailbox::open()?;
    let mut worker = Worker::new(&state, mailbox, signals)?;
    let control = Control::open(&options.control_socket, desk, state.clone())?;
    tracing::info!(target: "weft::dataplane", control = %options.control_socket.display(), "the switch runs");
    let forget = worker.run();
    drop(worker);
    drop(control);
    if forget {
        let path = options.state_dir.clone();
        state.forget().map_err(|source| DataplaneError::State { path, source })?;
    }
    tracing::info!(target: "weft::dataplane", forget, "the switch ended");
    Ok(())
}
