//! A daemon in a thread, on a home of its own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weft_api::{Client, DaemonError};
use weft_control::{Controller, Paths};

/// A daemon that serves an empty world.
pub(crate) struct Bed {
    _home: TempDir,
    pub(crate) socket: PathBuf,
    daemon: Option<JoinHandle<Result<(), DaemonError>>>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::of_home(home.path()).unwrap();
        let controller = Controller::open(paths.clone(), "/nonexistent/weft".into()).unwrap();
        let socket = paths.daemon_socket();
        let daemon = std::thread::spawn({
            let socket = socket.clone();
            move || {
                let served = weft_api::serve(&controller, &socket);
                controller.shutdown();
                served
            }
        });
        let bed = Self { _home: home, socket, daemon: Some(daemon) };
        let start = Instant::now();
        while UnixStream::connect(&bed.socket).is_err() {
            assert!(start.elapsed() < Duration::from_secs(5), "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        bed
    }

    /// Runs `work` with a client.
    pub(crate) fn with<T>(&self, work: impl AsyncFnOnce(Client) -> T) -> T {
        runtime().block_on(async { work(Client::connect(&self.socket).await.unwrap()).await })
    }

    /// Sends these bytes and reads what comes until the daemon closes the connection.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // What is too long is refused before its end. What then was not read resets the connection, after the answer.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => {}
        }
        String::from_utf8(answer).unwrap()
    }

    /// A request without a connection that is kept; the head's first line, and the body.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (String, String) {
        let length = body.len();
        let answer = self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().trim_start_matches("HTTP/1.1 ").to_owned(), body.to_owned())
    }

    /// How long the daemon goes on when nobody talks to it any more.
    pub(crate) fn lingers(mut self) -> Duration {
        let start = Instant::now();
        self.daemon.take().unwrap().join().unwrap().unwrap();
        assert!(!self.socket.exists(), "the socket goes with the daemon");
        start.elapsed()
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
