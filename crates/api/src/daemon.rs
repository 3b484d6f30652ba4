//! The daemon's life: it serves until there is nothing left to look after, or it is told to end.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use weft_control::{ControlError, Controller, Paths};

use crate::attendance::{Attendance, Door};
use crate::router;

/// How long whoever started the daemon may take to say something.
const FIRST_GRACE: Duration = Duration::from_secs(2);
/// How long an empty daemon stays when the last of its clients has left.
const GRACE: Duration = Duration::from_millis(100);
/// When a daemon that nobody talks to looks whether its work has ended; then after twice that time, and so on.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// The longest time between two looks.
const MAX_LOOK: Duration = Duration::from_secs(60);
/// Threads for calls that block; see [`crate::app`] for how many of them may wait.
const MAX_BLOCKING_THREADS: usize = 96;
/// How long an idle one of them is kept.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Why a daemon could not begin.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The controller could not be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The socket could not be made.
    #[error("cannot listen at `{}`", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process lacks something that it cannot do without.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

impl DaemonError {
    /// How to fix it; empty where nothing better than the message is known.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Control(error) => error.hint(),
            Self::Listen { .. } => "check the owner and the mode of the folder, or set WEFT_HOME to another one",
            Self::Runtime(_) => "",
        }
    }
}

/// Runs the daemon of this home; `exe` is the `weft` binary. Returns at once where another daemon serves it already.
///
/// # Errors
/// When it cannot begin.
pub fn run(paths: &Paths, exe: PathBuf) -> Result<(), DaemonError> {
    let controller = match Controller::open(paths.clone(), exe) {
        Err(ControlError::AlreadyRunning { pid, .. }) => {
            tracing::debug!(pid, "another daemon was faster");
            return Ok(());
        }
        opened => opened?,
    };
    let served = serve(&controller, &paths.daemon_socket());
    controller.shutdown();
    served
}

/// Serves the API at `socket` until the controller is empty and nobody is connected, or a signal asks to end. What runs
/// goes on running.
///
/// The caller must be the only one who serves at `socket`: what is there is replaced.
///
/// # Errors
/// When it cannot listen.
pub fn serve(controller: &Controller, socket: &Path) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .build()
        .map_err(DaemonError::Runtime)?;
    let served = runtime.block_on(async {
        let asked = asked_to_end().map_err(DaemonError::Runtime)?;
        let listener = listen(socket).map_err(|source| DaemonError::Listen { path: socket.to_owned(), source })?;
        let door = Door { listener, attendance: Attendance::new() };
        let idle = idle(controller.clone(), door.attendance.clone());
        tracing::info!(socket = %socket.display(), "the daemon serves");
        tokio::select! {
            served = async { axum::serve(door, router(controller.clone())).await } => drop(served),
            name = asked => tracing::info!(signal = name, "the daemon ends; what runs goes on"),
            () = idle => tracing::info!("nothing is left to look after: the daemon ends"),
        }
        // Whoever connects from here on finds nobody and starts a new daemon.
        if let Err(error) = fs::remove_file(socket) {
            tracing::warn!(%error, "the socket cannot be removed");
        }
        Ok(())
    });
    runtime.shutdown_background();
    served
}

/// Listens at `path` for the socket's owner only.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Ends with the name of the signal that asks the daemon to end.
fn asked_to_end() -> io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that goes away is nothing to us; to listen is not to die of it.
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return "SIGTERM",
                _ = interrupt.recv() => return "SIGINT",
                _ = hangup.recv() => {}
            }
        }
    })
}

/// Returns when there is nobody to serve and nothing to look after.
async fn idle(controller: Controller, attendance: Attendance) {
    let mut grace = FIRST_GRACE;
    let mut look = FIRST_LOOK;
    loop {
        if attendance.somebody_within(grace).await {
            attendance.nobody().await;
            (grace, look) = (GRACE, FIRST_LOOK);
            continue;
        }
        let controller = controller.clone();
        let empty = tokio::task::spawn_blocking(move || controller.is_empty()).await.unwrap_or(false);
        if empty && !attendance.somebody_within(Duration::ZERO).await {
            return;
        }
        grace = look;
        look = (look * 2).min(MAX_LOOK);
    }
}
