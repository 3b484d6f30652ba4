//! A home for the real binary, and a daemon in a thread whose only machine, `web`, does what a test says.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use axum::extract::Request;
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::upgrade::OnUpgrade;
use tempfile::TempDir;
use tokio::sync::oneshot;
use weft_api::{About, CONSOLE, EXEC, accept};

/// A home of its own.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The binary in this home, as a user without any particular surroundings would run it.
    pub(crate) fn weft(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command.env("WEFT_HOME", self.path()).env("COLUMNS", "100").env_remove("CLICOLOR_FORCE");
        command
    }

    /// Runs it; exit code, stdout and stderr, with this home's path taken out.
    pub(crate) fn said(&self, args: &[&str]) -> String {
        let output = self.weft(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&self.path().display().to_string(), "HOME");
        let mut said = format!("exit {}\n", output.status.code().unwrap());
        for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            if !bytes.is_empty() {
                said += &format!("--- {name}\n{}", text(bytes));
            }
        }
        said
    }
}

/// A daemon that is none.
pub(crate) struct FakeDaemon {
    pub(crate) home: Home,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    /// For `exec` and `console`, `machine` gets the other end of the stream.
    pub(crate) fn new(machine: impl Fn(UnixStream) + Clone + Send + Sync + 'static) -> Self {
        let home = Home::new();
        std::fs::create_dir(home.path().join("run")).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(home.path().join("run/daemon.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            let serving = axum::serve(listener, routes(machine));
            tokio::select! {
                served = async { serving.await } => served.unwrap(),
                _ = stopped => {}
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(serve));
        Self { home, stop: Some(stop), thread: Some(thread) }
    }

    /// Runs the binary with this input.
    pub(crate) fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.home.weft(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || std::io::Write::write_all(&mut stdin, input));
            child.wait_with_output().unwrap()
        })
    }

    /// Is gone from one moment to the next.
    pub(crate) fn die(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.die();
    }
}

fn routes(machine: impl Fn(UnixStream) + Clone + Send + Sync + 'static) -> Router {
    let about = || async { Json(About { version: env!("CARGO_PKG_VERSION").to_owned(), pid: 1 }) };
    let join = move |protocol: &'static str| {
        let machine = machine.clone();
        move |mut request: Request| async move {
            let (ours, theirs) = UnixStream::pair().unwrap();
            std::thread::spawn(move || machine(theirs));
            accept(request.extensions_mut().remove::<OnUpgrade>(), protocol, ours, ())
        }
    };
    Router::new()
        .route("/v1", get(about))
        .route("/v1/vms/web/exec", post(join(EXEC)))
        .route("/v1/vms/web/console", post(join(CONSOLE)))
}
